//! One worker's numbers that are kept apart: per instance, per service, per policy, per container.
//!
//! As with the counters, every word has one writer, and whoever asks adds the workers up. A packet of a flow adds to one
//! word of its service, a frame of a container to one cache line of its port; everything else is counted when flows
//! open and end. Numbers of services and ports are given again only when no worker can count for the old owner any
//! more; then the control thread sets their words to zero.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use net::address::Address;

use crate::policy::Policy;
use crate::tables::lines::Lines;
use crate::tables::{SALT, SERVICES, SLOTS, halves, mix};

/// What is counted of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum OfService {
    /// Packets of its flows, both directions.
    Packets,
    /// Flows opened.
    Opened,
    /// Flows that live.
    Live,
    /// Packets refused: no instance, or the flow's is gone.
    Refused,
}

const OF_SERVICE: usize = 4;

/// What is counted of an access port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum OfPort {
    /// Frames from the container.
    PacketsIn,
    /// Their bytes.
    BytesIn,
    /// Frames to the container, the refused ones among them.
    PacketsOut,
    /// Their bytes.
    BytesOut,
    /// Frames to the container that its port did not take.
    Refused,
}

/// The numbers of one worker.
#[derive(Debug)]
pub struct Tally {
    live: Box<[AtomicU32]>,
    services: Box<[[AtomicU64; OF_SERVICE]]>,
    ports: Lines,
    policies: [[AtomicU64; 2]; Policy::ALL.len()],
    /// Flows by their clients, many of which share a word.
    clients: Box<[AtomicU32]>,
}

const CLIENTS: usize = 1 << 12;

impl Tally {
    /// With room for so many backends.
    #[must_use]
    pub fn new(backends: usize) -> Self {
        Self {
            live: bytemuck::zeroed_slice_box(backends),
            services: bytemuck::zeroed_slice_box(SERVICES),
            ports: Lines::new(SLOTS),
            policies: [const { [const { AtomicU64::new(0) }; 2] }; Policy::ALL.len()],
            clients: bytemuck::zeroed_slice_box(CLIENTS),
        }
    }
}

#[inline(always)]
fn add(word: &AtomicU64, by: u64) {
    word.store(
        word.load(Ordering::Relaxed).wrapping_add(by),
        Ordering::Relaxed,
    );
}

