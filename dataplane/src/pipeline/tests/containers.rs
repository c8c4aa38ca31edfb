//! What containers send: to Service IPs, Instance IPs, namespace IPs, to the outside, and on their link.

use dpdk::Offload;
use net::ethernet::{EtherType, Header, Mac};

use super::packets::{Kind, Spec, assert_right};
use super::stage::*;
use crate::counters::Counter;
use crate::pipeline::GATEWAY_MAC;

const KINDS: [Kind; 4] = [tcp(SYN), Kind::Udp, Kind::UdpBare, Kind::EchoRequest];

#[test]
fn a_service_ip_picks_an_instance_and_its_answer_comes_from_the_address_dialled() {
    for plan in PLANS {
        for kind in KINDS {
            let mut node = Node::new(1);
            let sent = spec(kind, plan.c, plan.service);
            let packet = to_tunnel(&node.access(C, &sent.build()));
            let n = picked(&plan, &packet);
            assert_eq!(packet, moved(&sent, plan.c_instance, plan.d[n], 1));

            let reply = match kind {
                Kind::EchoRequest => spec(Kind::EchoReply, plan.d_instance[n], plan.c),
                Kind::Tcp { .. } => answer(tcp(SYN | ACK), plan.d_instance[n], plan.c),
                _ => answer(kind, plan.d_instance[n], plan.c),
            };
            let got = to_container(&node.tunnel(AWAY, &reply.build()), C);
            assert_eq!(got, moved(&reply, plan.service, plan.c, 0));
            assert_eq!(node.sum(Counter::FlowsOpened), 1);
        }
    }
}

#[test]
fn a_packet_with_options_or_extension_headers_is_translated_like_any() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let sent = Spec {
            extended: true,
            ..spec(Kind::Udp, plan.c, plan.service)
        };
        let packet = to_tunnel(&node.access(C, &sent.build()));
        let n = picked(&plan, &packet);
        assert_eq!(packet, moved(&sent, plan.c_instance, plan.d[n], 1));
    }
}

#[test]
fn a_flow_keeps_its_instance_and_new_flows_take_turns() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let mut counts = [0u32; 2];
        for port in 0..101 {
            let sent = Spec {
                source_port: 20_000 + port,
                ..spec(Kind::Udp, plan.c, plan.service)
            };
            let first = picked(&plan, &to_tunnel(&node.access(C, &sent.build())));
            counts[first] += 1;
            for _ in 0..3 {
                assert_eq!(
                    picked(&plan, &to_tunnel(&node.access(C, &sent.build()))),
                    first
                );
            }
        }
        assert!(counts[0].abs_diff(counts[1]) <= 1, "{counts:?}");
    }
}

#[test]
fn what_a_server_answers_goes_back_to_the_clients_instance_ip() {
    for plan in PLANS {
        let mut node = Node::new(1);
        // A client on the other node: known by its Instance IP.
        let asked = spec(tcp(SYN), plan.d_instance[1], plan.e);
        let got = to_container(&node.tunnel(AWAY, &asked.build()), E);
        assert_eq!(got, asked.build());
        let reply = answer(tcp(SYN | ACK), plan.e, plan.d_instance[1]);
        let packet = to_tunnel(&node.access(E, &reply.build()));
        assert_eq!(packet, moved(&reply, plan.e_instance, plan.d[1], 1));
        assert_eq!(
            node.sum(Counter::FlowsOpened),
            0,
            "the server's node holds no flow"
        );
    }
}

#[test]
fn an_instance_ip_needs_no_flow() {
    for plan in PLANS {
        for kind in KINDS {
            let mut node = Node::new(1);
            let sent = spec(kind, plan.c, plan.d_instance[1]);
            let packet = to_tunnel(&node.access(C, &sent.build()));
            assert_eq!(packet, moved(&sent, plan.c_instance, plan.d[1], 1));
            assert_eq!(node.sum(Counter::FlowsOpened), 0);
            let reply = answer(tcp(SYN | ACK), plan.d_instance[1], plan.c);
            let got = to_container(&node.tunnel(AWAY, &reply.build()), C);
            assert_eq!(
                got,
                reply.build(),
                "it comes from the address dialled as it is"
            );
        }
    }
}

