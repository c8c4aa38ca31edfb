//! The one parse of a packet that the pipeline uses.
//!
//! A packet is read once when it enters; every later stage asks [`Headers`] instead of the bytes. The
//! common packet, IPv4 or IPv6 directly followed by TCP or UDP, takes a straight path; options,
//! extension headers, fragments and ICMP live in cold functions beside it.

use core::fmt;

use crate::address::Address;
use crate::icmp;
pub use crate::icmp::Icmp;
use crate::ipv4;
use crate::ipv6;
pub use crate::tcp::Flags as TcpFlags;
use crate::{tcp, udp};

/// The Internet protocol's version.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What an IP packet carries: a protocol number, or for IPv6 the last next-header value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP (for IPv4).
    pub const ICMP: Protocol = Protocol(1);
    /// TCP.
    pub const TCP: Protocol = Protocol(6);
    /// UDP.
    pub const UDP: Protocol = Protocol(17);
    /// DCCP (RFC 4340).
    pub const DCCP: Protocol = Protocol(33);
    /// ICMPv6.
    pub const ICMPV6: Protocol = Protocol(58);
    /// SCTP (RFC 9260).
    pub const SCTP: Protocol = Protocol(132);
    /// UDP-Lite (RFC 3828).
    pub const UDP_LITE: Protocol = Protocol(136);

    /// Where in the transport header a checksum stands that covers the pseudo-header. ICMP's and
    /// SCTP's do not: a change of address leaves them alone.
    #[inline]
    #[must_use]
    pub const fn pseudo_checksum_offset(self) -> Option<usize> {
        match self {
            Protocol::TCP => Some(16),
            Protocol::UDP | Protocol::UDP_LITE | Protocol::DCCP => Some(6),
            Protocol::ICMPV6 => Some(2),
            _ => None,
        }
    }
}

/// Whether a packet is a piece of a larger one (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fragment {
    /// It is whole (an IPv6 "atomic fragment", RFC 6946, is too).
    #[default]
    None,
    /// The first piece: it has the transport header, and more follow.
    First {
        /// What the pieces share, with addresses and protocol.
        id: u32,
    },
    /// A piece without a transport header.
    Later {
        /// What the pieces share.
        id: u32,
        /// Where this piece's payload belongs in the whole, in bytes.
        offset: u16,
        /// Whether more pieces follow this one.
        more: bool,
    },
}

impl Fragment {
    /// From the header's fields: `offset` in bytes, `len` bytes of payload in this piece.
    pub(crate) fn new(
        id: u32,
        offset: u16,
        more: bool,
        len: usize,
    ) -> Result<Fragment, ParseError> {
        if (more && (len == 0 || !len.is_multiple_of(8))) || usize::from(offset) + len > 65_535 {
            return Err(ParseError::Fragment);
        }
        Ok(match (offset, more) {
            (0, false) => Fragment::None,
            (0, true) => Fragment::First { id },
            (offset, more) => Fragment::Later { id, offset, more },
        })
    }

    /// Whether this piece has no transport header.
    #[inline]
    #[must_use]
    pub const fn is_later(self) -> bool {
        matches!(self, Fragment::Later { .. })
    }
}

/// Why a packet is not one to handle. Each names a drop reason.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ParseError {
    /// Fewer bytes arrived than the header or its length field claims.
    Truncated,
    /// The packet is long enough, but its headers reach beyond the slice given: make the first
    /// `needed` bytes contiguous and parse again.
    NotContiguous {
        /// How many bytes, counted from the start of L3, are needed at least.
        needed: usize,
    },
    /// Neither IPv4 nor IPv6.
    Version,
    /// A header length field is below the minimum, or beyond the packet's end.
    HeaderLength,
    /// The IPv4 header checksum is wrong.
    HeaderChecksum,
    /// An IPv4 source route option or an IPv6 routing header with segments left (RFC 7126, RFC 5095).
    SourceRoute,
    /// More IPv6 extension headers than [`ipv6::EXTENSION_LIMIT`].
    ExtensionLimit,
    /// An IPv6 extension header out of place, or cut short.
    ExtensionHeader,
    /// A fragment that cannot be: beyond 65,535 bytes, or not a multiple of eight though more follow.
    Fragment,
    /// The transport header is missing or at odds with the packet's length.
    Transport,
    /// An IPv6 packet with an IPv4-mapped address, which must not appear on a wire (it would pass for
    /// another address here).
    MappedAddress,
}

