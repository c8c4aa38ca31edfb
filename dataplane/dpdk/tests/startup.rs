//! Starting badly, starting well, and cleaning up: a process of its own, in this order.

// A test's own functions are tests too: clippy exempts only the marked ones.
#![allow(clippy::expect_used)]

use dpdk::{Burst, Eal, EalError, EalOptions, Memory, Mempool, MempoolError, Port, PortError};

fn refused(options: EalOptions) -> EalError {
    Eal::init(options).err().expect("refused")
}

#[test]
fn bad_options_are_refused_before_eal_is_touched() {
    assert!(matches!(
        Mempool::create("early", 63, 0, 2048, None),
        Err(MempoolError::NoEal)
    ));
    assert!(matches!(Port::attach("net_null0"), Err(PortError::NoEal)));
    let with = |change: fn(&mut EalOptions)| {
        let mut options = EalOptions::default();
        change(&mut options);
        refused(options)
    };
    assert!(matches!(
        with(|o| o.file_prefix = "../up".into()),
        EalError::FilePrefix(_)
    ));
    assert!(matches!(
        with(|o| o.workers = vec![vec![]]),
        EalError::NoCpu(0)
    ));
    assert!(matches!(
        with(|o| o.workers = vec![vec![1000]]),
        EalError::NoSuchCpu(1000)
    ));
    assert!(matches!(
        with(|o| o.workers = vec![vec![0]; 128]),
        EalError::TooManyWorkers(128)
    ));
    assert!(matches!(
        with(|o| o.vdevs = vec!["net_af_packet0,iface=nope0".into()]),
        EalError::NoSuchInterface(_)
    ));
    assert!(matches!(
        with(|o| o.vdevs = vec!["net_null0\0".into()]),
        EalError::Argument(_)
    ));
    let not_huge = Memory::Hugepages {
        dir: Some("/proc".into()),
    };
    let error = refused(EalOptions {
        memory: not_huge,
        ..EalOptions::default()
    });
    assert!(matches!(error, EalError::NotHugetlbfs(_)), "{error}");

    // With a device from the start, and then through a whole life.
    let vdevs = vec!["net_null7,size=60".to_owned()];
    let eal = Eal::init(EalOptions {
        vdevs,
        ..EalOptions::default()
    })
    .expect("good options after bad ones");
    let pool = Mempool::create("life", 1023, 32, 2048, None).expect("a pool fits in memory");
    let mut port = Port::find("net_null7").expect("made at start");
    assert!(matches!(Port::find("net_null7"), Err(PortError::InUse(_))));
    port.configure(&dpdk::PortConfig::new(pool.clone()))
        .expect("net_null takes anything");
    port.start().expect("net_null starts");
    let mut rx = port.rx_queue(0).expect("the queue is free");
    let mut burst = Burst::<32>::new();
    assert_eq!(rx.burst(&mut burst), 32);
    drop((rx, port));
    drop(Port::find("net_null7").expect("free again"));

    // A packet outlives the Eal: its memory must not go away.
    let kept = burst.pop().expect("received");
    drop((burst, pool));
    drop(eal);
    assert_eq!(kept.data().len(), 60);
    drop(kept);
    assert!(matches!(
        Mempool::create("late", 63, 0, 2048, None),
        Err(MempoolError::NoEal)
    ));
    assert!(matches!(
        refused(EalOptions::default()),
        EalError::AlreadyInitialised
    ));
}
