//! The work that is owed to root and nodes.
//!
//! Whatever changes the state also writes down, in the same script, whom it has to be told to.
//! Any replica takes such a task up for a limited time; it is done when the other side has
//! confirmed it, and comes again otherwise. So neither a dead replica nor an unreachable root
//! loses anything, and nothing of it runs inside a request or in the MQTT loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::JobName;
use protocol::mqtt::{ChangeKind, HostResult, UpdatesAvailable};
use protocol::root_http::{DeployStatus, InstanceStatus};
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::jobs::{self, PullError};
use crate::keys::task::{self, Task};
use crate::root_client::Key;
use crate::store::Claimed;
use crate::subnets;

/// Tasks that run at once: no more than calls to the root may, so that none waits its time limit away.
const AT_ONCE: usize = 64;
/// A task runs no longer than this ...
const TIME_LIMIT: Duration = Duration::from_secs(6);
/// ... so that it has ended before another replica may take it up, which is soon enough after a death.
const LEASE: Duration = Duration::from_secs(7);
/// Between two attempts to note an outcome.
const NOTE_AGAIN: Duration = Duration::from_millis(300);
/// First pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// Tasks of other replicas are looked for this often.
const LOOK: Duration = Duration::from_millis(500);

/// Does tasks for ever.
pub async fn run(cluster: Arc<Cluster>) {
    let mut running = JoinSet::new();
    loop {
        while running.try_join_next().is_some() {}
        let room = AT_ONCE - running.len().min(AT_ONCE);
        let pause = if room == 0 {
            running.join_next().await;
            continue;
        } else {
            match cluster.store.claim(room.min(64), LEASE).await {
                Ok((claimed, next)) => {
                    let full = claimed.len() == room.min(64);
                    for task in claimed {
                        let cluster = Arc::clone(&cluster);
                        running.spawn(async move { attempt(&cluster, &task).await });
                    }
                    if full {
                        continue;
                    }
                    next.unwrap_or(LOOK).min(LOOK)
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot look for tasks");
                    LOOK
                }
            }
        };
        tokio::select! {
            () = cluster.store.work.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn attempt(cluster: &Cluster, claimed: &Claimed) {
    let started = Instant::now();
    let outcome = match tokio::time::timeout(TIME_LIMIT, perform(cluster, claimed)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::Later("it took too long".to_owned())),
    };
    let done = match outcome {
        Ok(()) => {
            cluster.metrics.tasks_done_total.add();
            true
        }
        Err(Failure::Later(reason)) => {
            cluster.metrics.tasks_failed_total.add();
            tracing::debug!(task = claimed.task, reason, "to be repeated");
            false
        }
    };
    let store = &cluster.store;
    while let Err(error) = store
        .finish(claimed, done, FIRST_PAUSE, LONGEST_PAUSE)
        .await
    {
        tracing::debug!(task = claimed.task, %error, "outcome not noted");
        if started.elapsed() > LEASE {
            // The task comes again.
            return;
        }
        tokio::time::sleep(NOTE_AGAIN).await;
    }
}

enum Failure {
    Later(String),
}

impl From<PullError> for Failure {
    fn from(error: PullError) -> Self {
        Self::Later(error.to_string())
    }
}

impl From<crate::store::StoreError> for Failure {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Later(error.to_string())
    }
}

impl From<crate::root_client::RootError> for Failure {
    fn from(error: crate::root_client::RootError) -> Self {
        Self::Later(error.to_string())
    }
}

async fn perform(cluster: &Cluster, claimed: &Claimed) -> Result<(), Failure> {
    let Some(task) = task::parse(&claimed.task) else {
        tracing::warn!(
            task = claimed.task,
            "dropped a task that no version of ours wrote"
        );
        return Ok(());
    };
    match task {
        Task::Announce(job) => {
            let kind = kind(&claimed.payload).unwrap_or(ChangeKind::Deployment);
            let topic = protocol::topic::updates_available(job.as_str());
            cluster
                .publisher
                .send_confirmed(topic, &UpdatesAvailable { kind })
                .await
                .map_err(|error| Failure::Later(error.to_string()))
        }
        Task::Refresh(job) => {
            jobs::pull(cluster, &Key::Name(job), kind(&claimed.payload)).await?;
            Ok(())
        }
        Task::Report(job, number) => report(cluster, &job, number, &claimed.payload).await,
        Task::Forget(job) => forget(cluster, &job).await,
        Task::HostBack(node) => host_back(cluster, &node, &claimed.payload).await,
        Task::GiveBack(_) => Ok(subnets::give_back(cluster, &claimed.payload).await?),
    }
}

fn kind(payload: &str) -> Option<ChangeKind> {
    [ChangeKind::Deployment, ChangeKind::Undeployment]
        .into_iter()
        .find(|kind| kind.as_str() == payload)
}

async fn report(
    cluster: &Cluster,
    job: &JobName,
    number: u32,
    id_then: &str,
) -> Result<(), Failure> {
    let (record, id_now) = cluster.store.local(job, number).await?;
    let id = if id_now.is_empty() { id_then } else { &id_now };
    let gone = record.as_ref().is_none_or(|record| record.gone);
    if id.is_empty() {
        if gone {
            // Never known to the root under any id that we heard of: nothing to take back.
            if let Some(record) = record {
                cluster
                    .store
                    .reported(job, number, record.ticket, true)
                    .await?;
            }
            return Ok(());
        }
        // A node announced it before the job was known here.
        return match jobs::pull(
            cluster,
            &Key::Name(job.clone()),
            Some(ChangeKind::Deployment),
        )
        .await?
        {
            Some(_) => Err(Failure::Later("the job is known now".to_owned())),
            None => Err(Failure::Later(
                "the root does not know the job yet".to_owned(),
            )),
        };
    }
    let status = match record.as_ref().filter(|record| !record.gone) {
        Some(record) => InstanceStatus {
            instance_number: number,
            namespace_ip: record.nsip,
            namespace_ip_v6: record.nsip6,
            host_ip: record.host,
            host_port: record.port,
            status: None,
        },
        None => InstanceStatus::withdrawn(number),
    };
    let known = cluster
        .root
        .report(&DeployStatus {
            job_id: id.to_owned(),
            instances: vec![status],
        })
        .await?;
    if let Some(record) = record {
        if known || gone {
            cluster
                .store
                .reported(job, number, record.ticket, !known)
                .await?;
        } else {
            // Deployed again at the root under another id, perhaps.
            jobs::pull(cluster, &Key::Name(job.clone()), None).await?;
            return Err(Failure::Later("the root does not know the job".to_owned()));
        }
    }
    Ok(())
}

/// Gives back the instance that stood for the processes of a node that is no more.
async fn host_back(cluster: &Cluster, node: &str, answer: &str) -> Result<(), Failure> {
    let Some(job) = serde_json::from_str::<HostResult>(answer)
        .ok()
        .and_then(|host| host.app_name.parse::<JobName>().ok())
    else {
        return Ok(());
    };
    // It asked anew since: then it needs it.
    if cluster.store.kept_host(node).await?.is_some() {
        return Ok(());
    }
    if let Some(job) = cluster.root.job(&Key::Name(job)).await? {
        cluster.root.remove(&job.id).await?;
    }
    Ok(())
}

async fn forget(cluster: &Cluster, job: &JobName) -> Result<(), Failure> {
    if cluster.store.holds(job).await? {
        return Ok(());
    }
    cluster.root.forget(job).await?;
    cluster.store.forgotten(job).await?;
    Ok(())
}
