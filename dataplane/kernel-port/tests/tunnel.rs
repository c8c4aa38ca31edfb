//! The tunnel port against itself and against plain UDP sockets.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "an unwrap in a test is an assertion"
)]

mod stage;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::time::Duration;

use dpdk::Mbuf;
use kernel_port::{KernelPortError, TunnelOptions, TunnelPort};
use stage::memory::pools;
use stage::{Namespace, Numbers, bytes, until};

const V4: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
const V6: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
const PLAIN: TunnelOptions = TunnelOptions {
    path_mtu: kernel_port::PathMtu::Fragment,
    segmentation: false,
    coalescing: false,
};

fn open(namespace: &Namespace, options: TunnelOptions) -> TunnelPort {
    let pools = pools();
    let ports = namespace.run(|| TunnelPort::open_with(1, Some(V4), Some(V6), &pools, options));
    ports.unwrap().remove(0)
}

fn namespace() -> Namespace {
    let namespace = Namespace::new();
    namespace.run(|| std::fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "0").unwrap());
    namespace
}

/// A packet of two segments, where it has two bytes.
fn packet(content: &[u8]) -> Mbuf {
    let pools = pools();
    let (head, tail) = content.split_at(content.len().min(60));
    let mut mbuf = pools.small.alloc().unwrap();
    assert!(mbuf.extend_from_slice(head));
    if !tail.is_empty() {
        let mut rest = pools.large.alloc().unwrap();
        let (most, last) = tail.split_at(tail.len().min(60_000));
        assert!(rest.extend_from_slice(most));
        assert!(mbuf.push_segment(rest).is_ok());
        for part in last.chunks(2000) {
            let mut rest = pools.small.alloc().unwrap();
            assert!(rest.extend_from_slice(part));
            assert!(mbuf.push_segment(rest).is_ok());
        }
    }
    mbuf
}

fn content(numbers: &mut Numbers, length: usize) -> Vec<u8> {
    let first = numbers.below(251);
    (0..length).map(|i| ((first + i) % 251) as u8).collect()
}

fn collect(port: &mut TunnelPort, count: usize) -> Vec<(Vec<u8>, SocketAddr, u8)> {
    let mut got = Vec::new();
    until("the datagrams", || {
        port.receive(13, &mut |mbuf, from, tos| {
            // Headers that the pipeline edits lie in the first segment, and are its own.
            assert!(mbuf.data().len() >= mbuf.pkt_len().min(192));
            got.push((bytes(&mbuf), *from, tos));
        });
        got.len() >= count
    });
    got
}

/// Mixed lengths, hosts and classes, in bursts, from one port to two.
fn exchange(sending: TunnelOptions, receiving: TunnelOptions) -> (TunnelPort, [TunnelPort; 2]) {
    let namespace = namespace();
    let mut sender = open(&namespace, sending);
    let mut receivers = [open(&namespace, receiving), open(&namespace, receiving)];
    let mut addresses: Vec<Vec<SocketAddr>> = Vec::new();
    for receiver in &receivers {
        addresses.push(receiver.local_addresses().collect());
    }
    let sources: Vec<SocketAddr> = sender.local_addresses().collect();
    let mut numbers = Numbers(11);
    for _ in 0..20 {
        let mut expected = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
        let mut pushed = 0;
        for _ in 0..8 {
            let (host, family) = (numbers.below(2), numbers.below(2));
            let tos = [0, 0xb9, 2][numbers.below(3)];
            let length = [64, 400, 1400, 1][numbers.below(4)];
            let run = 1 + numbers.below(30);
            for index in 0..run {
                let last = index + 1 == run && numbers.below(2) == 0;
                let length = if last {
                    1 + numbers.below(length)
                } else {
                    length
                };
                let content = content(&mut numbers, length);
                sender.push(packet(&content), &addresses[host][family], tos);
                expected[host][family].push((content, sources[family], tos));
                pushed += 1;
            }
        }
        let sent = sender.flush();
        assert_eq!(
            (sent.sent, sent.dropped),
            (pushed, 0),
            "{:?}",
            sender.stats()
        );
        for (receiver, expected) in receivers.iter_mut().zip(expected) {
            let got = collect(receiver, expected[0].len() + expected[1].len());
            for (family, expected) in expected.into_iter().enumerate() {
                let got: Vec<_> = got.iter().filter(|p| p.1 == sources[family]).collect();
                assert!(got.iter().copied().eq(expected.iter()), "family {family}");
            }
        }
    }
    (sender, receivers)
}

#[test]
fn packets_arrive_in_order_with_segmentation_and_coalescing() {
    let (sender, receivers) = exchange(TunnelOptions::default(), TunnelOptions::default());
    assert!(sender.segmentation() && receivers[0].coalescing());
    let stats = sender.stats();
    assert!(stats.groups > 100, "{stats:?}");
    assert_eq!(stats.segmentation_refused, 0);
}

