//! The tables between the one writer and the many readers.
//!
//! Workers read them at every packet, so no reader ever waits: not for a lock, not for a retry. The control thread
//! is the only writer. Both meet in plain atomic words: a record is filled first and published by one store of its
//! place, and its memory is used again only after every worker has passed a quiescent state (`quiescent`). That is
//! why nothing here needs `unsafe`.

pub mod activity;
pub mod arena;
pub mod flows;
pub mod index;
pub mod lines;
pub mod quiescent;
pub mod region;
pub mod routes;
pub mod slots;

use std::sync::atomic::Ordering;

use crate::observe::Observation;
use activity::Activity;
use arena::Arena;
use index::Index;
use net::address::Address;
use quiescent::Quiescence;
use region::Region;
use routes::Route;
use slots::{AccessSlot, Slots};

use crate::uplink::template;

use crate::sync::{AtomicU32, AtomicU64, zeros};

/// Services that can have policy state at once.
pub const SERVICES: usize = 1 << 20;
/// Access ports that can be attached at once, the host's and those in their grace period included.
pub const SLOTS: usize = 4096;

/// All tables that workers read.
#[derive(Debug)]
pub struct Tables {
    /// Memory of the indexes' nodes and of the backend sets.
    pub arena: Arena,
    /// Address to meaning.
    pub routes: Index,
    /// Interface index to access slot.
    pub interfaces: Index,
    /// The access ports.
    pub slots: Slots,
    /// Backends, hosts and flows.
    pub region: Region,
    /// Who may still read what.
    pub quiescence: Quiescence,
    /// The slot of the host TAP, which changes with its addresses.
    host_slot: AtomicU32,
    /// Per backend: the second of its last packet.
    used: Box<[AtomicU32]>,
    /// Towards a host by an ethdev uplink: its address to a cell that holds the next hop.
    pub next_hops: Index,
    /// By a host's number, for an ethdev uplink: the first cell of the headers of its datagrams; 0 while there are none.
    templates: Box<[AtomicU32]>,
    /// First cell of the list of hosts to probe, and its length.
    probed: AtomicU64,
    /// Addresses of hosts to their numbers.
    pub hosts: Index,
    /// Grows with each change that a waiting packet may have waited for.
    version: AtomicU64,
    /// Who wants to see what packets do.
    pub observation: Observation,
    /// What containers serve, by the numbers of their ports.
    pub activity: Activity,
    /// Counts backends that went away.
    departures: AtomicU64,
    /// Grows with each change of what workers keep of hosts.
    hosts_version: AtomicU32,
}

impl Tables {
    /// Empty tables over a region.
    #[must_use]
    pub fn new(region: Region, workers: usize) -> Self {
        let (seed, backends) = (region.seed(), region.layout().backends);
        let hosts = region.layout().hosts;
        Self {
            arena: Arena::new(),
            // Two buckets for each instance, so that chains stay short.
            routes: Index::new((2 * backends.max(1)).ilog2().clamp(20, 24), seed),
            interfaces: Index::new(12, seed),
            slots: Slots::new(SLOTS),
            region,
            quiescence: Quiescence::new(workers),
            host_slot: AtomicU32::new(0),
            used: zeros(backends),
            next_hops: Index::new(12, seed),
            templates: zeros(hosts),
            probed: AtomicU64::new(0),
            hosts: Index::new(12, seed),
            version: AtomicU64::new(0),
            observation: Observation::new(workers),
            activity: Activity::new(SLOTS),
            departures: AtomicU64::new(0),
            hosts_version: AtomicU32::new(0),
        }
    }

    /// The meaning of an address.
    #[inline(always)]
    #[must_use]
    pub fn route(&self, address: Address) -> Option<Route> {
        self.routes.get(&self.arena, address).map(Route::from_word)
    }

    /// Whether a packet that waits for this address can go on: a container's own namespace IP waits for its Instance
    /// IP, everything else for a route.
    #[must_use]
    pub fn is_known(&self, address: Address) -> bool {
        match self.route(address) {
            None => false,
            Some(Route::Local(slot)) => self
                .slots
                .get(slot)
                .is_some_and(|port| !port.instance(address.is_v4()).is_unspecified()),
            Some(_) => true,
        }
    }

    /// The access slot of an interface.
    #[inline(always)]
    #[must_use]
    pub fn interface(&self, ifindex: u32) -> Option<u32> {
        self.interfaces
            .get(&self.arena, Address(u128::from(ifindex)))
            .map(low32)
    }

    /// The access port of an interface.
    #[must_use]
    pub fn port(&self, ifindex: u32) -> Option<AccessSlot> {
        self.interface(ifindex)
            .and_then(|slot| self.slots.get(slot))
    }

    /// Notes that a packet used a backend's route, at `now` in seconds.
    #[inline(always)]
    pub fn mark_used(&self, backend: u32, now: u32) {
        if let Some(word) = self.used.get(backend as usize)
            && word.load(Ordering::Relaxed) != now
        {
            word.store(now, Ordering::Relaxed);
        }
    }

