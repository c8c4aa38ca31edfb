//! The task behind the link: what is to be said, and when.
//!
//! What the broker brings is in `incoming`, which jobs' changes are followed in `interests`.

mod incoming;
mod interests;
mod names;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::mqtt::{
    AddressChanged, HostRequest, HostResult, Load, NodeStatus, ServiceStatus, SubnetMethod,
    SubnetRequest, SubnetResult, TableQuery,
};
use protocol::pacing::jittered;
use protocol::topic::NodeTopic;
use rumqttc::{AsyncClient, QoS};
use serde::Serialize;
use tokio::sync::{Notify, mpsc, oneshot};

use super::announce::Announcements;
use super::queries::{Key, Queries};
use super::session::{Broker, SessionEvent};
use super::{Command, LinkStatus, Sequence, loads};
use crate::dns::Names;
use crate::forwarding::{Forwarding, JobRoutes, Pair};
use crate::state::Departure;
use interests::Followed;

const SUBNET_REPEAT: Duration = Duration::from_secs(2);
const HOST_REPEAT: Duration = Duration::from_secs(60);
const REFRESH: Duration = Duration::from_secs(60);
const INTEREST_CHECK: Duration = Duration::from_secs(5);
/// Messages of one burst: what is due otherwise must not wait for long.
const EVENTS_AT_ONCE: usize = 256;

struct SubnetWaiter {
    have: Option<Vec<Ipv4Addr>>,
    answer: oneshot::Sender<SubnetResult>,
    due: Instant,
}

/// What the task tells others by.
pub(super) struct Signals {
    /// A new connection is wanted.
    pub renew: Arc<Notify>,
    /// Other jobs are followed than before, or other departures are to be said.
    pub kept_changed: Arc<Notify>,
}

pub(super) struct Feed {
    signals: Signals,
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
    lookups: names::Lookups,
    names: Arc<Names>,
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
    pub(super) fn new(
        broker: &Broker,
        forwarding: Arc<dyn Forwarding>,
        sequence: Arc<Sequence>,
        names: Arc<Names>,
        status: Arc<Mutex<LinkStatus>>,
        signals: Signals,
    ) -> Self {
        let now = Instant::now();
        Self {
            signals,
            moved: false,
            node: broker.client_id.clone(),
            forwarding,
            sequence,
            status,
            client: None,
            endpoint: None,
            gateway: Pair::default(),
            host: None,
            host_due: now,
            host_warned: false,
            queries: Queries::default(),
            lookups: names::Lookups::default(),
            names,
            announcements: Announcements::default(),
            loads: loads::Loads::default(),
            loads_due: now + loads::pause(),
            jobs: HashMap::new(),
            routes: Vec::new(),
            subnet_waiters: Vec::new(),
            refresh_due: now + REFRESH,
            interests_due: now + INTEREST_CHECK,
        }
    }

    pub(super) async fn run(
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
            self.signals.kept_changed.notify_one();
        }
        if !self
            .announcements
            .departures()
            .eq(status.departures.iter().cloned())
        {
            status.departures = self.announcements.departures().collect();
            self.signals.kept_changed.notify_one();
        }
    }

    /// What an earlier run had still to say.
    pub(super) fn depart(&mut self, departure: &Departure) {
        let namespace = Pair::new(departure.v4, departure.v6);
        let instance = (departure.job.clone(), departure.number);
        self.announcements
            .leave(instance, namespace, Instant::now());
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
            Command::Lookup(key, done) => self.look_up(&key, done),
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
            self.signals.renew.notify_one();
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
        self.drop_lookups();
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
