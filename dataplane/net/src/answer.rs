//! Packets that the node sends by itself, each in answer to one that it received.
//!
//! Builders write a whole packet, all checksums finished, into a buffer of the caller's and return its
//! length. Those that answer errors first ask whether they may: an error about an error, a broadcast or
//! a fragment multiplies traffic (RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section
//! 2.4 (e)). Limiting their rate is the caller's part.

use core::fmt;

use crate::address::Address;
use crate::arp;
use crate::checksum::{self, Accumulator, Delta};
use crate::ethernet::{self, EtherType, Mac};
use crate::icmp::{self, Icmp};
use crate::ipv4;
use crate::ipv6;
use crate::ndp;
use crate::packet::{Headers, Protocol, TcpFlags, Version};
use crate::rewrite::{AddressChange, L4State, Misfit};
use crate::tcp;
use crate::udp;

/// Length in bytes of the frame that [`arp_reply`] writes.
pub const ARP_REPLY_LEN: usize = ethernet::HEADER_LEN + arp::LEN;

/// Length in bytes of the packet that [`neighbour_advertisement`] writes.
pub const NEIGHBOUR_ADVERTISEMENT_LEN: usize = ipv6::HEADER_LEN + 32;

/// The longest ICMP error over IPv4, in bytes (RFC 1812 section 4.3.2.3).
pub const ICMP_ERROR_MAX_V4: usize = 576;

/// The longest ICMPv6 error, in bytes: IPv6's minimum MTU (RFC 4443 section 2.4 (c)).
pub const ICMP_ERROR_MAX_V6: usize = 1280;

/// Time to live of what the node sends.
const TTL: u8 = 64;

/// Internetwork control (RFC 1812 section 4.3.2.5): what errors over IPv4 are sent with.
const CONTROL_TOS: u8 = 0xc0;

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unanswered {
    /// The packet is a fragment that is not the first.
    LaterFragment,
    /// The packet is itself an error, or a redirect.
    Error,
    /// Its source is no single host: multicast, broadcast, unspecified, loopback.
    Source,
    /// It was sent to many.
    Destination,
    /// It is not of the kind that is answered so: no echo request, no TCP, a reset.
    Kind,
    /// The buffer is too short for the answer, or the addresses are of two families.
    Buffer,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unanswered::LaterFragment => "a later fragment is not answered",
            Unanswered::Error => "an error is not answered with an error",
            Unanswered::Source => "the source is no single host",
            Unanswered::Destination => "the destination is a group",
            Unanswered::Kind => "not a packet that is answered so",
            Unanswered::Buffer => "no room for the answer",
        })
    }
}

impl core::error::Error for Unanswered {}

/// Writes the frame that answers an ARP request with `mac`: Ethernet header and reply,
/// [`ARP_REPLY_LEN`] bytes. `None` when the packet is no request or `frame` is too short.
pub fn arp_reply(frame: &mut [u8], request: &arp::Packet, mac: Mac) -> Option<usize> {
    let reply = request.reply(mac)?;
    let (head, body) = frame
        .get_mut(..ARP_REPLY_LEN)?
        .split_first_chunk_mut::<{ ethernet::HEADER_LEN }>()?;
    let ethernet = ethernet::Header {
        destination: request.sender_mac,
        source: mac,
        ethertype: EtherType::ARP,
    };
    *head = ethernet.to_bytes();
    *body.first_chunk_mut()? = reply.to_bytes();
    Some(ARP_REPLY_LEN)
}

