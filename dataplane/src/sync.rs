//! The atomics through which threads here speak to each other: the machine's, or those of loom, which tries every
//! order that the memory model allows (`dataplane/tests/publication.rs`).
//!
//! What lies in the shared mapping (`region`) and what only one thread writes (`counters`) is not of this kind.

#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};

/// So many zeros, in pages that cost nothing until they are touched.
#[cfg(not(loom))]
pub(crate) fn zeros<T: bytemuck::Zeroable>(count: usize) -> Box<[T]> {
    bytemuck::zeroed_slice_box(count)
}

/// So many zeros.
#[cfg(loom)]
pub(crate) fn zeros<T: Default>(count: usize) -> Box<[T]> {
    (0..count).map(|_| T::default()).collect()
}
