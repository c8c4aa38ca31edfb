//! The route table's publication, in every order that the memory model allows: a reader walks while the writer sets,
//! replaces, removes, retires, reclaims and uses the memory again. Built only with `--cfg loom` (`scripts/loom`), on
//! the code that the data plane runs.
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::sync::Mutex;
use std::sync::atomic::Ordering::{Acquire, Release};

use dataplane::Policy;
use dataplane::asleep::Asleep;
use dataplane::tables::arena::{Allocator, Arena};
use dataplane::tables::index::Index;
use dataplane::tables::quiescent::Quiescence;
use dataplane::tables::region::BackendRef;
use dataplane::tables::routes::{BackendSet, Members, write_set};
use dataplane::tables::slots::{AccessSlot, Slots};
use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::thread;
use net::Address;

const WORKER: usize = 0;
const SERVICE: Address = Address::v4([10, 30, 0, 1]);
const OTHER: Address = Address::v4([10, 30, 0, 2]);
const THIRD: Address = Address::v4([10, 30, 0, 3]);

/// Preemptions tried in one run. Each ordering that the code names is needed: weakened, it fails with these.
const PREEMPTIONS: usize = 5;

fn in_all_orders(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

struct Shared {
    arena: Arena,
    index: Index,
    quiescence: Quiescence,
}

impl Shared {
    fn new() -> Self {
        Self {
            arena: Arena::new(),
            // One bucket: everything is in one chain.
            index: Index::new(0, 7),
            quiescence: Quiescence::new(1),
        }
    }

    // A set of two turns that name the set's number.
    fn write(&self, allocator: &mut Allocator, number: u32) -> u32 {
        let cell = allocator.allocate(&self.arena, 1).unwrap();
        let turn = |id| BackendRef {
            id,
            generation: number,
        };
        write_set(
            self.arena.words(cell),
            Policy::RoundRobin,
            &[turn(1), turn(2)],
        );
        cell
    }

    fn publish(&self, allocator: &mut Allocator, key: Address, cell: u32) -> Option<u64> {
        self.index
            .set(&self.arena, allocator, key, u64::from(cell))
            .unwrap()
    }

    // What a worker sees in one round: the number of the set, the same in all its turns.
    fn read(&self, key: Address) -> Option<u32> {
        let cell = u32::try_from(self.index.get(&self.arena, key)?).unwrap();
        let set = BackendSet::at(&self.arena, cell);
        assert_eq!(set.len(), 2, "not a set");
        let (one, two) = (set.get(0).unwrap(), set.get(1).unwrap());
        assert_eq!((one.id, two.id), (1, 2), "not a set");
        assert_eq!(one.generation, two.generation, "a mix of two sets");
        Some(one.generation)
    }
}

#[test]
fn a_reader_sees_a_whole_set_while_its_memory_is_used_again() {
    in_all_orders(|| {
        let shared = Arc::new(Shared::new());
        let mut allocator = Allocator::default();
        let first = shared.write(&mut allocator, 1);
        shared.publish(&mut allocator, SERVICE, first);
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.quiescence.wake(WORKER);
                let seen = shared.read(SERVICE).unwrap();
                shared.quiescence.pass(WORKER);
                let later = shared.read(SERVICE).unwrap();
                assert!(later >= seen, "an old set came back");
                shared.quiescence.sleep(WORKER);
            })
        };
        let second = shared.write(&mut allocator, 2);
        let old = shared.publish(&mut allocator, SERVICE, second);
        assert_eq!(old, Some(u64::from(first)));
        let epoch = shared.quiescence.advance();
        allocator.retire(epoch, first, 1);
        allocator.reclaim(shared.quiescence.passed());
        // Only in some orders is this the first one's memory.
        let third = shared.write(&mut allocator, 3);
        shared.publish(&mut allocator, SERVICE, third);
        reader.join().unwrap();
        assert_eq!(shared.read(SERVICE), Some(3));
    });
}

#[test]
fn a_walk_along_a_chain_never_leaves_it() {
    in_all_orders(|| {
        let shared = Arc::new(Shared::new());
        let mut allocator = Allocator::default();
        // From the head: OTHER, SERVICE.
        let sets = [SERVICE, OTHER].map(|key| {
            let cell = shared.write(&mut allocator, 1);
            shared.publish(&mut allocator, key, cell);
            cell
        });
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.quiescence.wake(WORKER);
                assert_eq!(shared.read(SERVICE), Some(1), "it is there all the time");
                shared.quiescence.pass(WORKER);
                assert!(matches!(shared.read(OTHER), None | Some(1 | 2)));
                shared.quiescence.sleep(WORKER);
            })
        };
        let (value, node) = shared.index.remove(&shared.arena, OTHER).unwrap();
        assert_eq!(value, u64::from(sets[1]));
        let epoch = shared.quiescence.advance();
        allocator.retire(epoch, node, 1);
        allocator.reclaim(shared.quiescence.passed());
        // Its node, if it may be used again, then stands for another key, and leads elsewhere.
        shared.publish(&mut allocator, THIRD, sets[1]);
        reader.join().unwrap();
        assert_eq!(shared.read(SERVICE), Some(1));
        assert_eq!(shared.read(OTHER), None);
    });
}

