//! What must pass between containers, across nodes and within one, through every uplink.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

use journeys::demo::traffic::check_spread;
use journeys::measure::{ECHO_PORT, Observer};
use journeys::node::Uplink;
use journeys::scene::Scene;
use journeys::topology::{Plan, Topology};

/// 200 MB.
const MANY: u64 = 200_000_000;

fn everything_passes(uplink: Uplink) {
    let mut scene = Scene::new(uplink, &[1, 0]).unwrap();
    let places = scene.table.instances.clone();
    let service = scene.table.service_ip;

    let spread = scene.observer().requests(service, 101).unwrap();
    check_spread(&spread, 2).unwrap();
    for place in &places {
        let spread = scene.observer().requests(place.instance_ip, 5).unwrap();
        assert_eq!(spread.failures, 0, "{spread:?}");
        assert_eq!(
            spread.per_instance.get(&place.number),
            Some(&5),
            "{spread:?}"
        );
        scene.transfer(place.instance_ip, MANY).unwrap();
        scene.echo(place.instance_ip, ECHO_PORT, &[]).unwrap();
        scene
            .echo(
                place.instance_ip,
                65535,
                &["--to", "20", "--source-port", "65535"],
            )
            .unwrap();
        let by_namespace_ip = scene.observer().requests(place.namespace_ip, 5).unwrap();
        assert_eq!(by_namespace_ip.per_instance.get(&place.number), Some(&5));
    }
    scene.transfer(service, MANY).unwrap();
    scene.echo(service, ECHO_PORT, &["--to", "100"]).unwrap();
}

/// The same over IPv6: picked by the Service IP, and by Instance IP on either node.
fn ipv6_passes(uplink: Uplink) {
    let mut scene = Scene::new(uplink, &[1, 0]).unwrap();
    let places = scene.table.instances.clone();
    let service = scene.table.service_ip_v6;

    let spread = scene.observer().requests(service, 101).unwrap();
    check_spread(&spread, 2).unwrap();
    for place in &places {
        scene.transfer(place.instance_ip_v6, MANY).unwrap();
        scene
            .echo(place.instance_ip_v6, ECHO_PORT, &["--to", "200"])
            .unwrap();
        scene
            .echo(
                place.instance_ip_v6,
                65535,
                &["--to", "20", "--source-port", "65535"],
            )
            .unwrap();
    }
    scene.transfer(service, MANY).unwrap();
    scene.echo(service, ECHO_PORT, &["--to", "100"]).unwrap();
}

#[test]
fn ipv6_passes_over_udp_sockets() {
    ipv6_passes(Uplink::Socket);
}

#[test]
fn ipv6_passes_over_af_packet() {
    ipv6_passes(Uplink::AfPacket);
}

/// Datagrams larger than any link come in fragments, and arrive whole.
#[test]
fn large_datagrams_arrive_whole() {
    let mut scene = Scene::new(Uplink::Socket, &[1, 0]).unwrap();
    let (v4, v6) = (scene.table.service_ip, scene.table.service_ip_v6);
    for service in [v4, v6] {
        scene
            .echo(service, ECHO_PORT, &["--from", "2900", "--to", "3100"])
            .unwrap();
    }
}

#[test]
fn everything_passes_over_udp_sockets() {
    everything_passes(Uplink::Socket);
}

#[test]
fn everything_passes_over_af_packet() {
    everything_passes(Uplink::AfPacket);
}

#[test]
fn three_nodes_share_one_service() {
    let mut topology = Topology::registered(Plan {
        nodes: 3,
        uplink: Uplink::Socket,
    })
    .unwrap();
    let (web, _instances) = topology
        .deploy("trial.test.web.default", &[0, 1, 2])
        .unwrap();
    let (own, mut client) = topology
        .deploy_client("trial.test.client.default", 2)
        .unwrap();
    let table = topology
        .wait_running(&[(&web, 3), (&own, 1)])
        .unwrap()
        .remove(0);
    let mut observer = Observer {
        container: &mut client.container,
        run: topology.run(),
        programs: &topology.programs,
    };
    check_spread(&observer.requests(table.service_ip, 99).unwrap(), 3).unwrap();
}
