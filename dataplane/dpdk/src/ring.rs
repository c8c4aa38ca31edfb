//! Rings: how a packet goes from one worker to another, without a lock.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys as sys;

use crate::burst::Burst;
use crate::errno::{self, Errno};
use crate::lease::Lease;
use crate::mbuf::Mbuf;

/// What a ring can carry. Sealed: a ring holds bare pointers, and who takes one out owns it.
pub trait RingItem: sealed::Sealed {}
impl RingItem for Mbuf {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::mbuf::Mbuf {}
}

/// How concurrent users of one [`Ring`] take turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RingFlags {
    /// DPDK's default: fastest with a core for each user.
    #[default]
    Multi,
    /// Relaxed tail: a user that loses its CPU half way holds up fewer others (more threads than cores).
    RelaxedTail,
    /// Head and tail move together: one user at a time, the fairest with few cores.
    HeadTail,
}

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// No EAL.
    #[error("EAL is not running: call Eal::init first and keep the Eal")]
    NoEal,
    /// A name that DPDK cannot keep.
    #[error(
        "ring name {0:?} is empty, longer than DPDK's 25 bytes, or holds a NUL: choose another"
    )]
    Name(String),
    /// The name is in use.
    #[error("a ring named {0:?} exists already: choose another name")]
    NameTaken(String),
    /// Too large or too small.
    #[error("a ring for {0} packets: DPDK takes 1 to 2^31 - 1")]
    Size(u32),
    /// Not enough memory.
    #[error(
        "no memory for a ring for {0} packets: reserve more hugepages, or give Memory::NoHuge more megabytes"
    )]
    NoMemory(u32),
    /// Anything else.
    #[error("DPDK cannot make the ring: {0}")]
    Dpdk(Errno),
}

#[derive(Debug)]
struct Raw {
    ring: NonNull<sys::rte_ring>,
    _lease: Lease,
}

// SAFETY: rings are made for several threads; who may use which end is the wrappers' business.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

impl Raw {
    fn create(name: &str, size: u32, flags: u32) -> Result<Self, RingError> {
        let c_name = errno::name(name).ok_or_else(|| RingError::Name(name.to_owned()))?;
        if size == 0 || size > i32::MAX.unsigned_abs() {
            return Err(RingError::Size(size));
        }
        let lease = Lease::take().ok_or(RingError::NoEal)?;
        // SAFETY: EAL runs, and the lease keeps it so; the name outlives the call.
        let ring = unsafe {
            let any = sys::dpdk_limit::DPDK_SOCKET_ANY;
            sys::rte_ring_create(c_name.as_ptr(), size, any, flags | sys::RING_F_EXACT_SZ)
        };
        match NonNull::new(ring) {
            Some(ring) => Ok(Self {
                ring,
                _lease: lease,
            }),
            None => Err(match Errno::last() {
                Errno(libc::EEXIST) => RingError::NameTaken(name.to_owned()),
                Errno(libc::ENOMEM) => RingError::NoMemory(size),
                Errno(libc::EINVAL) => RingError::Size(size),
                other => RingError::Dpdk(other),
            }),
        }
    }

    /// # Safety
    /// No other thread enqueues, unless the ring takes several producers.
    #[inline]
    unsafe fn enqueue<const N: usize>(&self, from: &mut Burst<N>) -> usize {
        #[allow(clippy::cast_possible_truncation)] // A burst is an array in memory.
        let len = from.len() as u32;
        // SAFETY: the burst's packets are initialised pointers; the ring lives; the caller's promise.
        let sent =
            unsafe { sys::dpdk_ring_enqueue_burst(self.ring.as_ptr(), from.raw().cast(), len) }
                as usize;
        // SAFETY: the ring owns the first `sent` now.
        unsafe { from.forget_front(sent) };
        sent
    }

