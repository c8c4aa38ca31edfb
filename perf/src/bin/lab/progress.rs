//! How far a run is, and how long it will take: for a person who waits.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Steps of a run, each weighed by what it is thought to take.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    /// Thought, in seconds.
    whole: f64,
    done: f64,
    /// By the clock, while what was done was done.
    quiet: bool,
    limit: Option<Duration>,
}

impl Progress {
    /// Begins; `whole` is what all steps are thought to take, `limit` what they may take.
    #[must_use]
    pub fn begin(whole: Duration, limit: Option<Duration>, quiet: bool) -> Progress {
        Progress {
            begun: Instant::now(),
            whole: whole.as_secs_f64(),
            done: 0.0,
            quiet,
            limit,
        }
    }

    /// Seconds since the begin.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Whether a step that is thought to take so long still fits into the limit.
    #[must_use]
    pub fn has_time_for(&self, step: Duration) -> bool {
        self.limit
            .is_none_or(|limit| self.begun.elapsed() + step <= limit)
    }

    /// A step that was thought to take so long is over, or left out.
    pub fn done(&mut self, step: Duration) {
        self.done += step.as_secs_f64();
    }

    /// Says what comes.
    pub fn say(&self, text: &str) {
        let left = left(self.begun.elapsed(), self.done, self.whole, self.limit);
        let mut to = std::io::stderr();
        if to.is_terminal() {
            let _ = write!(to, "\r\x1b[K{text}, {left}");
            let _ = to.flush();
        } else if !self.quiet {
            let _ = writeln!(to, "{text}, {left}");
        }
    }

    /// Clears the line.
    pub fn end(&self) {
        let mut to = std::io::stderr();
        if to.is_terminal() {
            let _ = write!(to, "\r\x1b[K");
            let _ = to.flush();
        }
    }
}

/// The time left: what was thought, by how wrong it was so far.
fn left(elapsed: Duration, done: f64, whole: f64, limit: Option<Duration>) -> String {
    let rest = (whole - done).max(0.0);
    let wrong = match done {
        done if done >= 5.0 => (elapsed.as_secs_f64() / done).clamp(0.2, 5.0),
        _ => 1.0,
    };
    let mut seconds = rest * wrong;
    if let Some(limit) = limit {
        seconds = seconds.min(limit.saturating_sub(elapsed).as_secs_f64());
    }
    match seconds {
        seconds if seconds >= 90.0 => format!("{:.0} min left", seconds / 60.0),
        seconds => format!("{seconds:.0} s left"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_learns_from_the_time_taken() {
        let seconds = Duration::from_secs;
        assert_eq!(left(seconds(0), 0.0, 60.0, None), "60 s left");
        // Everything took twice as long as was thought.
        assert_eq!(left(seconds(60), 30.0, 60.0, None), "60 s left");
        assert_eq!(left(seconds(60), 30.0, 600.0, None), "19 min left");
        assert_eq!(
            left(seconds(60), 30.0, 600.0, Some(seconds(80))),
            "20 s left"
        );
        assert_eq!(left(seconds(60), 70.0, 60.0, None), "0 s left");
    }

    #[test]
    fn what_does_not_fit_is_known_beforehand() {
        let short = Progress::begin(Duration::ZERO, Some(Duration::from_secs(60)), true);
        assert!(short.has_time_for(Duration::from_secs(50)));
        assert!(!short.has_time_for(Duration::from_secs(61)));
        let long = Progress::begin(Duration::ZERO, None, true);
        assert!(long.has_time_for(Duration::from_secs(1_000_000)));
    }
}