/// Writes the neighbour advertisement (an IPv6 packet, [`NEIGHBOUR_ADVERTISEMENT_LEN`] bytes) that says
/// "`mac`, a router, has the address you asked for" (RFC 4861 section 7.2.4). A solicitation from `::`
/// (duplicate address detection) is answered to all nodes. `None` when `into` is too short.
pub fn neighbour_advertisement(
    into: &mut [u8],
    solicitation: &ndp::Solicitation,
    mac: Mac,
) -> Option<usize> {
    let probe = solicitation.source.is_unspecified();
    let destination = if probe {
        Address::ALL_NODES
    } else {
        solicitation.source
    };
    // Router and override; solicited unless it answers a probe.
    let flags = if probe { 0xa0 } else { 0xe0 };
    let ip = ipv6::Build {
        source: solicitation.target,
        destination,
        next_header: Protocol::ICMPV6.0,
        hop_limit: 255,
        traffic_class: 0,
        flow_label: 0,
        payload_len: 32,
    };
    let packet = into.get_mut(..NEIGHBOUR_ADVERTISEMENT_LEN)?;
    let (head, body) = packet.split_first_chunk_mut::<{ ipv6::HEADER_LEN }>()?;
    *head = ip.to_bytes();
    let (fixed, rest) = body.split_first_chunk_mut::<8>()?;
    *fixed = [icmp::v6::NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    let (target, option) = rest.split_first_chunk_mut::<16>()?;
    *target = solicitation.target.octets();
    let [a, b, c, d, e, f] = mac.0;
    *option.first_chunk_mut()? = [2u8, 1, a, b, c, d, e, f];
    fill_icmp_v6(body, solicitation.target, destination)?;
    Some(NEIGHBOUR_ADVERTISEMENT_LEN)
}

/// The Ethernet destination of the advertisement that [`neighbour_advertisement`] writes, for a
/// solicitation that came in a frame from `asker`.
#[must_use]
pub const fn advertisement_destination(solicitation: &ndp::Solicitation, asker: Mac) -> Mac {
    if solicitation.source.is_unspecified() {
        Mac::of_ipv6_multicast(Address::ALL_NODES)
    } else {
        asker
    }
}

/// Turns an ICMP or ICMPv6 echo request into its reply, in place, whatever its length and however many
/// buffers hold the rest: the payload stays, and the checksum follows the few bytes that change.
///
/// # Errors
/// When it is no whole echo request from one host to one host. A fragmented request is not answered:
/// its reply would need the same identification as packets of our own.
pub fn echo_reply(l3: &mut [u8], headers: &mut Headers, state: L4State) -> Result<(), Unanswered> {
    if headers.icmp != Icmp::EchoRequest || headers.fragment != crate::packet::Fragment::None {
        return Err(Unanswered::Kind);
    }
    may_answer(headers)?;
    let short = |_: Misfit| Unanswered::Buffer;
    let swap = AddressChange::new(
        headers.source,
        headers.destination,
        headers.destination,
        headers.source,
    )
    .ok_or(Unanswered::Buffer)?;
    swap.apply(l3, headers, state).map_err(short)?;
    let at = usize::from(headers.l4_offset);
    let message = l3
        .get_mut(at..)
        .and_then(|l4| l4.first_chunk_mut::<4>())
        .ok_or(Unanswered::Buffer)?;
    let [old_type, code, high, low] = *message;
    let new_type = match headers.version {
        Version::V4 => icmp::v4::ECHO_REPLY,
        Version::V6 => icmp::v6::ECHO_REPLY,
    };
    let delta = Delta::u16(
        u16::from_be_bytes([old_type, code]),
        u16::from_be_bytes([new_type, code]),
    );
    let field = u16::from_be_bytes([high, low]);
    let [high, low] = if state == L4State::Finished {
        delta.finished(field)
    } else {
        field
    }
    .to_be_bytes();
    *message = [new_type, code, high, low];
    match headers.version {
        Version::V4 => {
            let mut ip = ipv4::HeaderMut::of(l3).ok_or(Unanswered::Buffer)?;
            let delta = Delta::u16(u16::from(headers.ttl) << 8, u16::from(TTL) << 8);
            let checksum = delta.finished(ip.get().checksum());
            ip.set_ttl(TTL);
            ip.set_checksum(checksum);
        }
        Version::V6 => ipv6::HeaderMut::of(l3)
            .ok_or(Unanswered::Buffer)?
            .set_hop_limit(TTL),
    }
    headers.ttl = TTL;
    headers.icmp = Icmp::EchoReply;
    Ok(())
}

/// What went wrong with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// No route to the destination.
    NoRoute,
    /// The destination is known but cannot be reached.
    HostUnreachable,
    /// Nothing listens there.
    PortUnreachable,
    /// A policy forbids it.
    Prohibited,
    /// The time to live ran out on the way.
    TtlExpired,
    /// Not all fragments came in time.
    ReassemblyTimedOut,
    /// The packet does not fit and may not be fragmented.
    TooBig {
        /// The longest packet, IP header included, that would have fitted, in bytes.
        mtu: u32,
    },
}

