//! Worker lcores: launching, panics, and packets handed from one to another.

// A test's own functions are tests too: clippy exempts only the marked ones.
#![allow(clippy::expect_used)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use dpdk::{
    Burst, Eal, EalError, EalOptions, LaunchError, Mempool, MempoolError, Ring, RingError,
    RingFlags, WorkerError,
};
use support::{eal, eventually, pool};

/// The two workers are shared by the tests of this binary.
fn workers() -> MutexGuard<'static, ()> {
    static WORKERS: Mutex<()> = Mutex::new(());
    WORKERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn allowed_cpus() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("proc is mounted");
    status
        .lines()
        .find(|line| line.starts_with("Cpus_allowed_list"))
        .expect("the kernel tells")
        .to_owned()
}

#[test]
fn init_leaves_the_caller_where_it_was_and_happens_once() {
    let before = allowed_cpus();
    eal();
    assert_eq!(allowed_cpus(), before);
    assert!(matches!(
        Eal::init(EalOptions::default()),
        Err(EalError::AlreadyInitialised)
    ));
    assert!(dpdk::cycles_hz() > 1_000_000);
    let start = dpdk::cycles();
    assert!(dpdk::cycles() > start);
}

#[test]
fn a_worker_runs_pinned_on_a_thread_of_its_own() {
    let _workers = workers();
    let (tell, told) = mpsc::channel();
    let worker = eal()
        .launch(0, move || {
            tell.send((std::thread::current().id(), allowed_cpus()))
                .expect("the test listens");
        })
        .expect("the worker is idle");
    worker.join().expect("no panic");
    let (thread, cpus) = told.recv().expect("the worker told");
    assert_ne!(thread, std::thread::current().id());
    assert!(cpus.ends_with("\t0"), "{cpus}");
}

#[test]
fn a_panic_is_reported_and_the_worker_lives() {
    let _workers = workers();
    for round in 0..20 {
        // Unwinds like a panic, without its page on standard error.
        let unwind = move || std::panic::resume_unwind(Box::new(format!("round {round}")));
        let worker = eal().launch(0, unwind).expect("the worker is idle");
        let WorkerError::Panicked(message) = worker.join().expect_err("it panicked");
        assert_eq!(message, format!("round {round}"));
    }
}

#[test]
fn a_busy_or_missing_worker_is_refused() {
    let _workers = workers();
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    let worker = eal()
        .launch(1, move || {
            while !seen.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
        })
        .expect("the worker is idle");
    assert!(matches!(eal().launch(1, || ()), Err(LaunchError::Busy(1))));
    assert!(matches!(
        eal().launch(2, || ()),
        Err(LaunchError::NoSuchWorker(2, 2))
    ));
    assert!(!worker.is_finished());
    stop.store(true, Ordering::Release);
    assert!(eventually(|| worker.is_finished()));
    worker.join().expect("no panic");
}

/// Numbers packets on one worker, checks and frees them on the other.
fn hand_over(
    pool: &Mempool,
    mut send: impl FnMut(&mut Burst<32>) + Send + 'static,
    mut receive: impl FnMut(&mut Burst<32>) + Send + 'static,
) {
    const PACKETS: u64 = 50_000;
    let source = pool.clone();
    let producer = eal()
        .launch(0, move || {
            let mut burst = Burst::<32>::new();
            let mut next = 0;
            while next < PACKETS || !burst.is_empty() {
                while next < PACKETS
                    && !burst.is_full()
                    && let Some(mut mbuf) = source.alloc()
                {
                    mbuf.set_tag(next);
                    assert!(mbuf.extend_from_slice(&next.to_be_bytes()));
                    assert!(burst.push(mbuf).is_ok());
                    next += 1;
                }
                send(&mut burst);
                std::thread::yield_now();
            }
        })
        .expect("the worker is idle");
    let consumer = eal()
        .launch(1, move || {
            let mut burst = Burst::<32>::new();
            let mut next = 0;
            while next < PACKETS {
                receive(&mut burst);
                for mbuf in burst.drain() {
                    assert_eq!((mbuf.tag(), mbuf.data()), (next, &next.to_be_bytes()[..]));
                    next += 1;
                }
                std::thread::yield_now();
            }
        })
        .expect("the worker is idle");
    producer.join().expect("no panic");
    consumer
        .join()
        .expect("each packet came once, in order, with its bytes");
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn packets_cross_between_workers() {
    let _workers = workers();
    eal();
    // With a cache per lcore: freed on one, allocated on the other.
    let pool = Mempool::create("handover", 1023, 64, 2048, None).expect("a pool fits in memory");
    for (name, flags) in [
        ("mt", RingFlags::Multi),
        ("rts", RingFlags::RelaxedTail),
        ("hts", RingFlags::HeadTail),
    ] {
        let ring = Arc::new(Ring::create(name, 256, flags).expect("a ring fits in memory"));
        let other = Arc::clone(&ring);
        hand_over(
            &pool,
            move |burst| {
                ring.enqueue_burst(burst);
            },
            move |burst| {
                other.dequeue_burst(burst);
            },
        );
    }
    let (sender, mut receiver) = Ring::inbox("inbox", 256).expect("a ring fits in memory");
    hand_over(
        &pool,
        move |burst| {
            sender.enqueue_burst(burst);
        },
        move |burst| {
            receiver.dequeue_burst(burst);
        },
    );
}

#[test]
fn a_ring_holds_exactly_its_size_and_frees_what_is_left() {
    let pool = pool(63, 64);
    let ring = Ring::create("exact", 5, RingFlags::default()).expect("a ring fits in memory");
    assert!(matches!(
        Ring::create("exact", 5, RingFlags::default()),
        Err(RingError::NameTaken(_))
    ));
    let mut burst = Burst::<8>::new();
    assert!(pool.alloc_bulk(&mut burst, 8));
    burst
        .iter_mut()
        .zip(0..)
        .for_each(|(mbuf, tag)| mbuf.set_tag(tag));
    assert_eq!(ring.enqueue_burst(&mut burst), 5);
    assert_eq!(
        burst.iter().map(dpdk::Mbuf::tag).collect::<Vec<_>>(),
        [5, 6, 7],
        "the rest stays, in order"
    );
    burst.clear();
    assert_eq!(pool.in_use(), 5);
    drop(ring);
    assert_eq!(pool.in_use(), 0);
    drop(Ring::create("exact", 5, RingFlags::default()).expect("the name is free again"));
}

#[test]
fn what_cannot_be_made_says_why() {
    eal();
    let refused = |name: &str, count, cache, room| {
        Mempool::create(name, count, cache, room, None).expect_err("refused")
    };
    assert!(matches!(refused("", 63, 0, 2048), MempoolError::Name(_)));
    assert!(matches!(
        refused("a name that is much too long", 63, 0, 2048),
        MempoolError::Name(_)
    ));
    assert!(matches!(
        refused("caches", 63, 64, 2048),
        MempoolError::Size { .. }
    ));
    assert!(matches!(
        refused("big", 1_000_000, 0, 65_535),
        MempoolError::NoMemory { .. }
    ));
    let _kept = Mempool::create("twice", 63, 0, 2048, None).expect("a pool fits in memory");
    assert!(matches!(
        refused("twice", 63, 0, 2048),
        MempoolError::NameTaken(_)
    ));
    assert!(matches!(
        Ring::create("zero", 0, RingFlags::default()),
        Err(RingError::Size(0))
    ));
}
