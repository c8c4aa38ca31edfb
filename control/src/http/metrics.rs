//! Counters in the text format of Prometheus.

use std::fmt::{Display, Write as _};

use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::App;
use crate::dns::DnsStatus;
use crate::node::DataplaneStatus;

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

pub(super) async fn metrics(State(app): State<App>) -> Response {
    let status = app.node.status().await;
    let mut text = Exposition::default();
    text.gauge(
        "up",
        "Whether the node has its subnetwork and forwards.",
        status.up.into(),
    );
    text.gauge(
        "link_connected",
        "Whether the broker is connected.",
        status.link.connected.into(),
    );
    text.gauge(
        "containers",
        "Attached containers.",
        status.containers.len() as u64,
    );
    text.gauge(
        "subnetworks",
        "Subnetworks held.",
        status.subnetworks.len() as u64,
    );
    text.gauge(
        "table_queries",
        "Table queries unanswered or waiting.",
        status.link.queries as u64,
    );
    text.gauge(
        "announcements_unconfirmed",
        "Announcements that the cluster has not confirmed.",
        status.link.unconfirmed as u64,
    );
    text.gauge(
        "malformed_messages",
        "Messages that could not be understood.",
        status.link.malformed,
    );
    text.gauge(
        "addresses_reused_early",
        "Addresses handed out again before they had rested.",
        status.reused_early,
    );
    if let Some(dns) = &status.dns {
        names(&mut text, dns);
    }
    if let Some(dataplane) = &status.dataplane {
        packets(&mut text, dataplane);
        kept_apart(&mut text, dataplane);
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
