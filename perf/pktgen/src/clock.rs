//! The clock that both ends share: the machine's monotonic one, read without a system call.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine started (`CLOCK_MONOTONIC`, the same in all namespaces of a kind); 0 where there is no
/// such clock.
#[inline]
#[must_use]
pub fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        let (seconds, nanoseconds) = (time.tv_sec(), time.tv_nsec());
        seconds.unsigned_abs() * 1_000_000_000 + nanoseconds.unsigned_abs()
    })
}