impl ParseError {
    /// A few words for an operator.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            ParseError::Truncated => "shorter than its own length field says",
            ParseError::NotContiguous { .. } => "headers spread over several buffers",
            ParseError::Version => "neither IPv4 nor IPv6",
            ParseError::HeaderLength => "impossible header length",
            ParseError::HeaderChecksum => "wrong IPv4 header checksum",
            ParseError::SourceRoute => "source-routed",
            ParseError::ExtensionLimit => "too many IPv6 extension headers",
            ParseError::ExtensionHeader => "malformed IPv6 extension header",
            ParseError::Fragment => "impossible fragment",
            ParseError::Transport => "malformed transport header",
            ParseError::MappedAddress => "IPv4-mapped address in an IPv6 packet",
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl core::error::Error for ParseError {}

/// What the pipeline knows of a packet.
///
/// ```
/// use net::{address::Address, packet::{Fragment, Headers, Protocol}};
/// let packet = [
///     0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0x66, 0x9e, 10, 18, 0, 2, 10, 30, 0, 1,
///     0xff, 0xff, 0, 53, 0, 8, 0, 0,
/// ];
/// let headers = Headers::parse(&packet, packet.len()).unwrap();
/// assert_eq!(headers.source, Address::v4([10, 18, 0, 2]));
/// assert_eq!((headers.protocol, headers.source_port), (Protocol::UDP, 65535));
/// assert_eq!((headers.l4_offset, headers.header_len, headers.total_len), (20, 28, 28));
/// assert_eq!(headers.fragment, Fragment::None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Length in bytes by the packet's own length field.
    pub total_len: usize,
    /// Bytes behind the packet's end, to be cut off (short Ethernet frames are padded).
    pub padding: usize,
    /// L3 offset of the transport header: behind options or extension headers.
    pub l4_offset: u16,
    /// L3 offset of the transport payload; these bytes were contiguous. For a protocol not known
    /// here, and for a fragment that is not the first, equal to `l4_offset`.
    pub header_len: u16,
    /// Source port; an ICMP echo's identifier; else 0.
    pub source_port: u16,
    /// Destination port; an ICMP echo's identifier; else 0.
    pub destination_port: u16,
    /// IPv4 or IPv6; agrees with the family of both addresses.
    pub version: Version,
    /// The transport protocol, behind any extension headers.
    pub protocol: Protocol,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// TCP's flags; none for other protocols.
    pub tcp_flags: TcpFlags,
    /// What kind of ICMP message it is.
    pub icmp: Icmp,
    /// Whether it is a piece of a larger packet.
    pub fragment: Fragment,
}

/// What the transport header says.
#[derive(Clone, Copy)]
pub(crate) struct Transport {
    pub len: u16,
    pub source_port: u16,
    pub destination_port: u16,
    pub flags: TcpFlags,
    pub icmp: Icmp,
}

/// The bytes at `offset`, or which error their absence is.
#[inline]
fn chunk<const N: usize>(l3: &[u8], offset: usize, end: usize) -> Result<&[u8; N], ParseError> {
    if offset + N > end {
        return Err(ParseError::Transport);
    }
    l3.get(offset..)
        .and_then(|rest| rest.first_chunk())
        .ok_or(ParseError::NotContiguous { needed: offset + N })
}

