//! One worker's flows: which instance each was given, and how answers find their way back to the address dialled.
//!
//! A flow is two slots of one cache line each: the client's direction (`c → S`), which names the backend, and the
//! backend's (`D → c`), which names `S`. The key is the whole 5-tuple and the direction, so neither another protocol
//! nor another client nor another peer ever meets a flow that is not its own.
//!
//! A slot's home is given by the hash of its key. If another flow sits there, the rest of the home's bucket (8
//! slots) and then a second bucket are used, and the home notes with a bit for each of these places where it sent
//! keys: a lookup touches its home and, nearly always, one place more at the most. When both buckets are full, the flow
//! that would expire first is given up (`evicted` counts them): bounded memory, and established TCP goes last. A byte
//! for each slot says how long it is needed, so that a free place or a victim is found without a look at the slots.
//!
//! The shard is written by its worker alone. It lies in the shared mapping (`region`), so everything is a word, and
//! the word that makes a slot valid is written last.

use std::sync::atomic::{AtomicU64, Ordering};

use net::address::Address;
use net::packet::{Protocol, TcpFlags};
use net::plain::{V4, V6};

use super::region::{BackendRef, SLOT_WORDS, shard_words};
use super::{SALT, halves, high32, join, low32, mix, word};
use crate::tally::Tally;

mod key;
mod ownership;
mod places;
mod recovery;

pub use key::{Key, Tag};
use places::age;

const BUCKET: usize = 8;
/// Places beside its home where a key may be: the others of its bucket, and all but one of the second bucket.
const AWAY: usize = 2 * (BUCKET - 1);
/// The low bits of word 4: which of these places hold keys of this home, and the phase of the slot's own flow.
const AWAY_MASK: u64 = (1 << AWAY) - 1;
const PHASE_SHIFT: u32 = 14;
const PHASE_MASK: u64 = 3 << PHASE_SHIFT;
const OWN_SHIFT: u32 = 16;
const EMPTY: u8 = 0;
const FORWARD: u8 = 1;
const REVERSE: u8 = 2;
const DIRECTION: u8 = 3;

/// The longest timeout.
const LONGEST: u32 = 7440;
const LIVE: usize = 0;
const EVICTED: usize = 1;

/// The 5-tuple of one direction. For ICMP echo both ports are the identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port, host byte order.
    pub source_port: u16,
    /// Destination port, host byte order.
    pub destination_port: u16,
    /// IP protocol.
    pub protocol: Protocol,
}

impl Tuple {
    /// The same packet's answer: both ends changed places.
    #[inline]
    #[must_use]
    pub fn answered(&self) -> Tuple {
        Tuple {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }

    fn ports(&self) -> u32 {
        (u32::from(self.source_port) << 16) | u32::from(self.destination_port)
    }
}

/// How far a connection has come, as far as this side has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// Opened by the client, nothing else yet.
    Opening = 0,
    /// Packets have passed in this direction after the opening.
    Established = 1,
    /// This direction has sent FIN.
    HalfClosed = 2,
    /// Both have sent FIN, or one has sent RST.
    Closed = 3,
}

impl Phase {
    fn of(bits: u8) -> Self {
        match bits {
            0 => Phase::Opening,
            1 => Phase::Established,
            2 => Phase::HalfClosed,
            _ => Phase::Closed,
        }
    }
}

/// Seconds without a packet after which a flow ends. TCP: RFC 5382 (2 h 4 min established, 4 min else), UDP: RFC 4787
/// (5 min), ICMP: RFC 5508 (60 s).
fn timeout(protocol: Protocol, phase: Phase) -> u32 {
    match (protocol, phase) {
        (Protocol::TCP | Protocol::SCTP, Phase::Established | Phase::HalfClosed) => LONGEST,
        (Protocol::TCP | Protocol::SCTP, Phase::Opening | Phase::Closed) => 240,
        (Protocol::ICMP | Protocol::ICMPV6, _) => 60,
        _ => 300,
    }
}

/// Seconds that an open flow of TCP or UDP lives on after a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout(u32);