impl Failure {
    /// Type, code and the word after the checksum.
    fn message(self, version: Version) -> (u8, u8, u32) {
        match (version, self) {
            (Version::V4, Failure::NoRoute) => (icmp::v4::UNREACHABLE, 0, 0),
            (Version::V4, Failure::HostUnreachable) => (icmp::v4::UNREACHABLE, 1, 0),
            (Version::V4, Failure::PortUnreachable) => (icmp::v4::UNREACHABLE, 3, 0),
            (Version::V4, Failure::Prohibited) => (icmp::v4::UNREACHABLE, 13, 0),
            (Version::V4, Failure::TtlExpired) => (icmp::v4::TIME_EXCEEDED, 0, 0),
            (Version::V4, Failure::ReassemblyTimedOut) => (icmp::v4::TIME_EXCEEDED, 1, 0),
            (Version::V4, Failure::TooBig { mtu }) => (icmp::v4::UNREACHABLE, 4, mtu.min(0xffff)),
            (Version::V6, Failure::NoRoute) => (icmp::v6::UNREACHABLE, 0, 0),
            (Version::V6, Failure::HostUnreachable) => (icmp::v6::UNREACHABLE, 3, 0),
            (Version::V6, Failure::PortUnreachable) => (icmp::v6::UNREACHABLE, 4, 0),
            (Version::V6, Failure::Prohibited) => (icmp::v6::UNREACHABLE, 1, 0),
            (Version::V6, Failure::TtlExpired) => (icmp::v6::TIME_EXCEEDED, 0, 0),
            (Version::V6, Failure::ReassemblyTimedOut) => (icmp::v6::TIME_EXCEEDED, 1, 0),
            (Version::V6, Failure::TooBig { mtu }) => (icmp::v6::PACKET_TOO_BIG, 0, mtu),
        }
    }
}

/// Writes the ICMP or ICMPv6 error that tells the sender of a packet what went wrong with it, sent from
/// `from`, quoting as much of `offending` (the packet's first bytes, L3 onwards) as the RFCs allow and
/// `into` holds. The length written.
///
/// # Errors
/// When the packet must not be answered. That it came as a link-layer broadcast only the caller knows.
pub fn icmp_error(
    into: &mut [u8],
    offending: &[u8],
    headers: &Headers,
    from: Address,
    failure: Failure,
) -> Result<usize, Unanswered> {
    may_report(headers, failure)?;
    if from.is_v4() != (headers.version == Version::V4) {
        return Err(Unanswered::Buffer);
    }
    let (ip_len, longest) = match headers.version {
        Version::V4 => (ipv4::HEADER_LEN, ICMP_ERROR_MAX_V4),
        Version::V6 => (ipv6::HEADER_LEN, ICMP_ERROR_MAX_V6),
    };
    let head_len = ip_len + icmp::HEADER_LEN;
    let quote = offending.get(..headers.total_len).unwrap_or(offending);
    let room = into
        .len()
        .min(longest)
        .checked_sub(head_len)
        .ok_or(Unanswered::Buffer)?;
    let quote = quote.get(..room).unwrap_or(quote);
    if quote.len() < usize::from(headers.l4_offset) {
        return Err(Unanswered::Buffer);
    }
    write_icmp_error(into, quote, headers, from, failure, ip_len).ok_or(Unanswered::Buffer)
}

