//! The mapping that outlives the process: flow shards, and the backends and hosts that flows name.
//!
//! Only the client's node knows which instance a flow was given, so after a crash or an upgrade the next process must
//! find its flows again (design section 4). Everything is words at fixed places, without pointers, so that the
//! mapping can be taken over as it lies. A header says version and layout; a mapping that does not match is thrown
//! away with a log line. Backends and hosts are written by the control thread, each shard by its worker alone.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use kernel_port::SharedWords;
use net::address::Address;

use super::{halves, high32, join, low32, word};

const MAGIC: u64 = u64::from_be_bytes(*b"oakflows");
const VERSION: u64 = 5;
const HEADER_WORDS: usize = 64;
/// Backends that the mapping of a node has room for.
pub const BACKENDS: usize = 1 << 17;
/// Words of a backend's record: one cache line.
pub const BACKEND_WORDS: usize = 8;
/// Words of a host's record.
const HOST_WORDS: usize = 4;
/// In the word of a host's port, so that port 0 is not taken for an unused record.
const HOST_IN_USE: u64 = 1 << 16;
/// Words before a shard's slots.
pub const SHARD_HEADER_WORDS: usize = 8;
/// Words of a flow slot: one cache line.
pub const SLOT_WORDS: usize = 8;

/// Words behind a shard's header: its slots, and a byte for each that says how long its flow lives on.
#[must_use]
pub const fn shard_words(slots: usize) -> usize {
    slots * SLOT_WORDS + slots / 8
}

/// Sizes of the parts, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Flow shards, one for each worker.
    pub shards: usize,
    /// Slots of a shard, a power of two; a flow takes two, one for each direction.
    pub slots: usize,
    /// Backends, live and resting.
    pub backends: usize,
    /// Hosts.
    pub hosts: usize,
}

impl Layout {
    /// The layout for `flows` flows spread over `shards` workers.
    #[must_use]
    pub fn for_flows(flows: usize, shards: usize) -> Self {
        let shards = shards.max(1);
        Self {
            shards,
            slots: (flows.div_ceil(shards) * 2)
                .next_power_of_two()
                .max(1 << 10),
            backends: BACKENDS,
            hosts: 1 << 14,
        }
    }

    fn words(&self) -> usize {
        self.shard_at(self.shards)
    }

    /// Megabytes that the mapping takes, rounded up.
    #[must_use]
    pub fn megabytes(&self) -> u64 {
        (self.words() as u64 * 8).div_ceil(1 << 20)
    }

    fn hosts_at(&self) -> usize {
        HEADER_WORDS + self.backends * BACKEND_WORDS
    }

    fn shard_at(&self, shard: usize) -> usize {
        self.hosts_at()
            + self.hosts * HOST_WORDS
            + shard * (SHARD_HEADER_WORDS + shard_words(self.slots))
    }

    fn fingerprint(&self) -> [u64; 4] {
        [
            self.shards as u64,
            self.slots as u64,
            self.backends as u64,
            self.hosts as u64,
        ]
    }
}

/// A backend as a flow names it: the id of its record, and the generation, so that a later tenant of the same record
/// is not taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendRef {
    /// Place in the table.
    pub id: u32,
    /// Odd while the record is in use.
    pub generation: u32,
}

impl BackendRef {
    pub(crate) fn to_word(self) -> u64 {
        word(self.id, self.generation)
    }

    pub(crate) fn from_word(value: u64) -> Self {
        Self {
            id: high32(value),
            generation: low32(value),
        }
    }
}

/// Where packets for a backend go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// It is not attached (any more or yet).
    Nowhere,
    /// Behind the access port in this slot.
    Local(u32),
    /// On the host with this number.
    Host(u32),
}

impl Location {
    fn to_word(self, load: u32) -> u64 {
        let (kind, value) = match self {
            Location::Nowhere => (0u64, 0),
            Location::Local(slot) => (1, slot),
            Location::Host(host) => (2, host),
        };
        (kind << 62) | (u64::from(load.min(LOAD_MAX)) << 32) | u64::from(value)
    }

