//! Packets by recipe: a few bytes of a script name what a packet is, so that small changes of an input make other
//! sound packets instead of garbage. Garbage has its place too: a recipe may damage what it made.

use net::Address;

use crate::judge;
use crate::script::Script;

/// Bits of a recipe's first byte.
pub mod shape {
    /// IPv6 instead of IPv4.
    pub const V6: u8 = 1;
    /// IPv4 options; IPv6 hop-by-hop and destination options.
    pub const EXTENDED: u8 = 2;
    /// UDP without a checksum (IPv4), TCP with options.
    pub const OTHER_HEADER: u8 = 4;
    /// A few bytes are overwritten.
    pub const MUTATED: u8 = 8;
    /// The packet is cut short.
    pub const CUT: u8 = 16;
    /// The checksums are not put right after that.
    pub const UNREPAIRED: u8 = 32;
    /// IPv4's "don't fragment" is not set.
    pub const MAY_FRAGMENT: u8 = 64;
    /// Bytes behind the packet's end.
    pub const PADDED: u8 = 128;
}

/// What a packet carries, by number in a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// An echo request.
    EchoRequest,
    /// An echo reply.
    EchoReply,
    /// An ICMP error about another packet, whose recipe follows.
    Error,
    /// SCTP.
    Sctp,
    /// A neighbour solicitation (IPv6), a router's ICMP message (IPv4).
    Discovery,
    /// UDP-Lite.
    UdpLite,
    /// DCCP.
    Dccp,
    /// A protocol that nobody knows.
    Unknown,
}

/// All kinds, in the order of their numbers.
pub const KINDS: [Kind; 10] = [
    Kind::Tcp,
    Kind::Udp,
    Kind::EchoRequest,
    Kind::EchoReply,
    Kind::Error,
    Kind::Sctp,
    Kind::Discovery,
    Kind::UdpLite,
    Kind::Dccp,
    Kind::Unknown,
];

/// The ports of recipes.
pub const PORTS: [u16; 8] = [4000, 80, 0, 1, 65535, 53, 4001, 50103];

/// A packet, and whether every checksum in it is right.
#[derive(Clone, Debug)]
pub struct Made {
    /// From the first byte of the IP header on.
    pub bytes: Vec<u8>,
    /// False when it was damaged and not repaired.
    pub sound: bool,
}

fn protocol(kind: Kind, v4: bool) -> u8 {
    match kind {
        Kind::Tcp => 6,
        Kind::Udp => 17,
        Kind::EchoRequest | Kind::EchoReply | Kind::Error | Kind::Discovery => {
            if v4 {
                1
            } else {
                58
            }
        }
        Kind::Sctp => 132,
        Kind::UdpLite => 136,
        Kind::Dccp => 33,
        Kind::Unknown => 253,
    }
}

/// Makes the packet of the recipe that comes next in the script; `addresses` are what recipes choose from, IPv4 and
/// IPv6.
pub fn make(script: &mut Script<'_>, addresses: [&[Address]; 2]) -> Made {
    make_at(script, addresses, 0)
}