#[inline]
const fn ports(a: u8, b: u8, c: u8, d: u8) -> (u16, u16) {
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

impl Transport {
    const ABSENT: Transport = Transport {
        len: 0,
        source_port: 0,
        destination_port: 0,
        flags: TcpFlags(0),
        icmp: Icmp::None,
    };

    /// Reads the transport header at `offset` of a packet that ends at `end`. `whole` is false for a
    /// first fragment, whose lengths cannot be held against its end.
    #[inline]
    fn parse(
        l3: &[u8],
        offset: u16,
        end: usize,
        protocol: Protocol,
        whole: bool,
    ) -> Result<Transport, ParseError> {
        let at = usize::from(offset);
        match protocol {
            Protocol::TCP => {
                let bytes: &[u8; tcp::HEADER_LEN] = chunk(l3, at, end)?;
                let &[a, b, c, d, _, _, _, _, _, _, _, _, data_offset, flags, ..] = bytes;
                let (source_port, destination_port) = ports(a, b, c, d);
                let len = u16::from(data_offset >> 4) * 4;
                if usize::from(len) < tcp::HEADER_LEN || at + usize::from(len) > end {
                    return Err(ParseError::Transport);
                }
                if at + usize::from(len) > l3.len() {
                    return Err(ParseError::NotContiguous {
                        needed: at + usize::from(len),
                    });
                }
                Ok(Transport {
                    len,
                    source_port,
                    destination_port,
                    flags: TcpFlags(flags),
                    icmp: Icmp::None,
                })
            }
            Protocol::UDP => {
                let &[a, b, c, d, e, f, _, _] = chunk::<{ udp::HEADER_LEN }>(l3, at, end)?;
                let (source_port, destination_port) = ports(a, b, c, d);
                let claimed = usize::from(u16::from_be_bytes([e, f]));
                if claimed < udp::HEADER_LEN || (whole && at + claimed > end) {
                    return Err(ParseError::Transport);
                }
                Ok(Transport {
                    len: 8,
                    source_port,
                    destination_port,
                    ..Transport::ABSENT
                })
            }
            _ => Transport::parse_rare(l3, offset, end, protocol),
        }
    }

    #[cold]
    fn parse_rare(
        l3: &[u8],
        offset: u16,
        end: usize,
        protocol: Protocol,
    ) -> Result<Transport, ParseError> {
        let at = usize::from(offset);
        match protocol {
            Protocol::ICMP | Protocol::ICMPV6 => {
                // The shortest ICMPv6 message has four bytes, but none that is translated has.
                let &[message_type, _, _, _, a, b, _, _] =
                    chunk::<{ icmp::HEADER_LEN }>(l3, at, end)?;
                let icmp = icmp::classify(
                    protocol == Protocol::ICMPV6,
                    message_type,
                    offset.saturating_add(8),
                );
                let id = match icmp {
                    Icmp::EchoRequest | Icmp::EchoReply => u16::from_be_bytes([a, b]),
                    _ => 0,
                };
                Ok(Transport {
                    len: 8,
                    source_port: id,
                    destination_port: id,
                    icmp,
                    ..Transport::ABSENT
                })
            }
            Protocol::SCTP | Protocol::DCCP => {
                let &[a, b, c, d, ..] = chunk::<12>(l3, at, end)?;
                let (source_port, destination_port) = ports(a, b, c, d);
                Ok(Transport {
                    len: 12,
                    source_port,
                    destination_port,
                    ..Transport::ABSENT
                })
            }
            Protocol::UDP_LITE => {
                let &[a, b, c, d, ..] = chunk::<8>(l3, at, end)?;
                let (source_port, destination_port) = ports(a, b, c, d);
                Ok(Transport {
                    len: 8,
                    source_port,
                    destination_port,
                    ..Transport::ABSENT
                })
            }
            _ => Ok(Transport::ABSENT),
        }
    }
}

impl Headers {
    /// Reads the headers of a packet of `pkt_len` bytes, of which `l3` holds the first ones (all of
    /// them, or those of the first buffer). The transport checksum is not verified: it covers bytes
    /// that need not be here, and the receiver does it.
    ///
    /// # Errors
    /// What makes the packet one to drop, or [`ParseError::NotContiguous`].
    #[inline]
    pub fn parse(l3: &[u8], pkt_len: usize) -> Result<Headers, ParseError> {
        match l3.first() {
            Some(first) if first >> 4 == 4 => Headers::parse_v4(l3, pkt_len),
            Some(first) if first >> 4 == 6 => Headers::parse_v6(l3, pkt_len),
            Some(_) => Err(ParseError::Version),
            None => Err(missing(pkt_len, 1)),
        }
    }

    #[inline]
    fn parse_v4(l3: &[u8], pkt_len: usize) -> Result<Headers, ParseError> {
        let Some(ip) = ipv4::Header::of(l3) else {
            return Err(missing(pkt_len, ipv4::HEADER_LEN));
        };
        let total_len = usize::from(ip.total_len());
        let (mut l4_offset, mut fragment) = (20u16, Fragment::None);
        let fragment_word = ip.fragment_word() & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK);
        if ip.version_and_length() != 0x45 || fragment_word != 0 {
            (l4_offset, fragment) = ipv4_rare(l3, ip, pkt_len)?;
        } else if ip.sum() != 0xffff {
            return Err(ParseError::HeaderChecksum);
        }
        if total_len < usize::from(l4_offset) {
            return Err(ParseError::HeaderLength);
        }
        let Some(padding) = pkt_len.checked_sub(total_len) else {
            return Err(ParseError::Truncated);
        };
        let protocol = Protocol(ip.protocol());
        let transport = if fragment.is_later() {
            Transport::ABSENT
        } else {
            Transport::parse(
                l3,
                l4_offset,
                total_len,
                v4_protocol(protocol),
                fragment == Fragment::None,
            )?
        };
        Ok(Headers {
            source: ip.source(),
            destination: ip.destination(),
            total_len,
            padding,
            l4_offset,
            header_len: l4_offset + transport.len,
            source_port: transport.source_port,
            destination_port: transport.destination_port,
            version: Version::V4,
            protocol,
            ttl: ip.ttl(),
            tos: ip.tos(),
            tcp_flags: transport.flags,
            icmp: transport.icmp,
            fragment,
        })
    }

    #[inline]
    fn parse_v6(l3: &[u8], pkt_len: usize) -> Result<Headers, ParseError> {
        let Some(ip) = ipv6::Header::of(l3) else {
            return Err(missing(pkt_len, ipv6::HEADER_LEN));
        };
        let total_len = ipv6::HEADER_LEN + usize::from(ip.payload_len());
        let Some(padding) = pkt_len.checked_sub(total_len) else {
            return Err(ParseError::Truncated);
        };
        let (source, destination) = (ip.source(), ip.destination());
        if source.is_v4() || destination.is_v4() {
            return Err(ParseError::MappedAddress);
        }
        let (mut protocol, mut l4_offset, mut fragment) = (ip.next_header(), 40u16, Fragment::None);
        if ipv6::is_extension(protocol) {
            let chain = ipv6::walk(l3, total_len, protocol)?;
            (protocol, fragment) = (chain.protocol, chain.fragment);
            l4_offset = u16::try_from(chain.l4_offset).map_err(|_| ParseError::ExtensionHeader)?;
        }
        let protocol = Protocol(protocol);
        let transport = if fragment.is_later() {
            Transport::ABSENT
        } else {
            Transport::parse(
                l3,
                l4_offset,
                total_len,
                v6_protocol(protocol),
                fragment == Fragment::None,
            )?
        };
        Ok(Headers {
            source,
            destination,
            total_len,
            padding,
            l4_offset,
            header_len: l4_offset + transport.len,
            source_port: transport.source_port,
            destination_port: transport.destination_port,
            version: Version::V6,
            protocol,
            ttl: ip.hop_limit(),
            tos: ip.traffic_class(),
            tcp_flags: transport.flags,
            icmp: transport.icmp,
            fragment,
        })
    }

    /// Bytes of transport payload (of a later fragment or unknown protocol: all behind the IP header).
    #[inline]
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        self.total_len.saturating_sub(self.header_len as usize)
    }

    /// Bytes of transport header and payload.
    #[inline]
    #[must_use]
    pub const fn l4_len(&self) -> usize {
        self.total_len.saturating_sub(self.l4_offset as usize)
    }

    /// L3 offset of the checksum field that covers the addresses; `None` where there is none: ICMP,
    /// SCTP, unknown protocols, fragments without a transport header.
    #[inline]
    #[must_use]
    pub const fn pseudo_checksum_at(&self) -> Option<usize> {
        if self.fragment.is_later() {
            return None;
        }
        match (self.version, self.protocol) {
            (Version::V4, Protocol::ICMPV6) => None,
            (_, protocol) => match protocol.pseudo_checksum_offset() {
                Some(offset) => Some(self.l4_offset as usize + offset),
                None => None,
            },
        }
    }

    /// The sum of the pseudo-header of a packet that is not a fragment.
    #[inline]
    #[must_use]
    pub const fn pseudo_header(&self) -> u16 {
        crate::checksum::pseudo_header(
            self.source,
            self.destination,
            self.protocol.0,
            self.l4_len(),
        )
    }
}

