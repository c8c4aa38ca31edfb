//! Two workers: a container belongs to one, which owns every flow that the container opens.

use super::packets::Kind;
use super::stage::*;
use crate::counters::Counter;

#[test]
fn an_answer_that_arrives_at_the_other_worker_is_handed_to_the_owner() {
    for plan in PLANS {
        for kind in [tcp(SYN), Kind::Udp, Kind::EchoRequest] {
            let mut node = Node::new(2);
            for (ifindex, own) in [(C, plan.c), (E, plan.e)] {
                let sent = spec(kind, own, plan.service);
                let n = picked(&plan, &to_tunnel(&node.access(ifindex, &sent.build())));
                let reply = match kind {
                    Kind::EchoRequest => spec(Kind::EchoReply, plan.d_instance[n], own),
                    _ => answer(kind, plan.d_instance[n], own),
                };
                for worker in 0..2 {
                    let sent = node.burst(worker, AWAY, 0, &[reply.build()]);
                    assert_eq!(
                        to_container(&sent, ifindex),
                        moved(&reply, plan.service, own, 0)
                    );
                }
            }
            assert_eq!(node.sum(Counter::HandedOver), 2);
        }
    }
}

#[test]
fn two_containers_of_different_workers_talk_through_a_service() {
    for plan in PLANS {
        let mut node = Node::new(2);
        let sent = spec(tcp(SYN), plan.c, plan.local_service);
        assert_eq!(
            to_container(&node.access(C, &sent.build()), E),
            moved(&sent, plan.c_instance, plan.e, 1)
        );
        let reply = answer(tcp(SYN | ACK), plan.e, plan.c_instance);
        assert_eq!(
            to_container(&node.access(E, &reply.build()), C),
            moved(&reply, plan.local_service, plan.c, 1)
        );
        assert_eq!(node.sum(Counter::HandedOver), 2);
        assert_eq!((node.workers[0].flows(), node.workers[1].flows()), (1, 0));
    }
}

#[test]
fn a_full_ring_costs_the_packet_and_says_so() {
    let mut node = Node::new(2);
    node.workers[0].output.ring_is_full = true;
    let sent = spec(Kind::Udp, V4.c, V4.e).build();
    node.dropping(Counter::RingFull, |n| n.access(C, &sent));
}

#[test]
fn the_hosts_flows_have_one_owner_whatever_queue_they_come_by() {
    for plan in PLANS {
        let mut node = Node::new(2);
        node.control
            .set_host_instance(pair("10.30.0.40", "fdff::40"))
            .unwrap();
        node.publish();
        for queue in 0..2 {
            let sent = spec(Kind::Udp, plan.gateway, plan.service);
            let packet = to_tunnel(&node.host(queue, &sent.build()));
            let n = picked(&plan, &packet);
            for worker in 0..2 {
                let reply = answer(Kind::Udp, plan.d_instance[n], plan.gateway);
                assert_eq!(
                    to_host(&node.burst(worker, AWAY, 0, &[reply.build()])),
                    moved(&reply, plan.service, plan.gateway, 0)
                );
            }
        }
        assert_eq!(node.sum(Counter::FlowsOpened), 1);
    }
}

#[test]
fn a_packet_in_the_ring_goes_to_nobody_when_its_container_has_left() {
    let mut node = Node::new(2);
    // 103 shares the first worker with `c`, so that `e`'s worker hands over to both.
    let sent = spec(Kind::Udp, V4.e, V4.c).build();
    let mbuf = node.mbuf(&framed(mac(E), &sent), dpdk::Offload::default());
    node.workers[1].from_access(mbuf, E);
    assert_eq!(node.workers[1].output.handed.len(), 1);
    node.control.detach(C).unwrap();
    node.publish();
    // Its slot goes to the next one.
    node.attach(103, pair("10.18.0.9", "fc00::9"));
    let got = node.dropping(Counter::NotAttached, Node::taken);
    assert!(got.is_empty(), "{got:?}");
}

#[test]
fn a_container_goes_back_to_the_worker_that_has_its_flows() {
    for plan in PLANS {
        let mut node = Node::new(2);
        let sent = spec(tcp(SYN), plan.e, plan.service);
        let n = picked(&plan, &to_tunnel(&node.access(E, &sent.build())));
        assert_eq!(node.workers[1].flows(), 1);
        // The next process attaches the containers in another order.
        let mut next = node.restart();
        next.attach(E, pair(V4.e, V6.e));
        next.attach(C, pair(V4.c, V6.c));
        let later = spec(tcp(ACK), plan.e, plan.service);
        let packet = to_tunnel(&next.access(E, &later.build()));
        assert_eq!(packet, moved(&later, plan.e_instance, plan.d[n], 1));
        let reply = answer(tcp(ACK), plan.d_instance[n], plan.e);
        assert_eq!(
            to_container(&next.tunnel(AWAY, &reply.build()), E),
            moved(&reply, plan.service, plan.e, 0)
        );
        assert_eq!(next.sum(Counter::FlowsOpened), 0);
        // What is not named again by its job goes, and what is stays.
        next.set_job(job(&[n]));
        to_tunnel(&next.access(E, &later.build()));
        next.set_job(job(&[1 - n]));
        next.dropping(Counter::BackendGone, |node| node.access(E, &later.build()));
    }
}
