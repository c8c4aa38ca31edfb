//! A path that carries less than the nodes were told: found out, passed on to who sends, and nothing hangs (pitfalls
//! 10 and 19).
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use journeys::container::Container;
use journeys::deadline::wait_for;
use journeys::measure::{BULK_PORT, ECHO_PORT, Observer};
use journeys::node::{UNDERLAY, Uplink};
use journeys::orchestrator::Place;
use journeys::topology::{Plan, Topology};
use journeys::underlay::Underlay;
use serde_json::json;

/// What the narrow link carries.
const NARROW: u16 = 1300;

/// A client on the first node, and an instance on the second.
struct Scene {
    client: Container,
    service: IpAddr,
    place: Place,
    // Last: it takes all down.
    topology: Topology,
}

/// The outer family, and so what an outer packet's headers take.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outer {
    V4,
    V6,
}

impl Outer {
    /// What is left for an IPv4 packet inside.
    fn inner(self) -> u16 {
        match self {
            Outer::V4 => NARROW - 28,
            Outer::V6 => NARROW - 48,
        }
    }
}

impl Scene {
    fn new(uplink: Uplink, underlay: Underlay, outer: Outer) -> Scene {
        let mut topology = Topology::lay_over(Plan { nodes: 2, uplink }, underlay).unwrap();
        if outer == Outer::V6 {
            for (number, node) in (1..).zip(&topology.nodes) {
                let address = format!("2001:db8::{number}");
                node.configure(|settings| settings["NodePublicAddress"] = json!(address))
                    .unwrap();
            }
        }
        topology.start().unwrap();
        topology.register().unwrap();
        let (web, _) = topology.deploy("trial.test.web.default", &[1]).unwrap();
        let (own, client) = topology
            .deploy_client("trial.test.client.default", 0)
            .unwrap();
        let table = topology
            .wait_running(&[(&web, 1), (&own, 1)])
            .unwrap()
            .remove(0);
        Scene {
            client: client.container,
            service: table.service_ip,
            place: table.instances[0].clone(),
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

    /// What a program in the client's container says, however it ends.
    fn output(&mut self, program: &str, arguments: &[&str]) -> String {
        let command = format!("{program} {} 2>&1 || true", arguments.join(" "));
        self.client
            .launch(program, Path::new("sh"))
            .args(["-c", &command])
            .env("LC_ALL", "C")
            .start(self.topology.run())
            .unwrap()
            .finish(Duration::from_secs(60))
            .unwrap()
    }

    fn traced(&mut self, to: IpAddr) -> String {
        self.output("tracepath", &["-n", "-m", "4", &to.to_string()])
    }

    /// The router's word, or the interface's, reaches who sends packets that must not be fragmented.
    fn is_told(&mut self, to: IpAddr, mtu: u16) {
        let to = to.to_string();
        let arguments = ["-n", "-c", "2", "-W", "1", "-M", "do", "-s", "1400", &to];
        let mtu = mtu.to_string();
        let mut said = String::new();
        let told = wait_for("the sender to be told", Duration::from_secs(20), || {
            said = self.output("ping", &arguments);
            // "local error: message too long, mtu=1272", in more than one wording.
            let words = said.split(|c: char| !c.is_ascii_alphanumeric());
            let (mut named, mut told) = (false, false);
            for word in words.filter(|word| !word.is_empty()) {
                told |= named && word == mtu;
                named = word == "mtu";
            }
            Ok(told.then_some(()))
        });
        assert!(told.is_ok(), "{mtu}: {said}");
    }

    /// So many bytes each way, every one compared.
    fn transfer(&mut self, to: IpAddr, megabytes: u64) {
        let target = SocketAddr::new(to, BULK_PORT).to_string();
        let bytes = megabytes * 1_000_000;
        let text = bytes.to_string();
        for flags in [&[][..], &["--download"]] {
            let arguments = [&["--target", &target, "--bytes", &text], flags].concat();
            let report = self
                .observer()
                .workload("transfer", &arguments, 120)
                .unwrap();
            assert_eq!(report["bytes"], bytes);
        }
    }

    fn echo(&mut self, to: IpAddr, from: u16, until: u16) -> serde_json::Value {
        let target = SocketAddr::new(to, ECHO_PORT).to_string();
        let (from, until) = (from.to_string(), until.to_string());
        let arguments = ["--target", &target, "--from", &from, "--to", &until];
        self.observer().workload("echo", &arguments, 120).unwrap()
    }

    fn all_come_back(&mut self, to: IpAddr, from: u16, until: u16) {
        let report = self.echo(to, from, until);
        assert_eq!(report["lost"], json!([]), "{report}");
        assert_eq!(report["wrong"], json!([]), "{report}");
    }

    /// What must hold on any path, once it is known.
    fn everything_passes(&mut self, outer: Outer) {
        let (v4, v6) = (self.place.instance_ip, self.place.instance_ip_v6);
        let traced = self.traced(v4);
        let expected = format!("pmtu {}", outer.inner());
        assert!(
            traced.contains(&expected) && traced.contains("reached"),
            "{expected}: {traced}"
        );
        // IPv6 asks every link for 1280 bytes, so the tunnel gives it these, in fragments.
        let traced = self.traced(v6);
        assert!(
            traced.contains("pmtu 1280") && traced.contains("reached"),
            "{traced}"
        );
        self.is_told(v4, outer.inner());
        self.is_told(v6, 1280);
        // Whoever allows fragments, both ways, needs to know nothing.
        let text = v4.to_string();
        let said = self.output(
            "ping",
            &[
                "-n", "-c", "3", "-W", "2", "-M", "dont", "-s", "20000", &text,
            ],
        );
        assert!(said.contains(" 0% packet loss"), "{said}");
        let service = self.service;
        let spread = self.observer().requests(service, 20).unwrap();
        assert_eq!(spread.failures, 0, "{spread:?}");
        for to in [v4, v6, service] {
            self.transfer(to, 20);
        }
        // Linux learns the path for UDP too, so that the first one may be lost, at either end; then its sender splits.
        for to in [v4, v6] {
            self.echo(to, 1400, 1403);
            self.all_come_back(to, 1200, 1400);
            self.all_come_back(to, 59_990, 60_000);
        }
    }
}

fn a_narrow_router_is_learned(uplink: Uplink, outer: Outer) {
    let mut scene = Scene::new(uplink, Underlay::Routed { mtu: NARROW }, outer);
    scene.everything_passes(outer);
}

#[test]
fn a_narrow_router_is_learned_over_udp_sockets() {
    a_narrow_router_is_learned(Uplink::Socket, Outer::V4);
}

#[test]
fn a_narrow_router_is_learned_over_udp_sockets_and_ipv6() {
    a_narrow_router_is_learned(Uplink::Socket, Outer::V6);
}

#[test]
fn a_narrow_router_is_learned_over_af_packet() {
    a_narrow_router_is_learned(Uplink::AfPacket, Outer::V4);
}

#[test]
fn a_narrow_router_is_learned_over_af_packet_and_ipv6() {
    a_narrow_router_is_learned(Uplink::AfPacket, Outer::V6);
}

/// The link becomes narrow in the middle of a download, and it completes.
fn a_path_narrows_under_way(uplink: Uplink) {
    let mut scene = Scene::new(uplink, Underlay::Direct, Outer::V4);
    let to = scene.place.instance_ip;
    let traced = scene.traced(to);
    assert!(traced.contains("pmtu 1450"), "as configured: {traced}");
    let target = SocketAddr::new(scene.service, BULK_PORT).to_string();
    let bytes = "1000000000";
    let mut download = scene
        .client
        .launch("transfer", &scene.topology.programs.path("workload"))
        .args([
            "transfer",
            "--target",
            &target,
            "--bytes",
            bytes,
            "--download",
        ])
        .start(scene.topology.run())
        .unwrap();
    let received = |scene: &Scene| -> u64 {
        let inside = scene.client.namespace();
        let text = inside.ip(&["-s", "-j", "link", "show"]).unwrap();
        let links: serde_json::Value = serde_json::from_str(&text).unwrap();
        let all = links.as_array().unwrap().iter();
        all.filter_map(|link| link["stats64"]["rx"]["bytes"].as_u64())
            .sum()
    };
    wait_for("the download to run", Duration::from_secs(20), || {
        Ok((received(&scene) > 20_000_000).then_some(()))
    })
    .unwrap();
    for node in &scene.topology.nodes {
        let mtu = NARROW.to_string();
        node.namespace
            .ip(&["link", "set", "dev", UNDERLAY, "mtu", &mtu])
            .unwrap();
    }
    download.check_running().unwrap();
    let report = download.finish(Duration::from_secs(120)).unwrap();
    assert!(report.contains(bytes), "{report}");
    scene.everything_passes(Outer::V4);
}

#[test]
fn a_path_narrows_under_way_over_udp_sockets() {
    a_path_narrows_under_way(Uplink::Socket);
}

#[test]
fn a_path_narrows_under_way_over_af_packet() {
    a_path_narrows_under_way(Uplink::AfPacket);
}
