//! What runs on a clock: heartbeats on the clusters' channels, and the end of dead clusters'
//! interests.

use std::time::Duration;

use crate::store::Store;

/// Between two heartbeats (contract section 2).
const HEARTBEAT: Duration = Duration::from_secs(2);
/// For this long after one replica's heartbeat no other sends one.
const HOLD: Duration = Duration::from_millis(1500);

/// Sends heartbeats for ever.
pub(crate) async fn heartbeats(store: Store) {
    let mut clock = tokio::time::interval(HEARTBEAT);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        if let Err(error) = store.heartbeat(HOLD).await {
            tracing::debug!(%error, "no heartbeat");
        }
    }
}

/// Drops the interests of clusters that gave no sign of life for this long, for ever.
pub(crate) async fn expire(store: Store, after: Duration) {
    let pause = (after / 4).clamp(Duration::from_millis(100), Duration::from_secs(60));
    let mut clock = tokio::time::interval(pause);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        match store.expire_clusters(after).await {
            Ok(clusters) => {
                for cluster in clusters {
                    tracing::warn!(
                        cluster,
                        ?after,
                        "no sign of life; its interests are dropped"
                    );
                }
            }
            Err(error) => tracing::debug!(%error, "no expiry"),
        }
    }
}
