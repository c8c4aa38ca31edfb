//! A day's worth of containers that come and go, and as many as a node takes.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use journeys::deadline::{wait_for, wait_until};
use journeys::namespace::Namespace;
use journeys::node::{Node, Uplink};
use journeys::process::{Launch, Process};
use journeys::run::Stage;
use journeys::topology::{Plan, Topology};
use serde_json::{Value, json};

const PLAN: Plan = Plan {
    nodes: 1,
    uplink: Uplink::Socket,
};
const PATIENCE: Duration = Duration::from_secs(60);
/// How often `containers_that_come_and_go_leave_nothing` attaches; the environment says otherwise.
const ROUNDS: usize = 600;
/// Before the first look: what is made once and kept (threads, pools, the allocator's arenas) is made.
const WARM: usize = 200;

/// A process in a namespace of its own that does nothing.
fn idle(topology: &Topology, number: usize) -> Process {
    let name = format!("idle{number}");
    Launch::new(
        &name,
        Path::new("sleep"),
        &Namespace::Fresh,
        Stage::Workload,
    )
    .args(["3600"])
    .start(topology.run())
    .unwrap()
}

fn body(process: &Process, job: &str, number: usize, ports: &str) -> Value {
    json!({"pid": process.pid(), "serviceName": job, "instanceNumber": number, "portMappings": ports})
}

fn status(node: &Node) -> Value {
    node.server().get("/status").unwrap().json().unwrap()
}

/// What a Net Manager holds.
#[derive(Debug)]
struct Held {
    files: usize,
    threads: usize,
    memory_kb: u64,
    machine: String,
    waiting: Value,
}

fn held(topology: &mut Topology) -> Held {
    let pid = topology.nodes[0].process().unwrap().pid();
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let memory = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let memory = memory
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    let inside = &topology.nodes[0].namespace;
    let links = inside.ip(&["-brief", "link"]).unwrap();
    let mut links: Vec<&str> = links
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    links.sort_unstable();
    let rules = inside.command("nft", &["list", "ruleset"]).unwrap();
    // The further subnetwork that a node may hold comes and goes with the addresses that rest.
    let rules: Vec<&str> = rules
        .lines()
        .filter(|line| !line.contains("saddr"))
        .collect();
    let status = status(&topology.nodes[0]);
    Held {
        files: count("fd"),
        threads: count("task"),
        memory_kb: memory.split_whitespace().nth(1).unwrap().parse().unwrap(),
        machine: format!("{links:?} {rules:#?}"),
        waiting: status["dataplane"]["waiting"].clone(),
    }
}

/// `OAK_ATTACH_ROUNDS=10000` is a day's worth.
#[test]
fn containers_that_come_and_go_leave_nothing() {
    let rounds = std::env::var("OAK_ATTACH_ROUNDS");
    let rounds: usize = rounds.map_or(ROUNDS, |text| text.parse().unwrap());
    let mut topology = Topology::registered(PLAN).unwrap();
    let processes: Vec<Process> = (0..8).map(|number| idle(&topology, number)).collect();
    let turn = |topology: &Topology, round: usize| {
        let process = &processes[round % processes.len()];
        let job = format!("trial.test.job{}.default", round % 40);
        let ports = if round.is_multiple_of(4) {
            "8080:80;9090/udp"
        } else {
            ""
        };
        let server = topology.nodes[0].server();
        let deploy = body(process, &job, round % 3, ports);
        server
            .post("/container/deploy", &deploy)
            .unwrap()
            .ok("deploying")
            .unwrap();
        server
            .post("/container/undeploy", &deploy)
            .unwrap()
            .ok("undeploying")
            .unwrap();
    };
    for round in 0..WARM {
        turn(&topology, round);
    }
    // Threads that may block come and go, with what they hold; none of them is for a container.
    let settled = |topology: &mut Topology, files: usize, threads: usize| {
        wait_for("what was in use to be let go", PATIENCE, || {
            let now = held(topology);
            let few = now.files <= files && now.threads <= threads;
            Ok((few && status(&topology.nodes[0])["containers"] == json!([])).then_some(now))
        })
        .unwrap()
    };
    let before = settled(&mut topology, usize::MAX, usize::MAX);
    let begun = Instant::now();
    for round in 0..rounds {
        turn(&topology, round);
    }
    let took = begun.elapsed();
    let after = settled(&mut topology, before.files + 8, before.threads + 8);
    let grown = after.memory_kb.saturating_sub(before.memory_kb);
    eprintln!(
        "{rounds} attached and detached in {took:.1?}: {} files before and {} after, {} threads and {}, memory grown by {grown} kB of {}",
        before.files, after.files, before.threads, after.threads, before.memory_kb
    );
    assert_eq!(after.machine, before.machine);
    assert_eq!(after.waiting, before.waiting);
    assert!(grown < 8 * 1024, "{grown} kB in {rounds} rounds");
    for process in &processes {
        let links = Namespace::OfProcess(process.pid())
            .ip(&["-brief", "link"])
            .unwrap();
        assert_eq!(links.lines().count(), 1, "{links}");
    }
    let state = topology.nodes[0].folder().join("state");
    let file = fs::read_dir(state).unwrap().next().unwrap().unwrap().path();
    let state: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    for subnetwork in state["ledger"]["subnets"].as_array().unwrap() {
        assert_eq!(subnetwork["used"], json!([]), "{subnetwork}");
    }
}

