//! The TAP against the kernel's own stack.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "an unwrap in a test is an assertion"
)]

mod stage;

use std::net::UdpSocket;
use std::time::Duration;

use dpdk::Mbuf;
use kernel_port::{KernelPortError, NicTap, TapPort};
use stage::memory::pools;
use stage::{Namespace, until};

fn tap(namespace: &Namespace, queues: usize) -> Vec<TapPort> {
    let pools = pools();
    let ports = namespace.run(|| TapPort::open("oak0", queues, &pools).unwrap());
    namespace.ip(&["addr", "add", "10.8.0.1/24", "dev", "oak0"]);
    namespace.ip(&["link", "set", "oak0", "up"]);
    let neighbour = [
        "neigh",
        "add",
        "10.8.0.2",
        "lladdr",
        "02:00:00:00:00:07",
        "dev",
        "oak0",
    ];
    namespace.ip(&neighbour);
    ports
}

/// Turns a UDP packet round. The sums over addresses and ports do not change by it.
fn turn_round(mbuf: &mut Mbuf, mac: [u8; 6]) -> bool {
    let bytes = mbuf.data_mut();
    if bytes.len() < 42 || bytes[12..14] != [8, 0] || bytes[23] != 17 {
        return false;
    }
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
    bytes[..6].copy_from_slice(&mac);
    for i in 0..4 {
        bytes.swap(26 + i, 30 + i);
    }
    bytes.swap(34, 36);
    bytes.swap(35, 37);
    true
}

#[test]
fn a_host_process_gets_its_packets_back() {
    for queues in [1, 2] {
        let namespace = Namespace::new();
        let mut ports = tap(&namespace, queues);
        assert_eq!(ports[0].ifindex(), namespace.interface("oak0"));
        let mac = ports[0].mac();
        let socket = namespace.run(|| UdpSocket::bind("10.8.0.1:0").unwrap());
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        for size in [0, 1, 100, 1472] {
            let content: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            socket.send_to(&content, "10.8.0.2:7").unwrap();
            let mut returned = 0;
            until("the packet", || {
                for port in &mut ports {
                    let mut burst = Vec::new();
                    port.receive(8, &mut |mbuf| burst.push(mbuf));
                    for mut mbuf in burst {
                        if turn_round(&mut mbuf, mac) {
                            port.push(mbuf);
                        }
                    }
                    returned += port.flush().sent;
                }
                returned == 1
            });
            let mut buffer = [0; 2000];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(from, "10.8.0.2:7".parse().unwrap());
            assert!(buffer[..length] == content);
        }
    }
}

#[test]
fn an_interface_that_is_down_is_counted() {
    let namespace = Namespace::new();
    let mut ports = tap(&namespace, 1);
    namespace.ip(&["link", "set", "oak0", "down"]);
    for _ in 0..100 {
        let mut mbuf = pools().small.alloc().unwrap();
        assert!(mbuf.extend_from_slice(&[0xff; 60]));
        ports[0].push(mbuf);
    }
    let sent = ports[0].flush();
    assert_eq!((sent.sent, sent.dropped), (0, 100));
    assert_eq!(
        ports[0].stats().tx_interface_down,
        100,
        "{:?}",
        ports[0].stats()
    );
}

#[test]
fn bad_and_taken_names_are_refused_with_a_remedy() {
    let namespace = Namespace::new();
    let pools = pools();
    let _held = tap(&namespace, 1);
    let open = |name: &str| namespace.run(|| TapPort::open(name, 1, &pools).map(drop).unwrap_err());
    assert!(matches!(open("oak0"), KernelPortError::InterfaceTaken(_)));
    assert!(matches!(open("lo"), KernelPortError::InterfaceTaken(_)));
    for name in ["", "a/b", "a b", "oak%d", "sixteen-letters-"] {
        assert!(
            matches!(open(name), KernelPortError::BadInterfaceName(_)),
            "{name}"
        );
    }
}

/// A NIC's TAP outlives its ports, address and all, and is taken over by any number of queues.
#[test]
fn the_tap_of_a_nic_is_taken_over() {
    let namespace = Namespace::new();
    let pools = pools();
    let nic = NicTap {
        name: "nic0",
        mac: [2, 0, 0, 0, 0, 9],
    };
    let open = |queues| namespace.run(|| TapPort::open_nic(nic, queues, &pools).unwrap());
    let ports = open(1);
    let interface = ports[0].ifindex();
    namespace.ip(&["addr", "add", "192.0.2.1/24", "dev", "nic0"]);
    namespace.ip(&["link", "set", "nic0", "up"]);
    drop(ports);
    for queues in [2, 1] {
        assert_eq!(namespace.interface("nic0"), interface);
        let mut ports = open(queues);
        assert_eq!(ports.len(), queues);
        assert!(ports.iter().all(|port| port.mac() == nic.mac));
        // Frames are complete: the kernel finishes checksums and cuts segments before it sends.
        let socket = namespace.run(|| UdpSocket::bind("192.0.2.1:0").unwrap());
        let neighbour = [
            "neigh",
            "replace",
            "192.0.2.2",
            "lladdr",
            "02:00:00:00:00:07",
            "dev",
            "nic0",
        ];
        namespace.ip(&neighbour);
        socket.send_to(&[7; 100], "192.0.2.2:7").unwrap();
        let mut seen = None;
        until("the datagram", || {
            for port in &mut ports {
                port.receive(8, &mut |mbuf| {
                    if mbuf.data().get(12..14) == Some(&[8, 0]) {
                        seen = Some(mbuf.offload());
                    }
                });
            }
            seen.is_some()
        });
        assert_eq!(seen, Some(dpdk::Offload::default()));
    }
    let other = namespace.run(|| TapPort::open("nic0", 1, &pools).map(drop));
    assert!(other.is_err(), "the host's TAP is of another kind");
}
