//! What a node keeps when its Net Manager goes: killed, stopped, upgraded or gone back to an older one, ten times in a
//! row, in the middle of deploys, and for good.
#![allow(clippy::unwrap_used, clippy::panic)] // In a test both are assertions, in its own functions too.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use journeys::container::Container;
use journeys::deadline::{wait_for, wait_until};
use journeys::node::{Node, Uplink};
use journeys::scene::{CROWD_PORT, Scene};
use journeys::topology::{Plan, Topology};
use serde_json::{Value, json};

const PLAN: Plan = Plan {
    nodes: 1,
    uplink: Uplink::Socket,
};
const PATIENCE: Duration = Duration::from_secs(30);
const JOB: &str = "trial.test.web.default";

/// Everything of a node's machine that its Net Manager may change.
fn machine(node: &Node) -> String {
    let inside = &node.namespace;
    let addresses = inside.ip(&["-brief", "address"]).unwrap();
    // The kernel's own addresses follow from MAC addresses that are made up anew.
    let mut addresses: Vec<String> = addresses
        .lines()
        .map(|line| {
            let words = line
                .split_whitespace()
                .filter(|word| !word.starts_with("fe80"));
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    addresses.sort_unstable();
    let routes = inside.ip(&["route"]).unwrap();
    let routes_v6 = inside.ip(&["-6", "route"]).unwrap();
    let mut routes: Vec<&str> = routes
        .lines()
        .chain(routes_v6.lines())
        .filter(|line| !line.starts_with("fe80") && !line.starts_with("ff00"))
        .collect();
    routes.sort_unstable();
    let rules = inside.command("nft", &["list", "ruleset"]).unwrap();
    let settings = inside
        .command(
            "sh",
            &["-c", "cd /proc/sys/net && grep -s . ipv4/ip_forward ipv4/conf/*/rp_filter ipv4/conf/*/route_localnet ipv6/conf/*/forwarding ipv6/conf/*/accept_ra ipv6/conf/*/disable_ipv6"],
        )
        .unwrap();
    format!("{addresses:#?}\n{routes:#?}\n{rules}\n{settings}")
}

/// A connection that says a word again and again, and must hear it each time.
struct Talk {
    over: Arc<AtomicBool>,
    words: Arc<AtomicU64>,
    thread: JoinHandle<Duration>,
}

impl Talk {
    fn begin(client: &Container, to: IpAddr) -> Talk {
        let target = SocketAddr::new(to, CROWD_PORT);
        let mut stream = client.namespace().connect(target, PATIENCE).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (over, words) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stop, count) = (Arc::clone(&over), Arc::clone(&words));
        let thread = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                longest = longest.max(say(&mut stream, count.load(Ordering::Relaxed)));
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
            longest
        });
        Talk {
            over,
            words,
            thread,
        }
    }

    /// Waits until so many more words have been answered.
    fn goes_on(&self, words: u64) {
        let wanted = self.words.load(Ordering::Relaxed) + words;
        wait_until("a connection to go on", PATIENCE, || {
            assert!(!self.thread.is_finished(), "the connection has ended");
            self.words.load(Ordering::Relaxed) >= wanted
        })
        .unwrap();
    }

    /// Ends it; how long the slowest answer took.
    fn end(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn say(stream: &mut TcpStream, word: u64) -> Duration {
    let said = Instant::now();
    let word = word.to_be_bytes();
    stream.write_all(&word).unwrap();
    let mut heard = [0; 12];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard[..8], word);
    said.elapsed()
}

fn state_file(node: &Node) -> PathBuf {
    let mut files = std::fs::read_dir(node.folder().join("state")).unwrap();
    files
        .find_map(|file| {
            let path = file.unwrap().path();
            (path.extension()? == "json").then_some(path)
        })
        .unwrap()
}

/// Ends a node's Net Manager, by a signal that it cannot hear or by one that it can.
fn end(topology: &mut Topology, node: usize, kill: bool) {
    let process = topology.nodes[node].process().unwrap();
    if kill {
        process.kill().unwrap();
    } else {
        let status = process.stop(Duration::from_secs(20)).unwrap();
        assert!(status.success(), "{status}");
    }
}

