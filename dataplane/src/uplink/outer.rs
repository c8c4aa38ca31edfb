//! The headers around an inner packet that an ethdev uplink writes and reads itself.

use dpdk::{Mbuf, Mempool};
use net::address::Address;
use net::checksum;
use net::ethernet::{self, EtherType, Mac};
use net::fragment::Plan;
use net::packet::{Fragment, Headers, Icmp, Protocol};
use net::{ipv4, ipv6, udp};

use super::Received;

/// Time to live of outer packets.
pub(super) const HOPS: u8 = 64;

/// The longest IPv4 packet that goes out without "don't fragment". No path is believed to carry less (Linux's
/// `min_pmtu`), so that a forged report cannot make the node work for a pittance; one that does carry less has its
/// routers split what comes.
pub(crate) const FLOOR_V4: u16 = 552;

/// What a frame turned out to be.
pub(super) enum Opened {
    /// A tunnel datagram.
    Inner(Received),
    /// A frame with a fragment of UDP or an ICMP error, see [`enter`].
    Rare(Mbuf, Headers),
    /// Not the tunnel's: the frame, as it came.
    Other(Mbuf),
}

/// Opens a frame: is it a datagram to our port, and whole?
#[inline]
pub(super) fn open(mut frame: Mbuf, tunnel_port: u16) -> Opened {
    let Some(headers) = headers(&frame) else {
        return Opened::Other(frame);
    };
    if headers.protocol != Protocol::UDP || headers.fragment != Fragment::None {
        return open_rare(frame, headers);
    }
    let before = ethernet::HEADER_LEN + usize::from(headers.header_len);
    if headers.destination_port != tunnel_port
        || headers.payload_len() == 0
        || before > frame.data().len()
    {
        return Opened::Other(frame);
    }
    frame.truncate(ethernet::HEADER_LEN + headers.total_len);
    // What the kernel left for a NIC to do concerned the outer packet, which ends here, as does its padding.
    frame.set_offload(dpdk::Offload::default());
    frame.advance(before);
    Opened::Inner((frame, headers.source, headers.tos))
}

/// The headers of the IP packet in a frame.
#[inline]
fn headers(frame: &Mbuf) -> Option<Headers> {
    let header = ethernet::Header::parse(frame.data())?;
    if !matches!(header.ethertype, EtherType::IPV4 | EtherType::IPV6) {
        return None;
    }
    let l3 = frame.data().get(ethernet::HEADER_LEN..)?;
    Headers::parse(l3, frame.pkt_len() - ethernet::HEADER_LEN).ok()
}

#[cold]
fn open_rare(frame: Mbuf, headers: Headers) -> Opened {
    let wanted = match headers.icmp {
        Icmp::Error { .. } => headers.fragment == Fragment::None,
        _ => headers.protocol == Protocol::UDP,
    };
    match wanted {
        true => Opened::Rare(frame, headers),
        false => Opened::Other(frame),
    }
}

/// The IP packet in a frame whose headers these are, without padding.
pub(super) fn enter(mut frame: Mbuf, headers: &Headers) -> Option<Mbuf> {
    let entered = frame.advance(ethernet::HEADER_LEN);
    frame.truncate(headers.total_len);
    frame.set_offload(dpdk::Offload::default());
    entered.then_some(frame)
}

/// The headers around an inner packet.
pub(super) struct Outer {
    pub(super) source_mac: Mac,
    pub(super) next_mac: Mac,
    /// Our address on the way there.
    pub(super) source: Address,
    pub(super) to: (Address, u16),
    pub(super) from_port: u16,
    pub(super) tos: u8,
    /// What fragments of this datagram share; of IPv4 its low half.
    pub(super) id: u32,
    /// The longest IP packet that the path carries.
    pub(super) path: u16,
}

impl Outer {
    fn ip_len(&self) -> usize {
        match self.source.is_v4() {
            true => ipv4::HEADER_LEN,
            false => ipv6::HEADER_LEN,
        }
    }

