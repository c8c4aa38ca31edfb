//! What is left of a core: the time that nobody else took. It turns round without pause at the lowest priority and counts
//! how long it was not interrupted, so that what softirqs, interrupts and the shortest runs of threads take is missing
//! from its account. No accounting of the kernel's says as much: `/proc/stat` samples by ticks, and threads' run times
//! leave out what interrupts an idle core.
//!
//! Prints, until it is ended, a line every 10 ms: the time since its start and what was left so far, both in ns.

use std::io::Write as _;
use std::time::{Duration, Instant};

/// Two looks at the clock that are further apart than this had somebody else between them. A turn takes some 40 ns.
const INTERRUPTED: Duration = Duration::from_nanos(400);
/// Between two lines.
const LINE: Duration = Duration::from_millis(10);

fn main() -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    let begin = Instant::now();
    let mut left = Duration::ZERO;
    let mut last = begin;
    let mut next_line = begin;
    loop {
        let time = Instant::now();
        let passed = time - last;
        if passed < INTERRUPTED {
            left += passed;
        }
        last = time;
        if time >= next_line {
            writeln!(output, "{} {}", (time - begin).as_nanos(), left.as_nanos())?;
            output.flush()?;
            next_line = time + LINE;
        }
    }
}
