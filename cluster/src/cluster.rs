//! What every part of the manager shares.

use std::sync::Arc;

use manager_http::Requests;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::mqtt::Publisher;
use crate::queries::Waiting;
use crate::root_client::RootClient;
use crate::store::Store;

/// The manager: its state, its root, its nodes.
pub struct Cluster {
    /// Settings.
    pub config: Config,
    /// The state in Redis.
    pub store: Store,
    /// The root.
    pub root: RootClient,
    /// The way to the nodes.
    pub publisher: Publisher,
    /// Table queries that wait for the root.
    pub waiting: Waiting,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Counters of requests.
    pub requests: Arc<Requests>,
    /// Names this process among its replicas.
    pub replica: String,
}
