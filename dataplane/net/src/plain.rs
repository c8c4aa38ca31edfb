//! The common packet, read and changed in a few dozen instructions.
//!
//! Nearly all of what crosses a node is TCP or UDP directly behind an IPv4 header without options or an IPv6 header
//! without extensions, whole, with a hop to spare. [`Plain`] recognises just that and refuses everything else, so that
//! the general reading ([`Headers`](crate::packet::Headers)) and rewriting ([`rewrite`](crate::rewrite)) stay where
//! every case is told apart, and a burst of common packets never meets their branches. For what it accepts, it does to
//! the packet what the general way does.
//!
//! A family is a type here ([`V4`], [`V6`]), so that the code for IPv4 carries no 128-bit addresses about.

use crate::address::Address;
use crate::checksum::{self, Delta, add, fold};
use crate::packet::{Protocol, TcpFlags};
use crate::{ipv4, ipv6, tcp, udp};

/// TCP flags that change a connection's state: such packets are not common.
const STATE: TcpFlags = TcpFlags::SYN.with(TcpFlags::FIN).with(TcpFlags::RST);
/// A hop less, in the word that TTL and protocol share.
const ONE_HOP: Delta = Delta::u16(0x0100, 0);

/// What was read of a plain packet. All integers are in host order, lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain<F: Family> {
    /// Source and destination.
    pub addresses: F,
    /// Source port in the high half, destination port in the low.
    pub ports: u32,
    /// Length by the packet's own length field.
    pub total_len: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// DSCP and ECN.
    pub tos: u8,
}

/// The addresses of a packet of one family, and what is done by family.
pub trait Family: Copy {
    /// Length of the IP header.
    const HEADER_LEN: usize;

    /// Reads a packet of `pkt_len` bytes that begins with `l3`; `None` for all that is not plain or of another family.
    /// Whether its checksum is finished, and whether it stands for several, only the caller knows.
    fn parse(l3: &[u8], pkt_len: usize) -> Option<Plain<Self>>;

    /// The source address.
    fn source(self) -> Address;

    /// The destination address.
    fn destination(self) -> Address;

    /// Writes the new addresses, takes a hop if told to, and lets the header checksum follow. By how much the addresses'
    /// sum grows.
    fn write(self, l3: &mut [u8], new: Self, hop: bool) -> Option<Delta>;
}

/// Two IPv4 addresses: the source in the high half, the destination in the low.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4(pub u64);

/// Two IPv6 addresses: source and destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6(pub Address, pub Address);

impl V4 {
    /// From both addresses' values.
    #[inline(always)]
    #[must_use]
    pub const fn new(source: u32, destination: u32) -> Self {
        Self((source as u64) << 32 | destination as u64)
    }

    /// The source address's value.
    #[inline(always)]
    #[must_use]
    pub const fn source_bits(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The destination address's value.
    #[inline(always)]
    #[must_use]
    pub const fn destination_bits(self) -> u32 {
        (self.0 & 0xffff_ffff) as u32
    }
}

impl Family for V4 {
    const HEADER_LEN: usize = ipv4::HEADER_LEN;

    #[inline(always)]
    fn parse(l3: &[u8], pkt_len: usize) -> Option<Plain<Self>> {
        const LEN: usize = ipv4::HEADER_LEN + udp::HEADER_LEN;
        let head: &[u8; LEN] = l3.first_chunk()?;
        let bytes: &[u8; ipv4::HEADER_LEN] = head.first_chunk()?;
        let ip = ipv4::Header::of(bytes)?;
        let total_len = ip.total_len();
        // Version, length of the header, fragmentation: in one look at the words that have them.
        let first = u64::from_be_bytes(*head.first_chunk()?);
        const SHAPE: u64 =
            0xff00_0000_0000_0000 | (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) as u64;
        if first & SHAPE != 0x4500_0000_0000_0000
            || usize::from(total_len) > pkt_len
            || ip.ttl() < 2
            || ip.sum() != 0xffff
        {
            return None;
        }
        let protocol = Protocol(ip.protocol());
        let len = usize::from(total_len).checked_sub(ipv4::HEADER_LEN)?;
        let l4 = head.last_chunk::<{ udp::HEADER_LEN }>()?;
        let ports = transport(l4, l3.get(ipv4::HEADER_LEN..)?, protocol, len)?;
        let [.., a, b, c, d, e, f, g, h] = *bytes;
        Some(Plain {
            addresses: V4(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
            ports,
            total_len,
            protocol,
            tos: ip.tos(),
        })
    }

    #[inline(always)]
    fn source(self) -> Address {
        Address::from_v4_bits(self.source_bits())
    }

    #[inline(always)]
    fn destination(self) -> Address {
        Address::from_v4_bits(self.destination_bits())
    }

    #[inline(always)]
    fn write(self, l3: &mut [u8], new: Self, hop: bool) -> Option<Delta> {
        let ip: &mut [u8; ipv4::HEADER_LEN] = l3.first_chunk_mut()?;
        // One fold for all four, where a difference for each address would take four.
        let gone = !self.0;
        let delta = Delta::from_bits(fold(
            (gone >> 32) + (gone & 0xffff_ffff) + (new.0 >> 32) + (new.0 & 0xffff_ffff),
        ));
        let mut header = delta;
        if hop {
            ip[8] = ip[8].wrapping_sub(1);
            header = header.and(ONE_HOP);
        }
        let sum = header.finished(word(ip[10], ip[11]));
        [ip[10], ip[11]] = sum.to_be_bytes();
        *ip.last_chunk_mut::<8>()? = new.0.to_be_bytes();
        Some(delta)
    }
}

impl Family for V6 {
    const HEADER_LEN: usize = ipv6::HEADER_LEN;

