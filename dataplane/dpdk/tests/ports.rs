//! Ports: plugged in and out, polled, counted; what must not go together is refused.

// A test's own functions are tests too: clippy exempts only the marked ones.
#![allow(clippy::expect_used)]

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

use dpdk::{Burst, L4Checksum, Mempool, Offload, Port, PortConfig, PortError, Segment};
use support::{eal, eventually, pool};

/// Ports are few and shared by the tests of this binary.
fn ports() -> MutexGuard<'static, ()> {
    static PORTS: Mutex<()> = Mutex::new(());
    eal();
    PORTS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn started(devargs: &str, pool: &Mempool) -> Port {
    let mut port = Port::attach(devargs).expect("the driver is installed");
    port.configure(&PortConfig::new(pool.clone()))
        .expect("the defaults suit");
    port.start().expect("it starts");
    port
}

#[test]
fn plugged_in_and_out_without_a_leak() {
    let _ports = ports();
    let pool = pool(511, 2048);
    for round in 0..20 {
        let port = started("net_null0,size=64", &pool);
        let (mut rx, mut tx) = (
            port.rx_queue(0).expect("free"),
            port.tx_queue(0).expect("free"),
        );
        let mut burst = Burst::<32>::new();
        assert_eq!(rx.burst(&mut burst), 32);
        assert!(burst.iter().all(|mbuf| mbuf.pkt_len() == 64
            && mbuf.tag() == 0
            && mbuf.offload() == Offload::default()));
        assert_eq!(rx.burst(&mut burst), 0, "no room");
        assert_eq!(tx.burst(&mut burst), 32);
        assert!(burst.is_empty());
        let stats = port.stats().expect("net_null counts");
        assert_eq!((stats.rx_packets, stats.tx_packets), (32, 32));
        assert_eq!(port.driver().expect("it has a name"), "net_null");
        drop((rx, tx));
        if round % 2 == 0 {
            port.detach().expect("no queue is in use");
        } else {
            drop(port);
        }
        assert!(matches!(
            Port::find("net_null0"),
            Err(PortError::NotFound(_))
        ));
        assert_eq!(pool.in_use(), 0);
    }
}