    /// Whether an inner packet of this length goes to the host in one piece.
    #[inline]
    pub(super) fn fits(&self, length: usize) -> bool {
        length + self.ip_len() + udp::HEADER_LEN <= usize::from(self.path)
    }

    fn ethernet(&self) -> [u8; ethernet::HEADER_LEN] {
        let ethertype = match self.source.is_v4() {
            true => EtherType::IPV4,
            false => EtherType::IPV6,
        };
        let header = ethernet::Header {
            destination: self.next_mac,
            source: self.source_mac,
            ethertype,
        };
        header.to_bytes()
    }

    /// Puts the frame's header before an IP packet.
    pub(super) fn frame(&self, packet: &mut Mbuf) -> bool {
        let front = packet
            .prepend(ethernet::HEADER_LEN)
            .and_then(|front| front.first_chunk_mut());
        let framed = front.is_some();
        if let Some(front) = front {
            *front = self.ethernet();
        }
        framed
    }

    /// Puts Ethernet, IP and UDP headers before the packet. `None` when there is no mbuf, or the packet is longer than
    /// any datagram.
    pub(super) fn wrap(&self, packet: Mbuf, pool: &Mempool) -> Option<Mbuf> {
        let v4 = self.source.is_v4();
        let ip_len = self.ip_len();
        let head_len = ethernet::HEADER_LEN + ip_len + udp::HEADER_LEN;
        let udp_len = u16::try_from(packet.pkt_len() + udp::HEADER_LEN).ok()?;
        let payload = (!v4).then(|| {
            let mut sum = checksum::Accumulator::new();
            for bytes in packet.segments() {
                sum.add(bytes);
            }
            sum.sum()
        });
        let mut frame = packet;
        if frame.headroom() < head_len {
            let mut head = pool.alloc()?;
            head.push_segment(frame).ok()?;
            frame = head;
        }
        let (ethernet, rest) = frame
            .prepend(head_len)?
            .split_first_chunk_mut::<{ ethernet::HEADER_LEN }>()?;
        *ethernet = self.ethernet();
        let (ip, rest) = rest.split_at_mut_checked(ip_len)?;
        // RFC 768: no checksum over IPv4, where the inner packet has its own; IPv6 requires one (RFC 8200 section 8.1).
        let checksum = payload.map_or(0, |payload| {
            let header = udp::header(self.from_port, self.to.1, udp_len, 0);
            let pseudo = checksum::pseudo_header(
                self.source,
                self.to.0,
                Protocol::UDP.0,
                usize::from(udp_len),
            );
            checksum::udp_field(!checksum::add(
                checksum::add(pseudo, checksum::sum(&header)),
                payload,
            ))
        });
        *rest.first_chunk_mut()? = udp::header(self.from_port, self.to.1, udp_len, checksum);
        if v4 {
            let total_len = u16::try_from(ip_len).ok()?.checked_add(udp_len)?;
            let [.., high, low] = self.id.to_be_bytes();
            let build = ipv4::Build {
                source: self.source,
                destination: self.to.0,
                protocol: Protocol::UDP.0,
                ttl: HOPS,
                tos: self.tos,
                id: u16::from_be_bytes([high, low]),
                // So that who carries less says so.
                dont_fragment: total_len > FLOOR_V4 && total_len <= self.path,
                total_len,
            };
            *ip.first_chunk_mut()? = build.to_bytes();
        } else {
            let build = ipv6::Build {
                source: self.source,
                destination: self.to.0,
                next_header: Protocol::UDP.0,
                hop_limit: HOPS,
                traffic_class: self.tos,
                flow_label: 0,
                payload_len: udp_len,
            };
            *ip.first_chunk_mut()? = build.to_bytes();
        }
        Some(frame)
    }

    /// How a datagram, an IP packet, is split for the path.
    pub(super) fn split(&self, datagram: &Mbuf) -> Option<Plan> {
        let headers = Headers::parse(datagram.data(), datagram.pkt_len()).ok()?;
        match self.source.is_v4() {
            true => Plan::of_v4(&headers, datagram.data(), self.path),
            false => Plan::of_own_v6(&headers, self.path, self.id),
        }
    }
}
