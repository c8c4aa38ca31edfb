//! Packets made and judged by another implementation (etherparse), so that this crate is not its own
//! witness.
#![allow(dead_code, reason = "each test file uses a part")]

use etherparse::{
    Icmpv4Slice, Icmpv6Slice, IpFragOffset, IpHeaders, IpNumber, IpPayloadSlice, IpSlice,
    Ipv4Extensions, Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6FlowLabel, Ipv6Header,
    Ipv6RawExtHeader, PacketBuilder, TcpHeader, TcpSlice, UdpSlice,
};
use net::Address;
use proptest::prelude::*;

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp {
        flags: u8,
        options: bool,
    },
    Udp,
    /// Without a checksum where the family allows it.
    UdpBare,
    EchoRequest,
    EchoReply,
}

/// A packet to make.
#[derive(Clone, Debug)]
pub struct Spec {
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    pub kind: Kind,
    pub ttl: u8,
    pub tos: u8,
    pub id: u16,
    /// IPv4 options, or IPv6 hop-by-hop and destination options.
    pub extended: bool,
    pub payload: Vec<u8>,
}

impl Spec {
    /// A plain one to start from.
    pub fn plain(v4: bool, kind: Kind, payload: &[u8]) -> Spec {
        let text = if v4 {
            ["10.18.0.2", "10.30.0.1"]
        } else {
            ["fc00::2", "fdff:2000::1"]
        };
        let [source, destination] = text.map(|t| t.parse::<std::net::IpAddr>().unwrap().into());
        Spec {
            source,
            destination,
            source_port: 4000,
            destination_port: 80,
            kind,
            ttl: 64,
            tos: 0,
            id: 7,
            extended: false,
            payload: payload.to_vec(),
        }
    }

    pub fn v4(&self) -> bool {
        self.source.is_v4()
    }

    fn ip(&self) -> IpHeaders {
        if self.v4() {
            let mut header = Ipv4Header::new(
                0,
                self.ttl,
                IpNumber::UDP,
                v4(self.source),
                v4(self.destination),
            )
            .unwrap();
            header.dscp = (self.tos >> 2).try_into().unwrap();
            header.ecn = (self.tos & 3).try_into().unwrap();
            header.identification = self.id;
            header.dont_fragment = true;
            header.fragment_offset = IpFragOffset::ZERO;
            if self.extended {
                header.options = Ipv4Options::try_from(&[1u8, 148, 4, 0, 0, 1, 1, 0][..]).unwrap();
            }
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        } else {
            let header = Ipv6Header {
                traffic_class: self.tos,
                flow_label: Ipv6FlowLabel::try_new(0xabcde).unwrap(),
                payload_length: 0,
                next_header: IpNumber::UDP,
                hop_limit: self.ttl,
                source: self.source.octets(),
                destination: self.destination.octets(),
            };
            let mut extensions = Ipv6Extensions::default();
            if self.extended {
                let padding =
                    |len| Ipv6RawExtHeader::new_raw(IpNumber::UDP, &vec![0u8; len]).unwrap();
                extensions.hop_by_hop_options = Some(padding(6));
                extensions.destination_options = Some(padding(14));
            }
            IpHeaders::Ipv6(header, extensions)
        }
    }

    /// The packet's bytes.
    pub fn build(&self) -> Vec<u8> {
        let mut packet = Vec::new();
        let step = PacketBuilder::ip(self.ip());
        let payload = &self.payload[..];
        match (self.kind, self.v4()) {
            (Kind::Tcp { flags, options }, _) => {
                let mut tcp =
                    TcpHeader::new(self.source_port, self.destination_port, 0xffff_fff0, 1000);
                tcp.fin = flags & 1 != 0;
                tcp.syn = flags & 2 != 0;
                tcp.rst = flags & 4 != 0;
                tcp.psh = flags & 8 != 0;
                tcp.ack = flags & 16 != 0;
                tcp.urg = flags & 32 != 0;
                tcp.ece = flags & 64 != 0;
                tcp.cwr = flags & 128 != 0;
                tcp.acknowledgment_number = 0x0102_0304;
                if options {
                    // No operation, then a maximum segment size at an odd place, window scale, end.
                    tcp.set_options_raw(&[1, 2, 4, 0x05, 0xb4, 3, 3, 7])
                        .unwrap();
                }
                step.tcp_header(tcp).write(&mut packet, payload).unwrap();
            }
            (Kind::Udp | Kind::UdpBare, _) => {
                step.udp(self.source_port, self.destination_port)
                    .write(&mut packet, payload)
                    .unwrap();
            }
            (Kind::EchoRequest, true) => step
                .icmpv4_echo_request(self.source_port, 9)
                .write(&mut packet, payload)
                .unwrap(),
            (Kind::EchoReply, true) => step
                .icmpv4_echo_reply(self.source_port, 9)
                .write(&mut packet, payload)
                .unwrap(),
            (Kind::EchoRequest, false) => step
                .icmpv6_echo_request(self.source_port, 9)
                .write(&mut packet, payload)
                .unwrap(),
            (Kind::EchoReply, false) => step
                .icmpv6_echo_reply(self.source_port, 9)
                .write(&mut packet, payload)
                .unwrap(),
        }
        if self.kind == Kind::UdpBare && self.v4() {
            let at = packet.len() - payload.len() - 2;
            packet[at..at + 2].fill(0);
        }
        packet
    }
}

