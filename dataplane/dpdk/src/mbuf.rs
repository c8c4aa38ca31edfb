//! Mbufs: packets in pool memory, owned like a `Box`.
//!
//! An [`Mbuf`] owns a chain of segments. A segment's bytes may be shared with other mbufs (an indirect
//! segment points into another's buffer), so bytes can be written only where this mbuf is the only one
//! that sees them; everything else can be read. Cutting and chaining change headers, never bytes.
//!
//! # Why this is sound
//!
//! The header of every segment of the chain belongs to the one `Mbuf` that owns the chain: C code and we
//! touch it only through raw pointers, and a `&self`/`&mut self` of the `Mbuf` stands for it. The buffer
//! behind a segment is written only when the segment is *exclusive*: direct (its own buffer), with a
//! reference count of 1, so no indirect segment points into it. The count falls with release order when
//! another thread drops its view, and is read here with acquire order. Only [`Mbuf::slice`] raises it, and
//! it borrows the mbuf, so it cannot run during a `&mut` borrow of the bytes.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use dpdk_sys as sys;

use crate::mempool::Mempool;
use crate::offload::{self, Landed, Offload};
use crate::prefetch;
use crate::tag;

/// Flags that say whose buffer a segment points to.
const FOREIGN: u64 = sys::RTE_MBUF_F_INDIRECT | sys::RTE_MBUF_F_EXTERNAL;
/// Views of one buffer at a time. DPDK's counter is 16 bits wide and does not check; what is left above
/// covers threads that pass this check together.
const MAX_VIEWS: u16 = 60_000;

/// A packet: owns its whole chain of segments, freed on drop (from any thread).
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: the chain's headers have one owner; buffers shared with other mbufs are only read, and their
// reference counts are atomic (RTE_MBUF_REFCNT_ATOMIC). Freeing on a thread without an lcore bypasses
// the per-lcore caches and goes to the pool's multi-producer ring.
unsafe impl Send for Mbuf {}

/// A segment of a chain, by raw pointer; the short accessors that everything below is written in.
///
/// Invariant: points to the header of a live segment whose chain is owned (or borrowed) by the caller.
#[derive(Clone, Copy)]
struct Seg(NonNull<sys::rte_mbuf>);

macro_rules! field {
    ($seg:expr, $name:ident) => {
        // SAFETY: the invariant of `Seg`: the header is live and no one else accesses it.
        unsafe { (*$seg.0.as_ptr()).$name }
    };
}

macro_rules! set_field {
    ($seg:expr, $name:ident, $value:expr) => {{
        let value = $value;
        // SAFETY: the invariant of `Seg`; callers hold the chain by `&mut`.
        unsafe { (*$seg.0.as_ptr()).$name = value }
    }};
}

/// A length within a segment, which has at most 65535 bytes.
#[inline]
#[allow(clippy::cast_possible_truncation)]
fn narrow(n: usize) -> u16 {
    debug_assert!(u16::try_from(n).is_ok());
    n as u16
}

impl Seg {
    #[inline]
    fn len(self) -> usize {
        usize::from(field!(self, data_len))
    }

    #[inline]
    fn offset(self) -> usize {
        usize::from(field!(self, data_off))
    }

    #[inline]
    fn next(self) -> Option<Seg> {
        NonNull::new(field!(self, next)).map(Seg)
    }

    #[inline]
    fn last(self) -> Seg {
        let mut seg = self;
        while let Some(next) = seg.next() {
            seg = next;
        }
        seg
    }

    /// Whether this segment alone sees its buffer, so that it may write there.
    #[inline]
    fn exclusive(self) -> bool {
        // SAFETY: the header is live, and other threads access this field only atomically.
        let count = unsafe { AtomicU16::from_ptr(&raw mut (*self.0.as_ptr()).refcnt) };
        field!(self, ol_flags) & FOREIGN == 0 && count.load(Ordering::Acquire) == 1
    }

