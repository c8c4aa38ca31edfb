//! What arrived: counted once each, per flow, by sequence number.
//!
//! Each flow counts its packets from 0. A window of the last 64 tells a packet that comes late (reordered) from one that
//! comes twice (duplicate); one that is older than the window is *late*, counted as reordered, and cannot be told from a
//! duplicate. Flows that give way to new ones share a slot with their successor, and what was missing of them is counted
//! when the successor shows up.

use hdrhistogram::Histogram;

/// The counts of a sink.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Counts {
    /// Packets of this run, each counted once.
    pub received: u64,
    /// Those that came after one that was sent later.
    pub reordered: u64,
    /// Copies beyond the first.
    pub duplicates: u64,
    /// Numbers that were passed over, so far; what is behind the last arrival is not known here.
    pub gaps: u64,
    /// Packets of the run with a wrong checksum, where that was asked for.
    pub corrupt: u64,
    /// Packets that are none of this run's.
    pub foreign: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Which flow has the slot.
    flow: u32,
    /// One more than the highest number that arrived.
    next: u32,
    /// Which of the 64 numbers below `next` arrived, the highest in bit 0.
    seen: u64,
    /// How many arrived, each counted once.
    unique: u32,
}

const FREE: Slot = Slot {
    flow: 0,
    next: 0,
    seen: 0,
    unique: 0,
};

/// Per-flow accounts, latencies, and packets per service.
#[derive(Debug)]
pub struct Tally {
    slots: Box<[Slot]>,
    services: Box<[u64]>,
    latency: Histogram<u64>,
    /// All but the gaps of flows that still have their slot.
    counts: Counts,
}

/// What a packet turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// The first of its number, in order.
    InOrder,
    /// The first of its number, behind one sent later.
    Late,
    /// A copy.
    Duplicate,
}

