//! The shard against a map that knows everything, and against crashes in the middle of a store.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::tables::region::SHARD_HEADER_WORDS;
use crate::tally::OfService;

/// Few slots, so that buckets fill.
const SLOTS: usize = 64;

struct Memory {
    header: Vec<AtomicU64>,
    slots: Vec<AtomicU64>,
}

impl Memory {
    fn new() -> Self {
        let words = |n| (0..n).map(|_| AtomicU64::new(0)).collect();
        Memory {
            header: words(SHARD_HEADER_WORDS),
            slots: words(shard_words(SLOTS)),
        }
    }

    fn shard(&self) -> Shard<'_> {
        Shard::new((&self.header, &self.slots), 0x5eed)
    }

    fn words(&self) -> Vec<u64> {
        let all = self.header.iter().chain(&self.slots);
        all.map(|w| w.load(Ordering::Relaxed)).collect()
    }

    fn of(words: &[u64]) -> Self {
        let (header, slots) = words.split_at(SHARD_HEADER_WORDS);
        let atomic = |words: &[u64]| words.iter().map(|&w| AtomicU64::new(w)).collect();
        Memory {
            header: atomic(header),
            slots: atomic(slots),
        }
    }
}

fn client(n: u8) -> Address {
    Address::from_v4_bits(0x0a12_0002 + u32::from(n % 3))
}

fn forward(n: u8) -> Tuple {
    Tuple {
        source: client(n),
        destination: Address::from_v4_bits(0x0a1e_0001 + u32::from(n % 2)),
        source_port: 1000 + u16::from(n / 6),
        destination_port: 80,
        protocol: if n.is_multiple_of(5) {
            Protocol::UDP
        } else {
            Protocol::TCP
        },
    }
}

fn backend(b: u8) -> BackendRef {
    BackendRef {
        id: u32::from(b),
        generation: 3,
    }
}

fn reverse(n: u8, b: u8) -> Tuple {
    let f = forward(n);
    Tuple {
        source: Address::from_v4_bits(0x0a1e_1000 + u32::from(b)),
        destination: f.source,
        source_port: f.destination_port,
        destination_port: f.source_port,
        protocol: f.protocol,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open(u8, u8),
    Client(u8, u8),
    Server(u8, u8),
    Remove(u8),
    Pass(u32),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        Just(0x10u8),
        Just(0x10),
        Just(0x02),
        Just(0x12),
        Just(0x11),
        Just(0x04)
    ];
    prop_oneof![
        4 => (0..90u8, 0..4u8).prop_map(|(n, b)| Step::Open(n, b)),
        3 => (0..90u8, flags.clone()).prop_map(|(n, f)| Step::Client(n, f)),
        3 => (0..90u8, flags).prop_map(|(n, f)| Step::Server(n, f)),
        1 => (0..90u8).prop_map(Step::Remove),
        1 => prop_oneof![0..10u32, 200..400u32, 7000..8000u32].prop_map(Step::Pass),
        1 => Just(Step::Sweep),
    ]
}

/// What the model knows of a flow: its backend, each direction's phase, and when each ends.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    backend: u8,
    phase: [Phase; 2],
    ends: [u32; 2],
}

impl Known {
    fn touch(&mut self, side: usize, protocol: Protocol, flags: u8, now: u32) {
        if protocol == Protocol::TCP {
            if flags & 4 != 0 {
                self.phase = [Phase::Closed; 2];
            } else if flags & 1 != 0 {
                let other = self.phase[1 - side];
                if self.phase[side] == Phase::Closed
                    || matches!(other, Phase::HalfClosed | Phase::Closed)
                {
                    self.phase = [Phase::Closed; 2];
                } else {
                    self.phase[side] = Phase::HalfClosed;
                }
            } else if self.phase[side] == Phase::Opening && flags & 2 == 0 {
                self.phase[side] = Phase::Established;
            }
            if self.phase[side] == Phase::Closed && flags & 5 != 0 {
                self.ends[1 - side] = self.ends[1 - side].min(now + 240);
            }
        } else {
            self.phase[side] = Phase::Established;
        }
        let time = match (protocol, self.phase[side]) {
            (Protocol::TCP, Phase::Established | Phase::HalfClosed) => 7440,
            (Protocol::TCP, _) => 240,
            _ => 300,
        };
        self.ends[side] = now + time;
    }

