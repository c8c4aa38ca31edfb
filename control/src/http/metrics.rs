//! Counters in the text format of Prometheus.

use std::fmt::{Display, Write as _};

use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::App;
use crate::dns::DnsStatus;
use crate::node::{DataplaneStatus, DeviceView, PoolView, Status, WorkerView};

/// What Prometheus calls the two.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// The text as it grows.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(
            self.0,
            "# HELP netmanager_{name} {help}\n# TYPE netmanager_{name} {kind}\n"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        let _ = write!(self.0, "netmanager_{name}");
        for (n, (label, text)) in labels.iter().enumerate() {
            // Names come from job descriptions: nothing in them may end the label.
            let text = text
                .to_string()
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(
                self.0,
                "{}{label}=\"{text}\"",
                if n == 0 { '{' } else { ',' }
            );
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }
}

type Sampled<T> = (&'static str, Kind, &'static str, fn(&T) -> f64);

use Kind::{Counter, Gauge};

/// Seconds are floating point, everything else is whole numbers.
const STATUS: [Sampled<Status>; 17] = [
    (
        "up",
        Gauge,
        "Whether the node has its subnetwork and forwards.",
        |s| s.up.into(),
    ),
    ("uptime_seconds", Gauge, "Time since the start.", |s| {
        whole(s.uptime_seconds)
    }),
    (
        "link_connected",
        Gauge,
        "Whether the broker is connected.",
        |s| s.link.connected.into(),
    ),
    (
        "link_changed_timestamp_seconds",
        Gauge,
        "When the link came or went last, in Unix time; 0 before the first try.",
        |s| whole(s.link.since.unwrap_or(0)),
    ),
    (
        "link_connections_total",
        Counter,
        "Connections made to the broker.",
        |s| whole(s.link.connections),
    ),
    ("containers", Gauge, "Attached containers.", |s| {
        count(s.containers.len())
    }),
    ("subnetworks", Gauge, "Subnetworks held.", |s| {
        count(s.subnetworks.len())
    }),
    (
        "jobs_followed",
        Gauge,
        "Jobs whose changes this node follows.",
        |s| count(s.link.jobs.len()),
    ),
    (
        "table_queries",
        Gauge,
        "Table queries unanswered or waiting.",
        |s| count(s.link.queries),
    ),
    (
        "table_queries_in_flight",
        Gauge,
        "Table queries unanswered.",
        |s| count(s.link.queries_in_flight),
    ),
    (
        "table_queries_repeated_total",
        Counter,
        "Table queries sent again for want of an answer.",
        |s| whole(s.link.queries_repeated),
    ),
    (
        "announcements_unconfirmed",
        Gauge,
        "Announcements that the cluster has not confirmed.",
        |s| count(s.link.unconfirmed),
    ),
    (
        "malformed_messages_total",
        Counter,
        "Messages that could not be understood.",
        |s| whole(s.link.malformed),
    ),
    (
        "addresses_resting",
        Gauge,
        "Addresses that were given back and rest before they are given again.",
        |s| count(s.resting),
    ),
    (
        "addresses_reused_early_total",
        Counter,
        "Addresses handed out again before they had rested.",
        |s| whole(s.reused_early),
    ),
    (
        "mtu_bytes",
        Gauge,
        "What containers may send in one packet.",
        |s| f64::from(s.mtu),
    ),
    (
        "dataplane_answers",
        Gauge,
        "Whether the data plane gives its counters.",
        |s| s.dataplane.is_some().into(),
    ),
];

/// Exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn whole(number: u64) -> f64 {
    number as f64
}

fn count(number: usize) -> f64 {
    whole(number as u64)
}

pub(super) async fn metrics(State(app): State<App>) -> Response {
    let status = app.node.status().await;
    let mut text = Exposition::default();
    text.family(
        "build_info",
        "gauge",
        "Always 1; the label says which version runs.",
    );
    text.sample("build_info", &[("version", &status.version)], 1);
    for (name, kind, help, of) in STATUS {
        text.family(name, kind.name(), help);
        text.sample(name, &[], of(&status));
    }
    if let Some(dns) = &status.dns {
        names(&mut text, dns);
    }
    if let Some(dataplane) = &status.dataplane {
        packets(&mut text, dataplane);
        kept_apart(&mut text, dataplane);
        workings(&mut text, dataplane);
    }
    ([("content-type", "text/plain; version=0.0.4")], text.0).into_response()
}

