//! How many flows a container serves, seen from the node that it runs on.
//!
//! Only the client's node keeps flows, so the server's node, which must report the load of its instances (contract
//! section 3, `net/load`), can only look at what it delivers: from other nodes, reference peers among them, and from
//! this one. It counts the distinct 5-tuples that were seen lately.
//!
//! The sketch is a small HyperLogLog: 112 registers of four bits, each the longest run of zeros that a hash which
//! fell to it began with. Seven words of registers and one that says which window they are of make one cache line, read
//! at every packet and written only when a run is longer than any before, which soon is rare. A bitmap in the same line
//! (linear counting) would be exact for a few hundred flows and blind beyond three thousand; this one errs by a tenth
//! (1.04 / √112) up to a million, which is what comparing the loads of two instances needs, and below three hundred it counts
//! empty registers and errs less.
//!
//! Two lines take turns, a window of time each. The count is that of both together: flows with a packet within the last
//! one to two windows. Lines are written by the worker that owns the container; the control thread reads them.

use std::sync::atomic::Ordering;

use super::lines::{LINE_WORDS, Lines};

/// Length of a window in seconds.
pub const WINDOW_SECONDS: u32 = 10;

const REGISTERS: u64 = 112;
const PER_WORD: u64 = 16;
const REGISTER_MAX: u64 = 15;
/// HyperLogLog's correction of its bias for so many registers.
const ALPHA: f64 = 0.7213 / (1.0 + 1.079 / 112.0);

/// The sketches of all access ports, by the port's number.
#[derive(Debug)]
pub struct Activity(Lines);

/// The window of a second of the machine's clock. Never zero, which says that a line was never used.
#[must_use]
pub fn window(seconds: u32) -> u64 {
    u64::from(seconds / WINDOW_SECONDS) + 1
}

impl Activity {
    /// Room for `ports`.
    #[must_use]
    pub fn new(ports: usize) -> Self {
        Self(Lines::new(ports * 2))
    }

    fn line(&self, port: u16, window: u64) -> Option<&[std::sync::atomic::AtomicU64; LINE_WORDS]> {
        self.0
            .get(usize::from(port) * 2 + usize::from(window & 1 == 1))
    }

    /// Notes a packet of the flow with this hash in `window`. Only the worker that owns the port may call this.
    #[inline(always)]
    pub fn note(&self, port: u16, hash: u64, window: u64) {
        let Some(line) = self.line(port, window) else {
            return;
        };
        if line[0].load(Ordering::Relaxed) != window {
            renew(line, window);
        }
        // The low half chooses the register, the high half's leading zeros are what it holds.
        let register = ((hash & 0xffff_ffff) * REGISTERS) >> 32;
        let run = u64::from((hash | (1 << 32)).leading_zeros() + 1).min(REGISTER_MAX);
        let shift = register % PER_WORD * 4;
        #[allow(clippy::cast_possible_truncation)] // below seven
        let Some(word) = line.get(1 + (register / PER_WORD) as usize) else {
            return;
        };
        let old = word.load(Ordering::Relaxed);
        if (old >> shift) & REGISTER_MAX < run {
            word.store(
                (old & !(REGISTER_MAX << shift)) | (run << shift),
                Ordering::Relaxed,
            );
        }
    }

