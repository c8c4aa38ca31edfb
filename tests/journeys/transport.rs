//! What must pass between containers, across nodes and within one, through every uplink.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

use std::net::{IpAddr, SocketAddr};

use journeys::container::Container;
use journeys::demo::traffic::check_spread;
use journeys::measure::{BULK_PORT, ECHO_PORT, Observer};
use journeys::node::Uplink;
use journeys::orchestrator::Table;
use journeys::topology::{Plan, Topology};

const MEGABYTE: u64 = 1_000_000;

/// A client on the first node, and a service with one instance on each of `nodes`.
struct Scene {
    client: Container,
    table: Table,
    // Last: it takes all down.
    topology: Topology,
}

impl Scene {
    fn new(uplink: Uplink, nodes: &[usize]) -> Scene {
        let mut topology = Topology::registered(Plan { nodes: 2, uplink }).unwrap();
        let (web, instances) = topology.deploy("trial.test.web.default", nodes).unwrap();
        let (own, client) = topology
            .deploy_client("trial.test.client.default", 0)
            .unwrap();
        let mut tables = topology
            .wait_running(&[(&web, instances.len()), (&own, 1)])
            .unwrap();
        Scene {
            client: client.container,
            table: tables.remove(0),
            topology,
        }
    }

    fn observer(&mut self) -> Observer<'_> {
        Observer {
            container: &mut self.client,
            run: self.topology.run(),
            programs: &self.topology.programs,
        }
    }

    /// 200 MB each way, every byte compared.
    fn transfer(&mut self, to: IpAddr) {
        let target = SocketAddr::new(to, BULK_PORT).to_string();
        let bytes = (200 * MEGABYTE).to_string();
        for flags in [&[][..], &["--download"]] {
            let arguments = [&["--target", &target, "--bytes", &bytes], flags].concat();
            let report = self
                .observer()
                .workload("transfer", &arguments, 120)
                .unwrap();
            assert_eq!(report["bytes"], 200 * MEGABYTE);
        }
    }

    /// Every size from nothing to 1400 bytes comes back as it was sent.
    fn echo(&mut self, to: IpAddr, port: u16, more: &[&str]) {
        let target = SocketAddr::new(to, port).to_string();
        let arguments = [&["--target", &target], more].concat();
        let report = self.observer().workload("echo", &arguments, 120).unwrap();
        assert_eq!(report["lost"].as_array().unwrap().len(), 0, "{report}");
        assert_eq!(report["wrong"].as_array().unwrap().len(), 0, "{report}");
    }
}

fn everything_passes(uplink: Uplink) {
    let mut scene = Scene::new(uplink, &[1, 0]);
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
        scene.transfer(place.instance_ip);
        scene.echo(place.instance_ip, ECHO_PORT, &[]);
        scene.echo(
            place.instance_ip,
            65535,
            &["--to", "20", "--source-port", "65535"],
        );
        let by_namespace_ip = scene.observer().requests(place.namespace_ip, 5).unwrap();
        assert_eq!(by_namespace_ip.per_instance.get(&place.number), Some(&5));
    }
    scene.transfer(service);
    scene.echo(service, ECHO_PORT, &["--to", "100"]);
}

/// The same over IPv6: picked by the Service IP, and by Instance IP on either node.
fn ipv6_passes(uplink: Uplink) {
    let mut scene = Scene::new(uplink, &[1, 0]);
    let places = scene.table.instances.clone();
    let service = scene.table.service_ip_v6;

    let spread = scene.observer().requests(service, 101).unwrap();
    check_spread(&spread, 2).unwrap();
    for place in &places {
        scene.transfer(place.instance_ip_v6);
        scene.echo(place.instance_ip_v6, ECHO_PORT, &["--to", "200"]);
        scene.echo(
            place.instance_ip_v6,
            65535,
            &["--to", "20", "--source-port", "65535"],
        );
    }
    scene.transfer(service);
    scene.echo(service, ECHO_PORT, &["--to", "100"]);
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
    let mut scene = Scene::new(Uplink::Socket, &[1, 0]);
    let (v4, v6) = (scene.table.service_ip, scene.table.service_ip_v6);
    for service in [v4, v6] {
        scene.echo(service, ECHO_PORT, &["--from", "2900", "--to", "3100"]);
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
