//! The host port's kinds: what passes between containers and the node itself, and what stays of it when the node is
//! killed.

use std::path::Path;
use std::time::Instant;

use super::containers::{Site, serve, within};
use super::{PATIENCE, SERVICES, ask, connect, echoes, line};

fn interfaces() -> String {
    std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()
}

/// Bytes of a frame on average, as the node's kernel received and sent them by its interface.
fn sizes() -> [u64; 2] {
    let table = interfaces();
    let line = table.lines().find(|line| line.contains("oak0:")).unwrap();
    let numbers: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map(|n| n.parse().unwrap())
        .collect();
    [numbers[0] / numbers[1], numbers[8] / numbers[9]]
}

/// Pings, datagrams and connections both ways, these with segments of 64 KB where the kind has them.
fn talks(site: &Site) {
    site.ping("c", "10.18.0.1");
    site.ping("node", "10.18.0.3");
    within(&site.container("c"), || {
        assert_eq!(ask("10.18.0.1").unwrap(), "node");
        let stream = connect("10.18.0.1");
        assert_eq!(line(&stream, "hello"), "node");
        echoes(stream, "node");
    });
    within(&site.container("node"), || {
        // By an instance's own address, and by the service's, which the answers are translated back to.
        for target in ["10.18.0.3", SERVICES[0]] {
            assert!((0..10).all(|_| ask(target).unwrap() == "e"));
            let stream = connect(target);
            assert_eq!(line(&stream, "hello"), "e");
            echoes(stream, "e");
        }
    });
}

fn carries(name: &str, host_port: &'static str, workers: usize) {
    let site = Site::with_host_port(&format!("{name}{workers}"), host_port);
    within(&site.container("node"), || serve("node"));
    for round in 0..2 {
        let mut node = site.start(workers);
        node.say("job 0");
        node.say("host");
        talks(&site);
        let sizes = within(&site.container("node"), sizes);
        // In pieces of up to 64 KB, and acknowledgements between them; a device's are of the MTU.
        let large = matches!(host_port, "tap" | "virtio_user");
        assert!(
            sizes.iter().all(|&size| (size > 1500) == large),
            "{sizes:?}"
        );
        assert_eq!(node.say("balance"), "0", "packets are unaccounted for");
        if round == 0 {
            node.kill();
        }
        let deadline = Instant::now() + PATIENCE;
        while round == 0 && within(&site.container("node"), interfaces).contains("oak0") {
            assert!(Instant::now() < deadline, "the interface stays");
            std::thread::yield_now();
        }
    }
}

#[test]
fn the_node_is_reached_by_a_tap_of_ours() {
    carries("hosttap", "tap", 1);
}

#[test]
fn the_node_is_reached_by_a_device_of_dpdk() {
    // It takes and gives nothing but finished frames.
    for workers in [1, 2] {
        carries("hostdev", "net_tap0,iface=oak0", workers);
    }
}

#[test]
fn the_node_is_reached_by_vhost_net_or_told_what_is_missing() {
    if Path::new(dataplane::VHOST_NET).exists() {
        for workers in [1, 2] {
            carries("hostvn", "virtio_user", workers);
        }
        return;
    }
    println!("no {}: only the refusal is tried", dataplane::VHOST_NET);
    let site = Site::with_host_port("hostvn", "virtio_user");
    let refused = site.spawn(1).ready_or_refused().unwrap();
    for said in [
        dataplane::VHOST_NET,
        "modprobe vhost_net",
        "HostPort",
        "tap",
    ] {
        assert!(refused.contains(said), "{refused}");
    }
}
