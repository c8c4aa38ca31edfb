//! The access ports on real veth pairs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "an unwrap in a test is an assertion"
)]

mod stage;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dpdk::{L4Checksum, Mbuf, Segment};
use kernel_port::{AccessGroup, AccessPort, AccessStats, KernelPortError, Waiter};
use stage::memory::pools;
use stage::{Namespace, Numbers, bytes, until};

const GATEWAY: &str = "10.9.0.254";

/// Containers `e0` at 10.9.0.1 and so on; their host ends are `h0` and so on.
struct Node {
    host: Namespace,
    containers: Vec<Namespace>,
}

impl Node {
    fn new(containers: usize) -> Node {
        let host = Namespace::new();
        let containers = (0..containers)
            .map(|number| {
                let container = Namespace::new();
                let end = format!("h{number}");
                let address = format!("10.9.0.{}/24", number + 1);
                container.ip(&[
                    "link", "add", "e0", "type", "veth", "peer", "name", &end, "netns", &host.0,
                ]);
                host.ip(&["link", "set", &end, "up"]);
                container.ip(&["addr", "add", &address, "dev", "e0"]);
                container.ip(&["link", "set", "e0", "up"]);
                let gateway = ["neigh", "add", GATEWAY, "lladdr", "02:00:00:00:00:99"];
                container.ip(&[&gateway[..], &["dev", "e0"]].concat());
                container
            })
            .collect();
        Node { host, containers }
    }

    fn open(&self, workers: usize) -> (AccessGroup, Vec<AccessPort>) {
        self.host
            .run(|| AccessGroup::open(workers, 1024, &pools()).unwrap())
    }

    fn interface(&self, container: usize) -> u32 {
        self.host.interface(&format!("h{container}"))
    }

    fn socket(&self, container: usize) -> UdpSocket {
        self.containers[container].run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((GATEWAY, 9)).unwrap();
            socket
        })
    }
}

/// The payload of a UDP packet to our port; `None` for anything else.
fn payload(mbuf: &Mbuf) -> Option<Vec<u8>> {
    let bytes = bytes(mbuf);
    let udp = bytes.get(12..14)? == [8, 0] && bytes.get(23)? == &17;
    (udp && bytes.get(36..38)? == [0, 9]).then(|| bytes[42..].to_vec())
}

/// Payloads until `count` have come.
fn collect(port: &mut AccessPort, count: usize) -> Vec<(u32, Vec<u8>)> {
    let mut got = Vec::new();
    until("the frames", || {
        port.receive(64, &mut |mbuf, interface| {
            got.extend(payload(&mbuf).map(|payload| (interface, payload)));
        });
        got.len() >= count
    });
    got
}

fn dropped(stats: AccessStats) -> u64 {
    stats.truncated + stats.no_mbuf + stats.vlan + stats.bad_vnet_header + stats.out_of_step
}

#[test]
fn small_and_large_frames_keep_their_order_and_content() {
    let node = Node::new(1);
    let (mut group, mut ports) = node.open(1);
    let interface = node.interface(0);
    group.set_interfaces(&[(interface, 0)]).unwrap();
    let socket = node.socket(0);
    let mut numbers = Numbers(7);
    let mut large = 0;
    for round in 0..40_u32 {
        let mut expected = Vec::new();
        for _ in 0..1 + numbers.below(40) {
            let segment: u16 = if numbers.below(2) == 0 { 1400 } else { 0 };
            let length = match segment {
                0 => 4 + numbers.below(1400),
                _ => 1401 + numbers.below(58_000),
            };
            let first = numbers.below(200);
            let mut content: Vec<u8> = (0..length).map(|i| ((first + i) % 251) as u8).collect();
            content[..4].copy_from_slice(&round.to_be_bytes());
            set_segment(&socket, segment);
            socket.send(&content).unwrap();
            expected.push((segment, content));
        }
        let mut at = 0;
        until("the burst", || {
            ports[0].receive(17, &mut |mbuf, from| {
                let Some(got) = payload(&mbuf) else { return };
                let (size, content) = &expected[at];
                assert_eq!(from, interface);
                assert!(got == *content, "frame {at} of round {round}");
                let offload = mbuf.offload();
                assert_eq!(offload.checksum, L4Checksum::PartialUdp);
                assert_eq!((offload.l3_len, offload.l4_len), (20, 8));
                let expected = match size {
                    0 => Segment::None,
                    &size => Segment::Udp { size },
                };
                assert_eq!(offload.segment, expected);
                large += usize::from(mbuf.segment_count() > 1);
                at += 1;
            });
            at == expected.len()
        });
    }
    assert!(large > 100, "{large} large frames");
    assert_eq!(dropped(ports[0].stats()), 0, "{:?}", ports[0].stats());
    assert_eq!(group.ring_drops(), [0]);
}

