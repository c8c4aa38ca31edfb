//! What the node's own interface is behind: by a TAP and, where the machine has vhost-net, by `virtio_user`, containers
//! meet the node itself and the world beyond it, and nothing stays of it. `scripts/try-vhost-net` runs this on a machine
//! that has vhost-net.
#![allow(clippy::unwrap_used, clippy::panic)] // In a test both are assertions, in its own functions too.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use journeys::container::Container;
use journeys::deadline::wait_until;
use journeys::measure::{BULK_PORT, ECHO_PORT, HTTP_PORT, Observer};
use journeys::namespace::Namespace;
use journeys::node::{Node, Uplink};
use journeys::process::{Launch, Process};
use journeys::run::Stage;
use journeys::topology::{Plan, Topology};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(100);
const VHOST_NET: &str = "/dev/vhost-net";
const PLAN: Plan = Plan {
    nodes: 1,
    uplink: Uplink::Socket,
};
/// The management network's bridge, which knows no way back to any container.
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const BYTES: &str = "3000000";

fn configure(nodes: &[Node], kind: &str, workers: u32) -> anyhow::Result<()> {
    nodes.iter().try_for_each(|node| {
        node.configure(|settings| {
            settings["Dataplane"] = json!({"HostPort": kind, "Workers": workers});
        })
    })
}

fn serve(topology: &Topology, name: &str, place: &Namespace) -> Process {
    let program = topology.programs.path("workload");
    let launch = Launch::new(name, &program, place, Stage::Workload);
    launch
        .args(["serve", "--instance", "9"])
        .start(topology.run())
        .unwrap()
}

/// Pings, requests, datagrams of all sizes, and three megabytes each way.
fn reaches(topology: &Topology, client: &mut Container, to: IpAddr) {
    let mut observer = Observer {
        container: client,
        run: topology.run(),
        programs: &topology.programs,
    };
    observer.ping(to, 3, SOON).unwrap();
    let answers = observer.requests(to, 10).unwrap();
    assert_eq!((answers.requests, answers.failures), (10, 0), "{answers:?}");
    let bulk = SocketAddr::new(to, BULK_PORT).to_string();
    for flags in [&[][..], &["--download"]] {
        let words = [&["--target", &bulk, "--bytes", BYTES], flags].concat();
        let report = observer.workload("transfer", &words, 120).unwrap();
        assert_eq!(report["bytes"].to_string(), BYTES);
    }
    let echo = SocketAddr::new(to, ECHO_PORT).to_string();
    let report = observer
        .workload("echo", &["--target", &echo], 120)
        .unwrap();
    assert_eq!(
        (&report["lost"], &report["wrong"]),
        (&json!([]), &json!([]))
    );
}

/// The node itself and the world beyond it, each as soon as its server is met.
fn reaches_both(topology: &Topology, client: &mut Container, own: IpAddr) {
    for target in [own, OUTSIDE] {
        let inside = client.namespace();
        let server = SocketAddr::new(target, HTTP_PORT);
        let meets = || inside.connect(server, SOON).is_ok();
        wait_until("the server is met", PATIENCE, meets).unwrap();
        reaches(topology, client, target);
    }
}

/// The node's own interface: whether it is there, and whether it is a TAP.
fn interface(node: &Node) -> (bool, bool) {
    let shown = node.namespace.ip(&["-d", "link", "show"]).unwrap();
    let own = shown.split("oak0:").nth(1);
    (own.is_some(), own.is_some_and(|s| s.contains("type tap")))
}

fn gateway(node: &Node) -> IpAddr {
    let status: Value = node.server().get("/status").unwrap().json().unwrap();
    let subnetwork = status["subnetworks"][0].as_str().unwrap();
    let network: Ipv4Addr = subnetwork.split('/').next().unwrap().parse().unwrap();
    Ipv4Addr::from(u32::from(network) + 1).into()
}