#[test]
fn a_queue_has_one_user_and_holds_its_port() {
    let _ports = ports();
    let pool = pool(511, 2048);
    let mut port = Port::attach("net_null1").expect("the driver is installed");
    assert!(matches!(port.start(), Err(PortError::NotStarted(_))));
    assert!(matches!(port.rx_queue(0), Err(PortError::NotStarted(_))));
    assert!(matches!(
        Port::attach("net_null1"),
        Err(PortError::Exists(_))
    ));
    assert!(matches!(Port::find("net_null1"), Err(PortError::InUse(_))));
    let config = PortConfig {
        rx_queues: 2,
        ..PortConfig::new(pool.clone())
    };
    let too_many = PortConfig {
        rx_queues: 2000,
        ..config.clone()
    };
    assert!(matches!(
        port.configure(&too_many),
        Err(PortError::Queues { .. })
    ));
    assert!(matches!(
        port.configure(&PortConfig {
            mtu: 10,
            ..config.clone()
        }),
        Err(PortError::Mtu { .. })
    ));
    port.configure(&config)
        .expect("net_null has several queues");
    port.start().expect("it starts");
    assert!(matches!(
        port.configure(&config),
        Err(PortError::Started(_))
    ));

    let rx = port.rx_queue(1).expect("free");
    assert!(matches!(port.rx_queue(1), Err(PortError::Queue(_, 1))));
    assert!(matches!(port.rx_queue(2), Err(PortError::Queue(_, 2))));
    assert!(matches!(port.tx_queue(1), Err(PortError::Queue(_, 1))));
    assert!(matches!(port.stop(), Err(PortError::QueuesInUse(_))));
    drop(rx);
    let rx = port.rx_queue(1).expect("free again");
    drop(rx);
    port.stop().expect("no queue is in use");
    port.start().expect("stopped, it starts again");

    let mut rx = port.rx_queue(0).expect("free");
    assert!(matches!(port.detach(), Err(PortError::QueuesInUse(_))));
    let mut burst = Burst::<8>::new();
    assert_eq!(
        rx.burst(&mut burst),
        8,
        "the port lives as long as its queue"
    );
    drop(rx);
    assert!(
        matches!(Port::find("net_null1"), Err(PortError::NotFound(_))),
        "and goes with it"
    );
    drop(burst);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_ring_device_carries_chains_and_requests() {
    let _ports = ports();
    let pool = pool(511, 2048);
    let port = started("net_ring0", &pool);
    let (mut rx, mut tx) = (
        port.rx_queue(0).expect("free"),
        port.tx_queue(0).expect("free"),
    );
    let offload = Offload {
        checksum: L4Checksum::PartialTcp,
        segment: Segment::Tcp { mss: 1400 },
        l3_len: 20,
        l4_len: 32,
    };
    let mut mbuf = pool.alloc().expect("the pool has mbufs");
    assert!(mbuf.extend_from_slice(b"head"));
    let mut tail = pool.alloc().expect("the pool has mbufs");
    assert!(tail.extend_from_slice(b"tail"));
    mbuf.push_segment(tail).expect("two segments");
    mbuf.set_offload(offload);
    mbuf.set_tag(7);
    let mut burst = Burst::<4>::new();
    burst.push(mbuf).expect("there is room");
    assert_eq!(tx.burst(&mut burst), 1);
    assert_eq!(rx.burst(&mut burst), 1);
    assert_eq!(
        (burst[0].pkt_len(), burst[0].segment_count(), burst[0].tag()),
        (8, 2, 0)
    );
    assert_eq!(burst[0].offload(), offload);

    // Lengths without a request are leftovers, which a received packet must not show.
    burst[0].set_offload(Offload {
        checksum: L4Checksum::Complete,
        segment: Segment::None,
        l3_len: 20,
        l4_len: 32,
    });
    assert_eq!(tx.burst(&mut burst), 1);
    assert_eq!(rx.burst(&mut burst), 1);
    assert_eq!(burst[0].offload(), Offload::default());
    drop((burst, rx, tx));
    port.detach().expect("no queue is in use");
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn bad_devargs_name_the_remedy() {
    let _ports = ports();
    assert!(matches!(Port::attach(""), Err(PortError::Devargs(_))));
    assert!(matches!(
        Port::attach("net_null\0"),
        Err(PortError::Devargs(_))
    ));
    assert!(matches!(
        Port::attach("no_such_driver0"),
        Err(PortError::Attach(..))
    ));
    assert!(matches!(
        Port::attach("net_null3,bogus=1"),
        Err(PortError::Attach(..))
    ));
    assert!(matches!(
        Port::attach("net_af_packet0,iface=nope0"),
        Err(PortError::NoSuchInterface(_))
    ));
    assert!(
        matches!(Port::find("net_null3"), Err(PortError::NotFound(_))),
        "a refused device leaves nothing"
    );
}

#[test]
fn a_tap_device_moves_frames_to_and_from_the_kernel() {
    if std::fs::metadata("/proc/self")
        .map(|own| std::os::unix::fs::MetadataExt::uid(&own))
        .ok()
        != Some(0)
    {
        eprintln!("skipped: net_tap needs root");
        return;
    }
    let _ports = ports();
    let pool = pool(4095, 2048);
    let name = format!("dt{}", std::process::id());
    let sysfs = std::path::PathBuf::from("/sys/class/net").join(&name);
    let mut port =
        Port::attach(&format!("net_tap0,iface={name}")).expect("root may make a TAP device");
    port.configure(&PortConfig {
        offloads: true,
        ..PortConfig::new(pool.clone())
    })
    .expect("the defaults suit");
    port.start().expect("it starts");
    assert!(sysfs.exists());
    assert_ne!(port.mac().expect("it has one"), [0; 6]);
    assert!(eventually(|| port.link().is_ok_and(|link| link.up)));
    assert!(port.takes_chains());

    let (mut rx, mut tx) = (
        port.rx_queue(0).expect("free"),
        port.tx_queue(0).expect("free"),
    );
    // A chained broadcast frame of an EtherType for experiments, which the kernel counts and drops.
    let received = || {
        std::fs::read_to_string(sysfs.join("statistics/rx_packets")).expect("the interface exists")
    };
    let before: u64 = received().trim().parse().expect("a number");
    let mut mbuf = pool.alloc().expect("the pool has mbufs");
    assert!(
        mbuf.extend_from_slice(&[0xff; 6])
            && mbuf.extend_from_slice(&[2, 0, 0, 0, 0, 1, 0x88, 0xb5])
    );
    let mut tail = pool.alloc().expect("the pool has mbufs");
    assert!(tail.extend_from_slice(&[0; 46]));
    mbuf.push_segment(tail).expect("two segments");
    let mut burst = Burst::<32>::new();
    burst.push(mbuf).expect("there is room");
    assert_eq!(tx.burst(&mut burst), 1);
    assert!(eventually(|| received()
        .trim()
        .parse::<u64>()
        .is_ok_and(|now| now > before)));

    // The kernel announces itself on a new interface, or answers what we cannot see; either way by frames
    // with an Ethernet header.
    assert!(eventually(|| rx.burst(&mut burst) > 0));
    assert!(burst.iter().all(|mbuf| mbuf.pkt_len() >= 14));
    drop((burst, rx, tx));
    port.detach().expect("no queue is in use");
    assert!(!sysfs.exists());
    assert_eq!(pool.in_use(), 0);
}