    #[inline(always)]
    fn from_word(word: u64) -> Self {
        match word >> 62 {
            1 => Location::Local(low32(word)),
            2 => Location::Host(low32(word)),
            _ => Location::Nowhere,
        }
    }
}

const LOAD_MAX: u32 = (1 << 24) - 1;
/// Longest round trip that is told from longer ones, in µs.
const RTT_MAX: u32 = (1 << 28) - 1;
/// Above a host's smoothed round trip: measured by a probe, and how many probes in a row had no answer.
const BY_PROBE: u64 = 1 << 63;
const UNANSWERED_SHIFT: u32 = 60;
const UNANSWERED_MAX: u64 = 7;
/// A host that left so many probes unanswered is one that answers none (any more).
const UNANSWERED_LIMIT: u64 = 3;

/// A backend's record as a plain value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it runs.
    pub location: Location,
    /// Its namespace IPs, unspecified where missing.
    pub namespace: (u32, Address),
    /// Its Instance IPs, unspecified where missing.
    pub instance: (u32, Address),
    /// Gets no new flows.
    pub draining: bool,
    /// Flows that its node reported.
    pub load: u32,
    /// A hash of its job's name, to find the backends of a job after a restart.
    pub job: u32,
    /// Its number in the job.
    pub number: u32,
}

const DRAINING: u64 = 1;

/// The records of all backends.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a>(&'a [[AtomicU64; BACKEND_WORDS]]);

impl<'a> Records<'a> {
    /// Asks for record `id`.
    #[inline(always)]
    pub fn prefetch(self, id: u32) {
        if let Some(w) = self.0.get(id as usize) {
            dpdk::prefetch(w);
        }
    }

    /// The record that `reference` names, if it still holds the same backend and flows may go there.
    #[inline(always)]
    #[must_use]
    pub fn get(self, reference: BackendRef) -> Option<Record<'a>> {
        let w = self.0.get(reference.id as usize)?;
        let state = w[0].load(Ordering::Acquire);
        let same = high32(state) == reference.generation && reference.generation & 1 == 1;
        same.then_some(Record(w))
    }

    /// The record `id`, if it holds a backend that flows may go to.
    #[inline(always)]
    #[must_use]
    pub fn at(self, id: u32) -> Option<Record<'a>> {
        let w = self.0.get(id as usize)?;
        let state = w[0].load(Ordering::Acquire);
        (high32(state) & 1 == 1).then_some(Record(w))
    }
}

/// A backend's record in place, of which only what is asked for is read.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a>(&'a [AtomicU64; BACKEND_WORDS]);

impl Record<'_> {
    /// Where the backend runs.
    #[inline(always)]
    #[must_use]
    pub fn location(self) -> Location {
        Location::from_word(self.0[1].load(Ordering::Acquire))
    }

    /// Its namespace IPv4 address, 0 where it has none.
    #[inline(always)]
    #[must_use]
    pub fn namespace_v4(self) -> u32 {
        high32(self.0[4].load(Ordering::Relaxed))
    }

    /// Its Instance IPv4 address, 0 where it has none.
    #[inline(always)]
    #[must_use]
    pub fn instance_v4(self) -> u32 {
        low32(self.0[4].load(Ordering::Relaxed))
    }

    /// Its Instance IPv6 address, unspecified where it has none.
    #[inline(always)]
    #[must_use]
    pub fn instance_v6(self) -> Address {
        join(
            self.0[5].load(Ordering::Relaxed),
            self.0[6].load(Ordering::Relaxed),
        )
    }

    /// Its namespace IPv6 address, unspecified where it has none.
    #[inline(always)]
    #[must_use]
    pub fn namespace_v6(self) -> Address {
        join(
            self.0[2].load(Ordering::Relaxed),
            self.0[3].load(Ordering::Relaxed),
        )
    }
}

/// The mapping, or heap memory of the same shape where nothing needs to survive.
enum Words {
    Mapped(SharedWords),
    Heap(Box<[AtomicU64]>),
}

