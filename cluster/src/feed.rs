//! Changes at the root that its HTTP notification did not bring here.
//!
//! The notification is always sent, but may find us down. So the root is also asked every few
//! seconds what changed since the revision that we know; where its Redis may be listened to, the
//! channel tells at once and the question only closes gaps. A reference root can tell nothing:
//! then held jobs are read again in turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::root_http::{ChannelMessage, changes_channel};
use redis_link::{Event, Link, Subscription};

use crate::cluster::Cluster;
use crate::config::Config;
use crate::jobs::{self, PullError};
use crate::keys::task;
use crate::store::StoreError;

/// In this time every held job of a reference root is read once, ...
const TURN: Duration = Duration::from_secs(9);
/// ... as long as that takes no more than so many questions at a time.
const AT_ONCE: usize = 200;
/// With the channel, the question is asked this much more seldom, ...
const SELDOM: u32 = 10;
/// ... as long as the root's heartbeats (every 2 s) come through it.
const SILENCE: Duration = Duration::from_secs(5);
/// Until the root said whose channel is ours, it is asked this often.
const UNNAMED: Duration = Duration::from_secs(3);
/// One replica asks; when it dies, another has to follow soon, however seldom the question is.
const LONGEST_LEASE: Duration = Duration::from_secs(4);

/// Follows the root, for ever.
pub async fn run(cluster: Arc<Cluster>, root_redis: Option<Link>) {
    let mut channel = root_redis.map(|link| Channel::new(link, &cluster.config));
    let poll = cluster.config.changes_poll;
    let mut clock = Clock {
        // At once.
        asked: Instant::now()
            .checked_sub(poll)
            .unwrap_or_else(Instant::now),
        heard: None,
        failed: false,
    };
    let mut cursor = 0;
    loop {
        let gap = tokio::select! {
            () = tokio::time::sleep_until(clock.next(poll, unnamed(&channel)).into()) => false,
            event = next(&mut channel) => {
                if matches!(event, Event::Message { .. }) {
                    clock.heard = Some(Instant::now());
                }
                match hear(&cluster, event).await {
                    Ok(true) => true,
                    Ok(false) => continue,
                    Err(error) => {
                        tracing::debug!(%error, "change not noted");
                        true
                    }
                }
            },
        };
        clock.asked = Instant::now();
        // Whoever saw a gap closes it: the replica whose turn it is may be the one that just died.
        let asked = if gap || unnamed(&channel) {
            ask(&cluster, &mut cursor).await.map(Some)
        } else {
            ask_in_turn_with_others(&cluster, &mut cursor).await
        };
        clock.failed = asked.is_err();
        match (asked, &mut channel) {
            (Ok(Some(named)), Some(channel)) => channel.is_of(named),
            (Ok(_), _) => {}
            (Err(error), _) => tracing::debug!(%error, "the root's changes are not known now"),
        }
    }
}

/// The root's channel for this cluster. It bears the id under which the root knows us, and only the root can say that:
/// the orchestrator registers clusters, and does not tell us what it called ours.
struct Channel {
    link: Link,
    id: String,
    /// The id is a setting, or the root was asked.
    certain: bool,
    /// The id is a setting.
    set: bool,
    subscription: Subscription,
}

impl Channel {
    /// Until the root says better, the cluster's name is its id.
    fn new(link: Link, config: &Config) -> Self {
        let set = config
            .cluster_id
            .as_deref()
            .is_some_and(|id| !id.is_empty());
        let id = config.id().to_owned();
        Self {
            subscription: link.subscribe(vec![changes_channel(&id)]),
            link,
            id,
            certain: set,
            set,
        }
    }

    /// The root was asked who we are; one that cannot say leaves things as they are.
    fn is_of(&mut self, id: Option<String>) {
        self.certain = true;
        let Some(id) = id.filter(|id| !self.set && *id != self.id) else {
            return;
        };
        tracing::info!(cluster_id = id, "the root knows this cluster by this id");
        self.subscription = self.link.subscribe(vec![changes_channel(&id)]);
        self.id = id;
    }
}

/// Whether there is a channel of which it is not known whether it is ours.
fn unnamed(channel: &Option<Channel>) -> bool {
    channel.as_ref().is_some_and(|channel| !channel.certain)
}

