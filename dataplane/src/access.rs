//! The access role: towards containers and VMs. Two kinds play it behind one face, side by side: one packet socket for
//! all veth ends, and an ethdev for each VM (`net_vhost`) or whatever a benchmark plugs in.
//!
//! An ethdev port is plugged in and out while packets pass. Its queues go to the worker that owns the container through
//! a channel that the worker looks into when a flag says so, and come back the same way before the port is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use arrayvec::ArrayVec;
use dpdk::{Burst, Mbuf};
use kernel_port::{AccessPort, AccessStats, Sent};

use crate::plugged::{Flushed, Plugged};

/// Numbers of ethdev access ports have this bit; interface indexes, positive C integers, never do. One number space
/// for both, so that a slot's `ifindex` names either.
pub const ETHDEV: u32 = 1 << 31;

/// Whether a port of this number is an ethdev.
#[inline(always)]
#[must_use]
pub const fn is_ethdev(number: u32) -> bool {
    number & ETHDEV != 0
}

/// Ports that DPDK has room for.
const PORTS_MAX: usize = 32;
/// What the control thread tells a worker about its ethdev access ports.
#[derive(Debug)]
pub enum Change {
    /// Poll this one, too.
    Plug(Box<Plugged>),
    /// A packet that was made for one of this worker's containers.
    Answer(Mbuf),
    /// Give this one's queues back: they are dropped by who takes them, not by the worker.
    Unplug(u32, SyncSender<Option<Box<Plugged>>>),
}

/// Changes that may wait; one more and the control thread waits.
const CHANGES: usize = 64;

/// The control thread's end of a worker's changes.
#[derive(Clone, Debug)]
pub struct Changer {
    changes: SyncSender<Change>,
    pending: Arc<AtomicBool>,
}

/// The worker's end.
#[derive(Debug)]
pub struct Changes {
    changes: Receiver<Change>,
    pending: Arc<AtomicBool>,
}

/// Both ends.
#[must_use]
pub fn changes() -> (Changer, Changes) {
    let (sender, receiver) = sync_channel(CHANGES);
    let pending = Arc::new(AtomicBool::new(false));
    let changer = Changer {
        changes: sender,
        pending: Arc::clone(&pending),
    };
    let changes = Changes {
        changes: receiver,
        pending,
    };
    (changer, changes)
}

impl Changer {
    /// Tells the worker, which must be woken then; false when it has ended (its queues are free then).
    pub fn tell(&self, change: Change) -> bool {
        let told = self.changes.send(change).is_ok();
        self.pending.store(true, Ordering::Release);
        told
    }
}

/// One worker's access ports.
pub struct Access {
    kernel: AccessPort,
    #[allow(clippy::vec_box)]
    // it comes and goes as one pointer; the control thread allocates and frees it
    plugged: Vec<Box<Plugged>>,
    changes: Changes,
    /// Packets that the control side made.
    answers: ArrayVec<Mbuf, CHANGES>,
    /// Of ports that are not there any more.
    gone: Flushed,
    /// What all ethdev ports received and sent.
    received: u64,
    total: Sent,
}

impl Access {
    /// The packet socket alone, until a change says otherwise.
    #[must_use]
    pub fn new(kernel: AccessPort, changes: Changes) -> Self {
        Self {
            kernel,
            plugged: Vec::with_capacity(PORTS_MAX),
            changes,
            answers: ArrayVec::new(),
            gone: Flushed::default(),
            received: 0,
            total: Sent::default(),
        }
    }

    /// Follows the control thread's changes; whether there were any.
    #[inline(always)]
    pub fn follow(&mut self) -> bool {
        let pending = self.changes.pending.load(Ordering::Relaxed);
        if pending {
            self.change();
        }
        pending
    }

    /// A packet that the control side made, from its IP header on, if there is one.
    pub fn take_answer(&mut self) -> Option<Mbuf> {
        self.answers.pop()
    }

    #[cold]
    fn change(&mut self) {
        self.changes.pending.store(false, Ordering::Release);
        loop {
            if self.answers.is_full() {
                self.changes.pending.store(true, Ordering::Release);
                return;
            }
            match self.changes.changes.try_recv() {
                Ok(Change::Plug(port)) => self.plugged.push(port),
                Ok(Change::Answer(packet)) => self.answers.push(packet),
                Ok(Change::Unplug(number, reply)) => {
                    let at = self.plugged.iter().position(|port| port.number == number);
                    let mut port = at.map(|at| self.plugged.swap_remove(at));
                    if let Some(port) = &mut port {
                        let flushed = port.flush();
                        self.gone.sent += flushed.sent;
                        self.gone.pieces += flushed.pieces;
                    }
                    // Nobody waits any more: the queues go with the port, here.
                    let _ = reply.try_send(port);
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    /// Whether all ports have a descriptor to sleep on.
    #[inline]
    #[must_use]
    pub fn has_descriptors(&self) -> bool {
        self.plugged.is_empty()
    }

    /// Hands what has arrived at the packet socket to `sink`, `limit` frames at most; how much that was.
    #[inline]
    pub fn receive(&mut self, limit: usize, sink: &mut impl FnMut(Mbuf, u32)) -> usize {
        self.kernel.receive(limit, sink)
    }

    /// Adds what has arrived at the `n`th ethdev port to `into`; the port's number, if there are so many ports.
    #[inline]
    pub fn poll<const N: usize>(&mut self, n: usize, into: &mut Burst<N>) -> Option<u32> {
        let port = self.plugged.get_mut(n)?;
        self.received += port.receive(into) as u64;
        Some(port.number)
    }

    /// Queues a frame for a port.
    #[inline]
    pub fn push(&mut self, frame: Mbuf, number: u32) {
        if !is_ethdev(number) {
            return self.kernel.push(frame, number);
        }
        match self.plugged.iter_mut().find(|port| port.number == number) {
            Some(port) => port.push(frame),
            None => self.gone.sent.dropped += 1,
        }
    }

    /// Sends what is queued.
    pub fn flush(&mut self) -> Flushed {
        let mut flushed = std::mem::take(&mut self.gone);
        for port in &mut self.plugged {
            let of_port = port.flush();
            port.refused += of_port.sent.dropped;
            flushed.sent += of_port.sent;
            flushed.pieces += of_port.pieces;
        }
        self.total += flushed.sent;
        flushed.sent += self.kernel.flush();
        flushed
    }

    /// Hands out how many frames to which ports were not sent since the call before.
    pub fn take_refused(&mut self, mut sink: impl FnMut((u32, usize))) {
        self.kernel.take_refused(&mut sink);
        for port in self.plugged.iter_mut().filter(|port| port.refused > 0) {
            sink((port.number, std::mem::take(&mut port.refused)));
        }
    }

    /// What all ports counted; what an ethdev refuses it had no room for.
    #[must_use]
    pub fn stats(&self) -> AccessStats {
        let mut stats = self.kernel.stats();
        stats.received += self.received;
        stats.sent += self.total.sent as u64;
        stats.tx_would_block += self.total.dropped as u64;
        stats
    }
}
