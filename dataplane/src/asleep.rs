//! Whether a worker sleeps, asked by whoever has put something into its ring.
//!
//! A wake-up costs a system call, so it is spared for who is awake. The danger is the moment between a worker's last
//! look into its ring and its sleep: each side therefore first says what it did and then looks at what the other
//! said, with a fence between. One of them then sees the other (`dataplane/tests/publication.rs` tries all orders).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::sync::{AtomicBool, fence};

/// A flag that is up while its owner sleeps; its clones are the same flag.
#[derive(Clone, Debug)]
pub struct Asleep(Arc<AtomicBool>);

/// Up until it is dropped.
#[derive(Debug)]
pub struct Raised<'a>(&'a AtomicBool);

impl Asleep {
    /// Down.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    /// The owner is about to sleep: it must look into its ring once more, then sleep, and drop this when it wakes.
    #[must_use]
    pub fn raise(&self) -> Raised<'_> {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Raised(&self.0)
    }

    /// Whether the owner must be woken to see what was put into its ring just before.
    #[must_use]
    pub fn must_be_woken(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for Asleep {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
