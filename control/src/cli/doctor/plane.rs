//! The data plane: how busy it is, what runs short, and what drops say.

use super::{Patient, Report};
use crate::cli::rates::Rates;

/// Shares above which something is about to run out.
const NEARLY_ALL: f64 = 0.9;

/// Drops that mean that something can be done here.
const TELLING: [(&str, &str, &str); 8] = [
    (
        "no_mbuf",
        "packet memory ran out",
        "give it more: Dataplane.HugepageMb and scripts/hugepages",
    ),
    (
        "ring_full",
        "a worker did not keep up with the others",
        "more workers or cores: Dataplane.Workers",
    ),
    (
        "port_refused",
        "a container's port or the uplink took no more",
        "`NetManager status` says which port; is a container stuck, or the link full?",
    ),
    (
        "waiting_full",
        "too many packets waited for an answer of the cluster",
        "is the cluster service manager slow, or does a container scan addresses?",
    ),
    (
        "waiting_expired",
        "the cluster did not answer for a Service IP in time",
        "look at the cluster link and the cluster service manager",
    ),
    (
        "no_next_hop",
        "a host's MAC address was not known",
        "`ip neigh` on the uplink: does the next hop answer?",
    ),
    (
        "spoofed_tunnel",
        "datagrams came from hosts where no such instance lives",
        "is NodePublicAddress right on the other nodes, or does somebody forge packets?",
    ),
    (
        "host_without_instance",
        "this node's processes dial Service IPs, and the cluster gives nodes no Instance IP",
        "use this project's cluster service manager, or dial from a container",
    ),
];

/// The sockets of virtual machines.
fn machines(patient: &Patient<'_>, report: &mut Report) {
    const CHECK: &str = "vhost-user";
    let mut connected = 0;
    for container in patient.list("containers") {
        let machine = &container["vhost_user"];
        let Some(socket) = machine["socket"].as_str() else {
            continue;
        };
        let whose = format!(
            "{} instance {}",
            container["job"].as_str().unwrap_or("-"),
            container["instance"]
        );
        if !std::path::Path::new(socket).exists() {
            report.fail(
                CHECK,
                format!("the socket {socket} of {whose} is gone, and its machine cannot connect"),
                "systemctl restart netmanager makes it again; what cleans that folder up?",
            );
        } else if machine["connected"] == false {
            report.warn(
                CHECK,
                format!("no machine is connected to {socket} of {whose}"),
                "start it, with reconnect=1 at its socket; its user must be in VhostGroup",
            );
        } else {
            connected += 1;
        }
    }
    if connected > 0 {
        report.ok(CHECK, format!("{connected} machines are connected"));
    }
}

pub(super) fn look(patient: &Patient<'_>, report: &mut Report) {
    let (Some(before), Some(after)) = (&patient.status, &patient.later) else {
        return;
    };
    let dataplane = &after["dataplane"];
    if dataplane.is_null() {
        report.fail(
            "data plane",
            "it does not answer",
            "`NetManager logs` says why; systemctl restart netmanager",
        );
        return;
    }
    let rates = Rates::between(before, after, 0.5);
    let busiest = rates.cores.iter().map(|core| core.busy).fold(0.0, f64::max);
    if busiest > NEARLY_ALL {
        report.warn(
            "workers",
            format!("a worker is {:.0} % busy", busiest * 100.0),
            "more workers: Dataplane.Workers; `NetManager top` shows which containers it is",
        );
    } else {
        report.ok("workers", format!("{:.0} % busy at most", busiest * 100.0));
    }
    for pool in dataplane["pools"].as_array().into_iter().flatten() {
        let number = |field: &str| pool[field].as_f64().unwrap_or(0.0);
        let (used, size) = (number("in_use"), number("size"));
        // The large ones lie ready in the ports.
        if pool["pool"] == "small" && size > 0.0 && used / size > NEARLY_ALL {
            report.warn(
                "packet memory",
                format!("{used} of {size} packets are in use"),
                "give it more: Dataplane.HugepageMb and scripts/hugepages",
            );
        }
    }
    let count = |field: &str| dataplane[field].as_f64().unwrap_or(0.0);
    let (flows, capacity, evicted) = (
        count("flows"),
        count("flow_capacity"),
        count("flows_evicted"),
    );
    if evicted > 0.0 || capacity > 0.0 && flows / capacity > NEARLY_ALL {
        report.warn(
            "flow table",
            format!("{flows} of {capacity} flows, and {evicted} live ones were given up for want of room"),
            "raise Dataplane.Flows, and restart",
        );
    } else {
        report.ok("flow table", format!("{flows} of {capacity} flows"));
    }
    let mut quiet = true;
    for (reason, what, remedy) in TELLING {
        let dropped = dataplane["drops"][reason].as_u64().unwrap_or(0);
        if dropped > 0 {
            quiet = false;
            report.warn(
                "drops",
                format!("{dropped} packets: {what} ({reason})"),
                remedy,
            );
        }
    }
    for port in dataplane["ports"].as_array().into_iter().flatten() {
        let lost = port["counts"]["kernel_drops"].as_u64().unwrap_or(0);
        if lost > 0 {
            quiet = false;
            let role = port["role"].as_str().unwrap_or_default();
            report.warn(
                "drops",
                format!("{lost} packets: the kernel had no room in the {role} port's sockets, because no worker read them in time"),
                "more workers or cores: Dataplane.Workers; what else runs on theirs?",
            );
        }
    }
    if quiet {
        report.ok("drops", "none that mean trouble here");
    }
    machines(patient, report);
    for device in dataplane["devices"].as_array().into_iter().flatten() {
        let missed = device["missed"].as_u64().unwrap_or(0);
        if missed > 0 {
            report.warn(
                "device",
                format!(
                    "{} lost {missed} packets because no worker polled in time",
                    device["device"]
                ),
                "more workers: Dataplane.Workers, on cores that nothing else uses",
            );
        }
    }
}