/// What was found when the region was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Nothing was there.
    New,
    /// Flows of an earlier process.
    TakenOver,
    /// Something was there that this program cannot use; it was cleared. The text says why.
    Discarded(&'static str),
}

/// The whole mapping.
pub struct Region {
    words: Words,
    layout: Layout,
    seed: u64,
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region")
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

impl Region {
    /// Opens the mapping at `path`, or makes it.
    ///
    /// # Errors
    /// When the file cannot be mapped, or another process holds it.
    pub fn open(
        path: &Path,
        layout: Layout,
        seed: u64,
        namespace: u64,
    ) -> Result<(Self, Opened), kernel_port::KernelPortError> {
        let (shared, existed) = SharedWords::open(path, layout.words())?;
        let replaced = shared.replaced().is_some();
        let (region, opened) = Self::adopt(Words::Mapped(shared), layout, seed, namespace, existed);
        Ok((
            region,
            if replaced {
                Opened::Discarded("its size is another")
            } else {
                opened
            },
        ))
    }

    /// Becomes a copy of `old`, which has the same layout. The magic comes last here too.
    pub(crate) fn move_from(&mut self, old: &Self) {
        for (to, from) in self.words().iter().zip(old.words()).rev() {
            let value = from.load(Ordering::Relaxed);
            // Untouched pages stay so.
            if to.load(Ordering::Relaxed) != value {
                to.store(value, Ordering::Release);
            }
        }
        self.seed = old.seed;
    }

    /// A region on the heap, for tests and benchmarks.
    #[must_use]
    pub fn on_heap(layout: Layout, seed: u64) -> Self {
        let words = Words::Heap(bytemuck::zeroed_slice_box(layout.words()));
        Self::adopt(words, layout, seed, 0, false).0
    }

    /// What the next process would find.
    #[cfg(test)]
    pub fn taken_over(&self) -> Self {
        let copy = |w: &AtomicU64| AtomicU64::new(w.load(Ordering::Relaxed));
        let words = Words::Heap(self.words().iter().map(copy).collect());
        let (region, opened) = Self::adopt(words, self.layout, 0, 0, true);
        assert_eq!(opened, Opened::TakenOver);
        region
    }

    fn adopt(
        words: Words,
        layout: Layout,
        seed: u64,
        namespace: u64,
        existed: bool,
    ) -> (Self, Opened) {
        let mut region = Self {
            words,
            layout,
            seed,
        };
        let opened = if !existed {
            Opened::New
        } else if region.header(0) != MAGIC {
            Opened::Discarded("it is not a flow mapping")
        } else if region.header(1) > VERSION {
            Opened::Discarded("it was written by a newer version of this program")
        } else if region.header(1) < VERSION {
            Opened::Discarded("it was written by an older version of this program")
        } else if (0..4).any(|n| region.header(2 + n) != layout.fingerprint()[n]) {
            Opened::Discarded("the number of flows or workers has changed")
        } else if region.header(7) != namespace {
            Opened::Discarded("it belongs to another network namespace")
        } else {
            Opened::TakenOver
        };
        match opened {
            Opened::TakenOver => region.seed = region.header(6),
            Opened::Discarded(_) => region.clear(),
            Opened::New => {}
        }
        if opened != Opened::TakenOver {
            // The magic comes last: a crash before it leaves a mapping that is thrown away.
            for (n, value) in layout.fingerprint().into_iter().enumerate() {
                region.store(2 + n, value);
            }
            region.store(1, VERSION);
            region.store(6, seed);
            region.store(7, namespace);
            region.store(0, MAGIC);
        }
        (region, opened)
    }