/// When the root is asked next.
struct Clock {
    asked: Instant,
    /// The root's last message on the channel.
    heard: Option<Instant>,
    /// Whether the last question got no answer.
    failed: bool,
}

impl Clock {
    fn next(&self, poll: Duration, unnamed: bool) -> Instant {
        let soon = self.asked + poll;
        match self.heard {
            _ if unnamed => soon.min(self.asked + UNNAMED),
            // A channel that falls silent, or never spoke, is no reason to ask seldom.
            Some(heard) if !self.failed => {
                (self.asked + poll * SELDOM).min(soon.max(heard + SILENCE))
            }
            _ => soon,
        }
    }
}

async fn next(channel: &mut Option<Channel>) -> Event {
    match channel {
        Some(channel) => channel.subscription.next().await,
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
            // The HTTP notification, or another replica, may have brought it already.
            if !jobs::is_known(cluster, &change.job_name, &change.epoch, change.revision).await? {
                let refresh = task::refresh(&change.job_name);
                let kind = change.kind.as_str();
                cluster.store.owe(&refresh, kind, Duration::ZERO).await?;
            }
            if change.prev > revision {
                return Ok(true);
            }
            cluster.store.keep_feed(&epoch, change.revision).await?;
            Ok(false)
        }
    }
}

/// `None`: it was another replica's turn.
async fn ask_in_turn_with_others(
    cluster: &Cluster,
    cursor: &mut usize,
) -> Result<Option<Option<String>>, PullError> {
    let lease = (cluster.config.changes_poll + Duration::from_secs(1)).min(LONGEST_LEASE);
    if !cluster.store.lease("feed", &cluster.replica, lease).await? {
        return Ok(None);
    }
    ask(cluster, cursor).await.map(Some)
}

/// Answers the id by which the root knows this cluster, where it says so.
async fn ask(cluster: &Cluster, cursor: &mut usize) -> Result<Option<String>, PullError> {
    let store = &cluster.store;
    let (epoch, revision) = store.feed().await?;
    let Some(changes) = cluster.root.changes(revision, &epoch).await? else {
        in_turn(cluster, cursor).await?;
        return Ok(None);
    };
    let anew = changes.epoch != epoch;
    // A backup that was put back: the same store, earlier.
    let back = !anew && changes.revision < revision;
    if anew || back {
        // The first answer of all may come after copies of an earlier epoch.
        let reports = store.epoch_changed().await?;
        if reports > 0 || !epoch.is_empty() {
            tracing::warn!(
                reports,
                "the root made its store anew or lost a part of it; it is told again what runs here"
            );
        }
    }
    for job in &changes.jobs {
        store.owe(&task::refresh(job), "", Duration::ZERO).await?;
    }
    if anew || changes.revision != revision {
        store.keep_feed(&changes.epoch, changes.revision).await?;
    }
    Ok(changes.cluster_id)
}

async fn in_turn(cluster: &Cluster, cursor: &mut usize) -> Result<(), PullError> {
    let mut jobs = cluster.store.jobs().await?;
    jobs.sort_unstable();
    let poll = cluster.config.changes_poll.as_millis().max(1);
    let ticks = usize::try_from(TURN.as_millis() / poll).unwrap_or(1);
    let count = jobs.len().div_ceil(ticks.clamp(1, 10)).min(AT_ONCE);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_seldom_only_while_the_channel_speaks() {
        let start = Instant::now();
        let poll = Duration::from_secs(3);
        let mut clock = Clock {
            asked: start,
            heard: None,
            failed: false,
        };
        let after = |clock: &Clock| clock.next(poll, false).duration_since(start).as_secs();
        assert_eq!(after(&clock), 3);
        clock.heard = Some(start + Duration::from_secs(1));
        assert_eq!(after(&clock), 6);
        clock.heard = Some(start + Duration::from_secs(28));
        assert_eq!(after(&clock), 30);
        let unnamed = clock.next(Duration::from_secs(3600), true);
        assert_eq!(unnamed.duration_since(start), UNNAMED);
        clock.failed = true;
        assert_eq!(after(&clock), 3);
    }
}
