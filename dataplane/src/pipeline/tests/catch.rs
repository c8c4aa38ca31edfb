//! Queries for services' names, caught on their way; everything else passes as if nobody looked.

use net::answer;

use super::packets::{Kind, Spec};
use super::stage::*;
use crate::counters::Counter;
use crate::pipeline::catch;

fn query(name: &[u8]) -> Vec<u8> {
    let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(name);
    message.extend([0, 1, 0, 1]);
    message
}

fn asking(source: &str, destination: &str, name: &[u8]) -> Spec {
    Spec {
        destination_port: 53,
        payload: query(name),
        ..spec(Kind::Udp, source, destination)
    }
}

const OURS: &[u8] = b"\x03any\x02rr\x03WEB\x03Oak\x00";
const OTHER: &[u8] = b"\x03www\x07example\x03org\x00";

fn node() -> Node {
    let mut node = Node::new(1);
    let worker = node.workers.pop().unwrap();
    let mut worker = worker.with_caught_zone(catch::zone("oak"));
    worker.output.takes_queries = true;
    node.workers.push(worker);
    node
}

/// Where containers send queries: outside, to the gateway, to a service, to a namespace IP.
fn servers(plan: &Plan) -> [&'static str; 4] {
    let outside = if plan.c.contains(':') {
        "2001:4860:4860::8888"
    } else {
        "8.8.8.8"
    };
    [outside, plan.gateway, plan.service, plan.e]
}

#[test]
fn a_query_for_the_zone_is_taken_out_of_the_way_wherever_it_was_sent() {
    for plan in PLANS {
        for server in servers(&plan) {
            for extended in [false, true] {
                let mut node = node();
                let sent = Spec {
                    extended,
                    ..asking(plan.c, server, OURS)
                };
                assert!(node.access(C, &sent.build()).is_empty(), "{server}");
                let caught = std::mem::take(&mut node.workers[0].output.queries);
                assert_eq!(caught, [(C, sent.build())]);
                assert_eq!(node.sum(Counter::Caught), 1);
                assert_eq!(node.sum(Counter::FlowsOpened), 0);
            }
        }
    }
}

#[test]
fn other_packets_pass_as_without_it() {
    for plan in PLANS {
        for server in servers(&plan) {
            let elsewhere = Spec {
                destination_port: 54,
                ..asking(plan.c, server, OURS)
            };
            let tcp = Spec {
                kind: tcp(SYN),
                ..asking(plan.c, server, OURS)
            };
            let junk = Spec {
                payload: vec![0x55; 40],
                ..asking(plan.c, server, OURS)
            };
            let response = {
                let mut spec = asking(plan.c, server, OURS);
                spec.payload[2] |= 0x80;
                spec
            };
            for sent in [
                asking(plan.c, server, OTHER),
                elsewhere,
                tcp,
                junk,
                response,
            ] {
                let (mut with, mut without) = (node(), Node::new(1));
                let bytes =
                    |sent: Vec<Sent>| -> Vec<Vec<u8>> { sent.iter().map(Sent::packet).collect() };
                let passed = bytes(with.access(C, &sent.build()));
                assert_eq!(passed, bytes(without.access(C, &sent.build())));
                assert!(!passed.is_empty(), "{server} {sent:?}");
                assert!(with.workers[0].output.queries.is_empty());
                with.unresolved();
                without.unresolved();
            }
        }
    }
}

#[test]
fn without_a_zone_nothing_is_caught_and_a_spoofed_query_never_is() {
    for plan in PLANS {
        let [outside, ..] = servers(&plan);
        let mut plain = Node::new(1);
        plain.workers[0].output.takes_queries = true;
        let sent = asking(plan.c, outside, OURS);
        assert_eq!(plain.access(C, &sent.build()).len(), 1);
        let mut node = node();
        let spoofed = asking(plan.e, outside, OURS);
        assert!(node.access(C, &spoofed.build()).is_empty());
        assert_eq!(node.sum(Counter::SpoofedSource), 1);
        assert!(node.workers[0].output.queries.is_empty());
    }
}

#[test]
fn a_container_that_asks_without_end_leaves_others_their_share() {
    let [plan, ..] = PLANS;
    let mut node = node();
    let [outside, ..] = servers(&plan);
    for _ in 0..100 {
        node.access(C, &asking(plan.c, outside, OURS).build());
    }
    let (caught, dropped) = (node.sum(Counter::Caught), node.sum(Counter::QueryLimit));
    assert!(caught < 50 && caught + dropped == 100, "{caught} {dropped}");
    node.access(E, &asking(plan.e, outside, OURS).build());
    assert_eq!(node.sum(Counter::Caught), caught + 1);
    node.tick(20);
    node.access(C, &asking(plan.c, outside, OURS).build());
    assert_eq!(node.sum(Counter::Caught), caught + 2);
    // Nobody takes it: it is dropped, by name.
    node.workers[0].output.takes_queries = false;
    node.access(C, &asking(plan.c, outside, OURS).build());
    assert_eq!(node.sum(Counter::QueryLimit), dropped + 1);
}

#[test]
fn the_answer_comes_from_the_server_that_was_asked() {
    for plan in PLANS {
        for server in servers(&plan) {
            let mut node = node();
            let mut reply = node.mbuf(&[], dpdk::Offload::default());
            let (from, to) = ((address(server), 53), (address(plan.c), 40_000));
            let length = answer::datagram(reply.spare_mut(), from, to, &[7; 61]).unwrap();
            assert!(reply.set_len(length));
            node.workers[0].from_control(reply);
            let got = to_container(&node.taken(), C);
            let headers = net::Headers::parse(&got, got.len()).unwrap();
            assert_eq!((headers.source, headers.destination), (from.0, to.0));
            assert_eq!(
                (headers.source_port, headers.destination_port),
                (53, 40_000)
            );
            assert_eq!(got[usize::from(headers.header_len)..], [7; 61]);
            assert_eq!(node.sum(Counter::Answers), 1);
        }
    }
}