pub fn v4(address: Address) -> [u8; 4] {
    address.v4_octets().unwrap()
}

/// An address that one host can have.
pub fn host(is_v4: bool) -> BoxedStrategy<Address> {
    if is_v4 {
        (0x0100_0000u32..0x7f00_0000)
            .prop_map(Address::from_v4_bits)
            .boxed()
    } else {
        (0xfc00u128 << 112..0xfe00u128 << 112)
            .prop_map(Address)
            .boxed()
    }
}

pub fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (any::<u8>(), any::<bool>()).prop_map(|(flags, options)| Kind::Tcp { flags, options }),
        Just(Kind::Udp),
        Just(Kind::UdpBare),
        Just(Kind::EchoRequest),
        Just(Kind::EchoReply),
    ]
}

/// Any packet of either family, of any kind, with up to `longest` bytes of payload.
pub fn spec(longest: usize) -> impl Strategy<Value = Spec> {
    any::<bool>().prop_flat_map(move |is_v4| {
        (
            (host(is_v4), host(is_v4), any::<u16>(), any::<u16>(), kind()),
            (any::<u8>(), any::<u8>(), any::<u16>(), any::<bool>()),
            proptest::collection::vec(any::<u8>(), 0..=longest),
        )
            .prop_map(
                |(
                    (source, destination, source_port, destination_port, kind),
                    (ttl, tos, id, extended),
                    payload,
                )| {
                    Spec {
                        source,
                        destination,
                        source_port,
                        destination_port,
                        kind,
                        ttl,
                        tos,
                        id,
                        extended,
                        payload,
                    }
                },
            )
    })
}

fn payload<'a>(ip: &'a IpSlice<'a>) -> IpPayloadSlice<'a> {
    ip.payload().clone()
}

/// The transport checksum in the packet and the one that it should have.
pub fn transport_checksums(packet: &[u8]) -> Option<(u16, u16)> {
    let ip = IpSlice::from_slice(packet).unwrap();
    let body = payload(&ip);
    let l4 = body.payload;
    let (source, destination): (Address, Address) =
        (ip.source_addr().into(), ip.destination_addr().into());
    let is_v4 = source.is_v4();
    Some(match body.ip_number {
        IpNumber::TCP => {
            let tcp = TcpSlice::from_slice(l4).unwrap();
            let right = if is_v4 {
                tcp.calc_checksum_ipv4(v4(source), v4(destination))
            } else {
                tcp.calc_checksum_ipv6(source.octets(), destination.octets())
            };
            (tcp.checksum(), right.unwrap())
        }
        IpNumber::UDP => {
            let udp = UdpSlice::from_slice(l4).unwrap();
            let header = udp.to_header();
            let right = if is_v4 {
                header.calc_checksum_ipv4_raw(v4(source), v4(destination), udp.payload())
            } else {
                header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), udp.payload())
            };
            (udp.checksum(), right.unwrap())
        }
        IpNumber::ICMP => {
            let icmp = Icmpv4Slice::from_slice(l4).unwrap();
            // Type and code count too, so the sum is taken over the raw bytes.
            let mut bytes = l4.to_vec();
            bytes[2..4].fill(0);
            let mut sum = 0u32;
            for pair in bytes.chunks(2) {
                sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
                sum = (sum & 0xffff) + (sum >> 16);
            }
            (icmp.checksum(), !u16::try_from(sum).unwrap())
        }
        IpNumber::IPV6_ICMP => {
            let icmp = Icmpv6Slice::from_slice(l4).unwrap();
            let right = icmp.is_checksum_valid(source.octets(), destination.octets());
            (
                icmp.checksum(),
                if right {
                    icmp.checksum()
                } else {
                    !icmp.checksum()
                },
            )
        }
        _ => return None,
    })
}

/// Fails unless every checksum and length in the packet is right.
pub fn assert_right(packet: &[u8]) {
    let ip = IpSlice::from_slice(packet).unwrap();
    if let Some(v4) = ip.ipv4() {
        let header = v4.header().to_header();
        assert_eq!(
            header.header_checksum,
            header.calc_header_checksum(),
            "IPv4 header checksum"
        );
        assert_eq!(usize::from(header.total_len), packet.len());
    } else if let Some(v6) = ip.ipv6() {
        assert_eq!(usize::from(v6.header().payload_length()) + 40, packet.len());
    }
    if let Some((found, right)) = transport_checksums(packet) {
        let none = found == 0 && ip.payload().ip_number == IpNumber::UDP && ip.ipv4().is_some();
        assert!(
            none || found == right,
            "transport checksum {found:#06x}, right {right:#06x}"
        );
    }
}
