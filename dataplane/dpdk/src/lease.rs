//! Keeps EAL's memory while anything refers to it.
//!
//! `rte_eal_cleanup` unmaps all of DPDK's memory, so it must not run while a pool, ring, port or mbuf
//! exists. Handles hold a [`Lease`]; mbufs are too many and too hot for that, but every pool knows how
//! many of its mbufs are out. Where anything is left, cleaning up is left to the end of the process.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dpdk_sys as sys;

/// Where this process stands with EAL, which it can have once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Unused,
    Starting,
    Running,
    Spent,
}

pub(crate) struct State {
    pub(crate) phase: Phase,
    pools: Vec<Pool>,
}

struct Pool(NonNull<sys::rte_mempool>);
// SAFETY: only asked for its counts, which DPDK allows from any thread.
unsafe impl Send for Pool {}

static STATE: Mutex<State> = Mutex::new(State {
    phase: Phase::Unused,
    pools: Vec::new(),
});
static LIVE: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub(crate) fn remember_pool(&mut self, pool: NonNull<sys::rte_mempool>) {
        self.pools.push(Pool(pool));
    }

    /// Whether nothing outside refers to EAL's memory. The caller holds the state, so no new handle can
    /// appear, and knows that no worker runs: other threads free mbufs straight into a pool's ring, whose
    /// last step is the count that is read here.
    pub(crate) fn unreferenced(&self) -> bool {
        let idle = LIVE.load(Ordering::Acquire) == 0
            // SAFETY: pools live until cleanup.
            && self.pools.iter().all(|pool| unsafe { sys::rte_mempool_in_use_count(pool.0.as_ptr()) } == 0);
        fence(Ordering::Acquire);
        idle
    }
}

/// One reason not to clean up.
#[derive(Debug)]
pub(crate) struct Lease(());

impl Lease {
    /// `None` unless EAL runs.
    pub(crate) fn take() -> Option<Self> {
        let state = state();
        (state.phase == Phase::Running).then(Self::counted)
    }

    fn counted() -> Self {
        LIVE.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        Self::counted()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Release);
    }
}
