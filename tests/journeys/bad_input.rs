//! Bad input gets one clear message and status, and leaves nothing half-made behind.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use journeys::container::Container;
use journeys::http::Answer;
use journeys::node::{TUNNEL_PORT, Uplink};
use journeys::process::{Launch, Process};
use journeys::run::Stage;
use journeys::services::{self, wait_ready};
use journeys::topology::{Plan, Topology};
use serde_json::json;

const PLAN: Plan = Plan {
    nodes: 1,
    uplink: Uplink::Socket,
};
const JOB: &str = "trial.test.web.default";

/// What a deploy could leave in the node.
fn traces(topology: &Topology) -> String {
    let node = &topology.nodes[0].namespace;
    let links = node.ip(&["-brief", "link"]).unwrap();
    let addresses = node.ip(&["-brief", "address"]).unwrap();
    let routes = node.ip(&["route", "show", "table", "all"]).unwrap();
    // Those of the kernel's own addresses come when it has found nobody else to have them.
    let routes: Vec<&str> = routes
        .lines()
        .filter(|line| !line.contains("fe80"))
        .collect();
    let rules = node.command("nft", &["list", "ruleset"]).unwrap();
    let mut namespaces: Vec<_> = std::fs::read_dir("/run/netns")
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().starts_with(topology.run().id()))
        .collect();
    namespaces.sort();
    format!("{links}{addresses}{routes:#?}{rules}{namespaces:?}")
}

/// One line or two that say something, no stack of causes and no panic.
fn assert_clear(text: &str) {
    let text = text.trim();
    assert!(
        text.len() >= 10 && text.lines().count() <= 3,
        "not clear: {text:?}"
    );
    assert!(
        !text.contains("panicked") && !text.contains("RUST_BACKTRACE"),
        "a panic: {text:?}"
    );
}

fn refuses(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_clear(&answer.body);
}

#[test]
fn a_bad_deploy_changes_nothing() {
    let mut topology = Topology::up(PLAN).unwrap();
    let container = Container::start(topology.run(), &topology.programs, "web", 0).unwrap();
    let node = topology.nodes[0].server();
    let deploy = |body| node.post("/container/deploy", &body).unwrap();
    let good = json!({"pid": container.pid(), "serviceName": JOB, "instanceNumber": 0, "portMappings": ""});

    // Before registration.
    refuses(&deploy(good.clone()), 400);
    refuses(&node.request_text("POST", "/register", "{").unwrap(), 400);
    topology
        .orchestrator()
        .register_cluster(&topology.cluster)
        .unwrap();
    topology.nodes[0]
        .register()
        .unwrap()
        .ok("registering")
        .unwrap();
    // What the first container brings for good (an empty table of rules) is no trace of a failure.
    deploy(good.clone()).ok("a good deploy").unwrap();
    topology.nodes[0]
        .undeploy(JOB, 0)
        .unwrap()
        .ok("undeploying")
        .unwrap();
    let before = traces(&topology);

    for body in ["", "{", "[]", "null", r#"{"pid":"x"}"#] {
        refuses(
            &node
                .request_text("POST", "/container/deploy", body)
                .unwrap(),
            400,
        );
    }
    let with = |key: &str, value: serde_json::Value| {
        let mut body = good.clone();
        body[key] = value;
        body
    };
    for (key, value) in [
        ("serviceName", json!("only.three.parts")),
        ("serviceName", json!("a.b.c.d-e")),
        ("serviceName", json!("")),
        ("instanceNumber", json!(-5)),
        ("portMappings", json!("80:")),
        ("portMappings", json!("70000")),
    ] {
        let body = with(key, value);
        let answer = deploy(body.clone());
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert_clear(&answer.body);
        assert_eq!(traces(&topology), before, "{body}");
    }
    // No such process, one without a namespace of its own to enter, and none at all.
    for pid in [3_999_999, -1, 0] {
        let answer = deploy(with("pid", json!(pid)));
        assert!(matches!(answer.status, 400 | 500), "{pid}: {answer:?}");
        assert_clear(&answer.body);
        assert_eq!(traces(&topology), before, "pid {pid}");
    }
    // And it still works.
    deploy(good).ok("a good deploy").unwrap();
    let answer = topology.nodes[0].undeploy(JOB, 0).unwrap();
    answer.ok("undeploying").unwrap();
    assert_eq!(traces(&topology), before, "after a deploy and an undeploy");
    topology.nodes[0]
        .process()
        .unwrap()
        .check_running()
        .unwrap();
}

