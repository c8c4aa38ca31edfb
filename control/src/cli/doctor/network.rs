//! Interfaces, MTUs, the tunnel port, and the way to the other nodes.

use std::path::Path;
use std::process::Command;

use dataplane::{HostPort, VHOST_NET};
use serde_json::Value;

use super::{Patient, Report};
use crate::config::{UplinkChoice, carried};

pub(super) fn look(patient: &Patient<'_>, report: &mut Report) {
    let underlay = underlay(patient, report);
    host_port(patient, report);
    host_interface(patient, report);
    tunnel_port(patient, report);
    peers(patient, report);
    if let Some(name) = underlay {
        offloads(patient, &name, report);
    }
}

/// The interface towards other nodes.
fn underlay(patient: &Patient<'_>, report: &mut Report) -> Option<String> {
    let net = &patient.settings.net;
    let named = match &net.dataplane.uplink {
        UplinkChoice::Interface { interface, .. } => interface.clone(),
        UplinkChoice::Pci { tap, .. } => tap.clone(),
        UplinkChoice::Device { interface, .. } => Some(interface.clone()),
        UplinkChoice::Auto | UplinkChoice::Socket => None,
    };
    let name = named
        .or_else(|| net.default_interface.clone())
        .or_else(|| patient.default_interface.clone());
    let Some(name) = name else {
        let remedy = "connect it, or name DefaultInterface (and NodePublicAddress) in netcfg.json";
        if net.public_address.is_some() {
            report.warn("underlay", "there is no default route", remedy);
        } else {
            report.fail(
                "underlay",
                "there is no default route, hence no address to announce",
                remedy,
            );
        }
        return None;
    };
    let Some(link) = patient.link(&name) else {
        report.fail(
            "underlay",
            format!("there is no interface {name}"),
            "name one that `ip link` shows",
        );
        return None;
    };
    if !link.up {
        report.fail(
            "underlay",
            format!("{name} is down"),
            format!("ip link set {name} up"),
        );
        return Some(name);
    }
    let mtu = u32::from(patient.settings.tun.mtu);
    let announced = patient
        .status
        .as_ref()
        .and_then(|status| status["public_address"].as_str())
        .unwrap_or_default();
    let (v4, v6) = carried(link.mtu.unwrap_or(u32::MAX));
    let room = if announced.contains(':') { v6 } else { v4 };
    let shown = link.mtu.unwrap_or(0);
    if mtu > room {
        report.fail(
            "underlay MTU",
            format!("{name} carries {shown} bytes, and MTUSize {mtu} with the tunnel's headers does not fit: large packets are cut or refused"),
            format!("set MTUSize in tuncfg.json to {room} on every node, or raise the MTU of {name} to {}", mtu + shown.saturating_sub(room)),
        );
    } else {
        report.ok(
            "underlay MTU",
            format!("{name} carries {shown} bytes, {mtu} for containers"),
        );
    }
    announced_address(patient, announced, report);
    Some(name)
}

fn announced_address(patient: &Patient<'_>, announced: &str, report: &mut Report) {
    let Ok(address) = announced.parse::<std::net::IpAddr>() else {
        return;
    };
    if patient
        .addresses
        .values()
        .flatten()
        .any(|held| *held == address)
    {
        report.ok(
            "address",
            format!("{address} is announced, and this node's"),
        );
    } else {
        report.warn(
            "address",
            format!("{address} is announced, and no interface of this node has it"),
            "if it is forwarded here (NAT), forward UDP at NodePublicPort to TunnelPort; else correct NodePublicAddress",
        );
    }
}

/// What the node's own interface is behind, and whether it could be behind vhost-net.
fn host_port(patient: &Patient<'_>, report: &mut Report) {
    const CHECK: &str = "host port";
    let there = Path::new(VHOST_NET).exists();
    let set = patient.settings.net.dataplane.host_port.kind();
    let running = patient.status.as_ref().map(|s| s["host_port"].as_str());
    let kind = running.flatten().unwrap_or(set);
    match (&patient.settings.net.dataplane.host_port, there) {
        (HostPort::VirtioUser, false) => report.fail(
            CHECK,
            format!("{set} is asked for, and this machine has no vhost-net ({VHOST_NET})"),
            "modprobe vhost_net (and have /etc/modules-load.d do it), or set HostPort of Dataplane to tap",
        ),
        (_, true) => report.ok(CHECK, format!("{kind}; this machine has vhost-net")),
        (_, false) => report.ok(CHECK, format!("{kind}; this machine has no vhost-net")),
    }
}

fn host_interface(patient: &Patient<'_>, report: &mut Report) {
    if patient.status.is_none() {
        return;
    }
    const CHECK: &str = "host interface";
    let again = "systemctl restart netmanager puts it back; containers and their flows stay";
    let name = &patient.settings.tun.host_interface;
    let Some(link) = patient.link(name) else {
        return report.fail(CHECK, format!("{name} is gone"), again);
    };
    if !patient.is_set_up() {
        return report.ok(CHECK, format!("{name} waits for a subnetwork"));
    }
    if !link.up {
        return report.fail(
            CHECK,
            format!("{name} is down: this node's processes reach no container, and containers nothing outside"),
            format!("ip link set {name} up; {again}"),
        );
    }
    let held = patient.addresses.get(&link.index);
    let missing: Vec<&str> = patient
        .list("subnetworks")
        .filter_map(Value::as_str)
        .flat_map(|pair| pair.split(' '))
        .filter(|network| {
            let gateway = network.split('/').next().and_then(gateway);
            gateway.is_some_and(|gateway| held.is_none_or(|held| !held.contains(&gateway)))
        })
        .collect();
    if !missing.is_empty() {
        return report.fail(
            CHECK,
            format!("{name} lacks the gateway address of {}", missing.join(", ")),
            again,
        );
    }
    match link.mtu {
        Some(mtu) if mtu != u32::from(patient.settings.tun.mtu) => report.warn(
            CHECK,
            format!(
                "{name} has MTU {mtu}, and MTUSize says {}",
                patient.settings.tun.mtu
            ),
            again,
        ),
        _ => report.ok(CHECK, format!("{name} is up, with its gateway addresses")),
    }
}

