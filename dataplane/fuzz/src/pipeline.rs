//! The target `pipeline`: a node with one, two or four workers, and whatever a script says happens to it.

use std::sync::Arc;

use dataplane::counters::Counters;
use dataplane::tables::Tables;
use dataplane::tables::region::{Layout, Region};
use dataplane::{AccessKind, Attachment, Subnet};
use dpdk::{L4Checksum, Mbuf, Offload, Segment};
use net::Address;
use net::ethernet::{EtherType, Header, Mac};
use net::packet::{Fragment, Headers, Protocol};

use crate::judge;
use crate::node::{HOST_MAC, Node, pool};
use crate::packets::{self, Made};
use crate::plan;
use crate::script::Script;

/// Happenings after which a script ends: enough to say everything, and few enough to try many scripts.
const STEPS: usize = 64;
/// Bytes in the first mbuf of a packet.
const FIRST: [usize; 8] = [2048, 2048, 2048, 1, 14, 34, 54, 60];
/// Milliseconds that pass at once.
const WHILES: [u64; 8] = [1, 40, 1000, 3000, 5001, 61_000, 301_000, 7_500_000];

/// The happenings, in the order of their numbers.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A container sends a packet.
    Frame,
    /// A host sends a burst of datagrams.
    Datagrams,
    /// The node sends a packet.
    Host,
    /// Time passes.
    Tick,
    /// Rings are emptied.
    PassOn,
    /// Rings refuse, or take again.
    Rings,
    /// A job's routes are replaced.
    Job,
    /// A job is forgotten.
    Forget,
    /// A container is attached.
    Attach,
    /// A container is detached.
    Detach,
    /// The node's Instance IPs are known, or not.
    HostInstance,
    /// An address leads nowhere.
    Unresolvable,
    /// Any bytes come in anywhere.
    Bytes,
    /// An ARP request.
    Arp,
    /// Mbufs become rare, or not.
    Hoard,
}

/// All steps.
pub const ALL: [Step; 15] = [
    Step::Frame,
    Step::Datagrams,
    Step::Host,
    Step::Tick,
    Step::PassOn,
    Step::Rings,
    Step::Job,
    Step::Forget,
    Step::Attach,
    Step::Detach,
    Step::HostInstance,
    Step::Unresolvable,
    Step::Bytes,
    Step::Arp,
    Step::Hoard,
];

/// Runs one input.
///
/// # Panics
/// When a promise is broken.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let workers = script.one_of(&[1usize, 2, 4]);
    // A table that is full after a few flows, or one that is not.
    let slots = script.one_of(&[1024usize, 16]);
    let layout = Layout {
        shards: workers,
        slots,
        backends: 32,
        hosts: 8,
    };
    let tables = Arc::new(Tables::new(Region::on_heap(layout, 77), workers));
    let counters: Vec<Arc<Counters>> = (0..workers).map(|_| Arc::default()).collect();
    let mut node = Node::new(&tables, &counters);
    let addresses = plan::addresses();
    let addresses = [&addresses[0][..], &addresses[1][..]];
    node.writer
        .set_subnets(vec![Subnet {
            v4: Some("10.18.0.0".parse().unwrap()),
            v6: Some("fc00::".parse().unwrap()),
            gateway: plan::gateway(),
        }])
        .unwrap();
    for _ in 0..STEPS {
        if script.is_over() {
            break;
        }
        step(&mut script, &mut node, addresses);
    }
    node.end();
}