    /// How many segments see the buffer, this one included.
    fn views(self) -> u16 {
        let flags = field!(self, ol_flags);
        let counter = if flags & sys::RTE_MBUF_F_EXTERNAL != 0 {
            let shared = field!(self, shinfo);
            // SAFETY: a segment with an external buffer has its shared information in place.
            unsafe { &raw mut (*shared).refcnt }
        } else if flags & sys::RTE_MBUF_F_INDIRECT != 0 {
            let behind = usize::from(field!(self, priv_size)) + size_of::<sys::rte_mbuf>();
            let buffer = field!(self, buf_addr).cast::<u8>();
            // SAFETY: the buffer of an indirect segment lies behind the header (and private area) of the
            // direct mbuf that it belongs to, which lives as long as it is referred to (rte_mbuf_from_indirect).
            unsafe { &raw mut (*buffer.sub(behind).cast::<sys::rte_mbuf>()).refcnt }
        } else {
            // SAFETY: the header is live.
            unsafe { &raw mut (*self.0.as_ptr()).refcnt }
        };
        // SAFETY: live as argued above; other threads access it only atomically.
        unsafe { AtomicU16::from_ptr(counter) }.load(Ordering::Relaxed)
    }

    #[inline]
    fn start(self) -> *mut u8 {
        let buffer = field!(self, buf_addr).cast::<u8>();
        // SAFETY: DPDK and this module keep data_off within the buffer.
        unsafe { buffer.add(self.offset()) }
    }

    #[inline]
    fn bytes<'a>(self) -> &'a [u8] {
        // SAFETY: data_off + data_len lie within the buffer, pool memory is initialised (it comes zeroed
        // from the kernel), and nobody writes it while the caller's borrow of the chain lasts.
        unsafe { slice::from_raw_parts(self.start(), self.len()) }
    }

    #[inline]
    fn tailroom(self) -> usize {
        usize::from(field!(self, buf_len)) - self.offset() - self.len()
    }

    /// Drops `n` bytes at the front; `n` must not exceed the segment's length.
    #[inline]
    fn skip(self, n: usize) {
        debug_assert!(n <= self.len());
        set_field!(self, data_off, field!(self, data_off) + narrow(n));
        set_field!(self, data_len, field!(self, data_len) - narrow(n));
    }
}