fn names(text: &mut Exposition, dns: &DnsStatus) {
    text.gauge(
        "dns_addresses",
        "Addresses on which DNS is served.",
        dns.listening.len() as u64,
    );
    text.gauge(
        "dns_addresses_refused",
        "Gateway addresses on which DNS cannot be served.",
        dns.problems.len() as u64,
    );
    text.family(
        "dns_queries_total",
        "counter",
        "DNS queries of containers and of the node, by what became of them.",
    );
    for (answer, queries) in &dns.queries {
        text.sample("dns_queries_total", &[("answer", answer)], queries);
    }
}

const WORKERS: [Sampled<WorkerView>; 3] = [
    (
        "worker_busy_seconds_total",
        Counter,
        "Time that the worker spent in rounds that moved packets.",
        |w| w.busy_seconds,
    ),
    (
        "worker_seconds_total",
        Counter,
        "Time since the worker began.",
        |w| w.alive_seconds,
    ),
    (
        "worker_flows",
        Gauge,
        "Live flows of the worker's shard.",
        |w| whole(w.flows),
    ),
];

const POOLS: [Sampled<PoolView>; 2] = [
    ("mempool_mbufs", Gauge, "Mbufs that the pool has.", |p| {
        whole(p.size)
    }),
    (
        "mempool_mbufs_in_use",
        Gauge,
        "Mbufs of the pool that are in use, those that lie ready in ports among them.",
        |p| whole(p.in_use),
    ),
];

const DEVICES: [Sampled<DeviceView>; 9] = [
    (
        "device_up",
        Gauge,
        "1 if the device's link is up; of a vhost-user port, if a virtual machine is connected.",
        |d| whole(u64::from(d.up)),
    ),
    (
        "device_received_packets_total",
        Counter,
        "Packets that the device received.",
        |d| whole(d.received_packets),
    ),
    (
        "device_received_bytes_total",
        Counter,
        "Their bytes.",
        |d| whole(d.received_bytes),
    ),
    (
        "device_sent_packets_total",
        Counter,
        "Packets that the device sent.",
        |d| whole(d.sent_packets),
    ),
    ("device_sent_bytes_total", Counter, "Their bytes.", |d| {
        whole(d.sent_bytes)
    }),
    (
        "device_missed_packets_total",
        Counter,
        "Packets lost because no worker polled in time (imissed).",
        |d| whole(d.missed),
    ),
    (
        "device_receive_errors_total",
        Counter,
        "Bad packets (ierrors).",
        |d| whole(d.receive_errors),
    ),
    (
        "device_send_errors_total",
        Counter,
        "Packets that could not be sent (oerrors).",
        |d| whole(d.send_errors),
    ),
    (
        "device_no_mbuf_total",
        Counter,
        "Packets lost because no mbuf was free (rx_nombuf).",
        |d| whole(d.no_mbuf),
    ),
];

/// How the data plane itself fares.
fn workings(text: &mut Exposition, dataplane: &DataplaneStatus) {
    text.gauge(
        "commands_waiting",
        "Commands that wait for the control thread.",
        dataplane.commands_waiting as u64,
    );
    text.gauge(
        "unresolved_addresses",
        "Addresses that the cluster was asked for and has not answered.",
        dataplane.unresolved as u64,
    );
    for (name, kind, help, of) in WORKERS {
        text.family(name, kind.name(), help);
        for worker in &dataplane.cores {
            text.sample(name, &[("worker", &worker.worker)], of(worker));
        }
    }
    for (name, kind, help, of) in POOLS {
        text.family(name, kind.name(), help);
        for pool in &dataplane.pools {
            text.sample(name, &[("pool", &pool.pool)], of(pool));
        }
    }
    for (name, kind, help, of) in DEVICES {
        text.family(name, kind.name(), help);
        for device in &dataplane.devices {
            let labels: [(&str, &dyn Display); 2] =
                [("device", &device.device), ("role", &device.role)];
            text.sample(name, &labels, of(device));
        }
    }
}