#[test]
fn a_route_is_there_whole_from_the_moment_it_is_there() {
    in_all_orders(|| {
        let shared = Arc::new(Shared::new());
        let mut allocator = Allocator::default();
        let first = shared.write(&mut allocator, 1);
        shared.publish(&mut allocator, OTHER, first);
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.quiescence.wake(WORKER);
                assert!(matches!(shared.read(SERVICE), None | Some(2)));
                assert_eq!(shared.read(OTHER), Some(1));
                shared.quiescence.sleep(WORKER);
            })
        };
        let second = shared.write(&mut allocator, 2);
        shared.publish(&mut allocator, SERVICE, second);
        reader.join().unwrap();
    });
}

#[test]
fn a_worker_that_wakes_finds_nothing_that_was_freed_while_it_slept() {
    in_all_orders(|| {
        let shared = Arc::new(Shared::new());
        let mut allocator = Allocator::default();
        let first = shared.write(&mut allocator, 1);
        shared.publish(&mut allocator, SERVICE, first);
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for _ in 0..2 {
                    shared.quiescence.wake(WORKER);
                    assert!(matches!(shared.read(SERVICE), None | Some(1)));
                    shared.quiescence.sleep(WORKER);
                }
            })
        };
        let (_, node) = shared.index.remove(&shared.arena, SERVICE).unwrap();
        let epoch = shared.quiescence.advance();
        allocator.retire(epoch, node, 1);
        allocator.retire(epoch, first, 1);
        allocator.reclaim(shared.quiescence.passed());
        let other = shared.write(&mut allocator, 2);
        shared.publish(&mut allocator, OTHER, other);
        reader.join().unwrap();
    });
}

#[test]
fn a_container_is_never_taken_for_the_next_one_in_its_slot() {
    in_all_orders(|| {
        let shared = Arc::new(Shared::new());
        let slots = Arc::new(Slots::new(2));
        let mut allocator = Allocator::default();
        let port = |n: u8| AccessSlot {
            ifindex: u32::from(n),
            worker: 0,
            number: 0,
            mac: [n; 6],
            namespace_v4: u32::from(n),
            namespace_v6: Address(u128::from(n)),
            instance_v4: 0,
            instance_v6: Address(0),
        };
        slots.fill(1, &port(1));
        shared.publish(&mut allocator, SERVICE, 1);
        let reader = {
            let (shared, slots) = (Arc::clone(&shared), Arc::clone(&slots));
            thread::spawn(move || {
                shared.quiescence.wake(WORKER);
                for (key, n) in [(SERVICE, 1), (OTHER, 2)] {
                    if let Some(slot) = shared.index.get(&shared.arena, key) {
                        let found = slots.get(u32::try_from(slot).unwrap());
                        assert_eq!(found, Some(port(n)));
                    }
                }
                shared.quiescence.sleep(WORKER);
            })
        };
        shared.index.remove(&shared.arena, SERVICE).unwrap();
        let epoch = shared.quiescence.advance();
        if shared.quiescence.passed() > epoch {
            slots.fill(1, &port(2));
            shared.publish(&mut allocator, OTHER, 1);
        }
        reader.join().unwrap();
    });
}

#[test]
fn nobody_sleeps_on_a_packet_in_its_ring() {
    in_all_orders(|| {
        let asleep = Asleep::new();
        // A ring for one packet, and the descriptor that a sleeper waits for.
        let (ring, woken) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let slept = Arc::new(Mutex::new(false));
        let sleeper = {
            let (asleep, ring, slept) = (asleep.clone(), Arc::clone(&ring), Arc::clone(&slept));
            thread::spawn(move || {
                let raised = asleep.raise();
                if !ring.load(Acquire) {
                    // It sleeps, and the flag stays up.
                    *slept.lock().unwrap() = true;
                    std::mem::forget(raised);
                }
            })
        };
        ring.store(true, Release);
        if asleep.must_be_woken() {
            woken.store(true, Release);
        }
        sleeper.join().unwrap();
        assert!(
            !*slept.lock().unwrap() || woken.load(Acquire),
            "asleep for ever"
        );
    });
}
