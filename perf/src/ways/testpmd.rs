//! testpmd as the peer: `io` forwarding between `net_af_packet` devices on the host ends of two containers' links, or on
//! one container's and the cable to the other node. It changes nothing in a packet, and its PMD knows neither checksums
//! nor segments, so offloads are off wherever it looks.
//!
//! It polls without pause, on a core of its own for each node as far as there are cores.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use journeys::namespace::{Namespace, Plug, cable};
use journeys::process::{Launch, Process};
use journeys::run::{Run, Stage};

use super::kernel::{INSIDE, plugged};
use super::laid::{Laid, Lane};
use super::plain::plain;
use super::settings::{Nodes, Settings, there};
use super::way::Way;

/// As results name it.
pub const NAME: &str = "testpmd";
const PROGRAM: &str = "dpdk-testpmd";

/// Why there is no testpmd here.
#[must_use]
pub fn missing() -> Option<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|folder: PathBuf| folder.join(PROGRAM).is_file());
    (!there).then_some("dpdk-testpmd is not installed (Debian's package dpdk-dev)")
}

/// Lays one node with two containers, and two nodes with one each, and starts the forwarders.
///
/// # Errors
/// When `ip`, `ethtool` or testpmd fails.
pub fn lay(run: &Run, settings: Settings) -> Result<Laid> {
    if let Some(why) = missing() {
        return Ok(Laid::missing(NAME, why));
    }
    let way = |nodes: Nodes, name: &str, client: Namespace, server: Namespace| Way {
        name: name.into(),
        client,
        server,
        target: IpAddr::V4(address(2)),
        cores: settings.cores.workload(nodes),
    };
    let node = Namespace::create(run, "testpmd")?;
    let [client, server] = [1, 2].map(|n| container(run, &node, "one", n));
    let one = Lane::of_polling(
        way(Nodes::One, "testpmd-one", client?, server?),
        vec![forward(run, &node, ["port1", "port2"], 1)?],
    )?;
    let nodes = [
        Namespace::create(run, "testpmd1")?,
        Namespace::create(run, "testpmd2")?,
    ];
    let client = container(run, &nodes[0], "two", 1)?;
    let server = container(run, &nodes[1], "two", 2)?;
    let [left, right] = nodes.each_ref().map(|node| Plug {
        namespace: node,
        interface: "underlay0",
    });
    cable(left, right)?;
    for node in &nodes {
        plain(node, "underlay0")?;
    }
    let two = Lane::of_polling(
        way(Nodes::Two, "testpmd-two", client, server),
        vec![
            forward(run, &nodes[0], ["port1", "underlay0"], 1)?,
            forward(run, &nodes[1], ["port2", "underlay0"], 2)?,
        ],
    )?;
    Ok(Laid::new(NAME, [Ok(one), Ok(two)]))
}

fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 9, n)
}

fn container(run: &Run, node: &Namespace, ways: &str, n: u8) -> Result<Namespace> {
    let outer = format!("port{n}");
    let inside = plugged(run, node, &format!("testpmd-{ways}{n}"), &outer, address(n))?;
    plain(&inside, INSIDE)?;
    plain(node, &outer)?;
    Ok(inside)
}

/// Starts a forwarder between two interfaces of a node on a core of its own, as far as there are cores.
fn forward(run: &Run, node: &Namespace, interfaces: [&str; 2], core: usize) -> Result<Process> {
    let cores = there();
    let name = format!("testpmd-{}", node.name().context("a named node")?);
    let mut launch = Launch::new(&name, Path::new(PROGRAM), node, Stage::Node)
        .args([
            "--lcores".into(),
            format!("0@{},1@{}", (core + 1) % cores, core % cores),
        ])
        .args(["--no-pci", "--no-telemetry", "--no-huge", "-m", "256"])
        .args(["--file-prefix", &name]);
    for (n, interface) in interfaces.iter().enumerate() {
        launch = launch.args([
            "--vdev".into(),
            format!("net_af_packet{n},iface={interface}"),
        ]);
    }
    // Its standard input stays open: it forwards until a line or the end comes.
    let forwarder = launch
        .args(["--", "--forward-mode=io", "--nb-cores=1", "--auto-start"])
        .args(["--total-num-mbufs=16384", "--no-flush-rx"])
        .start(run)?;
    Ok(forwarder)
}
