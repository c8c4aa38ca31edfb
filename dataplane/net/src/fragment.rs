//! Splitting a packet that is larger than its way, as a router (IPv4) or its sender (IPv6) does.
//!
//! A tunnel's room is less than the link's. Whoever did not forbid it (IPv4 without "don't fragment") gets a packet
//! through in pieces; what this node itself sends may be split in both families. Only headers are written here: the
//! payload is sliced where it lies.

use core::ops::Range;

use crate::checksum;
use crate::ipv4;
use crate::ipv6;
use crate::packet::{Fragment, Headers, Version};
use crate::rewrite::Misfit;

/// Length in bytes of IPv6's fragment header.
pub const HEADER_LEN_V6: usize = 8;

/// Longest IPv4 header in bytes.
const LONGEST_V4: usize = 60;

/// A plan to split one packet. Every checksum in it must be finished before: a transport checksum covers what the
/// pieces only have together.
///
/// ```
/// use net::{fragment::Plan, packet::{Fragment, Headers}};
/// # let large = { let mut p = vec![0x45, 0, 0, 68, 0, 7, 0, 0, 64, 17, 0, 0, 10, 18, 0, 2, 10, 18, 0, 3,
/// #   0, 1, 0, 2, 0, 48, 0, 0]; p.extend([9; 40]);
/// #   let sum = !net::checksum::sum(&p[..20]); p[10..12].copy_from_slice(&sum.to_be_bytes()); p };
/// // 48 bytes behind the IP header, for a way that carries 44 with it
/// let headers = Headers::parse(&large, large.len()).unwrap();
/// let plan = Plan::of_v4(&headers, &large, 44).unwrap();
/// assert_eq!((plan.count(), plan.payload(0), plan.payload(1)), (2, 20..44, 44..68));
/// let mut piece = [0; 64];
/// let len = plan.write_header(1, &large, &mut piece).unwrap();
/// piece[len..len + 24].copy_from_slice(&large[plan.payload(1)]);
/// let second = Headers::parse(&piece[..44], 44).unwrap();
/// assert_eq!(second.fragment, Fragment::Later { id: 7, offset: 24, more: false });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    version: Version,
    /// Where the payload begins and ends in the packet.
    start: usize,
    end: usize,
    /// Payload bytes of the first piece, and of each but the last that follows.
    first: usize,
    rest: usize,
    count: usize,
    /// Where the payload belongs in the whole, and whether more follow it: the packet may be a fragment already.
    offset: usize,
    more: bool,
    /// IPv6: what the pieces share.
    id: u32,
}

impl Plan {
    /// Splits an IPv4 packet, or a fragment of one further, into pieces of at most `mtu` bytes (RFC 791 section
    /// 3.2). `l3` begins with its header. `None` for IPv6, for a packet that says "don't fragment", and when `mtu` has
    /// no room for eight bytes behind the header.
    #[must_use]
    pub fn of_v4(headers: &Headers, l3: &[u8], mtu: u16) -> Option<Plan> {
        let start = usize::from(headers.l4_offset);
        let ip = ipv4::Header::of(l3)?;
        if headers.version != Version::V4 || ip.fragment_word() & ipv4::DONT_FRAGMENT != 0 {
            return None;
        }
        let mut later = [0; LONGEST_V4];
        let later_len = later_header(l3.get(..start)?, &mut later)?;
        let (offset, more) = match headers.fragment {
            Fragment::None => (0, false),
            Fragment::First { .. } => (0, true),
            Fragment::Later { offset, more, .. } => (usize::from(offset), more),
        };
        let plan = Plan {
            version: Version::V4,
            start,
            end: headers.total_len,
            first: eights(mtu, start)?,
            rest: eights(mtu, later_len)?,
            count: 0,
            offset,
            more,
            id: 0,
        };
        Some(plan.counted())
    }

    /// Splits an IPv6 packet that this node is the sender of (RFC 8200 section 4.5) into pieces of at most `mtu` bytes
    /// that share `id`. `None` for IPv4, for one with extension headers, and when `mtu` has no room for eight bytes
    /// behind the headers.
    #[must_use]
    pub fn of_own_v6(headers: &Headers, mtu: u16, id: u32) -> Option<Plan> {
        let start = usize::from(headers.l4_offset);
        if headers.version != Version::V6 || start != ipv6::HEADER_LEN {
            return None;
        }
        let size = eights(mtu, start + HEADER_LEN_V6)?;
        let plan = Plan {
            version: Version::V6,
            start,
            end: headers.total_len,
            first: size,
            rest: size,
            count: 0,
            offset: 0,
            more: false,
            id,
        };
        Some(plan.counted())
    }

