//! Cutting a large packet into those that fit, as a NIC would (TSO, USO).
//!
//! Containers and the kernel hand over TCP packets of up to 64 KB; an uplink without segmentation needs
//! them in pieces. Only headers are written here: the payload is sliced where it lies.

use core::ops::Range;

use crate::checksum;
use crate::ipv4;
use crate::ipv6;
use crate::packet::{Fragment, Headers, Protocol, Version};
use crate::rewrite::{L4State, Misfit, set_word};
use crate::tcp;

/// How a segment's transport checksum is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sum {
    /// Finished, given the sum of the segment's payload
    /// (see [`Accumulator`](crate::checksum::Accumulator)).
    Payload(u16),
    /// Partial: the port that sends it finishes it.
    Pseudo,
}

impl Sum {
    /// The state that the segment's checksum field is in.
    #[must_use]
    pub const fn state(self) -> L4State {
        match self {
            Sum::Payload(_) => L4State::Finished,
            Sum::Pseudo => L4State::Partial,
        }
    }
}

/// A plan to cut one TCP or UDP packet.
///
/// ```
/// use net::{packet::Headers, segment::{Plan, Sum}};
/// # let large = { let mut p = vec![0x45, 0, 0, 48, 0, 7, 0x40, 0, 64, 17, 0, 0, 10, 18, 0, 2, 10, 18, 0, 3,
/// #   0, 1, 0, 2, 0, 28, 0, 0]; p.extend([9; 20]);
/// #   let sum = !net::checksum::sum(&p[..20]); p[10..12].copy_from_slice(&sum.to_be_bytes()); p };
/// // 20 bytes of UDP payload, to be sent 8 at a time
/// let headers = Headers::parse(&large, large.len()).unwrap();
/// let plan = Plan::new(&headers, 8).unwrap();
/// assert_eq!(plan.count(), 3);
/// let mut segment = [0; 64];
/// let len = plan.write_header(2, &large, &mut segment, Sum::Pseudo).unwrap();
/// assert_eq!((len, plan.payload(2)), (28, 44..48));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    headers: Headers,
    size: usize,
    count: usize,
}

impl Plan {
    /// Cuts the packet into segments with `size` bytes of payload, the last one what is left. `None`
    /// when it is neither TCP nor UDP, is a fragment, or `size` is zero. TCP with SYN, RST or URG is
    /// not cut either: what they mean belongs to one place in the stream.
    #[must_use]
    pub fn new(headers: &Headers, size: u16) -> Option<Plan> {
        let whole = headers.fragment == Fragment::None;
        let singular = tcp::Flags::SYN.with(tcp::Flags::RST).with(tcp::Flags::URG);
        let plain = match headers.protocol {
            Protocol::TCP => !headers.tcp_flags.any(singular),
            Protocol::UDP => true,
            _ => false,
        };
        if !whole || !plain || size == 0 {
            return None;
        }
        let size = usize::from(size);
        Some(Plan {
            headers: *headers,
            size,
            count: headers.payload_len().div_ceil(size).max(1),
        })
    }

    /// How many segments there will be; at least one.
    #[inline]
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Where in the large packet (L3 offsets) segment `k`'s payload lies; empty behind the last.
    #[inline]
    #[must_use]
    pub fn payload(&self, k: usize) -> Range<usize> {
        let (start, end) = (usize::from(self.headers.header_len), self.headers.total_len);
        let from = start.saturating_add(k.saturating_mul(self.size)).min(end);
        from..from.saturating_add(self.size).min(end)
    }

