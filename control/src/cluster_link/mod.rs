//! The link to the cluster service manager: one task that owns every conversation over MQTT (contract section 3).
//!
//! Nothing here waits for the broker while holding something that a deploy needs: a deploy says what is there now, and
//! this task makes the cluster know it, however long that takes.

mod announce;
mod feed;
mod loads;
mod queries;
mod routes;
mod session;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::mqtt::SubnetResult;
use serde::Serialize;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::dns::Names;
use crate::forwarding::{Forwarding, Pair};
use crate::state::Departure;
use feed::{Feed, Signals};
pub use session::{Broker, give_back};

/// What the node tells its link.
pub enum Command {
    /// An instance is here.
    Arrive(String, u32, Pair),
    /// An instance left.
    Leave(String, u32, Pair),
    /// A subnetwork is wanted: the first (no list), or one beside those listed.
    Subnet(Option<Vec<Ipv4Addr>>, oneshot::Sender<SubnetResult>),
    /// A subnetwork (or all) goes back, in the name of the node id that it was given to.
    GiveBack(String, Option<Ipv4Addr>),
    /// Our tunnel endpoint.
    Endpoint(IpAddr, u16),
    /// The gateway addresses: where the node's own processes live.
    Gateway(Pair),
    /// A packet waits for an address.
    Unresolved(IpAddr),
    /// Somebody wants to know a job's name, or whose an address is; told once the cluster has answered.
    Lookup(String, oneshot::Sender<()>),
    /// The node leaves; answered when the broker has been told.
    Stop {
        offline: bool,
        done: oneshot::Sender<()>,
    },
}

/// What people want to know of the link.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LinkStatus {
    /// Whether the broker is connected and our topics are subscribed.
    pub connected: bool,
    /// Connections made since the start.
    pub connections: u64,
    /// When that began to be so, in seconds of Unix time; none before the first try.
    pub since: Option<u64>,
    /// The broker, as host and port.
    pub broker: Option<String>,
    /// Why the last connection ended.
    pub last_error: Option<String>,
    /// Messages that could not be understood.
    pub malformed: u64,
    /// Table queries unanswered or waiting.
    pub queries: usize,
    /// Of these, table queries that were sent.
    pub queries_in_flight: usize,
    /// Table queries that were sent again for want of an answer.
    pub queries_repeated: u64,
    /// Jobs whose changes this node follows.
    pub jobs: Vec<String>,
    /// Announcements that the cluster has not confirmed.
    pub unconfirmed: usize,
    /// Of these, instances that left.
    #[serde(skip)]
    pub departures: Vec<Departure>,
    /// The Instance IPs of the node's own processes, if the cluster gives any.
    pub host_instance: Option<String>,
}

/// A message number that only grows, across restarts too (it starts from the clock).
#[derive(Debug)]
pub struct Sequence(AtomicU64);

impl Sequence {
    pub fn starting_after(last: u64) -> Self {
        let micros = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
            });
        Self(AtomicU64::new(micros.max(last.saturating_add(1 << 20))))
    }

    pub fn latest(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn next(&self) -> Option<u64> {
        Some(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// A handle on the link; the link ends when [`ClusterLink::stop`] is called or the value is dropped.
pub struct ClusterLink {
    commands: mpsc::UnboundedSender<Command>,
    status: Arc<Mutex<LinkStatus>>,
    kept_changed: Arc<Notify>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Drop for ClusterLink {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        // Whoever keeps the list finds that there is none any more.
        self.kept_changed.notify_one();
    }
}

impl ClusterLink {
    /// Links to a broker; `interests` are the jobs that an earlier run followed, `departures` what it had still to say.
    pub fn start(
        broker: Broker,
        forwarding: Arc<dyn Forwarding>,
        sequence: Arc<Sequence>,
        names: Arc<Names>,
        interests: &[String],
        departures: &[Departure],
    ) -> Self {
        // What another link knew it followed for itself.
        names.clear();
        let (commands, inbox) = mpsc::unbounded_channel();
        let (events, session) = mpsc::channel(1024);
        let status = Arc::new(Mutex::new(LinkStatus {
            since: Some(crate::state::now()),
            broker: Some(format!("{} port {}", broker.host, broker.port)),
            jobs: interests.to_vec(),
            departures: departures.to_vec(),
            ..LinkStatus::default()
        }));
        let (renew, kept_changed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let mut feed = Feed::new(
            &broker,
            forwarding,
            sequence,
            names,
            Arc::clone(&status),
            Signals {
                renew: Arc::clone(&renew),
                kept_changed: Arc::clone(&kept_changed),
            },
        );
        for job in interests {
            feed.follow(job);
        }
        for departure in departures {
            feed.depart(departure);
        }
        let tasks = [
            tokio::spawn(session::keep(broker, events, renew)),
            tokio::spawn(feed.run(inbox, session)),
        ];
        Self {
            commands,
            status,
            kept_changed,
            tasks,
        }
    }

    /// Notified when the state file is to keep other interests or departures.
    pub fn kept_changes(&self) -> Arc<Notify> {
        Arc::clone(&self.kept_changed)
    }

    pub fn tell(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::error!("the link to the cluster has ended; restart the Net Manager");
        }
    }

    /// Asks for a subnetwork until there is an answer or time is up.
    pub async fn subnet(
        &self,
        have: Option<Vec<Ipv4Addr>>,
        patience: Duration,
    ) -> Option<SubnetResult> {
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Subnet(have, answer));
        tokio::time::timeout(patience, answered).await.ok()?.ok()
    }

    pub fn status(&self) -> LinkStatus {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends the link; `offline` says that this node's instances are gone with it.
    pub async fn stop(&self, offline: bool) {
        let (done, finished) = oneshot::channel();
        self.tell(Command::Stop { offline, done });
        if tokio::time::timeout(Duration::from_secs(3), finished)
            .await
            .is_err()
        {
            tracing::warn!("the broker did not take the last messages in time");
        }
    }
}