fn write_icmp_error(
    into: &mut [u8],
    quote: &[u8],
    headers: &Headers,
    from: Address,
    failure: Failure,
    ip_len: usize,
) -> Option<usize> {
    let len = ip_len + icmp::HEADER_LEN + quote.len();
    let (ip, body) = into.get_mut(..len)?.split_at_mut_checked(ip_len)?;
    let (message_type, code, word) = failure.message(headers.version);
    let [a, b, c, d] = word.to_be_bytes();
    let (head, rest) = body.split_first_chunk_mut::<{ icmp::HEADER_LEN }>()?;
    *head = [message_type, code, 0, 0, a, b, c, d];
    rest.get_mut(..quote.len())?.copy_from_slice(quote);
    match headers.version {
        Version::V4 => {
            let build = ipv4::Build {
                source: from,
                destination: headers.source,
                protocol: Protocol::ICMP.0,
                ttl: TTL,
                tos: CONTROL_TOS,
                id: 0,
                dont_fragment: true,
                total_len: u16::try_from(len).ok()?,
            };
            *ip.first_chunk_mut()? = build.to_bytes();
            let checksum = !checksum::sum(body);
            set_checksum(body, 2, checksum)?;
        }
        Version::V6 => {
            let build = ipv6::Build {
                source: from,
                destination: headers.source,
                next_header: Protocol::ICMPV6.0,
                hop_limit: TTL,
                traffic_class: 0,
                flow_label: 0,
                payload_len: u16::try_from(body.len()).ok()?,
            };
            *ip.first_chunk_mut()? = build.to_bytes();
            fill_icmp_v6(body, from, headers.source)?;
        }
    }
    Some(len)
}

/// Writes the TCP reset that refuses a segment (RFC 9293 section 3.10.7.1), as if from the segment's
/// destination. The length written: 40 bytes for IPv4, 60 for IPv6.
///
/// # Errors
/// When it is no TCP segment with a header, is itself a reset, or was not sent from one host to one.
pub fn tcp_reset(into: &mut [u8], l3: &[u8], headers: &Headers) -> Result<usize, Unanswered> {
    if headers.protocol != Protocol::TCP || headers.fragment != crate::packet::Fragment::None {
        return Err(Unanswered::Kind);
    }
    if headers.tcp_flags.any(TcpFlags::RST) {
        return Err(Unanswered::Kind);
    }
    may_answer(headers)?;
    write_tcp_reset(into, l3, headers).ok_or(Unanswered::Buffer)
}

fn write_tcp_reset(into: &mut [u8], l3: &[u8], headers: &Headers) -> Option<usize> {
    let segment = tcp::Header::of(l3.get(usize::from(headers.l4_offset)..)?)?;
    let flags = segment.flags();
    let (sequence, acknowledgement, flags) = if flags.any(TcpFlags::ACK) {
        (segment.acknowledgement(), 0, TcpFlags::RST)
    } else {
        let controls = u32::from(flags.any(TcpFlags::SYN)) + u32::from(flags.any(TcpFlags::FIN));
        let len = u32::try_from(headers.payload_len())
            .ok()?
            .wrapping_add(controls);
        (
            0,
            segment.sequence().wrapping_add(len),
            TcpFlags::RST.with(TcpFlags::ACK),
        )
    };
    let reset = tcp::Build {
        source_port: headers.destination_port,
        destination_port: headers.source_port,
        sequence,
        acknowledgement,
        flags,
        window: 0,
    };
    write_segment(into, headers.destination, headers.source, &reset)
}

/// Writes a bare ACK that asks the connection's other end where it stands: with a `sequence` outside its window, which
/// it answers with an acknowledgement of what it expects (RFC 9293 section 3.10.7.4). From `source` and its port to
/// `destination` and its port, host byte order. The number of bytes.
///
/// # Errors
/// [`Unanswered::Buffer`].
pub fn tcp_challenge(
    into: &mut [u8],
    source: (Address, u16),
    destination: (Address, u16),
    sequence: u32,
) -> Result<usize, Unanswered> {
    let segment = tcp::Build {
        source_port: source.1,
        destination_port: destination.1,
        sequence,
        acknowledgement: 0,
        flags: TcpFlags::ACK,
        window: 0,
    };
    write_segment(into, source.0, destination.0, &segment).ok_or(Unanswered::Buffer)
}

fn write_segment(
    into: &mut [u8],
    source: Address,
    destination: Address,
    segment: &tcp::Build,
) -> Option<usize> {
    let mut bytes = segment.to_bytes();
    let mut sum = Accumulator::starting_with(checksum::pseudo_header(
        source,
        destination,
        Protocol::TCP.0,
        tcp::HEADER_LEN,
    ));
    sum.add(&bytes);
    set_checksum(&mut bytes, 16, !sum.sum())?;
    let ip_len = write_ip(into, source, destination, Protocol::TCP, tcp::HEADER_LEN)?;
    *into.get_mut(ip_len..)?.first_chunk_mut()? = bytes;
    Some(ip_len + tcp::HEADER_LEN)
}

