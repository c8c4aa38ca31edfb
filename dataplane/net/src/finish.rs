//! Whole transport checksums: finishing a partial one, and judging a finished one.
//!
//! Only two moments need the payload's sum: when a packet leaves by a port that cannot compute it, and
//! before packets are joined (a joined packet's checksum is made anew, which must not heal a broken
//! piece). Both read the packet through its buffers, in whatever pieces it lies.

use crate::checksum::{self, Accumulator};
use crate::packet::{Fragment, Headers, Protocol};
use crate::rewrite::{Misfit, set_word};
use crate::sctp::{CHECKSUM_OFFSET, Crc32c};

/// A transport checksum as its field holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Checksum {
    /// The Internet checksum, at this L3 offset.
    Internet {
        /// L3 offset of the field.
        at: usize,
        /// Value for the field.
        value: u16,
    },
    /// SCTP's CRC32c, at this L3 offset.
    Crc32c {
        /// L3 offset of the field.
        at: usize,
        /// The field's bytes.
        wire: [u8; 4],
    },
}

impl Checksum {
    /// Puts it in its place.
    ///
    /// # Errors
    /// [`Misfit`] when `l3` does not reach there.
    #[inline]
    pub fn write(self, l3: &mut [u8]) -> Result<(), Misfit> {
        match self {
            Checksum::Internet { at, value } => set_word(l3, at, value),
            Checksum::Crc32c { at, wire } => {
                *l3.get_mut(at..)
                    .and_then(|rest| rest.first_chunk_mut())
                    .ok_or(Misfit)? = wire;
                Ok(())
            }
        }
    }
}

/// The finished form of a partial checksum: TCP, UDP or another protocol whose field holds the sum of
/// the pseudo-header, or SCTP, whose field is ignored. `segments` are the packet's buffers in order, from
/// the first byte of L3; bytes behind the packet's end do not count.
///
/// ```
/// use net::{checksum, finish, packet::Headers};
/// let mut packet = [
///     0x45, 0, 0, 31, 0, 1, 0, 0, 64, 17, 0x66, 0x9b, 10, 18, 0, 2, 10, 30, 0, 1,
///     0x0f, 0xa0, 0, 53, 0, 11, 0, 0, b'a', b'b', b'c',
/// ];
/// let headers = Headers::parse(&packet, packet.len())?;
/// packet[26..28].copy_from_slice(&headers.pseudo_header().to_be_bytes()); // partial
/// let (first, second) = packet.split_at(29);
/// finish::partial(&headers, [first, second])?.write(&mut packet)?;
/// assert!(finish::is_right(&headers, [&packet[..]]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Misfit`] when the protocol has no such checksum, the packet is a fragment, or the buffers are short.
pub fn partial<'a>(
    headers: &Headers,
    segments: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Checksum, Misfit> {
    if headers.fragment != Fragment::None {
        return Err(Misfit);
    }
    if headers.protocol == Protocol::SCTP {
        return crc32c(headers, segments);
    }
    let at = headers.pseudo_checksum_at().ok_or(Misfit)?;
    let value = !sum(headers, segments)?;
    let value = match headers.protocol {
        Protocol::UDP | Protocol::UDP_LITE => checksum::udp_field(value),
        _ => value,
    };
    Ok(Checksum::Internet { at, value })
}

/// Whether the finished transport checksum is right. A UDP checksum of zero over IPv4 is (there is none).
/// Protocols without a checksum known here, and fragments, are not judged: `false`.
#[must_use]
pub fn is_right<'a, I>(headers: &Headers, segments: I) -> bool
where
    I: IntoIterator<Item = &'a [u8]> + Clone,
{
    if headers.fragment != Fragment::None {
        return false;
    }
    match headers.protocol {
        Protocol::SCTP => match crc32c(headers, segments.clone()) {
            Ok(Checksum::Crc32c { at, wire }) => {
                first(segments).and_then(|l3| l3.get(at..at + 4)) == Some(&wire)
            }
            _ => false,
        },
        Protocol::ICMP if headers.source.is_v4() => sum(headers, segments) == Ok(0xffff),
        _ => {
            let Some(at) = headers.pseudo_checksum_at() else {
                return false;
            };
            let field = first(segments.clone()).and_then(|l3| l3.get(at..at + 2));
            if headers.protocol == Protocol::UDP && field == Some(&[0, 0]) {
                return headers.source.is_v4();
            }
            sum(headers, segments)
                .is_ok_and(|sum| checksum::add(sum, headers.pseudo_header()) == 0xffff)
        }
    }
}

fn first<'a>(segments: impl IntoIterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    segments.into_iter().next()
}

/// Hands the packet's bytes from `from` to its end to `each`, in pieces.
fn pieces<'a>(
    headers: &Headers,
    segments: impl IntoIterator<Item = &'a [u8]>,
    mut each: impl FnMut(&'a [u8]),
) -> Result<(), Misfit> {
    let mut skip = usize::from(headers.l4_offset);
    let mut left = headers.l4_len();
    for segment in segments {
        let Some(rest) = segment.get(skip..) else {
            skip -= segment.len();
            continue;
        };
        skip = 0;
        let piece = rest.get(..left).unwrap_or(rest);
        each(piece);
        left -= piece.len();
        if left == 0 {
            return Ok(());
        }
    }
    Err(Misfit)
}

fn sum<'a>(headers: &Headers, segments: impl IntoIterator<Item = &'a [u8]>) -> Result<u16, Misfit> {
    let mut total = Accumulator::new();
    pieces(headers, segments, |piece| total.add(piece))?;
    Ok(total.sum())
}

fn crc32c<'a>(
    headers: &Headers,
    segments: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Checksum, Misfit> {
    let mut crc = Crc32c::new();
    let mut position = 0;
    pieces(headers, segments, |piece| {
        // The field itself counts as zero, wherever the pieces part.
        let before = CHECKSUM_OFFSET.saturating_sub(position).min(piece.len());
        let (head, rest) = piece.split_at_checked(before).unwrap_or((piece, &[]));
        let zeros = (CHECKSUM_OFFSET + 4)
            .saturating_sub(position + before)
            .min(rest.len());
        let (_, tail) = rest.split_at_checked(zeros).unwrap_or((rest, &[]));
        crc.add(head);
        crc.add([0u8; 4].get(..zeros).unwrap_or(&[]));
        crc.add(tail);
        position += piece.len();
    })?;
    Ok(Checksum::Crc32c {
        at: usize::from(headers.l4_offset) + CHECKSUM_OFFSET,
        wire: crc.to_wire(),
    })
}
