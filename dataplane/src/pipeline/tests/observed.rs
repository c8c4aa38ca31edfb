//! What a trace says of packets, and what it leaves alone.

use std::net::SocketAddr;
use std::sync::Arc;

use dpdk::Offload;
use net::ethernet::{EtherType, Header};

use super::messages::port_unreachable;
use super::packets::{Kind, Spec};
use super::stage::*;
use crate::api::{CommandError, Policy};
use crate::counters::Counter;
use crate::observe::trace::{Place, Step, Target, Trace, TraceFilter, TraceRecord};
use crate::pipeline::GATEWAY_MAC;

/// Everything that is noted about packets between these two, by steps.
struct Traced {
    trace: Trace,
}

impl Traced {
    fn begin(node: &mut Node, filter: TraceFilter) -> Traced {
        let trace = Trace::begin(Arc::clone(&node.shared), filter).unwrap();
        node.tick(1);
        Traced { trace }
    }

    fn of(node: &mut Node, source: &str, destination: &str) -> Traced {
        let filter = TraceFilter {
            source: Some(ip(source)),
            destination: Some(ip(destination)),
            ..TraceFilter::default()
        };
        Traced::begin(node, filter)
    }

    fn records(&mut self) -> Vec<TraceRecord> {
        let mut records = Vec::new();
        self.trace.read(&mut records);
        records
    }

    /// The steps of one packet.
    fn steps(&mut self) -> Vec<Step> {
        let records = self.records();
        assert!(
            records.iter().all(|r| r.packet == records[0].packet),
            "{records:?}"
        );
        records.into_iter().map(|record| record.step).collect()
    }

    fn dropped(&mut self) -> &'static str {
        match self.steps().last() {
            Some(Step::Dropped(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }
}

fn arrived(step: Step) -> (Place, SocketAddr, SocketAddr) {
    match step {
        Step::Arrived { from, ends, .. } => (from, ends.source, ends.destination),
        other => panic!("{other:?}"),
    }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

#[test]
fn a_new_flow_its_next_packet_and_its_answer_tell_all_that_was_decided() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let mut traced = Traced::of(&mut node, plan.c, plan.service);
        let sent = spec(tcp(SYN), plan.c, plan.service);
        let n = picked(&plan, &to_tunnel(&node.access(C, &sent.build())));
        let steps = traced.steps();
        assert_eq!(
            arrived(steps[0]),
            (Place::Access(C), at(plan.c, 4000), at(plan.service, 80))
        );
        let Step::Picked {
            policy: Policy::RoundRobin,
            backend,
            turns: 2,
        } = steps[1]
        else {
            panic!("{steps:?}")
        };
        let Step::Rewritten(ends) = steps[2] else {
            panic!("{steps:?}")
        };
        assert_eq!(
            (ends.source, ends.destination, ends.protocol),
            (at(plan.c_instance, 4000), at(plan.d[n], 80), 6)
        );
        let away = Place::Tunnel(format!("{AWAY}:50103").parse().unwrap());
        assert_eq!(steps[3..], [Step::Sent { to: away }]);

        let next = spec(tcp(ACK), plan.c, plan.service);
        to_tunnel(&node.access(C, &next.build()));
        assert_eq!(traced.steps()[1], Step::Flow { backend });

        // An answer does not show what was dialled before it is translated back.
        let reply = answer(tcp(SYN | ACK), plan.d_instance[n], plan.c);
        to_container(&node.tunnel(AWAY, &reply.build()), C);
        let steps = traced.steps();
        let (from, source, _) = arrived(steps[0]);
        assert_eq!(source, at(plan.d_instance[n], 80));
        assert!(matches!(from, Place::Tunnel(peer) if peer.ip() == ip(AWAY)));
        assert_eq!(
            steps[1..],
            [
                Step::Restored {
                    dialled: ip(plan.service)
                },
                Step::Sent {
                    to: Place::Access(C)
                }
            ]
        );
        assert_eq!(node.control.backend_lines().len(), 4, "each has a name");
    }
}

#[test]
fn only_what_is_asked_for_is_noted_and_only_while_it_is() {
    let plan = PLANS[0];
    let mut node = Node::new(1);
    let filter = TraceFilter {
        destination: Some(ip(plan.service)),
        destination_port: Some(81),
        protocol: Some(17),
        ..TraceFilter::default()
    };
    let mut traced = Traced::begin(&mut node, filter);
    assert!(matches!(
        Trace::begin(Arc::clone(&node.shared), filter),
        Err(CommandError::Busy(_))
    ));
    for (kind, port, wanted) in [
        (Kind::Udp, 80, false),
        (tcp(SYN), 81, false),
        (Kind::Udp, 81, true),
    ] {
        let sent = Spec {
            destination_port: port,
            ..spec(kind, plan.c, plan.service)
        };
        node.access(C, &sent.build());
        assert_eq!(!traced.records().is_empty(), wanted);
    }
    drop(traced);
    let sent = spec(Kind::Udp, plan.c, plan.service);
    node.access(C, &sent.build());
    node.tick(1);
    let mut traced = Traced::begin(&mut node, TraceFilter::default());
    node.access(C, &sent.build());
    assert!(matches!(traced.steps()[1], Step::Flow { .. }));
}

#[test]
fn a_packet_that_waits_or_goes_to_another_worker_is_one_packet() {
    let plan = PLANS[0];
    let mut node = Node::new(2);
    let mut traced = Traced::of(&mut node, plan.c, plan.e);
    let sent = spec(Kind::Udp, plan.c, plan.e);
    to_container(&node.access(C, &sent.build()), E);
    let records = traced.records();
    let steps: Vec<Step> = records.iter().map(|r| r.step).collect();
    assert!(records.iter().all(|r| r.packet == records[0].packet));
    assert_eq!(
        (records[0].worker, records.last().unwrap().worker),
        (0, 1),
        "c is the first worker's, e the second's"
    );
    assert_eq!(
        steps[1..],
        [
            Step::HandedOver { worker: 1 },
            Step::TakenOver,
            Step::Sent {
                to: Place::Access(E)
            }
        ]
    );
    drop(traced);

    let mut traced = Traced::of(&mut node, plan.c, "10.30.0.77");
    let sent = spec(Kind::Udp, plan.c, "10.30.0.77");
    node.access(C, &sent.build());
    let address = ip("10.30.0.77");
    assert_eq!(traced.steps()[1..], [Step::Waits { address }]);
    node.tick(4000);
    assert_eq!(
        traced.steps(),
        [
            Step::Answered { reset: false },
            Step::Dropped("waiting_expired")
        ]
    );
}

#[test]
fn an_error_about_a_packet_is_followed_with_it() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let sent = spec(Kind::Udp, plan.c, plan.service);
        let got = to_tunnel(&node.access(C, &sent.build()));
        let n = picked(&plan, &got);
        let filter = TraceFilter {
            destination: Some(ip(plan.service)),
            source_port: Some(4000),
            protocol: Some(17),
            ..TraceFilter::default()
        };
        let mut traced = Traced::begin(&mut node, filter);
        // As the backend's node sends it: mirrored already.
        let about = spec(Kind::Udp, plan.c, plan.d_instance[n]).build();
        let error = port_unreachable(plan.d_instance[n], plan.c, &about);
        node.tunnel(AWAY, &error);
        let steps = traced.steps();
        assert!(
            matches!(steps[1], Step::About(about)
                if (about.source, about.destination) == (at(plan.c, 4000), at(plan.service, 80))),
            "{steps:?}"
        );
        assert_eq!(
            steps.last(),
            Some(&Step::Sent {
                to: Place::Access(C)
            })
        );
    }
}

