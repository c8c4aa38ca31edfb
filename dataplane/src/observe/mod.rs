//! Seeing what packets do, on request: copies of them ([`capture`]), and why they went where they went ([`trace`]).
//!
//! Both are off until someone asks. Off, they cost a worker one relaxed load per round; on, plain words into a bounded
//! [`ring`], never a wait. What the words mean is made of them by the reader, on a thread of its own.

pub mod capture;
pub mod clock;
pub mod ring;
pub mod trace;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::api::CommandError;
use ring::Ring;

/// How long a beginning waits for workers to notice it. One that does not has ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a request turns on, once at a time, and what it asks of the workers.
#[derive(Debug)]
pub struct Switch {
    /// Number of the request under way; 0 for none.
    session: AtomicU32,
    last: AtomicU32,
    taken: AtomicBool,
    closed: AtomicBool,
    /// What is asked for; its words mean what `capture` or `trace` says.
    asked: [AtomicU64; ASKED],
    lanes: Box<[Lane]>,
}

/// Words of a request.
pub(crate) const ASKED: usize = 6;

/// One worker's part.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) ring: Ring,
    /// The session that its worker goes by.
    seen: AtomicU32,
}

impl Switch {
    /// Off, with a ring of `1 << order` words for each worker.
    #[must_use]
    pub fn new(workers: usize, order: u32) -> Self {
        Self {
            session: AtomicU32::new(0),
            last: AtomicU32::new(0),
            taken: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            asked: [const { AtomicU64::new(0) }; ASKED],
            lanes: (0..workers)
                .map(|_| Lane {
                    ring: Ring::new(order),
                    seen: AtomicU32::new(0),
                })
                .collect(),
        }
    }

    /// Begins a session; its number.
    fn begin(&self, asked: [u64; ASKED], what: &str) -> Result<u32, CommandError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(CommandError::Stopped);
        }
        if self.taken.swap(true, Ordering::AcqRel) {
            return Err(CommandError::Busy(format!(
                "a {what} is under way already, and there is one at a time: end it first"
            )));
        }
        for lane in &self.lanes {
            lane.ring.skip();
        }
        for (word, value) in self.asked.iter().zip(asked) {
            word.store(value, Ordering::Relaxed);
        }
        // 16 bits, so that the number fits beside others in a word; 0 is off.
        let session = (self.last.load(Ordering::Relaxed) + 1) & 0xffff;
        let session = session.max(1);
        self.last.store(session, Ordering::Relaxed);
        self.session.store(session, Ordering::Release);
        Ok(session)
    }

    /// Waits until the workers go by a session.
    fn settle(&self, session: u32) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE
            && !self
                .lanes
                .iter()
                .all(|lane| lane.seen.load(Ordering::Acquire) == session)
        {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn end(&self) {
        self.session.store(0, Ordering::Release);
        self.taken.store(false, Ordering::Release);
    }

    /// No session begins any more, and the one under way is told to end.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Records lost by all workers since the start.
    fn lost(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.ring.lost()).sum()
    }
}

/// A worker's view of a [`Switch`].
#[derive(Debug)]
pub(crate) struct View<'a> {
    switch: &'a Switch,
    lane: Option<&'a Lane>,
    session: u32,
}

impl<'a> View<'a> {
    pub(crate) fn new(switch: &'a Switch, worker: u16) -> Self {
        Self {
            switch,
            lane: switch.lanes.get(usize::from(worker)),
            session: 0,
        }
    }

    /// Looks whether a session has begun or ended; what it asks for, when there is a new one.
    #[inline(always)]
    pub(crate) fn refresh(&mut self) -> Option<[u64; ASKED]> {
        if self.switch.session.load(Ordering::Relaxed) == self.session {
            return None;
        }
        self.renew()
    }

    #[cold]
    fn renew(&mut self) -> Option<[u64; ASKED]> {
        self.session = self.switch.session.load(Ordering::Acquire);
        let asked = std::array::from_fn(|n| {
            self.switch
                .asked
                .get(n)
                .map_or(0, |word| word.load(Ordering::Relaxed))
        });
        if let Some(lane) = self.lane {
            lane.seen.store(self.session, Ordering::Release);
        }
        (self.session != 0).then_some(asked)
    }

    #[inline(always)]
    pub(crate) fn is_on(&self) -> bool {
        self.session != 0
    }

    pub(crate) fn session(&self) -> u32 {
        self.session
    }

    pub(crate) fn ring(&self) -> Option<&'a Ring> {
        self.lane.map(|lane| &lane.ring)
    }
}

/// Both ways of seeing.
#[derive(Debug)]
pub struct Observation {
    /// Copies of packets.
    pub capture: Switch,
    /// What was decided about packets.
    pub trace: Switch,
}

impl Observation {
    /// Everything off.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            capture: Switch::new(workers, capture::RING_ORDER),
            trace: Switch::new(workers, trace::RING_ORDER),
        }
    }

    /// Ends what is under way, for good.
    pub fn close(&self) {
        self.capture.close();
        self.trace.close();
    }
}
