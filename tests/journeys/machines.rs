//! A unikernel's machine: what its emulator does with `tap0`, done by hand. Behind it is a Linux of its own (a network
//! namespace with the machine's address), so that its packets are a real machine's, without any offload.
#![allow(clippy::unwrap_used, clippy::panic)] // In a test both are assertions, in its own functions too.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use journeys::container::Container;
use journeys::deadline::{wait_for, wait_until};
use journeys::measure::{BULK_PORT, ECHO_PORT, Observer};
use journeys::node::Uplink;
use journeys::process::Process;
use journeys::scene::Scene;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(100);
/// What the host publishes for the machine's port 80.
const PUBLISHED: u16 = 8088;

/// Opens `tap0` in the namespace as an emulator does, and carries frames between it and a tap of the same kind where it
/// was started: the machine's own interface.
const CABLE: &str = r#"
import ctypes, fcntl, os, select, struct, subprocess, sys
def tap(name):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name, 0x0002 | 0x1000))  # TUNSETIFF: IFF_TAP, IFF_NO_PI
    return fd
machine = tap(b"eth0")
for words in ["address add 192.168.1.2/30 dev eth0", "link set eth0 up", "route add default via 192.168.1.1"]:
    subprocess.check_call(["ip"] + words.split())
libc = ctypes.CDLL(None, use_errno=True)
if libc.setns(os.open(sys.argv[1], os.O_RDONLY), 0x40000000) != 0:
    raise OSError(ctypes.get_errno(), "setns")
host = tap(b"tap0")
print("plugged", flush=True)
while True:
    ready, _, _ = select.select([machine, host], [], [])
    for fd in ready:
        try:
            os.write(host if fd == machine else machine, os.read(fd, 65536))
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
            if error.errno == 77:  # EBADFD: the namespace, and with it the tap, is gone
                sys.exit(0)
"#;

fn plug(guest: &mut Container, scene: &Scene, namespace: &str) -> Process {
    let mut cable = guest
        .launch("cable", Path::new("/usr/bin/python3"))
        .args(["-c", CABLE, &format!("/run/netns/{namespace}")])
        .start(scene.topology.run())
        .unwrap();
    wait_for("the machine's cable", PATIENCE, || {
        cable.check_running()?;
        Ok(cable.output()?.contains("plugged").then_some(()))
    })
    .unwrap();
    cable
}

fn deploy(scene: &Scene, job: &str) -> Value {
    let body = json!({"pid": 0, "serviceName": job, "instanceNumber": 0, "portMappings": format!("{PUBLISHED}:80")});
    let node = &scene.topology.nodes[1];
    let answer = node.server().post("/unikernel/deploy", &body).unwrap();
    answer.ok("deploying a unikernel").unwrap().json().unwrap()
}

fn namespaces() -> String {
    journeys::namespace::ip(&["netns", "list"]).unwrap()
}

#[test]
fn a_machine_behind_the_tap_serves_and_dials_like_a_container() {
    let mut scene = Scene::new(Uplink::Socket, &[0]).unwrap();
    // Names of network namespaces are the whole machine's.
    let job = format!(
        "vm{}.{}.{}.default",
        std::process::id(),
        "n".repeat(30),
        "s".repeat(30)
    );
    let name = format!("{job}.instance.0");
    let (service, _) = scene.topology.deploy(&job, &[]).unwrap();
    scene
        .topology
        .orchestrator()
        .deploy_instance(&service, 0)
        .unwrap();
    let deployed = deploy(&scene, &job);
    assert!(
        deployed["nsAddress"]
            .as_str()
            .unwrap()
            .starts_with("10.18.0."),
        "{deployed}"
    );
    assert!(
        deployed["nsAddressv6"]
            .as_str()
            .unwrap()
            .starts_with("fc00::"),
        "{deployed}"
    );
    let (run, programs) = (scene.topology.run(), &scene.topology.programs);
    let mut guest = Container::start(run, programs, "machine", 0).unwrap();
    let cable = plug(&mut guest, &scene, &name);
    let mut tables = scene.topology.wait_running(&[(&service, 1)]).unwrap();
    let table = tables.remove(0);

    // To it, from another node: connections, whole streams of segments, datagrams, echoes.
    let answers = scene.observer().requests(table.service_ip, 20).unwrap();
    assert_eq!((answers.requests, answers.failures), (20, 0), "{answers:?}");
    scene.transfer(table.service_ip, 5_000_000).unwrap();
    scene
        .echo(table.service_ip, ECHO_PORT, &["--to", "1400"])
        .unwrap();
    let instance = table.instances[0].clone();
    for address in [
        table.service_ip,
        instance.instance_ip,
        instance.namespace_ip,
    ] {
        scene.observer().ping(address, 3, SOON).unwrap();
    }
    // The IPv6 address is its namespace's.
    scene
        .observer()
        .ping(instance.instance_ip_v6, 3, SOON)
        .unwrap();

    // From it: the same, as the instance's own address.
    let web = scene.table.service_ip;
    let mut inside = Observer {
        container: &mut guest,
        run: scene.topology.run(),
        programs: &scene.topology.programs,
    };
    let answers = inside.requests(web, 20).unwrap();
    assert_eq!((answers.requests, answers.failures), (20, 0), "{answers:?}");
    let target = SocketAddr::new(web, BULK_PORT).to_string();
    let report = inside
        .workload(
            "transfer",
            &["--target", &target, "--bytes", "5000000"],
            120,
        )
        .unwrap();
    assert_eq!(report["bytes"], 5_000_000);
    inside.ping(web, 3, SOON).unwrap();

    // Its published port, from outside.
    let [first, second] = scene.topology.nodes.as_slice() else {
        panic!()
    };
    let published = SocketAddr::new(second.underlay.into(), PUBLISHED);
    first.namespace.connect(published, PATIENCE).unwrap();

    // A Net Manager that dies leaves it standing, and takes it over.
    scene.topology.nodes[1].process().unwrap().kill().unwrap();
    scene.topology.restart_node(1).unwrap();
    wait_until("the machine is there again", PATIENCE, || {
        let answers = scene.observer().requests(table.service_ip, 1);
        answers.is_ok_and(|answers| answers.failures == 0)
    })
    .unwrap();

    // Deployed again: all is made anew, and an emulator finds its tap.
    drop(cable);
    let again = deploy(&scene, &job);
    assert_ne!(
        again["nsAddress"], deployed["nsAddress"],
        "an address rests first"
    );
    let run = scene.topology.run();
    let mut guest = Container::start(run, &scene.topology.programs, "machine2", 0).unwrap();
    let _cable = plug(&mut guest, &scene, &name);
    wait_until("the new machine answers", PATIENCE, || {
        let answers = scene.observer().requests(table.service_ip, 1);
        answers.is_ok_and(|answers| answers.failures == 0)
    })
    .unwrap();

    // And it goes with all that was made for it.
    let node = &scene.topology.nodes[1];
    let body = json!({"pid": -1, "serviceName": job, "instanceNumber": 0});
    node.server()
        .post("/unikernel/undeploy", &body)
        .unwrap()
        .ok("undeploying")
        .unwrap();
    assert!(!namespaces().contains(&name));
    let rules = node.namespace.command("nft", &["list", "ruleset"]).unwrap();
    assert!(!rules.contains(&PUBLISHED.to_string()), "{rules}");
    let status = node.server().get("/status").unwrap().json().unwrap();
    assert_eq!(status["containers"], json!([]));
}
