//! Quiescent states: when may the memory of a replaced record be used again?
//!
//! A worker holds places of records only within one round of its loop. At the end of each round it says so by
//! copying the global epoch into a word of its own; before it sleeps it says that it holds nothing at all. The
//! writer advances the epoch with each change and frees what was retired at epoch `e` once every worker has shown an
//! epoch above `e`, or sleeps. Readers never wait; the writer only ever looks.

use std::sync::atomic::Ordering;

use crate::sync::{AtomicU64, fence};

const ASLEEP: u64 = u64::MAX;

/// One word per cache line, so that workers do not disturb each other.
#[repr(align(64))]
#[derive(Debug)]
struct Line(AtomicU64);

/// The epochs of all workers.
#[derive(Debug)]
pub struct Quiescence {
    global: AtomicU64,
    workers: Box<[Line]>,
}

impl Quiescence {
    /// For so many workers, all of them asleep.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            global: AtomicU64::new(1),
            workers: (0..workers).map(|_| Line(AtomicU64::new(ASLEEP))).collect(),
        }
    }

    /// Worker `worker` holds no record of an earlier round any more, and goes on.
    #[inline(always)]
    pub fn pass(&self, worker: usize) {
        if let Some(line) = self.workers.get(worker) {
            // Release: what this worker read before happens before the writer sees the new epoch.
            line.0
                .store(self.global.load(Ordering::Acquire), Ordering::Release);
        }
    }

    /// Worker `worker` holds nothing until it calls `wake`.
    pub fn sleep(&self, worker: usize) {
        if let Some(line) = self.workers.get(worker) {
            line.0.store(ASLEEP, Ordering::Release);
        }
    }

    /// Worker `worker` begins to read again.
    pub fn wake(&self, worker: usize) {
        if let Some(line) = self.workers.get(worker) {
            line.0
                .store(self.global.load(Ordering::Acquire), Ordering::Relaxed);
            // The store above must be seen before any table is read, or the writer could count this worker as asleep
            // and free a record that it is about to find. Pairs with the fence in `passed`.
            fence(Ordering::SeqCst);
        }
    }

    /// Called by the writer after it unlinked something: the epoch under which to retire it.
    pub fn advance(&self) -> u64 {
        self.global.fetch_add(1, Ordering::AcqRel)
    }

    /// Everything retired under an epoch below this one is out of every worker's hands.
    #[must_use]
    pub fn passed(&self) -> u64 {
        fence(Ordering::SeqCst);
        let mut least = self.global.load(Ordering::Acquire);
        for line in &self.workers {
            let shown = line.0.load(Ordering::Acquire);
            if shown != ASLEEP {
                least = least.min(shown);
            }
        }
        least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_in_its_round_holds_back_what_it_may_see() {
        let q = Quiescence::new(2);
        let e = q.advance();
        assert!(q.passed() > e, "sleeping workers hold nothing back");
        q.wake(0);
        let e = q.advance();
        assert!(
            q.passed() <= e,
            "worker 0 may still see what was retired under e"
        );
        q.pass(0);
        assert!(q.passed() > e);
        q.wake(1);
        let e = q.advance();
        q.pass(0);
        assert!(q.passed() <= e, "worker 1 has not passed");
        q.sleep(1);
        assert!(q.passed() > e);
    }
}
