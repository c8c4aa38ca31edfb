//! The MQTT loop. It only moves messages: into per-node queues, and out of the publisher.
//!
//! Each session has a client of its own: packet ids start anew with a clean session, so an
//! acknowledgement that was meant for the last session must not reach this one.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use protocol::topic::{NodeTopic, Topic};
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, Outgoing, Packet, Publish, QoS,
    SubscribeFilter, SubscribeReasonCode, Transport,
};
use tokio::sync::mpsc;

use super::handlers::{self, Outcome};
use super::publisher::Ledger;
use crate::cluster::Cluster;

/// Queues; messages of one node always go through the same one, so they keep their order.
const LANES: usize = 32;
/// The group of our replicas at the broker.
const GROUP: &str = "$share/csm/";
/// Requests between us and the loop.
const REQUESTS: usize = 1024;
/// Messages that one queue takes up together.
const TOGETHER: usize = 64;
/// Publishes that may wait for the broker's acknowledgement.
const IN_FLIGHT: u16 = 1000;
/// The protocol's limit: the broker's own limit is the one that counts.
const LARGEST_PACKET: usize = 268_435_455;
/// A node's signs of life are noted this often at most.
const SIGN_EVERY: Duration = Duration::from_secs(5);
/// Nodes of one lane whose last note is remembered.
const MOST_NOTED: usize = 10_000;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Since when a session is up, for whoever draws conclusions from silence.
#[derive(Debug, Default)]
pub struct Session {
    since: AtomicU64,
}

fn milliseconds() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
}

impl Session {
    /// How long messages have been coming in without a pause; `None` without a session.
    pub fn up_for(&self) -> Option<Duration> {
        match self.since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(Duration::from_millis(milliseconds().saturating_sub(since))),
        }
    }

    fn up(&self) {
        self.since.store(milliseconds(), Ordering::Relaxed);
    }

    fn down(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// Messages may have been held up until now, though the session stands.
    pub fn disturbed(&self) {
        if self.since.load(Ordering::Relaxed) != 0 {
            self.up();
        }
    }
}

struct Work {
    publish: Publish,
    client: AsyncClient,
}

/// What the broker is asked for. Status messages are retained, and shared subscriptions get no
/// retained messages: every replica takes them itself, which changes nothing when done twice.
///
/// Table queries come at QoS 0: a node asks again when no answer comes, which also mends what an
/// acknowledgement could not (ours would die with the session), and brokers hold back or drop
/// acknowledged messages beyond a number in flight that a thousand restarted nodes exceed at once.
/// Interests are taken back in the same way, so that neither overtakes the other.
fn filters() -> Vec<SubscribeFilter> {
    NodeTopic::FROM_NODE
        .into_iter()
        .map(|topic| {
            let filter = topic.of_every_node();
            let path = match topic {
                NodeTopic::Status => filter,
                _ => format!("{GROUP}{filter}"),
            };
            let qos = match topic {
                NodeTopic::TableQuery | NodeTopic::InterestRemove => QoS::AtMostOnce,
                _ => QoS::AtLeastOnce,
            };
            SubscribeFilter::new(path, qos)
        })
        .collect()
}