    #[inline(always)]
    fn parse(l3: &[u8], pkt_len: usize) -> Option<Plain<Self>> {
        let (bytes, l4) = l3.split_first_chunk::<{ ipv6::HEADER_LEN }>()?;
        let ip = ipv6::Header::of(bytes)?;
        let len = usize::from(ip.payload_len());
        let total_len = u16::try_from(len + ipv6::HEADER_LEN).ok()?;
        let (source, destination) = (ip.source(), ip.destination());
        if bytes[0] >> 4 != 6
            || usize::from(total_len) > pkt_len
            || ip.hop_limit() < 2
            || source.is_v4()
            || destination.is_v4()
        {
            return None;
        }
        let protocol = Protocol(ip.next_header());
        let ports = transport(l4.first_chunk()?, l4, protocol, len)?;
        Some(Plain {
            addresses: V6(source, destination),
            ports,
            total_len,
            protocol,
            tos: ip.traffic_class(),
        })
    }

    #[inline(always)]
    fn source(self) -> Address {
        self.0
    }

    #[inline(always)]
    fn destination(self) -> Address {
        self.1
    }

    #[inline(always)]
    fn write(self, l3: &mut [u8], new: Self, hop: bool) -> Option<Delta> {
        let ip: &mut [u8; ipv6::HEADER_LEN] = l3.first_chunk_mut()?;
        if hop {
            ip[7] = ip[7].wrapping_sub(1);
        }
        let sum = |addresses: Self| {
            add(
                checksum::address(addresses.0),
                checksum::address(addresses.1),
            )
        };
        let (from, to) = ip.last_chunk_mut::<32>()?.split_first_chunk_mut::<16>()?;
        *from = new.0.octets();
        *to.first_chunk_mut()? = new.1.octets();
        Some(Delta::u16(sum(self), sum(new)))
    }
}

#[inline(always)]
const fn word(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

/// The ports of the transport header at the start of `l4`, whose first bytes are `head`, and of which the packet says
/// that it has `len` bytes.
#[inline(always)]
fn transport(
    head: &[u8; udp::HEADER_LEN],
    l4: &[u8],
    protocol: Protocol,
    len: usize,
) -> Option<u32> {
    let &[a, b, c, d, e, f, _, _] = head;
    match protocol {
        Protocol::UDP => {
            let claimed = usize::from(word(e, f));
            if claimed < udp::HEADER_LEN || claimed > len {
                return None;
            }
        }
        Protocol::TCP => {
            let header: &[u8; tcp::HEADER_LEN] = l4.first_chunk()?;
            let header_len = usize::from(header[12] >> 4) * 4;
            let bad = header_len < tcp::HEADER_LEN || header_len > len || header_len > l4.len();
            if bad || TcpFlags(header[13]).any(STATE) {
                return None;
            }
        }
        _ => return None,
    }
    Some(u32::from_be_bytes([a, b, c, d]))
}

impl<F: Family> Plain<F> {
    /// Gives the packet new addresses and takes a hop from it; every checksum follows. `l3` must be the packet that was
    /// read; false, and the packet perhaps changed in part, when it is shorter.
    #[inline(always)]
    pub fn forward(&self, l3: &mut [u8], new: F) -> bool {
        self.change(l3, new, true).is_some()
    }

    /// Gives the packet new addresses and takes no hop; every checksum follows. As [`Plain::forward`] otherwise.
    #[inline(always)]
    pub fn deliver(&self, l3: &mut [u8], new: F) -> bool {
        self.change(l3, new, false).is_some()
    }

    #[inline(always)]
    fn change(&self, l3: &mut [u8], new: F, hop: bool) -> Option<()> {
        let delta = self.addresses.write(l3, new, hop)?;
        if self.protocol == Protocol::TCP {
            let field = l3.get_mut(F::HEADER_LEN + 16..)?.first_chunk_mut::<2>()?;
            *field = delta.finished(u16::from_be_bytes(*field)).to_be_bytes();
        } else {
            // A UDP datagram without a checksum stays without.
            let field = l3.get_mut(F::HEADER_LEN + 6..)?.first_chunk_mut::<2>()?;
            *field = delta.finished_udp(u16::from_be_bytes(*field)).to_be_bytes();
        }
        Some(())
    }
}
