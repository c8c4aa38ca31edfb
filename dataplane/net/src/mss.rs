//! Lowering the maximum segment size that TCP announces.
//!
//! A tunnel's room is less than the link's, and not every sender listens to "packet too big"; a segment
//! size that fits from the start spares the round trip.

use crate::checksum::Delta;
use crate::packet::{Headers, Protocol, TcpFlags};
use crate::rewrite::{L4State, Misfit, set_word, update_checksum};

/// Lowers the maximum segment size that a SYN announces to at most `limit` bytes (RFC 9293 section
/// 3.7.1), so that segments fit the tunnel. The size announced before, when it was lowered; `None` when
/// there was nothing to do: no SYN, no such option, small enough already.
///
/// # Errors
/// [`Misfit`] when `l3` does not hold the TCP header that the headers describe.
#[inline]
pub fn clamp(
    l3: &mut [u8],
    headers: &Headers,
    limit: u16,
    state: L4State,
) -> Result<Option<u16>, Misfit> {
    if !headers.tcp_flags.any(TcpFlags::SYN) {
        return Ok(None);
    }
    clamp_syn(l3, headers, limit, state)
}

#[cold]
fn clamp_syn(
    l3: &mut [u8],
    headers: &Headers,
    limit: u16,
    state: L4State,
) -> Result<Option<u16>, Misfit> {
    let l4 = usize::from(headers.l4_offset);
    let end = usize::from(headers.header_len);
    let mut at = l4 + crate::tcp::HEADER_LEN;
    while at + 4 <= end {
        let &[kind, len, high, low] = l3
            .get(at..)
            .and_then(|rest| rest.first_chunk::<4>())
            .ok_or(Misfit)?;
        match (kind, len) {
            (0, _) => break,
            (1, _) => at += 1,
            (2, 4) => {
                let old = u16::from_be_bytes([high, low]);
                if old <= limit {
                    return Ok(None);
                }
                set_word(l3, at + 2, limit)?;
                let mut delta = Delta::u16(old, limit);
                if (at - l4) % 2 == 1 {
                    delta = delta.at_odd_offset();
                }
                // A partial field holds the pseudo-header alone: options are added when it is finished.
                if state == L4State::Finished {
                    update_checksum(l3, l4 + 16, Protocol::TCP, state, delta)?;
                }
                return Ok(Some(old));
            }
            (_, 0 | 1) => break,
            (_, len) => at += usize::from(len),
        }
    }
    Ok(None)
}
