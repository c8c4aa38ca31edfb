//! What a frame is made of: a template, and the few bytes that differ.
//!
//! Everything that does not change from packet to packet is laid out and summed once. A packet is then one copy, a dozen
//! stores, and a handful of additions for its checksums.
//!
//! A packet is known again by what translation leaves alone, and addresses are not among it: a UDP packet carries a
//! stamp in its payload; a segment, which has no payload, in its sequence number, its acknowledgement number (without
//! meaning in a SYN), its window, and the value of its time stamp option (RFC 7323). Who follows the sequence numbers of
//! a connection (a stateful firewall) finds none in the segments of a flow.

use net::ethernet::{self, EtherType, Mac};
use net::packet::{Headers, Protocol};
use net::{Address, checksum, ipv4, ipv6, tcp, udp};

use crate::draw::mix;

/// Ethernet's check sequence, which the device adds, and sizes include.
pub const FCS: u32 = 4;
/// The shortest Ethernet frame, check sequence included.
pub const SHORTEST: u32 = 64;
/// Bytes of a stamp in a UDP payload: check, flow, sequence number, time, all big-endian.
pub const STAMP: usize = 18;
/// What a SYN of a Linux host offers: MSS 1460, SACK, time stamps, window scale 7.
const SYN_OPTIONS: [u8; 20] = [
    2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3, 7,
];
/// The same length of options in any segment: a time stamp, at the same place.
const FLOW_OPTIONS: [u8; 20] = [1, 1, 1, 1, 1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1];
const TIME_STAMP: usize = tcp::HEADER_LEN + 8;

/// What the flows are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// UDP datagrams, many in a flow.
    Udp,
    /// TCP SYNs, each a flow of its own, that nobody goes on with.
    TcpSyn,
    /// TCP flows of three segments, which open it, use it, and close it: SYN, ACK, RST.
    TcpFlow,
}

/// Which segment of a flow of [`Kind::TcpFlow`] this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Step {
    /// SYN.
    Open = 1,
    /// ACK.
    Use = 2,
    /// RST with ACK.
    Close = 3,
}

impl Step {
    /// In their order.
    pub const ALL: [Step; 3] = [Step::Open, Step::Use, Step::Close];

    const fn flags(self) -> tcp::Flags {
        match self {
            Step::Open => tcp::Flags::SYN,
            Step::Use => tcp::Flags::ACK,
            Step::Close => tcp::Flags(tcp::Flags::RST.0 | tcp::Flags::ACK.0),
        }
    }

    /// What a segment's flow number says: a step of a flow, or none in a SYN alone.
    const fn of(flow: u32) -> Option<Step> {
        match flow >> STEP {
            1 => Some(Step::Open),
            2 => Some(Step::Use),
            3 => Some(Step::Close),
            _ => None,
        }
    }

    /// The flow number of a segment for `service`.
    #[inline]
    #[must_use]
    pub const fn flow(self, service: u32) -> u32 {
        (self as u32) << STEP | service
    }
}

/// Above the number of the service in a segment's flow number.
const STEP: u32 = 29;

/// The service in a segment's flow number.
#[inline]
#[must_use]
pub const fn service(flow: u32) -> u32 {
    flow & ((1 << STEP) - 1)
}

/// Whose packet it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple {
    /// Source address.
    pub source: Address,
    /// Destination address, of the same family.
    pub destination: Address,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

/// What makes a packet known again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The flow's number, below 2^31; for a SYN the number of its service, and for a segment of a flow its
    /// [step](Step::flow), too.
    pub flow: u32,
    /// Sent to warm up, and not to be counted.
    pub warm_up: bool,
    /// The packet's number in its flow; of a segment among all.
    pub sequence: u32,
    /// When it was due, in nanoseconds of the monotonic clock of the sender's machine.
    pub time: u64,
}

