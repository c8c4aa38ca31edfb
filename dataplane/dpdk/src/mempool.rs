//! Pools of mbufs: all packet memory, set aside at start so that no packet waits for an allocator.

use std::ptr::NonNull;

use dpdk_sys as sys;

use crate::burst::Burst;
use crate::errno::{self, Errno};
use crate::lease::{self, Lease};
use crate::mbuf::Mbuf;

/// A pool of equally large mbufs. Clones are handles to the same pool, which lasts as long as EAL.
///
/// Worker lcores allocate and free through a cache of their own; other threads share the pool's ring.
#[derive(Clone, Debug)]
pub struct Mempool {
    raw: NonNull<sys::rte_mempool>,
    _lease: Lease,
}

// SAFETY: the pool's ring is multi-producer and multi-consumer; caches are per lcore, which is a thread.
unsafe impl Send for Mempool {}
// SAFETY: as above; all calls take the pool by shared reference.
unsafe impl Sync for Mempool {}

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum MempoolError {
    /// No EAL.
    #[error("EAL is not running: call Eal::init first and keep the Eal")]
    NoEal,
    /// A name that DPDK cannot keep.
    #[error(
        "pool name {0:?} is empty, longer than DPDK's 25 bytes, or holds a NUL: choose another"
    )]
    Name(String),
    /// The name is in use; a pool lasts as long as EAL.
    #[error("a pool named {0:?} exists already: choose another name")]
    NameTaken(String),
    /// Bad sizes.
    #[error(
        "{count} mbufs with a cache of {cache} per lcore: DPDK takes a cache of at most 512 and two thirds of the count"
    )]
    Size {
        /// As asked for.
        count: u32,
        /// As asked for.
        cache: u32,
    },
    /// Not enough memory.
    #[error(
        "no memory for {count} mbufs of {data_room} bytes: reserve more hugepages, give Memory::NoHuge more megabytes, or ask for fewer"
    )]
    NoMemory {
        /// As asked for.
        count: u32,
        /// As asked for.
        data_room: u16,
    },
    /// Anything else.
    #[error("DPDK cannot make the pool: {0}")]
    Dpdk(Errno),
}

impl Mempool {
    /// Makes a pool of `count` mbufs (best one less than a power of two) with a cache of `cache` per
    /// lcore and `data_room` bytes each, [`HEADROOM`](crate::HEADROOM) included, on NUMA node `socket`
    /// or any.
    ///
    /// # Errors
    /// See [`MempoolError`].
    pub fn create(
        name: &str,
        count: u32,
        cache: u32,
        data_room: u16,
        socket: Option<u32>,
    ) -> Result<Self, MempoolError> {
        let c_name = errno::name(name).ok_or_else(|| MempoolError::Name(name.to_owned()))?;
        if count == 0 || cache > 512 || u64::from(cache) * 3 > u64::from(count) * 2 {
            return Err(MempoolError::Size { count, cache });
        }
        let socket = socket.map_or(sys::dpdk_limit::DPDK_SOCKET_ANY, |id| {
            i32::try_from(id).unwrap_or(i32::MAX)
        });
        let lease = Lease::take().ok_or(MempoolError::NoEal)?;
        // SAFETY: EAL runs, and the lease keeps it so; the name outlives the call.
        let raw = unsafe {
            sys::rte_pktmbuf_pool_create(c_name.as_ptr(), count, cache, 0, data_room, socket)
        };
        let Some(raw) = NonNull::new(raw) else {
            return Err(match Errno::last() {
                Errno(libc::EEXIST) => MempoolError::NameTaken(name.to_owned()),
                Errno(libc::ENOMEM) => MempoolError::NoMemory { count, data_room },
                other => MempoolError::Dpdk(other),
            });
        };
        lease::state().remember_pool(raw);
        Ok(Self { raw, _lease: lease })
    }

    /// A new empty packet: one segment with headroom, no offload, tag 0. `None` when the pool is empty.
    #[inline]
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives.
        unsafe { Self::alloc_from(self.raw.as_ptr()) }
    }

    /// # Safety
    /// `pool` is a live pool of mbufs.
    pub(crate) unsafe fn alloc_from(pool: *mut sys::rte_mempool) -> Option<Mbuf> {
        // SAFETY: the caller's promise; what comes back is a well-formed mbuf that nobody else owns.
        unsafe { NonNull::new(sys::dpdk_mbuf_alloc(pool)).map(|raw| Mbuf::from_raw(raw)) }
    }

    /// Adds `n` new packets to the burst, or none: false when the burst has no room or the pool not as many.
    #[inline]
    pub fn alloc_bulk<const N: usize>(&self, into: &mut Burst<N>, n: usize) -> bool {
        if n > into.room() {
            return false;
        }
        #[allow(clippy::cast_possible_truncation)] // n <= N, and a burst is an array in memory.
        let count = n as u32;
        // SAFETY: the pool lives, and the burst has n free slots.
        if unsafe { sys::dpdk_mbuf_alloc_bulk(self.raw.as_ptr(), into.spare(), count) } != 0 {
            return false;
        }
        // SAFETY: n slots were filled with new mbufs.
        unsafe { into.grow(n) };
        true
    }

    /// Mbufs in the pool and its caches. Walks all caches: for statistics, not for packets.
    #[must_use]
    pub fn available(&self) -> usize {
        // SAFETY: the pool lives.
        unsafe { sys::rte_mempool_avail_count(self.raw.as_ptr()) as usize }
    }

    /// Mbufs that someone owns (a device's receive ring included). Walks all caches, as above.
    #[must_use]
    pub fn in_use(&self) -> usize {
        // SAFETY: the pool lives.
        unsafe { sys::rte_mempool_in_use_count(self.raw.as_ptr()) as usize }
    }

    /// Bytes of each mbuf's buffer, headroom included.
    #[must_use]
    pub fn data_room(&self) -> usize {
        // SAFETY: the pool lives.
        usize::from(unsafe { sys::dpdk_pool_data_room(self.raw.as_ptr()) })
    }

    pub(crate) fn raw(&self) -> *mut sys::rte_mempool {
        self.raw.as_ptr()
    }
}
