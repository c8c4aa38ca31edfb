//! Virtual machines behind `vhost-user` sockets. The emulator is `dpdk-testpmd`: its `net_virtio_user` is the machine's
//! network device, and what comes there goes by `net_af_packet` to a Linux of the machine's own (a network namespace with
//! its addresses). It can be ended and started again while that Linux, and its connections, live on.
#![allow(clippy::unwrap_used, clippy::panic)] // In a test both are assertions, in its own functions too.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use journeys::container::Container;
use journeys::deadline::wait_until;
use journeys::measure::{BULK_PORT, ECHO_PORT, HTTP_PORT, Observer};
use journeys::node::{Node, Uplink};
use journeys::process::Process;
use journeys::scene::Scene;
use journeys::topology::{Plan, Topology};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(100);
const JOB: &str = "trial.test.machine.default";
/// What the host publishes for the machine's port 80.
const PUBLISHED: u16 = 8088;
/// Stands for the group of an emulator that is not root's.
const GROUP: u32 = 4711;

/// Sockets of each node in its own folder.
fn prepare(nodes: &mut [Node]) -> anyhow::Result<()> {
    for node in nodes {
        let folder = node.folder().join("vhost");
        node.configure(|settings| {
            settings["VhostFolder"] = json!(folder);
            settings["VhostGroup"] = json!(GROUP.to_string());
        })?;
    }
    Ok(())
}

fn request(instance: u32, ports: &str) -> Value {
    json!({"pid": 0, "serviceName": JOB, "instanceNumber": instance, "portMappings": ports, "vhostUser": true})
}

fn deploy(node: &Node, instance: u32, ports: &str) -> Value {
    let answer = node
        .server()
        .post("/unikernel/deploy", &request(instance, ports))
        .unwrap();
    answer.ok("deploying a machine").unwrap().json().unwrap()
}

fn undeploy(node: &Node, instance: u32) {
    let body = json!({"pid": -1, "serviceName": JOB, "instanceNumber": instance});
    let answer = node.server().post("/unikernel/undeploy", &body).unwrap();
    answer.ok("undeploying").unwrap();
}

fn status(node: &Node) -> Value {
    node.server().get("/status").unwrap().json().unwrap()
}

/// A machine: where its emulator runs, and its Linux.
struct Machine {
    linux: Container,
    emulator: Container,
    socket: String,
    mac: String,
    run: Option<Process>,
}

impl Machine {
    /// Gives it the addresses of the deploy's answer.
    fn new(scene: &Scene, deployed: &Value) -> Machine {
        let (run, programs) = (scene.topology.run(), &scene.topology.programs);
        let linux = Container::start(run, programs, "machine", 0).unwrap();
        let emulator = Container::idle(run, programs, "emulator").unwrap();
        let tell = &deployed["vhostUser"];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (inside, outside) = (linux.namespace(), emulator.namespace());
        let mac = text(&tell["mac"]);
        let ip = |words: String| {
            let words: Vec<&str> = words.split(' ').collect();
            inside.ip(&words).unwrap();
        };
        ip(format!(
            "link add name eth0 address {mac} type veth peer name wire0 netns {}",
            emulator.pid()
        ));
        let off = ["-K", "eth0", "tx", "off", "tso", "off", "gso", "off"];
        inside.command("ethtool", &off).unwrap();
        ip(format!("link set eth0 mtu {} up", tell["mtu"]));
        ip(format!(
            "address add {}/{} dev eth0",
            text(&deployed["nsAddress"]),
            tell["prefix"]
        ));
        ip(format!(
            "address add {}/{} dev eth0 nodad",
            text(&deployed["nsAddressv6"]),
            tell["prefixv6"]
        ));
        ip(format!("route add default via {}", text(&tell["gateway"])));
        ip(format!(
            "-6 route add default via {}",
            text(&tell["gatewayv6"])
        ));
        outside.sysctl("ipv6/conf/wire0/disable_ipv6", "1").unwrap();
        outside.ip(&["link", "set", "wire0", "up"]).unwrap();
        Machine {
            linux,
            emulator,
            socket: text(&tell["socket"]),
            mac,
            run: None,
        }
    }

    /// Starts the emulator, which connects to the socket.
    fn connect(&mut self, scene: &Scene) {
        let prefix = format!("{}-vm", scene.topology.run().id());
        let device = format!("net_virtio_user0,path={},mac={}", self.socket, self.mac);
        let launch = self
            .emulator
            .launch("testpmd", Path::new("dpdk-testpmd"))
            .args(["--no-pci", "--no-huge", "-m", "256", "--no-telemetry"])
            .args(["--lcores", "0@0,1@(0,1)", "--file-prefix", &prefix])
            .args(["--vdev", &device, "--vdev", "net_af_packet0,iface=wire0"])
            .args(["--", "--auto-start", "--forward-mode=io"])
            .args(["--total-num-mbufs=16384", "--port-topology=paired"]);
        self.run = Some(launch.start(scene.topology.run()).unwrap());
    }