    fn end(&self) -> u32 {
        self.ends[0].max(self.ends[1])
    }
}

/// Every slot is one half of a whole flow, and every home counts those that live elsewhere.
fn assert_sound(shard: &Shard<'_>) {
    let mut displaced = [0u64; SLOTS];
    let mut slots = 0;
    for at in 0..SLOTS {
        let w = shard.slot(at).unwrap();
        let direction = Shard::direction(w);
        if direction == EMPTY {
            continue;
        }
        slots += 1;
        let tuple = Shard::tuple(w);
        let (home, second) = shard.homes(shard.hash(&tuple, direction));
        let buckets = [home & !(BUCKET - 1), second];
        assert!(
            buckets.contains(&(at & !(BUCKET - 1))),
            "out of both its buckets"
        );
        if home != at {
            let k = (0..AWAY).find(|&k| Shard::away((home, second), k) == at);
            displaced[home] |= 1 << k.expect("out of its places");
        }
        let peer = shard.slot(Shard::peer(w)).unwrap();
        assert_eq!(Shard::peer(peer), at);
        assert_eq!(Shard::direction(peer), FORWARD + REVERSE - direction);
        if direction == FORWARD {
            assert!(Shard::mirrored(&tuple, &Shard::tuple(peer)));
        }
        assert_eq!(shard.find(&tuple, direction), Some(at), "it finds itself");
    }
    for (at, expected) in displaced.iter().enumerate() {
        let noted = Shard::sent_away(shard.slot(at).unwrap());
        assert_eq!(noted, *expected, "slot {at} notes where it sent keys");
    }
    assert_eq!(shard.live() * 2, slots);
}

struct Bench<'a> {
    shard: Shard<'a>,
    tally: &'a Tally,
    model: HashMap<u8, Known>,
    now: u32,
    cursor: usize,
    evicted: u64,
}