fn step(script: &mut Script<'_>, node: &mut Node<'_>, addresses: [&[Address]; 2]) {
    match script.one_of(&ALL) {
        Step::Frame => {
            let container = usize::from(script.byte()) % plan::CONTAINERS;
            let (ethernet, offload, first) = (script.byte(), script.byte(), script.one_of(&FIRST));
            let mut made = packets::make(script, addresses);
            let offload = promised(script, offload, &mut made);
            node.sound &= made.sound;
            if let Some(mbuf) = framed(&made.bytes, ethernet, plan::mac(container), first, offload)
            {
                node.frame(container, mbuf);
            }
        }
        Step::Datagrams => {
            let host = usize::from(script.byte()) % plan::HOSTS.len();
            let (worker, tos, count) = (script.byte(), script.byte(), script.byte() % 4 + 1);
            let first = script.one_of(&FIRST);
            let mut burst = Vec::new();
            for _ in 0..count {
                let made = packets::make(script, addresses);
                node.sound &= made.sound;
                burst.extend(Node::mbuf(&made.bytes, first, Offload::default()));
            }
            node.datagrams(usize::from(worker), host, tos, burst);
        }
        Step::Host => {
            let (worker, ethernet, offload) = (script.byte(), script.byte(), script.byte());
            let first = script.one_of(&FIRST);
            let mut made = packets::make(script, addresses);
            let offload = promised(script, offload, &mut made);
            node.sound &= made.sound;
            if let Some(mbuf) = framed(&made.bytes, ethernet, HOST_MAC.0, first, offload) {
                node.from_host(usize::from(worker), mbuf);
            }
        }
        Step::Tick => node.tick(script.one_of(&WHILES)),
        Step::PassOn => node.pass_on(usize::from(script.byte())),
        Step::Rings => {
            let full = script.byte() & 1 == 1;
            for worker in &mut node.workers {
                worker.output.rings_are_full = full;
            }
        }
        Step::Job => {
            let job = usize::from(script.byte()) % plan::JOBS;
            let routes = plan::job(job, script.byte(), script.byte(), script.byte());
            for route in &routes.instances {
                let host = (0..plan::HOSTS.len()).find(|&h| plan::host(h) == route.host.ip());
                node.lived
                    .insert((usize::try_from(route.number).unwrap(), host.unwrap()));
            }
            node.writer.set_job(routes).unwrap();
        }
        Step::Forget => {
            let job = usize::from(script.byte()) % plan::JOBS;
            node.writer.forget_job(&plan::job(job, 0, 0, 0).job);
        }
        Step::Attach => attach(usize::from(script.byte()) % plan::CONTAINERS, node),
        Step::Detach => {
            let container = usize::from(script.byte()) % plan::CONTAINERS;
            let was = node.writer.detach(plan::ifindex(container)).unwrap();
            assert_eq!(was, node.attached[container]);
            node.attached[container] = false;
        }
        Step::HostInstance => {
            let pair = if script.byte() & 1 == 0 {
                plan::host_instance()
            } else {
                dataplane::Pair::default()
            };
            node.writer.set_host_instance(pair).unwrap();
        }
        Step::Unresolvable => {
            let list = addresses[usize::from(script.byte() & 1)];
            let address = script.one_of(list);
            node.writer.unresolvable(address.to_ip()).unwrap();
        }
        Step::Bytes => bytes(script, node),
        Step::Arp => arp(script, node, addresses[0]),
        Step::Hoard => {
            node.hoard.clear();
            let left = script.byte();
            if left != 0 {
                node.hoard.extend(std::iter::from_fn(|| pool().alloc()));
                for _ in 0..left {
                    node.hoard.pop();
                }
            }
        }
    }
}

fn attach(container: usize, node: &mut Node<'_>) {
    let done = node.writer.attach(Attachment {
        port: AccessKind::Packet {
            ifindex: plan::ifindex(container),
            interface: String::new(),
        },
        mac: plan::mac(container),
        namespace: plan::namespace(container),
        job: String::new(),
        number: 0,
    });
    assert_eq!(done.is_err(), node.attached[container], "{done:?}");
    node.attached[container] = true;
}

fn framed(
    packet: &[u8],
    kind: u8,
    source: [u8; 6],
    first: usize,
    offload: Offload,
) -> Option<Mbuf> {
    let v4 = packet.first().is_none_or(|b| b >> 4 != 6);
    let destination = match kind & 3 {
        2 => Mac([0xff; 6]),
        3 => Mac([0x33, 0x33, 0, 0, 0, 1]),
        _ => dataplane::pipeline::GATEWAY_MAC,
    };
    let ethertype = match kind >> 2 {
        63 => EtherType::ARP,
        62 => EtherType(0x8100),
        61 => EtherType::IPV6,
        60 => EtherType::IPV4,
        _ if v4 => EtherType::IPV4,
        _ => EtherType::IPV6,
    };
    let header = Header {
        destination,
        source: Mac(source),
        ethertype,
    };
    let frame = [&header.to_bytes(), packet].concat();
    Node::mbuf(&frame, first, offload)
}

