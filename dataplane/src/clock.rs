//! The machine's monotonic clock. It goes on across processes of one boot, so that a flow's expiry still means
//! something to the process that takes the flow over.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since some fixed point of this boot.
#[must_use]
pub fn since_boot() -> Duration {
    // The call cannot fail for this clock; a zero would only end flows early.
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .unwrap_or_default()
}

/// The same in milliseconds.
#[must_use]
pub fn milliseconds() -> u64 {
    u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX)
}

/// The same in whole seconds.
#[must_use]
pub fn seconds() -> u32 {
    u32::try_from(since_boot().as_secs()).unwrap_or(u32::MAX)
}