impl Bench<'_> {
    // What eviction took is gone from the model too; nothing else may be missing.
    fn forget_evicted(&mut self) {
        let before = self.model.len();
        let mut lost = 0;
        let (shard, now) = (&self.shard, self.now);
        self.model.retain(|&n, known| {
            let there = shard.find(&forward(n), FORWARD).is_some();
            lost += u64::from(!there && known.end() >= now);
            there
        });
        let evicted =
            self.shard.evicted() - std::mem::replace(&mut self.evicted, self.shard.evicted());
        assert_eq!(lost, evicted, "of {before} flows");
    }

    // What lives, by backend and by service (the client's number is the service here).
    fn assert_counted(&self) {
        let alive = |of: &dyn Fn(u8, &Known) -> bool| {
            let count = self
                .model
                .iter()
                .filter(|&(&n, known)| known.phase[0] != Phase::Closed && of(n, known));
            count.count()
        };
        for b in 0..4 {
            assert_eq!(
                self.tally.live_flows(u32::from(b)) as usize,
                alive(&|_, known| known.backend == b)
            );
        }
        for n in 0..90 {
            assert_eq!(
                self.tally.service(u32::from(n), OfService::Live),
                alive(&|m, _| m == n) as u64
            );
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Open(n, b) => {
                // Another live flow of this client whose answers look the same.
                let twin = self.model.iter().find(|(m, known)| {
                    **m != n
                        && known.backend == b
                        && reverse(**m, b) == reverse(n, b)
                        && known.end() >= self.now
                        && known.phase[1] != Phase::Closed
                });
                let twin = twin.is_some();
                // An old flow with the same key goes first, whatever comes of the rest.
                self.model.remove(&n);
                let opened = self
                    .shard
                    .open(&forward(n), backend(b), &reverse(n, b), self.now);
                assert_eq!(opened.is_err(), twin, "{n} to {b}");
                if let Ok(place) = opened {
                    self.shard.set_service(place, u32::from(n));
                }
                let over = self
                    .model
                    .iter()
                    .find(|(m, known)| known.backend == b && reverse(**m, b) == reverse(n, b))
                    .map(|(m, _)| *m);
                if !twin {
                    if let Some(over) = over {
                        self.model.remove(&over);
                    }
                    let time = if forward(n).protocol == Protocol::UDP {
                        300
                    } else {
                        240
                    };
                    let known = Known {
                        backend: b,
                        phase: [Phase::Opening; 2],
                        ends: [self.now + time; 2],
                    };
                    self.model.insert(n, known);
                }
                self.forget_evicted();
            }
            Step::Client(n, flags) => {
                let expected = self.model.get_mut(&n).filter(|k| k.end() >= self.now);
                let found = self.shard.forward(&forward(n), self.now);
                assert_eq!(
                    found.map(|f| f.1),
                    expected.as_ref().map(|k| backend(k.backend))
                );
                if let (Some((place, _)), Some(known)) = (found, expected) {
                    self.shard.touch(place, TcpFlags(flags), self.now);
                    known.touch(0, forward(n).protocol, flags, self.now);
                    assert_eq!(self.shard.is_closed(place), known.phase[0] == Phase::Closed);
                }
            }
            Step::Server(n, flags) => {
                for b in 0..4 {
                    let answers = |(m, known): &(&u8, &mut Known)| {
                        known.backend == b && reverse(**m, b) == reverse(n, b)
                    };
                    let now = self.now;
                    let expected = self
                        .model
                        .iter_mut()
                        .find(answers)
                        .filter(|(_, k)| k.end() >= now);
                    let found = self.shard.reverse(&reverse(n, b), self.now);
                    assert_eq!(
                        found.map(|f| (f.1, f.2)),
                        expected
                            .as_ref()
                            .map(|(m, k)| (backend(k.backend), forward(**m).destination))
                    );
                    if let (Some((place, ..)), Some((m, known))) = (found, expected) {
                        self.shard.touch(place, TcpFlags(flags), self.now);
                        known.touch(1, forward(*m).protocol, flags, self.now);
                    }
                }
            }
            Step::Remove(n) => {
                if let Some(place) = self.shard.find(&forward(n), FORWARD) {
                    assert!(self.model.remove(&n).is_some());
                    self.shard.remove(Shard::place(place));
                } else {
                    assert!(!self.model.contains_key(&n));
                }
            }
            Step::Pass(seconds) => self.now += seconds,
            Step::Sweep => {
                for _ in 0..SLOTS / 16 {
                    self.cursor = self.shard.sweep(self.cursor, 16, self.now);
                }
                let now = self.now;
                self.model.retain(|_, known| known.end() >= now);
                assert_eq!(self.shard.live(), self.model.len() as u64);
            }
        }
    }
}

