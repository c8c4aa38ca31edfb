//! What the broker brings: connections, and the cluster's answers and news.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::PoisonError;
use std::time::Instant;

use protocol::address_plan::{subnet_v4_index, subnet_v6_index};
use protocol::mqtt::{HostResult, NodeStatus, SubnetResult, TableQueryResult, UpdatesAvailable};
use protocol::pacing::jittered;
use protocol::topic::{NodeTopic, Topic};
use protocol::{JobName, address};
use rumqttc::AsyncClient;
use serde::de::DeserializeOwned;

use super::super::queries::Key;
use super::super::routes;
use super::super::session::SessionEvent;
use super::{Feed, REFRESH};
use crate::forwarding::Pair;

impl Feed {
    pub(super) fn session_event(&mut self, event: SessionEvent) {
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
                    self.queries.forget(&key);
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
        if let Some(problem) = unusable(&result) {
            return self.malformed(topic, &problem);
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
        self.queries.answered(&key, Instant::now());
        let wanted = self.lookups.take(&key);
        if result.instance_list.is_empty() {
            self.note_absent(&key);
        }
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
        // Whoever wants its name may have it before an instance runs.
        let named = !wanted.is_empty() && !result.instance_list.is_empty();
        let unknown =
            routes.instances.is_empty() && !named && !self.jobs.contains_key(&result.app_name);
        // A job that an address led to exists, and its first instance may be about to start.
        if !unknown || asked_for.is_some() {
            self.follow(&result.app_name);
        }
        if !unknown {
            self.routes.push(routes);
        }
        self.learn_names(&key, result);
        if let (Some(address), false) = (asked_for, covered) {
            self.tell_unresolvable(address);
        }
    }

    pub(super) fn tell_routes(&mut self) {
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

    pub(super) fn tell_forwarding(&self, outcome: Result<(), crate::forwarding::CommandError>) {
        if let Err(error) = outcome {
            tracing::warn!(%error, "the data plane did not take a route");
        }
    }
}

/// Why a subnetwork cannot be this node's. What comes here becomes addresses, routes and masquerading of the machine.
fn unusable(result: &SubnetResult) -> Option<String> {
    if result.address.is_none() && result.addressv6.is_none() {
        return Some("a subnetwork without an address".to_owned());
    }
    let v4 = result.address.filter(|v4| subnet_v4_index(*v4).is_none());
    let v6 = result.addressv6.filter(|v6| subnet_v6_index(*v6).is_none());
    let wrong = v4.map(IpAddr::V4).or(v6.map(IpAddr::V6))?;
    Some(format!(
        "{wrong} is not the first address of a worker subnetwork"
    ))
}
