//! Where in the mbuf header our tag lies.
//!
//! DPDK gives out the spare words of the header by name, so that a PMD and we never use the same one.

use std::sync::atomic::{AtomicUsize, Ordering};

use dpdk_sys as sys;

static OFFSET: AtomicUsize = AtomicUsize::new(std::mem::offset_of!(sys::rte_mbuf, dynfield1));

/// The tag's byte offset in the header.
#[inline]
pub(crate) fn offset() -> usize {
    OFFSET.load(Ordering::Relaxed)
}

/// Reserves the field; `None` if DPDK has no 8 aligned bytes left.
pub(crate) fn register() -> Option<()> {
    let mut field = sys::rte_mbuf_dynfield {
        name: [0; 64],
        size: 8,
        align: 8,
        flags: 0,
    };
    for (to, from) in field.name.iter_mut().zip(c"oakestra_tag".to_bytes()) {
        *to = std::ffi::c_char::from_ne_bytes([*from]);
    }
    // SAFETY: the description is valid for the call, and EAL is initialised.
    let offset = unsafe { sys::rte_mbuf_dynfield_register(&raw const field) };
    OFFSET.store(usize::try_from(offset).ok()?, Ordering::Relaxed);
    // SAFETY: an offset that DPDK gave out; no mbuf exists yet.
    unsafe { sys::dpdk_set_tag_offset(offset) };
    Some(())
}