fn containers_meet_the_node_by(kind: &str, workers: u32) {
    let prepare = |nodes: &mut [Node]| configure(nodes, kind, workers);
    let mut topology = Topology::registered_with(PLAN, prepare).unwrap();
    let (web, _instances) = topology.deploy("trial.test.web.default", &[0]).unwrap();
    let (own, client) = topology
        .deploy_client("trial.test.client.default", 0)
        .unwrap();
    let tables = topology.wait_running(&[(&web, 1), (&own, 1)]).unwrap();
    let instance = tables[0].instances[0].namespace_ip;
    let mut client = client.container;
    let space = topology.nodes[0].namespace.clone();
    let _inside = serve(&topology, "on-the-node", &space);
    let _outside = serve(&topology, "outside", &topology.lan.clone());
    let own = gateway(&topology.nodes[0]);
    reaches_both(&topology, &mut client, own);
    // From the node: segments of the kernel's to a container, and back.
    let bulk = SocketAddr::new(instance, BULK_PORT).to_string();
    for flags in [&[][..], &["--download"]] {
        let program = topology.programs.path("workload");
        let words = [&["transfer", "--target", &bulk, "--bytes", BYTES], flags].concat();
        let launch = Launch::new("from-the-node", &program, &space, Stage::Workload).args(words);
        let mut client = launch.start(topology.run()).unwrap();
        client.finish(PATIENCE * 2).unwrap();
    }

    let node = &topology.nodes[0];
    assert_eq!(interface(node), (true, true));
    let said = |command: &str| {
        let program = topology.programs.path("NetManager");
        let flags = node.flags();
        let mut words: Vec<&str> = flags.iter().map(String::as_str).collect();
        words.push(command);
        let said = space.command(program.to_str().unwrap(), &words);
        // `doctor` fails where anything is wrong, in these namespaces the clock or the disk, too.
        said.unwrap_or_else(|error| error.to_string())
    };
    let status = said("status");
    assert!(status.contains(&format!("oak0 ({kind})")), "{status}");
    let doctor = said("doctor");
    assert!(
        doctor.contains(&format!("{kind}; this machine")),
        "{doctor}"
    );

    // Killed: the interface goes with it, and is there again with its addresses.
    topology.nodes[0].process().unwrap().kill().unwrap();
    wait_until("the interface goes", PATIENCE, || {
        !interface(&topology.nodes[0]).0
    })
    .unwrap();
    topology.restart_node(0).unwrap();
    reaches_both(&topology, &mut client, own);
    // Left for good: nothing stays.
    let node = &mut topology.nodes[0];
    node.server().post("/down", &json!({})).unwrap();
    assert!(node.process().unwrap().wait(PATIENCE).unwrap().success());
    assert_eq!(interface(node), (false, false));
}

#[test]
fn containers_meet_the_node_by_a_tap() {
    containers_meet_the_node_by("tap", 1);
}

#[test]
fn containers_meet_the_node_by_virtio_user_where_there_is_vhost_net() {
    if !Path::new(VHOST_NET).exists() {
        println!(
            "skipped: no {VHOST_NET}; scripts/try-vhost-net runs it on a machine that has one"
        );
        return;
    }
    for workers in [1, 2] {
        containers_meet_the_node_by("virtio_user", workers);
    }
}

#[test]
fn without_vhost_net_the_start_says_what_to_do() {
    if Path::new(VHOST_NET).exists() {
        println!("skipped: this machine has {VHOST_NET}");
        return;
    }
    let mut topology = Topology::lay(PLAN).unwrap();
    configure(&topology.nodes, "virtio_user", 1).unwrap();
    topology.start_services().unwrap();
    let refused = format!("{:#}", topology.start_nodes().unwrap_err());
    for said in [VHOST_NET, "modprobe vhost_net", "HostPort", "tap"] {
        assert!(refused.contains(said), "{refused}");
    }
    assert_eq!(interface(&topology.nodes[0]), (false, false));
}
