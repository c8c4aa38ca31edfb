//! Seeing what packets do: captures of every kind of port, read back by another program, and traces that say why.
#![allow(clippy::unwrap_used, clippy::panic)] // In a test they are assertions, in its own functions too.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use journeys::container::Container;
use journeys::deadline::wait_until;
use journeys::measure::{BULK_PORT, Observer};
use journeys::namespace::Namespace;
use journeys::node::{Node, TUNNEL_PORT, Uplink};
use journeys::orchestrator::Place;
use journeys::process::{Launch, Process};
use journeys::run::{Run, Stage};
use journeys::services::Programs;
use journeys::topology::{Plan, Topology};
use nix::sys::signal::Signal;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

/// A client on the first node, its service on the second.
struct Scene {
    client: Container,
    own: Place,
    service: IpAddr,
    server: Place,
    tools: u32,
    topology: Topology,
}

impl Scene {
    fn new(uplink: Uplink) -> Scene {
        let mut topology = Topology::registered(Plan { nodes: 2, uplink }).unwrap();
        let (web, _) = topology.deploy("seen.test.web.default", &[1]).unwrap();
        let (own, client) = topology
            .deploy_client("seen.test.client.default", 0)
            .unwrap();
        let tables = topology.wait_running(&[(&web, 1), (&own, 1)]).unwrap();
        let mut scene = Scene {
            client: client.container,
            own: tables[1].instances[0].clone(),
            service: tables[0].service_ip,
            server: tables[0].instances[0].clone(),
            tools: 0,
            topology,
        };
        // Routes are known: nothing waits for the cluster any more.
        scene.request();
        scene
    }

    fn observer(&mut self) -> Observer<'_> {
        Observer {
            container: &mut self.client,
            run: self.topology.run(),
            programs: &self.topology.programs,
        }
    }

    fn request(&mut self) {
        let service = self.service;
        let spread = self.observer().requests(service, 1).unwrap();
        assert_eq!(spread.failures, 0, "{spread:?}");
    }

    /// Starts a `NetManager` command on a node.
    fn start(&mut self, node: usize, arguments: &[&str]) -> Process {
        self.tools += 1;
        let at = &self.topology.nodes[node];
        Launch::new(
            &format!("tool{}", self.tools),
            &self.topology.programs.path("NetManager"),
            &at.namespace,
            Stage::Workload,
        )
        .args(arguments.iter().copied())
        .args(at.flags())
        .start(self.topology.run())
        .unwrap()
    }

    /// Starts one that sees from the moment that this returns.
    fn seeing(&mut self, node: usize, arguments: &[&str]) -> Process {
        let mut process = self.start(node, arguments);
        wait_until("it begins to see", PATIENCE, || {
            process.check_running().unwrap();
            process.last_words().contains("Ctrl-C")
        })
        .unwrap();
        process
    }

    fn file(&self, name: &str) -> PathBuf {
        self.topology.run().folder().join(name)
    }

    /// The node's port that the client is behind.
    fn client_port(&self) -> String {
        let answer = self.topology.nodes[0].server().get("/status").unwrap();
        let status = answer.json().unwrap();
        let containers = status["containers"].as_array().unwrap().clone();
        let of = |c: &&Value| c["job"] == "seen.test.client.default";
        let found = containers.iter().find(of).unwrap();
        found["interface"].as_str().unwrap().to_owned()
    }
}

fn interrupt(mut process: Process) -> String {
    process.signal(Signal::SIGINT).unwrap();
    let status = process.wait(PATIENCE).unwrap();
    assert!(status.success(), "{status}: {}", process.last_words());
    process.last_words()
}

/// One packet, as `tshark` reads it.
#[derive(Debug)]
struct Seen {
    interface: String,
    outgoing: bool,
    source: String,
    destination: String,
    /// The outermost ports, of TCP or UDP.
    ports: String,
    length: usize,
    kept: usize,
    time: f64,
    comment: String,
}