/// The totals, in whose terms received and made packets are those sent, dropped, consumed and waiting.
fn packets(text: &mut Exposition, dataplane: &DataplaneStatus) {
    text.gauge("flows", "Live flows.", dataplane.flows);
    text.gauge(
        "flow_capacity",
        "Flows that the table holds.",
        dataplane.flow_capacity,
    );
    text.gauge(
        "packets_waiting",
        "Packets that wait for a route.",
        dataplane.waiting,
    );
    text.family(
        "flows_evicted_total",
        "counter",
        "Live flows given up because there was no room.",
    );
    text.sample("flows_evicted_total", &[], dataplane.flows_evicted);
    for (name, label, counts, help) in [
        (
            "packets_received_total",
            "port",
            &dataplane.received,
            "Packets received, by the role of the port.",
        ),
        (
            "packets_made_total",
            "kind",
            &dataplane.made,
            "Packets made by the node itself.",
        ),
        (
            "packets_sent_total",
            "port",
            &dataplane.sent,
            "Packets sent, by the role of the port.",
        ),
        (
            "packets_dropped_total",
            "reason",
            &dataplane.drops,
            "Packets dropped, by reason.",
        ),
        (
            "packets_consumed_total",
            "kind",
            &dataplane.consumed,
            "Packets that ended here, their purpose served.",
        ),
        (
            "events_total",
            "event",
            &dataplane.events,
            "Other events of the data plane.",
        ),
    ] {
        text.family(name, "counter", help);
        let mut counts: Vec<_> = counts.iter().collect();
        counts.sort_unstable();
        for (value, packets) in counts {
            text.sample(name, &[(label, value)], packets);
        }
    }
    text.family(
        "port_events_total",
        "counter",
        "What the kernel's ports count themselves, by the role of the port.",
    );
    for port in &dataplane.ports {
        for (name, count) in &port.counts {
            text.sample(
                "port_events_total",
                &[("port", &port.role), ("event", name)],
                count,
            );
        }
    }
}

type Of<T> = fn(&T) -> u64;

/// The same per container, policy and service.
fn kept_apart(text: &mut Exposition, dataplane: &DataplaneStatus) {
    let containers: [(&str, &str, Of<crate::node::PortView>); 5] = [
        (
            "container_received_packets_total",
            "Frames from the container.",
            |c| c.packets_in,
        ),
        (
            "container_received_bytes_total",
            "Bytes from the container.",
            |c| c.bytes_in,
        ),
        (
            "container_sent_packets_total",
            "Frames to the container.",
            |c| c.packets_out,
        ),
        (
            "container_sent_bytes_total",
            "Bytes to the container.",
            |c| c.bytes_out,
        ),
        (
            "container_refused_packets_total",
            "Of the frames to the container, those that its port did not take.",
            |c| c.refused,
        ),
    ];
    for (name, help, of) in containers {
        text.family(name, "counter", help);
        for container in &dataplane.containers {
            text.sample(
                name,
                &[
                    ("job", &container.job),
                    ("instance", &container.instance),
                    ("interface", &container.interface),
                ],
                of(container),
            );
        }
    }
    let policies: [(&str, &str, Of<crate::node::PolicyView>); 2] = [
        (
            "policy_picks_total",
            "Times that the policy picked an instance.",
            |p| p.picks,
        ),
        (
            "policy_refusals_total",
            "Times that the policy found no instance.",
            |p| p.refusals,
        ),
    ];
    for (name, help, of) in policies {
        text.family(name, "counter", help);
        for policy in &dataplane.policies {
            text.sample(name, &[("policy", &policy.policy)], of(policy));
        }
    }
    let services: [(&str, &str, &str, Of<crate::node::ServiceView>); 4] = [
        (
            "service_flows_opened_total",
            "counter",
            "Flows opened to the service.",
            |s| s.opened,
        ),
        (
            "service_flows",
            "gauge",
            "Live flows to the service.",
            |s| s.live,
        ),
        (
            "service_packets_total",
            "counter",
            "Packets of the service's flows, both directions.",
            |s| s.packets,
        ),
        (
            "service_refused_packets_total",
            "counter",
            "Packets refused because the service had no instance, or the flow's had gone.",
            |s| s.refused,
        ),
    ];
    for (name, kind, help, of) in services {
        text.family(name, kind, help);
        for service in &dataplane.services {
            text.sample(
                name,
                &[("job", &service.job), ("policy", &service.policy)],
                of(service),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Exposition::default();
        text.sample("x_total", &[("a", &"b\"c\\"), ("n", &7)], 5);
        text.sample("y", &[], 1);
        assert_eq!(
            text.0,
            "netmanager_x_total{a=\"b\\\"c\\\\\",n=\"7\"} 5\nnetmanager_y 1\n"
        );
    }
}
