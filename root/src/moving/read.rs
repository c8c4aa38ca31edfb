//! From the store to a backup.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::{self, Write};

use super::document::{BackupDocument, ClusterDocument, JobDocument, MANAGER};
use super::plan::{free_subnet, pool_document};
use crate::store::{ExportedRest, Store, StoreError};

/// Jobs read at once: Redis does nothing else meanwhile.
const PAGE: usize = 500;

/// The store at one moment.
#[derive(Debug)]
pub(super) struct Backup {
    jobs: BTreeMap<String, JobDocument>,
    rest: ExportedRest,
}

impl fmt::Display for Backup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instances: usize = self
            .jobs
            .values()
            .map(|document| document.job.instance_list.len())
            .sum();
        write!(
            out,
            "{} services with {instances} instances, {} clusters",
            self.jobs.len(),
            self.rest.clusters.len()
        )
    }
}

/// Reads everything; the store may change meanwhile.
pub(super) async fn read(store: &Store) -> Result<Backup, StoreError> {
    let mut jobs = BTreeMap::new();
    let mut after = 0;
    loop {
        let (page, rest) = store.export_page(after, PAGE).await?;
        for (job, node) in page {
            after = after.max(job.revision.unwrap_or_default());
            jobs.insert(job.job_name.to_string(), JobDocument { job, node });
        }
        if let Some(rest) = rest {
            // What was deleted after it had been read.
            let names: HashSet<&str> = rest.names.iter().map(String::as_str).collect();
            jobs.retain(|name, _| names.contains(name.as_str()));
            return Ok(Backup { jobs, rest });
        }
    }
}

/// Writes one document a line.
pub(super) fn print(backup: &Backup, mut to: impl Write) -> io::Result<()> {
    let rest = &backup.rest;
    line(
        &mut to,
        &BackupDocument {
            backup_of: MANAGER.to_owned(),
            revision: rest.revision,
        },
    )?;
    for (pool, next) in &rest.next {
        if let Some(document) = pool_document(pool, u128::from(*next)) {
            line(&mut to, &document)?;
        }
    }
    for index in &rest.resting_subnets {
        if let Some(document) = free_subnet(*index) {
            line(&mut to, &document)?;
        }
    }
    for cluster in &rest.clusters {
        let fields = &cluster.fields;
        let text = |name: &str| fields.get(name).cloned().unwrap_or_default();
        line(
            &mut to,
            &ClusterDocument {
                cluster_id: cluster.id.clone(),
                cluster_address: text("address"),
                cluster_port: text("port").parse().ok(),
                status: text("status"),
                interests: cluster.interests.clone(),
                known: text("known")
                    .split('\t')
                    .filter(|known| !known.is_empty())
                    .map(str::to_owned)
                    .collect(),
                gone: cluster.gone.clone(),
            },
        )?;
    }
    for document in backup.jobs.values() {
        line(&mut to, document)?;
    }
    to.flush()
}

fn line(to: &mut impl Write, document: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *to, document)?;
    to.write_all(b"\n")
}
