//! One client, one pair of ports, several addresses of one backend: its answers all look alike, and are from the
//! address that was dialled.

use super::packets::{Kind, Spec};
use super::stage::*;
use crate::api::{Policy, ServiceAddress};
use crate::counters::Counter;

/// Another Service IP of the same job.
const SECOND: [&str; 2] = ["10.30.0.12", "fdff:1000::12"];

/// A node that knows one instance, by two Service IPs.
fn node() -> Node {
    let mut node = Node::new(1);
    let mut only = job(&[0]);
    only.instances[0].services.push(ServiceAddress {
        policy: Policy::Closest,
        addresses: pair(SECOND[0], SECOND[1]),
    });
    node.set_job(only);
    node
}

fn plans() -> [(Plan, &'static str); 2] {
    [(V4, SECOND[0]), (V6, SECOND[1])]
}

/// The instance answers, and the client hears it from whom it dialled.
fn answered(node: &mut Node, plan: &Plan, kind: Kind, dialled: &str) {
    let reply = answer(kind, plan.d_instance[0], plan.c);
    let got = to_container(&node.tunnel(AWAY, &reply.build()), C);
    assert_eq!(got, moved(&reply, dialled, plan.c, 0));
}

fn asked(node: &mut Node, plan: &Plan, kind: Kind, dialled: &str) {
    let sent = to_tunnel(&node.access(C, &spec(kind, plan.c, dialled).build()));
    assert_eq!(picked(plan, &sent), 0);
}

/// A connection from its beginning to its end, begun by the client and ended by the instance.
fn connection(node: &mut Node, plan: &Plan, dialled: &str) {
    asked(node, plan, tcp(SYN), dialled);
    answered(node, plan, tcp(SYN | ACK), dialled);
    asked(node, plan, tcp(ACK), dialled);
    answered(node, plan, tcp(FIN | ACK), dialled);
    asked(node, plan, tcp(FIN | ACK), dialled);
    answered(node, plan, tcp(ACK), dialled);
}

#[test]
fn connections_one_after_the_other_are_answered_from_what_each_dialled() {
    for (plan, second) in plans() {
        let mut node = node();
        let addresses = [plan.service, plan.d_instance[0], second];
        for first in addresses {
            for next in addresses {
                connection(&mut node, &plan, first);
                connection(&mut node, &plan, next);
            }
        }
    }
}

#[test]
fn datagrams_are_answered_from_what_was_dialled_last() {
    for (plan, second) in plans() {
        let mut node = node();
        let addresses = [plan.service, plan.d_instance[0], second];
        for first in addresses {
            for next in addresses {
                for dialled in [first, next, first] {
                    asked(&mut node, &plan, Kind::Udp, dialled);
                    answered(&mut node, &plan, Kind::Udp, dialled);
                }
            }
        }
        assert!(node.workers[0].flows() <= 1);
    }
}

#[test]
fn a_connection_that_is_open_is_not_given_up_for_another() {
    for (plan, second) in plans() {
        let mut node = node();
        asked(&mut node, &plan, tcp(SYN), plan.service);
        answered(&mut node, &plan, tcp(SYN | ACK), plan.service);
        asked(&mut node, &plan, tcp(ACK), plan.service);
        let other = spec(tcp(SYN), plan.c, second).build();
        let sent = node.dropping(Counter::Ambiguous, |n| n.access(C, &other));
        assert!(sent.is_empty());
        // It reaches the instance, which knows that connection already and says so.
        asked(&mut node, &plan, tcp(SYN), plan.d_instance[0]);
        answered(&mut node, &plan, tcp(ACK), plan.service);
        // From other ports there is nothing to confuse.
        let apart = Spec {
            source_port: 4001,
            ..spec(tcp(SYN), plan.c, second)
        };
        to_tunnel(&node.access(C, &apart.build()));
    }
}

#[test]
fn a_connection_that_nobody_answers_stands_in_no_others_way() {
    for (plan, second) in plans() {
        let mut node = node();
        let addresses = [plan.service, plan.d_instance[0], second];
        for first in addresses {
            for next in addresses {
                // Given up by the client, which says so to nobody.
                asked(&mut node, &plan, tcp(SYN), first);
                asked(&mut node, &plan, tcp(SYN), first);
                connection(&mut node, &plan, next);
                // One that was answered and is not yet confirmed stays.
                asked(&mut node, &plan, tcp(SYN), plan.service);
                answered(&mut node, &plan, tcp(SYN | ACK), plan.service);
                let other = spec(tcp(SYN), plan.c, second).build();
                let sent = node.dropping(Counter::Ambiguous, |n| n.access(C, &other));
                assert!(sent.is_empty());
                asked(&mut node, &plan, tcp(ACK), plan.service);
                answered(&mut node, &plan, tcp(RST), plan.service);
            }
        }
        assert!(node.workers[0].flows() <= 1);
    }
}