fn run(memory: &Memory, steps: &[Step]) -> u32 {
    let tally = Tally::new(1 << 17);
    let words = (&memory.header[..], &memory.slots[..]);
    let mut bench = Bench {
        shard: Shard::counted(words, 0x5eed, &tally),
        tally: &tally,
        model: HashMap::new(),
        now: 10_000,
        cursor: 0,
        evicted: 0,
    };
    for step in steps {
        bench.step(step);
        assert_sound(&bench.shard);
        assert_eq!(bench.shard.live(), bench.model.len() as u64);
        bench.assert_counted();
    }
    // The next owner finds the same.
    let again = Tally::new(1 << 17);
    let _ = Shard::counted(words, 0x5eed, &again);
    for b in 0..4 {
        assert_eq!(again.live_flows(b), tally.live_flows(b));
    }
    bench.now
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn it_behaves_like_a_map_that_gives_up_only_what_it_counts(
        steps in proptest::collection::vec(step(), 0..250)
    ) {
        run(&Memory::new(), &steps);
    }

    #[test]
    fn a_sound_shard_is_taken_over_whole(steps in proptest::collection::vec(step(), 0..150)) {
        let memory = Memory::new();
        let now = run(&memory, &steps);
        let list = |memory: &Memory| {
            let mut flows = Vec::new();
            memory.shard().for_each(|tuple, backend, end| {
                if end >= now {
                    flows.push((format!("{tuple:?}"), backend, end));
                }
                true
            });
            flows.sort_by(|a, b| a.0.cmp(&b.0));
            flows
        };
        let before = list(&memory);
        let taken = Memory::of(&memory.words());
        let (kept, _) = taken.shard().recover(now);
        // Laid out anew, a full bucket may be full elsewhere; what had to go is counted.
        let after = list(&taken);
        prop_assert_eq!(kept, before.len() as u64);
        prop_assert_eq!(after.len() as u64 + taken.shard().evicted(), before.len() as u64);
        prop_assert!(after.iter().all(|flow| before.contains(flow)));
        assert_sound(&taken.shard());
    }

    #[test]
    fn what_a_crash_left_half_written_goes_and_the_rest_stays(
        steps in proptest::collection::vec(step(), 1..150),
        last in (0..90u8, 0..4u8),
        stores in 0usize..40,
    ) {
        let memory = Memory::new();
        let now = run(&memory, &steps);
        let before = memory.words();
        let _ = memory.shard().open(&forward(last.0), backend(last.1), &reverse(last.0, last.1), now);
        let after = memory.words();
        // A crash: of the words that the last step changed, the first few are written, in some order of stores.
        let changed: Vec<usize> = (0..before.len()).filter(|&n| before[n] != after[n]).collect();
        let mut torn = before;
        for &n in changed.iter().take(stores) {
            torn[n] = after[n];
        }
        let taken = Memory::of(&torn);
        let (kept, _) = taken.shard().recover(now);
        assert_sound(&taken.shard());
        prop_assert_eq!(taken.shard().live() + taken.shard().evicted(), kept);
    }

    #[test]
    fn damage_of_any_kind_leaves_a_sound_shard(
        steps in proptest::collection::vec(step(), 0..100),
        damage in proptest::collection::vec((0..SHARD_HEADER_WORDS + SLOTS * SLOT_WORDS, any::<u64>(), any::<bool>()), 0..40),
        now in prop_oneof![Just(20_000u32), any::<u32>()],
    ) {
        let memory = Memory::new();
        run(&memory, &steps);
        let mut words = memory.words();
        for (at, value, whole) in damage {
            words[at] = if whole { value } else { words[at] ^ (1 << (value % 64)) };
        }
        let taken = Memory::of(&words);
        taken.shard().recover(now);
        assert_sound(&taken.shard());
    }
}

#[test]
fn an_established_connection_outlives_hours_and_a_closed_one_minutes() {
    let memory = Memory::new();
    let shard = memory.shard();
    let (f, r) = (forward(1), reverse(1, 0));
    let place = shard.open(&f, backend(0), &r, 100).unwrap();
    assert!(shard.forward(&f, 340).is_some() && shard.forward(&f, 341).is_none());
    shard.touch(place, TcpFlags::ACK, 200);
    let hours = 200 + 7440;
    assert!(
        shard.reverse(&r, hours).is_some(),
        "the server may speak first"
    );
    assert!(shard.forward(&f, hours).is_some() && shard.forward(&f, hours + 1).is_none());
    let (back, _, dialled) = shard.reverse(&r, hours).unwrap();
    assert_eq!(dialled, f.destination);
    shard.touch(back, TcpFlags::RST, hours);
    assert!(shard.is_closed(place) && shard.is_closed(back));
    assert!(shard.forward(&f, hours + 240).is_some());
    assert!(shard.forward(&f, hours + 241).is_none());
    assert_eq!(shard.sweep(0, SLOTS, hours + 241), 0);
    assert_eq!(shard.live(), 0);
}

#[test]
fn established_connections_are_given_up_last() {
    let memory = Memory::new();
    let shard = memory.shard();
    let mut tuples = Vec::new();
    // Half of the slots by established connections, then far too many new ones.
    for n in 0..200u16 {
        let f = Tuple {
            source_port: n,
            ..forward(1)
        };
        let r = Tuple {
            destination_port: n,
            ..reverse(1, 0)
        };
        let place = shard.open(&f, backend(0), &r, 100).unwrap();
        if n < 8 {
            shard.touch(place, TcpFlags::ACK, 100);
            tuples.push(f);
        }
    }
    assert!(shard.evicted() > 150);
    assert!(tuples.iter().all(|f| shard.forward(f, 100).is_some()));
    assert_sound(&shard);
}