    fn clear(&self) {
        for word in self.words() {
            // Reading first keeps untouched pages of a sparse file untouched.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    #[inline(always)]
    fn words(&self) -> &[AtomicU64] {
        match &self.words {
            Words::Mapped(shared) => shared.words(),
            Words::Heap(words) => words,
        }
    }

    fn header(&self, n: usize) -> u64 {
        self.words().get(n).map_or(0, |w| w.load(Ordering::Relaxed))
    }

    fn store(&self, n: usize, value: u64) {
        if let Some(word) = self.words().get(n) {
            word.store(value, Ordering::Release);
        }
    }

    /// The sizes.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The key of the flow hash; it stays with the mapping.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The words of one shard: its header, and its slots with their ages.
    #[must_use]
    pub fn shard(&self, shard: usize) -> Option<(&[AtomicU64], &[AtomicU64])> {
        if shard >= self.layout.shards {
            return None;
        }
        let at = self.layout.shard_at(shard);
        self.words()
            .get(at..at + SHARD_HEADER_WORDS + shard_words(self.layout.slots))
            .map(|w| w.split_at(SHARD_HEADER_WORDS))
    }

    #[inline(always)]
    fn backend_words(&self, id: u32) -> Option<&[AtomicU64; BACKEND_WORDS]> {
        if id as usize >= self.layout.backends {
            return None;
        }
        self.words()
            .get(HEADER_WORDS + id as usize * BACKEND_WORDS..)?
            .first_chunk()
    }

    /// The generation of record `id`: odd while it is in use.
    #[must_use]
    pub fn backend_generation(&self, id: u32) -> u32 {
        self.backend_words(id)
            .map_or(0, |w| high32(w[0].load(Ordering::Acquire)))
    }

    /// The backend that `reference` names, if it is still the same one.
    #[inline]
    #[must_use]
    pub fn backend(&self, reference: BackendRef) -> Option<Backend> {
        let w = self.backend_words(reference.id)?;
        let state = w[0].load(Ordering::Acquire);
        (high32(state) == reference.generation && reference.generation & 1 == 1)
            .then(|| Self::read_backend(w, state))
    }

    /// Whether flows may still go to it.
    #[inline]
    #[must_use]
    pub fn is_there(&self, reference: BackendRef) -> bool {
        self.backend_words(reference.id).is_some_and(|w| {
            let state = w[0].load(Ordering::Acquire);
            high32(state) == reference.generation && reference.generation & 1 == 1
        })
    }

    #[inline(always)]
    fn read_backend(w: &[AtomicU64; BACKEND_WORDS], state: u64) -> Backend {
        let location = w[1].load(Ordering::Acquire);
        let v4 = w[4].load(Ordering::Relaxed);
        let tag = w[7].load(Ordering::Relaxed);
        Backend {
            location: Location::from_word(location),
            namespace: (
                high32(v4),
                join(w[2].load(Ordering::Relaxed), w[3].load(Ordering::Relaxed)),
            ),
            instance: (
                low32(v4),
                join(w[5].load(Ordering::Relaxed), w[6].load(Ordering::Relaxed)),
            ),
            draining: state & DRAINING != 0,
            load: high32(location & !(3 << 62)),
            job: high32(tag),
            number: low32(tag),
        }
    }

    /// All records of backends, for who reads them at every packet.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        let words = self.words().get(HEADER_WORDS..self.layout.hosts_at());
        Records(words.map_or(&[], |w| w.as_chunks().0))
    }

    /// Of the first `count` records, the backends that have one of these namespace IPs; an unspecified one is nobody's.
    /// Writer only: a reader could see half of a record.
    pub fn with_namespace(
        &self,
        count: u32,
        v4: u32,
        v6: Address,
    ) -> impl Iterator<Item = (BackendRef, Backend)> + '_ {
        let (high, low) = halves(v6);
        let has_v6 = !v6.is_unspecified();
        let records = self.records().0.iter().zip(0..count);
        records.filter_map(move |(w, id)| {
            let same_v4 = v4 != 0 && high32(w[4].load(Ordering::Relaxed)) == v4;
            let same_v6 = has_v6
                && w[3].load(Ordering::Relaxed) == low
                && w[2].load(Ordering::Relaxed) == high;
            if same_v4 || same_v6 {
                return self.backend_at(id);
            }
            None
        })
    }

