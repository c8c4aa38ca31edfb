//! What is left of a core: the time that nobody else took. It turns round without pause at the lowest priority and counts
//! how long it was not interrupted, so that what softirqs, interrupts and the shortest runs of threads take is missing
//! from its account. No accounting of the kernel's says as much: `/proc/stat` samples by ticks, and threads' run times
//! leave out what interrupts an idle core.
//!
//! Prints, until it is ended, a line every 10 ms: the time of the monotonic clock and what was left so far, both in ns.

use std::io::Write as _;

use nix::time::{ClockId, clock_gettime};

/// Two looks at the clock that are further apart than this had somebody else between them, ns. A turn takes some 40.
const INTERRUPTED: i64 = 400;
/// Between two lines, ns.
const LINE: i64 = 10_000_000;

fn now() -> nix::Result<i64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec() * 1_000_000_000 + now.tv_nsec())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut output = std::io::stdout().lock();
    let mut left = 0;
    let mut last = now()?;
    let mut next_line = last;
    loop {
        let time = now()?;
        if time - last < INTERRUPTED {
            left += time - last;
        }
        last = time;
        if time >= next_line {
            writeln!(output, "{time} {left}")?;
            output.flush()?;
            next_line = time + LINE;
        }
    }
}