#[test]
fn on_one_node_both_ways_are_translated_without_a_tunnel() {
    for plan in PLANS {
        for kind in KINDS {
            let mut node = Node::new(1);
            let sent = spec(kind, plan.c, plan.local_service);
            let got = to_container(&node.access(C, &sent.build()), E);
            assert_eq!(got, moved(&sent, plan.c_instance, plan.e, 1));
            let reply = match kind {
                Kind::EchoRequest => spec(Kind::EchoReply, plan.e, plan.c_instance),
                _ => answer(kind, plan.e, plan.c_instance),
            };
            let got = to_container(&node.access(E, &reply.build()), C);
            assert_eq!(got, moved(&reply, plan.local_service, plan.c, 1));
        }
    }
}

#[test]
fn a_container_reaches_itself_through_its_own_service() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let sent = spec(Kind::Udp, plan.e, plan.local_service);
        let got = to_container(&node.access(E, &sent.build()), E);
        assert_eq!(got, moved(&sent, plan.e_instance, plan.e, 1));
        let reply = answer(Kind::Udp, plan.e, plan.e_instance);
        let got = to_container(&node.access(E, &reply.build()), E);
        assert_eq!(got, moved(&reply, plan.local_service, plan.e, 1));
    }
}

#[test]
fn a_packet_to_a_namespace_ip_keeps_both_addresses() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let sent = spec(Kind::Udp, plan.c, plan.d[0]);
        let packet = to_tunnel(&node.access(C, &sent.build()));
        assert_eq!(packet, moved(&sent, plan.c, plan.d[0], 1));
        let reply = answer(Kind::Udp, plan.d[0], plan.c);
        let got = to_container(&node.tunnel(AWAY, &reply.build()), C);
        assert_eq!(got, reply.build());
        let near = spec(Kind::Udp, plan.c, plan.e);
        let got = to_container(&node.access(C, &near.build()), E);
        assert_eq!(got, moved(&near, plan.c, plan.e, 1));
    }
}

#[test]
fn every_port_works() {
    for plan in PLANS {
        let mut node = Node::new(1);
        for (from, to) in [(65535, 65535), (0, 65535), (65535, 1), (1, 0)] {
            for kind in [tcp(SYN), Kind::Udp] {
                let sent = Spec {
                    source_port: from,
                    destination_port: to,
                    ..spec(kind, plan.c, plan.service)
                };
                let packet = to_tunnel(&node.access(C, &sent.build()));
                let n = picked(&plan, &packet);
                let reply = Spec {
                    source_port: to,
                    destination_port: from,
                    ..spec(kind, plan.d_instance[n], plan.c)
                };
                let got = to_container(&node.tunnel(AWAY, &reply.build()), C);
                assert_eq!(got, moved(&reply, plan.service, plan.c, 0));
            }
        }
        assert_eq!(node.sum(Counter::FlowsOpened), 8);
    }
}

#[test]
fn protocols_and_clients_with_the_same_ports_are_flows_of_their_own() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let mut picks = Vec::new();
        for (ifindex, own) in [(C, plan.c), (E, plan.e)] {
            for kind in [tcp(SYN), Kind::Udp] {
                let sent = spec(kind, own, plan.service);
                let n = picked(&plan, &to_tunnel(&node.access(ifindex, &sent.build())));
                picks.push((ifindex, own, kind, n));
            }
        }
        assert_eq!(node.sum(Counter::FlowsOpened), 4);
        for (ifindex, own, kind, n) in picks {
            let reply = answer(kind, plan.d_instance[n], own);
            let got = to_container(&node.tunnel(AWAY, &reply.build()), ifindex);
            assert_eq!(got, moved(&reply, plan.service, own, 0));
            // The other instance has no part in this flow: its packet comes as it is.
            let stray = answer(kind, plan.d_instance[1 - n], own);
            let got = node.tunnel(AWAY, &stray.build());
            let answers_other = to_container(&got, ifindex);
            assert!(answers_other == stray.build());
        }
    }
}

#[test]
fn flows_that_could_not_be_told_apart_take_different_instances() {
    // Two Service IPs over the same two instances, dialled with the same ports.
    for plan in PLANS {
        let mut node = Node::new(1);
        let mut both = job(&[0, 1]);
        for instance in &mut both.instances {
            instance.services.push(crate::api::ServiceAddress {
                policy: crate::api::Policy::Closest,
                addresses: pair("10.30.0.12", "fdff:1000::12"),
            });
        }
        node.set_job(both);
        let second = if plan.c == V4.c {
            "10.30.0.12"
        } else {
            "fdff:1000::12"
        };
        let first = picked(
            &plan,
            &to_tunnel(&node.access(C, &spec(Kind::Udp, plan.c, plan.service).build())),
        );
        let other = picked(
            &plan,
            &to_tunnel(&node.access(C, &spec(Kind::Udp, plan.c, second).build())),
        );
        assert_ne!(first, other);
        for (n, dialled) in [(first, plan.service), (other, second)] {
            let reply = answer(Kind::Udp, plan.d_instance[n], plan.c);
            let got = to_container(&node.tunnel(AWAY, &reply.build()), C);
            assert_eq!(got, moved(&reply, dialled, plan.c, 0));
        }
    }
}