fn read(file: &Path) -> Vec<Seen> {
    let fields = [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "ip.src",
        "ip.dst",
        "tcp.dstport",
        "udp.dstport",
        "frame.len",
        "frame.cap_len",
        "frame.time_epoch",
        "frame.comment",
    ];
    let mut command = std::process::Command::new("tshark");
    command.args(["-n", "-T", "fields", "-E", "separator=|", "-r"]);
    command.arg(file);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !errors.contains("appears to have been cut short"),
        "{errors}"
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let seen = text.lines().map(|line| {
        let at: Vec<&str> = line.split('|').collect();
        Seen {
            interface: at[0].to_owned(),
            outgoing: at[1].ends_with('2'),
            source: at[2].to_owned(),
            destination: at[3].to_owned(),
            ports: format!("{}{}", at[4], at[5]),
            length: at[6].parse().unwrap(),
            kept: at[7].parse().unwrap(),
            time: at[8].parse().unwrap(),
            comment: at[9].to_owned(),
        }
    });
    seen.collect()
}

fn every_port_is_seen(uplink: Uplink) {
    let mut scene = Scene::new(uplink);
    let client_port = scene.client_port();
    let file = scene.file("all.pcapng");
    let name = file.to_string_lossy().into_owned();
    let capture = scene.seeing(0, &["capture", "--write", &name]);
    // A second one is told, and spoils nothing.
    let mut second = scene.start(0, &["capture", "--count", "1", "--write", "second.pcapng"]);
    assert!(!second.wait(PATIENCE).unwrap().success());
    assert!(
        second.last_words().contains("under way already"),
        "{}",
        second.last_words()
    );
    assert!(!scene.file("second.pcapng").exists());

    scene.request();
    let own = scene.own.namespace_ip.to_string();
    let gateway = scene.topology.nodes[0].namespace.clone();
    gateway
        .command("ping", &["-c", "1", "-W", "5", &own])
        .unwrap();
    // What passed last is there, too.
    wait_until("the answer to the ping is written", PATIENCE, || {
        let of = |s: &Seen| s.interface == "oak0" && s.outgoing && s.source == own;
        read(&file).iter().any(of)
    })
    .unwrap();
    let words = interrupt(capture);
    let seen = read(&file);
    assert!(
        words.contains(&format!("{} packets captured, 0 not", seen.len())),
        "{words}"
    );

    let service = scene.service.to_string();
    let (from, to) = (
        scene.own.instance_ip.to_string(),
        scene.server.namespace_ip.to_string(),
    );
    let find = |interface: &str, outgoing: bool, source: &str, destination: &str| {
        let found = seen.iter().find(|s| {
            s.interface == interface
                && s.outgoing == outgoing
                && s.source == source
                && s.destination == destination
        });
        found.unwrap_or_else(|| {
            panic!("{interface} {outgoing} {source} -> {destination} is not in {seen:#?}")
        })
    };
    find(&client_port, false, &own, &service);
    find(&client_port, true, &service, &own);
    let node = |n: usize| scene.topology.nodes[n].underlay.to_string();
    match uplink {
        Uplink::Socket => {
            let interface = format!("udp port {TUNNEL_PORT}");
            let out = find(&interface, true, &from, &to);
            assert_eq!(out.comment, format!("to node {}:{TUNNEL_PORT}", node(1)));
            let (d_instance, c) = (scene.server.instance_ip.to_string(), own.clone());
            let back = find(&interface, false, &d_instance, &c);
            assert!(back.comment.starts_with(&format!("from node {}", node(1))));
        }
        Uplink::AfPacket | Uplink::AfXdp | Uplink::Whole(_) => {
            for (outgoing, a, b) in [(true, 0, 1), (false, 1, 0)] {
                let outer = find("underlay0", outgoing, &node(a), &node(b));
                assert_eq!(outer.ports, TUNNEL_PORT.to_string());
            }
        }
    }
    // The node itself: the ping, and its answer.
    let host: Vec<&Seen> = seen.iter().filter(|s| s.interface == "oak0").collect();
    let ping = host.iter().find(|s| !s.outgoing && s.destination == own);
    let pong = host.iter().find(|s| s.outgoing && s.source == own);
    assert!(ping.is_some() && pong.is_some(), "{host:#?}");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    for packet in &seen {
        assert!((now - packet.time).abs() < 600.0, "{packet:?}");
        assert_eq!(packet.length, packet.kept);
    }
    let pair = (ping.unwrap().time, pong.unwrap().time);
    assert!(pair.0 <= pair.1 && pair.1 - pair.0 < 5.0, "{pair:?}");
}

