//! Becoming a node of a cluster, and staying one over restarts of either side.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use protocol::node_http::Register;

use super::{Node, PATIENCE, Refusal};
use crate::cluster_link::{Broker, ClusterLink, Command};
use crate::config::NetConfig;
use crate::host;
use crate::state::Identity;

/// How long one try to come back may keep a `/register` waiting.
const TURN: Duration = Duration::from_secs(2);

impl Node {
    /// `POST /register`: answers once the node has its subnetwork and forwards.
    ///
    /// # Errors
    /// 400 for a bad body or another id than the one registered, 500 when the node could not come up in time.
    pub async fn register(self: &Arc<Self>, request: Register) -> Result<(), Refusal> {
        let mut wanted = Identity {
            client_id: request.client_id,
            cluster_address: request.cluster_address.trim().to_owned(),
        };
        if !protocol::topic::is_valid_node_id(&wanted.client_id) {
            return Err(Refusal::bad(format!(
                "client_id `{}` cannot be used: it must not be empty nor contain / + or #",
                wanted.client_id
            )));
        }
        let called = Instant::now();
        let _turn = self.registering.lock().await;
        let before = {
            let inner = self.inner();
            // A caller that names no cluster, of a node that is in one already, means that one.
            if wanted.cluster_address.is_empty()
                && self.options.net.cluster_host.is_none()
                && let Some(identity) = &inner.state.identity
                && identity.client_id == wanted.client_id
            {
                wanted.cluster_address.clone_from(&identity.cluster_address);
            }
            if inner.confirmed
                && let Some(identity) = &inner.state.identity
            {
                if identity.client_id != wanted.client_id {
                    return Err(Refusal::bad(format!(
                        "this node is registered as {}; restart the Net Manager to register it as {}",
                        identity.client_id, wanted.client_id
                    )));
                }
                if inner.up && identity.cluster_address == wanted.cluster_address {
                    return Ok(());
                }
            }
            inner.state.identity.clone()
        };
        let yields = before
            .as_ref()
            .is_some_and(|before| before.client_id != wanted.client_id);
        if before.as_ref() != Some(&wanted) {
            self.drop_link(yields).await;
            self.inner().up = false;
        }
        let patience = PATIENCE.saturating_sub(called.elapsed());
        let outcome = self.bring_up(&wanted, patience).await;
        match outcome {
            Ok(()) => {
                {
                    let mut inner = self.inner();
                    inner.confirmed = true;
                    // Told by now, over the link that stays.
                    inner.ended_unseen.clear();
                }
                if yields && let Some(before) = before {
                    tracing::info!(
                        old = before.client_id,
                        new = wanted.client_id,
                        "the cluster knows this node by another id now"
                    );
                    self.announce_all();
                    self.give_back_surplus().await;
                }
                self.save_or_log().await;
                Ok(())
            }
            Err(message) => {
                if before.as_ref() != Some(&wanted) {
                    self.drop_link(false).await;
                    // A move that failed leaves the node where it was.
                    self.resume();
                }
                Err(Refusal::failed(format!("not registered: {message}")))
            }
        }
    }

    async fn drop_link(&self, offline: bool) {
        let link = self
            .link
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(link) = link {
            link.stop(offline).await;
        }
    }