/// How a session of ours with the broker is set up; `name` tells those of one process apart.
pub(super) fn options(cluster: &Cluster, name: &str, transport: &Transport) -> MqttOptions {
    let config = &cluster.config;
    let mut options = MqttOptions::new(
        format!("csm-{}-{}{name}", config.cluster_name, cluster.replica),
        config.mqtt_broker_url.clone(),
        config.mqtt_broker_port,
    );
    options
        .set_transport(transport.clone())
        .set_clean_session(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_manual_acks(true)
        .set_inflight(IN_FLIGHT)
        .set_max_packet_size(LARGEST_PACKET, LARGEST_PACKET);
    options
}

/// The client of a session.
pub(super) fn client(options: MqttOptions) -> (AsyncClient, EventLoop) {
    let (client, mut events) = AsyncClient::new(options, REQUESTS);
    let mut network = NetworkOptions::new();
    // An answer is a packet of its own: held back for a later one it would cost 40 ms.
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    (client, events)
}

/// Keeps a session with the broker, for ever.
pub async fn run(cluster: Arc<Cluster>, session: Arc<Session>, transport: Transport) {
    let answers: Vec<_> = cluster
        .publisher
        .answers
        .iter()
        .enumerate()
        .map(|(number, answers)| answers.run(&cluster, number, &transport))
        .collect();
    let sessions = async {
        join_all(answers).await;
    };
    tokio::join!(sessions, listen(&cluster, &session, &transport));
}

/// The session in which we listen.
async fn listen(cluster: &Arc<Cluster>, session: &Arc<Session>, transport: &Transport) {
    let lanes: Vec<_> = (0..LANES)
        .map(|_| lane(Arc::clone(cluster), Arc::clone(session)))
        .collect();
    let mut pause = FIRST_PAUSE;
    let mut complained: Option<Instant> = None;
    loop {
        let config = &cluster.config;
        let options = options(cluster, "", transport);
        let started = Instant::now();
        let reason = one(cluster, session, &lanes, options).await;
        session.down();
        cluster.metrics.mqtt_connected.set(0);
        cluster.publisher.attach(None).await;
        if started.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
            complained = None;
        }
        if complained.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
            tracing::warn!(
                broker = format!("{}:{}", config.mqtt_broker_url, config.mqtt_broker_port),
                reason,
                "no session with the MQTT broker; trying on"
            );
            complained = Some(Instant::now());
        }
        let jitter = pause.mul_f64(f64::from(started.elapsed().subsec_nanos() % 1000) / 4000.0);
        tokio::time::sleep(pause + jitter).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One session from connection to failure; returns why it ended.
async fn one(
    cluster: &Arc<Cluster>,
    session: &Session,
    lanes: &[mpsc::UnboundedSender<Work>],
    options: MqttOptions,
) -> String {
    let (client, mut events) = client(options);
    let ledger = Arc::new(Ledger::default());
    let reason = loop {
        let event = match events.poll().await {
            Ok(event) => event,
            Err(error) => break error.to_string(),
        };
        match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                if client.try_subscribe_many(filters()).is_err() {
                    break "cannot subscribe".to_owned();
                }
                let attached = (client.clone(), Arc::clone(&ledger));
                cluster.publisher.attach(Some(attached)).await;
            }
            Event::Incoming(Packet::SubAck(answer)) => {
                if answer.return_codes.contains(&SubscribeReasonCode::Failure) {
                    break "the broker refused a subscription; check its access rules".to_owned();
                }
                session.up();
                cluster.metrics.mqtt_connected.set(1);
                cluster.metrics.mqtt_sessions_total.add();
                cluster.store.work.notify_one();
                tracing::info!("session with the MQTT broker");
            }
            Event::Incoming(Packet::Publish(publish)) => {
                let lane = lane_of(&publish.topic);
                let client = client.clone();
                // The receiving end lives as long as the process.
                let _ = lanes[lane].send(Work { publish, client });
            }
            Event::Incoming(Packet::PubAck(acknowledgement)) => {
                ledger.acknowledged(acknowledgement.pkid);
            }
            Event::Incoming(Packet::Disconnect) => break "the broker ended it".to_owned(),
            Event::Outgoing(Outgoing::Publish(packet_id)) => ledger.left(packet_id),
            _ => {}
        }
    };
    ledger.close();
    reason
}

fn lane_of(topic: &str) -> usize {
    let node = match Topic::parse(topic) {
        Some(Topic::Node { node_id, .. }) => node_id,
        _ => topic,
    };
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    usize::try_from(hasher.finish() % LANES as u64).unwrap_or_default()
}

