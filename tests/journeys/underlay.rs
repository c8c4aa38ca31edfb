//! What the network between the nodes gets to see, and what comes from it before anyone asked for it.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use journeys::container::Container;
use journeys::deadline::wait_for;
use journeys::measure::{ECHO_PORT, Observer};
use journeys::namespace::Namespace;
use journeys::node::{Node, TUNNEL_PORT, UNDERLAY, Uplink};
use journeys::scene::Scene;
use journeys::topology::{Plan, Topology};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, socket,
};

/// Every frame on an interface, in and out.
struct Capture {
    socket: OwnedFd,
    interface: usize,
}

impl Capture {
    fn open(inside: &Namespace, interface: &str) -> Capture {
        // /sys shows the namespace that mounted it, so the index is asked of `ip`.
        let line = inside
            .ip(&["-o", "link", "show", "dev", interface])
            .unwrap();
        let index = line.split(':').next().unwrap().parse();
        let socket = inside
            .enter(|| {
                socket(
                    AddressFamily::Packet,
                    SockType::Raw,
                    SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
                    SockProtocol::EthAll,
                )
            })
            .unwrap()
            .unwrap();
        Capture {
            socket,
            interface: index.unwrap(),
        }
    }

    fn next(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 65536];
        loop {
            let (count, from) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut bytes).ok()?;
            if from.is_some_and(|from| from.ifindex() == self.interface) {
                bytes.truncate(count);
                return Some(bytes);
            }
        }
    }
}

/// Whether a frame shows an address of the overlay to the underlay: as an address of its own packet, or asked for.
fn shows_overlay(frame: &[u8]) -> bool {
    let v4 = |at: usize| {
        frame
            .get(at..at + 4)
            .is_some_and(|a| a[0] == 10 && (18..=30).contains(&a[1]))
    };
    let v6 = |at: usize| frame.get(at).is_some_and(|first| first & 0xfe == 0xfc);
    match frame.get(12..14) {
        Some([8, 0]) => v4(26) || v4(30),
        Some([8, 6]) => v4(28) || v4(38),
        // A solicitation's target stands behind the ICMPv6 header.
        Some([0x86, 0xdd]) => v6(22) || v6(38) || (frame.get(20) == Some(&58) && v6(62)),
        _ => false,
    }
}

fn is_tunnel(frame: &[u8]) -> bool {
    let port = match frame.get(12..14) {
        Some([8, 0]) => frame.get(36..38),
        _ => None,
    };
    port == Some(&TUNNEL_PORT.to_be_bytes())
}

/// Pitfall-like, seen with docker: with forwarding on, the kernel has its own idea of what it reads from a veth. A
/// container that speaks without pause, before it is attached, while, and after, shows nothing of it to the underlay.
fn nothing_untranslated_leaves(uplink: Uplink) {
    let mut scene = Scene::new(uplink, &[1, 1]).unwrap();
    let targets: Vec<SocketAddr> = [
        scene.table.service_ip,
        scene.table.service_ip_v6,
        scene.table.instances[0].instance_ip,
        scene.table.instances[0].namespace_ip,
    ]
    .map(|ip| SocketAddr::new(ip, ECHO_PORT))
    .to_vec();
    let topology = &mut scene.topology;
    let capture = Capture::open(&topology.nodes[0].namespace, UNDERLAY);
    let container = Container::idle(topology.run(), &topology.programs, "speaker").unwrap();
    let inside = container.namespace();
    let orchestrator = topology.orchestrator();
    let service = orchestrator
        .deploy_service("64b0c0ffee000000000000aa", "trial.test.speaker.default")
        .unwrap();
    orchestrator.deploy_instance(&service, 0).unwrap();
    let node = &topology.nodes[0];
    let over = AtomicBool::new(false);
    let mut tunnelled = 0u32;
    let mut look = || {
        while let Some(frame) = capture.next() {
            assert!(!shows_overlay(&frame), "seen on the underlay: {frame:02x?}");
            tunnelled += u32::from(is_tunnel(&frame));
        }
        tunnelled
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            inside.enter(|| speak(&targets, &over)).unwrap();
        });
        let guard = Over(&over);
        look();
        node.deploy(&service.job, 0, &container)
            .unwrap()
            .ok("attaching")
            .unwrap();
        let mut wait_more = |what: &str| {
            let before = look();
            wait_for(what, Duration::from_secs(20), || {
                Ok((look() > before + 100).then_some(()))
            })
            .unwrap();
        };
        wait_more("tunnelled datagrams");
        node.undeploy(&service.job, 0)
            .unwrap()
            .ok("detaching")
            .unwrap();
        drop(guard);
    });
    look();
}