    /// Ends the emulator; its Linux lives on.
    fn disconnect(&mut self) {
        if let Some(mut emulator) = self.run.take() {
            emulator.kill().unwrap();
        }
    }

    fn observer<'a>(&'a mut self, topology: &'a Topology) -> Observer<'a> {
        Observer {
            container: &mut self.linux,
            run: topology.run(),
            programs: &topology.programs,
        }
    }
}

/// Whether a machine is connected to the port; nothing where there is no such port.
fn connected(node: &Node) -> Option<bool> {
    let status = status(node);
    let mut containers = status["containers"].as_array()?.iter();
    containers.find_map(|container| container["vhost_user"]["connected"].as_bool())
}

#[test]
fn a_machine_behind_a_socket_takes_part_over_restarts_until_it_is_undeployed() {
    let mut scene = Scene::with(Uplink::Socket, &[0, 1], prepare).unwrap();
    let (service, _) = scene.topology.deploy(JOB, &[]).unwrap();
    scene
        .topology
        .orchestrator()
        .deploy_instance(&service, 0)
        .unwrap();
    let links = |scene: &Scene| {
        let inside = &scene.topology.nodes[1].namespace;
        inside.ip(&["-o", "link"]).unwrap().lines().count()
    };
    let before = links(&scene);
    let deployed = deploy(&scene.topology.nodes[1], 0, &format!("{PUBLISHED}:80"));
    assert_eq!(links(&scene), before, "no interface of the kernel is made");
    let socket = deployed["vhostUser"]["socket"].as_str().unwrap().to_owned();
    let folder = scene.topology.nodes[1].folder().join("vhost");
    assert!(Path::new(&socket).starts_with(&folder), "{deployed}");
    let metadata = std::fs::metadata(&socket).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o660, GROUP));
    assert_eq!(connected(&scene.topology.nodes[1]), Some(false));

    let mut machine = Machine::new(&scene, &deployed);
    machine.connect(&scene);
    let mut tables = scene.topology.wait_running(&[(&service, 1)]).unwrap();
    let table = tables.remove(0);
    wait_until("the machine answers", PATIENCE, || {
        let answers = scene.observer().requests(table.service_ip, 1);
        answers.is_ok_and(|answers| answers.failures == 0)
    })
    .unwrap();
    assert_eq!(connected(&scene.topology.nodes[1]), Some(true));

    // To it, from another node: connections, whole streams of segments, datagrams, echoes.
    for service_ip in [table.service_ip, table.service_ip_v6] {
        let answers = scene.observer().requests(service_ip, 20).unwrap();
        assert_eq!((answers.requests, answers.failures), (20, 0), "{answers:?}");
        scene.transfer(service_ip, 3_000_000).unwrap();
        scene
            .echo(service_ip, ECHO_PORT, &["--to", "1400"])
            .unwrap();
        scene.observer().ping(service_ip, 3, SOON).unwrap();
    }
    let instance = table.instances[0].clone();
    for address in [
        instance.instance_ip,
        instance.instance_ip_v6,
        instance.namespace_ip,
    ] {
        scene.observer().ping(address, 3, SOON).unwrap();
    }
    // From it, to instances beside it and away, as the instance's own address.
    for web in [scene.table.service_ip, scene.table.service_ip_v6] {
        let mut inside = machine.observer(&scene.topology);
        let answers = inside.requests(web, 20).unwrap();
        assert_eq!((answers.requests, answers.failures), (20, 0), "{answers:?}");
        assert_eq!(answers.per_instance.len(), 2, "{answers:?}");
        let target = SocketAddr::new(web, BULK_PORT).to_string();
        let words = ["--target", &target, "--bytes", "3000000"];
        let report = inside.workload("transfer", &words, 120).unwrap();
        assert_eq!(report["bytes"], 3_000_000);
        inside.ping(web, 3, SOON).unwrap();
    }
    // Another's address is not its own.
    let space = machine.linux.namespace();
    let [a, b, c, _] = {
        let own = deployed["nsAddress"].as_str().unwrap();
        own.parse::<std::net::Ipv4Addr>().unwrap().octets()
    };
    let forged = format!("{a}.{b}.{c}.60");
    space
        .ip(&["address", "add", &format!("{forged}/32"), "dev", "eth0"])
        .unwrap();
    let web = scene.table.service_ip.to_string();
    let ping = ["-n", "-c", "2", "-W", "1", "-I", &forged, &web];
    assert!(space.command("ping", &ping).is_err());
    let spoofed = &status(&scene.topology.nodes[1])["dataplane"]["drops"]["spoofed_source"];
    assert!(spoofed.as_u64().unwrap_or(0) >= 2, "{spoofed}");
    space
        .ip(&["address", "del", &format!("{forged}/32"), "dev", "eth0"])
        .unwrap();
    // Its published port, from outside.
    let [first, second] = scene.topology.nodes.as_slice() else {
        panic!()
    };
    let published = SocketAddr::new(second.underlay.into(), PUBLISHED);
    first.namespace.connect(published, PATIENCE).unwrap();
    // What is seen of it.
    let metrics = second.server().get("/metrics").unwrap().body;
    let named = |name: &str| {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines
            .filter(|line| line.contains("net_vhost_"))
            .any(|line| !line.ends_with(" 0"))
    };
    assert!(named("netmanager_device_up") && named("netmanager_container_sent_packets_total"));
    let ask = |command: &str| {
        let program = scene.topology.programs.path("NetManager");
        let flags = second.flags();
        let mut words: Vec<&str> = flags.iter().map(String::as_str).collect();
        words.push(command);
        let said = second.namespace.command(program.to_str().unwrap(), &words);
        // `doctor` fails where anything is wrong, in these namespaces the clock or the disk, too.
        said.unwrap_or_else(|error| error.to_string())
    };
    let said = ask("status");
    assert!(
        said.contains("vhost-user") && said.contains(&socket),
        "{said}"
    );
    let said = ask("doctor");
    assert!(said.contains("1 machines are connected"), "{said}");

    // A Net Manager that dies: the port is there again, by the same socket, and so are the machine's connections.
    let mut open = space
        .connect(SocketAddr::new(scene.table.service_ip, HTTP_PORT), PATIENCE)
        .unwrap();
    open.set_read_timeout(Some(PATIENCE)).unwrap();
    scene.topology.nodes[1].process().unwrap().kill().unwrap();
    machine.disconnect();
    scene.topology.restart_node(1).unwrap();
    wait_until("the port is there again", PATIENCE, || {
        connected(&scene.topology.nodes[1]) == Some(false)
    })
    .unwrap();
    let metadata = std::fs::metadata(&socket).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o660, GROUP));
    machine.connect(&scene);
    wait_until("the machine is there again", PATIENCE, || {
        let answers = scene.observer().requests(table.service_ip, 1);
        answers.is_ok_and(|answers| answers.failures == 0)
    })
    .unwrap();
    open.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1."), "{answer}");

    // Deployed again under a machine that is connected: the same socket, another address.
    let again = deploy(&scene.topology.nodes[1], 0, "");
    assert_eq!(again["vhostUser"]["socket"], socket);
    assert_eq!(again["vhostUser"]["mac"], deployed["vhostUser"]["mac"]);
    assert_ne!(
        again["nsAddress"], deployed["nsAddress"],
        "an address rests"
    );
    // And it goes with all that was made for it.
    let node = &scene.topology.nodes[1];
    undeploy(node, 0);
    assert!(!Path::new(&socket).exists());
    assert_eq!(
        status(node)["containers"].as_array().unwrap().len(),
        1,
        "the other stays"
    );
    assert_eq!(status(node)["dataplane"]["devices"], json!([]));
    deploy(node, 0, "");
    node.server().post("/down", &json!({})).unwrap();
    assert!(!folder.exists(), "nothing is left after down --purge");
}

#[test]
fn one_machine_too_many_is_refused_with_a_remedy_and_leaves_nothing() {
    let plan = Plan {
        nodes: 1,
        uplink: Uplink::Socket,
    };
    let topology = Topology::registered_with(plan, prepare).unwrap();
    let node = &topology.nodes[0];
    for instance in 0..32 {
        deploy(node, instance, "");
    }
    let sockets = || {
        std::fs::read_dir(node.folder().join("vhost"))
            .unwrap()
            .count()
    };
    assert_eq!(sockets(), 32);
    let refused = node
        .server()
        .post("/unikernel/deploy", &request(32, "8080:80"))
        .unwrap();
    assert_eq!(refused.status, 500);
    let said = refused.body.clone();
    assert!(
        said.contains("built for 32") && said.contains("another node"),
        "{said}"
    );
    assert_eq!(sockets(), 32);
    assert_eq!(status(node)["containers"].as_array().unwrap().len(), 32);
    // With one gone there is room again, also for the port mapping that the refused one had asked for.
    undeploy(node, 7);
    deploy(node, 32, "8080:80");
    assert_eq!(sockets(), 32);
}