#[cold]
const fn missing(pkt_len: usize, needed: usize) -> ParseError {
    if pkt_len < needed {
        ParseError::Truncated
    } else {
        ParseError::NotContiguous { needed }
    }
}

/// ICMPv6 in IPv4 (and the reverse, below) has no meaning: carried as an unknown protocol.
#[inline]
const fn v4_protocol(protocol: Protocol) -> Protocol {
    if let Protocol::ICMPV6 = protocol {
        Protocol(255)
    } else {
        protocol
    }
}

#[inline]
const fn v6_protocol(protocol: Protocol) -> Protocol {
    if let Protocol::ICMP = protocol {
        Protocol(255)
    } else {
        protocol
    }
}

/// The transport's offset and the fragment of an IPv4 header with options or of a fragment.
#[cold]
fn ipv4_rare(
    l3: &[u8],
    ip: ipv4::Header<'_>,
    pkt_len: usize,
) -> Result<(u16, Fragment), ParseError> {
    let header_len = ip.header_len();
    let total_len = usize::from(ip.total_len());
    if header_len < ipv4::HEADER_LEN || header_len > total_len {
        return Err(ParseError::HeaderLength);
    }
    let Some(header) = l3.get(..header_len) else {
        return Err(missing(pkt_len, header_len));
    };
    if crate::checksum::sum(header) != 0xffff {
        return Err(ParseError::HeaderChecksum);
    }
    if ipv4::has_source_route(header.get(ipv4::HEADER_LEN..).unwrap_or_default()) {
        return Err(ParseError::SourceRoute);
    }
    let word = ip.fragment_word();
    let offset = u32::from(word & ipv4::OFFSET_MASK) * 8;
    let fragment = Fragment::new(
        u32::from(ip.id()),
        u16::try_from(offset).map_err(|_| ParseError::Fragment)?,
        word & ipv4::MORE_FRAGMENTS != 0,
        total_len - header_len,
    )?;
    Ok((u16::from(ip.version_and_length() & 0x0f) * 4, fragment))
}