#[test]
fn a_source_that_is_not_the_containers_own_is_dropped() {
    for plan in PLANS {
        let mut node = Node::new(1);
        for source in [
            plan.e,
            plan.c_instance,
            plan.gateway,
            plan.outside,
            plan.service,
        ] {
            for destination in [plan.service, plan.d[0], plan.outside, plan.e] {
                let sent = node.dropping(Counter::SpoofedSource, |n| {
                    n.access(C, &spec(Kind::Udp, source, destination).build())
                });
                assert!(sent.is_empty());
            }
        }
    }
}

#[test]
fn an_interface_that_is_not_attached_is_counted() {
    let mut node = Node::new(1);
    let frame = spec(Kind::Udp, V4.c, V4.service).build();
    node.dropping(Counter::UnknownPort, |n| n.access(99, &frame));
    assert!(node.control.detach(C).unwrap());
    node.publish();
    node.dropping(Counter::UnknownPort, |n| n.access(C, &frame));
    let late = spec(Kind::Udp, V4.d_instance[0], V4.c);
    node.dropping(Counter::NotHere, |n| n.tunnel(AWAY, &late.build()));
}

#[test]
fn the_outside_is_reached_through_the_host_with_the_hop_left_to_it() {
    for plan in PLANS {
        for kind in KINDS {
            let mut node = Node::new(1);
            let sent = spec(kind, plan.c, plan.outside).build();
            assert_eq!(to_host(&node.access(C, &sent)), sent);
            let reply = answer(Kind::Udp, plan.outside, plan.c).build();
            assert_eq!(to_container(&node.host(0, &reply), C), reply);
        }
    }
}

#[test]
fn the_node_and_its_containers_reach_each_other() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let asked = spec(Kind::EchoRequest, plan.gateway, plan.c).build();
        assert_eq!(to_container(&node.host(0, &asked), C), asked);
        let reply = spec(Kind::EchoReply, plan.c, plan.gateway);
        assert_eq!(
            to_host(&node.access(C, &reply.build())),
            moved(&reply, plan.c, plan.gateway, 1)
        );
        let away = spec(Kind::Udp, plan.gateway, plan.d[0]);
        assert_eq!(
            to_tunnel(&node.host(0, &away.build())),
            moved(&away, plan.gateway, plan.d[0], 1)
        );
    }
}

#[test]
fn host_processes_dial_service_ips_once_the_node_is_an_instance() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let sent = spec(tcp(SYN), plan.gateway, plan.service);
        let refused = node.dropping(Counter::HostWithoutInstance, |n| n.host(0, &sent.build()));
        let reset = to_host(&refused);
        let headers = net::packet::Headers::parse(&reset, reset.len()).unwrap();
        assert!(headers.tcp_flags.any(net::packet::TcpFlags::RST));

        node.control
            .set_host_instance(pair("10.30.0.40", "fdff::40"))
            .unwrap();
        node.publish();
        let own = if plan.c == V4.c {
            "10.30.0.40"
        } else {
            "fdff::40"
        };
        let packet = to_tunnel(&node.host(0, &sent.build()));
        let n = picked(&plan, &packet);
        assert_eq!(packet, moved(&sent, own, plan.d[n], 1));
        let reply = answer(tcp(SYN | ACK), plan.d_instance[n], plan.gateway);
        assert_eq!(
            to_host(&node.tunnel(AWAY, &reply.build())),
            moved(&reply, plan.service, plan.gateway, 0)
        );
        // Another source than its own is not the node.
        let other = spec(tcp(SYN), plan.outside, plan.service);
        node.dropping(Counter::SpoofedSource, |n| n.host(0, &other.build()));
    }
}

fn arp(source: Mac, sender: &str, target: &str) -> Vec<u8> {
    let request = net::arp::Packet {
        operation: net::arp::Operation::Request,
        sender_mac: source,
        sender: address(sender),
        target_mac: Mac([0; 6]),
        target: address(target),
    };
    let header = Header {
        destination: Mac::BROADCAST,
        source,
        ethertype: EtherType::ARP,
    };
    [&header.to_bytes()[..], &request.to_bytes()].concat()
}