#[test]
fn packets_arrive_in_order_without_segmentation() {
    let (sender, _) = exchange(PLAIN, TunnelOptions::default());
    assert_eq!(sender.stats().groups, 0);
}

#[test]
fn packets_arrive_in_order_without_coalescing() {
    let (sender, _) = exchange(TunnelOptions::default(), PLAIN);
    assert!(sender.stats().groups > 100);
}

#[test]
fn a_path_narrower_than_the_packets_turns_segmentation_off() {
    let namespace = namespace();
    namespace.ip(&["link", "set", "lo", "mtu", "1280"]);
    let mut sender = open(&namespace, TunnelOptions::default());
    let mut receiver = open(&namespace, TunnelOptions::default());
    let to: Vec<_> = receiver.local_addresses().collect();
    let mut numbers = Numbers(5);
    for to in to {
        let packets: Vec<_> = (0..100).map(|_| content(&mut numbers, 1400)).collect();
        for content in &packets {
            sender.push(packet(content), &to, 0);
        }
        let sent = sender.flush();
        assert_eq!((sent.sent, sent.dropped), (100, 0), "{:?}", sender.stats());
        let got = collect(&mut receiver, 100);
        assert!(got.iter().map(|p| &p.0).eq(&packets));
    }
    assert_eq!(
        sender.stats().segmentation_refused,
        2,
        "{:?}",
        sender.stats()
    );
}

#[test]
fn plain_sockets_and_extreme_datagrams() {
    for options in [TunnelOptions::default(), PLAIN] {
        let namespace = namespace();
        let mut port = open(&namespace, options);
        let to = port.local_addresses().next().unwrap();
        let plain = namespace.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
        plain
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut numbers = Numbers(3);
        let sizes = [1, 65_507, 0, 1400, 0, 2048, 2049, 192, 193, 0, 40_000];
        let datagrams: Vec<_> = sizes.map(|size| content(&mut numbers, size)).into();
        for datagram in &datagrams {
            plain.send_to(datagram, to).unwrap();
        }
        let got = collect(&mut port, 8);
        let expected = datagrams.iter().filter(|datagram| !datagram.is_empty());
        assert!(got.iter().map(|p| &p.0).eq(expected.clone()));
        assert_eq!((port.stats().empty, port.stats().truncated), (3, 0));
        // And back; what no datagram can hold, or is none, is dropped and counted.
        let back = plain.local_addr().unwrap();
        for datagram in &datagrams {
            port.push(packet(datagram), &back, 0);
        }
        port.push(packet(&content(&mut numbers, 65_508)), &back, 0);
        port.push(packet(b"last"), &back, 0);
        let sent = port.flush();
        assert_eq!((sent.sent, sent.dropped), (9, 4), "{:?}", port.stats());
        let mut buffer = vec![0; 70_000];
        for datagram in expected.map(Vec::as_slice).chain([&b"last"[..]]) {
            let length = plain.recv(&mut buffer).unwrap();
            assert!(&buffer[..length] == datagram);
        }
        let stats = port.stats();
        assert_eq!((stats.tx_invalid, stats.tx_too_big), (3, 1), "{stats:?}");
    }
}

#[test]
fn errors_of_one_host_cost_the_others_nothing() {
    let namespace = namespace();
    let mut port = open(&namespace, TunnelOptions::default());
    let plain = namespace.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    plain
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let good = plain.local_addr().unwrap();
    // Nobody listens on port 1, which ICMP says; there is no route to the other.
    let closed: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let unreachable: SocketAddr = "203.0.113.1:9".parse().unwrap();
    for number in 0..30_u8 {
        port.push(packet(&[number; 100]), &closed, 0);
        port.push(packet(&[number; 100]), &unreachable, 0);
        // As an IPv4-mapped address, which means the same.
        let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), good.port());
        port.push(packet(&[number; 100]), &mapped, 0);
    }
    let sent = port.flush();
    assert_eq!((sent.sent, sent.dropped), (60, 30), "{:?}", port.stats());
    assert_eq!(port.stats().tx_unreachable, 30);
    for number in 0..30_u8 {
        let mut buffer = [0; 200];
        assert_eq!(plain.recv(&mut buffer).unwrap(), 100);
        assert_eq!(buffer[0], number);
    }
}

#[test]
fn a_taken_port_is_named_also_with_several_workers() {
    let namespace = namespace();
    let pools = pools();
    for workers in [1, 3] {
        let error = namespace.run(|| {
            let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
            let SocketAddr::V4(address) = holder.local_addr().unwrap() else {
                unreachable!()
            };
            let error = TunnelPort::open(workers, Some(address), None, &pools).map(drop);
            (error.unwrap_err(), address.port())
        });
        assert!(matches!(error.0, KernelPortError::PortTaken { .. }));
        let text = error.0.to_string();
        assert!(text.contains(&format!(":{}'", error.1)), "{text}");
    }
    let missing = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 0);
    let refused = namespace.run(|| TunnelPort::open(1, Some(missing), None, &pools).map(drop));
    assert!(
        matches!(refused, Err(KernelPortError::AddressMissing(_))),
        "{refused:?}"
    );
}