/// A packet's beginning as an ICMP error quotes it. Offsets count from the start of the L3 that
/// carries the error.
///
/// Only what is there is claimed: the quote may end right behind the ports, its own length field says
/// how long the packet was, and its transport checksum may be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quoted {
    /// Source address of the packet that failed.
    pub source: Address,
    /// Its destination address.
    pub destination: Address,
    /// Offset of its IP header.
    pub offset: u16,
    /// Offset of its transport header.
    pub l4_offset: u16,
    /// Offset of the end of what was quoted.
    pub end: u16,
    /// Its source port (or echo identifier).
    pub source_port: u16,
    /// Its destination port (or echo identifier).
    pub destination_port: u16,
    /// Its IP version; the same as the error's.
    pub version: Version,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// What kind of ICMP message it was.
    pub icmp: Icmp,
    /// Whether it was a fragment; of a later one the ports are not known.
    pub fragment: Fragment,
}

impl Headers {
    /// Reads the packet that this ICMP error quotes.
    ///
    /// As RFC 5508 section 4.2 asks, a quote whose own IPv4 header checksum is wrong is refused, options
    /// and extension headers are passed over, and the quoted transport checksum is not judged.
    ///
    /// # Errors
    /// [`ParseError::Transport`] when this is no ICMP error or the quote has no ports; else what is
    /// wrong with the quoted header.
    #[cold]
    pub fn quoted(&self, l3: &[u8]) -> Result<Quoted, ParseError> {
        let Icmp::Error { quoted: offset } = self.icmp else {
            return Err(ParseError::Transport);
        };
        let icmp_end = self.total_len.min(l3.len());
        let start = usize::from(offset);
        let quote = l3.get(start..icmp_end).ok_or(ParseError::Truncated)?;
        let quote = quote
            .get(..self.original_datagram_len(l3).min(quote.len()))
            .unwrap_or(quote);
        let first = *quote.first().ok_or(ParseError::Truncated)?;
        let (source, destination, total_len, l4, protocol, fragment) =
            match (self.version, first >> 4) {
                (Version::V4, 4) => {
                    let ip = ipv4::Header::of(quote).ok_or(ParseError::Truncated)?;
                    let (l4, fragment) = ipv4_rare(quote, ip, quote.len())?;
                    let total_len = usize::from(ip.total_len());
                    (
                        ip.source(),
                        ip.destination(),
                        total_len,
                        usize::from(l4),
                        Protocol(ip.protocol()),
                        fragment,
                    )
                }
                (Version::V6, 6) => {
                    let ip = ipv6::Header::of(quote).ok_or(ParseError::Truncated)?;
                    let total_len = ipv6::HEADER_LEN + usize::from(ip.payload_len());
                    let (source, destination) = (ip.source(), ip.destination());
                    if source.is_v4() || destination.is_v4() {
                        return Err(ParseError::MappedAddress);
                    }
                    let chain = ipv6::walk(quote, total_len, ip.next_header())?;
                    (
                        source,
                        destination,
                        total_len,
                        chain.l4_offset,
                        Protocol(chain.protocol),
                        chain.fragment,
                    )
                }
                _ => return Err(ParseError::Version),
            };
        let quote = quote.get(..total_len.min(quote.len())).unwrap_or(quote);
        let mut transport = Transport::ABSENT;
        if !fragment.is_later() {
            // Eight bytes of transport header are the least that every sender quotes (RFC 792).
            let header = quote.get(l4..).ok_or(ParseError::Transport)?;
            let known = if self.version == Version::V4 {
                v4_protocol(protocol)
            } else {
                v6_protocol(protocol)
            };
            transport = quoted_transport(header, known)?;
        }
        let position = |at: usize| u16::try_from(start + at).map_err(|_| ParseError::HeaderLength);
        Ok(Quoted {
            source,
            destination,
            offset,
            l4_offset: position(l4)?,
            end: position(quote.len())?,
            source_port: transport.source_port,
            destination_port: transport.destination_port,
            version: self.version,
            protocol,
            icmp: transport.icmp,
            fragment,
        })
    }