#[test]
fn every_port_is_seen_over_udp_sockets() {
    every_port_is_seen(Uplink::Socket);
}

#[test]
fn every_port_is_seen_over_af_packet() {
    every_port_is_seen(Uplink::AfPacket);
}

#[test]
fn a_capture_is_of_one_port_of_so_many_packets_and_bytes() {
    let mut scene = Scene::new(Uplink::Socket);
    let port = scene.client_port();
    let file = scene.file("some.pcapng");
    let name = file.to_string_lossy().into_owned();
    let wanted = ["--port", &port, "--count", "300", "--snaplen", "96"];
    let mut capture = scene.seeing(0, &[&["capture", "--write", &name][..], &wanted].concat());
    let target = SocketAddr::new(scene.service, BULK_PORT).to_string();
    let arguments = ["--target", &target, "--bytes", "20000000"];
    scene
        .observer()
        .workload("transfer", &arguments, 120)
        .unwrap();
    assert!(capture.wait(PATIENCE).unwrap().success());
    let seen = read(&file);
    assert_eq!(seen.len(), 300);
    assert!(seen.iter().all(|s| s.interface == port && s.kept <= 96));
    let longest = seen.iter().map(|s| s.length).max().unwrap();
    assert!(
        longest > 20_000,
        "a large segment shows its true length: {longest}"
    );

    let mut unknown = scene.start(0, &["capture", "--port", "nope0", "--write", "x.pcapng"]);
    assert!(!unknown.wait(PATIENCE).unwrap().success());
    let words = unknown.last_words();
    assert!(words.contains("nope0") && words.contains(&port), "{words}");
}

#[test]
fn whoever_stops_reading_ends_the_capture() {
    let mut scene = Scene::new(Uplink::Socket);
    // Standard output is a file here, so a reader that goes is a process that is killed: with packets, and without.
    for busy in [true, false] {
        let mut capture = scene.seeing(0, &["capture", "--port", "uplink"]);
        if busy {
            scene.request();
        }
        capture.kill().unwrap();
        wait_until("another may begin", PATIENCE, || {
            let mut next = scene.start(0, &["capture", "--port", "uplink", "--count", "1"]);
            let begun = || next.last_words().contains("Ctrl-C");
            let begins = wait_until("it begins", Duration::from_secs(2), begun).is_ok();
            next.kill().unwrap();
            begins
        })
        .unwrap();
    }
    // And one whose output breaks ends without a complaint.
    let node = &scene.topology.nodes[0];
    let manager = scene.topology.programs.path("NetManager");
    let command = format!(
        "{} capture {} | head -c 20 | wc -c",
        manager.display(),
        node.flags().join(" ")
    );
    let mut piped = Launch::new("piped", Path::new("sh"), &node.namespace, Stage::Workload)
        .args(["-c", &command])
        .start(scene.topology.run())
        .unwrap();
    wait_until("the reader has gone", PATIENCE, || {
        scene.request();
        piped.wait(Duration::from_millis(200)).is_ok()
    })
    .unwrap();
    assert_eq!(piped.output().unwrap().trim(), "20");
    assert!(
        !piped.last_words().contains("NetManager:"),
        "{}",
        piped.last_words()
    );
    // The node ends although someone looks on.
    let _capture = scene.seeing(0, &["capture", "--port", "host"]);
    let node = scene.topology.nodes[0].process().unwrap();
    node.stop(PATIENCE).unwrap();
}

fn steps(process: &Process) -> Vec<Value> {
    process
        .output()
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn step<'a>(steps: &'a [Value], packet: u64, name: &str) -> &'a Value {
    let found = steps
        .iter()
        .find(|s| s["packet"] == packet && s["step"] == name);
    found.unwrap_or_else(|| panic!("packet {packet} has no step {name}: {steps:#?}"))
}

