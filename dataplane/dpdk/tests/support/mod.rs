//! One EAL for all tests of a binary: DPDK can be initialised once per process.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dpdk::{Eal, EalOptions, HEADROOM, Memory, Mempool};

/// Two workers on one CPU, so that any machine will do.
#[allow(clippy::expect_used)] // Without EAL there is nothing to test.
pub fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        Eal::init(EalOptions {
            workers: vec![vec![0], vec![0]],
            memory: Memory::NoHuge { megabytes: 256 },
            ..EalOptions::default()
        })
        .expect("EAL starts without hugepages")
    })
}

/// A pool of its own for each caller, so that leaks show where they happen.
#[allow(clippy::expect_used)] // As above.
#[allow(dead_code)] // Not every test binary makes pools.
pub fn pool(count: u32, data_room: u16) -> Mempool {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    eal();
    let name = format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed));
    Mempool::create(&name, count, 0, HEADROOM + data_room, None).expect("a pool fits in memory")
}

/// Polls until the condition holds; false after ten seconds.
#[allow(dead_code)] // Not every test binary waits.
pub fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}