/// Pitfall 27: four further subnetworks, every container reachable, a restart, and all of it given back.
#[test]
fn two_hundred_and_fifty_containers_live_on_one_node() {
    const CONTAINERS: usize = 250;
    let mut topology = Topology::registered(PLAN).unwrap();
    let processes: Vec<Process> = (0..CONTAINERS)
        .map(|number| idle(&topology, number))
        .collect();
    let begun = Instant::now();
    for (number, process) in processes.iter().enumerate() {
        let deploy = body(process, "trial.test.many.default", number, "");
        let answer = topology.nodes[0]
            .server()
            .post("/container/deploy", &deploy)
            .unwrap();
        answer.ok(&format!("deploying container {number}")).unwrap();
    }
    eprintln!("{CONTAINERS} containers in {:.1?}", begun.elapsed());
    let now = status(&topology.nodes[0]);
    assert_eq!(now["containers"].as_array().unwrap().len(), CONTAINERS);
    let subnetworks = now["subnetworks"].as_array().unwrap().len();
    assert!((5..=6).contains(&subnetworks), "{subnetworks} subnetworks");
    let addresses: Vec<String> = now["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| {
            let both = container["addresses"].as_str().unwrap();
            both.split(' ').next().unwrap().to_owned()
        })
        .collect();
    let ping = |from: usize, to: usize| {
        let inside = Namespace::OfProcess(processes[from].pid());
        inside.command("ping", &["-c", "1", "-W", "2", &addresses[to]])
    };
    for (from, to) in [(0, 249), (249, 0), (60, 61), (130, 200), (249, 125)] {
        wait_for("a ping", PATIENCE, || ping(from, to).map(Some)).unwrap();
    }
    topology.nodes[0].process().unwrap().kill().unwrap();
    let begun = Instant::now();
    topology.restart_node(0).unwrap();
    for (from, to) in [(0, 249), (249, 0), (61, 130)] {
        wait_for("a ping after the restart", PATIENCE, || {
            ping(from, to).map(Some)
        })
        .unwrap();
    }
    eprintln!(
        "all of them reachable again {:.1?} after the restart",
        begun.elapsed()
    );
    let again = status(&topology.nodes[0]);
    assert_eq!(again["containers"], now["containers"]);
    assert_eq!(again["subnetworks"], now["subnetworks"]);
    for number in 0..CONTAINERS {
        let job = "trial.test.many.default";
        let number = u32::try_from(number).unwrap();
        topology.nodes[0]
            .undeploy(job, number)
            .unwrap()
            .ok("undeploying")
            .unwrap();
    }
    assert_eq!(status(&topology.nodes[0])["containers"], json!([]));
    // Once their addresses have rested, all but the first and one more go back.
    wait_until(
        "the subnetworks to be given back",
        Duration::from_secs(120),
        || {
            status(&topology.nodes[0])["subnetworks"]
                .as_array()
                .is_some_and(|held| held.len() <= 2)
        },
    )
    .unwrap();
}