    /// Whatever backend is in record `id` now.
    #[must_use]
    pub fn backend_at(&self, id: u32) -> Option<(BackendRef, Backend)> {
        let reference = BackendRef {
            id,
            generation: self.backend_generation(id),
        };
        self.backend(reference).map(|b| (reference, b))
    }

    /// Puts a backend into the unused record `id`. Writer only; the record must have rested a grace period.
    pub fn publish_backend(&self, id: u32, backend: &Backend) -> Option<BackendRef> {
        let w = self.backend_words(id)?;
        let generation = (high32(w[0].load(Ordering::Relaxed)) | 1).wrapping_add(2) | 1;
        let (high, low) = halves(backend.namespace.1);
        w[2].store(high, Ordering::Relaxed);
        w[3].store(low, Ordering::Relaxed);
        w[4].store(
            word(backend.namespace.0, backend.instance.0),
            Ordering::Relaxed,
        );
        let (high, low) = halves(backend.instance.1);
        w[5].store(high, Ordering::Relaxed);
        w[6].store(low, Ordering::Relaxed);
        w[7].store(word(backend.job, backend.number), Ordering::Relaxed);
        w[1].store(backend.location.to_word(backend.load), Ordering::Relaxed);
        w[0].store(
            word(generation, u32::from(backend.draining)),
            Ordering::Release,
        );
        Some(BackendRef { id, generation })
    }

    /// Changes what may change while flows use it: where it runs, whether it drains, its load. Writer only.
    pub fn update_backend(
        &self,
        reference: BackendRef,
        location: Location,
        draining: bool,
        load: u32,
    ) {
        if let Some(w) = self.backend_words(reference.id) {
            w[1].store(location.to_word(load), Ordering::Release);
            w[0].store(
                word(reference.generation, u32::from(draining)),
                Ordering::Release,
            );
        }
    }

    /// Gives a backend another number in its job. Writer only.
    pub fn number_backend(&self, reference: BackendRef, number: u32) {
        if let Some(w) = self.backend_words(reference.id) {
            let tag = w[7].load(Ordering::Relaxed);
            if low32(tag) != number {
                w[7].store(word(high32(tag), number), Ordering::Relaxed);
            }
        }
    }

    /// The backend is gone; flows that name it see that at their next packet. Writer only.
    pub fn remove_backend(&self, reference: BackendRef) {
        if let Some(w) = self.backend_words(reference.id) {
            w[0].store(
                word(reference.generation.wrapping_add(1), 0),
                Ordering::Release,
            );
        }
    }

    #[inline(always)]
    fn host_words(&self, host: u32) -> Option<&[AtomicU64; HOST_WORDS]> {
        if host as usize >= self.layout.hosts {
            return None;
        }
        self.words()
            .get(self.layout.hosts_at() + host as usize * HOST_WORDS..)?
            .first_chunk()
    }

    /// The tunnel endpoint of host `host`: address, and port in host byte order. Numbers are never given to another
    /// host while the mapping lives.
    #[inline]
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub fn host(&self, host: u32) -> Option<(Address, u16)> {
        let w = self.host_words(host)?;
        let port = w[2].load(Ordering::Acquire);
        (port != 0).then(|| {
            (
                join(w[0].load(Ordering::Relaxed), w[1].load(Ordering::Relaxed)),
                port as u16,
            )
        })
    }

    /// Writes host record `host`. Writer only; the record must be unused.
    pub fn publish_host(&self, host: u32, address: Address, port: u16) -> bool {
        let Some(w) = self.host_words(host) else {
            return false;
        };
        let (high, low) = halves(address);
        w[0].store(high, Ordering::Relaxed);
        w[1].store(low, Ordering::Relaxed);
        w[2].store(HOST_IN_USE | u64::from(port), Ordering::Release);
        true
    }

