//! Empty mempools, in a process of its own: everything is counted, nothing leaks, and life goes on.

#![allow(clippy::unwrap_used, reason = "an unwrap in a test is an assertion")]

mod stage;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use kernel_port::TunnelPort;
use stage::memory::pools;
use stage::{Namespace, until};

#[test]
fn datagrams_that_find_no_mbuf_are_counted_and_all_mbufs_return() {
    let namespace = Namespace::new();
    let pools = pools();
    let at_start = (pools.small.available(), pools.large.available());
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let mut ports = namespace.run(|| TunnelPort::open(1, Some(any), None, &pools).unwrap());
    let to = ports[0].local_addresses().next().unwrap();
    let plain = namespace.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    let mut held = Vec::new();
    while let Some(mbuf) = pools.small.alloc() {
        held.push(mbuf);
    }
    for _ in 0..20 {
        plain.send_to(b"lost", to).unwrap();
    }
    until("20 lost datagrams", || {
        let received = ports[0].receive(64, &mut |_, _, _| ());
        assert_eq!(received, 0);
        ports[0].stats().no_mbuf == 20
    });
    held.clear();
    for _ in 0..20 {
        plain.send_to(b"found", to).unwrap();
    }
    until("20 datagrams", || {
        ports[0].receive(64, &mut |mbuf, _, _| {
            assert_eq!(mbuf.data(), b"found");
            held.push(mbuf);
        });
        held.len() == 20
    });
    for mbuf in held {
        ports[0].push(mbuf, &plain.local_addr().unwrap(), 0);
    }
    assert_eq!(ports[0].flush().sent, 20);
    drop(ports);
    let at_end = (pools.small.available(), pools.large.available());
    assert_eq!(at_end, at_start);
}
