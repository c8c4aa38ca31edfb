//! Bursts: the fixed arrays in which packets move, so that neither a heap nor a call per packet is needed.

use std::mem::MaybeUninit;
use std::ops::{Index, IndexMut};
use std::{fmt, ptr, slice};

use dpdk_sys as sys;

use crate::mbuf::Mbuf;

/// Up to `N` owned packets, in order, without heap memory. Dropping it frees them in bulk.
pub struct Burst<const N: usize = 64> {
    /// The first `len` are initialised.
    items: [MaybeUninit<Mbuf>; N],
    len: usize,
}

impl<const N: usize> Burst<N> {
    /// An empty burst.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            items: [const { MaybeUninit::uninit() }; N],
            len: 0,
        }
    }

    /// Packets in the burst.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is no room for another.
    #[inline]
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.len == N
    }

    /// How many more fit.
    #[inline]
    #[must_use]
    pub const fn room(&self) -> usize {
        N - self.len
    }

    /// Adds a packet at the end.
    ///
    /// # Errors
    /// Gives the packet back when the burst is full.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        match self.items.get_mut(self.len) {
            Some(slot) => {
                slot.write(mbuf);
                self.len += 1;
                Ok(())
            }
            None => Err(mbuf),
        }
    }

    /// Takes the last packet.
    #[inline]
    pub fn pop(&mut self) -> Option<Mbuf> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: the slot was initialised and lies outside `len` now.
        Some(unsafe { self.items[self.len].assume_init_read() })
    }

    /// Takes packet `i`; the last one moves into its place.
    ///
    /// # Panics
    /// If `i` is out of range, as for a slice.
    #[inline]
    pub fn swap_remove(&mut self, i: usize) -> Mbuf {
        let last = self.as_slice().len().saturating_sub(1);
        self.as_mut_slice().swap(i, last);
        self.len = last;
        // SAFETY: the slot was initialised and lies outside `len` now.
        unsafe { self.items[last].assume_init_read() }
    }

    /// Takes packet `i`; those behind it move up, so the order stays. `None` if out of range.
    #[inline]
    pub fn take(&mut self, i: usize) -> Option<Mbuf> {
        if i >= self.len {
            return None;
        }
        self.as_mut_slice()[i..].rotate_left(1);
        self.pop()
    }

    /// Frees all packets, in bulk.
    #[inline]
    pub fn clear(&mut self) {
        let len = std::mem::take(&mut self.len);
        if len > 0 {
            free(&mut self.items[..len]);
        }
    }

    /// Takes all packets, in order; those not taken when the iterator is dropped are freed in bulk.
    #[inline]
    pub fn drain(&mut self) -> Drain<'_> {
        let len = std::mem::take(&mut self.len);
        Drain {
            items: &mut self.items[..len],
            next: 0,
        }
    }

    /// The packets.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[Mbuf] {
        // SAFETY: the first `len` slots are initialised, and MaybeUninit<Mbuf> has Mbuf's layout.
        unsafe { slice::from_raw_parts(self.items.as_ptr().cast(), self.len) }
    }

    /// The packets, for changes.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [Mbuf] {
        // SAFETY: as in `as_slice`.
        unsafe { slice::from_raw_parts_mut(self.items.as_mut_ptr().cast(), self.len) }
    }

    /// Borrows each packet.
    #[inline]
    pub fn iter(&self) -> slice::Iter<'_, Mbuf> {
        self.as_slice().iter()
    }

    /// Borrows each packet for changes.
    #[inline]
    pub fn iter_mut(&mut self) -> slice::IterMut<'_, Mbuf> {
        self.as_mut_slice().iter_mut()
    }

    /// The free slots as C sees them.
    #[inline]
    pub(crate) fn spare(&mut self) -> *mut *mut sys::rte_mbuf {
        // SAFETY: `len <= N`.
        unsafe { self.items.as_mut_ptr().add(self.len).cast() }
    }

    /// The packets as C sees them.
    #[inline]
    pub(crate) fn raw(&mut self) -> *mut *mut sys::rte_mbuf {
        self.items.as_mut_ptr().cast()
    }

    /// Counts `n` packets that C wrote behind the end.
    ///
    /// # Safety
    /// The next `n <= room()` slots hold heads of chains that nobody else owns.
    #[inline]
    pub(crate) unsafe fn grow(&mut self, n: usize) {
        debug_assert!(n <= self.room());
        self.len += n;
    }

    /// Forgets the first `n` packets, which C took over; the rest moves to the front.
    ///
    /// # Safety
    /// C owns the first `n <= len` packets now.
    #[inline]
    pub(crate) unsafe fn forget_front(&mut self, n: usize) {
        debug_assert!(n <= self.len);
        self.len -= n;
        if self.len > 0 && n > 0 {
            // SAFETY: both ranges lie within the initialised slots; the sources are forgotten.
            unsafe {
                let front = self.items.as_mut_ptr();
                ptr::copy(front.add(n), front, self.len);
            };
        }
    }
}

/// Frees initialised slots in bulk; they are uninitialised afterwards.
#[inline]
fn free(items: &mut [MaybeUninit<Mbuf>]) {
    #[allow(clippy::cast_possible_truncation)] // An array in memory; less would leak, not harm.
    let count = items.len() as u32;
    // SAFETY: callers pass initialised slots that they forget; an Mbuf is the pointer to its chain.
    unsafe { sys::rte_pktmbuf_free_bulk(items.as_mut_ptr().cast(), count) }
}

impl<const N: usize> Default for Burst<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Drop for Burst<N> {
    #[inline]
    fn drop(&mut self) {
        self.clear();
    }
}

impl<const N: usize> Index<usize> for Burst<N> {
    type Output = Mbuf;

    #[inline]
    fn index(&self, i: usize) -> &Mbuf {
        &self.as_slice()[i]
    }
}

impl<const N: usize> IndexMut<usize> for Burst<N> {
    #[inline]
    fn index_mut(&mut self, i: usize) -> &mut Mbuf {
        &mut self.as_mut_slice()[i]
    }
}

impl<'a, const N: usize> IntoIterator for &'a Burst<N> {
    type Item = &'a Mbuf;
    type IntoIter = slice::Iter<'a, Mbuf>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, const N: usize> IntoIterator for &'a mut Burst<N> {
    type Item = &'a mut Mbuf;
    type IntoIter = slice::IterMut<'a, Mbuf>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl<const N: usize> fmt::Debug for Burst<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

/// Takes the packets out of a [`Burst`].
pub struct Drain<'a> {
    /// Initialised from `next` on; the burst counts none of them any more.
    items: &'a mut [MaybeUninit<Mbuf>],
    next: usize,
}

impl Drain<'_> {
    /// The packets that are still to come.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[Mbuf] {
        let rest = self.items.get(self.next..).unwrap_or(&[]);
        // SAFETY: initialised from `next` on, and MaybeUninit<Mbuf> has Mbuf's layout.
        unsafe { slice::from_raw_parts(rest.as_ptr().cast(), rest.len()) }
    }
}

impl Iterator for Drain<'_> {
    type Item = Mbuf;

    #[inline]
    fn next(&mut self) -> Option<Mbuf> {
        let slot = self.items.get(self.next)?;
        self.next += 1;
        // SAFETY: initialised, and behind `next` now, so read once.
        Some(unsafe { slot.assume_init_read() })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.items.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Drain<'_> {}

impl Drop for Drain<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(rest) = self.items.get_mut(self.next..)
            && !rest.is_empty()
        {
            free(rest);
        }
    }
}
