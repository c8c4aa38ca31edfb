//! When each packet is due: an open loop, which goes on whether or not anything arrives.
//!
//! A token bucket. Its tokens carry the time at which they came up: the *intended* time of a packet, which is what its
//! latency counts from, so that a packet that had to wait for the generator itself is not reported as fast (coordinated
//! omission). What the bucket cannot hold is given up and counted: after a pause the generator catches up with at most
//! the bucket's depth, and does not flood the system with what it missed.

/// The schedule of a run. Times are nanoseconds since its start.
#[derive(Clone, Debug)]
pub struct Pace {
    unit: Unit,
    /// When the next packet is due, in 1/65536 ns.
    due: u64,
    /// How far behind may be made up, in 1/65536 ns.
    depth: u64,
    /// Time given up, in 1/65536 ns.
    missed: u64,
}

#[derive(Clone, Copy, Debug)]
enum Unit {
    /// Always.
    Unlimited,
    /// 1/65536 ns for a packet.
    Packet(u64),
    /// 1/65536 ns for a bit.
    Bit(f64),
}

/// How fast to send.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rate {
    /// As fast as the port takes them.
    Max,
    /// Packets a second.
    Packets(f64),
    /// Bits a second of whole frames, check sequence included.
    Layer2(f64),
    /// Bits a second on the wire: with preamble, start delimiter and gap, 20 bytes more a frame.
    Layer1(f64),
}

/// What Ethernet adds to a frame on the wire: preamble, start of frame, gap between frames.
pub const WIRE: u32 = 20;
const FRACTION: u32 = 16;
const SECOND: f64 = 1e9 * 65_536.0;

impl Rate {
    /// Bits that a frame of `size` bytes (check sequence included) counts for.
    #[inline]
    fn bits(self, size: u32) -> u32 {
        match self {
            Self::Layer1(_) => (size + WIRE) * 8,
            _ => size * 8,
        }
    }

    /// Packets a second when frames are `size` bytes on average; infinite without a limit.
    #[must_use]
    pub fn packets_per_second(self, size: f64) -> f64 {
        match self {
            Self::Max => f64::INFINITY,
            Self::Packets(rate) => rate,
            Self::Layer2(rate) => rate / (size * 8.0),
            Self::Layer1(rate) => rate / ((size + f64::from(WIRE)) * 8.0),
        }
    }
}

impl Pace {
    /// Begins at time 0. The bucket holds `depth` nanoseconds of the rate, and 32 packets of 1518 bytes at least.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Positive, and far below 2^64.
    pub fn new(rate: Rate, depth: u64) -> Self {
        let (unit, burst) = match rate {
            Rate::Max => (Unit::Unlimited, 0.0),
            Rate::Packets(rate) => {
                let each = SECOND / rate;
                (Unit::Packet(each as u64), each * 32.0)
            }
            Rate::Layer2(rate) | Rate::Layer1(rate) => {
                let each = SECOND / rate;
                (Unit::Bit(each), each * 32.0 * 1518.0 * 8.0)
            }
        };
        Self {
            unit,
            due: 0,
            depth: (depth << FRACTION).max(burst as u64),
            missed: 0,
        }
    }

    /// Whether a packet is due.
    #[inline]
    #[must_use]
    pub const fn ready(&self, now: u64) -> bool {
        matches!(self.unit, Unit::Unlimited) || self.due >> FRACTION <= now
    }

    /// Takes the token of a frame of `size` bytes: the time at which it was due. `None` when none is.
    #[inline]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Positive, and far below 2^64.
    pub fn take(&mut self, now: u64, rate: Rate, size: u32) -> Option<u64> {
        let cost = match self.unit {
            Unit::Unlimited => return Some(now),
            Unit::Packet(each) => each,
            Unit::Bit(each) => (each * f64::from(rate.bits(size))) as u64,
        };
        if !self.ready(now) {
            return None;
        }
        let late = (now << FRACTION).saturating_sub(self.due);
        if late > self.depth {
            self.missed += late - self.depth;
            self.due += late - self.depth;
        }
        let due = self.due >> FRACTION;
        self.due += cost;
        Some(due)
    }

    /// Nanoseconds of the rate that were given up because the generator was later than the bucket is deep.
    #[must_use]
    pub const fn missed(&self) -> u64 {
        self.missed >> FRACTION
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However the clock jumps, no more is sent than the rate and one bucket allow, and what is short was missed.
        #[test]
        fn the_rate_holds_over_any_clock(
            rate in 1e3f64..2e7,
            depth in 0u64..10_000_000,
            steps in prop::collection::vec(1u64..3_000_000, 1..50),
        ) {
            let mut pace = Pace::new(Rate::Packets(rate), depth);
            let (mut now, mut sent, mut last) = (0, 0u64, 0);
            for step in steps {
                now += step;
                while let Some(due) = pace.take(now, Rate::Packets(rate), 64) {
                    prop_assert!(due <= now && due >= last);
                    last = due;
                    sent += 1;
                }
            }
            #[allow(clippy::cast_precision_loss)]
            let allowed = (now - pace.missed()) as f64 * rate / 1e9;
            #[allow(clippy::cast_precision_loss)]
            let sent = sent as f64;
            prop_assert!(sent <= allowed * 1.0001 + 2.0, "{sent} of {allowed}");
            prop_assert!(sent >= allowed * 0.9999 - 2.0, "{sent} of {allowed}");
        }
    }

    #[test]
    fn a_late_generator_keeps_the_intended_times() {
        let rate = Rate::Packets(1e6);
        let mut pace = Pace::new(rate, 1_000_000);
        // 100 us late: all of the hundred packets still count from when they were due.
        let due: Vec<u64> = std::iter::from_fn(|| pace.take(100_000, rate, 64)).collect();
        assert_eq!(due.len(), 101);
        assert_eq!((due[0], due[1], due[100]), (0, 1000, 100_000));
        assert_eq!(pace.missed(), 0);
        // 10 ms late with a bucket of 1 ms: 9 ms are given up.
        let due: Vec<u64> = std::iter::from_fn(|| pace.take(10_101_000, rate, 64)).collect();
        assert_eq!(due.len(), 1001);
        assert_eq!(due[0], 9_101_000);
        assert_eq!(pace.missed(), 9_000_000);
    }

    #[test]
    fn bits_count_by_layer() {
        // 64-byte frames fill a 10 Gbit/s wire at 14.88 M packets a second.
        for (rate, expected) in [(Rate::Layer1(1e10), 14_881), (Rate::Layer2(1e10), 19_532)] {
            let mut pace = Pace::new(rate, 2_000_000);
            let mut sent = 0;
            while pace.take(1_000_000, rate, 64).is_some() {
                sent += 1;
            }
            assert!((i32::abs(sent - expected)) <= 2, "{sent} for {expected}");
        }
        let sent = Rate::Layer1(1e10).packets_per_second(64.0);
        assert!((sent - 14_880_952.0).abs() < 1.0);
        // Large and small frames cost what they are.
        let rate = Rate::Layer2(8e9);
        let mut pace = Pace::new(rate, 0);
        assert_eq!(pace.take(0, rate, 1518), Some(0));
        assert_eq!(pace.take(1517, rate, 64), None);
        assert_eq!(pace.take(1518, rate, 64), Some(1518));
        assert_eq!(pace.take(1582, rate, 64), Some(1582));
    }

    #[test]
    fn without_a_rate_every_packet_is_due() {
        let mut pace = Pace::new(Rate::Max, 0);
        assert_eq!(pace.take(5, Rate::Max, 64), Some(5));
        assert_eq!(pace.take(5, Rate::Max, 64), Some(5));
    }
}
