//! Leaving: for a restart (what containers need stays), for good, or with everything given back.

use std::sync::{Arc, PoisonError};

use super::Node;
use crate::cluster_link::Command;
use crate::host;

impl Node {
    /// Stops gracefully. With no container attached everything is removed but the state file; with containers, what
    /// they need stays and a restart takes it over.
    pub async fn stop(self: &Arc<Self>) {
        let empty = self.inner().state.containers.is_empty();
        self.end_tasks();
        if empty {
            self.clear().await;
        }
        self.end_link(empty).await;
        self.save_or_log().await;
        tracing::info!(everything_removed = empty, "stopped");
    }

    /// Detaches everything, gives the subnetworks back and forgets this node.
    pub async fn purge(self: &Arc<Self>) {
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
        let changed = std::mem::take(&mut self.inner().state.sysctls);
        host::restore_settings(&changed);
    }
}