fn set_segment(socket: &UdpSocket, size: u16) {
    let size = libc::c_int::from(size);
    // SAFETY: one int is passed, and its length.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), 17, 103, (&raw const size).cast(), 4) };
    assert_eq!(set, 0);
}

#[test]
fn a_tcp_stream_crosses_in_large_segments_unharmed() {
    a_tcp_stream_crosses(&Node::new(2));
}

#[test]
fn an_interface_that_cannot_cut_segments_gets_them_cut() {
    let node = Node::new(2);
    for end in ["h0", "h1"] {
        let off = ["-K", end, "tx", "off", "tso", "off", "gso", "off"];
        let set = || std::process::Command::new("ethtool").args(off).output();
        assert!(node.host.run(set).unwrap().status.success());
    }
    a_tcp_stream_crosses(&node);
}

fn a_tcp_stream_crosses(node: &Node) {
    const TOTAL: usize = 48 << 20;
    let (mut group, mut ports) = node.open(1);
    let ends = [node.interface(0), node.interface(1)];
    group.set_interfaces(&[(ends[0], 0), (ends[1], 0)]).unwrap();
    let listener = node.containers[1].run(|| TcpListener::bind("10.9.0.2:80").unwrap());
    let done = AtomicBool::new(false);
    let mut longest = 0;
    std::thread::scope(|scope| {
        // A wire between the containers: what one sends, the other gets.
        let wire = scope.spawn(|| {
            let port = &mut ports[0];
            let waiter = Waiter::new().unwrap();
            waiter.add(port.fd()).unwrap();
            let mut burst = Vec::new();
            while !done.load(Ordering::Acquire) {
                port.receive(64, &mut |mbuf, from| burst.push((mbuf, from)));
                if burst.is_empty() {
                    waiter.wait(Some(Duration::from_millis(20))).unwrap();
                    continue;
                }
                for (mbuf, from) in burst.drain(..) {
                    longest = longest.max(mbuf.pkt_len());
                    port.push(mbuf, if from == ends[0] { ends[1] } else { ends[0] });
                }
                port.flush();
            }
        });
        let reader = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let mut got = Vec::with_capacity(TOTAL);
            let result = stream.read_to_end(&mut got);
            done.store(true, Ordering::Release);
            result.unwrap();
            got
        });
        let mut stream = node.containers[0].run(|| TcpStream::connect("10.9.0.2:80").unwrap());
        let sent: Vec<u8> = (0..TOTAL).map(|i| (i % 251) as u8).collect();
        stream.write_all(&sent).unwrap();
        drop(stream);
        assert!(reader.join().unwrap() == sent, "the stream differs");
        wire.join().unwrap();
    });
    assert!(longest > 50_000, "{longest} bytes at most");
    let stats = ports[0].stats();
    assert_eq!(dropped(stats), 0, "{stats:?}");
    assert_eq!(stats.sent, stats.received, "{stats:?}");
}

#[test]
fn only_our_interfaces_pass_and_none_before_they_are_set() {
    let node = Node::new(2);
    let (mut group, mut ports) = node.open(1);
    let sockets = [node.socket(0), node.socket(1)];
    let send = |container: usize, content: &[u8]| {
        let end = format!("h{container}");
        let before = node.host.received(&end);
        sockets[container].send(content).unwrap();
        until("arrival", || node.host.received(&end) > before);
    };
    send(0, b"too early");
    assert_eq!(ports[0].receive(64, &mut |_, _| ()), 0);
    // 250 interfaces, ours in the middle of them.
    let ours = node.interface(0);
    let mut interfaces: Vec<_> = (0..249).map(|i| (1000 + 3 * i, 0)).collect();
    interfaces.insert(120, (ours, 0));
    group.set_interfaces(&interfaces).unwrap();
    send(1, b"not ours");
    send(0, b"ours");
    assert_eq!(collect(&mut ports[0], 1), [(ours, b"ours".to_vec())]);
    let refused = group.set_interfaces(&[(ours, 1)]);
    assert!(matches!(refused, Err(KernelPortError::BadInterface { .. })));
    group.set_interfaces(&[]).unwrap();
    send(0, b"too late");
    assert_eq!(ports[0].receive(64, &mut |_, _| ()), 0);
}

