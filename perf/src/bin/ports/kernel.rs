//! The kernel as the peer: a virtual address that nftables translates to the backend, and VXLAN between two nodes, as
//! a container network without this project does it. All offloads stay on.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use journeys::namespace::{Namespace, Plug, cable};
use journeys::run::Run;

use crate::way::Way;

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
pub fn lay(run: &Run) -> Result<[Way; 2]> {
    let nodes = [
        Namespace::create(run, "kernel1")?,
        Namespace::create(run, "kernel2")?,
    ];
    let client = container(run, &nodes[0], CLIENT)?;
    let near = container(run, &nodes[0], NEAR)?;
    let far = container(run, &nodes[1], FAR)?;
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
    let way = |name: &str, server: Namespace, target: Ipv4Addr| Way {
        name: name.into(),
        client: client.clone(),
        server,
        target: IpAddr::V4(target),
    };
    Ok([
        way("kernel-one", near, VIRTUAL[0]),
        way("kernel-two", far, VIRTUAL[1]),
    ])
}

fn subnet(third: u8) -> String {
    format!("10.99.{third}.0/24")
}

fn address(third: u8) -> String {
    format!("10.99.{third}.2")
}

/// A container `name` with an address in a /24, on a cable to the node's interface `outer`.
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

fn container(run: &Run, node: &Namespace, third: u8) -> Result<Namespace> {
    let outer = format!("port{third}");
    let inside = plugged(
        run,
        node,
        &format!("kernel-c{third}"),
        &outer,
        address(third),
    )?;
    let gateway = format!("10.99.{third}.1");
    inside.ip(&["route", "add", "default", "via", &gateway])?;
    node.ip(&["link", "set", &outer, "mtu", MTU])?;
    node.ip(&["address", "add", &format!("{gateway}/24"), "dev", &outer])?;
    Ok(inside)
}