impl Tally {
    fn change_live(&self, backend: u32, change: impl Fn(u32) -> u32) {
        if let Some(word) = self.live.get(backend as usize) {
            word.store(change(word.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
    }

    /// A flow to this backend lives. Only the owning worker may call this.
    pub(crate) fn flow_opened(&self, backend: u32) {
        self.change_live(backend, |n| n.saturating_add(1));
    }

    /// A flow to this backend has ended. Only the owning worker may call this.
    pub(crate) fn flow_ended(&self, backend: u32, service: Option<u32>) {
        self.change_live(backend, |n| n.saturating_sub(1));
        if let Some(word) = service.and_then(|s| self.service_word(s, OfService::Live)) {
            word.store(
                word.load(Ordering::Relaxed).saturating_sub(1),
                Ordering::Relaxed,
            );
        }
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // the upper bits are wanted
    fn client(&self, client: Address) -> Option<&AtomicU32> {
        let (high, low) = halves(client);
        let hash = mix(low ^ SALT[0], high ^ SALT[1]);
        self.clients.get((hash >> 52) as usize)
    }

    /// A flow of this client takes place in the table. Only the owning worker may call this.
    pub(crate) fn client_came(&self, client: Address) {
        if let Some(word) = self.client(client) {
            word.store(
                word.load(Ordering::Relaxed).saturating_add(1),
                Ordering::Relaxed,
            );
        }
    }

    /// A flow of this client has left the table. Only the owning worker may call this.
    pub(crate) fn client_went(&self, client: Address) {
        if let Some(word) = self.client(client) {
            word.store(
                word.load(Ordering::Relaxed).saturating_sub(1),
                Ordering::Relaxed,
            );
        }
    }

    /// Whether the table of this worker may hold flows of this client; never false while it does.
    #[inline(always)]
    #[must_use]
    pub fn may_have_flows(&self, client: Address) -> bool {
        self.client(client)
            .is_none_or(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// Live flows of this worker to a backend.
    #[inline]
    #[must_use]
    pub fn live_flows(&self, backend: u32) -> u32 {
        self.live
            .get(backend as usize)
            .map_or(0, |w| w.load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn service_word(&self, service: u32, which: OfService) -> Option<&AtomicU64> {
        self.services.get(service as usize)?.get(which as usize)
    }

    /// Counts one of a service. Only the owning worker may call this.
    #[inline(always)]
    pub fn count_service(&self, service: u32, which: OfService) {
        if let Some(word) = self.service_word(service, which) {
            add(word, 1);
        }
    }

    /// The value now.
    #[must_use]
    pub fn service(&self, service: u32, which: OfService) -> u64 {
        self.service_word(service, which)
            .map_or(0, |w| w.load(Ordering::Relaxed))
    }

    /// Sets a service's numbers to zero. For the control thread, when no worker can count for it.
    pub(crate) fn clear_service(&self, service: u32) {
        for word in self.services.get(service as usize).into_iter().flatten() {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Counts frames of `bytes` in all at an access port: `packets` and the counter behind it. Only the owning worker
    /// may call this.
    #[inline(always)]
    fn frames(&self, port: u16, which: OfPort, packets: usize, bytes: usize) {
        if let Some(line) = self.ports.get(usize::from(port))
            && let Some([count, sum]) = line.get(which as usize..).and_then(|w| w.first_chunk())
        {
            add(count, packets as u64);
            add(sum, bytes as u64);
        }
    }

    /// A frame came from the container. Only the owning worker may call this.
    #[inline(always)]
    pub fn frame_in(&self, port: u16, bytes: usize) {
        self.frames(port, OfPort::PacketsIn, 1, bytes);
    }

    /// So many frames came from the container. Only the owning worker may call this.
    #[inline(always)]
    pub fn frames_in(&self, port: u16, packets: usize, bytes: usize) {
        self.frames(port, OfPort::PacketsIn, packets, bytes);
    }

    /// A frame goes to the container. Only the owning worker may call this.
    #[inline(always)]
    pub fn frame_out(&self, port: u16, bytes: usize) {
        self.frames(port, OfPort::PacketsOut, 1, bytes);
    }

    /// So many frames go to the container. Only the owning worker may call this.
    #[inline(always)]
    pub fn frames_out(&self, port: u16, packets: usize, bytes: usize) {
        self.frames(port, OfPort::PacketsOut, packets, bytes);
    }

    /// The port did not take so many frames. Only the owning worker may call this.
    #[cold]
    pub fn refused(&self, port: u16, frames: u64) {
        if let Some(word) = self.port_word(port, OfPort::Refused) {
            add(word, frames);
        }
    }

    /// The value now.
    #[must_use]
    pub fn port(&self, port: u16, which: OfPort) -> u64 {
        self.port_word(port, which)
            .map_or(0, |w| w.load(Ordering::Relaxed))
    }

    fn port_word(&self, port: u16, which: OfPort) -> Option<&AtomicU64> {
        self.ports.get(usize::from(port))?.get(which as usize)
    }

    /// Sets a port's numbers to zero. For the control thread, when no worker can count for it.
    pub(crate) fn clear_port(&self, port: u16) {
        for word in self.ports.get(usize::from(port)).into_iter().flatten() {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// A policy was asked: it `picked`, or it found nobody. Only the owning worker may call this.
    pub(crate) fn asked(&self, policy: Policy, picked: bool) {
        if let Some([picks, refusals]) = self.policies.get(policy as usize) {
            add(if picked { picks } else { refusals }, 1);
        }
    }

    /// How often a policy picked, and how often it found nobody.
    #[must_use]
    pub fn policy(&self, policy: Policy) -> (u64, u64) {
        self.policies.get(policy as usize).map_or((0, 0), |w| {
            let [picked, refused] = w;
            (
                picked.load(Ordering::Relaxed),
                refused.load(Ordering::Relaxed),
            )
        })
    }
}
