//! Pulling jobs from the root into the local copy.
//!
//! Many things make a pull: a deployment, a notification, a table query, the feed. All go through
//! here, so one rule holds: a ticket is taken before the root is asked, and an answer never
//! replaces one that was asked for later (or has a higher revision). When nodes would see a
//! difference, they are told.

use std::sync::Arc;

use protocol::JobName;
use protocol::mqtt::ChangeKind;

use crate::answer::Held;
use crate::cluster::Cluster;
use crate::root_client::{Key, RootError};
use crate::store::{Store, StoreError, Stored};

/// Why a job could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The root's part.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The store's part.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Pulls a job. `None`: the root does not know it.
///
/// `announcement` is owed to the nodes in any case; without one, when they would see a difference,
/// [`ChangeKind::Undeployment`] if there are fewer instances, else [`ChangeKind::Deployment`].
///
/// # Errors
/// See [`PullError`]; the copy is unchanged then.
pub async fn pull(
    cluster: &Cluster,
    key: &Key,
    announcement: Option<ChangeKind>,
) -> Result<Option<JobName>, PullError> {
    let store = &cluster.store;
    let ticket = store.ticket().await?;
    let Some(job) = cluster.root.job(key).await? else {
        if let Key::Name(name) = key {
            store.job_unknown(name, ticket, announcement).await?;
        }
        return Ok(None);
    };
    if let Key::Name(name) = key
        && *name != job.job_name
    {
        return Err(PullError::Root(RootError::Malformed {
            what: format!("the query for {name}"),
            reason: format!("it is about {}", job.job_name),
        }));
    }
    let difference = difference(store, &job, ticket).await?;
    let forget = announcement == Some(ChangeKind::Undeployment) || difference.fewer;
    let seen = match difference.fewer {
        true => ChangeKind::Undeployment,
        false => ChangeKind::Deployment,
    };
    let announcement = announcement.or(difference.visible.then_some(seen));
    let stored = store.store_job(&job, ticket, announcement, forget).await?;
    tracing::debug!(job = %job.job_name, ticket, ?stored, revision = ?job.revision, "pulled");
    if stored == Stored::Forgotten {
        tracing::info!(job = %job.job_name, "forgotten: no node asks for it and nothing runs here");
    }
    Ok(Some(job.job_name))
}

/// Whether nodes were told of a change already, or of a later one. That the copy holds it is not enough: who asked for
/// the job, or had it deployed, may have brought it.
///
/// # Errors
/// Redis is away.
pub async fn is_known(
    cluster: &Cluster,
    job: &JobName,
    epoch: &str,
    revision: u64,
) -> Result<bool, StoreError> {
    let told = cluster.store.told(job).await?;
    Ok(told.is_some_and(|(of, told)| of == epoch && told >= revision))
}

/// What a new copy changes.
#[derive(Debug, Default, Clone, Copy)]
struct Difference {
    /// Nodes would see it.
    visible: bool,
    /// Instances went.
    fewer: bool,
}

async fn difference(
    store: &Store,
    job: &protocol::Job,
    ticket: u64,
) -> Result<Difference, StoreError> {
    let Some(before) = store.held(&job.job_name).await? else {
        return Ok(Difference::default());
    };
    let fewer = job.instance_list.len() < before.job.instance_list.len();
    let after = Held {
        job: Arc::new(job.clone()),
        ticket,
        locals: before.locals.clone(),
        loads: before.loads.clone(),
    };
    Ok(Difference {
        visible: before.view() != after.view(),
        fewer,
    })
}