#[test]
fn arp_is_answered_for_the_gateway_and_everyone_but_the_asker() {
    let mut node = Node::new(1);
    for target in [V4.gateway, V4.e, V4.service, "10.18.0.60"] {
        let sent = node.frame(C, &arp(mac(C), V4.c, target), Offload::default());
        let [Sent::Access(C, frame, _)] = &sent[..] else {
            panic!("{sent:?}")
        };
        let reply = net::arp::Packet::parse(&frame[14..]).unwrap();
        assert_eq!(reply.operation, net::arp::Operation::Reply);
        assert_eq!(reply.sender, address(target));
        assert_eq!(reply.sender_mac, GATEWAY_MAC);
        assert_eq!((reply.target, reply.target_mac), (address(V4.c), mac(C)));
        assert_eq!(sent[0].ethernet().destination, mac(C));
    }
    // Its own address, announced or probed for (RFC 5227), and one in the name of another.
    for (sender, target) in [
        (V4.c, V4.c),
        ("0.0.0.0", V4.c),
        ("0.0.0.0", V4.e),
        (V4.e, V4.gateway),
    ] {
        let frame = arp(mac(C), sender, target);
        let sent = node.dropping(Counter::LinkScope, |n| {
            n.frame(C, &frame, Offload::default())
        });
        assert!(sent.is_empty(), "{sender} asks for {target}: {sent:?}");
    }
}

fn solicitation(source: &str, target: &str, own: Mac) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(address(target).octets());
    if source != "::" {
        body.extend([1, 1]);
        body.extend(own.0);
    }
    let group = address(target).solicited_node();
    let mut packet = Vec::new();
    let header = etherparse::Ipv6Header {
        hop_limit: 255,
        source: address(source).octets(),
        destination: group.octets(),
        ..Default::default()
    };
    etherparse::PacketBuilder::ip(etherparse::IpHeaders::Ipv6(header, Default::default()))
        .icmpv6_raw(135, 0, [0; 4])
        .write(&mut packet, &body[4..])
        .unwrap();
    let header = Header {
        destination: Mac::of_ipv6_multicast(group),
        source: own,
        ethertype: EtherType::IPV6,
    };
    [&header.to_bytes()[..], &packet].concat()
}

#[test]
fn neighbour_solicitations_are_answered_for_everyone_but_the_asker() {
    let mut node = Node::new(1);
    for source in [V6.c, "fe80::aa"] {
        for target in [V6.gateway, V6.e, V6.service] {
            let frame = solicitation(source, target, mac(C));
            let sent = node.frame(C, &frame, Offload::default());
            let [Sent::Access(C, reply, _)] = &sent[..] else {
                panic!("{sent:?}")
            };
            let packet = &reply[14..];
            assert_right(packet);
            assert_eq!((packet[6], packet[7], packet[40]), (58, 255, 136));
            assert_eq!(packet[8..24], address(target).octets());
            assert_eq!(packet[24..40], address(source).octets());
            assert_eq!(packet[48..64], address(target).octets());
            assert_eq!(packet[64..72], [2, 1, 2, 0x6f, 0x61, 0x6b, 0, 1]);
            assert_eq!(sent[0].ethernet().destination, mac(C));
        }
    }
    for (source, target) in [("::", V6.c), ("::", V6.e), ("fe80::aa", V6.c)] {
        let frame = solicitation(source, target, mac(C));
        let sent = node.dropping(Counter::LinkScope, |n| {
            n.frame(C, &frame, Offload::default())
        });
        assert!(sent.is_empty());
    }
}

#[test]
fn what_is_confined_to_the_link_ends_there() {
    let mut node = Node::new(1);
    for packet in [
        spec(Kind::Udp, V4.c, "224.0.0.251"),
        spec(Kind::Udp, V4.c, "255.255.255.255"),
        spec(Kind::Udp, V4.c, "169.254.1.1"),
        spec(Kind::Udp, V6.c, "ff02::fb"),
        spec(Kind::Udp, "fe80::2", V6.gateway),
    ] {
        let sent = node.dropping(Counter::LinkScope, |n| n.access(C, &packet.build()));
        assert!(sent.is_empty(), "{packet:?}");
    }
    let other = Header {
        destination: mac(E),
        source: mac(C),
        ethertype: EtherType::IPV4,
    };
    let frame = [&other.to_bytes()[..], &spec(Kind::Udp, V4.c, V4.e).build()].concat();
    node.dropping(Counter::NotForUs, |n| {
        n.frame(C, &frame, Offload::default())
    });
}
