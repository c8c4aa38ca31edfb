//! All four pairs: IPv4 and IPv6 between containers, over IPv4 and IPv6 between nodes, through both uplinks.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use journeys::demo::traffic::check_spread;
use journeys::measure::ECHO_PORT;
use journeys::node::Uplink;
use journeys::scene::Scene;

const SOME: u64 = 20_000_000;
const SOON: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(10);

/// The outer family follows the address that a node announces.
fn both_inner_families_pass(uplink: Uplink, outer_v6: bool) {
    let mut scene = Scene::with(uplink, &[1, 0], |nodes| {
        for (number, node) in (1..).zip(nodes) {
            if outer_v6 {
                let address = format!("2001:db8::{number}");
                node.configure(|settings| settings["NodePublicAddress"] = address.into())?;
            }
        }
        Ok(())
    })
    .unwrap();
    let places = scene.table.instances.clone();
    assert!(
        places.iter().all(|place| place.host.is_ipv6() == outer_v6),
        "{places:?}"
    );
    let services = [scene.table.service_ip, scene.table.service_ip_v6];
    for service in services {
        check_spread(&scene.observer().requests(service, 21).unwrap(), 2).unwrap();
        scene.transfer(service, SOME).unwrap();
        scene.observer().ping(service, 5, SOON).unwrap();
    }
    for place in &places {
        for address in [place.instance_ip, place.instance_ip_v6] {
            scene.observer().ping(address, 5, SOON).unwrap();
            scene.echo(address, ECHO_PORT, &["--to", "60"]).unwrap();
        }
        scene
            .echo(place.instance_ip, ECHO_PORT, &["--from", "1380"])
            .unwrap();
        scene.observer().ping(place.namespace_ip, 3, SOON).unwrap();
    }
    // Where nobody is, the node's own processes hear at once.
    let node = &scene.topology.nodes[0];
    for nowhere in ["10.30.99.99", "fdff:2000::9999"] {
        let to = SocketAddr::new(nowhere.parse().unwrap(), 9);
        let dial = || TcpStream::connect_timeout(&to, PATIENCE).unwrap_err();
        let refused = node.namespace.enter(dial).unwrap();
        assert_eq!(
            refused.kind(),
            ErrorKind::HostUnreachable,
            "{to}: {refused}"
        );
    }
    // Larger than the underlay's packets, whichever family these have.
    for service in services {
        scene
            .echo(service, ECHO_PORT, &["--from", "3000", "--to", "3020"])
            .unwrap();
    }
}

#[test]
fn both_families_pass_over_ipv4_by_udp_sockets() {
    both_inner_families_pass(Uplink::Socket, false);
}

#[test]
fn both_families_pass_over_ipv6_by_udp_sockets() {
    both_inner_families_pass(Uplink::Socket, true);
}

#[test]
fn both_families_pass_over_ipv4_by_af_packet() {
    both_inner_families_pass(Uplink::AfPacket, false);
}

#[test]
fn both_families_pass_over_ipv6_by_af_packet() {
    both_inner_families_pass(Uplink::AfPacket, true);
}
