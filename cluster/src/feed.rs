//! Changes at the root that its HTTP notification did not bring here.
//!
//! The notification is always sent, but may find us down. So the root is also asked every few
//! seconds what changed since the revision that we know; where its Redis may be listened to, the
//! channel tells at once and the question only closes gaps. A reference root can tell nothing:
//! then held jobs are read again in turn.

use std::sync::Arc;
use std::time::Duration;

use protocol::root_http::{ChannelMessage, changes_channel};
use redis_link::{Event, Link, Subscription};

use crate::cluster::Cluster;
use crate::jobs::PullError;
use crate::keys::task;
use crate::store::StoreError;

/// In this many ticks every held job of a reference root is read once.
const TURN: usize = 10;
/// With the channel, the question is asked this much more seldom.
const SELDOM: u32 = 10;

/// Follows the root, for ever.
pub async fn run(cluster: Arc<Cluster>, root_redis: Option<Link>) {
    let channel = changes_channel(cluster.config.id());
    let mut subscription = root_redis.map(|link| link.subscribe(vec![channel]));
    let every = cluster.config.changes_poll;
    let every = match subscription {
        Some(_) => every * SELDOM,
        None => every,
    };
    let mut cursor = 0;
    let mut pause = every;
    loop {
        let catch_up = tokio::select! {
            () = tokio::time::sleep(pause) => true,
            event = next(&mut subscription) => match hear(&cluster, event).await {
                Ok(gap) => gap,
                Err(error) => {
                    tracing::debug!(%error, "change not noted");
                    true
                }
            },
        };
        if !catch_up {
            continue;
        }
        pause = match ask(&cluster, every, &mut cursor).await {
            Ok(()) => every,
            Err(error) => {
                tracing::debug!(%error, "the root's changes are not known now");
                cluster.config.changes_poll
            }
        };
    }
}

async fn next(subscription: &mut Option<Subscription>) -> Event {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}

/// Takes a message of the channel; true when something was missed.
async fn hear(cluster: &Cluster, event: Event) -> Result<bool, StoreError> {
    let Event::Message { payload, .. } = event else {
        return Ok(true);
    };
    let Ok(message) = serde_json::from_slice::<ChannelMessage>(&payload) else {
        tracing::warn!("malformed message on the root's channel");
        return Ok(false);
    };
    let (epoch, revision) = cluster.store.feed().await?;
    match message {
        ChannelMessage::Heartbeat(beat) => Ok(beat.epoch != epoch || beat.revision > revision),
        ChannelMessage::Change(change) => {
            if change.epoch != epoch {
                return Ok(true);
            }
            if change.revision <= revision {
                return Ok(false);
            }
            let refresh = task::refresh(&change.job_name);
            // Announced when nodes would see a difference; the HTTP notification comes as well.
            cluster.store.owe(&refresh, "", Duration::ZERO).await?;
            if change.prev > revision {
                return Ok(true);
            }
            cluster.store.keep_feed(&epoch, change.revision).await?;
            Ok(false)
        }
    }
}

async fn ask(cluster: &Cluster, every: Duration, cursor: &mut usize) -> Result<(), PullError> {
    let store = &cluster.store;
    let lease = every * 3 + Duration::from_secs(5);
    if !store.lease("feed", &cluster.replica, lease).await? {
        return Ok(());
    }
    let (epoch, revision) = store.feed().await?;
    let Some(changes) = cluster.root.changes(revision, &epoch).await? else {
        return in_turn(cluster, cursor).await;
    };
    if changes.epoch != epoch && !epoch.is_empty() {
        let reports = store.epoch_changed().await?;
        tracing::warn!(
            reports,
            "the root made its store anew; it is told again what runs here"
        );
    }
    for job in &changes.jobs {
        store.owe(&task::refresh(job), "", Duration::ZERO).await?;
    }
    if changes.epoch != epoch || changes.revision != revision {
        store.keep_feed(&changes.epoch, changes.revision).await?;
    }
    Ok(())
}

async fn in_turn(cluster: &Cluster, cursor: &mut usize) -> Result<(), PullError> {
    let mut jobs = cluster.store.jobs().await?;
    jobs.sort_unstable();
    let count = jobs.len().div_ceil(TURN);
    for job in jobs
        .iter()
        .cycle()
        .skip(*cursor % jobs.len().max(1))
        .take(count)
    {
        let refresh = task::refresh(job);
        cluster.store.owe(&refresh, "", Duration::ZERO).await?;
    }
    *cursor = cursor.wrapping_add(count);
    Ok(())
}