impl Tally {
    /// For as many flows at a time, and services. All memory is taken here.
    ///
    /// # Errors
    /// When the histogram cannot be made.
    pub fn new(flows: u32, services: u32) -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self {
            slots: vec![FREE; flows.max(1) as usize].into_boxed_slice(),
            services: vec![0; services as usize].into_boxed_slice(),
            // From 1 ns to 100 s, to 0.1 %.
            latency: Histogram::new_with_bounds(1, 100_000_000_000, 3)?,
            counts: Counts::default(),
        })
    }

    /// Takes packet `sequence` of `flow`, `latency` nanoseconds after it was due, where it says when that was.
    #[inline]
    pub fn take(
        &mut self,
        flow: u32,
        sequence: u32,
        service: u32,
        latency: Option<u64>,
    ) -> Arrival {
        let arrival = self.place(flow, sequence);
        if arrival == Arrival::Duplicate {
            self.counts.duplicates += 1;
            return arrival;
        }
        self.counts.received += 1;
        self.counts.reordered += u64::from(arrival == Arrival::Late);
        if let Some(count) = self.services.get_mut(service as usize) {
            *count += 1;
        }
        if let Some(latency) = latency {
            self.latency.saturating_record(latency.max(1));
        }
        arrival
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // No more slots than 2^32.
    fn place(&mut self, flow: u32, sequence: u32) -> Arrival {
        let at = flow % self.slots.len() as u32;
        let Some(slot) = self.slots.get_mut(at as usize) else {
            return Arrival::InOrder;
        };
        if slot.flow != flow {
            // Numbers go round at 2^31; the nearer one is the newer.
            if slot.next > 0 && flow.wrapping_sub(slot.flow) & 0x7fff_ffff > 0x3fff_ffff {
                return Arrival::Late;
            }
            self.counts.gaps += u64::from(slot.next - slot.unique);
            *slot = Slot { flow, ..FREE };
        }
        if sequence >= slot.next {
            let ahead = sequence - slot.next;
            // Of a long jump nothing stays in the window.
            slot.seen = slot.seen.checked_shl(ahead.saturating_add(1)).unwrap_or(0) | 1;
            slot.next = sequence.saturating_add(1);
            slot.unique += 1;
            return Arrival::InOrder;
        }
        let behind = slot.next - 1 - sequence;
        if behind >= u64::BITS {
            slot.unique = (slot.unique + 1).min(slot.next);
            return Arrival::Late;
        }
        if slot.seen & (1 << behind) != 0 {
            return Arrival::Duplicate;
        }
        slot.seen |= 1 << behind;
        slot.unique = (slot.unique + 1).min(slot.next);
        Arrival::Late
    }

    /// Counts a packet that is none of this run's.
    #[inline]
    pub const fn foreign(&mut self) {
        self.counts.foreign += 1;
    }

    /// Counts a packet of the run with a wrong checksum.
    #[inline]
    pub const fn corrupt(&mut self) {
        self.counts.corrupt += 1;
    }

    /// Packets received so far, each counted once.
    #[inline]
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.counts.received
    }

    /// All counts; walks the flows.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let open = self
            .slots
            .iter()
            .map(|slot| u64::from(slot.next - slot.unique));
        Counts {
            gaps: self.counts.gaps + open.sum::<u64>(),
            ..self.counts
        }
    }

    /// Packets of each service.
    #[must_use]
    pub fn services(&self) -> &[u64] {
        &self.services
    }

    /// Latencies in nanoseconds, from when each packet was due.
    #[must_use]
    pub const fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn tally(flows: u32) -> Tally {
        Tally::new(flows, 4).expect("bounds are valid")
    }

    #[test]
    fn loss_reordering_and_duplicates_are_told_apart() {
        let mut tally = tally(2);
        let arrivals: Vec<Arrival> = [0, 1, 3, 2, 2, 5, 3]
            .map(|n| tally.take(0, n, 1, Some(1000)))
            .into();
        use Arrival::{Duplicate, InOrder, Late};
        assert_eq!(
            arrivals,
            [
                InOrder, InOrder, InOrder, Late, Duplicate, InOrder, Duplicate
            ]
        );
        tally.take(1, 0, 2, Some(1000));
        let counts = tally.counts();
        assert_eq!(
            (counts.received, counts.reordered, counts.duplicates),
            (6, 1, 2)
        );
        assert_eq!(counts.gaps, 1, "number 4 of flow 0");
        assert_eq!(tally.services(), [0, 5, 1, 0]);
        assert_eq!(tally.latency().len(), 6, "copies have no latency");
    }

    #[test]
    fn a_successor_closes_its_predecessors_account() {
        let mut tally = tally(2);
        tally.take(0, 0, 0, Some(1));
        tally.take(0, 3, 0, Some(1));
        tally.take(2, 0, 0, Some(1));
        assert_eq!(tally.counts().gaps, 2);
        // A straggler of the old flow neither opens it again nor gets lost.
        assert_eq!(tally.take(0, 4, 0, Some(1)), Arrival::Late);
        tally.take(2, 1, 0, Some(1));
        let counts = tally.counts();
        assert_eq!((counts.received, counts.gaps, counts.duplicates), (5, 2, 0));
    }

    proptest! {
        /// Any shuffle within the window, with any losses and copies, comes out exactly.
        #[test]
        fn any_mischief_within_the_window_is_counted(
            fates in prop::collection::vec((0u8..4, 0u32..50), 1..400),
        ) {
            // Each number is lost, or arrives once or twice, somewhat later.
            let mut events = Vec::new();
            for (n, (copies, delay)) in (0u32..).zip(&fates) {
                for copy in 0..(*copies).min(2) {
                    events.push((n + delay % 25 + u32::from(copy) * 5, n));
                }
            }
            events.sort_by_key(|(when, _)| *when);
            let mut tally = tally(1);
            let (mut seen, mut highest) = (HashSet::new(), None);
            let (mut reordered, mut duplicates) = (0, 0);
            for &(_, n) in &events {
                tally.take(0, n, 0, Some(1));
                if !seen.insert(n) {
                    duplicates += 1;
                } else if highest.is_some_and(|highest| n < highest) {
                    reordered += 1;
                }
                highest = highest.max(Some(n));
            }
            let counts = tally.counts();
            let missing = highest.map_or(0, |highest| u64::from(highest) + 1) - seen.len() as u64;
            prop_assert_eq!(counts.received, seen.len() as u64);
            prop_assert_eq!((counts.reordered, counts.duplicates, counts.gaps), (reordered, duplicates, missing));
        }
    }

    /// A system that stops for 100 ms at 1,000 packets a second, then passes all at once: who counts from when packets
    /// were due sees it in a hundred packets; who counted from when they were sent would see one.
    #[test]
    fn a_pause_is_seen_by_all_that_waited() {
        let mut tally = tally(1);
        let rate = crate::pace::Rate::Packets(1000.0);
        let mut pace = crate::pace::Pace::new(rate, 1_000_000_000);
        let mut sequence = 0;
        for millisecond in 0..1000u64 {
            let now = millisecond * 1_000_000;
            // The generator itself is blocked.
            if (500..600).contains(&millisecond) {
                continue;
            }
            while let Some(due) = pace.take(now, rate, 64) {
                tally.take(0, sequence, 0, Some(now - due + 10_000));
                sequence += 1;
            }
        }
        let slow = tally.latency().count_between(1_000_000, 200_000_000);
        assert!((98..=101).contains(&slow), "{slow}");
        let tail = tally.latency().value_at_quantile(0.95);
        assert!((45_000_000..56_000_000).contains(&tail), "{tail}");
    }
}