/// What a sender leaves to be done: nothing; honestly what is left; or whatever it claims.
fn promised(script: &mut Script<'_>, kind: u8, made: &mut Made) -> Offload {
    if kind & 3 == 0 || kind & 3 == 2 {
        return Offload::default();
    }
    let headers = Headers::parse(&made.bytes, made.bytes.len());
    if kind & 3 == 1
        && let Ok(headers) = headers
        && headers.fragment == Fragment::None
        && matches!(
            headers.protocol,
            Protocol::TCP | Protocol::UDP | Protocol::SCTP
        )
    {
        return honest(script, kind, made, &headers);
    }
    made.sound = false;
    let checksums = [
        L4Checksum::Complete,
        L4Checksum::PartialTcp,
        L4Checksum::PartialUdp,
        L4Checksum::PartialSctp,
    ];
    let checksum = script.one_of(&checksums);
    let size = script.word();
    let segments = [
        Segment::None,
        Segment::Tcp { mss: size },
        Segment::Udp { size },
    ];
    Offload {
        checksum,
        segment: script.one_of(&segments),
        l3_len: script.one_of(&[20u16, 40, 28, 0, 60, 511]),
        l4_len: script.byte(),
    }
}

fn honest(script: &mut Script<'_>, kind: u8, made: &mut Made, headers: &Headers) -> Offload {
    let size = script.word() % 2000 + 48;
    let (checksum, segment) = match headers.protocol {
        Protocol::TCP => (L4Checksum::PartialTcp, Segment::Tcp { mss: size }),
        Protocol::UDP => (L4Checksum::PartialUdp, Segment::Udp { size }),
        _ => (L4Checksum::PartialSctp, Segment::None),
    };
    if let Some(at) = headers.pseudo_checksum_at() {
        let pseudo = judge::pseudo(headers, headers.l4_len());
        made.bytes[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    }
    Offload {
        checksum,
        segment: if kind & 4 == 0 {
            Segment::None
        } else {
            segment
        },
        l3_len: headers.l4_offset,
        l4_len: u8::try_from(headers.header_len - headers.l4_offset).unwrap(),
    }
}

// Nothing but the input itself.
fn bytes(script: &mut Script<'_>, node: &mut Node<'_>) {
    let (way, who, length) = (script.byte(), script.byte(), script.byte());
    let bytes = script.bytes(usize::from(length));
    node.sound = false;
    let Some(mbuf) = Node::mbuf(bytes, 2048, Offload::default()) else {
        return;
    };
    match way % 3 {
        0 => node.frame(usize::from(who) % plan::CONTAINERS, mbuf),
        1 => node.datagrams(0, usize::from(who) % plan::HOSTS.len(), 0, vec![mbuf]),
        _ => node.from_host(usize::from(who), mbuf),
    }
}

fn arp(script: &mut Script<'_>, node: &mut Node<'_>, addresses: &[Address]) {
    let (who, kind) = (script.byte(), script.byte());
    let (sender, target) = (script.one_of(addresses), script.one_of(addresses));
    let container = usize::from(who) % plan::CONTAINERS;
    let by_host = kind & 1 == 1;
    let mac = if by_host {
        HOST_MAC.0
    } else {
        plan::mac(container)
    };
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1 + (kind >> 1 & 1)]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&sender.v4_octets().unwrap());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target.v4_octets().unwrap());
    frame.truncate(frame.len().saturating_sub(usize::from(kind >> 2)));
    let Some(mbuf) = Node::mbuf(&frame, 2048, Offload::default()) else {
        return;
    };
    if by_host {
        node.from_host(usize::from(who), mbuf);
    } else {
        node.frame(container, mbuf);
    }
}