/// Pitfalls 20 and 24: connections through a Service IP to this node and another, a published port, and ten restarts.
#[test]
fn ten_restarts_under_traffic_cost_no_connection_and_change_nothing() {
    let mut scene = Scene::new(Uplink::Socket, &[0, 1]).unwrap();
    let published = json!({"pid": scene.client.pid(), "serviceName": "trial.test.client.default", "instanceNumber": 0, "portMappings": "8080:80;5353:53/udp"});
    scene.topology.nodes[0]
        .server()
        .post("/container/deploy", &published)
        .unwrap()
        .ok("publishing ports")
        .unwrap();
    let client = scene.topology.nodes[0].server();
    let service = scene.table.service_ip;
    wait_for("the routes", PATIENCE, || {
        let words = scene
            .client
            .namespace()
            .connect(SocketAddr::new(service, CROWD_PORT), Duration::from_secs(1));
        Ok(words.ok().map(drop))
    })
    .unwrap();
    // Turns are taken: two connections find both instances.
    let talks: Vec<Talk> = (0..4)
        .map(|_| Talk::begin(&scene.client, service))
        .collect();
    for talk in &talks {
        talk.goes_on(20);
    }
    let before = machine(&scene.topology.nodes[0]);
    assert!(before.contains("tcp dport 8080"), "{before}");
    let mut slowest = Duration::ZERO;
    for round in 0..10 {
        end(&mut scene.topology, 0, round % 2 == 0);
        let started = Instant::now();
        scene.topology.restart_node(0).unwrap();
        for talk in &talks {
            talk.goes_on(1);
        }
        slowest = slowest.max(started.elapsed());
        wait_for("the node to be up", PATIENCE, || {
            let status = client.get("/status")?.json()?;
            Ok(
                (status["up"] == true && status["containers"].as_array().map(Vec::len) == Some(2))
                    .then_some(()),
            )
        })
        .unwrap();
        assert_eq!(
            machine(&scene.topology.nodes[0]),
            before,
            "after restart {round}"
        );
    }
    let longest = talks.into_iter().map(Talk::end).max().unwrap();
    eprintln!(
        "slowest of ten restarts until all connections went on: {slowest:?}; slowest answer: {longest:?}"
    );
    assert!(slowest < Duration::from_secs(8), "{slowest:?}");
}

/// An older program does not guess at what a newer one wrote: it says so, touches nothing, and the newer one goes on
/// where it was, connections included.
#[test]
fn a_newer_state_file_is_refused_and_the_newer_program_goes_on() {
    let mut scene = Scene::new(Uplink::Socket, &[1]).unwrap();
    let service = scene.table.service_ip;
    let target = SocketAddr::new(service, CROWD_PORT);
    let mut stream = wait_for("the routes", PATIENCE, || {
        Ok(scene
            .client
            .namespace()
            .connect(target, Duration::from_secs(1))
            .ok())
    })
    .unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    say(&mut stream, 1);
    end(&mut scene.topology, 0, false);
    let file = state_file(&scene.topology.nodes[0]);
    let written = std::fs::read_to_string(&file).unwrap();
    let mut newer: Value = serde_json::from_str(&written).unwrap();
    newer["version"] = json!(newer["version"].as_u64().unwrap() + 1);
    newer["containers"] = json!({"of": "another shape"});
    std::fs::write(&file, newer.to_string()).unwrap();
    let before = machine(&scene.topology.nodes[0]);
    let topology = &mut scene.topology;
    assert!(topology.restart_node(0).is_err());
    let process = topology.nodes[0].process().unwrap();
    let status = process.wait(PATIENCE).unwrap();
    assert!(!status.success(), "{status}");
    let words = process.last_words();
    assert!(
        words.contains("newer Net Manager") && words.contains(file.to_str().unwrap()),
        "{words}"
    );
    assert_eq!(machine(&topology.nodes[0]), before);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), newer.to_string());
    std::fs::write(&file, written).unwrap();
    topology.restart_node(0).unwrap();
    say(&mut stream, 2);
}

/// What was being attached when the process was killed is either attached after the restart or not there at all.
#[test]
fn a_kill_in_the_middle_of_a_deploy_leaves_a_whole_container_or_none() {
    let mut topology = Topology::registered(PLAN).unwrap();
    let container = Container::start(topology.run(), &topology.programs, "web", 0).unwrap();
    // What the first container brings for good is no trace.
    topology.nodes[0]
        .deploy(JOB, 0, &container)
        .unwrap()
        .ok("deploying")
        .unwrap();
    topology.nodes[0]
        .undeploy(JOB, 0)
        .unwrap()
        .ok("undeploying")
        .unwrap();
    let before = machine(&topology.nodes[0]);
    let links = container.namespace().ip(&["-brief", "link"]).unwrap();
    for delay in [0, 3, 6, 10, 15, 25, 40, 80] {
        let server = topology.nodes[0].server();
        let body = json!({"pid": container.pid(), "serviceName": JOB, "instanceNumber": 0, "portMappings": "8080:80"});
        let deploy = std::thread::spawn(move || server.post("/container/deploy", &body));
        std::thread::sleep(Duration::from_millis(delay));
        end(&mut topology, 0, true);
        let answered = deploy
            .join()
            .unwrap()
            .is_ok_and(|answer| answer.status == 200);
        topology.restart_node(0).unwrap();
        let node = &topology.nodes[0];
        let status = wait_for("the node to be up", PATIENCE, || {
            let status = node.server().get("/status")?.json()?;
            Ok((status["up"] == true).then_some(status))
        })
        .unwrap();
        let attached = status["containers"].as_array().unwrap().len();
        assert!(attached == 1 || !answered, "answered and lost");
        let rules = node.namespace.command("nft", &["list", "ruleset"]).unwrap();
        assert_eq!(rules.contains("8080"), attached == 1, "{rules}");
        node.undeploy(JOB, 0).unwrap().ok("undeploying").unwrap();
        assert_eq!(machine(node), before, "killed after {delay} ms");
        assert_eq!(
            container.namespace().ip(&["-brief", "link"]).unwrap(),
            links
        );
    }
}

