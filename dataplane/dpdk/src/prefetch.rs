//! Telling the CPU which memory is needed next, so that a burst waits for it once and not once a packet.

#![allow(clippy::inline_always)] // A call would cost more than the instruction.

/// Asks for the cache line that `value` begins in. Only a hint: nothing is read, and nothing can fault.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    line(std::ptr::from_ref(value).cast());
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn line(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: SSE is part of x86-64, and a prefetch of any address has no effect but on the caches.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn line(at: *const u8) {
    // SAFETY: a prefetch of any address has no effect but on the caches.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, readonly, preserves_flags));
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
pub(crate) fn line(_at: *const u8) {}