fn make_at(script: &mut Script<'_>, addresses: [&[Address]; 2], depth: usize) -> Made {
    let shape = script.byte();
    let v4 = shape & shape::V6 == 0;
    let list = addresses[usize::from(!v4)];
    let (source, destination) = (script.one_of(list), script.one_of(list));
    let kind = script.one_of(&KINDS);
    let detail = script.byte();
    let ports = [script.one_of(&PORTS), script.one_of(&PORTS)];
    let (ttl, tos) = (script.byte(), script.byte());
    let fragment = script.byte();
    let length = match usize::from(script.word()) {
        large if large >= 0xf000 => (large & 0xfff) * 15,
        small => small % 3000,
    };
    let sequence = script.byte();

    let mut payload = Vec::new();
    let kind = if kind == Kind::Error && depth > 0 {
        Kind::EchoRequest
    } else {
        kind
    };
    if kind == Kind::Error {
        let quoted = make_at(script, addresses, depth + 1).bytes;
        let keep = usize::from(script.byte()) * 6 + 8;
        payload.extend_from_slice(&quoted[..keep.min(quoted.len())]);
    } else {
        payload.extend((0u8..251).cycle().take(length).map(|n| n ^ sequence));
    }
    let l4 = transport(kind, v4, shape, detail, ports, length, sequence, &payload);
    let mut bytes = network(
        v4,
        shape,
        source,
        destination,
        protocol(kind, v4),
        ttl,
        tos,
        fragment,
        sequence,
        &l4,
    );
    judge::repair(&mut bytes);
    let damaged = shape & (shape::MUTATED | shape::CUT) != 0;
    if shape & shape::MUTATED != 0 {
        for _ in 0..=script.byte() % 4 {
            let at = usize::from(script.word()) % bytes.len();
            bytes[at] = script.byte();
        }
    }
    if shape & shape::CUT != 0 {
        bytes.truncate(usize::from(script.word()) % (bytes.len() + 1));
    }
    // Before the repair: it may complete what was cut.
    if shape & shape::PADDED != 0 {
        bytes.extend_from_slice(&[0xee; 17]);
    }
    let sound = !damaged || shape & shape::UNREPAIRED == 0;
    if damaged && sound {
        judge::repair(&mut bytes);
    }
    Made { bytes, sound }
}

#[allow(clippy::too_many_arguments)]
fn transport(
    kind: Kind,
    v4: bool,
    shape: u8,
    detail: u8,
    ports: [u16; 2],
    length: usize,
    sequence: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut l4 = Vec::with_capacity(payload.len() + 40);
    let other = shape & shape::OTHER_HEADER != 0;
    let pair = [ports[0].to_be_bytes(), ports[1].to_be_bytes()].concat();
    let id = ports[0].to_be_bytes();
    match kind {
        Kind::Tcp => {
            l4.extend_from_slice(&pair);
            // Segments of one length follow each other by number.
            let at =
                0xffff_f000u32.wrapping_add(u32::from(sequence) * u32::try_from(length).unwrap());
            l4.extend_from_slice(&at.to_be_bytes());
            l4.extend_from_slice(&[
                1,
                2,
                3,
                4,
                if other { 0x70 } else { 0x50 },
                detail,
                0xff,
                0xff,
                0,
                0,
                0,
                0,
            ]);
            if other {
                l4.extend_from_slice(&[1, 2, 4, 0x05, 0xb4, 3, 3, 7]);
            }
        }
        Kind::Udp | Kind::UdpLite => {
            l4.extend_from_slice(&pair);
            let claimed = if kind == Kind::Udp {
                payload.len() + 8
            } else {
                8
            };
            l4.extend_from_slice(&u16::try_from(claimed).unwrap_or(u16::MAX).to_be_bytes());
            // Anything but zero gets a right checksum later.
            let bare = other && v4;
            l4.extend_from_slice(if bare { &[0, 0] } else { &[0, 1] });
        }
        Kind::EchoRequest => {
            l4.extend_from_slice(&[if v4 { 8 } else { 128 }, 0, 0, 0, id[0], id[1], 0, sequence]);
        }
        Kind::EchoReply => {
            l4.extend_from_slice(&[if v4 { 0 } else { 129 }, 0, 0, 0, id[0], id[1], 0, sequence]);
        }
        Kind::Error => {
            let message = if v4 { [3, 11, 12, 5] } else { [1, 2, 3, 4] }[usize::from(detail & 3)];
            let size = if other { [0, 16, 0, 0] } else { [0, 0, 5, 120] };
            l4.extend_from_slice(&[message, (detail >> 2) & 15, 0, 0]);
            l4.extend_from_slice(&size);
        }
        Kind::Sctp => {
            l4.extend_from_slice(&pair);
            l4.extend_from_slice(&[9, 9, 9, 9, 0, 0, 0, 0]);
        }
        Kind::Discovery => {
            let types: [u8; 4] = if v4 {
                [9, 10, 13, 5]
            } else {
                [135, 136, 133, 137]
            };
            l4.extend_from_slice(&[types[usize::from(detail & 3)], 0, 0, 0, 0, 0, 0, 0]);
            let mut target = [0u8; 16];
            target[..2].copy_from_slice(&[0xfc, 0]);
            target[15] = detail >> 2;
            l4.extend_from_slice(&target);
            if other {
                l4.extend_from_slice(&[1, 1, 2, 0, 0, 0, 0, 7]);
            }
            return l4;
        }
        Kind::Dccp => {
            l4.extend_from_slice(&pair);
            l4.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, sequence]);
        }
        Kind::Unknown => {}
    }
    l4.extend_from_slice(payload);
    l4
}

