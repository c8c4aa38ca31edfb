//! DPDK's error numbers: in `rte_errno`, or negative as a return value.

use std::ffi::{CStr, CString};
use std::fmt;

use dpdk_sys as sys;

/// A positive error number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

impl Errno {
    /// What the last failed call on this thread left behind.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local.
        Self(unsafe { sys::dpdk_errno() })
    }

    /// Turns a return value into a result; a bare -1 points at `rte_errno`.
    pub(crate) fn check(rc: i32) -> Result<i32, Self> {
        match rc {
            0.. => Ok(rc),
            -1 if Self::last().0 != 0 => Err(Self::last()),
            _ => Err(Self(-rc)),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: rte_strerror returns a terminated string, static or of this thread.
        let text = unsafe { CStr::from_ptr(sys::rte_strerror(self.0)) };
        f.write_str(&text.to_string_lossy())
    }
}

/// A name for C: not empty, without NUL, short enough for DPDK's tables.
pub(crate) fn name(text: &str) -> Option<CString> {
    let max = usize::try_from(sys::dpdk_limit::DPDK_NAME_MAX).unwrap_or(0);
    (!text.is_empty() && text.len() < max)
        .then(|| CString::new(text).ok())
        .flatten()
}