/// Namespaces that vanish while nobody watches are noticed at the start, and told.
#[test]
fn containers_that_end_while_the_net_manager_is_away_are_withdrawn() {
    let mut topology = Topology::registered(PLAN).unwrap();
    let (web, mut instances) = topology.deploy(JOB, &[0, 0]).unwrap();
    topology.wait_running(&[(&web, 2)]).unwrap();
    for kill in [true, false] {
        end(&mut topology, 0, kill);
        instances.pop().unwrap().container.kill().unwrap();
        topology.restart_node(0).unwrap();
        let orchestrator = topology.orchestrator();
        let wanted = instances.len();
        wait_until("the dead instance to be withdrawn", PATIENCE, || {
            orchestrator
                .table(&web)
                .is_ok_and(|table| table.instances.len() == wanted)
        })
        .unwrap();
        let status = topology.nodes[0]
            .server()
            .get("/status")
            .unwrap()
            .json()
            .unwrap();
        assert_eq!(status["containers"].as_array().unwrap().len(), wanted);
    }
}

/// SIGTERM without a container removes everything but the state file; `down --purge` that too, whether the Net Manager
/// runs or not, and gives the subnetwork back.
#[test]
fn leaving_for_good_leaves_nothing() {
    let mut topology = Topology::lay(PLAN).unwrap();
    // Nobody else has turned it on here.
    topology.nodes[0]
        .namespace
        .sysctl("ipv4/ip_forward", "0")
        .unwrap();
    let before = machine(&topology.nodes[0]);
    topology.start().unwrap();
    topology.register().unwrap();
    let flows = |topology: &Topology| -> Vec<String> {
        let state = std::fs::read_dir(topology.nodes[0].folder().join("state")).unwrap();
        state
            .map(|file| file.unwrap().file_name().to_string_lossy().into_owned())
            .collect()
    };
    assert_ne!(machine(&topology.nodes[0]), before);
    end(&mut topology, 0, false);
    assert_eq!(machine(&topology.nodes[0]), before, "SIGTERM");
    assert_eq!(flows(&topology).len(), 1, "the state file stays");
    // It comes back by itself, and a deploy that is too early for it waits.
    topology.restart_node(0).unwrap();
    let purge = |topology: &Topology| {
        let mut arguments = topology.nodes[0].flags();
        arguments.extend(["down".to_owned(), "--purge".to_owned()]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let program = topology.programs.path("NetManager");
        topology.nodes[0]
            .namespace
            .command(program.to_str().unwrap(), &arguments)
            .unwrap();
    };
    for runs in [true, false] {
        let container = Container::start(topology.run(), &topology.programs, "web", 0).unwrap();
        let links = container.namespace().ip(&["-brief", "link"]).unwrap();
        topology.nodes[0]
            .deploy(JOB, 0, &container)
            .unwrap()
            .ok("deploying")
            .unwrap();
        if runs {
            purge(&topology);
            let process = topology.nodes[0].process().unwrap();
            assert!(process.wait(PATIENCE).unwrap().success());
        } else {
            end(&mut topology, 0, true);
            purge(&topology);
        }
        assert_eq!(
            machine(&topology.nodes[0]),
            before,
            "down --purge, running: {runs}"
        );
        assert_eq!(flows(&topology), Vec::<String>::new());
        assert_eq!(
            container.namespace().ip(&["-brief", "link"]).unwrap(),
            links
        );
        if runs {
            topology.restart_node(0).unwrap();
            topology.nodes[0]
                .register()
                .unwrap()
                .ok("registering")
                .unwrap();
        }
    }
}