fn a_request_is_explained(uplink: Uplink) {
    let mut scene = Scene::new(uplink);
    let service = scene.service.to_string();
    let from = scene.own.instance_ip.to_string();
    let client_port = scene.client_port();
    let near = scene.seeing(0, &["trace", "--json", "--dst", &service, "--proto", "tcp"]);
    let far = scene.seeing(1, &["trace", "--json", "--src", &from, "--dport", "80"]);
    scene.request();
    let told = |near: &Process| steps(near).iter().any(|s| s["step"] == "restored");
    wait_until("both tell", PATIENCE, || {
        told(&near) && steps(&far).len() >= 4
    })
    .unwrap();
    interrupt_quietly(&near);
    interrupt_quietly(&far);

    let steps_here = steps(&near);
    let arrived = step(&steps_here, 1, "arrived");
    assert_eq!(arrived["port"], client_port.as_str());
    assert_eq!(arrived["destination"], service.as_str());
    let picked = step(&steps_here, 1, "picked");
    assert_eq!(picked["policy"], "rr");
    assert_eq!(picked["backend"]["job"], "seen.test.web.default");
    assert_eq!(picked["backend"]["instance"], 0);
    let peer = format!("{}:{TUNNEL_PORT}", scene.topology.nodes[1].underlay);
    assert_eq!(picked["backend"]["via"], peer.as_str());
    let rewritten = step(&steps_here, 1, "rewritten");
    let to = scene.server.namespace_ip.to_string();
    assert_eq!(
        (&rewritten["source"], &rewritten["destination"]),
        (&Value::from(from.as_str()), &Value::from(to.as_str()))
    );
    assert_eq!(step(&steps_here, 1, "sent")["peer"], peer.as_str());
    // The answer, and where it went.
    let restored = steps_here.iter().find(|s| s["step"] == "restored").unwrap();
    assert_eq!(restored["source"], service.as_str());
    let answer = restored["packet"].as_u64().unwrap();
    assert_eq!(
        step(&steps_here, answer, "sent")["port"],
        client_port.as_str()
    );
    assert_eq!(step(&steps_here, answer, "arrived")["port"], "uplink");

    // The other node: it came through the tunnel and went to the server; the answer back to the Instance IP.
    let there = steps(&far);
    let arrived = step(&there, 1, "arrived");
    assert_eq!(arrived["port"], "uplink");
    assert_eq!(arrived["destination"], to.as_str());
    let server_port = step(&there, 1, "sent")["port"].clone();
    let routed = there.iter().find(|s| s["step"] == "routed").unwrap();
    assert_eq!(routed["backend"]["job"], "seen.test.client.default");
    let answer = routed["packet"].as_u64().unwrap();
    assert_eq!(step(&there, answer, "arrived")["port"], server_port);
}

fn interrupt_quietly(process: &Process) {
    process.signal(Signal::SIGINT).unwrap();
}

#[test]
fn a_request_is_explained_over_udp_sockets() {
    a_request_is_explained(Uplink::Socket);
}

#[test]
fn a_request_is_explained_over_af_packet() {
    a_request_is_explained(Uplink::AfPacket);
}

#[test]
fn a_trace_in_words_ends_after_so_many_packets_and_says_why_one_was_dropped() {
    let mut scene = Scene::new(Uplink::Socket);
    let nowhere = "10.30.200.200";
    let mut trace = scene.seeing(0, &["trace", "--dst", nowhere, "--count", "1"]);
    let namespace = scene.client.namespace();
    // It fails, which is the point.
    let _ = namespace.command("ping", &["-c", "1", "-W", "4", nowhere]);
    assert!(trace.wait(PATIENCE).unwrap().success());
    let words = trace.output().unwrap();
    for part in ["#1 ", "arrived", "ICMP", "dropped"] {
        assert!(words.contains(part), "{part} is not in:\n{words}");
    }
}

/// Hugepages of this test, given back with this value.
struct Hugepages;

impl Hugepages {
    const COUNT: usize = 128;
    const FILE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

    fn reserved() -> usize {
        let text = std::fs::read_to_string(Self::FILE).unwrap();
        text.trim().parse().unwrap()
    }