/// A stamp as it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// What was sent; the time is that part of it which the packet had room for.
    pub stamp: Stamp,
    /// What it was sent in.
    pub kind: Kind,
    clock: Clock,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Clock {
    Whole,
    /// 32 bits of 1024 ns each.
    Coarse,
    None,
}

const WARM_UP: u32 = 1 << 31;

impl Stamp {
    #[inline]
    fn word(self) -> u32 {
        self.flow & !WARM_UP | if self.warm_up { WARM_UP } else { 0 }
    }

    /// 16 bits that belong to this stamp in this run, and are not 0.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // Cut to what there is room for.
    fn check(word: u32, sequence: u32, time: u64, run: u64) -> u16 {
        let mixed = mix(u64::from(word) << 32 | u64::from(sequence)) ^ time ^ run;
        (mix(mixed) as u16).max(1)
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // As above.
    fn coarse(self) -> u32 {
        (self.time >> 10) as u32
    }

    #[inline]
    fn to_bytes(self, run: u64) -> [u8; STAMP] {
        let word = self.word();
        let [a, b] = Self::check(word, self.sequence, self.time, run).to_be_bytes();
        let [c, d, e, f] = word.to_be_bytes();
        let [g, h, i, j] = self.sequence.to_be_bytes();
        let [k, l, m, n, o, p, q, r] = self.time.to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r]
    }
}

impl Found {
    /// The stamp of a packet of `run`; `None` for any other packet. `l3` begins with the IP header.
    #[inline]
    #[must_use]
    pub fn read(l3: &[u8], headers: &Headers, run: u64) -> Option<Self> {
        let (word, sequence, time, check, kind, clock) = if headers.protocol == Protocol::UDP {
            let payload = l3.get(usize::from(headers.header_len)..headers.total_len)?;
            let &[a, b, c, d, e, f, g, h, i, j, ref time @ ..] = payload.first_chunk::<STAMP>()?;
            (
                u32::from_be_bytes([c, d, e, f]),
                u32::from_be_bytes([g, h, i, j]),
                u64::from_be_bytes(*time),
                u16::from_be_bytes([a, b]),
                Kind::Udp,
                Clock::Whole,
            )
        } else if headers.protocol == Protocol::TCP {
            let l4 = l3.get(usize::from(headers.l4_offset)..headers.total_len)?;
            let header = tcp::Header::of(l4)?;
            let (kind, flags) = match Step::of(header.acknowledgement() & !WARM_UP) {
                Some(step) => (Kind::TcpFlow, step.flags()),
                None => (Kind::TcpSyn, tcp::Flags::SYN),
            };
            if header.flags() != flags {
                return None;
            }
            let time = time_stamp(l4.get(tcp::HEADER_LEN..header.header_len())?);
            (
                header.acknowledgement(),
                header.sequence(),
                u64::from(time.unwrap_or(0)),
                header.window(),
                kind,
                if time.is_some() {
                    Clock::Coarse
                } else {
                    Clock::None
                },
            )
        } else {
            return None;
        };
        (Stamp::check(word, sequence, time, run) == check).then_some(Self {
            stamp: Stamp {
                flow: word & !WARM_UP,
                warm_up: word & WARM_UP != 0,
                sequence,
                time,
            },
            kind,
            clock,
        })
    }

    /// Nanoseconds from when the packet was due; `None` when it had no room to say. Of a segment to 1024 ns.
    #[inline]
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // The part that a segment has room for.
    pub fn latency(&self, now: u64) -> Option<u64> {
        match self.clock {
            Clock::Whole => Some(now.saturating_sub(self.stamp.time)),
            Clock::Coarse => {
                let passed = ((now >> 10) as u32).wrapping_sub(self.stamp.time as u32);
                // Less than nothing is nothing.
                Some(if passed > u32::MAX / 2 {
                    0
                } else {
                    u64::from(passed) << 10
                })
            }
            Clock::None => None,
        }
    }
}