impl Mbuf {
    /// Takes over a chain.
    ///
    /// # Safety
    /// `raw` is the well-formed head of a chain that nobody else owns.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: NonNull<sys::rte_mbuf>) -> Self {
        Self(raw)
    }

    #[inline]
    pub(crate) fn into_raw(self) -> NonNull<sys::rte_mbuf> {
        let raw = self.0;
        std::mem::forget(self);
        raw
    }

    #[inline]
    fn head(&self) -> Seg {
        Seg(self.0)
    }

    fn walk(&self) -> impl Iterator<Item = Seg> {
        std::iter::successors(Some(self.head()), |seg| seg.next())
    }

    #[inline]
    fn set_pkt_len(&mut self, n: usize) {
        debug_assert!(u32::try_from(n).is_ok());
        #[allow(clippy::cast_possible_truncation)] // At most 65535 segments of 65535 bytes.
        let len = n as u32;
        set_field!(self.head(), pkt_len, len);
    }

    /// Bytes in all segments.
    #[inline]
    #[must_use]
    pub fn pkt_len(&self) -> usize {
        field!(self.head(), pkt_len) as usize
    }

    /// Segments in the chain, at least 1.
    #[inline]
    #[must_use]
    pub fn segment_count(&self) -> usize {
        usize::from(field!(self.head(), nb_segs))
    }

    /// The first segment's bytes.
    #[inline]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.head().bytes()
    }

    /// The first segment's bytes for writing; empty when others see them too (see [`Mbuf::pull_up`]).
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let head = self.head();
        if !head.exclusive() {
            return &mut [];
        }
        // SAFETY: as in `bytes`; the segment is exclusive and `self` is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(head.start(), head.len()) }
    }

    /// Asks for the first bytes, where headers are. Reads the mbuf's own header.
    #[inline]
    pub fn prefetch_data(&self) {
        prefetch::line(self.head().start());
    }

    /// Asks for the line that lies `back` bytes before the byte at `offset`.
    #[inline(always)]
    pub(crate) fn prefetch_at(&self, offset: usize, back: usize) {
        prefetch::line(self.head().start().wrapping_add(offset).wrapping_sub(back));
    }

    /// One segment that no other packet sees, with nothing left to do: what most packets are.
    #[inline]
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let head = self.head();
        field!(head, ol_flags) & offload::REQUESTS == 0
            && field!(head, nb_segs) == 1
            && head.exclusive()
    }

    /// The bytes of each segment in order; some may be empty.
    #[inline]
    #[must_use]
    pub fn segments(&self) -> Segments<'_> {
        Segments {
            next: Some(self.head()),
            mbuf: PhantomData,
        }
    }

    /// Free bytes in front of the first segment; 0 when it is shared.
    #[inline]
    #[must_use]
    pub fn headroom(&self) -> usize {
        let head = self.head();
        if head.exclusive() { head.offset() } else { 0 }
    }

    /// Free bytes behind the last segment; 0 when it is shared.
    #[inline]
    #[must_use]
    pub fn tailroom(&self) -> usize {
        let last = self.head().last();
        if last.exclusive() { last.tailroom() } else { 0 }
    }

    /// Adds `n` bytes in front of the first segment and returns them, holding whatever was there before.
    /// `None` without the headroom.
    #[inline]
    pub fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        let head = self.head();
        let len = u16::try_from(n).ok()?;
        if self.headroom() < n {
            return None;
        }
        set_field!(head, data_off, field!(head, data_off) - len);
        set_field!(head, data_len, field!(head, data_len) + len);
        self.set_pkt_len(self.pkt_len() + n);
        // SAFETY: the bytes lie within the buffer; the segment is exclusive (headroom is 0 otherwise) and
        // `self` is borrowed mutably.
        Some(unsafe { slice::from_raw_parts_mut(head.start(), n) })
    }

    /// [`Sole::reframe`](crate::Sole::reframe); the packet must be plain.
    #[inline(always)]
    pub(crate) fn reframe_plain(
        &mut self,
        less: usize,
        more: usize,
        len: usize,
    ) -> Option<&mut [u8]> {
        debug_assert!(self.is_plain());
        let head = self.head();
        let (offset, had) = (head.offset(), head.len());
        let start = (offset + less).checked_sub(more)?;
        if had < less + len {
            return None;
        }
        let new = more + len;
        set_field!(head, data_off, narrow(start));
        set_field!(head, data_len, narrow(new));
        self.set_pkt_len(new);
        // SAFETY: from the headroom to within what was data; `Sole` holds packets of one exclusive segment only, and
        // `self` is borrowed mutably.
        Some(unsafe { slice::from_raw_parts_mut(head.start(), new) })
    }

    /// Adds `n` bytes behind the last segment and returns them, holding whatever was there before.
    /// `None` without the tailroom.
    #[inline]
    pub fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        let last = self.head().last();
        let len = u16::try_from(n).ok()?;
        if !last.exclusive() || last.tailroom() < n {
            return None;
        }
        // SAFETY: the bytes lie within the buffer's tailroom.
        let start = unsafe { last.start().add(last.len()) };
        set_field!(last, data_len, field!(last, data_len) + len);
        self.set_pkt_len(self.pkt_len() + n);
        // SAFETY: as above; the segment is exclusive and `self` is borrowed mutably.
        Some(unsafe { slice::from_raw_parts_mut(start, n) })
    }

    /// Copies `bytes` behind the last segment; false, and nothing done, without the tailroom.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> bool {
        match self.append(bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }

    /// Drops `n` bytes at the front, across segments. The first segment stays, maybe empty, with its
    /// headroom; further ones that become empty are freed. False, and nothing done, if `n > pkt_len`.
    #[inline]
    pub fn advance(&mut self, n: usize) -> bool {
        let total = self.pkt_len();
        if n > total {
            return false;
        }
        let head = self.head();
        let here = n.min(head.len());
        head.skip(here);
        if here < n {
            self.skip_behind_head(n - here);
        }
        self.set_pkt_len(total - n);
        true
    }

    /// The rest of [`Mbuf::advance`] where the first segment did not hold all; `n <= ` bytes behind it.
    fn skip_behind_head(&mut self, mut n: usize) {
        let head = self.head();
        while n > 0
            && let Some(seg) = head.next()
        {
            let here = n.min(seg.len());
            seg.skip(here);
            n -= here;
            if seg.len() == 0 {
                set_field!(head, next, field!(seg, next));
                set_field!(head, nb_segs, field!(head, nb_segs) - 1);
                // SAFETY: the segment is unlinked, so it is no longer part of any chain.
                unsafe { sys::dpdk_mbuf_free_seg(seg.0.as_ptr()) };
            }
        }
    }

    /// Keeps the first `len` bytes and frees the segments behind them. Nothing happens if the packet is
    /// not longer.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.pkt_len() {
            return;
        }
        let mut seg = self.head();
        let mut left = len;
        let mut kept = 1;
        while left > seg.len()
            && let Some(next) = seg.next()
        {
            left -= seg.len();
            seg = next;
            kept += 1;
        }
        set_field!(seg, data_len, narrow(left));
        if let Some(rest) = seg.next() {
            set_field!(seg, next, ptr::null_mut());
            set_field!(self.head(), nb_segs, kept);
            // SAFETY: cut off, the rest is a chain of its own that nobody owns; freeing walks `next` only.
            unsafe { sys::dpdk_mbuf_free(rest.0.as_ptr()) };
        }
        self.set_pkt_len(len);
    }

    /// Chains `tail` behind this packet without copying. The result keeps this packet's offload and tag.
    ///
    /// # Errors
    /// Gives `tail` back when the chain would exceed DPDK's 65535 segments.
    #[inline]
    pub fn push_segment(&mut self, tail: Mbuf) -> Result<(), Mbuf> {
        let head = self.head();
        let Some(segments) = field!(head, nb_segs).checked_add(field!(tail.head(), nb_segs)) else {
            return Err(tail);
        };
        let total = self.pkt_len() + tail.pkt_len();
        let tail = Seg(tail.into_raw());
        set_field!(head.last(), next, tail.0.as_ptr());
        set_field!(head, nb_segs, segments);
        self.set_pkt_len(total);
        // What makes an mbuf a segment in DPDK's checks; the length of all counts in the head only.
        set_field!(tail, pkt_len, u32::from(field!(tail, data_len)));
        Ok(())
    }

    /// A view of `len` bytes from `offset`, sharing them: indirect mbufs out of `pool`. While it lives,
    /// neither this packet nor the view can write those segments. The view has no offload and no tag.
    /// `None` if the range is not within the packet or the pool is empty.
    #[must_use]
    pub fn slice(&self, pool: &Mempool, offset: usize, len: usize) -> Option<Mbuf> {
        if offset.checked_add(len)? > self.pkt_len() {
            return None;
        }
        let mut skip = offset;
        let mut left = len;
        let mut view: Option<Mbuf> = None;
        for seg in self.walk() {
            if left == 0 {
                break;
            }
            if skip >= seg.len() {
                skip -= seg.len();
                continue;
            }
            let take = left.min(seg.len() - skip);
            let piece = seg.share(pool, skip, take)?;
            match &mut view {
                None => view = Some(piece),
                Some(view) => view.push_segment(piece).ok()?,
            }
            left -= take;
            skip = 0;
        }
        view.or_else(|| pool.alloc())
    }

    /// Makes the first `n` bytes contiguous and writable in the first segment, copying what is not yet
    /// there. Room comes from the segment itself or from a fresh mbuf of the same pool. False, and the
    /// packet's bytes unchanged, if `n > pkt_len`, `n` exceeds an mbuf, or the pool is empty.
    #[inline]
    pub fn pull_up(&mut self, n: usize) -> bool {
        let head = self.head();
        if n <= head.len() && head.exclusive() {
            return true;
        }
        n <= self.pkt_len() && field!(head, nb_segs) < u16::MAX && self.pull_up_by_copy(n)
    }

    fn pull_up_by_copy(&mut self, n: usize) -> bool {
        let head = self.head();
        if head.exclusive() {
            let missing = n - head.len();
            let tailroom = head.tailroom();
            if missing > tailroom {
                let shift = missing - tailroom;
                if shift > head.offset() {
                    return false;
                }
                // SAFETY: both ranges lie within the exclusive segment's buffer: the data moves `shift`
                // bytes into the headroom.
                unsafe { ptr::copy(head.start(), head.start().sub(shift), head.len()) };
                set_field!(head, data_off, field!(head, data_off) - narrow(shift));
            }
            // SAFETY: `missing` bytes of the exclusive segment's tailroom.
            let room = unsafe { slice::from_raw_parts_mut(head.start().add(head.len()), missing) };
            self.copy_out(head.len(), room);
            self.skip_behind_head(missing);
            set_field!(head, data_len, narrow(n));
            return true;
        }
        let pool = field!(head, pool);
        // SAFETY: a live segment names the live pool that it came from.
        let fresh = unsafe { Mempool::alloc_from(pool) };
        let Some(mut fresh) = fresh else { return false };
        let seg = fresh.head();
        if n > seg.tailroom() {
            // Headers in front of the data are welcome, but not at the price of failing.
            if n > usize::from(field!(seg, buf_len)) {
                return false;
            }
            set_field!(seg, data_off, field!(seg, buf_len) - narrow(n));
        }
        let Some(room) = fresh.append(n) else {
            return false;
        };
        if !self.copy_out(0, room) {
            return false;
        }
        fresh.take_metadata(self);
        self.advance(n);
        let rest = std::mem::replace(self, fresh);
        if rest.pkt_len() == 0 {
            return true;
        }
        // The emptied head of the old chain goes, unless it still holds bytes.
        if rest.head().len() > 0 {
            return self.push_segment(rest).is_ok();
        }
        let total = rest.pkt_len();
        let count = field!(rest.head(), nb_segs);
        let old = rest.head();
        let Some(tail) = old.next() else { return true };
        set_field!(old, next, ptr::null_mut());
        set_field!(old, nb_segs, 1);
        set_field!(old, pkt_len, 0);
        drop(rest);
        set_field!(tail, nb_segs, count - 1);
        // SAFETY: the segments behind the old head, now a chain of their own; the head's fields are set next.
        let mut tail = unsafe { Mbuf::from_raw(tail.0) };
        tail.set_pkt_len(total);
        self.push_segment(tail).is_ok()
    }

    /// Copies what describes the packet rather than a segment.
    fn take_metadata(&mut self, from: &Mbuf) {
        let (seg, old) = (self.head(), from.head());
        set_field!(seg, ol_flags, field!(old, ol_flags) & !FOREIGN);
        set_field!(seg, port, field!(old, port));
        set_field!(seg, vlan_tci, field!(old, vlan_tci));
        set_field!(seg, vlan_tci_outer, field!(old, vlan_tci_outer));
        set_field!(seg, timesync, field!(old, timesync));
        set_field!(seg, dynfield1, field!(old, dynfield1));
        set_field!(seg, __bindgen_anon_1, field!(old, __bindgen_anon_1));
        set_field!(seg, __bindgen_anon_2, field!(old, __bindgen_anon_2));
        set_field!(seg, __bindgen_anon_3, field!(old, __bindgen_anon_3));
    }

    /// Copies `into.len()` bytes from `offset` on, across segments; false, and nothing copied, if the
    /// packet does not have them.
    #[inline]
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) -> bool {
        if offset
            .checked_add(into.len())
            .is_none_or(|end| end > self.pkt_len())
        {
            return false;
        }
        let mut skip = offset;
        let mut into = into;
        for bytes in self.segments() {
            if into.is_empty() {
                break;
            }
            let Some(bytes) = bytes.get(skip..) else {
                skip -= bytes.len();
                continue;
            };
            skip = 0;
            let (now, later) = into.split_at_mut(bytes.len().min(into.len()));
            now.copy_from_slice(&bytes[..now.len()]);
            into = later;
        }
        into.is_empty()
    }

    /// The room of a single-segment packet as bytes, from its data to the end of its buffer, holding
    /// whatever was there before; for reading into, followed by [`Mbuf::set_len`]. Empty when the
    /// packet is chained or shared.
    #[inline]
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let head = self.head();
        if head.next().is_some() || !head.exclusive() {
            return &mut [];
        }
        // SAFETY: from data_off to the end of the exclusive segment's buffer; `self` is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(head.start(), head.len() + head.tailroom()) }
    }

    /// Sets the length of a single-segment packet; false when `n` exceeds [`Mbuf::spare_mut`].
    #[inline]
    pub fn set_len(&mut self, n: usize) -> bool {
        let head = self.head();
        let Ok(len) = u16::try_from(n) else {
            return false;
        };
        if self.spare_mut().len() < n {
            return false;
        }
        set_field!(head, data_len, len);
        self.set_pkt_len(n);
        true
    }

    /// What is left to do before the packet may leave the host.
    #[inline]
    #[must_use]
    pub fn offload(&self) -> Offload {
        Offload::unpack(field!(self.head(), ol_flags), self.tx_offload())
    }

    /// Sets what is left to do before the packet may leave the host.
    #[inline]
    pub fn set_offload(&mut self, offload: Offload) {
        let head = self.head();
        let (flags, lengths) = offload.pack();
        set_field!(
            head,
            ol_flags,
            (field!(head, ol_flags) & !offload::REQUESTS) | flags
        );
        self.set_tx_offload((self.tx_offload() & !offload::LENGTHS) | lengths);
    }

    /// What the device left to do of a packet that it received (see [`PortConfig::unfinished`]); `None` for a packet
    /// that is as it was on a wire.
    ///
    /// [`PortConfig::unfinished`]: crate::PortConfig
    #[inline]
    #[must_use]
    pub fn landed(&self) -> Option<Landed> {
        let flags = field!(self.head(), ol_flags);
        let unfinished = u64::from(sys::RTE_MBUF_F_RX_L4_CKSUM_NONE);
        if flags & u64::from(sys::RTE_MBUF_F_RX_L4_CKSUM_MASK) != unfinished {
            return None;
        }
        let joined = flags & u64::from(sys::RTE_MBUF_F_RX_LRO) != 0;
        Some(if joined {
            Landed::Joined(offload::size(self.tx_offload()))
        } else {
            Landed::Partial
        })
    }

    /// Completes the request for an ethdev once the frame stands: `l2_len` bytes (at most 127) lie before
    /// the IP header that [`Mbuf::offload`] speaks of, and that header's version. A device that cuts or
    /// sums needs both. A packet with nothing left to do stays as it is.
    #[inline]
    pub fn set_frame(&mut self, l2_len: u8, ipv6: bool) {
        let head = self.head();
        let flags = field!(head, ol_flags);
        if flags & offload::REQUESTS == 0 {
            return;
        }
        let version = if ipv6 {
            sys::RTE_MBUF_F_TX_IPV6
        } else if flags & sys::RTE_MBUF_F_TX_TCP_SEG != 0 {
            // Segments differ in length, so the device must also sum their IPv4 headers.
            sys::RTE_MBUF_F_TX_IPV4 | sys::RTE_MBUF_F_TX_IP_CKSUM
        } else {
            sys::RTE_MBUF_F_TX_IPV4
        };
        let versions =
            sys::RTE_MBUF_F_TX_IPV4 | sys::RTE_MBUF_F_TX_IPV6 | sys::RTE_MBUF_F_TX_IP_CKSUM;
        set_field!(head, ol_flags, (flags & !versions) | version);
        self.set_tx_offload((self.tx_offload() & !0x7f) | u64::from(l2_len & 0x7f));
    }

    #[inline]
    fn tx_offload(&self) -> u64 {
        // SAFETY: the header is live, and any bits are a valid u64.
        unsafe { (*self.0.as_ptr()).__bindgen_anon_3.tx_offload }
    }

    #[inline]
    fn set_tx_offload(&mut self, value: u64) {
        // SAFETY: the header is live and owned.
        unsafe { (*self.0.as_ptr()).__bindgen_anon_3.tx_offload = value }
    }

    /// 64 bits that travel with the packet, free for the pipeline; 0 in a new or received packet.
    #[inline]
    #[must_use]
    pub fn tag(&self) -> u64 {
        // SAFETY: the field lies within the header, 8-byte aligned (registered so by Eal::init).
        unsafe { *self.0.as_ptr().byte_add(tag::offset()).cast::<u64>() }
    }

    /// Sets the tag.
    #[inline]
    pub fn set_tag(&mut self, tag: u64) {
        // SAFETY: as in `tag`.
        unsafe { *self.0.as_ptr().byte_add(tag::offset()).cast::<u64>() = tag }
    }

    /// The hash by which a device chose the receive queue, if it gave one.
    #[inline]
    #[must_use]
    pub fn rss_hash(&self) -> Option<u32> {
        let given = field!(self.head(), ol_flags) & u64::from(sys::RTE_MBUF_F_RX_RSS_HASH) != 0;
        // SAFETY: the header is live, and any bits are a valid u32.
        given.then(|| unsafe { (*self.0.as_ptr()).__bindgen_anon_2.hash.rss })
    }
}