    /// Forgets what was seen at a port that no worker can reach. Writer only.
    pub fn clear(&self, port: u16) {
        for parity in 0..2 {
            for word in self.line(port, parity).into_iter().flatten() {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    /// How many flows have had a packet in `window` or the one before.
    #[must_use]
    pub fn flows(&self, port: u16, window: u64) -> u32 {
        let mut registers = [0u64; LINE_WORDS - 1];
        for of in [window.saturating_sub(1), window] {
            let Some(line) = self.line(port, of) else {
                continue;
            };
            let [head, words @ ..] = line;
            if of == 0 || head.load(Ordering::Acquire) != of {
                continue;
            }
            let mut read = [0; LINE_WORDS - 1];
            for (to, from) in read.iter_mut().zip(words) {
                *to = from.load(Ordering::Acquire);
            }
            // Begun anew meanwhile, it would be read half empty.
            if head.load(Ordering::Acquire) == of {
                for (to, from) in registers.iter_mut().zip(read) {
                    *to = longest(*to, from);
                }
            }
        }
        estimate(&registers)
    }
}

#[cold]
fn renew(line: &[std::sync::atomic::AtomicU64; LINE_WORDS], window: u64) {
    let [head, words @ ..] = line;
    head.store(0, Ordering::Release);
    for word in words {
        word.store(0, Ordering::Release);
    }
    head.store(window, Ordering::Release);
}

fn nibbles(word: u64) -> impl Iterator<Item = u64> {
    (0..PER_WORD).map(move |n| (word >> (n * 4)) & REGISTER_MAX)
}

/// Register by register the longer run.
fn longest(a: u64, b: u64) -> u64 {
    nibbles(a)
        .zip(nibbles(b))
        .enumerate()
        .fold(0, |word, (n, (a, b))| word | (a.max(b) << (n * 4)))
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)] // small numbers, none negative
fn estimate(registers: &[u64]) -> u32 {
    let runs = || registers.iter().flat_map(|&word| nibbles(word));
    let count = REGISTERS as f64;
    let sum: f64 = runs().map(|run| 1.0 / (1u64 << run) as f64).sum();
    let raw = ALPHA * count * count / sum;
    let empty = runs().filter(|&run| run == 0).count();
    let flows = if raw <= 2.5 * count && empty > 0 {
        count * (count / empty as f64).ln()
    } else {
        raw
    };
    flows.round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{SALT, mix};

    fn hash(n: u64) -> u64 {
        mix(mix(n ^ SALT[0], SALT[1]), SALT[2])
    }

    #[test]
    fn it_counts_what_is_there_within_a_tenth_or_so() {
        for flows in [
            0u64, 1, 2, 5, 10, 30, 100, 250, 400, 1000, 10_000, 100_000, 500_000,
        ] {
            let mut errors = Vec::new();
            for round in 0..20u64 {
                let activity = Activity::new(2);
                for n in 0..flows {
                    // Again and again: packets are not flows.
                    for _ in 0..2 {
                        activity.note(1, hash(n + (round << 32)), 7);
                    }
                }
                let counted = f64::from(activity.flows(1, 7));
                errors.push((counted - flows as f64) / (flows as f64).max(1.0));
                assert_eq!(activity.flows(0, 7), 0, "nobody else's");
            }
            let square = (errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64).sqrt();
            assert!(square < 0.14, "{flows} flows: {errors:?}");
            if flows <= 2 {
                assert!(square < 0.08, "{flows} flows: {errors:?}");
            }
        }
    }

    #[test]
    fn a_flow_counts_for_one_to_two_windows() {
        let activity = Activity::new(1);
        for n in 0..20 {
            activity.note(0, hash(n), window(25));
        }
        let at = |seconds| activity.flows(0, window(seconds));
        let seen = at(25);
        assert!((17..=23).contains(&seen), "{seen}");
        assert_eq!((at(29), at(39)), (seen, seen));
        assert_eq!(at(40), 0);
        // The next window begins empty, and both count together, a flow in both once.
        for n in 10..40 {
            activity.note(0, hash(n), window(31));
        }
        let both = at(31);
        assert!((34..=46).contains(&both), "{both}");
        let later = at(41);
        assert!((25..=35).contains(&later), "{later}");
        activity.clear(0);
        assert_eq!(at(31), 0);
    }

    #[test]
    fn the_same_flows_give_the_same_count() {
        let activity = Activity::new(1);
        let counts: Vec<u32> = (3..30)
            .map(|w| {
                (0..500).for_each(|n| activity.note(0, hash(n), w));
                activity.flows(0, w)
            })
            .collect();
        assert!(counts.iter().all(|c| c == &counts[0]), "{counts:?}");
    }
}