impl Timeout {
    /// Of TCP or UDP.
    #[inline(always)]
    #[must_use]
    pub fn of(protocol: Protocol) -> Self {
        Self(if protocol == Protocol::TCP {
            LONGEST
        } else {
            timeout(Protocol::UDP, Phase::Established)
        })
    }
}

/// Where a slot is, within the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

/// Where a key would lie if it were alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Home(u32);

/// What a packet that neither opens nor closes a flow found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Its flow, long open in this direction; it is kept alive.
    Passed(Passed),
    /// Its flow may be in one of these places beside its home, the first of which has been asked for.
    Away(u16),
    /// Its flow, which it changes.
    Rare,
    /// There is no such flow.
    Nowhere,
}

/// What a packet found of an open flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The flow's backend.
    pub backend: BackendRef,
    /// The service's number and one; 0 where it is not known.
    pub service: u32,
    /// Where the other direction's slot is.
    pub peer: Place,
    /// Whether this is its first packet in this second.
    pub refreshed: bool,
}

/// Why a flow could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The backend's answers could not be told from those of another live flow of the same client: same backend,
    /// same ports, another Service IP. Another backend may do.
    Ambiguous,
}

/// A shard over the words of the mapping.
#[derive(Debug)]
pub struct Shard<'a> {
    header: &'a [AtomicU64],
    slots: &'a [[AtomicU64; SLOT_WORDS]],
    /// A word for each bucket, a byte for each slot: 0 for a free one, else its age.
    ages: &'a [AtomicU64],
    mask: usize,
    seed: u64,
    tally: Option<&'a Tally>,
}

/// Above the opening time in a slot's last word: whether it was noted, and the service's number plus one.
const NOTED: u64 = 1 << 32;
const SERVICE_SHIFT: u32 = 40;

impl<'a> Shard<'a> {
    /// Over a shard's header, and its slots with their ages ([`shard_words`]); the number of slots must be a power of
    /// two, at least 8.
    #[must_use]
    pub fn new((header, words): (&'a [AtomicU64], &'a [AtomicU64]), seed: u64) -> Self {
        let count = (words.len() / shard_words(BUCKET) * BUCKET).max(1);
        let (slots, ages) = words
            .split_at_checked(count * SLOT_WORDS)
            .unwrap_or((words, &[]));
        let (slots, _) = slots.as_chunks();
        Self {
            header,
            slots,
            ages,
            mask: count - 1,
            seed,
            tally: None,
        }
    }

    /// The owner's view: what opens and ends is counted in `tally`, and what is there already.
    #[must_use]
    pub fn counted(words: (&'a [AtomicU64], &'a [AtomicU64]), seed: u64, tally: &'a Tally) -> Self {
        let shard = Self::new(words, seed);
        if shard.live() > 0 {
            for at in 0..shard.slots() {
                if let Some(w) = shard.slot(at)
                    && Self::direction(w) == FORWARD
                {
                    tally.client_came(Self::tuple(w).source);
                    if Self::phase(w) != Phase::Closed {
                        tally.flow_opened(Self::backend_of(w).id);
                    }
                }
            }
        }
        Self {
            tally: Some(tally),
            ..shard
        }
    }

