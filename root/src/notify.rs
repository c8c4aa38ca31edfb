//! Telling clusters what changed: in the background, in parallel across clusters, in order within
//! one, repeated until the cluster has it.
//!
//! The queues are in Redis. Whoever fills one kicks its delivery here at once; a look at all
//! queues every second finds what a stopped replica left behind.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::Method;
use manager_http::{Client, Guard};
use protocol::cluster_http::JobUpdate;
use rustls::ClientConfig;

use crate::metrics::Metrics;
use crate::store::{Delivered, Step, Store};

/// One attempt may take this long.
const ATTEMPT: Duration = Duration::from_secs(4);
/// A replica that stops without a word loses its queues after this long.
const LEASE: Duration = Duration::from_secs(6);
/// First pause after a failed attempt; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause; shorter than the lease.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// Between two looks at all queues.
const LOOK: Duration = Duration::from_secs(1);

/// Delivers notifications.
pub(crate) struct Notifier {
    store: Store,
    client: Client,
    scheme: &'static str,
    /// Name of this replica in leases.
    replica: String,
    /// Clusters that a task delivers to now; true when it was kicked meanwhile.
    running: Mutex<HashMap<String, bool>>,
    metrics: Arc<Metrics>,
}

enum Outcome {
    /// 2xx.
    Taken,
    /// An answer that repeating does not change.
    Refused(u16),
    /// 502, 503, 504, a limit, or no answer.
    Unreachable(String),
}

impl Notifier {
    /// Delivers by TLS where a configuration is given, and shows the guard's token.
    pub(crate) fn new(
        store: Store,
        metrics: Arc<Metrics>,
        tls: Option<Arc<ClientConfig>>,
        guard: &Guard,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            scheme: if tls.is_some() { "https" } else { "http" },
            client: Client::new(tls, guard, ATTEMPT),
            replica: format!("{}-{}", std::process::id(), redis_link::unique()),
            running: Mutex::default(),
            metrics,
        })
    }

    /// Delivers to these clusters soon; returns at once.
    pub(crate) fn kick(self: &Arc<Self>, clusters: Vec<String>) {
        for cluster in clusters {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(again) = running.get_mut(&cluster) {
                *again = true;
                continue;
            }
            running.insert(cluster.clone(), false);
            drop(running);
            tokio::spawn(Arc::clone(self).deliver(cluster));
        }
    }

    /// Finds queues that nobody delivers, for ever.
    pub(crate) async fn watch_due(self: Arc<Self>) {
        let mut clock = tokio::time::interval(LOOK);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            match self.store.due_clusters().await {
                Ok(clusters) => self.kick(clusters),
                Err(error) => tracing::debug!(%error, "queues not seen"),
            }
        }
    }

    /// Gives the queues up, so that another replica or the next start goes on at once.
    pub(crate) async fn leave(&self) {
        let clusters: Vec<String> = {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.keys().cloned().collect()
        };
        if clusters.is_empty() {
            return;
        }
        if let Err(error) = self.store.leave_queues(&self.replica, &clusters).await {
            tracing::warn!(%error, "leases not given up; they end by themselves");
        }
    }

    async fn deliver(self: Arc<Self>, cluster: String) {
        loop {
            self.drain(&cluster).await;
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            match running.get_mut(&cluster) {
                Some(again) if *again => *again = false,
                _ => {
                    running.remove(&cluster);
                    return;
                }
            }
        }
    }

    /// Delivers until the queue is empty or another replica has it.
    async fn drain(&self, cluster: &str) {
        let mut delivered: Option<Delivered> = None;
        let mut pause = PAUSE_MIN;
        loop {
            let step = self
                .store
                .queue_step(cluster, &self.replica, LEASE, delivered.as_ref())
                .await;
            let (to, in_error, update, this) = match step {
                Ok(Step::Leave) => return,
                Ok(Step::Send {
                    to,
                    in_error,
                    update,
                    delivered,
                }) => (to, in_error, update, delivered),
                Err(error) => {
                    tracing::debug!(%error, cluster, "queue not reached");
                    tokio::time::sleep(PAUSE_MAX).await;
                    continue;
                }
            };
            delivered = None;
            let outcome = match &update {
                Some(update) => self.send(&to, update).await,
                None => Outcome::Refused(0),
            };
            match outcome {
                Outcome::Taken => {
                    self.metrics.delivered.fetch_add(1, Relaxed);
                    self.note(cluster, &to, in_error, true, "").await;
                    delivered = Some(this);
                    pause = PAUSE_MIN;
                }
                Outcome::Refused(status) => {
                    self.metrics.refused.fetch_add(1, Relaxed);
                    tracing::warn!(
                        cluster,
                        to,
                        status,
                        ?update,
                        "the cluster refused an update"
                    );
                    self.note(cluster, &to, in_error, true, "").await;
                    delivered = Some(this);
                    pause = PAUSE_MIN;
                }
                Outcome::Unreachable(reason) => {
                    self.metrics.failed_attempts.fetch_add(1, Relaxed);
                    self.note(cluster, &to, in_error, false, &reason).await;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    async fn send(&self, to: &str, update: &JobUpdate) -> Outcome {
        let url = format!("{}://{to}/api/net/job/update", self.scheme);
        let body = match serde_json::to_vec(update) {
            Ok(body) => body,
            Err(error) => return Outcome::Unreachable(error.to_string()),
        };
        match self.client.send(Method::POST, &url, Some(body)).await {
            Ok(answer) => match answer.status.as_u16() {
                200..=299 => Outcome::Taken,
                // The first two are a limit of the cluster's, not an opinion.
                status @ (408 | 429 | 502..=504) => {
                    Outcome::Unreachable(format!("answered {status}"))
                }
                status => Outcome::Refused(status),
            },
            Err(error) => Outcome::Unreachable(error.to_string()),
        }
    }

    /// Keeps the cluster's status, and logs when it changes.
    async fn note(&self, cluster: &str, to: &str, in_error: bool, reached: bool, reason: &str) {
        if in_error != reached {
            return;
        }
        let status = if reached { "ACTIVE" } else { "ERROR" };
        match self.store.set_status(cluster, status).await {
            Ok(true) if reached => tracing::info!(cluster, to, "the cluster is reachable again"),
            Ok(true) => tracing::warn!(
                cluster,
                to,
                reason,
                "the cluster cannot be notified; repeating"
            ),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, cluster, "status not stored"),
        }
    }
}
