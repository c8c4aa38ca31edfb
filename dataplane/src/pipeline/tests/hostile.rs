//! Bytes that nobody sane would send: counted and dropped or delivered, never a panic, and the books balance.

use dpdk::{L4Checksum, Offload, Segment};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::packets::{kind, spec as any_spec};
use super::stage::*;

/// Something that begins like a packet between addresses that mean something here.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let addresses = |plan: Plan| {
        vec![
            plan.c,
            plan.c_instance,
            plan.e,
            plan.gateway,
            plan.service,
            plan.local_service,
            plan.d[0],
            plan.d_instance[0],
            plan.outside,
            plan.unknown,
        ]
    };
    (
        0..2usize,
        0..10usize,
        0..10usize,
        kind(),
        any::<[u16; 2]>(),
        0..200usize,
        any::<u8>(),
    )
        .prop_flat_map(move |(family, from, to, kind, ports, payload, ttl)| {
            let list = addresses(PLANS[family]);
            let mut packet = spec(kind, list[from], list[to]);
            (packet.source_port, packet.destination_port) = (ports[0], ports[1]);
            packet.payload = vec![0x45; payload];
            packet.ttl = ttl;
            packet.extended = payload % 3 == 0;
            let bytes = packet.build();
            let length = bytes.len();
            (
                Just(bytes),
                proptest::collection::vec((0..length, any::<u8>()), 0..4),
                0..=length,
                any::<bool>(),
            )
        })
        .prop_map(|(mut bytes, changes, length, shorten)| {
            for (at, value) in changes {
                bytes[at] = value;
            }
            if shorten {
                bytes.truncate(length);
            }
            // Often with a header checksum that is right, so that what is behind it is reached.
            if bytes.len() >= 20 && bytes[0] == 0x45 {
                bytes[10..12].fill(0);
                let sum = !net::checksum::sum(&bytes[..20]);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            bytes
        })
}

fn offload() -> impl Strategy<Value = Offload> {
    let checksum = prop_oneof![
        Just(L4Checksum::Complete),
        Just(L4Checksum::PartialTcp),
        Just(L4Checksum::PartialUdp),
        Just(L4Checksum::PartialSctp)
    ];
    let segment = prop_oneof![
        Just(Segment::None),
        any::<u16>().prop_map(|mss| Segment::Tcp { mss }),
        any::<u16>().prop_map(|size| Segment::Udp { size })
    ];
    (
        checksum,
        segment,
        prop_oneof![Just(20u16), Just(40), 0..512u16],
        any::<u8>(),
    )
        .prop_map(|(checksum, segment, l3_len, l4_len)| Offload {
            checksum,
            segment,
            l3_len,
            l4_len,
        })
}

// One input after another through one node, so that it also meets what the earlier ones left behind.
fn run<S: Strategy>(cases: u32, strategy: &S, mut step: impl FnMut(&mut Node, S::Value)) {
    use proptest::test_runner::{Config, TestRunner};
    let mut runner = TestRunner::new(Config::default());
    let mut node = Node::new(2);
    for n in 0..cases {
        let value = strategy.new_tree(&mut runner).unwrap().current();
        step(&mut node, value);
        node.unresolved();
        if n % 16 == 0 {
            node.tick(40);
            node.taken();
        }
    }
}

#[test]
fn random_bytes_end_counted() {
    let any_bytes = (0..5u8, proptest::collection::vec(any::<u8>(), 0..300));
    run(4000, &any_bytes, |node, (way, bytes)| {
        match way {
            0 => node.frame(C, &bytes, Offload::default()),
            1 => node.access(C, &bytes),
            2 => node.tunnel(AWAY, &bytes),
            3 => node.host(1, &bytes),
            _ => node.tunnel(STRANGER, &bytes),
        };
    });
}

#[test]
fn every_length_of_datagram_ends_counted() {
    let mut node = Node::new(1);
    for first in [0x00, 0x01, 0x45, 0x4f, 0x60, 0x80, 0xff] {
        for length in 0..200 {
            node.tunnel(AWAY, &vec![first; length]);
            node.access(C, &vec![first; length]);
            node.frame(C, &vec![first; length], Offload::default());
            node.host(0, &vec![first; length]);
        }
    }
}

#[test]
fn damaged_packets_end_counted_whichever_way_they_come() {
    run(
        6000,
        &(0..5u8, mutated(), offload()),
        |node, (way, bytes, offload)| {
            match way {
                0 => node.access(C, &bytes),
                1 => node.frame(E, &framed(mac(E), &bytes), offload),
                2 => node.tunnel(AWAY, &bytes),
                3 => node.host(0, &bytes),
                _ => node.burst(1, AWAY, 1, &[bytes.clone(), bytes]),
            };
        },
    );
}

#[test]
fn sound_packets_between_any_addresses_end_counted() {
    run(2000, &(0..3u8, any_spec(400)), |node, (way, spec)| {
        let bytes = spec.build();
        match way {
            0 => node.access(C, &bytes),
            1 => node.tunnel(AWAY, &bytes),
            _ => node.host(1, &bytes),
        };
    });
}
