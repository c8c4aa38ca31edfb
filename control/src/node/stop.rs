//! Leaving: for a restart (what containers need stays), for good, or with everything given back.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Node, Options, StartError};
use crate::attach::{unikernel, vhost};
use crate::cluster_link::{self, Command};
use crate::firewall::Firewall;
use crate::netlink::Netlink;
use crate::state::StateFile;
use crate::{host, host_firewall, instance};

/// How long a deploy under way may take before this node leaves all the same.
const LAST_DEPLOYS: Duration = Duration::from_secs(5);

impl Node {
    /// Stops gracefully. With no container attached everything is removed but the state file; with containers, what
    /// they need stays and a restart takes it over.
    pub async fn stop(self: &Arc<Self>) {
        self.refuse_deploys().await;
        let empty = !self.has_containers();
        self.end_tasks();
        if empty {
            self.clear().await;
        }
        self.end_link(empty).await;
        self.save_or_log().await;
        tracing::info!(everything_removed = empty, "stopped");
    }

    /// Whether a container is attached, for which flows and links are kept.
    #[must_use]
    pub fn has_containers(&self) -> bool {
        !self.inner().state.containers.is_empty()
    }

    /// Detaches everything, gives the subnetworks back and forgets this node.
    pub async fn purge(self: &Arc<Self>) {
        self.refuse_deploys().await;
        let containers = self.inner().state.containers.clone();
        for container in containers {
            self.detach(&(container.job.clone(), container.number), None)
                .await;
        }
        let owners: std::collections::BTreeSet<String> = self
            .inner()
            .state
            .ledger
            .subnets()
            .iter()
            .map(|held| held.owner.clone())
            .collect();
        for owner in owners {
            self.tell_link(Command::GiveBack(owner, None));
        }
        self.end_tasks();
        self.clear().await;
        self.end_link(true).await;
        if let Err(error) = self.file.remove() {
            tracing::warn!(%error, "the state file could not be removed");
        }
        tracing::info!("everything removed");
    }

    /// Lets deploys that are under way come to their end, and takes no further ones: what one attached afterwards, nobody
    /// would know of.
    async fn refuse_deploys(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let turns: Vec<_> = {
            let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.values().cloned().collect()
        };
        for turn in turns {
            let _ended = tokio::time::timeout(LAST_DEPLOYS, turn.lock()).await;
        }
    }

    fn end_tasks(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.abort();
        }
    }

    async fn end_link(&self, offline: bool) {
        let link = self
            .link
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(link) = link {
            link.stop(offline).await;
        }
    }

    async fn clear(&self) {
        if let Err(error) = self.firewall.clear().await {
            tracing::warn!(%error, "the rules could not be removed");
        }
        host_firewall::close(&self.options.tun.host_interface).await;
        self.sweep_sockets(&[]);
        let changed = std::mem::take(&mut self.inner().state.sysctls);
        host::restore_settings(&changed);
    }
}

/// The same as [`Node::purge`] where no daemon runs: from the state file alone.
///
/// # Errors
/// The kernel or the state file cannot be used.
pub async fn purge_without_daemon(options: Options) -> Result<(), StartError> {
    let netlink = Netlink::open().map_err(StartError::Netlink)?;
    let file = StateFile::open(&options.state_dir, &options.instance)?;
    let state = file.load()?;
    for name in state
        .containers
        .iter()
        .filter_map(|container| container.made_namespace.as_deref())
    {
        if let Err(error) = unikernel::remove(name).await {
            tracing::warn!(%error, "a namespace could not be removed");
        }
    }
    let prefix = instance::interface_prefix(&options.instance);
    for link in netlink.links().await.unwrap_or_default() {
        if link.name.starts_with(&prefix)
            && let Err(error) = netlink.delete_link(link.index).await
        {
            tracing::warn!(%error, "an interface could not be removed");
        }
    }
    for socket in state
        .containers
        .iter()
        .filter_map(|one| one.socket.as_deref())
    {
        if let Err(error) = vhost::remove(socket) {
            tracing::warn!(%error, "a socket could not be removed");
        }
    }
    vhost::sweep(&options.net.vhost.folder, &options.instance, &[]);
    let firewall = Firewall::new(&options.instance, &options.tun.host_interface);
    if let Err(error) = firewall.clear().await {
        tracing::warn!(%error, "the rules could not be removed");
    }
    host_firewall::close(&options.tun.host_interface).await;
    host::restore_settings(&state.sysctls);
    if let Err((path, error)) = crate::dataplane::remove_flows(&options.instance) {
        tracing::warn!(path = %path.display(), %error, "the flows could not be removed");
    }
    if let Some(identity) = &state.identity {
        let owners: Vec<String> = state
            .ledger
            .subnets()
            .iter()
            .map(|held| held.owner.clone())
            .collect();
        let outcome = match super::register::broker(&options.net, identity) {
            Ok(broker) => cluster_link::give_back(&broker, &owners).await,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = outcome {
            tracing::warn!(%reason, "the subnetworks could not be given back; the cluster keeps them for this node's id");
        }
    }
    file.remove()?;
    tracing::info!("everything removed");
    Ok(())
}