/// The first address behind a network's own.
fn gateway(network: &str) -> Option<std::net::IpAddr> {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    Some(match network.parse().ok()? {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) + 1).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) + 1).into(),
    })
}

/// Whether a UDP socket of this network namespace is bound to a port.
fn is_bound(port: u16) -> bool {
    ["udp", "udp6"].into_iter().any(|table| {
        let path = format!("/proc/thread-self/net/{table}");
        let table = std::fs::read_to_string(path).unwrap_or_default();
        table.lines().skip(1).any(|line| {
            let local = line.split_whitespace().nth(1);
            let found = local.and_then(|local| local.rsplit(':').next());
            found.is_some_and(|hex| u16::from_str_radix(hex, 16) == Ok(port))
        })
    })
}

fn tunnel_port(patient: &Patient<'_>, report: &mut Report) {
    const CHECK: &str = "tunnel port";
    let port = patient.settings.tun.tunnel_port;
    match (&patient.status, is_bound(port)) {
        (Some(status), true) => {
            let received = status["dataplane"]["received"]["tunnel"]
                .as_u64()
                .unwrap_or(0);
            let heard = if received > 0 {
                format!("{received} packets of other nodes have come")
            } else {
                "no packet of another node has come yet".to_owned()
            };
            report.ok(CHECK, format!("UDP {port} is bound; {heard}"));
        }
        (Some(_), false) => report.fail(
            CHECK,
            format!("nothing is bound to UDP {port}"),
            "systemctl restart netmanager; containers and their flows stay",
        ),
        (None, true) => report.warn(
            CHECK,
            format!("UDP {port} is bound while the Net Manager does not answer"),
            format!("see who holds it: ss -lunp sport = :{port}"),
        ),
        (None, false) => report.ok(CHECK, format!("UDP {port} is free")),
    }
}

/// Probes in a row whose loss is no accident.
const SILENT: u64 = 3;

fn peers(patient: &Patient<'_>, report: &mut Report) {
    let mtu = u64::from(patient.settings.tun.mtu);
    for peer in &patient.peers {
        let at = peer["endpoint"].as_str().unwrap_or("-");
        if peer["routed"] == false {
            report.fail(
                "peer",
                format!("there is no way to {at}, where instances run"),
                "look at `ip route get` for it: a route or a next hop is missing",
            );
            continue;
        }
        match peer["mtu"].as_u64() {
            Some(carried) if carried < mtu => report.warn(
                "peer",
                format!("the path to {at} carries {carried} bytes for containers, less than MTUSize {mtu}: large packets are cut or refused"),
                format!("set MTUSize to {carried} on both nodes, or raise the MTU of the links between"),
            ),
            _ => {}
        }
        let unanswered = peer["unanswered_probes"].as_u64().unwrap_or(0);
        if unanswered >= SILENT {
            report.warn(
                "peer",
                format!("{at} has left the last {unanswered} probes or more unanswered"),
                "is that node up, and UDP at this port open both ways between here and there? (a reference Net Manager answers none, and then all is well)",
            );
            continue;
        }
        match (
            peer["answers_probes"] == true,
            peer["round_trip_ms"].as_f64(),
        ) {
            (true, Some(ms)) => report.ok("peer", format!("{at} answers in {ms:.2} ms")),
            (false, Some(ms)) => {
                report.ok("peer", format!("{at} was {ms:.2} ms away by a handshake"));
            }
            _ => report.ok(
                "peer",
                format!("{at} has a route; its distance was not measured"),
            ),
        }
    }
    if patient.status.is_some() && patient.peers.is_empty() {
        report.ok("peer", "no other node is needed now");
    }
}

/// Offloads whose absence costs most: with them, large pieces cross the kernel in one go.
const OFFLOADS: [&str; 3] = [
    "generic-receive-offload",
    "generic-segmentation-offload",
    "tx-checksumming",
];

fn offloads(patient: &Patient<'_>, name: &str, report: &mut Report) {
    const CHECK: &str = "offloads";
    if !matches!(patient.settings.net.dataplane.uplink, UplinkChoice::Socket) {
        return;
    }
    let features = match Command::new("ethtool").args(["-k", name]).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        _ => {
            return report.ok(
                CHECK,
                "not looked at: ethtool is missing or knows nothing of it",
            );
        }
    };
    let off: Vec<&str> = OFFLOADS
        .into_iter()
        .filter(|feature| {
            features
                .lines()
                .any(|line| line.trim() == format!("{feature}: off"))
        })
        .collect();
    if off.is_empty() {
        report.ok(CHECK, format!("{name} has those that matter"));
    } else {
        report.warn(
            CHECK,
            format!(
                "{name} has {} switched off, which costs throughput between nodes",
                off.join(", ")
            ),
            format!("ethtool -K {name} gro on gso on tx on (as far as the driver allows)"),
        );
    }
}