    fn reserve() -> Hugepages {
        let wanted = Self::reserved() + Self::COUNT;
        std::fs::write(Self::FILE, wanted.to_string()).unwrap();
        let pages = Hugepages;
        assert!(
            Self::reserved() >= wanted,
            "the kernel finds no room for {wanted} hugepages"
        );
        pages
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        let left = Self::reserved().saturating_sub(Self::COUNT);
        let _ = std::fs::write(Self::FILE, left.to_string());
    }
}

/// DPDK's own tool sees an ethdev uplink's frames where packet memory is hugepages.
#[test]
fn dpdk_dumpcap_captures_an_ethdev_uplink() {
    let _pages = Hugepages::reserve();
    let run = Run::new().unwrap();
    let programs = Programs::find().unwrap();
    let space = Namespace::create(&run, "huge").unwrap();
    space
        .ip(&[
            "link",
            "add",
            "underlay0",
            "type",
            "veth",
            "peer",
            "name",
            "other0",
        ])
        .unwrap();
    for end in ["underlay0", "other0"] {
        // A new link's own IPv6 chatter could be all that is captured.
        let key = format!("ipv6/conf/{end}/disable_ipv6");
        space.sysctl(&key, "1").unwrap();
    }
    for command in [
        "addr add 192.0.2.1/24 dev underlay0",
        "link set underlay0 up",
        "link set other0 up",
        "route add default via 192.0.2.2",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        space.ip(&words).unwrap();
    }
    let broker = "198.51.100.3".parse().unwrap();
    let underlay = "192.0.2.1".parse().unwrap();
    let node = Node::prepare(
        &run,
        "huge1",
        space.clone(),
        underlay,
        Uplink::AfPacket,
        broker,
    );
    let node = node.unwrap();
    // Mounted for this node and its tools alone: no other finds these pages.
    let mount = node.folder().join("hugepages");
    std::fs::create_dir(&mount).unwrap();
    let manager = programs.path("NetManager").display().to_string();
    let script = format!(
        "mount -t hugetlbfs -o pagesize=2M none {} && exec {manager} {} run --uplink af_packet",
        mount.display(),
        node.flags().join(" ")
    );
    let mut process = Launch::new("huge1", Path::new("unshare"), &space, Stage::Node)
        .args(["--mount", "sh", "-c", &script])
        .start(&run)
        .unwrap();
    wait_until("the node answers", PATIENCE, || {
        process.check_running().unwrap();
        node.server().get("/status").is_ok()
    })
    .unwrap();
    let status = node.server().get("/status").unwrap().json().unwrap();
    assert!(
        status["dataplane"]["memory"]
            .as_str()
            .unwrap()
            .starts_with("hugepages"),
        "{status}"
    );
    let prefix = format!(
        "--file-prefix=oakestra-{}",
        status["instance"].as_str().unwrap()
    );
    let file = node.folder().join("dumped.pcapng").display().to_string();
    let pid = process.pid().to_string();
    let arguments = ["--mount", "--net", "-t", &pid, "dpdk-dumpcap", &prefix];
    let mut dump = Launch::new(
        "dumpcap",
        Path::new("nsenter"),
        &Namespace::Own,
        Stage::Workload,
    )
    .args(arguments)
    .args(["-i", "net_af_packet0", "-c", "3", "-w", &file])
    .start(&run)
    .unwrap();
    wait_until("three frames are captured", PATIENCE, || {
        // Asks for a neighbour that is not there, by broadcast.
        let _ = space.command("ping", &["-c", "1", "-W", "1", "192.0.2.2"]);
        dump.wait(Duration::from_millis(100)).is_ok()
    })
    .unwrap();
    assert!(
        dump.wait(PATIENCE).unwrap().success(),
        "{}",
        dump.last_words()
    );
    let read = std::process::Command::new("tshark")
        .args(["-n", "-r", &file, "-Y", "arp.dst.proto_ipv4 == 192.0.2.2"])
        .output()
        .unwrap();
    assert!(!read.stdout.is_empty(), "{read:?}");
    process.stop(PATIENCE).unwrap();
    let traces = Path::new("/var/run/dpdk").join(prefix.trim_start_matches("--file-prefix="));
    assert!(
        !traces.exists(),
        "the node leaves {} behind",
        traces.display()
    );
    run.close().unwrap();
}
