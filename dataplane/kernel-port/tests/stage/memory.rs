//! One EAL for all tests of a process, without hugepages.

use std::sync::OnceLock;

use dpdk::{Eal, EalOptions, Memory, Mempool};
use kernel_port::Pools;

pub fn pools() -> Pools {
    static MEMORY: OnceLock<(Eal, Pools)> = OnceLock::new();
    let (_, pools) = MEMORY.get_or_init(|| {
        let eal = Eal::init(EalOptions {
            file_prefix: format!("kport{}", std::process::id()),
            memory: Memory::NoHuge { megabytes: 256 },
            ..EalOptions::default()
        })
        .unwrap();
        let small = Mempool::create("small", 8191, 0, 2048 + 128, None).unwrap();
        let large = Mempool::create("large", 511, 0, 65535, None).unwrap();
        (eal, Pools { small, large })
    });
    pools.clone()
}
