//! The same with two and with four workers: flows, fragments, errors and the node's own processes find their owner.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

use std::time::Duration;

use journeys::measure::ECHO_PORT;
use journeys::node::Uplink;
use journeys::scene::Scene;

const SOME: u64 = 20_000_000;

fn everything_passes(uplink: Uplink, workers: u8) {
    let mut scene = Scene::with(uplink, &[1, 0, 1, 0], |nodes| {
        for node in nodes {
            node.set_env("NETMANAGER_WORKERS", &workers.to_string());
        }
        Ok(())
    })
    .unwrap();
    let places = scene.table.instances.clone();
    for service in [scene.table.service_ip, scene.table.service_ip_v6] {
        let spread = scene.observer().requests(service, 41).unwrap();
        // The client belongs to one worker, so its turns are those of one rotation.
        journeys::demo::traffic::check_spread(&spread, 4).unwrap();
        scene.transfer(service, SOME).unwrap();
        scene.echo(service, ECHO_PORT, &["--to", "60"]).unwrap();
        scene
            .echo(service, ECHO_PORT, &["--from", "2990", "--to", "3010"])
            .unwrap();
        let crowd = ["--count", "200", "--datagrams"];
        scene.crowd(service, &crowd).unwrap();
    }
    for place in &places {
        for address in [place.instance_ip, place.instance_ip_v6, place.namespace_ip] {
            scene
                .observer()
                .ping(address, 3, Duration::from_millis(50))
                .unwrap();
        }
        scene
            .echo(
                place.instance_ip,
                65535,
                &["--to", "5", "--source-port", "65535"],
            )
            .unwrap();
        scene
            .echo(
                place.instance_ip_v6,
                ECHO_PORT,
                &["--from", "4000", "--to", "4005"],
            )
            .unwrap();
    }
}

#[test]
fn two_workers_over_udp_sockets() {
    everything_passes(Uplink::Socket, 2);
}

#[test]
fn four_workers_over_udp_sockets() {
    everything_passes(Uplink::Socket, 4);
}

#[test]
fn two_workers_over_af_packet() {
    everything_passes(Uplink::AfPacket, 2);
}
