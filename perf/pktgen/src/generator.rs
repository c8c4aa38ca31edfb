//! The sending end: what is due, written into mbufs and handed to the port, in bursts.
//!
//! The loop allocates nothing, and counts a packet as sent when the port has taken it. What the port does not take is
//! offered again before anything new, and keeps the time at which it was due.

use dpdk::{Burst, L4Checksum, Mempool, Offload, Segment, TxQueue};

use crate::frame::{FCS, Kind, Stamp, Template};
use crate::pace::{Pace, Rate};
use crate::plan::Plan;
use crate::wire::BURST;

/// How a run is timed, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Before anything counts.
    pub warm_up: u64,
    /// What counts.
    pub duration: u64,
    /// How far behind the generator may be and still make up for it.
    pub depth: u64,
}

/// What was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Packets that count, taken by the port.
    pub packets: u64,
    /// Bytes of these, check sequences included.
    pub bytes: u64,
    /// Packets to warm up.
    pub warm: u64,
    /// Nanoseconds that count, so far.
    pub elapsed: u64,
    /// Nanoseconds of the schedule that were given up.
    pub missed: u64,
    /// Packets that were due, and that the port had not taken at the end.
    pub left: u64,
}

/// A packet in the burst.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    service: u32,
    size: u32,
    warm: bool,
}

/// Sends by a plan.
#[derive(Debug)]
pub struct Generator {
    plan: Plan,
    template: Template,
    rate: Rate,
    pace: Pace,
    timing: Timing,
    pool: Mempool,
    /// New mbufs.
    stock: Burst<BURST>,
    burst: Burst<BURST>,
    pending: [Pending; BURST],
    start: u64,
    warm: bool,
    /// Given up while warming up.
    missed_before: u64,
    sent: Sent,
    services: Box<[u64]>,
    finished: bool,
}

impl Generator {
    /// Begins at `start` (of [`crate::clock`]).
    #[must_use]
    pub fn new(
        plan: Plan,
        template: Template,
        rate: Rate,
        timing: Timing,
        pool: Mempool,
        start: u64,
    ) -> Self {
        Self {
            services: vec![0; plan.flows().services() as usize].into_boxed_slice(),
            plan,
            template,
            rate,
            pace: Pace::new(rate, timing.depth),
            timing,
            pool,
            stock: Burst::new(),
            burst: Burst::new(),
            pending: [Pending::default(); BURST],
            start,
            warm: timing.warm_up > 0,
            missed_before: 0,
            sent: Sent::default(),
            finished: false,
        }
    }

    /// Sends what is due at `now`; whether there was anything.
    #[inline]
    pub fn step(&mut self, tx: &mut TxQueue, now: u64) -> bool {
        let Some(passed) = now.checked_sub(self.start) else {
            return false;
        };
        if self.finished {
            return false;
        }
        self.sent.elapsed = passed
            .saturating_sub(self.timing.warm_up)
            .min(self.timing.duration);
        if !self.burst.is_empty() {
            self.push(tx);
        }
        if passed >= self.timing.warm_up + self.timing.duration {
            self.end();
            return false;
        }
        // Nothing new before the port has taken what was due before.
        if self.burst.is_empty() {
            self.plan.age(passed);
            self.fill(passed);
            if self.burst.is_empty() {
                return false;
            }
            if self.template.is_partial() {
                tx.prepare(&mut self.burst);
            }
            self.push(tx);
        }
        true
    }

    #[cold]
    fn end(&mut self) {
        self.finished = true;
        self.sent.missed = self.pace.missed() - self.missed_before;
        self.sent.left = self.burst.len() as u64;
        self.burst.clear();
        self.stock.clear();
    }

    /// Writes what is due into the burst.
    #[inline]
    fn fill(&mut self, passed: u64) {
        while self.pace.ready(passed) {
            if self.stock.is_empty() && !self.pool.alloc_bulk(&mut self.stock, BURST) {
                return;
            }
            let at = self.burst.len();
            let Some(pending) = self.pending.get_mut(at) else {
                return;
            };
            let size = self.plan.size();
            let Some(due) = self.pace.take(passed, self.rate, size) else {
                return;
            };
            let warm = due < self.timing.warm_up;
            if self.warm && !warm {
                self.warm = false;
                self.missed_before = self.pace.missed();
                self.plan.restart();
            }
            let next = self.plan.packet();
            let stamp = Stamp {
                flow: next.flow,
                warm_up: warm,
                sequence: next.sequence,
                time: self.start + due,
            };
            let Some(mut mbuf) = self.stock.pop() else {
                return;
            };
            let Some(written) = self
                .template
                .write(mbuf.spare_mut(), size, &next.tuple, &stamp)
            else {
                return;
            };
            mbuf.set_len(written.len);
            if self.template.is_partial() {
                let v6 = self.template.is_v6();
                mbuf.set_offload(Offload {
                    checksum: match self.template.kind() {
                        Kind::Udp => L4Checksum::PartialUdp,
                        Kind::TcpSyn | Kind::TcpFlow => L4Checksum::PartialTcp,
                    },
                    segment: Segment::None,
                    l3_len: if v6 { 40 } else { 20 },
                    l4_len: written.l4_len,
                });
                mbuf.set_frame(14, v6);
            }
            #[allow(clippy::cast_possible_truncation)] // A frame.
            let size = written.len as u32 + FCS;
            *pending = Pending {
                service: self.plan.flows().service_of(next.flow),
                size,
                warm,
            };
            // There is room: `pending` has a place for it.
            let _room = self.burst.push(mbuf);
        }
    }

    /// Hands the burst over, and counts what was taken.
    #[inline]
    fn push(&mut self, tx: &mut TxQueue) {
        let taken = tx.burst(&mut self.burst);
        for pending in self.pending.iter().take(taken) {
            if pending.warm {
                self.sent.warm += 1;
                continue;
            }
            self.sent.packets += 1;
            self.sent.bytes += u64::from(pending.size);
            if let Some(count) = self.services.get_mut(pending.service as usize) {
                *count += 1;
            }
        }
        if taken > 0 && taken < BURST {
            self.pending.copy_within(taken.., 0);
        }
    }

    /// Whether the time is over.
    #[inline]
    #[must_use]
    pub const fn finished(&self) -> bool {
        self.finished
    }

    /// What was sent so far.
    #[inline]
    #[must_use]
    pub const fn sent(&self) -> Sent {
        self.sent
    }

    /// Packets that count to each service.
    #[must_use]
    pub fn services(&self) -> &[u64] {
        &self.services
    }
}