/// The value of a time stamp option.
fn time_stamp(mut options: &[u8]) -> Option<u32> {
    loop {
        match *options {
            [8, 10, a, b, c, d, ..] => return Some(u32::from_be_bytes([a, b, c, d])),
            [1, ref rest @ ..] => options = rest,
            [kind, len, ..] if kind > 1 && len >= 2 => options = options.get(usize::from(len)..)?,
            _ => return None,
        }
    }
}

/// Whether the transport checksum of a whole packet is right (RFC 768: none over IPv4 is).
#[must_use]
pub fn intact(l3: &[u8], headers: &Headers) -> bool {
    let Some(l4) = l3.get(usize::from(headers.l4_offset)..headers.total_len) else {
        return false;
    };
    let none = headers.protocol == Protocol::UDP
        && headers.source.is_v4()
        && udp::Header::of(l4).is_some_and(|header| header.checksum() == 0);
    none || checksum::add(headers.pseudo_header(), checksum::sum(l4)) == 0xffff
}

/// The smallest frame that can carry a stamp, check sequence included.
#[must_use]
pub const fn least(kind: Kind, v6: bool) -> u32 {
    let ip = if v6 { 40 } else { 20 };
    let l4 = match kind {
        Kind::Udp => 8 + 18,
        Kind::TcpSyn | Kind::TcpFlow => 20,
    };
    let size = 14 + ip + l4 + FCS;
    if size < SHORTEST { SHORTEST } else { size }
}

/// The size of a segment with options, a time stamp among them.
#[must_use]
pub const fn syn_with_options(v6: bool) -> u32 {
    14 + if v6 { 40 } else { 20 } + 40 + FCS
}

/// Frames of one kind and family.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Box<[u8]>,
    kind: Kind,
    v6: bool,
    /// Sum of the IPv4 header's fields that do not change.
    ip_sum: u16,
    /// Sum of the transport header's fields that do not change, and of the protocol number.
    l4_sum: u16,
    /// Sums of what fills a UDP payload behind its stamp, by length.
    filling: Box<[u16]>,
    run: u64,
    /// Whether the device finishes transport checksums.
    partial: bool,
}

/// A frame that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Bytes, without the check sequence.
    pub len: usize,
    /// Of the transport header.
    pub l4_len: u8,
}

impl Template {
    /// Frames of up to `largest` bytes (check sequence included), stamped for `run`. With `partial`, transport checksum
    /// fields hold the sum of the pseudo-header, for a device to finish.
    #[must_use]
    pub fn new(
        kind: Kind,
        v6: bool,
        macs: (Mac, Mac),
        largest: u32,
        run: u64,
        partial: bool,
    ) -> Self {
        let (source, destination) = macs;
        let ethertype = if v6 { EtherType::IPV6 } else { EtherType::IPV4 };
        let ethernet = ethernet::Header {
            destination,
            source,
            ethertype,
        };
        let mut bytes = ethernet.to_bytes().to_vec();
        let protocol = match kind {
            Kind::Udp => Protocol::UDP.0,
            Kind::TcpSyn | Kind::TcpFlow => Protocol::TCP.0,
        };
        let ip_sum = if v6 {
            let none = Address::UNSPECIFIED_V6;
            let build = ipv6::Build {
                source: none,
                destination: none,
                next_header: protocol,
                hop_limit: 64,
                traffic_class: 0,
                flow_label: 0,
                payload_len: 0,
            };
            bytes.extend(build.to_bytes());
            0
        } else {
            let none = Address::UNSPECIFIED_V4;
            let build = ipv4::Build {
                source: none,
                destination: none,
                protocol,
                ttl: 64,
                tos: 0,
                id: 0,
                dont_fragment: true,
                total_len: 0,
            };
            let header = build.to_bytes();
            bytes.extend(header);
            // Without lengths and addresses, its checksum is the complement of what the rest sums to.
            ipv4::Header::of(&header).map_or(0, |header| !header.checksum())
        };
        let mut l4_sum = u16::from(protocol);
        let mut filling = vec![0];
        let end = (largest.max(least(kind, v6)) - FCS) as usize;
        match kind {
            Kind::Udp => {
                bytes.extend([0; udp::HEADER_LEN + STAMP]);
                let fill: Vec<u8> = (0..end.saturating_sub(bytes.len()) as u64)
                    .map(|n| mix(n).to_le_bytes()[0])
                    .collect();
                filling
                    .extend((1..=fill.len()).map(|n| checksum::sum(fill.get(..n).unwrap_or(&[]))));
                bytes.extend(fill);
            }
            Kind::TcpSyn | Kind::TcpFlow => {
                let build = tcp::Build {
                    source_port: 0,
                    destination_port: 0,
                    sequence: 0,
                    acknowledgement: 0,
                    flags: tcp::Flags(0),
                    window: 0,
                };
                let mut header = build.to_bytes().to_vec();
                let options = largest >= syn_with_options(v6);
                if options {
                    header.extend(match kind {
                        Kind::TcpFlow => FLOW_OPTIONS,
                        _ => SYN_OPTIONS,
                    });
                    if let Some(offset) = header.get_mut(12) {
                        *offset = 10 << 4;
                    }
                }
                l4_sum = checksum::add(l4_sum, checksum::sum(&header));
                bytes.extend(header);
                // Padding behind the packet, up to the shortest frame.
                bytes.resize(bytes.len().max((SHORTEST - FCS) as usize), 0);
            }
        }
        Self {
            bytes: bytes.into_boxed_slice(),
            kind,
            v6,
            ip_sum,
            l4_sum,
            filling: filling.into_boxed_slice(),
            run,
            partial,
        }
    }

