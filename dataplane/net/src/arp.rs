//! ARP over Ethernet for IPv4 (RFC 826).

use crate::address::Address;
use crate::ethernet::Mac;

/// Length in bytes of an Ethernet/IPv4 ARP packet, without its frame's header.
pub const LEN: usize = 28;

/// What an ARP packet asks or says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Request or reply.
    pub operation: Operation,
    /// The sender's link-layer address.
    pub sender_mac: Mac,
    /// The sender's address; `0.0.0.0` in a probe (RFC 5227).
    pub sender: Address,
    /// The target's link-layer address; without meaning in a request.
    pub target_mac: Mac,
    /// The address in question.
    pub target: Address,
}

impl Packet {
    /// Reads what follows the Ethernet header; `None` when it is too short, or not IPv4 over Ethernet,
    /// or neither request nor reply.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Packet> {
        let &[
            0,
            1,
            8,
            0,
            6,
            4,
            0,
            operation,
            a,
            b,
            c,
            d,
            e,
            f,
            s0,
            s1,
            s2,
            s3,
            g,
            h,
            i,
            j,
            k,
            l,
            t0,
            t1,
            t2,
            t3,
        ] = data.first_chunk::<LEN>()?
        else {
            return None;
        };
        Some(Packet {
            operation: match operation {
                1 => Operation::Request,
                2 => Operation::Reply,
                _ => return None,
            },
            sender_mac: Mac([a, b, c, d, e, f]),
            sender: Address::v4([s0, s1, s2, s3]),
            target_mac: Mac([g, h, i, j, k, l]),
            target: Address::v4([t0, t1, t2, t3]),
        })
    }

    /// The packet's bytes, without an Ethernet header. The addresses' IPv4 parts are written.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; LEN] {
        let operation = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        let [a, b, c, d, e, f] = self.sender_mac.0;
        let [s0, s1, s2, s3] = self.sender.v4_bits().to_be_bytes();
        let [g, h, i, j, k, l] = self.target_mac.0;
        let [t0, t1, t2, t3] = self.target.v4_bits().to_be_bytes();
        [
            0, 1, 8, 0, 6, 4, 0, operation, a, b, c, d, e, f, s0, s1, s2, s3, g, h, i, j, k, l, t0,
            t1, t2, t3,
        ]
    }

    /// The reply that says "`mac` has the address you asked for"; `None` to anything but a request.
    ///
    /// ```
    /// use net::{address::Address, arp::{Operation, Packet}, ethernet::Mac};
    /// let request = Packet {
    ///     operation: Operation::Request,
    ///     sender_mac: Mac([2, 0, 0, 0, 0, 1]), sender: Address::v4([10, 18, 0, 2]),
    ///     target_mac: Mac([0; 6]), target: Address::v4([10, 18, 0, 1]),
    /// };
    /// let reply = request.reply(Mac([2, 0, 0, 0, 0, 9])).unwrap();
    /// assert_eq!(reply.sender, Address::v4([10, 18, 0, 1]));
    /// assert_eq!(reply.target_mac, Mac([2, 0, 0, 0, 0, 1]));
    /// ```
    #[must_use]
    pub fn reply(&self, mac: Mac) -> Option<Packet> {
        (self.operation == Operation::Request).then_some(Packet {
            operation: Operation::Reply,
            sender_mac: mac,
            sender: self.target,
            target_mac: self.sender_mac,
            target: self.sender,
        })
    }
}