    /// Comes back under the identity of the last run, however long the cluster takes.
    pub(super) fn resume(self: &Arc<Self>) {
        let Some(identity) = self.inner().state.identity.clone() else {
            return;
        };
        let node = Arc::clone(self);
        self.keep_task(tokio::spawn(async move {
            loop {
                {
                    let _turn = node.registering.lock().await;
                    let current = node.inner().state.identity.clone();
                    if node.inner().up || current.as_ref() != Some(&identity) {
                        return;
                    }
                    match node.bring_up(&identity, TURN).await {
                        Ok(()) => return,
                        Err(reason) => {
                            tracing::warn!(%reason, "not back in the cluster yet; trying again");
                        }
                    }
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }));
    }

    async fn bring_up(
        self: &Arc<Self>,
        identity: &Identity,
        patience: Duration,
    ) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        let broker = broker(&self.options.net, identity)?;
        let endpoint = self.endpoint_by(deadline).await?;
        let link = {
            let mut slot = self.link.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slot.get_or_insert_with(|| {
                Arc::new(ClusterLink::start(
                    broker,
                    Arc::clone(&self.forwarding),
                    Arc::clone(&self.sequence),
                    Arc::clone(&self.names),
                ))
            }))
        };
        link.tell(Command::Endpoint(endpoint, self.options.net.public_port));
        if !self.inner().state.ledger.has_any(&identity.client_id) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(result) = link.subnet(None, left).await else {
                let status = link.status();
                return Err(match status.last_error {
                    Some(error) if !status.connected => error,
                    _ if status.connected => "the cluster service manager gave no subnetwork in time; is it running, and does the broker let this node publish?".to_owned(),
                    _ => "the broker did not answer in time".to_owned(),
                });
            };
            self.inner().state.ledger.take_in(
                result.address,
                result.addressv6,
                &identity.client_id,
            );
        }
        self.inner().state.identity = Some(identity.clone());
        self.apply_subnets().await?;
        self.announce_all();
        self.save_or_log().await;
        self.inner().up = true;
        tracing::info!(
            node = identity.client_id,
            subnetworks = self.inner().state.ledger.subnets().len(),
            "the node is up"
        );
        Ok(())
    }

    /// Says of every container that it is here, and of those that ended while nobody watched that they are not.
    fn announce_all(&self) {
        let (containers, ended) = {
            let inner = self.inner();
            (inner.state.containers.clone(), inner.ended_unseen.clone())
        };
        for container in ended {
            let back = containers
                .iter()
                .any(|other| other.job == container.job && other.number == container.number);
            if !back {
                let namespace = container.namespace();
                self.tell_link(Command::Leave(container.job, container.number, namespace));
            }
        }
        for container in containers {
            let namespace = container.namespace();
            self.tell_link(Command::Arrive(container.job, container.number, namespace));
        }
    }

    /// The tunnel endpoint, waited for: a node that starts before its network says so.
    async fn endpoint_by(&self, deadline: Instant) -> Result<std::net::IpAddr, String> {
        loop {
            let changed = self.address_changed.notified();
            if let Some(address) = self.current_endpoint().await {
                return Ok(address);
            }
            let waiting = "this node has no default route, hence no address to announce; connect it, or set NodePublicAddress in netcfg.json";
            tracing::warn!("{waiting}");
            if tokio::time::timeout_at(deadline.into(), changed)
                .await
                .is_err()
            {
                return Err(waiting.to_owned());
            }
        }
    }

    /// Looks the endpoint up and remembers it.
    pub(super) async fn current_endpoint(&self) -> Option<std::net::IpAddr> {
        let net = &self.options.net;
        let found = match net.public_address {
            Some(address) => Some(address),
            None => {
                match host::public_address(&self.netlink, net.default_interface.as_deref()).await {
                    Ok(found) => found,
                    Err(error) => {
                        tracing::warn!(%error, "the node's address could not be looked up");
                        None
                    }
                }
            }
        };
        if let Some(address) = found {
            self.inner().endpoint = Some(address);
        }
        found
    }

    /// Gives back subnetworks that nobody needs, and those of a former id.
    pub(super) async fn give_back_surplus(&self) {
        let given = {
            let mut inner = self.inner();
            let Some(identity) = inner.state.identity.clone() else {
                return;
            };
            inner
                .state
                .ledger
                .give_back(&identity.client_id, crate::state::now())
        };
        if given.is_empty() {
            return;
        }
        for held in given {
            tracing::info!(subnetwork = ?held.v4, "subnetwork given back");
            self.tell_link(Command::GiveBack(held.owner, held.v4));
        }
        if let Err(error) = self.apply_subnets().await {
            tracing::warn!(%error, "the host interface could not be adjusted");
        }
        self.save_or_log().await;
    }
}

/// Where the broker is for an identity.
pub(super) fn broker(net: &NetConfig, identity: &Identity) -> Result<Broker, String> {
    let host = if identity.cluster_address.is_empty() {
        net.cluster_host.clone()
    } else {
        Some(identity.cluster_address.clone())
    };
    let host = host.ok_or("the cluster's address is not known: set ClusterUrl in netcfg.json, or send cluster_address with /register")?;
    let host = host
        .trim_start_matches("http://")
        .trim_start_matches("https://")
        .trim_end_matches('/')
        .trim_matches(['[', ']'])
        .to_owned();
    Ok(Broker {
        client_id: identity.client_id.clone(),
        host,
        port: net.cluster_port,
        tls: net.tls.clone(),
    })
}