#[test]
fn a_port_that_is_taken_is_refused() {
    let mut topology = Topology::registered(PLAN).unwrap();
    let (_web, _instances) = topology.deploy(JOB, &[0]).unwrap();
    let other = Container::start(topology.run(), &topology.programs, "other", 0).unwrap();
    // Held by a socket of the node itself.
    let node = topology.nodes[0].namespace.clone();
    let _held = node
        .enter(|| std::net::TcpListener::bind("0.0.0.0:8080").unwrap())
        .unwrap();
    let before = traces(&topology);
    let body = json!({"pid": other.pid(), "serviceName": "trial.test.other.default",
        "instanceNumber": 0, "portMappings": "8080:80/tcp"});
    let answer = topology.nodes[0]
        .server()
        .post("/container/deploy", &body)
        .unwrap();
    refuses(&answer, 500);
    assert!(answer.body.contains("8080"), "{answer:?}");
    assert_eq!(traces(&topology), before);
}

#[test]
fn registering_without_a_broker_fails_in_time_and_can_be_repeated() {
    let mut topology = Topology::lay(PLAN).unwrap();
    topology.start_nodes().unwrap();
    let start = Instant::now();
    let answer = topology.nodes[0].register().unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_ne!(answer.status, 200);
    assert_clear(&answer.body);
    topology.start_services().unwrap();
    topology.start_managers().unwrap();
    topology
        .orchestrator()
        .register_cluster(&topology.cluster)
        .unwrap();
    topology.nodes[0]
        .register()
        .unwrap()
        .ok("registering again")
        .unwrap();
}

#[test]
fn without_redis_the_managers_say_503_and_come_back() {
    let mut topology = Topology::lay(PLAN).unwrap();
    let mut root = services::start_root(
        topology.run(),
        &topology.programs,
        &topology.root,
        &topology.redis,
    )
    .unwrap();
    let orchestrator = topology.orchestrator();
    let body = json!({"cluster_id": "1", "cluster_address": "198.51.100.5", "cluster_port": 10110});
    let answer =
        journeys::deadline::wait_for("the root to listen", Duration::from_secs(10), || {
            orchestrator.root.post("/api/net/cluster", &body).map(Some)
        })
        .unwrap();
    refuses(&answer, 503);
    topology.start_services().unwrap();
    wait_ready(&mut root, &orchestrator.root).unwrap();
    orchestrator.register_cluster(&topology.cluster).unwrap();
}

/// Starts a Net Manager that cannot come up, and answers what it says.
fn refused(topology: &Topology, process: &mut Process, before: &str) -> String {
    let status = process.wait(Duration::from_secs(20)).unwrap();
    assert!(!status.success(), "{status}");
    let said = process.last_words();
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(traces(topology), before);
    said
}

#[test]
fn a_net_manager_that_cannot_start_says_why_and_leaves_nothing() {
    let topology = Topology::lay(PLAN).unwrap();
    let node = &topology.nodes[0];
    let program = topology.programs.path("NetManager");
    let launch =
        |name: &str, program: &Path| Launch::new(name, program, &node.namespace, Stage::Node);
    let before = traces(&topology);

    let mut process = launch("no-interface", &program)
        .args(node.flags())
        .args(["run", "--uplink", "af_packet:nowhere0"])
        .start(topology.run())
        .unwrap();
    let said = refused(&topology, &mut process, &before);
    assert!(said.contains("nowhere0"), "{said}");

    let held = node
        .namespace
        .enter(|| UdpSocket::bind(("0.0.0.0", TUNNEL_PORT)).unwrap())
        .unwrap();
    let mut process = launch("taken-port", &program)
        .args(node.flags())
        .args(["run"])
        .start(topology.run())
        .unwrap();
    let said = refused(&topology, &mut process, &before);
    assert!(said.contains(&TUNNEL_PORT.to_string()), "{said}");
    drop(held);

    let folder = std::env::temp_dir().join(format!("{}-stranger", topology.run().id()));
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(&program, folder.join("NetManager")).unwrap();
    for name in ["netcfg.json", "tuncfg.json"] {
        std::fs::copy(node.folder().join(name), folder.join(name)).unwrap();
    }
    std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).unwrap();
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let mut process = launch("no-root", Path::new("setpriv"))
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args([path("NetManager"), "--config".into(), path("netcfg.json")])
        .args(["--tun-config".into(), path("tuncfg.json")])
        .args([
            "--socket".into(),
            path("netmanager.sock"),
            "--state-dir".into(),
            path("state"),
        ])
        .args(["run"])
        .start(topology.run())
        .unwrap();
    let said = refused(&topology, &mut process, &before);
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(
        said.contains("root") || said.contains("CAP_NET_ADMIN"),
        "{said}"
    );
}
