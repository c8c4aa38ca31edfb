//! Which cluster is calling: what it says of itself, else where it comes from.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, FromRequestParts, Query};
use axum::http::request::Parts;
use protocol::root_http::CallerQuery;

use super::AppState;
use crate::store::Caller;

/// A cluster's sign of life is stored this often at most.
const SEEN_EVERY: Duration = Duration::from_secs(30);

/// When clusters were last stored as alive by this replica.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<HashMap<String, Instant>>);

/// The caller of a request.
pub(crate) struct From(pub(crate) Caller);

impl<S: Send + Sync> FromRequestParts<S> for From {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let query = Query::<CallerQuery>::try_from_uri(&parts.uri)
            .map(|Query(query)| query)
            .unwrap_or_default();
        let mut caller = Caller {
            id: query.cluster_id.unwrap_or_default().trim().to_owned(),
            name: query.cluster_name.unwrap_or_default().trim().to_owned(),
            ..Caller::default()
        };
        if let Some(address) = query.cluster_address {
            caller.set_address(&address);
        }
        if let Some(ConnectInfo(peer)) = parts.extensions.get::<ConnectInfo<SocketAddr>>() {
            caller.source = peer.ip().to_canonical().to_string();
        }
        Ok(Self(caller))
    }
}

impl AppState {
    /// Notes that clusters asked something: a sign of life. Never delays the caller.
    pub(crate) fn note_seen(&self, clusters: Vec<String>) {
        let fresh: Vec<String> = {
            let mut seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
            clusters
                .into_iter()
                .filter(|cluster| {
                    let due = seen
                        .get(cluster)
                        .is_none_or(|at| at.elapsed() >= SEEN_EVERY);
                    if due {
                        seen.insert(cluster.clone(), Instant::now());
                    }
                    due
                })
                .collect()
        };
        if fresh.is_empty() {
            return;
        }
        let store = self.store.clone();
        tokio::spawn(async move {
            if let Err(error) = store.seen(&fresh).await {
                tracing::debug!(%error, "sign of life not stored");
            }
        });
    }
}