    /// # Safety
    /// No other thread dequeues, unless the ring takes several consumers.
    #[inline]
    unsafe fn dequeue<const N: usize>(&self, into: &mut Burst<N>) -> usize {
        #[allow(clippy::cast_possible_truncation)] // A burst is an array in memory.
        let room = into.room() as u32;
        // SAFETY: the burst has `room` free slots; the ring lives; the caller's promise.
        let got =
            unsafe { sys::dpdk_ring_dequeue_burst(self.ring.as_ptr(), into.spare().cast(), room) }
                as usize;
        // SAFETY: `got` slots were filled with packets that the ring owned.
        unsafe { into.grow(got) };
        got
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let mut left = Burst::<64>::new();
        // SAFETY: the last handle is going, so no other thread uses either end.
        while unsafe { self.dequeue(&mut left) } > 0 {
            left.clear();
        }
        // SAFETY: as above, and the ring is empty.
        unsafe { sys::rte_ring_free(self.ring.as_ptr()) }
    }
}

/// A bounded queue of packets that any thread may use at either end.
#[derive(Debug)]
pub struct Ring<T: RingItem> {
    raw: Raw,
    item: PhantomData<T>,
}

// SAFETY: packets are Send, and both ends take several threads.
unsafe impl<T: RingItem + Send> Sync for Ring<T> {}

impl Ring<Mbuf> {
    /// Makes a ring for exactly `size` packets.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn create(name: &str, size: u32, flags: RingFlags) -> Result<Self, RingError> {
        let flags = match flags {
            RingFlags::Multi => 0,
            RingFlags::RelaxedTail => sys::RING_F_MP_RTS_ENQ | sys::RING_F_MC_RTS_DEQ,
            RingFlags::HeadTail => sys::RING_F_MP_HTS_ENQ | sys::RING_F_MC_HTS_DEQ,
        };
        Ok(Self {
            raw: Raw::create(name, size, flags)?,
            item: PhantomData,
        })
    }

    /// Makes a ring that many threads fill and one empties, which costs the reader no atomic exchange:
    /// a worker's inbox.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn inbox(
        name: &str,
        size: u32,
    ) -> Result<(RingSender<Mbuf>, RingReceiver<Mbuf>), RingError> {
        let raw = Arc::new(Raw::create(name, size, sys::RING_F_SC_DEQ)?);
        Ok((
            RingSender {
                raw: Arc::clone(&raw),
                item: PhantomData,
            },
            RingReceiver {
                raw,
                item: PhantomData,
            },
        ))
    }

    /// Moves packets from the front of the burst into the ring, as many as fit; the rest stays.
    #[inline]
    pub fn enqueue_burst<const N: usize>(&self, from: &mut Burst<N>) -> usize {
        // SAFETY: made for several producers.
        unsafe { self.raw.enqueue(from) }
    }

    /// Adds packets from the ring to the burst, as many as there are and fit.
    #[inline]
    pub fn dequeue_burst<const N: usize>(&self, into: &mut Burst<N>) -> usize {
        // SAFETY: made for several consumers.
        unsafe { self.raw.dequeue(into) }
    }
}

/// The filling end of [`Ring::inbox`]; clone it for each producer.
#[derive(Debug)]
pub struct RingSender<T: RingItem> {
    raw: Arc<Raw>,
    item: PhantomData<fn(T)>,
}

impl<T: RingItem> Clone for RingSender<T> {
    fn clone(&self) -> Self {
        Self {
            raw: Arc::clone(&self.raw),
            item: PhantomData,
        }
    }
}

impl RingSender<Mbuf> {
    /// Moves packets from the front of the burst into the ring, as many as fit; the rest stays.
    #[inline]
    pub fn enqueue_burst<const N: usize>(&self, from: &mut Burst<N>) -> usize {
        // SAFETY: made for several producers.
        unsafe { self.raw.enqueue(from) }
    }
}

/// The emptying end of [`Ring::inbox`]: there is one, and it is used by `&mut`.
#[derive(Debug)]
pub struct RingReceiver<T: RingItem> {
    raw: Arc<Raw>,
    item: PhantomData<fn() -> T>,
}

impl RingReceiver<Mbuf> {
    /// Adds packets from the ring to the burst, as many as there are and fit.
    #[inline]
    pub fn dequeue_burst<const N: usize>(&mut self, into: &mut Burst<N>) -> usize {
        // SAFETY: the only consumer, by `&mut`.
        unsafe { self.raw.dequeue(into) }
    }
}