    /// When a packet last used a backend's route, in seconds; 0 for never.
    #[must_use]
    pub fn last_used(&self, backend: u32) -> u32 {
        self.used
            .get(backend as usize)
            .map_or(0, |w| w.load(Ordering::Relaxed))
    }

    /// The hosts whose distance is wanted, a number in each word.
    #[must_use]
    pub fn probed_hosts(&self) -> &[AtomicU64] {
        let place = self.probed.load(Ordering::Acquire);
        self.arena
            .words(high32(place))
            .get(..low32(place) as usize)
            .unwrap_or(&[])
    }

    /// Publishes a list of hosts to probe; gives back the old one's first cell and length. Writer only.
    pub fn set_probed_hosts(&self, cell: u32, length: u32) -> (u32, u32) {
        let old = self.probed.swap(word(cell, length), Ordering::AcqRel);
        (high32(old), low32(old))
    }

    /// The words of the headers of datagrams to host `host`, for an ethdev uplink; none where it has to make them.
    #[inline(always)]
    #[must_use]
    pub fn template(&self, host: u32) -> Option<&[AtomicU64; template::WORDS]> {
        let cell = self.templates.get(host as usize)?.load(Ordering::Acquire);
        if cell == 0 {
            return None;
        }
        self.arena.words(cell).first_chunk()
    }

    /// Publishes such words by their first cell; the old one, 0 where there was none. Writer only.
    pub(crate) fn set_template(&self, host: u32, cell: u32) -> u32 {
        let old = self
            .templates
            .get(host as usize)
            .map_or(0, |word| word.swap(cell, Ordering::AcqRel));
        self.bump_hosts_version();
        old
    }

    /// The tunnel endpoint of the host with this address, if it is known.
    #[must_use]
    pub fn endpoint_of(&self, address: Address) -> Option<(Address, u16)> {
        let number = self.hosts.get(&self.arena, address)?;
        self.region.host(low32(number))
    }

    /// The host TAP's slot number.
    #[must_use]
    pub fn host_slot(&self) -> u32 {
        self.host_slot.load(Ordering::Acquire)
    }

    /// The host TAP's slot: the gateway addresses, and the node's own Instance IPs.
    #[must_use]
    pub fn host(&self) -> Option<AccessSlot> {
        self.slots.get(self.host_slot())
    }

    /// Publishes a filled slot as the host's. Writer only.
    pub fn set_host_slot(&self, slot: u32) {
        self.host_slot.store(slot, Ordering::Release);
    }

    /// Counts changes; a worker with waiting packets looks again when it has grown.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Counts changes of the paths to hosts and of the headers towards them; what a worker keeps of a host is of one
    /// version.
    #[inline(always)]
    #[must_use]
    pub fn hosts_version(&self) -> u32 {
        self.hosts_version.load(Ordering::Acquire)
    }

    /// What workers keep of hosts has changed: the tables say so already. Writer only.
    pub(crate) fn bump_hosts_version(&self) {
        self.hosts_version.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts backends that went away; a worker looks for flows to them when it has grown.
    #[must_use]
    pub fn departures(&self) -> u64 {
        self.departures.load(Ordering::Acquire)
    }

    /// A backend has gone: its record says so already. Writer only.
    pub fn count_departure(&self) {
        self.departures.fetch_add(1, Ordering::AcqRel);
    }

    /// Something changed. Writer only.
    pub fn bump_version(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }
}

/// Mixes two words into one, so that every input bit reaches every output bit: a 64 × 64 → 128 bit product, folded.
#[inline(always)]
#[must_use]
#[allow(clippy::cast_possible_truncation)] // both halves of the product are wanted
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Odd constants with as many ones as zeros, for `mix`.
pub(crate) const SALT: [u64; 3] = [
    0x9e37_79b9_7f4a_7c15,
    0xd6e8_feb8_6659_fd93,
    0xa076_1d64_78bd_642f,
];

/// Splits an address into its high and low words.
#[inline(always)]
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn halves(address: net::address::Address) -> (u64, u64) {
    ((address.0 >> 64) as u64, address.0 as u64)
}

/// Joins the high and low words of an address.
#[inline(always)]
pub(crate) fn join(high: u64, low: u64) -> net::address::Address {
    net::address::Address((u128::from(high) << 64) | u128::from(low))
}

/// The low 32 bits of a word.
#[inline(always)]
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn low32(word: u64) -> u32 {
    word as u32
}

/// The high 32 bits of a word.
#[inline(always)]
pub(crate) fn high32(word: u64) -> u32 {
    low32(word >> 32)
}

/// A word of two halves.
#[inline(always)]
pub(crate) fn word(high: u32, low: u32) -> u64 {
    (u64::from(high) << 32) | u64::from(low)
}
