//! The kernel as the peer: a virtual address that nftables translates to the backend, and VXLAN between two nodes, as
//! a container network without this project does it: on one node DNAT and a route to the next veth pair, between two DNAT
//! and a route into the VXLAN. There is no process of it; softirqs do the work on the core where the packet was sent.
//!
//! [`STEERED`] is the same after a tuning that nobody finds in place: receive packet steering hands what arrives on a
//! node's interfaces to a core of the node's own. It carries more packets so, and each of them later.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use journeys::namespace::{Namespace, Plug, cable, ip};
use journeys::run::Run;

use super::laid::{Laid, Lane};
use super::plain::plain;
use super::settings::{Nodes, Offloads, Settings, there};
use super::way::Way;

/// As results name it.
pub const NAME: &str = "kernel";
/// With receive packet steering.
pub const STEERED: &str = "steered";

/// The interface of a container.
pub const INSIDE: &str = "eth0";
/// What containers here have by default, so that all peers' packets have one size.
pub const MTU: &str = "1450";

const UNDERLAY: &str = "underlay0";
const OVERLAY: &str = "overlay0";
/// What is dialled: for the backend on the same node, and on the other.
const VIRTUAL: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 98, 0, 1), Ipv4Addr::new(10, 98, 0, 2)];
/// Subnetworks of the containers.
const CLIENT: u8 = 1;
const NEAR: u8 = 2;
const FAR: u8 = 3;

/// Lays two nodes with three containers: the way on the first one, and the way to the second.
///
/// # Errors
/// When `ip` or `nft` fails.
pub fn lay(run: &Run, settings: Settings) -> Result<Laid> {
    lay_as(NAME, run, settings)
}

/// The same as [`STEERED`].
///
/// # Errors
/// As [`lay`], or when the kernel has no receive packet steering.
pub fn lay_steered(run: &Run, settings: Settings) -> Result<Laid> {
    lay_as(STEERED, run, settings)
}

fn lay_as(name: &'static str, run: &Run, settings: Settings) -> Result<Laid> {
    let nodes = [
        Namespace::create(run, &format!("{name}1"))?,
        Namespace::create(run, &format!("{name}2"))?,
    ];
    let container = |node: usize, third: u8| container(run, settings, name, &nodes[node], third);
    let client = container(0, CLIENT)?;
    let near = container(0, NEAR)?;
    let far = container(1, FAR)?;
    let [one, other] = nodes.each_ref().map(|node| Plug {
        namespace: node,
        interface: UNDERLAY,
    });
    cable(one, other)?;
    for (node, own, peer, reach) in [
        (&nodes[0], 1, 2, [FAR].as_slice()),
        (&nodes[1], 2, 1, &[CLIENT, NEAR]),
    ] {
        let (local, remote) = (format!("192.0.2.{own}"), format!("192.0.2.{peer}"));
        node.ip(&["address", "add", &format!("{local}/24"), "dev", UNDERLAY])?;
        if settings.offloads == Offloads::Off {
            plain(node, UNDERLAY)?;
        }
        node.ip(&[
            "link", "add", OVERLAY, "type", "vxlan", "id", "7", "local", &local, "remote", &remote,
            "dstport", "4789", "dev", UNDERLAY,
        ])?;
        node.ip(&[
            "address",
            "add",
            &format!("10.97.0.{own}/24"),
            "dev",
            OVERLAY,
        ])?;
        node.ip(&["link", "set", OVERLAY, "mtu", MTU, "up"])?;
        for third in reach {
            let gateway = format!("10.97.0.{peer}");
            node.ip(&["route", "add", &subnet(*third), "via", &gateway])?;
        }
        node.sysctl("ipv4/ip_forward", "1")?;
    }
    if name == STEERED {
        steer(&nodes)?;
    }
    let [first, second] = VIRTUAL.map(|address| address.to_string());
    let rules = format!(
        "add table ip ports; \
         add chain ip ports before {{ type nat hook prerouting priority dstnat; }}; \
         add rule ip ports before ip daddr {first} dnat to {}; \
         add rule ip ports before ip daddr {second} dnat to {}",
        address(NEAR),
        address(FAR)
    );
    nodes[0].command("nft", &[&rules])?;
    let lane = |nodes: Nodes, name: &str, server: Namespace, target: Ipv4Addr| {
        Ok(Lane::of_kernel(Way {
            name: name.into(),
            client: client.clone(),
            server,
            target: IpAddr::V4(target),
            cores: settings.cores.workload(nodes),
        }))
    };
    Ok(Laid::new(
        name,
        [
            lane(Nodes::One, &format!("{name}-one"), near, VIRTUAL[0]),
            lane(Nodes::Two, &format!("{name}-two"), far, VIRTUAL[1]),
        ],
    ))
}

/// Hands what arrives on a node's interfaces to the node's core.
fn steer(nodes: &[Namespace; 2]) -> Result<()> {
    for (number, node) in nodes.iter().enumerate() {
        let core = (number + 1) % there();
        let name = node.name().context("a named node")?;
        // Only `ip netns exec` shows the /sys of the namespace.
        let each = format!(
            "for file in /sys/class/net/*/queues/rx-*/rps_cpus; do echo {:x} > $file; done",
            1u128 << core
        );
        ip(&["netns", "exec", name, "sh", "-ec", &each])?;
    }
    Ok(())
}

fn subnet(third: u8) -> String {
    format!("10.99.{third}.0/24")
}

fn address(third: u8) -> String {
    format!("10.99.{third}.2")
}

/// A container `name` with an address in a /24, on a cable to the node's interface `outer`.
///
/// # Errors
/// When `ip` fails.
pub fn plugged(
    run: &Run,
    node: &Namespace,
    name: &str,
    outer: &str,
    address: impl std::fmt::Display,
) -> Result<Namespace> {
    let inside = Namespace::create(run, name)?;
    let plug = |namespace, interface| Plug {
        namespace,
        interface,
    };
    cable(plug(&inside, INSIDE), plug(node, outer))?;
    inside.ip(&["link", "set", INSIDE, "mtu", MTU])?;
    inside.ip(&["address", "add", &format!("{address}/24"), "dev", INSIDE])?;
    Ok(inside)
}

fn container(
    run: &Run,
    settings: Settings,
    peer: &str,
    node: &Namespace,
    third: u8,
) -> Result<Namespace> {
    let (name, outer) = (format!("{peer}-c{third}"), format!("port{third}"));
    let inside = plugged(run, node, &name, &outer, address(third))?;
    let gateway = format!("10.99.{third}.1");
    inside.ip(&["route", "add", "default", "via", &gateway])?;
    node.ip(&["link", "set", &outer, "mtu", MTU])?;
    node.ip(&["address", "add", &format!("{gateway}/24"), "dev", &outer])?;
    if settings.offloads == Offloads::Off {
        plain(&inside, INSIDE)?;
        plain(node, &outer)?;
    }
    Ok(inside)
}