    #[inline(always)]
    fn slot(&self, place: usize) -> Option<&'a [AtomicU64; SLOT_WORDS]> {
        self.slots.get(place & self.mask)
    }

    #[inline(always)]
    fn hash(&self, tuple: &Tuple, direction: u8) -> u64 {
        let Tag(tag) = Self::tag(tuple, direction);
        if tuple.source.is_v4() {
            Self::v4(tuple).mix(tag, self.seed)
        } else {
            V6(tuple.source, tuple.destination).mix(tag, self.seed)
        }
    }

    fn v4(tuple: &Tuple) -> V4 {
        V4::new(tuple.source.v4_bits(), tuple.destination.v4_bits())
    }

    #[inline(always)]
    fn homes(&self, hash: u64) -> (usize, usize) {
        let home = self.home(hash);
        (home, self.second(home))
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // masked to the table's size
    fn home(&self, hash: u64) -> usize {
        hash as usize & self.mask
    }

    // It follows from the home alone, so that a bit at the home means one place, whatever the key.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // masked to the table's size
    fn second(&self, home: usize) -> usize {
        (mix(home as u64 ^ SALT[1], SALT[0]) as usize & self.mask) & !(BUCKET - 1)
    }

    #[inline(always)]
    fn matches(w: &[AtomicU64; SLOT_WORDS], tuple: &Tuple, tag: Tag) -> bool {
        if tuple.source.is_v4() {
            Self::holds(w, &Self::v4(tuple), tag)
        } else {
            Self::holds(w, &V6(tuple.source, tuple.destination), tag)
        }
    }

    #[inline(always)]
    fn holds<K: Key>(w: &[AtomicU64; SLOT_WORDS], key: &K, Tag(tag): Tag) -> bool {
        (w[4].load(Ordering::Relaxed) >> OWN_SHIFT) == tag && key.is_in(w)
    }

    fn tag(tuple: &Tuple, direction: u8) -> Tag {
        let (ports, protocol) = (tuple.ports(), tuple.protocol);
        if tuple.source.is_v4() {
            Tag::new::<V4>(ports, protocol, direction)
        } else {
            Tag::new::<V6>(ports, protocol, direction)
        }
    }

    // Place number `k` of those beside a home.
    #[inline(always)]
    fn away((home, second): (usize, usize), k: usize) -> usize {
        if k < BUCKET - 1 {
            (home & !(BUCKET - 1)) | ((home + 1 + k) & (BUCKET - 1))
        } else {
            second + k - (BUCKET - 1)
        }
    }

    #[inline(always)]
    fn sent_away(w: &[AtomicU64; SLOT_WORDS]) -> u64 {
        w[4].load(Ordering::Relaxed) & AWAY_MASK
    }

    #[inline]
    fn find(&self, tuple: &Tuple, direction: u8) -> Option<usize> {
        let homes = self.homes(self.hash(tuple, direction));
        let tag = Self::tag(tuple, direction);
        let w = self.slot(homes.0)?;
        if Self::matches(w, tuple, tag) {
            return Some(homes.0);
        }
        let mut bits = Self::sent_away(w);
        while bits != 0 {
            let at = Self::away(homes, bits.trailing_zeros() as usize);
            if self.slot(at).is_some_and(|w| Self::matches(w, tuple, tag)) {
                return Some(at);
            }
            bits &= bits - 1;
        }
        None
    }

    #[allow(clippy::cast_possible_truncation)] // fields of a packed word
    fn direction(w: &[AtomicU64; SLOT_WORDS]) -> u8 {
        (w[4].load(Ordering::Relaxed) >> OWN_SHIFT) as u8 & DIRECTION
    }

    #[allow(clippy::cast_possible_truncation)] // fields of a packed word
    fn phase(w: &[AtomicU64; SLOT_WORDS]) -> Phase {
        Phase::of(((w[4].load(Ordering::Relaxed) & PHASE_MASK) >> PHASE_SHIFT) as u8)
    }

    fn set_phase(w: &[AtomicU64; SLOT_WORDS], phase: Phase) {
        let old = w[4].load(Ordering::Relaxed);
        w[4].store(
            (old & !PHASE_MASK) | (u64::from(phase as u8) << PHASE_SHIFT),
            Ordering::Release,
        );
    }

    #[allow(clippy::cast_possible_truncation)] // fields of a packed word
    fn protocol(w: &[AtomicU64; SLOT_WORDS]) -> Protocol {
        Protocol((w[4].load(Ordering::Relaxed) >> 24) as u8)
    }

    #[allow(clippy::cast_possible_truncation)] // fields of a packed word
    fn tuple(w: &[AtomicU64; SLOT_WORDS]) -> Tuple {
        let key = w[4].load(Ordering::Relaxed);
        Tuple {
            source: join(w[0].load(Ordering::Relaxed), w[1].load(Ordering::Relaxed)),
            destination: join(w[2].load(Ordering::Relaxed), w[3].load(Ordering::Relaxed)),
            source_port: (key >> 48) as u16,
            destination_port: (key >> 32) as u16,
            protocol: Self::protocol(w),
        }
    }

    fn peer(w: &[AtomicU64; SLOT_WORDS]) -> usize {
        low32(w[6].load(Ordering::Relaxed)) as usize
    }

    fn expires(w: &[AtomicU64; SLOT_WORDS]) -> u32 {
        high32(w[6].load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn set_expires(&self, at: usize, w: &[AtomicU64; SLOT_WORDS], when: u32) {
        let old = w[6].load(Ordering::Relaxed);
        if high32(old) != when {
            w[6].store(word(when, low32(old)), Ordering::Relaxed);
            if age(high32(old)) != age(when) {
                self.set_age(at, age(when));
            }
        }
    }

    /// Whether there may be flows of this client: where there are none, no packet to it is an answer in one.
    #[inline(always)]
    #[must_use]
    pub fn may_have_flows(&self, client: Address) -> bool {
        self.tally.is_none_or(|tally| tally.may_have_flows(client))
    }

    /// Hashes a key, and asks for its home.
    #[inline(always)]
    #[must_use]
    pub fn seek<K: Key>(&self, key: &K, tag: Tag) -> Home {
        let home = self.home(key.mix(tag.0, self.seed));
        if let Some(w) = self.slots.get(home) {
            dpdk::prefetch(w);
        }
        Home(low32(home as u64))
    }

    /// Looks at a key's home, for a packet that neither opens nor closes a connection.
    #[inline(always)]
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // bits are 14
    pub fn look<K: Key>(&self, home: Home, key: &K, tag: Tag, timeout: Timeout, now: u32) -> Look {
        let Some(w) = self.slot(home.0 as usize) else {
            return Look::Nowhere;
        };
        let rest = w[4].load(Ordering::Relaxed);
        if rest >> OWN_SHIFT == tag.0 && key.is_in(w) {
            let passed = self.pass(home.0 as usize, w, timeout, now);
            return passed.map_or(Look::Rare, Look::Passed);
        }
        let bits = rest & AWAY_MASK;
        if bits == 0 {
            return Look::Nowhere;
        }
        let homes = (home.0 as usize, self.second(home.0 as usize));
        if let Some(w) = self.slot(Self::away(homes, bits.trailing_zeros() as usize)) {
            dpdk::prefetch(w);
        }
        Look::Away(bits as u16)
    }

    /// Looks at the places beside a key's home, as [`Shard::look`] at its home.
    #[inline]
    #[must_use]
    pub fn search<K: Key>(
        &self,
        (home, bits): (Home, u16),
        key: &K,
        tag: Tag,
        timeout: Timeout,
        now: u32,
    ) -> Look {
        let homes = (home.0 as usize, self.second(home.0 as usize));
        let mut bits = u64::from(bits);
        while bits != 0 {
            let at = Self::away(homes, bits.trailing_zeros() as usize);
            if let Some(w) = self.slot(at)
                && Self::holds(w, key, tag)
            {
                let passed = self.pass(at, w, timeout, now);
                return passed.map_or(Look::Rare, Look::Passed);
            }
            bits &= bits - 1;
        }
        Look::Nowhere
    }

    // Takes a packet that neither opens nor closes the flow in this slot, and keeps the flow alive: what `forward` and
    // `touch` do for a flow whose direction has long been open. `None` for any other.
    #[inline(always)]
    fn pass(
        &self,
        at: usize,
        w: &[AtomicU64; SLOT_WORDS],
        Timeout(timeout): Timeout,
        now: u32,
    ) -> Option<Passed> {
        let old = w[6].load(Ordering::Relaxed);
        if w[4].load(Ordering::Relaxed) & PHASE_MASK != (Phase::Established as u64) << PHASE_SHIFT
            || high32(old) < now
        {
            return None;
        }
        let end = now + timeout;
        let refreshed = high32(old) != end;
        if refreshed {
            self.set_expires(at, w, end);
        }
        Some(Passed {
            backend: BackendRef::from_word(w[5].load(Ordering::Relaxed)),
            service: low32(w[7].load(Ordering::Relaxed) >> SERVICE_SHIFT),
            peer: Place(low32(old)),
            refreshed,
        })
    }

    /// Asks for a slot.
    #[inline(always)]
    pub fn prefetch(&self, place: Place) {
        if let Some(w) = self.slot(place.0 as usize) {
            dpdk::prefetch(w);
        }
    }

    /// The destination of the direction in a slot: where a backend's packet finds what its client dialled, in the slot
    /// of the client's direction.
    #[inline(always)]
    #[must_use]
    pub fn destination(&self, place: Place) -> Option<Address> {
        let w = self.slot(place.0 as usize)?;
        Some(join(
            w[2].load(Ordering::Relaxed),
            w[3].load(Ordering::Relaxed),
        ))
    }

    /// The backend of the flow that the client's packet belongs to, if it has one. `now` in seconds.
    #[inline]
    #[must_use]
    pub fn forward(&self, tuple: &Tuple, now: u32) -> Option<(Place, BackendRef)> {
        let place = self.find(tuple, FORWARD)?;
        let w = self.slot(place)?;
        if Self::expires(w) < now
            && self
                .slot(Self::peer(w))
                .is_none_or(|p| Self::expires(p) < now)
        {
            return None;
        }
        Some((
            Self::place(place),
            BackendRef::from_word(w[5].load(Ordering::Relaxed)),
        ))
    }

    /// The flow that a backend's packet belongs to: its place, its backend, and the address that the client dialled.
    #[inline]
    #[must_use]
    pub fn reverse(&self, tuple: &Tuple, now: u32) -> Option<(Place, BackendRef, Address)> {
        if !self.may_have_flows(tuple.destination) {
            return None;
        }
        let place = self.find(tuple, REVERSE)?;
        let w = self.slot(place)?;
        let peer = self.slot(Self::peer(w))?;
        if Self::expires(w) < now && Self::expires(peer) < now {
            return None;
        }
        let dialled = join(
            peer[2].load(Ordering::Relaxed),
            peer[3].load(Ordering::Relaxed),
        );
        Some((
            Self::place(place),
            BackendRef::from_word(w[5].load(Ordering::Relaxed)),
            dialled,
        ))
    }

    #[allow(clippy::cast_possible_truncation)] // slots are at most 2^32
    fn place(at: usize) -> Place {
        Place(at as u32)
    }

    /// Notes a packet of this direction: keeps the flow alive and follows TCP's state.
    #[inline]
    pub fn touch(&self, place: Place, flags: TcpFlags, now: u32) {
        let Some(w) = self.slot(place.0 as usize) else {
            return;
        };
        let protocol = Self::protocol(w);
        let mut phase = Self::phase(w);
        if protocol == Protocol::TCP {
            if flags.any(TcpFlags::FIN.with(TcpFlags::RST)) {
                phase = self.close(w, phase, flags, now);
            } else if phase == Phase::Opening && !flags.any(TcpFlags::SYN) {
                phase = Phase::Established;
                Self::set_phase(w, phase);
            }
        } else if phase == Phase::Opening {
            phase = Phase::Established;
            Self::set_phase(w, phase);
        }
        self.set_expires(place.0 as usize, w, now + timeout(protocol, phase));
    }

    #[cold]
    fn close(&self, w: &[AtomicU64; SLOT_WORDS], phase: Phase, flags: TcpFlags, now: u32) -> Phase {
        let peer = self.slot(Self::peer(w));
        let both = flags.any(TcpFlags::RST)
            || peer.is_some_and(|p| matches!(Self::phase(p), Phase::HalfClosed | Phase::Closed));
        if both && phase != Phase::Closed {
            self.uncount(w);
        }
        let phase = if both || phase == Phase::Closed {
            Phase::Closed
        } else {
            Phase::HalfClosed
        };
        Self::set_phase(w, phase);
        if let (true, Some(p)) = (both, peer) {
            Self::set_phase(p, Phase::Closed);
            let end = Self::expires(p).min(now + timeout(Protocol::TCP, Phase::Closed));
            self.set_expires(Self::peer(w), p, end);
        }
        phase
    }

    /// Notes when a connection was begun, in µs of any clock, modulo 2^32.
    pub fn note_opening(&self, place: Place, at: u32) {
        if let Some(w) = self.slot(place.0 as usize) {
            let service = w[7].load(Ordering::Relaxed) >> SERVICE_SHIFT << SERVICE_SHIFT;
            w[7].store(service | NOTED | u64::from(at), Ordering::Relaxed);
        }
    }

    /// When the connection was begun whose answering direction is at `place`; once.
    #[must_use]
    pub fn opening(&self, place: Place) -> Option<u32> {
        let forward = self.slot(Self::peer(self.slot(place.0 as usize)?))?;
        let noted = forward[7].load(Ordering::Relaxed);
        forward[7].store(noted >> SERVICE_SHIFT << SERVICE_SHIFT, Ordering::Relaxed);
        (noted & NOTED != 0).then_some(low32(noted))
    }

    /// True when the connection is over, so that a SYN with the same ports is a new one.
    #[must_use]
    pub fn is_closed(&self, place: Place) -> bool {
        self.slot(place.0 as usize)
            .is_some_and(|w| Self::phase(w) == Phase::Closed)
    }

    /// Ends the flow whose answers look like `reverse`, unless it is a connection that was answered and is not over:
    /// what its client sends now is sent to another address of the same backend, from the same ports, and the
    /// backend's answers are from that address.
    #[inline]
    pub fn supersede(&self, reverse: &Tuple) {
        if self.may_have_flows(reverse.destination) {
            self.supersede_one(reverse);
        }
    }

    #[inline(never)]
    fn supersede_one(&self, reverse: &Tuple) {
        if let Some(at) = self.find(reverse, REVERSE)
            && !self.slot(at).is_some_and(|w| self.is_connected(w))
        {
            self.remove(Self::place(at));
        }
    }

    // Whether the flow of this answering direction is a connection that the backend has answered and nobody has ended.
    fn is_connected(&self, w: &[AtomicU64; SLOT_WORDS]) -> bool {
        let phase = Self::phase(w);
        match Self::protocol(w) {
            // Only a first SYN is noted, until its answer comes.
            Protocol::TCP => {
                let unanswered = self.slot(Self::peer(w)).is_some_and(|p| {
                    Self::phase(p) == Phase::Opening && p[7].load(Ordering::Relaxed) & NOTED != 0
                });
                phase != Phase::Closed && !unanswered
            }
            Protocol::SCTP => !matches!(phase, Phase::Opening | Phase::Closed),
            _ => false,
        }
    }

    /// Opens a flow: the client's packets (`forward`) go to `backend`, whose answers look like `reverse`.
    ///
    /// # Errors
    /// `Ambiguous` when `reverse` belongs to another live flow.
    pub fn open(
        &self,
        forward: &Tuple,
        backend: BackendRef,
        reverse: &Tuple,
        now: u32,
    ) -> Result<Place, Refused> {
        if let Some(old) = self.find(forward, FORWARD) {
            self.remove(Self::place(old));
        }
        if let Some(other) = self.find(reverse, REVERSE) {
            let w = self.slot(other);
            let alive = w.is_some_and(|w| {
                let peer_alive = self
                    .slot(Self::peer(w))
                    .is_some_and(|p| Self::expires(p) >= now);
                Self::phase(w) != Phase::Closed && (Self::expires(w) >= now || peer_alive)
            });
            if alive {
                return Err(Refused::Ambiguous);
            }
            self.remove(Self::place(other));
        }
        let expires = now + timeout(forward.protocol, Phase::Opening);
        let near = self.take(forward, FORWARD, usize::MAX, now);
        let far = self.take(reverse, REVERSE, near, now);
        self.write(near, forward, FORWARD, backend, far, expires);
        self.write(far, reverse, REVERSE, backend, near, expires);
        self.count(LIVE, 1);
        if let Some(tally) = self.tally {
            tally.client_came(forward.source);
            tally.flow_opened(backend.id);
        }
        Ok(Self::place(near))
    }

    // When the whole flow ends: at the later of its two directions.
    fn end_of(&self, w: &[AtomicU64; SLOT_WORDS]) -> u32 {
        Self::expires(w).max(self.slot(Self::peer(w)).map_or(0, Self::expires))
    }

    #[allow(clippy::cast_possible_truncation)]
    fn write(
        &self,
        at: usize,
        tuple: &Tuple,
        direction: u8,
        backend: BackendRef,
        peer: usize,
        expires: u32,
    ) {
        let Some(w) = self.slot(at) else { return };
        let (sh, sl) = halves(tuple.source);
        let (dh, dl) = halves(tuple.destination);
        w[0].store(sh, Ordering::Relaxed);
        w[1].store(sl, Ordering::Relaxed);
        w[2].store(dh, Ordering::Relaxed);
        w[3].store(dl, Ordering::Relaxed);
        w[5].store(backend.to_word(), Ordering::Relaxed);
        w[6].store(word(expires, peer as u32), Ordering::Relaxed);
        w[7].store(0, Ordering::Relaxed);
        self.set_age(at, age(expires));
        w[4].store(
            (Self::tag(tuple, direction).0 << OWN_SHIFT) | Self::sent_away(w),
            Ordering::Release,
        );
    }

    /// Ends a flow: both its directions.
    pub fn remove(&self, place: Place) {
        let Some(w) = self.slot(place.0 as usize) else {
            return;
        };
        if Self::direction(w) == EMPTY {
            return;
        }
        let peer = Self::peer(w);
        if Self::phase(w) != Phase::Closed {
            self.uncount(w);
        }
        if let Some(tally) = self.tally {
            let tuple = Self::tuple(w);
            tally.client_went(match Self::direction(w) {
                FORWARD => tuple.source,
                _ => tuple.destination,
            });
        }
        self.erase(place.0 as usize);
        if self
            .slot(peer)
            .is_some_and(|p| Self::direction(p) != EMPTY && Self::peer(p) == place.0 as usize)
        {
            self.erase(peer);
        }
        self.count(LIVE, -1);
    }

    fn erase(&self, at: usize) {
        let Some(w) = self.slot(at) else { return };
        let direction = Self::direction(w);
        let homes = self.homes(self.hash(&Self::tuple(w), direction));
        w[4].store(Self::sent_away(w), Ordering::Release);
        self.set_age(at, 0);
        self.note_away(homes, at, false);
    }

    /// Looks at `count` slots from `cursor` on and ends the flows that have expired; the next cursor.
    pub fn sweep(&self, cursor: usize, count: usize, now: u32) -> usize {
        for at in cursor..cursor + count {
            if let Some(w) = self.slot(at)
                && Self::direction(w) != EMPTY
                && self.end_of(w) < now
            {
                self.remove(Self::place(at & self.mask));
            }
        }
        (cursor + count) & self.mask
    }

    fn count(&self, which: usize, by: i64) {
        if let Some(word) = self.header.get(which) {
            word.store(
                word.load(Ordering::Relaxed).saturating_add_signed(by),
                Ordering::Relaxed,
            );
        }
    }

    /// Flows in the shard.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.header
            .get(LIVE)
            .map_or(0, |w| w.load(Ordering::Relaxed))
    }

    /// Live flows that were given up because both their buckets were full.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.header
            .get(EVICTED)
            .map_or(0, |w| w.load(Ordering::Relaxed))
    }

    /// Slots in the shard.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.mask + 1
    }

    /// Calls `visit` with each flow's client tuple, backend and expiry until it says stop. Another thread's view: a
    /// flow that changes meanwhile may be missed or shown as it was.
    pub fn for_each(&self, mut visit: impl FnMut(Tuple, BackendRef, u32) -> bool) {
        for at in 0..self.slots() {
            let Some(w) = self.slot(at) else { return };
            let before = w[4].load(Ordering::Acquire);
            if Self::direction(w) != FORWARD {
                continue;
            }
            let (tuple, backend) = (
                Self::tuple(w),
                BackendRef::from_word(w[5].load(Ordering::Acquire)),
            );
            let end = self.end_of(w);
            if w[4].load(Ordering::Acquire) >> OWN_SHIFT == before >> OWN_SHIFT
                && !visit(tuple, backend, end)
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