#[test]
fn several_workers_share_one_port() {
    let namespace = namespace();
    let pools = pools();
    let mut ports = namespace.run(|| TunnelPort::open(3, Some(V4), Some(V6), &pools).unwrap());
    let addresses: Vec<Vec<_>> = ports
        .iter()
        .map(|p| p.local_addresses().collect())
        .collect();
    assert!(addresses.iter().all(|of_worker| *of_worker == addresses[0]));
    let plain: Vec<_> = namespace.run(|| {
        (0..60)
            .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect()
    });
    for socket in &plain {
        socket.send_to(b"hello", addresses[0][0]).unwrap();
    }
    let mut got = [0; 3];
    until("all of them", || {
        for (port, got) in ports.iter_mut().zip(&mut got) {
            *got += port.receive(64, &mut |_, _, _| ());
        }
        got.iter().sum::<usize>() == 60
    });
    assert!(got.iter().all(|&count| count > 0), "{got:?}");
}

/// Two hosts, and between them a router whose further side is narrow.
fn narrow_way() -> [Namespace; 3] {
    let [near, router, far] = [(); 3].map(|()| Namespace::new());
    for (host, side, net, mtu) in [(&near, "near0", 1, "1500"), (&far, "far0", 2, "1300")] {
        host.ip(&[
            "link", "add", "up0", "type", "veth", "peer", "name", side, "netns", &router.0,
        ]);
        for (namespace, name, last) in [(host, "up0", 1), (&router, side, 254)] {
            namespace.run(|| {
                let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
                std::fs::write(path, "0").unwrap();
            });
            namespace.ip(&["link", "set", name, "mtu", mtu]);
            let v4 = format!("192.0.{net}.{last}/24");
            namespace.ip(&["address", "add", &v4, "dev", name]);
            let v6 = format!("2001:db8:{net}::{last}/64");
            namespace.ip(&["address", "add", &v6, "dev", name, "nodad"]);
            namespace.ip(&["link", "set", name, "up"]);
        }
        host.ip(&[
            "route",
            "add",
            "default",
            "via",
            &format!("192.0.{net}.254"),
        ]);
        let via = format!("2001:db8:{net}::254");
        host.ip(&["-6", "route", "add", "default", "via", &via]);
    }
    router.run(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    });
    [near, router, far]
}

#[test]
fn a_narrow_hop_is_learned_and_then_nothing_is_lost() {
    let [near, _router, far] = narrow_way();
    let any = (
        SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0),
    );
    let open = |namespace: &Namespace| {
        let pools = pools();
        let ports = namespace.run(|| TunnelPort::open(1, Some(any.0), Some(any.1), &pools));
        ports.unwrap().remove(0)
    };
    let (mut sender, mut receiver) = (open(&near), open(&far));
    let ports: Vec<u16> = receiver.local_addresses().map(|a| a.port()).collect();
    let mut numbers = Numbers(9);
    for (ip, port) in ["192.0.2.1", "2001:db8:2::1"].into_iter().zip(ports) {
        let host = ip.parse().unwrap();
        let to = SocketAddr::new(host, port);
        let known = || near.run(|| kernel_port::path_mtu(host)).unwrap();
        assert_eq!(known(), 1500);
        let mut told = false;
        until("the router's word", || {
            for _ in 0..10 {
                sender.push(packet(&content(&mut numbers, 1400)), &to, 0);
            }
            sender.flush();
            sender.receive(64, &mut |_, _, _| {});
            sender.path_errors(&mut |about| {
                assert_eq!(about, host);
                told = true;
            });
            told
        });
        assert_eq!(known(), 1300);
        // What was under way is through when this has arrived.
        sender.push(packet(b"all before this"), &to, 0);
        sender.flush();
        until("the last of the packets before", || {
            let mut last = false;
            receiver.receive(64, &mut |mbuf, _, _| {
                last |= bytes(&mbuf) == b"all before this";
            });
            last
        });
        // What comes from now on is split here, and small packets go as they are.
        let before = sender.stats();
        let packets: Vec<_> = (0..60)
            .map(|n| content(&mut numbers, if n % 3 == 0 { 1400 } else { 900 }))
            .collect();
        for content in &packets {
            sender.push(packet(content), &to, 0);
        }
        let sent = sender.flush();
        assert_eq!((sent.sent, sent.dropped), (60, 0), "{:?}", sender.stats());
        let got = collect(&mut receiver, 60);
        assert!(got.iter().map(|p| &p.0).eq(&packets));
        assert_eq!(before.tx_too_big, sender.stats().tx_too_big);
    }
}
