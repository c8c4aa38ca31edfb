//! The floor as the peer (`perf/src/bin/floor`): containers on a bridge, a TUN that Service and Instance IPs are routed
//! to, and a UDP socket towards the other node, as the reference has it; each packet costs a system call on every step.
//! Its interfaces know no offloads: the kernel finishes and cuts what containers hand over before the TUN sees it.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use journeys::namespace::{Namespace, Plug, cable};
use journeys::process::{Launch, Process};
use journeys::run::Stage;

use super::kernel::{INSIDE, MTU, plugged};
use super::laid::{Laid, Lane, Worker};
use super::plain::plain;
use super::settings::{Nodes, Offloads, Settings};
use super::way::{Means, Way};

/// As results name it.
pub const NAME: &str = "floor";
/// The program, beside the one that runs.
const PROGRAM: &str = "floor";

const UNDERLAY: &str = "underlay0";
const BRIDGE: &str = "bridge0";
const TUN: &str = "tun0";
/// The contract's tunnel port.
const PORT: u16 = 50103;

/// A container: its node (0 or 1), its last octet, its Instance IP.
#[derive(Clone, Copy)]
struct Seat {
    node: u8,
    host: u8,
    instance: Ipv4Addr,
}

const CLIENT: Seat = Seat {
    node: 0,
    host: 2,
    instance: Ipv4Addr::new(10, 30, 0, 1),
};
const NEAR: Seat = Seat {
    node: 0,
    host: 3,
    instance: Ipv4Addr::new(10, 30, 0, 2),
};
const FAR: Seat = Seat {
    node: 1,
    host: 2,
    instance: Ipv4Addr::new(10, 30, 0, 3),
};
/// Service IPs, with the instance behind each.
const SERVICES: [(Ipv4Addr, Seat); 2] = [
    (Ipv4Addr::new(10, 30, 0, 4), NEAR),
    (Ipv4Addr::new(10, 30, 0, 5), FAR),
];

impl Seat {
    fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 19, self.node + 1, self.host)
    }
}

fn underlay(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node + 1)
}

/// Lays two nodes with three containers: the way on the first one, and the way to the second.
///
/// # Errors
/// When `ip` fails or the program does not start.
pub fn lay(means: Means<'_>, settings: Settings) -> Result<Laid> {
    let run = means.run;
    if !means.programs.path(PROGRAM).is_file() {
        return Ok(Laid::missing(
            NAME,
            "the program floor is not built (cargo build -p perf --bins)",
        ));
    }
    let nodes = [
        Namespace::create(run, "floor1")?,
        Namespace::create(run, "floor2")?,
    ];
    let [one, other] = nodes.each_ref().map(|node| Plug {
        namespace: node,
        interface: UNDERLAY,
    });
    cable(one, other)?;
    let mut workers = Vec::new();
    for (number, node) in (0..).zip(&nodes) {
        lay_node(node, number, settings)?;
        workers.push(Worker::of(&start(means, settings, node, number)?));
    }
    let container = |seat: Seat| -> Result<Namespace> {
        let [first, second] = &nodes;
        let node = if seat.node == 0 { first } else { second };
        let outer = format!("port{}", seat.host);
        let name = format!("floor-c{}{}", seat.node, seat.host);
        let inside = plugged(run, node, &name, &outer, seat.address())?;
        node.ip(&["link", "set", &outer, "mtu", MTU, "master", BRIDGE])?;
        let gateway = Ipv4Addr::new(10, 19, seat.node + 1, 1).to_string();
        inside.ip(&["route", "add", "default", "via", &gateway])?;
        if settings.offloads == Offloads::Off {
            plain(&inside, INSIDE)?;
            plain(node, &outer)?;
        }
        Ok(inside)
    };
    let client = container(CLIENT)?;
    let lane = |nodes: Nodes, name: &str, workers: &[Worker]| {
        let &(target, seat) = nodes.of(&SERVICES);
        let way = Way {
            name: name.into(),
            client: client.clone(),
            server: container(seat)?,
            target: IpAddr::V4(target),
            cores: settings.cores.workload(nodes),
        };
        Lane::of_others(way, workers.to_vec(), false)
    };
    let first = workers.get(..1).context("a node")?;
    Ok(Laid::new(
        NAME,
        [
            Ok(lane(Nodes::One, "floor-one", first)?),
            Ok(lane(Nodes::Two, "floor-two", &workers)?),
        ],
    ))
}

fn lay_node(node: &Namespace, number: u8, settings: Settings) -> Result<()> {
    let own = format!("{}/24", underlay(number));
    node.ip(&["address", "add", &own, "dev", UNDERLAY])?;
    node.ip(&["link", "add", "name", BRIDGE, "type", "bridge"])?;
    node.ip(&["link", "set", BRIDGE, "mtu", MTU, "up"])?;
    let gateway = format!("10.19.{}.1/24", number + 1);
    node.ip(&["address", "add", &gateway, "dev", BRIDGE])?;
    node.ip(&["tuntap", "add", "name", TUN, "mode", "tun"])?;
    node.ip(&["link", "set", TUN, "mtu", MTU, "up"])?;
    node.ip(&["route", "add", "10.30.0.0/16", "dev", TUN])?;
    node.sysctl("ipv4/ip_forward", "1")?;
    if settings.offloads == Offloads::Off {
        plain(node, UNDERLAY)?;
    }
    Ok(())
}

fn start(means: Means<'_>, settings: Settings, node: &Namespace, number: u8) -> Result<Process> {
    let mut launch = Launch::new(
        &format!("floor{}", number + 1),
        &means.programs.path(PROGRAM),
        node,
        Stage::Node,
    )
    .on_core(settings.cores.node(number.into()))
    .args(["--tun", TUN, "--listen"])
    .args([format!("{}:{PORT}", underlay(number))]);
    for seat in [CLIENT, NEAR, FAR] {
        let elsewhere = match seat.node == number {
            true => String::new(),
            false => format!("@{}:{PORT}", underlay(seat.node)),
        };
        let instance = format!("{}={}{elsewhere}", seat.instance, seat.address());
        launch = launch.args(["--instance".into(), instance]);
    }
    for (service, seat) in SERVICES {
        launch = launch.args(["--service".into(), format!("{service}={}", seat.instance)]);
    }
    launch.start(means.run)
}