    const fn l4(&self) -> usize {
        ethernet::HEADER_LEN
            + if self.v6 {
                ipv6::HEADER_LEN
            } else {
                ipv4::HEADER_LEN
            }
    }

    /// IP version 6.
    #[must_use]
    pub const fn is_v6(&self) -> bool {
        self.v6
    }

    /// Whether a device must finish the transport checksums.
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        self.partial
    }

    /// What the frames are.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Writes a frame of `size` bytes, check sequence included; a segment has the size of the template. `None` when there
    /// is no room, or the template is shorter.
    #[inline]
    pub fn write(
        &self,
        into: &mut [u8],
        size: u32,
        tuple: &Tuple,
        stamp: &Stamp,
    ) -> Option<Written> {
        let l4 = self.l4();
        // What the IP header covers ends before the padding of a short segment.
        let (len, end) = match self.kind {
            Kind::Udp => ((size - FCS) as usize, (size - FCS) as usize),
            Kind::TcpSyn | Kind::TcpFlow => (self.bytes.len(), l4 + self.segment_len()),
        };
        let frame = into.get_mut(..len)?;
        frame.copy_from_slice(self.bytes.get(..len)?);
        let (head, body) = frame.split_at_mut_checked(l4)?;
        let l3 = head.get_mut(ethernet::HEADER_LEN..)?;
        #[allow(clippy::cast_possible_truncation)] // A frame, which is shorter than 2^16.
        let (total, l4_len) = ((end - ethernet::HEADER_LEN) as u16, (end - l4) as u16);
        let addresses = checksum::add(
            checksum::address(tuple.source),
            checksum::address(tuple.destination),
        );
        if self.v6 {
            let fields = l3.first_chunk_mut::<{ ipv6::HEADER_LEN }>()?;
            *fields.get_mut(4..)?.first_chunk_mut()? = l4_len.to_be_bytes();
            *fields.get_mut(8..)?.first_chunk_mut()? = tuple.source.octets();
            *fields.get_mut(24..)?.first_chunk_mut()? = tuple.destination.octets();
        } else {
            let fields = l3.first_chunk_mut::<{ ipv4::HEADER_LEN }>()?;
            let sum = checksum::add(checksum::add(self.ip_sum, total), addresses);
            *fields.get_mut(2..)?.first_chunk_mut()? = total.to_be_bytes();
            *fields.get_mut(10..)?.first_chunk_mut()? = (!sum).to_be_bytes();
            *fields.get_mut(12..)?.first_chunk_mut()? = tuple.source.v4_bits().to_be_bytes();
            *fields.get_mut(16..)?.first_chunk_mut()? = tuple.destination.v4_bits().to_be_bytes();
        }
        let pseudo = checksum::add(addresses, l4_len);
        match self.kind {
            Kind::Udp => self.write_udp(body, l4_len, pseudo, tuple, stamp),
            Kind::TcpSyn | Kind::TcpFlow => self.write_segment(body, pseudo, tuple, stamp),
        }
        .map(|l4_len| Written { len, l4_len })
    }

    #[inline]
    fn write_udp(
        &self,
        body: &mut [u8],
        len: u16,
        pseudo: u16,
        tuple: &Tuple,
        stamp: &Stamp,
    ) -> Option<u8> {
        let filling = body.len().checked_sub(udp::HEADER_LEN + STAMP)?;
        let stamp = stamp.to_bytes(self.run);
        // The protocol number is all that a UDP template sums.
        let pseudo = checksum::add(pseudo, self.l4_sum);
        let (source, destination) = (tuple.source_port, tuple.destination_port);
        let field = if self.partial {
            pseudo
        } else {
            let ports = checksum::add(checksum::add(source, destination), len);
            let payload = checksum::add(checksum::sum(&stamp), *self.filling.get(filling)?);
            checksum::udp_field(!checksum::add(checksum::add(pseudo, ports), payload))
        };
        let (header, payload) = body.split_first_chunk_mut::<{ udp::HEADER_LEN }>()?;
        *header = udp::header(source, destination, len, field);
        *payload.first_chunk_mut()? = stamp;
        Some(8)
    }

    const fn segment_len(&self) -> usize {
        // Shorter than this, it is padded.
        if self.bytes.len() >= (syn_with_options(self.v6) - FCS) as usize {
            40
        } else {
            20
        }
    }

    #[inline]
    fn write_segment(
        &self,
        body: &mut [u8],
        pseudo: u16,
        tuple: &Tuple,
        stamp: &Stamp,
    ) -> Option<u8> {
        let len = self.segment_len();
        let header = body.get_mut(..len)?;
        let coarse = if len > tcp::HEADER_LEN {
            stamp.coarse()
        } else {
            0
        };
        let word = stamp.word();
        let flags = Step::of(stamp.flow).map_or(tcp::Flags::SYN, Step::flags);
        let check = Stamp::check(word, stamp.sequence, coarse.into(), self.run);
        *header.first_chunk_mut()? = tuple.source_port.to_be_bytes();
        *header.get_mut(2..)?.first_chunk_mut()? = tuple.destination_port.to_be_bytes();
        *header.get_mut(4..)?.first_chunk_mut()? = stamp.sequence.to_be_bytes();
        *header.get_mut(8..)?.first_chunk_mut()? = word.to_be_bytes();
        *header.get_mut(13)? = flags.0;
        *header.get_mut(14..)?.first_chunk_mut()? = check.to_be_bytes();
        if len > tcp::HEADER_LEN {
            *header.get_mut(TIME_STAMP..)?.first_chunk_mut()? = coarse.to_be_bytes();
        }
        let field = if self.partial {
            checksum::add(pseudo, u16::from(Protocol::TCP.0))
        } else {
            let words = u64::from(stamp.sequence) + u64::from(word) + u64::from(coarse);
            let ports =
                u64::from(tuple.source_port) + u64::from(tuple.destination_port) + u64::from(check);
            !checksum::add(
                checksum::add(pseudo, self.l4_sum),
                checksum::fold(words + ports + u64::from(flags.0)),
            )
        };
        *header.get_mut(16..)?.first_chunk_mut()? = field.to_be_bytes();
        #[allow(clippy::cast_possible_truncation)] // 20 or 40.
        Some(len as u8)
    }
}