    /// How many bytes of the message are quote, where extension objects follow it (RFC 4884).
    fn original_datagram_len(&self, l3: &[u8]) -> usize {
        let Some(&[message_type, _, _, _, v6_len, v4_len, _, _]) = l3
            .get(usize::from(self.l4_offset)..)
            .and_then(|l4| l4.first_chunk::<8>())
        else {
            return usize::MAX;
        };
        let len = match (self.version, message_type) {
            (
                Version::V4,
                icmp::v4::UNREACHABLE | icmp::v4::TIME_EXCEEDED | icmp::v4::PARAMETER_PROBLEM,
            ) => usize::from(v4_len) * 4,
            (Version::V6, icmp::v6::UNREACHABLE | icmp::v6::TIME_EXCEEDED) => {
                usize::from(v6_len) * 8
            }
            _ => 0,
        };
        if len == 0 { usize::MAX } else { len }
    }
}

fn quoted_transport(header: &[u8], protocol: Protocol) -> Result<Transport, ParseError> {
    match protocol {
        Protocol::TCP | Protocol::UDP | Protocol::UDP_LITE | Protocol::DCCP | Protocol::SCTP => {
            let &[a, b, c, d, ..] = header.first_chunk::<8>().ok_or(ParseError::Transport)?;
            let (source_port, destination_port) = ports(a, b, c, d);
            Ok(Transport {
                source_port,
                destination_port,
                ..Transport::ABSENT
            })
        }
        Protocol::ICMP | Protocol::ICMPV6 => {
            let &[message_type, _, _, _, a, b, _, _] =
                header.first_chunk::<8>().ok_or(ParseError::Transport)?;
            let icmp = icmp::classify(protocol == Protocol::ICMPV6, message_type, 0);
            let id = match icmp {
                Icmp::EchoRequest | Icmp::EchoReply => u16::from_be_bytes([a, b]),
                // No error may answer an error (RFC 1122 section 3.2.2).
                Icmp::Error { .. } => return Err(ParseError::Transport),
                _ => 0,
            };
            Ok(Transport {
                source_port: id,
                destination_port: id,
                icmp,
                ..Transport::ABSENT
            })
        }
        _ => Ok(Transport::ABSENT),
    }
}