/// Ends the speaker however the test ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn speak(targets: &[SocketAddr], over: &AtomicBool) {
    let sockets = ["0.0.0.0:0", "[::]:0"].map(|any| UdpSocket::bind(any).unwrap());
    while !over.load(Ordering::Relaxed) {
        for target in targets {
            // Without an address there is no way yet.
            let _ = sockets[usize::from(target.is_ipv6())].send_to(b"anyone?", target);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn nothing_untranslated_leaves_by_udp_sockets() {
    nothing_untranslated_leaves(Uplink::Socket);
}

#[test]
fn nothing_untranslated_leaves_by_af_packet() {
    nothing_untranslated_leaves(Uplink::AfPacket);
}

fn metric(node: &Node, name: &str) -> u64 {
    let text = node.server().get("/metrics").unwrap().body;
    text.lines()
        .filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '))
        .map(|(_, value)| value.parse::<u64>().unwrap())
        .sum()
}

/// Pitfall 22: what arrives before the node has a subnetwork is dropped and counted, and then it registers as ever.
#[test]
fn traffic_before_registration_is_dropped_and_counted() {
    const DATAGRAMS: u64 = 500;
    let mut topology = Topology::up(Plan {
        nodes: 2,
        uplink: Uplink::Socket,
    })
    .unwrap();
    // Its first answer comes when the data plane runs; the socket file is there before.
    assert_eq!(
        metric(&topology.nodes[1], "netmanager_packets_dropped_total"),
        0
    );
    let target = SocketAddr::new(IpAddr::V4(topology.nodes[1].underlay), TUNNEL_PORT);
    // UDP from an Instance IP to a namespace IP, with a right header checksum.
    let packet = [
        0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0x66, 0x92, 10, 30, 0, 2, 10, 18, 0, 2, 0x0f, 0xa0, 0,
        53, 0, 8, 0, 0,
    ];
    topology.nodes[0]
        .namespace
        .enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for n in 0..DATAGRAMS {
                let bytes = if n % 2 == 0 { &packet[..] } else { &[] };
                socket.send_to(bytes, target).unwrap();
                if n % 50 == 0 {
                    std::thread::yield_now();
                }
            }
        })
        .unwrap();
    let node = &topology.nodes[1];
    wait_for(
        "the datagrams to be counted",
        Duration::from_secs(10),
        || {
            let received = metric(node, "netmanager_packets_received_total{port=\"tunnel\"}");
            let dropped = metric(node, "netmanager_packets_dropped_total");
            ensure!(
                (received, dropped) == (DATAGRAMS, DATAGRAMS),
                "{received} received and {dropped} dropped of {DATAGRAMS}"
            );
            Ok(Some(()))
        },
    )
    .unwrap();
    topology.nodes[1]
        .process()
        .unwrap()
        .check_running()
        .unwrap();
    topology
        .orchestrator()
        .register_cluster(&topology.cluster)
        .unwrap();
    for node in &topology.nodes {
        node.register().unwrap().ok("registering").unwrap();
    }
    let (web, _instances) = topology.deploy("trial.test.web.default", &[1]).unwrap();
    let (own, mut client) = topology
        .deploy_client("trial.test.client.default", 0)
        .unwrap();
    let table = topology
        .wait_running(&[(&web, 1), (&own, 1)])
        .unwrap()
        .remove(0);
    let mut observer = Observer {
        container: &mut client.container,
        run: topology.run(),
        programs: &topology.programs,
    };
    let spread = observer.requests(table.service_ip, 10).unwrap();
    assert_eq!(spread.failures, 0, "{spread:?}");
}