/// One queue: a message after the other, each acknowledged after its effect is in Redis; table
/// queries that follow each other are looked up together. What waits here is bounded by what the
/// broker has in flight towards us.
fn lane(cluster: Arc<Cluster>, session: Arc<Session>) -> mpsc::UnboundedSender<Work> {
    let (to, mut from) = mpsc::unbounded_channel::<Work>();
    tokio::spawn(async move {
        // Messages of one node go through one lane: what is noted of it is here.
        let mut noted: HashMap<String, Instant> = HashMap::new();
        let mut batch = Vec::with_capacity(TOGETHER);
        while from.recv_many(&mut batch, TOGETHER).await > 0 {
            let run = |a: &Work, b: &Work| is_query(a) && is_query(b);
            for work in batch.iter().filter(|work| !work.publish.retain) {
                // What the broker had kept says nothing of now.
                note_sign(&cluster, &mut noted, &work.publish.topic).await;
            }
            for together in batch.chunk_by(run) {
                join_all(together.iter().map(|work| apply(&cluster, &session, work))).await;
            }
            batch.clear();
        }
    });
    to
}

/// Notes that a node said something, once in a while.
async fn note_sign(cluster: &Cluster, noted: &mut HashMap<String, Instant>, topic: &str) {
    let Some(Topic::Node { node_id, topic }) = Topic::parse(topic) else {
        return;
    };
    // The broker says this of a node, too, when it is gone.
    let every = SIGN_EVERY.min(cluster.config.node_silence / 4);
    if matches!(topic, NodeTopic::Status | NodeTopic::Information)
        || noted.get(node_id).is_some_and(|at| at.elapsed() < every)
    {
        return;
    }
    if noted.len() >= MOST_NOTED {
        noted.retain(|_, at| at.elapsed() < every);
    }
    // Without Redis the message itself waits as well.
    if cluster.store.sign(node_id).await.is_ok() {
        noted.insert(node_id.to_owned(), Instant::now());
    }
}

fn is_query(work: &Work) -> bool {
    work.publish.topic.ends_with("/net/tablequery/request")
}

async fn apply(cluster: &Arc<Cluster>, session: &Session, Work { publish, client }: &Work) {
    cluster.metrics.mqtt_messages_total.add();
    let mut pause = FIRST_PAUSE;
    loop {
        match handlers::handle(cluster, &publish.topic, &publish.payload).await {
            Outcome::Committed => break,
            Outcome::Malformed(reason) => {
                cluster.metrics.mqtt_malformed_total.add();
                tracing::warn!(topic = publish.topic, reason, "malformed message dropped");
                break;
            }
            Outcome::NotCommitted(error) if error.is_temporary() => {
                session.disturbed();
                tracing::warn!(topic = publish.topic, %error, "message waits");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            Outcome::NotCommitted(error) => {
                tracing::error!(topic = publish.topic, %error, "message dropped");
                break;
            }
        }
    }
    // Of a session that ended: nothing to acknowledge.
    let _ = client.ack(publish).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_never_match_our_own_answers() {
        let answers = NodeTopic::TO_NODE.map(|topic| topic.of("n1"));
        for filter in filters() {
            let plain = filter.path.trim_start_matches(GROUP).to_owned();
            assert!(!plain.contains('#'), "{plain}");
            for answer in &answers {
                assert!(
                    !rumqttc::matches(answer, &plain),
                    "{plain} matches {answer}"
                );
            }
        }
    }

    #[test]
    fn messages_of_one_node_share_a_lane() {
        let lane = lane_of("nodes/n1/net/subnet");
        for topic in NodeTopic::FROM_NODE {
            assert_eq!(lane_of(&topic.of("n1")), lane);
        }
    }

    #[test]
    fn silence_counts_from_the_session_on() {
        let session = Session::default();
        assert_eq!(session.up_for(), None);
        session.disturbed();
        assert_eq!(session.up_for(), None);
        session.up();
        assert!(session.up_for().is_some());
        session.down();
        assert_eq!(session.up_for(), None);
    }
}