#[allow(clippy::too_many_arguments)]
fn network(
    v4: bool,
    shape: u8,
    source: Address,
    destination: Address,
    protocol: u8,
    ttl: u8,
    tos: u8,
    fragment: u8,
    id: u8,
    l4: &[u8],
) -> Vec<u8> {
    let extended = shape & shape::EXTENDED != 0;
    // The low bits say which piece of four, the rest is the identification.
    let piece = match fragment {
        0 => None,
        f => Some((u16::from(f & 3) * 16, f & 3 != 3, f >> 2)),
    };
    let mut body = l4;
    if let Some((offset, more, _)) = piece {
        let from = (usize::from(offset) * 8).min(l4.len());
        let to = if more {
            (from + 128).min(l4.len())
        } else {
            l4.len()
        };
        body = &l4[from..to];
    }
    let mut bytes = Vec::with_capacity(body.len() + 100);
    if v4 {
        let options: &[u8] = if extended {
            &[1, 148, 4, 0, 0, 1, 1, 0]
        } else {
            &[]
        };
        let head = 20 + options.len();
        let length = u16::try_from((head + body.len()).min(65535)).unwrap();
        body = &body[..body.len().min(65535 - head)];
        bytes.push(0x40 | u8::try_from(head / 4).unwrap());
        bytes.push(tos);
        bytes.extend_from_slice(&length.to_be_bytes());
        let (id, word) = match piece {
            Some((offset, more, id)) => (u16::from(id), offset | u16::from(more) << 13),
            None if shape & shape::MAY_FRAGMENT != 0 => (u16::from(id), 0),
            None => (u16::from(id), 0x4000),
        };
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(&word.to_be_bytes());
        bytes.extend_from_slice(&[ttl, protocol, 0, 0]);
        bytes.extend_from_slice(&source.v4_octets().unwrap());
        bytes.extend_from_slice(&destination.v4_octets().unwrap());
        bytes.extend_from_slice(options);
    } else {
        let mut chain = Vec::new();
        let after_options = if piece.is_some() { 44 } else { protocol };
        if extended {
            chain.extend_from_slice(&[60, 0, 1, 4, 0, 0, 0, 0]);
            chain.extend_from_slice(&[after_options, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        if let Some((offset, more, id)) = piece {
            let word = (offset << 3) | u16::from(more);
            chain.extend_from_slice(&[protocol, 0]);
            chain.extend_from_slice(&word.to_be_bytes());
            chain.extend_from_slice(&[0, 1, 0, id]);
        }
        let first = match (extended, piece.is_some()) {
            (true, _) => 0,
            (false, true) => 44,
            (false, false) => protocol,
        };
        body = &body[..body.len().min(65535 - chain.len())];
        let length = u16::try_from(chain.len() + body.len()).unwrap();
        bytes.extend_from_slice(&[0x60 | tos >> 4, tos << 4, 0xbc, 0xde]);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&[first, ttl]);
        bytes.extend_from_slice(&source.octets());
        bytes.extend_from_slice(&destination.octets());
        bytes.extend_from_slice(&chain);
    }
    bytes.extend_from_slice(body);
    bytes
}