/// Writes a UDP datagram with this payload, from `source` and its port to `destination` and its port, host byte order.
/// The number of bytes.
///
/// # Errors
/// [`Unanswered::Buffer`].
pub fn datagram(
    into: &mut [u8],
    source: (Address, u16),
    destination: (Address, u16),
    payload: &[u8],
) -> Result<usize, Unanswered> {
    write_datagram(into, source, destination, payload).ok_or(Unanswered::Buffer)
}

fn write_datagram(
    into: &mut [u8],
    source: (Address, u16),
    destination: (Address, u16),
    payload: &[u8],
) -> Option<usize> {
    let length = udp::HEADER_LEN + payload.len();
    let mut sum = Accumulator::starting_with(checksum::pseudo_header(
        source.0,
        destination.0,
        Protocol::UDP.0,
        length,
    ));
    let len = u16::try_from(length).ok()?;
    sum.add(&udp::header(source.1, destination.1, len, 0));
    sum.add(payload);
    let ip_len = write_ip(into, source.0, destination.0, Protocol::UDP, length)?;
    let (header, rest) = into.get_mut(ip_len..)?.split_first_chunk_mut()?;
    *header = udp::header(
        source.1,
        destination.1,
        len,
        checksum::udp_field(!sum.sum()),
    );
    rest.get_mut(..payload.len())?.copy_from_slice(payload);
    Some(ip_len + length)
}

/// Writes an IP header before `length` bytes of a transport; its own length.
fn write_ip(
    into: &mut [u8],
    source: Address,
    destination: Address,
    protocol: Protocol,
    length: usize,
) -> Option<usize> {
    match (source.is_v4(), destination.is_v4()) {
        (true, true) => {
            let build = ipv4::Build {
                source,
                destination,
                protocol: protocol.0,
                ttl: TTL,
                tos: 0,
                id: 0,
                dont_fragment: true,
                total_len: u16::try_from(ipv4::HEADER_LEN + length).ok()?,
            };
            *into.first_chunk_mut()? = build.to_bytes();
            Some(ipv4::HEADER_LEN)
        }
        (false, false) => {
            let build = ipv6::Build {
                source,
                destination,
                next_header: protocol.0,
                hop_limit: TTL,
                traffic_class: 0,
                flow_label: 0,
                payload_len: u16::try_from(length).ok()?,
            };
            *into.first_chunk_mut()? = build.to_bytes();
            Some(ipv6::HEADER_LEN)
        }
        _ => None,
    }
}

/// Whether a packet may be answered at all.
fn may_answer(headers: &Headers) -> Result<(), Unanswered> {
    if !headers.source.is_host() {
        return Err(Unanswered::Source);
    }
    if headers.destination.is_multicast() || headers.destination.is_broadcast() {
        return Err(Unanswered::Destination);
    }
    Ok(())
}

/// Whether a packet may be answered with this error.
fn may_report(headers: &Headers, failure: Failure) -> Result<(), Unanswered> {
    if headers.fragment.is_later() {
        return Err(Unanswered::LaterFragment);
    }
    match headers.icmp {
        Icmp::Error { .. } | Icmp::Discovery => return Err(Unanswered::Error),
        _ => {}
    }
    match may_answer(headers) {
        // RFC 4443 section 2.4 (e.3): path MTU discovery works for IPv6 multicast.
        Err(Unanswered::Destination)
            if headers.version == Version::V6 && matches!(failure, Failure::TooBig { .. }) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn set_checksum(l4: &mut [u8], offset: usize, checksum: u16) -> Option<()> {
    *l4.get_mut(offset..)?.first_chunk_mut()? = checksum.to_be_bytes();
    Some(())
}

fn fill_icmp_v6(message: &mut [u8], source: Address, destination: Address) -> Option<()> {
    let pseudo = checksum::pseudo_header(source, destination, Protocol::ICMPV6.0, message.len());
    let checksum = !checksum::add(pseudo, checksum::sum(message));
    set_checksum(message, 2, checksum)
}
