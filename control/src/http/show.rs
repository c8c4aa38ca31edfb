//! What people and their tools look at: routes, flows, metrics.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::App;
use crate::forwarding::{FlowLine, RouteLine};
use crate::node::Refusal;

/// One line of the route table.
#[derive(Debug, Serialize, Deserialize)]
pub struct RouteView {
    /// The job.
    pub job: String,
    /// The dialled address.
    pub address: IpAddr,
    /// What kind of address it is.
    pub kind: String,
    /// Where it leads.
    pub backends: Vec<BackendView>,
}

/// One backend of a route.
#[derive(Debug, Serialize, Deserialize)]
pub struct BackendView {
    /// Number of the instance.
    pub instance: u32,
    /// Its namespace IP.
    pub address: IpAddr,
    /// `local`, or the tunnel endpoint of its node.
    pub via: String,
}

impl From<RouteLine> for RouteView {
    fn from(line: RouteLine) -> Self {
        Self {
            job: line.job,
            address: line.address,
            kind: line.kind.to_owned(),
            backends: line
                .backends
                .into_iter()
                .map(|(instance, address, via)| BackendView {
                    instance,
                    address,
                    via,
                })
                .collect(),
        }
    }
}

/// One live flow.
#[derive(Debug, Serialize, Deserialize)]
pub struct FlowView {
    /// IP protocol number.
    pub protocol: u8,
    /// Client's namespace address and port.
    pub client: SocketAddr,
    /// Dialled address and port.
    pub service: SocketAddr,
    /// The chosen instance's namespace address.
    pub backend: Option<IpAddr>,
    /// Seconds until it is forgotten if no packet comes.
    pub expires_in_seconds: f64,
}

impl From<FlowLine> for FlowView {
    fn from(line: FlowLine) -> Self {
        Self {
            protocol: line.protocol,
            client: line.client,
            service: line.service,
            backend: line.backend,
            expires_in_seconds: line.expires_in.as_secs_f64(),
        }
    }
}

pub(super) fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal {
        status: 500,
        message: error.to_string(),
    }
}

pub(super) async fn routes(State(app): State<App>) -> Result<Response, Refusal> {
    let forwarding = app.node.forwarding();
    let lines = tokio::task::spawn_blocking(move || forwarding.routes())
        .await
        .map_err(failed)?
        .map_err(failed)?;
    let views: Vec<RouteView> = lines.into_iter().map(Into::into).collect();
    Ok(axum::Json(views).into_response())
}

#[derive(Deserialize)]
pub(super) struct Limit {
    #[serde(default = "many")]
    limit: usize,
}

fn many() -> usize {
    1000
}

pub(super) async fn flows(
    State(app): State<App>,
    Query(limit): Query<Limit>,
) -> Result<Response, Refusal> {
    let forwarding = app.node.forwarding();
    let lines = tokio::task::spawn_blocking(move || forwarding.flows(limit.limit))
        .await
        .map_err(failed)?
        .map_err(failed)?;
    let views: Vec<FlowView> = lines.into_iter().map(Into::into).collect();
    Ok(axum::Json(views).into_response())
}

/// Counters in the text format of Prometheus.
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let status = app.node.status().await;
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: u64| {
        let _ = write!(
            text,
            "# HELP netmanager_{name} {help}\n# TYPE netmanager_{name} gauge\nnetmanager_{name} {value}\n"
        );
    };
    gauge(
        "up",
        "Whether the node has its subnetwork and forwards.",
        status.up.into(),
    );
    gauge(
        "link_connected",
        "Whether the broker is connected.",
        status.link.connected.into(),
    );
    gauge(
        "containers",
        "Attached containers.",
        status.containers.len() as u64,
    );
    gauge(
        "subnetworks",
        "Subnetworks held.",
        status.subnetworks.len() as u64,
    );
    gauge(
        "table_queries",
        "Table queries unanswered or waiting.",
        status.link.queries as u64,
    );
    gauge(
        "announcements_unconfirmed",
        "Announcements that the cluster has not confirmed.",
        status.link.unconfirmed as u64,
    );
    gauge(
        "malformed_messages",
        "Messages that could not be understood.",
        status.link.malformed,
    );
    gauge(
        "addresses_reused_early",
        "Addresses handed out again before they had rested.",
        status.reused_early,
    );
    if let Some(dataplane) = status.dataplane {
        gauge("flows", "Live flows.", dataplane.flows);
        gauge(
            "flow_capacity",
            "Flows that the table holds.",
            dataplane.flow_capacity,
        );
        gauge(
            "packets_waiting",
            "Packets that wait for a route.",
            dataplane.waiting,
        );
        for (name, label, counts) in [
            ("packets_received", "port", dataplane.received),
            ("packets_sent", "port", dataplane.sent),
            ("packets_dropped", "reason", dataplane.drops),
            ("events", "event", dataplane.events),
        ] {
            let _ = writeln!(text, "# TYPE netmanager_{name}_total counter");
            let mut counts: Vec<_> = counts.into_iter().collect();
            counts.sort_unstable();
            for (value, packets) in counts {
                let _ = writeln!(
                    text,
                    "netmanager_{name}_total{{{label}=\"{value}\"}} {packets}"
                );
            }
        }
    }
    ([("content-type", "text/plain; version=0.0.4")], text).into_response()
}
