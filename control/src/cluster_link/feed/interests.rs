//! Which jobs' changes this node follows: those with an instance here, and those that packets go to.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use protocol::mqtt::InterestRemove;
use protocol::topic::{self, NodeTopic};
use rumqttc::QoS;

use super::super::queries::Key;
use super::Feed;
use crate::forwarding::JOB_UNUSED;

/// A job whose changes are followed.
pub(super) struct Followed {
    since: Instant,
}

impl Feed {
    pub(super) fn ask_for_interests(&mut self) {
        let jobs: Vec<String> = self.jobs.keys().cloned().collect();
        for job in jobs {
            self.ask(Key::Job(job));
        }
    }

    pub(super) fn subscribe(&self, job: &str) {
        if let Some(client) = &self.client
            && let Err(error) =
                client.try_subscribe(topic::updates_available(job), QoS::AtLeastOnce)
        {
            tracing::debug!(job, %error, "the outbox is full; changes of this job are noticed by the next refresh");
        }
    }

    pub(in super::super) fn follow(&mut self, job: &str) {
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

    /// Gives up what no packet has used for long. Not while the cluster cannot hear of it: it would go on telling this
    /// node of the job for ever.
    pub(super) fn drop_idle_interests(&mut self, now: Instant) {
        if self.client.is_none() {
            return;
        }
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
            self.names.forget(&job);
            self.queries.forget(&Key::Job(job.clone()));
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
}