#[test]
fn each_worker_gets_its_containers_frames() {
    let node = Node::new(2);
    let (mut group, mut ports) = node.open(2);
    let ends = [node.interface(0), node.interface(1)];
    let sockets = [node.socket(0), node.socket(1)];
    for owner in [[0, 1], [1, 0], [1, 1]] {
        group
            .set_interfaces(&[(ends[0], owner[0]), (ends[1], owner[1])])
            .unwrap();
        for number in 0..50_u8 {
            sockets[0].send(&[0, number]).unwrap();
            sockets[1].send(&[1, number]).unwrap();
        }
        for (worker, port) in ports.iter_mut().enumerate() {
            let expected: Vec<usize> = (0..2).filter(|&c| owner[c] == worker).collect();
            let got = collect(port, 50 * expected.len());
            for container in expected {
                let tag = u8::try_from(container).unwrap();
                let own: Vec<_> = got.iter().filter(|(_, p)| p[0] == tag).collect();
                assert_eq!(own.len(), 50);
                assert!(own.iter().all(|(from, _)| *from == ends[container]));
                assert!(
                    own.iter()
                        .enumerate()
                        .all(|(i, (_, p))| usize::from(p[1]) == i)
                );
            }
            assert_eq!(port.receive(64, &mut |_, _| ()), 0);
        }
    }
}

/// A UDP packet to a container, with its checksum left out (0), so that any socket takes it.
fn frame(container: u8, content: &[u8]) -> Mbuf {
    let length = u16::try_from(28 + content.len()).unwrap();
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 0x99, 8, 0]);
    frame.extend([0x45, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 254, 10, 9, 0, container]);
    let words = frame[14..34]
        .chunks(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum: u32 = words.sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend([0, 9, 0x30, 0x39]);
    frame.extend((length - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(content);
    let mut mbuf = pools().small.alloc().unwrap();
    assert!(mbuf.extend_from_slice(&frame));
    mbuf
}

#[test]
fn an_interface_that_goes_does_not_hurt_the_others() {
    let node = Node::new(3);
    let (_group, mut ports) = node.open(1);
    let ends = [node.interface(0), node.interface(1), node.interface(2)];
    let sockets: Vec<_> = node
        .containers
        .iter()
        .map(|container| container.run(|| UdpSocket::bind("0.0.0.0:12345").unwrap()))
        .collect();
    node.host.ip(&["link", "del", "h1"]);
    node.host.ip(&["link", "set", "h2", "down"]);
    let port = &mut ports[0];
    for number in 0..40_u8 {
        port.push(frame(1, &[number]), ends[0]);
        port.push(frame(2, &[number]), ends[1]);
        port.push(frame(3, &[number]), ends[2]);
    }
    let sent = port.flush();
    assert_eq!((sent.sent, sent.dropped), (40, 80));
    assert_eq!(port.stats().tx_interface_down, 80, "{:?}", port.stats());
    sockets[0]
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    for number in 0..40_u8 {
        let mut content = [0; 16];
        assert_eq!(sockets[0].recv(&mut content).unwrap(), 1);
        assert_eq!(content[0], number);
    }
    // Longer than the MTU, and shorter than a header: neither stops what follows.
    port.push(frame(1, &[0; 1800]), ends[0]);
    let mut short = pools().small.alloc().unwrap();
    assert!(short.extend_from_slice(&[1; 9]));
    port.push(short, ends[0]);
    port.push(frame(1, b"after"), ends[0]);
    let sent = port.flush();
    assert_eq!((sent.sent, sent.dropped), (1, 2));
    let stats = port.stats();
    assert_eq!((stats.tx_too_big, stats.tx_invalid), (1, 1), "{stats:?}");
}
