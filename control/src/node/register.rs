//! Becoming a node of a cluster, and staying one over restarts of either side.

use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use protocol::node_http::Register;

use super::{Node, PATIENCE, Refusal};
use crate::cluster_link::{Broker, ClusterLink, Command};
use crate::config::NetConfig;
use crate::host;
use crate::state::Identity;

/// How long one try to come back may keep a `/register` waiting.
const TURN: Duration = Duration::from_secs(2);

/// Jobs come in crowds; the state file is written once for each.
const SETTLE: Duration = Duration::from_secs(1);

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
        if !wanted.cluster_address.is_empty() {
            cluster_address(&wanted.cluster_address).map_err(Refusal::bad)?;
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
        let (interests, departures) = {
            let state = &self.inner().state;
            (state.interests.clone(), state.departures.clone())
        };
        let link = {
            let mut slot = self.link.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(link) = &*slot {
                Arc::clone(link)
            } else {
                let link = Arc::new(ClusterLink::start(
                    broker,
                    Arc::clone(&self.forwarding),
                    Arc::clone(&self.sequence),
                    Arc::clone(&self.names),
                    &interests,
                    &departures,
                ));
                self.keep_task(tokio::spawn(remember(
                    Arc::downgrade(self),
                    Arc::downgrade(&link),
                )));
                *slot = Some(Arc::clone(&link));
                link
            }
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

/// Keeps the state file's lists of followed jobs, so that a restart follows them without waiting for a packet (those of
/// an established flow ask for nothing), and of departures that the cluster has yet to hear of.
async fn remember(node: Weak<Node>, link: Weak<ClusterLink>) {
    loop {
        {
            // An idle link must not be kept from ending.
            let Some(changed) = link.upgrade().map(|link| link.kept_changes()) else {
                return;
            };
            changed.notified().await;
        }
        tokio::time::sleep(SETTLE).await;
        let Some(node) = node.upgrade() else { return };
        node.save_or_log().await;
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
    let (host, port) = cluster_address(&host)?;
    Ok(Broker {
        client_id: identity.client_id.clone(),
        host,
        port: port.unwrap_or(net.cluster_port),
        tls: net.tls.clone(),
    })
}

/// Host and, where it is said, MQTT port of a cluster's address as people write it: `host`, `host:port`, an IPv6 address
/// with or without brackets, a URL. The port of a web address is not the broker's.
fn cluster_address(text: &str) -> Result<(String, Option<u16>), String> {
    let bad = || {
        format!(
            "cluster_address `{text}` is no address: write a host name or an IP address, as in cluster.example, 192.0.2.1, 192.0.2.1:10003 or [2001:db8::1]:10003"
        )
    };
    let (scheme, rest) = text.trim().split_once("://").unwrap_or(("", text.trim()));
    let rest = rest.split('/').next().unwrap_or_default();
    let (host, port) = if let Some(rest) = rest.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(bad)?;
        let port = match port {
            "" => None,
            _ => Some(port.strip_prefix(':').ok_or_else(bad)?),
        };
        (host, port)
    } else if rest.parse::<std::net::Ipv6Addr>().is_ok() {
        (rest, None)
    } else {
        match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        }
    };
    let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
    let is_name = host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if host.is_empty() || !(is_v6 || is_name) {
        return Err(bad());
    }
    let port = match port {
        Some(port) => Some(
            port.parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(bad)?,
        ),
        None => None,
    };
    let of_broker = !matches!(scheme, "http" | "https");
    Ok((host.to_owned(), port.filter(|_| of_broker)))
}

#[cfg(test)]
mod tests {
    use super::cluster_address;

    #[test]
    fn a_clusters_address_is_read_as_people_write_it() {
        for (text, host, port) in [
            ("192.0.2.1", "192.0.2.1", None),
            (" cluster.example ", "cluster.example", None),
            ("192.0.2.1:1883", "192.0.2.1", Some(1883)),
            ("mqtt://broker_1:1883", "broker_1", Some(1883)),
            ("http://192.0.2.1:10100/api", "192.0.2.1", None),
            ("https://cluster/", "cluster", None),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("[2001:db8::1]:1883", "2001:db8::1", Some(1883)),
        ] {
            assert_eq!(cluster_address(text), Ok((host.to_owned(), port)), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_examples() {
        for text in [
            "",
            " ",
            "http://",
            "a b",
            "host:",
            "host:0",
            "host:65536",
            "host:x",
            "[::1",
            "[::1]x",
            "a:b:c",
            "::zz",
            "*",
        ] {
            let refused = cluster_address(text).unwrap_err();
            assert!(refused.contains("192.0.2.1:10003"), "{refused}");
        }
    }
}