impl Seg {
    /// An indirect mbuf that shows `len` bytes of this segment from `skip` on.
    fn share(self, pool: &Mempool, skip: usize, len: usize) -> Option<Mbuf> {
        if self.views() >= MAX_VIEWS {
            return None;
        }
        let view = pool.alloc()?;
        let seg = view.head();
        // SAFETY: `view` is a fresh direct mbuf; this segment is live, and the call raises the count of
        // the buffer's owner, atomically unless we are the only holder.
        unsafe { sys::dpdk_mbuf_attach(seg.0.as_ptr(), self.0.as_ptr()) };
        set_field!(seg, ol_flags, field!(seg, ol_flags) & FOREIGN);
        let mut view = view;
        view.set_tx_offload(0);
        view.set_tag(0);
        seg.skip(skip);
        set_field!(seg, data_len, narrow(len));
        view.set_pkt_len(len);
        Some(view)
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: we own the chain, and nobody can use it after this.
        unsafe { sys::dpdk_mbuf_free(self.0.as_ptr()) }
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("pkt_len", &self.pkt_len())
            .field(
                "segments",
                &self.segments().map(<[u8]>::len).collect::<Vec<_>>(),
            )
            .field("offload", &self.offload())
            .finish()
    }
}

/// The bytes of each segment of an [`Mbuf`], in order.
#[derive(Clone)]
pub struct Segments<'a> {
    next: Option<Seg>,
    mbuf: PhantomData<&'a Mbuf>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let seg = self.next?;
        self.next = seg.next();
        Some(seg.bytes())
    }
}
