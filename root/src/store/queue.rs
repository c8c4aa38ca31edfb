//! Notifications that wait for their cluster. They live in Redis, so a restart loses none, and a
//! lease keeps the order when several replicas run.

use std::time::Duration;

use protocol::cluster_http::JobUpdate;
use protocol::mqtt::ChangeKind;

use super::{Store, StoreError};
use crate::keys;

/// A notification that the cluster has now; leaves the queue with the next step.
#[derive(Debug, Clone)]
pub(crate) struct Delivered {
    member: String,
    score: String,
}

/// What to do next for a cluster's queue.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing: the queue is empty, or another replica has it.
    Leave,
    /// Send this; this replica has the lease.
    Send {
        /// `host:port` of the cluster, brackets included.
        to: String,
        /// Whether the cluster counts as unreachable.
        in_error: bool,
        /// What to send; `None` when the entry cannot be read (then drop it).
        update: Option<JobUpdate>,
        /// To report back.
        delivered: Delivered,
    },
}

impl Store {
    /// Clusters that have something to be told.
    pub(crate) async fn due_clusters(&self) -> Result<Vec<String>, StoreError> {
        let mut command = redis_link::cmd("SMEMBERS");
        command.arg(keys::due());
        self.link.query(&command).await.map_err(super::translate)
    }

    /// Takes what was delivered out of the queue and answers what comes next, under a lease.
    pub(crate) async fn queue_step(
        &self,
        cluster: &str,
        replica: &str,
        lease: Duration,
        delivered: Option<&Delivered>,
    ) -> Result<Step, StoreError> {
        let lease = lease.as_millis().to_string();
        let (member, score) = delivered.map_or(("", ""), |done| (&done.member, &done.score));
        let answer: Vec<String> = self
            .call(
                |all| &all.queue_step,
                &[cluster, replica, &lease, member, score],
            )
            .await?;
        let [address, port, status, member, score, epoch] = &answer[..] else {
            return Ok(Step::Leave);
        };
        let host = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.clone()
        };
        Ok(Step::Send {
            to: format!("{host}:{port}"),
            in_error: status == "ERROR",
            update: read_update(member, score, epoch),
            delivered: Delivered {
                member: member.clone(),
                score: score.clone(),
            },
        })
    }

    /// Gives up the leases of a replica that stops.
    pub(crate) async fn leave_queues(
        &self,
        replica: &str,
        clusters: &[String],
    ) -> Result<(), StoreError> {
        let mut args = vec![replica];
        args.extend(clusters.iter().map(String::as_str));
        self.call(|all| &all.queue_leave, &args).await
    }
}

fn read_update(member: &str, score: &str, epoch: &str) -> Option<JobUpdate> {
    let mut parts = member.splitn(3, '\t');
    let kind = match parts.next()? {
        "DEPLOYMENT" => ChangeKind::Deployment,
        "UNDEPLOYMENT" => ChangeKind::Undeployment,
        _ => return None,
    };
    Some(JobUpdate {
        job_name: parts.next()?.parse().ok()?,
        instance_number: parts.next()?.parse().ok()?,
        kind,
        epoch: Some(epoch.to_owned()),
        revision: score.parse().ok(),
    })
}
