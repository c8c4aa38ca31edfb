//! What most packets are: one segment that no other packet sees, with nothing left to do.
//!
//! Being so is checked once, when a [`Sole`] is made; from then on its bytes can be read, written and moved within the
//! buffer without asking again, because a `Sole` hands out no view of itself.

use crate::mbuf::Mbuf;

/// A packet of one segment, exclusively ours, whose checksums are finished and which stands for no other.
#[repr(transparent)]
#[derive(Debug)]
pub struct Sole(Mbuf);

impl Sole {
    /// Takes a packet for what it is.
    ///
    /// # Errors
    /// Gives the packet back when it has more segments, is seen by another, or has work left to do.
    #[inline(always)]
    pub fn new(mbuf: Mbuf) -> Result<Self, Mbuf> {
        if mbuf.is_plain() {
            Ok(Self(mbuf))
        } else {
            Err(mbuf)
        }
    }

    /// All bytes of the packet.
    #[inline(always)]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.0.data()
    }

    /// Asks for the line that will be written first when `more` bytes take the place of the first `less`.
    #[inline(always)]
    pub fn prefetch_front(&self, less: usize, more: usize) {
        self.0.prefetch_at(less, more);
    }

    /// Takes `less` bytes off the front, adds `more` there (holding whatever was there before), cuts the packet to `len`
    /// bytes behind these, and returns all of it. `None`, and nothing done, when it is shorter than that or lacks the
    /// headroom.
    #[inline(always)]
    pub fn reframe(&mut self, less: usize, more: usize, len: usize) -> Option<&mut [u8]> {
        self.0.reframe_plain(less, more, len)
    }

    /// The packet as any other.
    #[inline(always)]
    #[must_use]
    pub fn into_mbuf(self) -> Mbuf {
        self.0
    }
}
