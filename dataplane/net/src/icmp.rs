//! ICMP (RFC 792) and ICMPv6 (RFC 4443) message types, and what they mean to a translator.

/// Length in bytes of the part that every message has here: type, code, checksum and one word.
pub const HEADER_LEN: usize = 8;

/// ICMP message types.
pub mod v4 {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Source quench (RFC 6633: deprecated, still an error message).
    pub const SOURCE_QUENCH: u8 = 4;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// ICMPv6 message types.
pub mod v6 {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Router solicitation (RFC 4861); the first of the neighbour discovery types.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect; the last of the neighbour discovery types.
    pub const REDIRECT: u8 = 137;
}

/// What an ICMP or ICMPv6 message is to a translator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Icmp {
    /// Not ICMP at all, or a fragment that is not the first.
    #[default]
    None,
    /// Echo request; its identifier stands in both ports.
    EchoRequest,
    /// Echo reply; its identifier stands in both ports.
    EchoReply,
    /// An error about a packet, of which it quotes the beginning.
    Error {
        /// Where in L3 the quoted IP header begins.
        quoted: u16,
    },
    /// ICMPv6 neighbour discovery (RFC 4861), which never leaves its link.
    Discovery,
    /// Anything else.
    Other,
}

/// Classifies by type; `after` is the L3 offset behind the ICMP header.
#[inline]
pub(crate) const fn classify(is_v6: bool, message_type: u8, after: u16) -> Icmp {
    if is_v6 {
        match message_type {
            v6::ECHO_REQUEST => Icmp::EchoRequest,
            v6::ECHO_REPLY => Icmp::EchoReply,
            // Every type below 128 is an error (RFC 4443 section 2.1) and quotes, known or not.
            0..=127 => Icmp::Error { quoted: after },
            v6::ROUTER_SOLICITATION..=v6::REDIRECT => Icmp::Discovery,
            _ => Icmp::Other,
        }
    } else {
        match message_type {
            v4::ECHO_REQUEST => Icmp::EchoRequest,
            v4::ECHO_REPLY => Icmp::EchoReply,
            v4::UNREACHABLE
            | v4::SOURCE_QUENCH
            | v4::REDIRECT
            | v4::TIME_EXCEEDED
            | v4::PARAMETER_PROBLEM => Icmp::Error { quoted: after },
            _ => Icmp::Other,
        }
    }
}

/// The path MTU in bytes that a "fragmentation
/// needed" (RFC 1191) or "packet too big" (RFC 4443 section 3.2) reports; `None` for other messages.
/// `l4` begins with the message's type.
#[must_use]
pub fn reported_mtu(l4: &[u8], is_v6: bool) -> Option<u32> {
    let [message_type, code, _, _, a, b, c, d] = *l4.first_chunk::<HEADER_LEN>()?;
    match (is_v6, message_type, code) {
        (true, v6::PACKET_TOO_BIG, _) => Some(u32::from_be_bytes([a, b, c, d])),
        (false, v4::UNREACHABLE, 4) => Some(u32::from(u16::from_be_bytes([c, d]))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mtu_of_the_two_messages_that_have_one() {
        assert_eq!(
            reported_mtu(&[3, 4, 0, 0, 0, 0, 0x05, 0x14], false),
            Some(1300)
        );
        assert_eq!(reported_mtu(&[3, 3, 0, 0, 0, 0, 0x05, 0x14], false), None);
        assert_eq!(
            reported_mtu(&[2, 0, 0, 0, 0, 1, 0x00, 0x00], true),
            Some(65_536)
        );
        assert_eq!(reported_mtu(&[2, 0, 0], true), None);
    }

    #[test]
    fn every_type_is_classified() {
        assert_eq!(classify(true, 135, 48), Icmp::Discovery);
        assert_eq!(classify(true, 100, 48), Icmp::Error { quoted: 48 });
        assert_eq!(classify(true, 132, 48), Icmp::Other);
        assert_eq!(classify(false, 13, 28), Icmp::Other);
        assert_eq!(classify(false, 3, 28), Icmp::Error { quoted: 28 });
    }
}
