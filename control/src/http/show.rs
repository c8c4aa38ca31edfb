//! What people and their tools look at: routes and flows.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::App;
use crate::forwarding::{CommandError, FlowLine, RouteLine, ServiceCounts};
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
    /// What is counted of a Service IP's job and policy; absent for other addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<CountsView>,
}

/// What a service has seen since its route became known.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct CountsView {
    /// Flows opened.
    pub opened: u64,
    /// Live flows.
    pub live: u64,
    /// Packets of its flows, both directions.
    pub packets: u64,
    /// Packets refused for want of an instance.
    pub refused: u64,
}

impl From<&ServiceCounts> for CountsView {
    fn from(counts: &ServiceCounts) -> Self {
        Self {
            opened: counts.opened,
            live: counts.live,
            packets: counts.packets,
            refused: counts.refused,
        }
    }
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
            counts: None,
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
    /// Its job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u32>,
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
            job: None,
            instance: None,
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
    let (lines, services) = tokio::task::spawn_blocking(move || {
        Ok::<_, CommandError>((forwarding.routes()?, forwarding.stats()?.services))
    })
    .await
    .map_err(failed)?
    .map_err(failed)?;
    let counts: HashMap<IpAddr, CountsView> = services
        .iter()
        .flat_map(|service| service.addresses.iter().map(move |a| (*a, service.into())))
        .collect();
    let views: Vec<RouteView> = lines
        .into_iter()
        .map(RouteView::from)
        .map(|view| RouteView {
            counts: counts.get(&view.address).copied(),
            ..view
        })
        .collect();
    Ok(axum::Json(views).into_response())
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default = "many")]
    limit: usize,
    address: Option<IpAddr>,
    job: Option<String>,
}

fn many() -> usize {
    1000
}

pub(super) async fn flows(
    State(app): State<App>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Refusal> {
    let forwarding = app.node.forwarding();
    let (lines, backends) = tokio::task::spawn_blocking(move || {
        // What is not wanted must not use up the limit.
        let all = wanted.address.is_some() || wanted.job.is_some();
        let limit = if all { usize::MAX } else { wanted.limit };
        let lines = forwarding.flows(limit)?;
        let backends: HashMap<IpAddr, (String, u32)> = forwarding
            .backends()?
            .into_iter()
            .flat_map(|line| {
                let owner = (line.job, line.instance);
                line.namespace
                    .iter()
                    .map(move |address| (address, owner.clone()))
            })
            .collect();
        let of = |address: IpAddr| backends.get(&address).map(|(job, _)| job.as_str());
        let wanted_here = |line: &FlowLine| {
            let (client, dialled) = (line.client.ip(), line.service.ip());
            let by_address = wanted.address.is_none_or(|address| {
                client == address || dialled == address || line.backend == Some(address)
            });
            let by_job = wanted.job.as_deref().is_none_or(|job| {
                of(client) == Some(job) || line.backend.and_then(of) == Some(job)
            });
            by_address && by_job
        };
        let lines: Vec<FlowLine> = lines
            .into_iter()
            .filter(wanted_here)
            .take(wanted.limit)
            .collect();
        Ok::<_, CommandError>((lines, backends))
    })
    .await
    .map_err(failed)?
    .map_err(failed)?;
    let views: Vec<FlowView> = lines
        .into_iter()
        .map(|line| {
            let owner = line.backend.and_then(|address| backends.get(&address));
            FlowView {
                job: owner.map(|(job, _)| job.clone()),
                instance: owner.map(|(_, number)| *number),
                ..line.into()
            }
        })
        .collect();
    Ok(axum::Json(views).into_response())
}

/// Another node that instances are said to run on.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerView {
    /// Its tunnel endpoint.
    pub endpoint: SocketAddr,
    /// The longest packet of a container that the path there carries, in bytes, if that is known.
    pub mtu: Option<u16>,
    /// Whether there is a way there.
    pub routed: bool,
    /// Measured round trip.
    pub round_trip_ms: Option<f64>,
    /// Whether the other node answers our probes.
    pub answers_probes: bool,
    /// Probes, one after the other, that it has left unanswered.
    pub unanswered_probes: u32,
}

pub(super) async fn peers(State(app): State<App>) -> Result<Response, Refusal> {
    let forwarding = app.node.forwarding();
    let lines = tokio::task::spawn_blocking(move || forwarding.peers())
        .await
        .map_err(failed)?
        .map_err(failed)?;
    let views: Vec<PeerView> = lines
        .into_iter()
        .map(|line| PeerView {
            endpoint: line.endpoint,
            mtu: line.mtu,
            routed: line.routed,
            round_trip_ms: line.round_trip.map(|time| time.as_secs_f64() * 1e3),
            answers_probes: line.answers_probes,
            unanswered_probes: line.unanswered,
        })
        .collect();
    Ok(axum::Json(views).into_response())
}
