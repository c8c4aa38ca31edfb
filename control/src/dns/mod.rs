//! DNS for containers: the names of services and instances (contract section 1), and everything else by the host's
//! resolvers.
//!
//! It is served on the gateway address of every subnetwork that the node has, and, where the data plane catches queries
//! on their way to any other server, for those too. Only containers of this node and the node itself are answered. A
//! name that is not known here is asked for at the cluster, each query in a task of its own, so that nobody waits for
//! another's name.

mod counts;
mod forward;
mod limits;
mod listen;
mod names;
mod question;
mod resolvers;
mod reverse;
mod wire;
mod zone;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hickory_proto::rr::Name;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::DnsConfig;
use crate::forwarding::{Pair, Subnet};
use counts::{Answer, Counts};
use forward::{Forwarder, Transport};
use limits::{Limits, Share};
pub use names::Names;
use resolvers::Resolvers;
pub use zone::Lookup;
use zone::{Verdict, Zone};

/// A datagram without EDNS holds so much (RFC 1035 section 4.2.1), in bytes.
const DATAGRAM: u16 = 512;
/// Lookups that wait for the link to the cluster.
const LOOKUPS: usize = 64;

/// What `NetManager status` shows of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DnsStatus {
    /// The zone of services' names.
    pub zone: String,
    /// Where it is served.
    pub listening: Vec<SocketAddr>,
    /// Where it is not, and what to do about it.
    pub problems: Vec<String>,
    /// Queries by what became of them.
    pub queries: BTreeMap<&'static str, u64>,
}

/// What all listeners share.
struct Service {
    zone: Zone,
    forwarder: Forwarder,
    limits: Arc<Limits>,
    counts: Counts,
    subnets: RwLock<Arc<Vec<Subnet>>>,
    places: Mutex<BTreeMap<SocketAddr, Result<(), String>>>,
}

/// DNS of one node; it ends with the value.
pub struct Dns {
    service: Arc<Service>,
    listeners: Mutex<HashMap<IpAddr, JoinHandle<()>>>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        for (_, task) in self.listeners().drain() {
            task.abort();
        }
    }
}

impl Dns {
    /// Serves nowhere yet. What it wants to know of the cluster comes out of the receiver.
    pub fn new(config: &DnsConfig, names: Arc<Names>) -> (Self, mpsc::Receiver<Lookup>) {
        let (lookups, wanted) = mpsc::channel(LOOKUPS);
        let limits = Arc::new(Limits::default());
        // The configuration has been checked: it is a name.
        let zone = Name::from_ascii(format!("{}.", config.zone)).unwrap_or_else(|_| Name::root());
        let resolvers = Resolvers::new(config.resolvers.clone(), config.resolv_conf.clone());
        let service = Service {
            zone: Zone::new(zone, names, lookups, Arc::clone(&limits)),
            forwarder: Forwarder::new(resolvers),
            limits,
            counts: Counts::default(),
            subnets: RwLock::default(),
            places: Mutex::default(),
        };
        let dns = Self {
            service: Arc::new(service),
            listeners: Mutex::default(),
        };
        (dns, wanted)
    }

    fn listeners(&self) -> MutexGuard<'_, HashMap<IpAddr, JoinHandle<()>>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves on the gateways of these subnetworks from now on, and nowhere else.
    pub fn set_subnets(&self, subnets: Vec<Subnet>) {
        let wanted: Vec<IpAddr> = subnets
            .iter()
            .flat_map(|subnet| subnet.gateway.iter())
            .collect();
        self.service.set_subnets(subnets);
        let mut listeners = self.listeners();
        listeners.retain(|address, task| {
            let stays = wanted.contains(address);
            if !stays {
                task.abort();
                self.service.forget_place(*address);
            }
            stays
        });
        for address in wanted {
            listeners
                .entry(address)
                .or_insert_with(|| tokio::spawn(listen::serve(Arc::clone(&self.service), address)));
        }
    }

    /// The answer to a query that was caught on its way to another server; `None` for one that has none. Queries for
    /// other zones are not caught.
    pub async fn caught(&self, asker: IpAddr, query: &[u8]) -> Option<Vec<u8>> {
        let service = &self.service;
        let Some(_held) = service.limits.take(asker, Share::Query) else {
            service.counts.count(Answer::Limited);
            return None;
        };
        let gateway = service.gateway();
        let verdict = service
            .zone
            .answer(query, asker, gateway, Some(DATAGRAM))
            .await;
        match verdict {
            Verdict::Answer(bytes, code, records) => {
                service.counts.count(Answer::of(code, records));
                Some(bytes)
            }
            Verdict::Elsewhere | Verdict::Nothing => None,
        }
    }

    /// What people want to know.
    pub fn status(&self) -> DnsStatus {
        let zone = self.service.zone.name().to_ascii();
        let places = self.service.places();
        let (listening, problems) = places
            .iter()
            .partition::<Vec<_>, _>(|(_, place)| place.is_ok());
        DnsStatus {
            zone: zone.trim_end_matches('.').to_owned(),
            listening: listening.into_iter().map(|(place, _)| *place).collect(),
            problems: problems
                .into_iter()
                .filter_map(|(_, place)| place.clone().err())
                .collect(),
            queries: self.service.counts.all(),
        }
    }
}

impl Service {
    fn subnets(&self) -> Arc<Vec<Subnet>> {
        let subnets = self.subnets.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&subnets)
    }

    fn set_subnets(&self, new: Vec<Subnet>) {
        let mut subnets = self.subnets.write().unwrap_or_else(PoisonError::into_inner);
        *subnets = Arc::new(new);
    }

    fn gateway(&self) -> Pair {
        self.subnets()
            .first()
            .map(|subnet| subnet.gateway)
            .unwrap_or_default()
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Result<(), String>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_place(&self, address: IpAddr) {
        self.places().retain(|place, _| place.ip() != address);
    }

    /// Whether somebody may ask: a container of this node, or the node itself. An address of the host answers whatever
    /// interface a packet came by.
    fn may_ask(&self, asker: IpAddr) -> bool {
        asker.is_loopback()
            || self.subnets().iter().any(|subnet| match asker {
                IpAddr::V4(v4) => subnet
                    .v4
                    .is_some_and(|net| u32::from(net) >> 6 == u32::from(v4) >> 6),
                IpAddr::V6(v6) => subnet
                    .v6
                    .is_some_and(|net| u128::from(net) >> 8 == u128::from(v6) >> 8),
            })
    }

    /// The answer to a query, whoever has it. `None` for what is no query.
    async fn answer(&self, query: &[u8], asker: IpAddr, transport: Transport) -> Option<Vec<u8>> {
        let longest = (transport == Transport::Udp).then_some(DATAGRAM);
        let gateway = self.gateway();
        match self.zone.answer(query, asker, gateway, longest).await {
            Verdict::Answer(bytes, code, records) => {
                self.counts.count(Answer::of(code, records));
                Some(bytes)
            }
            Verdict::Elsewhere => {
                let own: Vec<IpAddr> = self
                    .subnets()
                    .iter()
                    .flat_map(|subnet| subnet.gateway.iter())
                    .collect();
                match self.forwarder.forward(query, transport, &own).await {
                    Some(answer) => {
                        self.counts.count(Answer::Forwarded);
                        Some(answer)
                    }
                    None => {
                        self.counts.count(Answer::ForwardFailed);
                        wire::failure(query)
                    }
                }
            }
            Verdict::Nothing => None,
        }
    }
}