#[test]
fn every_family_of_drop_names_its_reason() {
    let plan = PLANS[0];
    let mut node = Node::new(1);
    let mut traced = Traced::begin(&mut node, TraceFilter::default());
    let udp = |source, destination| spec(Kind::Udp, source, destination).build();

    // By policy of the port.
    node.access(C, &udp(plan.e, plan.service));
    assert_eq!(traced.dropped(), Counter::SpoofedSource.name());
    // By the tunnel's.
    node.tunnel("192.0.2.77", &udp(plan.d_instance[0], plan.c));
    assert_eq!(traced.dropped(), Counter::SpoofedTunnel.name());
    // Before it was understood: there is nothing but the reason.
    let mut broken = udp(plan.c, plan.service);
    broken[10] ^= 1;
    node.access(C, &broken);
    assert_eq!(
        traced.steps(),
        [Step::Dropped(Counter::HeaderChecksum.name())]
    );
    let strange = Header {
        destination: GATEWAY_MAC,
        source: mac(C),
        ethertype: EtherType(0x88b5),
    };
    node.frame(C, &strange.to_bytes(), Offload::default());
    assert_eq!(traced.steps(), [Step::Dropped(Counter::NotForUs.name())]);
    // On the way.
    let tired = Spec {
        ttl: 1,
        ..spec(Kind::Udp, plan.c, plan.service)
    };
    node.access(C, &tired.build());
    let steps = traced.steps();
    assert_eq!(
        steps[steps.len() - 2..],
        [
            Step::Answered { reset: false },
            Step::Dropped(Counter::TtlExpired.name())
        ]
    );
    // Without a backend.
    node.set_job(job(&[]));
    node.access(C, &spec(tcp(SYN), plan.c, plan.service).build());
    let steps = traced.steps();
    assert!(
        matches!(steps.last(), Some(Step::Dropped(_))) && !steps.contains(&Step::Resumed),
        "{steps:?}"
    );
}

#[test]
fn instance_and_namespace_ips_name_their_backend() {
    let plan = PLANS[0];
    let mut node = Node::new(1);
    let mut traced = Traced::begin(&mut node, TraceFilter::default());
    for (to, kind) in [
        (plan.d_instance[1], Target::Instance),
        (plan.d[1], Target::Namespace),
    ] {
        to_tunnel(&node.access(C, &spec(Kind::Udp, plan.c, to).build()));
        let steps = traced.steps();
        assert!(
            matches!(steps[1], Step::Routed { target, .. } if target == kind),
            "{steps:?}"
        );
    }
}

#[test]
fn a_reader_that_is_too_slow_loses_steps_and_is_told() {
    let plan = PLANS[0];
    let mut node = Node::new(1);
    let mut traced = Traced::begin(&mut node, TraceFilter::default());
    let sent = spec(Kind::Udp, plan.c, plan.service).build();
    let (mut rounds, mut steps) = (0u64, 0);
    while traced.trace.lost() == 0 {
        node.access(C, &sent);
        rounds += 1;
        steps += 4;
        assert!(rounds < 100_000, "the ring has no end");
    }
    let kept = traced.records().len() as u64;
    assert_eq!(kept + traced.trace.lost(), steps);
    node.access(C, &sent);
    assert_eq!(traced.records().len(), 4, "there is room again");
}