    fn counted(self) -> Plan {
        let behind_first = self
            .end
            .saturating_sub(self.start)
            .saturating_sub(self.first);
        Plan {
            count: 1 + behind_first.div_ceil(self.rest),
            ..self
        }
    }

    /// How many pieces there will be; at least one.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Where in the packet (L3 offsets) piece `k`'s payload lies; empty behind the last.
    #[must_use]
    pub fn payload(&self, k: usize) -> Range<usize> {
        let (from, len) = match k.checked_sub(1) {
            None => (0, self.first),
            Some(before) => (
                self.first.saturating_add(before.saturating_mul(self.rest)),
                self.rest,
            ),
        };
        let from = self.start.saturating_add(from).min(self.end);
        from..from.saturating_add(len).min(self.end)
    }

    /// Writes the IP header of piece `k` (counted from 0) to the start of `into`; its length. `template` begins with
    /// the packet's IP header. Of IPv4's options the pieces behind the first have those that ask to be copied.
    ///
    /// # Errors
    /// [`Misfit`] when there is no piece `k`, or `template` or `into` is too short.
    pub fn write_header(
        &self,
        k: usize,
        template: &[u8],
        into: &mut [u8],
    ) -> Result<usize, Misfit> {
        if k >= self.count {
            return Err(Misfit);
        }
        let header = template.get(..self.start).ok_or(Misfit)?;
        let payload = self.payload(k);
        let at = self.offset + (payload.start - self.start);
        let more = self.more || k + 1 < self.count;
        let word = u16::try_from(at).map_err(|_| Misfit)?;
        match self.version {
            Version::V4 => {
                let len = if k == 0 {
                    into.get_mut(..self.start)
                        .ok_or(Misfit)?
                        .copy_from_slice(header);
                    self.start
                } else {
                    later_header(header, into).ok_or(Misfit)?
                };
                let bytes = into.get_mut(..len).ok_or(Misfit)?;
                let mut ip = ipv4::HeaderMut::of(bytes).ok_or(Misfit)?;
                ip.set_total_len(u16::try_from(len + payload.len()).map_err(|_| Misfit)?);
                let flags = if more { ipv4::MORE_FRAGMENTS } else { 0 };
                ip.set_fragment_word(flags | (word / 8));
                ip.set_checksum(0);
                let sum = checksum::sum(bytes);
                ipv4::HeaderMut::of(bytes).ok_or(Misfit)?.set_checksum(!sum);
                Ok(len)
            }
            Version::V6 => {
                let len = self.start + HEADER_LEN_V6;
                let (fixed, fragment) = into
                    .get_mut(..len)
                    .and_then(|bytes| bytes.split_at_mut_checked(self.start))
                    .ok_or(Misfit)?;
                fixed.copy_from_slice(header);
                let mut ip = ipv6::HeaderMut::of(fixed).ok_or(Misfit)?;
                let next = ip.get().next_header();
                ip.set_next_header(ipv6::FRAGMENT);
                ip.set_payload_len(
                    u16::try_from(HEADER_LEN_V6 + payload.len()).map_err(|_| Misfit)?,
                );
                let [high, low] = (word | u16::from(more)).to_be_bytes();
                let [a, b, c, d] = self.id.to_be_bytes();
                *fragment.first_chunk_mut().ok_or(Misfit)? = [next, 0, high, low, a, b, c, d];
                Ok(len)
            }
        }
    }
}

/// How many bytes, in whole eights, fit behind a header.
fn eights(mtu: u16, header_len: usize) -> Option<usize> {
    let room = usize::from(mtu).checked_sub(header_len)? & !7;
    (room > 0).then_some(room)
}

/// The header of a piece behind the first: of the options those with the copied flag (RFC 791 section 3.1), padded to
/// whole words. Its length; lengths, offset and checksum are still to be filled in.
fn later_header(header: &[u8], into: &mut [u8]) -> Option<usize> {
    let (fixed, options) = header.split_at_checked(ipv4::HEADER_LEN)?;
    into.get_mut(..ipv4::HEADER_LEN)?.copy_from_slice(fixed);
    let mut len = ipv4::HEADER_LEN;
    let mut rest = options;
    loop {
        rest = match rest {
            [] | [0, ..] => break,
            [1, after @ ..] => after,
            [kind, option_len, ..] if *option_len >= 2 => {
                let Some((option, after)) = rest.split_at_checked(usize::from(*option_len)) else {
                    break;
                };
                if kind & 0x80 != 0 {
                    into.get_mut(len..len + option.len())?
                        .copy_from_slice(option);
                    len += option.len();
                }
                after
            }
            _ => break,
        };
    }
    let padded = len.next_multiple_of(4);
    into.get_mut(len..padded)?.fill(0);
    *into.first_mut()? = 0x40 | u8::try_from(padded / 4).ok()?;
    Some(padded)
}
