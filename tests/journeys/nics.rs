//! NICs in DPDK's hands: what the kernel had there, it keeps.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use journeys::deadline::wait_for;
use journeys::measure::ECHO_PORT;
use journeys::namespace::Namespace;
use journeys::node::{Node, UNDERLAY, Uplink};
use journeys::scene::Scene;
use serde_json::json;

const SOME: u64 = 5_000_000;

/// A connection between two nodes' own addresses, as of someone who is logged in.
struct Session(TcpStream, TcpStream);

impl Session {
    fn open(from: &Namespace, to: &Namespace, address: IpAddr) -> Session {
        let listener = to
            .enter(|| TcpListener::bind(SocketAddr::new(address, 0)))
            .unwrap()
            .unwrap();
        let target = listener.local_addr().unwrap();
        let client = from.connect(target, Duration::from_secs(20)).unwrap();
        let (server, _) = listener.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            end.set_write_timeout(Some(Duration::from_secs(30)))
                .unwrap();
        }
        Session(client, server)
    }

    /// A key is typed and echoed; then a screenful comes.
    fn goes_on(&mut self) {
        let Session(client, server) = self;
        let mut key = [0];
        client.write_all(b"k").unwrap();
        server.read_exact(&mut key).unwrap();
        let screen: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| server.write_all(&screen).unwrap());
            let mut seen = vec![0; screen.len()];
            client.read_exact(&mut seen).unwrap();
            assert!(seen == screen, "what came is not what was sent");
        });
    }
}

fn addresses(node: &Node) -> [IpAddr; 2] {
    let [.., number] = node.underlay.octets();
    [
        node.underlay.into(),
        format!("2001:db8::{number}").parse().unwrap(),
    ]
}

fn sessions(scene: &Scene) -> Vec<Session> {
    let (one, other) = (&scene.topology.nodes[0], &scene.topology.nodes[1]);
    addresses(one)
        .into_iter()
        .map(|address| Session::open(&other.namespace, &one.namespace, address))
        .collect()
}

/// Containers talk across the nodes, in small and large packets and in fragments.
fn containers_talk(scene: &mut Scene) {
    for service in [scene.table.service_ip, scene.table.service_ip_v6] {
        let spread = scene.observer().requests(service, 20).unwrap();
        assert_eq!(spread.failures, 0, "{spread:?}");
        scene.transfer(service, SOME).unwrap();
        scene.echo(service, ECHO_PORT, &["--to", "40"]).unwrap();
        scene
            .echo(service, ECHO_PORT, &["--from", "2990", "--to", "3000"])
            .unwrap();
    }
}

fn figure(node: &Node, name: &str) -> u64 {
    let text = node.server().get("/metrics").unwrap().body;
    text.lines()
        .filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '))
        .map(|(_, value)| value.parse::<u64>().unwrap())
        .sum()
}

/// Kills the first node's Net Manager; `meanwhile` looks at what is left; then it comes back.
fn is_killed_and_comes_back(scene: &mut Scene, meanwhile: impl Fn(&Node)) {
    scene.topology.nodes[0].process().unwrap().kill().unwrap();
    meanwhile(&scene.topology.nodes[0]);
    scene.topology.restart_node(0).unwrap();
    let service = scene.table.service_ip;
    wait_for(
        "requests to be answered again",
        Duration::from_secs(30),
        || {
            let spread = scene.observer().requests(service, 5)?;
            Ok((spread.failures == 0).then_some(()))
        },
    )
    .unwrap();
}

fn attached(node: &Node) -> bool {
    let shown = node.namespace.ip(&["-d", "link", "show", "dev", UNDERLAY]);
    shown.unwrap().contains("oak_tunnel")
}

#[test]
fn af_xdp_takes_the_tunnel_and_leaves_the_rest() {
    let mut scene = Scene::new(Uplink::AfXdp, &[1]).unwrap();
    for node in &scene.topology.nodes {
        assert!(attached(node));
    }
    let mut sessions = sessions(&scene);
    sessions.iter_mut().for_each(Session::goes_on);
    containers_talk(&mut scene);
    // By XDP, not by the sockets behind it.
    let taken = figure(
        &scene.topology.nodes[1],
        "netmanager_port_events_total{port=\"ethdev\",event=\"received\"",
    );
    assert!(taken > 1000, "{taken} datagrams came by AF_XDP");
    sessions.iter_mut().for_each(Session::goes_on);
    is_killed_and_comes_back(&mut scene, |node| {
        assert!(!attached(node), "the program outlives its process");
    });
    assert!(attached(&scene.topology.nodes[0]));
    sessions.iter_mut().for_each(Session::goes_on);
    containers_talk(&mut scene);
    let node = &mut scene.topology.nodes[0];
    node.process()
        .unwrap()
        .stop(Duration::from_secs(20))
        .unwrap();
    assert!(!attached(node), "the program outlives the node's stop");
    sessions.iter_mut().for_each(Session::goes_on);
}

fn the_kernel_keeps_its_addresses(workers: u8) {
    let mut scene = Scene::with(Uplink::Whole(workers), &[1, 0], |nodes| {
        for node in nodes {
            node.set_env("NETMANAGER_WORKERS", &workers.to_string());
        }
        Ok(())
    })
    .unwrap();
    let mut sessions = sessions(&scene);
    sessions.iter_mut().for_each(Session::goes_on);
    containers_talk(&mut scene);
    let node = &scene.topology.nodes[0];
    for (what, least) in [("to_kernel", 100), ("from_kernel", 100)] {
        let figure = figure(
            node,
            &format!("netmanager_port_events_total{{port=\"ethdev\",event=\"{what}\""),
        );
        assert!(figure > least, "{what}: {figure}");
    }
    // The kernel answers pings and resolves its neighbours, through the TAP alone.
    let other = &scene.topology.nodes[1];
    for address in addresses(node) {
        let address = address.to_string();
        let pings = ["-c", "3", "-i", "0.05", "-W", "5", &address];
        other.namespace.command("ping", &pings).unwrap();
    }
    let neighbours = other.namespace.ip(&["neigh", "show"]).unwrap();
    assert!(!neighbours.contains("wire0"), "{neighbours}");
    is_killed_and_comes_back(&mut scene, |node| {
        let shown = node
            .namespace
            .ip(&["-4", "address", "show", "dev", UNDERLAY]);
        assert!(shown.unwrap().contains(&node.underlay.to_string()));
    });
    sessions.iter_mut().for_each(Session::goes_on);
    containers_talk(&mut scene);
    // The TAP goes when all goes.
    let node = &scene.topology.nodes[0];
    node.server().post("/down", &json!({})).unwrap();
    wait_for("the TAP to go", Duration::from_secs(20), || {
        let shown = node.namespace.ip(&["link", "show", "dev", UNDERLAY]);
        Ok(shown.is_err().then_some(()))
    })
    .unwrap();
}

#[test]
fn the_kernel_keeps_its_addresses_on_a_nic_that_is_wholly_in_dpdk() {
    the_kernel_keeps_its_addresses(1);
}

#[test]
fn the_kernel_keeps_its_addresses_with_two_workers() {
    the_kernel_keeps_its_addresses(2);
}