    /// The longest inner packet that the path to a host carries in one piece, in bytes, as far as it is known; the
    /// largest number while it is not. It lies in the word that has the port.
    #[inline(always)]
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub fn host_mtu(&self, host: u32) -> u16 {
        // Inverted, so that a record that nobody has written to limits nothing.
        self.host_words(host)
            .map_or(u16::MAX, |w| !((w[2].load(Ordering::Relaxed) >> 32) as u16))
    }

    /// Publishes what the path to a host carries; [`u16::MAX`] lifts the limit. Writer only.
    pub fn set_host_mtu(&self, host: u32, mtu: u16) {
        if let Some(w) = self.host_words(host) {
            let endpoint = w[2].load(Ordering::Relaxed) & 0xffff_ffff;
            w[2].store((u64::from(!mtu) << 32) | endpoint, Ordering::Release);
        }
    }

    /// Learns from one measured round trip, in µs, by a probe or else by a TCP handshake. What is published changes
    /// only when the smoothed value has moved away from it by a fifth, so that two hosts at about the same distance
    /// do not take turns at being the closest. Handshakes count only while probes are not answered.
    pub fn learn_rtt(&self, host: u32, sample: u32, by_probe: bool) {
        let Some(word_) = self.host_words(host).map(|w| &w[3]) else {
            return;
        };
        let old = word_.load(Ordering::Relaxed);
        let (smoothed, published) = (high32(old) & RTT_MAX, low32(old));
        let probed = old & BY_PROBE != 0;
        if probed && !by_probe {
            return;
        }
        let sample = sample.clamp(1, RTT_MAX);
        let fresh = smoothed == 0 || (by_probe && !probed);
        // An eighth of the difference, as TCP does (RFC 6298).
        let smoothed = if fresh {
            sample
        } else {
            smoothed - smoothed / 8 + (sample / 8).max(u32::from(sample >= 4))
        };
        let far = published == 0 || fresh || smoothed.abs_diff(published) > published / 5;
        let published = if far { smoothed } else { published };
        let flags = if by_probe {
            BY_PROBE
        } else {
            old & (UNANSWERED_MAX << UNANSWERED_SHIFT)
        };
        word_.store(
            flags | word(smoothed & RTT_MAX, published),
            Ordering::Relaxed,
        );
    }

    /// A probe goes to a host. One that answered before and leaves several in a row unanswered has become one that does
    /// not: a reference peer in its place, or a filter on the way. What was measured stays until a handshake is seen.
    pub fn count_probe(&self, host: u32) {
        let Some(word_) = self.host_words(host).map(|w| &w[3]) else {
            return;
        };
        let old = word_.load(Ordering::Relaxed);
        let unanswered = (((old >> UNANSWERED_SHIFT) & UNANSWERED_MAX) + 1).min(UNANSWERED_MAX);
        let rest = old & !(UNANSWERED_MAX << UNANSWERED_SHIFT);
        let by_probe = if unanswered > UNANSWERED_LIMIT {
            rest & !BY_PROBE
        } else {
            rest
        };
        word_.store(
            by_probe | (unanswered << UNANSWERED_SHIFT),
            Ordering::Relaxed,
        );
    }

    /// Whether the round-trip time to a host is by probes that it answers.
    #[must_use]
    pub fn is_probed(&self, host: u32) -> bool {
        self.host_words(host)
            .is_some_and(|w| w[3].load(Ordering::Relaxed) & BY_PROBE != 0)
    }

    /// Probes to a host, one after the other, that it has left unanswered; counted up to some.
    #[must_use]
    pub fn unanswered_probes(&self, host: u32) -> u32 {
        self.host_words(host).map_or(0, |w| {
            let word = w[3].load(Ordering::Relaxed) >> UNANSWERED_SHIFT;
            u32::try_from(word & UNANSWERED_MAX).unwrap_or(0)
        })
    }

    /// Measured round-trip time to a host in µs; 0 while unknown.
    #[must_use]
    pub fn host_rtt(&self, host: u32) -> u32 {
        self.host_words(host)
            .map_or(0, |w| low32(w[3].load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests;