    /// Writes the header of segment `k` (counted from 0) to the start of `into`; its length, that of the
    /// large packet's header. `template` begins with that header, whose checksum field does not matter.
    ///
    /// IPv4's identification counts up from the large packet's; FIN and PSH go with the last segment,
    /// CWR with the first (RFC 3168 section 6.1.2).
    ///
    /// # Errors
    /// [`Misfit`] when there is no segment `k`, or `template` or `into` is too short.
    #[inline]
    pub fn write_header(
        &self,
        k: usize,
        template: &[u8],
        into: &mut [u8],
        sum: Sum,
    ) -> Result<usize, Misfit> {
        if k >= self.count {
            return Err(Misfit);
        }
        let headers = &self.headers;
        let header_len = usize::from(headers.header_len);
        let header = into.get_mut(..header_len).ok_or(Misfit)?;
        header.copy_from_slice(template.get(..header_len).ok_or(Misfit)?);
        let total_len = header_len + self.payload(k).len();
        set_lengths(header, headers, total_len, k)?;
        let (l4_offset, last) = (usize::from(headers.l4_offset), k + 1 == self.count);
        if headers.protocol == Protocol::TCP {
            let mut tcp =
                tcp::HeaderMut::of(header.get_mut(l4_offset..).ok_or(Misfit)?).ok_or(Misfit)?;
            let advance = u32::try_from(k * self.size).map_err(|_| Misfit)?;
            tcp.set_sequence(tcp.get().sequence().wrapping_add(advance));
            let mut flags = headers.tcp_flags;
            if !last {
                flags = flags.without(tcp::Flags::FIN.with(tcp::Flags::PSH));
            }
            if k > 0 {
                flags = flags.without(tcp::Flags::CWR);
            }
            tcp.set_flags(flags);
        }
        set_transport_checksum(header, headers, total_len, sum)?;
        Ok(header_len)
    }
}

/// Gives a header new lengths, and IPv4's identification `ids` more.
pub(crate) fn set_lengths(
    header: &mut [u8],
    headers: &Headers,
    total_len: usize,
    ids: usize,
) -> Result<(), Misfit> {
    match headers.version {
        Version::V4 => {
            let header_len = usize::from(headers.l4_offset);
            let mut ip = ipv4::HeaderMut::of(header).ok_or(Misfit)?;
            let id = ip.get().id();
            ip.set_total_len(u16::try_from(total_len).map_err(|_| Misfit)?);
            let [.., high, low] = ids.to_be_bytes();
            ip.set_id(id.wrapping_add(u16::from_be_bytes([high, low])));
            ip.set_checksum(0);
            let sum = checksum::sum(header.get(..header_len).ok_or(Misfit)?);
            ipv4::HeaderMut::of(header)
                .ok_or(Misfit)?
                .set_checksum(!sum);
        }
        Version::V6 => {
            let payload_len = u16::try_from(total_len - ipv6::HEADER_LEN).map_err(|_| Misfit)?;
            ipv6::HeaderMut::of(header)
                .ok_or(Misfit)?
                .set_payload_len(payload_len);
        }
    }
    if headers.protocol == Protocol::UDP {
        let l4_offset = usize::from(headers.l4_offset);
        set_word(
            header,
            l4_offset + 4,
            u16::try_from(total_len - l4_offset).map_err(|_| Misfit)?,
        )?;
    }
    Ok(())
}

/// Writes a new transport checksum into a whole TCP or UDP header.
pub(crate) fn set_transport_checksum(
    header: &mut [u8],
    headers: &Headers,
    total_len: usize,
    sum: Sum,
) -> Result<(), Misfit> {
    let at = headers.pseudo_checksum_at().ok_or(Misfit)?;
    let l4_offset = usize::from(headers.l4_offset);
    let length = total_len - l4_offset;
    let pseudo = checksum::pseudo_header(
        headers.source,
        headers.destination,
        headers.protocol.0,
        length,
    );
    let value = match sum {
        Sum::Pseudo => pseudo,
        Sum::Payload(payload) => {
            set_word(header, at, 0)?;
            let transport = header
                .get(l4_offset..usize::from(headers.header_len))
                .ok_or(Misfit)?;
            let value = !checksum::add(checksum::add(pseudo, payload), checksum::sum(transport));
            if headers.protocol == Protocol::UDP {
                checksum::udp_field(value)
            } else {
                value
            }
        }
    };
    set_word(header, at, value)
}
