//! Open vSwitch with DPDK as the peer: the `netdev` datapath on `net_af_packet` devices, userspace conntrack that
//! translates a virtual address to the backend, and VXLAN between two nodes, with a switch and a database of our own for
//! each node. Gateways and tunnel neighbours are static: nothing has to be resolved.
//!
//! Nothing of the machine's own Open vSwitch is touched: databases, sockets and pid files lie in the run's folder. Memory
//! is no hugepages' (`--no-huge`), as testpmd's. Each switch has one polling thread, on a core of its own as far as there
//! are cores; with fewer than four it may sleep for 50 µs when there is little to do. The kernel's module is not used, but
//! a kernel that has it may load it by itself.

mod switch;

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use journeys::namespace::{Namespace, Plug, cable};

use super::kernel::{INSIDE, MTU, plugged};
use super::laid::{Laid, Lane, Worker};
use super::plain::plain;
use super::settings::{Nodes, Settings};
use super::way::{Means, Way};
use switch::{Switch, missing};

/// As results name it.
pub const NAME: &str = "ovs";

const UNDERLAY: &str = "underlay0";
/// What is dialled: for the backend on the same node, and on the other.
const VIRTUAL: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 98, 0, 1), Ipv4Addr::new(10, 98, 0, 2)];
/// Containers: the third octet of an address in a subnetwork of its own.
const CLIENT: u8 = 1;
const NEAR: u8 = 2;
const FAR: u8 = 3;
/// The gateway's Ethernet address, in every subnetwork.
const GATEWAY: &str = "02:00:00:00:00:fe";
/// The tunnel's port on a switch.
const TUNNEL: u8 = 9;

/// Lays two nodes with three containers: the way on the first one, and the way to the second. A switch that does not
/// come up makes it absent, with the reason.
///
/// # Errors
/// When `ip` or `ethtool` fails.
pub fn lay(means: Means<'_>, settings: Settings) -> Result<Laid> {
    if let Some(why) = missing() {
        return Ok(Laid::missing(NAME, &why));
    }
    let nodes = [
        Namespace::create(means.run, "ovs1")?,
        Namespace::create(means.run, "ovs2")?,
    ];
    let [one, other] = nodes.each_ref().map(|node| Plug {
        namespace: node,
        interface: UNDERLAY,
    });
    cable(one, other)?;
    for node in &nodes {
        plain(node, UNDERLAY)?;
    }
    let [first, second] = &nodes;
    let client = container(means, first, CLIENT)?;
    let near = container(means, first, NEAR)?;
    let far = container(means, second, FAR)?;

    let mut switches = Vec::new();
    if let Err(error) = raise(means, settings, &nodes, &mut switches) {
        for switch in switches {
            switch.kill();
        }
        let why = format!("it does not come up here: {error:#}");
        return Ok(Laid::missing(NAME, &why));
    }
    let workers: Vec<_> = switches.iter().map(Switch::worker).collect();
    let lane = |nodes: Nodes, name: &str, server: Namespace, workers: &[Worker]| {
        let way = Way {
            name: name.into(),
            client: client.clone(),
            server,
            target: IpAddr::V4(*nodes.of(&VIRTUAL)),
            cores: settings.cores.workload(nodes),
        };
        Lane::of_others(way, workers.to_vec(), true)
    };
    let alone = workers.get(..1).context("a switch")?;
    Ok(Laid::new(
        NAME,
        [
            Ok(lane(Nodes::One, "ovs-one", near, alone)?),
            Ok(lane(Nodes::Two, "ovs-two", far, &workers)?),
        ],
    ))
}

/// Starts both switches and tells them what to do.
fn raise(
    means: Means<'_>,
    settings: Settings,
    nodes: &[Namespace; 2],
    switches: &mut Vec<Switch>,
) -> Result<()> {
    for (number, node) in (0..).zip(nodes) {
        switches.push(Switch::start(means.run, settings, node, number)?);
    }
    for (switch, containers) in switches.iter_mut().zip([&[CLIENT, NEAR][..], &[FAR]]) {
        switch.add_overlay()?;
        for &third in containers {
            switch.add_port(&outer(third), third, MTU)?;
        }
        switch.add_underlay(UNDERLAY)?;
        switch.add_tunnel(TUNNEL)?;
    }
    if let [first, second] = &switches[..] {
        first.set_flows(&first_flows())?;
        second.set_flows(&second_flows())?;
    }
    Ok(())
}

fn address(third: u8) -> String {
    format!("10.99.{third}.2")
}

fn mac(third: u8) -> String {
    format!("02:00:00:00:00:{third:02x}")
}

fn outer(third: u8) -> String {
    format!("port{third}")
}

fn container(means: Means<'_>, node: &Namespace, third: u8) -> Result<Namespace> {
    let (name, outer) = (format!("ovs-c{third}"), outer(third));
    let inside = plugged(means.run, node, &name, &outer, address(third))?;
    let gateway = format!("10.99.{third}.1");
    inside.ip(&["link", "set", INSIDE, "address", &mac(third)])?;
    inside.ip(&["route", "add", "default", "via", &gateway])?;
    let neighbour = ["neighbour", "add", &gateway, "lladdr", GATEWAY];
    inside.ip(&[&neighbour[..], &["dev", INSIDE]].concat())?;
    node.ip(&["link", "set", &outer, "mtu", MTU])?;
    // The PMD knows neither checksum nor segmentation state.
    plain(&inside, INSIDE)?;
    plain(node, &outer)?;
    Ok(inside)
}

/// Into a container, as a router does.
fn deliver(table: u8, third: u8) -> String {
    format!(
        "table={table},ip,nw_dst={},actions=dec_ttl,mod_dl_src:{GATEWAY},mod_dl_dst:{},output:{third}",
        address(third),
        mac(third)
    )
}

/// On the client's node: a new connection to a virtual address gets its backend, what belongs to one follows it.
fn first_flows() -> Vec<String> {
    let mut flows = vec![
        "table=0,ip,actions=ct(table=1,nat)".to_owned(),
        // A datagram is of a new connection until there is an answer, translated though it is by then.
        "table=1,priority=1,ct_state=-inv+trk,ip,actions=resubmit(,2)".into(),
        deliver(2, CLIENT),
        deliver(2, NEAR),
        format!("table=2,ip,nw_dst={},actions=output:{TUNNEL}", address(FAR)),
    ];
    for (target, backend) in VIRTUAL.into_iter().zip([NEAR, FAR]) {
        flows.push(format!(
            "table=1,priority=2,ct_state=+new+trk,ip,nw_dst={target},\
             actions=ct(commit,nat(dst={}),table=2)",
            address(backend)
        ));
    }
    flows
}

/// On the backend's node nothing is translated.
fn second_flows() -> Vec<String> {
    vec![
        deliver(0, FAR),
        format!("table=0,ip,in_port={FAR},actions=output:{TUNNEL}"),
    ]
}
