//! The link to the cluster service manager: one task that owns every conversation over MQTT (contract section 3).
//!
//! Nothing here waits for the broker while holding something that a deploy needs: a deploy says what is there now, and
//! this task makes the cluster know it, however long that takes.

mod announce;
mod loads;
mod queries;
mod routes;
mod session;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::mqtt::{
    AddressChanged, HostRequest, HostResult, InterestRemove, Load, NodeStatus, ServiceStatus,
    SubnetMethod, SubnetRequest, SubnetResult, TableQuery, TableQueryResult, UpdatesAvailable,
};
use protocol::topic::{self, NodeTopic, Topic};
use protocol::{JobName, address};
use rumqttc::{AsyncClient, QoS};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::forwarding::{Forwarding, JOB_UNUSED, JobRoutes, Pair};
use announce::Announcements;
use queries::{Key, Queries, jittered};
use session::SessionEvent;
pub use session::{Broker, give_back};

const SUBNET_REPEAT: Duration = Duration::from_secs(2);
const HOST_REPEAT: Duration = Duration::from_secs(60);
const REFRESH: Duration = Duration::from_secs(60);
const INTEREST_CHECK: Duration = Duration::from_secs(5);
/// Messages of one burst: what is due otherwise must not wait for long.
const EVENTS_AT_ONCE: usize = 256;

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
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Drop for ClusterLink {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl ClusterLink {
    pub fn start(broker: Broker, forwarding: Arc<dyn Forwarding>, sequence: Arc<Sequence>) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let (events, session) = mpsc::channel(1024);
        let status = Arc::new(Mutex::new(LinkStatus {
            since: Some(crate::state::now()),
            broker: Some(format!("{} port {}", broker.host, broker.port)),
            ..LinkStatus::default()
        }));
        let now = Instant::now();
        let renew = Arc::new(Notify::new());
        let feed = Feed {
            renew: Arc::clone(&renew),
            moved: false,
            node: broker.client_id.clone(),
            forwarding,
            sequence,
            status: Arc::clone(&status),
            client: None,
            endpoint: None,
            gateway: Pair::default(),
            host: None,
            host_due: now,
            host_warned: false,
            queries: Queries::default(),
            announcements: Announcements::default(),
            loads: loads::Loads::default(),
            loads_due: now + loads::pause(),
            jobs: HashMap::new(),
            routes: Vec::new(),
            subnet_waiters: Vec::new(),
            refresh_due: now + REFRESH,
            interests_due: now + INTEREST_CHECK,
        };
        let tasks = [
            tokio::spawn(session::keep(broker, events, renew)),
            tokio::spawn(feed.run(inbox, session)),
        ];
        Self {
            commands,
            status,
            tasks,
        }
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

/// A job whose changes are followed.
struct Followed {
    since: Instant,
}

struct SubnetWaiter {
    have: Option<Vec<Ipv4Addr>>,
    answer: oneshot::Sender<SubnetResult>,
    due: Instant,
}

struct Feed {
    renew: Arc<Notify>,
    /// The endpoint has changed, and the cluster has not shown yet that it knows.
    moved: bool,
    node: String,
    forwarding: Arc<dyn Forwarding>,
    sequence: Arc<Sequence>,
    status: Arc<Mutex<LinkStatus>>,
    client: Option<AsyncClient>,
    endpoint: Option<(IpAddr, u16)>,
    gateway: Pair,
    host: Option<HostResult>,
    host_due: Instant,
    host_warned: bool,
    queries: Queries,
    announcements: Announcements,
    loads: loads::Loads,
    loads_due: Instant,
    jobs: HashMap<String, Followed>,
    /// Of the burst of messages at hand, for the data plane.
    routes: Vec<JobRoutes>,
    subnet_waiters: Vec<SubnetWaiter>,
    refresh_due: Instant,
    interests_due: Instant,
}

impl Feed {
    async fn run(
        mut self,
        mut inbox: mpsc::UnboundedReceiver<Command>,
        mut session: mpsc::Receiver<SessionEvent>,
    ) {
        loop {
            self.work();
            self.publish_status();
            let wake = self.next_due();
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(Command::Stop { offline, done }) => {
                        self.farewell(offline).await;
                        // Serve the connection until the messages are out.
                        let until = tokio::time::sleep(Duration::from_millis(300));
                        tokio::pin!(until);
                        loop {
                            tokio::select! {
                                () = &mut until => break,
                                event = session.recv() => if event.is_none() { break },
                            }
                        }
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => self.command(command),
                    None => return,
                },
                event = session.recv() => match event {
                    Some(event) => {
                        self.session_event(event);
                        // Tables come in bursts; the data plane takes many at the cost of one.
                        for _ in 1..EVENTS_AT_ONCE {
                            let Ok(event) = session.try_recv() else {
                                break;
                            };
                            self.session_event(event);
                        }
                        self.tell_routes();
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn next_due(&self) -> Instant {
        let mut due = self.interests_due.min(self.refresh_due);
        if self.client.is_some() {
            due = due.min(self.host_due).min(self.loads_due);
            for moment in self
                .queries
                .next_due()
                .into_iter()
                .chain(
                    self.announcements
                        .next_due()
                        .filter(|_| self.endpoint.is_some()),
                )
                .chain(self.subnet_waiters.iter().map(|waiter| waiter.due))
            {
                due = due.min(moment);
            }
        }
        due.max(Instant::now() + Duration::from_millis(5))
    }

    fn publish_status(&self) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.connected != self.client.is_some() {
            status.connected = self.client.is_some();
            status.since = Some(crate::state::now());
        }
        status.queries = self.queries.len();
        status.queries_in_flight = self.queries.in_flight();
        status.queries_repeated = self.queries.repeated;
        status.unconfirmed = self.announcements.unconfirmed();
        status.host_instance = self
            .host
            .as_ref()
            .map(|host| crate::host::show(Pair::new(host.instance_ip, host.instance_ip_v6)));
        if status.jobs.len() != self.jobs.len()
            || !status.jobs.iter().all(|job| self.jobs.contains_key(job))
        {
            status.jobs = self.jobs.keys().cloned().collect();
            status.jobs.sort_unstable();
        }
    }

    fn command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Arrive(job, number, namespace) => {
                self.announcements
                    .arrive((job.clone(), number), namespace, now);
                self.follow(&job);
                self.say_due(now);
                self.ask(Key::Job(job));
            }
            Command::Leave(job, number, namespace) => {
                self.announcements
                    .leave((job.clone(), number), namespace, now);
                self.say_due(now);
                self.ask(Key::Job(job));
            }
            Command::Subnet(have, answer) => self.subnet_waiters.push(SubnetWaiter {
                have,
                answer,
                due: now,
            }),
            Command::GiveBack(owner, address) => {
                let request = SubnetRequest {
                    method: SubnetMethod::Delete,
                    have: None,
                    address,
                    seq: self.sequence.next(),
                };
                self.send_to(&NodeTopic::Subnet.of(&owner), &request, false);
            }
            Command::Endpoint(host, port) => self.set_endpoint(host, port, now),
            Command::Gateway(gateway) => {
                self.gateway = gateway;
                self.host_due = now;
                if let Some(host) = &self.host {
                    self.announcements
                        .arrive((host.app_name.clone(), 0), gateway, now);
                }
            }
            Command::Unresolved(address) => self.unresolved(address),
            Command::Stop { .. } => {}
        }
    }

    fn set_endpoint(&mut self, host: IpAddr, port: u16, now: Instant) {
        let before = self.endpoint.replace((host, port));
        if before == self.endpoint {
            return;
        }
        self.announcements.repeat_all(now);
        if before.is_none() {
            return;
        }
        self.moved = true;
        self.say_moved();
        // Most likely the connection's own address has gone with it, and with the connection what was just said.
        if before.map(|(address, _)| address) != Some(host) {
            self.renew.notify_one();
        }
    }

    /// Names the new endpoint for every instance of this node.
    fn say_moved(&mut self) {
        if self.announcements.unconfirmed() == 0 {
            self.moved = false;
        }
        let Some((host, port)) = self.endpoint.filter(|_| self.moved) else {
            return;
        };
        let instances: Vec<_> = self.announcements.present().cloned().collect();
        for (appname, instance_number) in instances {
            let message = AddressChanged {
                appname,
                instance_number,
                host_ip: Some(host),
                host_port: Some(port),
                seq: self.sequence.next(),
            };
            self.send(NodeTopic::AddressChanged, &message);
        }
    }

    fn unresolved(&mut self, address: IpAddr) {
        if self.gateway.iter().any(|gateway| gateway == address) {
            match &self.host {
                Some(host) => self.ask(Key::Job(host.app_name.clone())),
                None => {
                    if !self.host_warned {
                        self.host_warned = true;
                        tracing::warn!(
                            "a process of this node dials a Service IP, but the cluster gives nodes no Instance IP (a reference manager?): such connections are refused"
                        );
                    }
                    self.tell_forwarding(self.forwarding.set_unresolvable(address));
                }
            }
            return;
        }
        let key = match self.announcements.job_at(address) {
            Some(job) => Key::Job(job.to_owned()),
            None => Key::Address(address),
        };
        self.ask(key);
    }

    fn ask(&mut self, key: Key) {
        if !self.queries.ask(key) {
            tracing::warn!(
                "too many table queries wait; the cluster service manager does not keep up"
            );
        }
    }

    /// Sends what is due.
    fn work(&mut self) {
        let now = Instant::now();
        if now >= self.interests_due {
            self.interests_due = now + INTEREST_CHECK;
            self.drop_idle_interests(now);
        }
        if now >= self.refresh_due {
            self.refresh_due = now + jittered(REFRESH);
            self.ask_for_interests();
        }
        if self.client.is_none() {
            return;
        }
        self.say_due(now);
        if now >= self.loads_due {
            self.loads_due = now + loads::pause();
            self.exchange_loads();
        }
        self.ask_subnets(now);
        self.ask_host(now);
        for key in self.queries.due(now) {
            let (sname, sip) = match key {
                Key::Job(job) => (job, String::new()),
                Key::Address(address) => (String::new(), address.to_string()),
            };
            let seq = self.sequence.next();
            self.send(NodeTopic::TableQuery, &TableQuery { sname, sip, seq });
        }
    }

    /// Says what our instances' loads are, and asks for those of others that matter here.
    fn exchange_loads(&mut self) {
        let loads = match self.forwarding.loads() {
            Ok(loads) => loads,
            Err(error) => return tracing::warn!(%error, "loads could not be read"),
        };
        let announcements = &self.announcements;
        let instances = self
            .loads
            .changed(&loads.own, |instance| announcements.is_confirmed(instance));
        if !instances.is_empty() {
            let seq = self.sequence.next();
            self.send(NodeTopic::Load, &Load { instances, seq });
        }
        for job in loads.wanted {
            self.ask(Key::Job(job));
        }
    }

    fn ask_subnets(&mut self, now: Instant) {
        self.subnet_waiters
            .retain(|waiter| !waiter.answer.is_closed());
        let mut requests = Vec::new();
        for waiter in self
            .subnet_waiters
            .iter_mut()
            .filter(|waiter| waiter.due <= now)
        {
            waiter.due = now + SUBNET_REPEAT;
            requests.push(waiter.have.clone());
        }
        for have in requests {
            let request = SubnetRequest {
                method: SubnetMethod::Get,
                have,
                address: None,
                seq: self.sequence.next(),
            };
            self.send(NodeTopic::Subnet, &request);
        }
    }

    fn ask_host(&mut self, now: Instant) {
        if now < self.host_due || self.gateway == Pair::default() {
            self.host_due = self.host_due.max(now + Duration::from_secs(1));
            return;
        }
        self.host_due = now + jittered(HOST_REPEAT);
        if self.host.is_none() {
            let seq = self.sequence.next();
            self.send(NodeTopic::HostRequest, &HostRequest { seq });
        }
    }

    fn say_due(&mut self, now: Instant) {
        let (Some(_), Some((host, port))) = (&self.client, self.endpoint) else {
            return;
        };
        for due in self.announcements.due(now) {
            let (topic, status) = if due.deployed {
                (NodeTopic::Deployed, ServiceStatus::DEPLOYED)
            } else {
                (NodeTopic::Undeployed, ServiceStatus::UNDEPLOYED)
            };
            let message = ServiceStatus {
                appname: due.job.clone(),
                status: status.to_owned(),
                instance_number: due.number,
                nsip: due.namespace.v4,
                nsipv6: due.namespace.v6,
                host_port: Some(port),
                host_ip: Some(host),
                seq: self.sequence.next(),
            };
            self.send(topic, &message);
            self.ask(Key::Job(due.job));
        }
    }

    fn send<T: Serialize>(&mut self, topic: NodeTopic, message: &T) {
        let topic = topic.of(&self.node);
        self.send_to(&topic, message, false);
    }

    /// Publishes; what does not go out now is repeated by whoever needs its effect.
    fn send_to<T: Serialize>(&mut self, topic: &str, message: &T, retain: bool) {
        let Some(client) = &self.client else { return };
        let payload = match serde_json::to_vec(message) {
            Ok(payload) => payload,
            Err(error) => return tracing::error!(topic, %error, "a message could not be written"),
        };
        if let Err(error) = client.try_publish(topic, QoS::AtLeastOnce, retain, payload) {
            tracing::debug!(topic, %error, "the outbox is full; the message is repeated later");
        }
    }

    fn session_event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Up(client) => self.up(client),
            SessionEvent::Down(reason) => {
                if self.client.take().is_some() {
                    tracing::warn!(%reason, "the link to the cluster is down; what is known keeps working");
                } else if self.note_error(&reason) {
                    tracing::warn!(%reason, "no link to the cluster yet");
                }
                self.note_error(&reason);
            }
            SessionEvent::Message { topic, payload } => self.message(&topic, &payload),
        }
    }

    /// Keeps the error for people; true when it is another than before.
    fn note_error(&self, reason: &str) -> bool {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let other = status.last_error.as_deref() != Some(reason);
        status.last_error = Some(reason.to_owned());
        other
    }

    fn up(&mut self, client: AsyncClient) {
        let now = Instant::now();
        tracing::info!(node = %self.node, "linked to the cluster");
        self.client = Some(client);
        {
            let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
            status.connections += 1;
            status.last_error = None;
        }
        let topic = NodeTopic::Status.of(&self.node);
        self.send_to(&topic, &NodeStatus { online: true }, true);
        for job in self.jobs.keys() {
            self.subscribe(job);
        }
        for waiter in &mut self.subnet_waiters {
            waiter.due = now;
        }
        self.host_due = now;
        self.queries.restart();
        self.say_moved();
        self.announcements.repeat_all(now);
        self.refresh_due = now + jittered(REFRESH);
        self.ask_for_interests();
    }

    fn ask_for_interests(&mut self) {
        let jobs: Vec<String> = self.jobs.keys().cloned().collect();
        for job in jobs {
            self.ask(Key::Job(job));
        }
    }

    fn subscribe(&self, job: &str) {
        if let Some(client) = &self.client
            && let Err(error) =
                client.try_subscribe(topic::updates_available(job), QoS::AtLeastOnce)
        {
            tracing::debug!(job, %error, "the outbox is full; changes of this job are noticed by the next refresh");
        }
    }

    fn follow(&mut self, job: &str) {
        if self.jobs.contains_key(job) {
            return;
        }
        self.jobs.insert(
            job.to_owned(),
            Followed {
                since: Instant::now(),
            },
        );
        self.subscribe(job);
    }

    fn read<T: DeserializeOwned>(&self, topic: &str, payload: &[u8]) -> Option<T> {
        match serde_json::from_slice(payload) {
            Ok(message) => Some(message),
            Err(error) => {
                self.malformed(topic, &error.to_string());
                None
            }
        }
    }

    fn malformed(&self, topic: &str, problem: &str) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.malformed += 1;
        tracing::warn!(
            topic,
            problem,
            "a message could not be understood and was dropped"
        );
    }

    fn message(&mut self, text: &str, payload: &[u8]) {
        match Topic::parse(text) {
            Some(Topic::UpdatesAvailable { job }) => {
                if self.read::<UpdatesAvailable>(text, payload).is_some() {
                    let key = Key::parse(job);
                    // An answer under way may be older than this change.
                    self.queries.answered(&key);
                    self.ask(key);
                }
            }
            Some(Topic::Node {
                topic: NodeTopic::SubnetResult,
                ..
            }) => {
                if let Some(result) = self.read(text, payload) {
                    self.subnet_result(text, result);
                }
            }
            Some(Topic::Node {
                topic: NodeTopic::TableQueryResult,
                ..
            }) => match TableQueryResult::read(payload) {
                Ok((result, wrong)) => {
                    for error in wrong {
                        self.malformed(text, &format!("an instance is left out: {error}"));
                    }
                    self.table_result(text, &result);
                }
                Err(error) => self.malformed(text, &error.to_string()),
            },
            Some(Topic::Node {
                topic: NodeTopic::HostResult,
                ..
            }) => {
                if let Some(result) = self.read(text, payload) {
                    self.host_result(text, result);
                }
            }
            _ => self.malformed(text, "no topic of ours"),
        }
    }

    fn subnet_result(&mut self, topic: &str, result: SubnetResult) {
        if result.address.is_none() && result.addressv6.is_none() {
            return self.malformed(topic, "a subnetwork without an address");
        }
        let wanted = self.subnet_waiters.iter().position(|waiter| {
            let known = |address: &Ipv4Addr| {
                waiter
                    .have
                    .as_ref()
                    .is_some_and(|have| have.contains(address))
            };
            !result.address.as_ref().is_some_and(known)
        });
        if let Some(position) = wanted {
            let waiter = self.subnet_waiters.remove(position);
            let _ = waiter.answer.send(result);
        }
    }

    fn host_result(&mut self, topic: &str, result: HostResult) {
        if let Err(error) = result.app_name.parse::<JobName>() {
            return self.malformed(topic, &error.to_string());
        }
        let now = Instant::now();
        let job = result.app_name.clone();
        if self.host.as_ref() != Some(&result) {
            tracing::info!(job, address = %crate::host::show(Pair::new(result.instance_ip, result.instance_ip_v6)), "this node's own processes have an Instance IP");
            let own = Pair::new(result.instance_ip, result.instance_ip_v6);
            self.tell_forwarding(self.forwarding.set_host_instance(own));
            self.host = Some(result);
            self.announcements
                .arrive((job.clone(), 0), self.gateway, now);
            self.follow(&job);
        }
        self.ask(Key::Job(job));
    }

    fn table_result(&mut self, topic: &str, result: &TableQueryResult) {
        if result.query_key.is_empty() && result.app_name.is_empty() {
            return self.malformed(topic, "an answer to no question");
        }
        let key = Key::parse(&result.query_key);
        self.queries.answered(&key);
        let asked_for = match &key {
            Key::Address(address) => Some(*address),
            Key::Job(_) => None,
        };
        if result.app_name.is_empty() || address::parse(&result.app_name).is_ok() {
            if let Some(address) = asked_for {
                self.tell_unresolvable(address);
            }
            return;
        }
        if let Err(error) = result.app_name.parse::<JobName>() {
            return self.malformed(topic, &error.to_string());
        }
        self.announcements
            .observe(result, self.endpoint.map(|(host, _)| host.to_canonical()));
        self.loads.observe(result);
        let routes = routes::job(result);
        let covered = asked_for.is_none_or(|address| routes::covers(&routes, address));
        let unknown = routes.instances.is_empty() && !self.jobs.contains_key(&result.app_name);
        if !unknown {
            self.follow(&result.app_name);
            self.routes.push(routes);
        }
        if let (Some(address), false) = (asked_for, covered) {
            self.tell_unresolvable(address);
        }
    }

    fn tell_routes(&mut self) {
        let routes = std::mem::take(&mut self.routes);
        if routes.is_empty() {
            return;
        }
        for outcome in self.forwarding.set_jobs(routes) {
            self.tell_forwarding(outcome);
        }
    }

    // What was said before it comes first.
    fn tell_unresolvable(&mut self, address: IpAddr) {
        self.tell_routes();
        self.tell_forwarding(self.forwarding.set_unresolvable(address));
    }

    fn tell_forwarding(&self, outcome: Result<(), crate::forwarding::CommandError>) {
        if let Err(error) = outcome {
            tracing::warn!(%error, "the data plane did not take a route");
        }
    }

    fn drop_idle_interests(&mut self, now: Instant) {
        let idle: HashMap<String, Duration> = match self.forwarding.job_idle() {
            Ok(idle) => idle.into_iter().collect(),
            Err(error) => return tracing::warn!(%error, "interests could not be checked"),
        };
        let dead: Vec<String> = self
            .jobs
            .iter()
            .filter(|(job, followed)| {
                let unused = idle
                    .get(*job)
                    .copied()
                    .unwrap_or_else(|| now.duration_since(followed.since));
                unused >= JOB_UNUSED && !self.announcements.has_job(job)
            })
            .map(|(job, _)| job.clone())
            .collect();
        for job in dead {
            self.jobs.remove(&job);
            self.queries.answered(&Key::Job(job.clone()));
            self.tell_forwarding(self.forwarding.forget_job(&job));
            if let Some(client) = &self.client {
                let _ = client.try_unsubscribe(topic::updates_available(&job));
            }
            let seq = self.sequence.next();
            self.send(
                NodeTopic::InterestRemove,
                &InterestRemove { appname: job, seq },
            );
        }
    }

    async fn farewell(&mut self, offline: bool) {
        self.say_due(Instant::now());
        if offline {
            let topic = NodeTopic::Status.of(&self.node);
            self.send_to(&topic, &NodeStatus { online: false }, true);
        }
        if let Some(client) = &self.client {
            let _ = client.try_disconnect();
        }
    }
}
