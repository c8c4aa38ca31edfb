//! From a checked plan to the store. The keys are `keys`' own; what scripts would derive (owners,
//! watchers, the index of jobs) is derived here in the same way.

use redis_link::{Pipeline, cmd, pipe};

use super::plan::{PlannedCluster, PlannedJob, Ready};
use crate::keys::{self, TAG};
use crate::store::{Store, StoreError};

/// Commands sent at once.
const BATCH: usize = 2000;

struct Writer<'a> {
    store: &'a Store,
    batch: Pipeline,
    held: usize,
}

impl Writer<'_> {
    async fn put(&mut self, command: redis_link::Cmd) -> Result<(), StoreError> {
        self.batch.add_command(command).ignore();
        self.held += 1;
        if self.held >= BATCH {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        if self.held > 0 {
            self.store.send(&self.batch).await?;
            self.batch = pipe();
            self.held = 0;
        }
        Ok(())
    }
}

/// Writes a plan. On an error the store stays reserved, and the next import starts over.
pub(super) async fn write(store: &Store, plan: &Ready, replace: bool) -> Result<(), StoreError> {
    store.begin_import(replace).await?;
    clear(store).await?;
    let mut to = Writer {
        store,
        batch: pipe(),
        held: 0,
    };
    for job in &plan.jobs {
        write_job(&mut to, job).await?;
    }
    write_owners(&mut to, &plan.owners).await?;
    for (pool, next) in &plan.next {
        let set = cmd("HSET")
            .arg(key("next"))
            .arg(*pool)
            .arg(next.to_string())
            .to_owned();
        to.put(set).await?;
    }
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default()
        .as_millis()
        .to_string();
    for (pool, resting) in &plan.resting {
        for some in resting.chunks(500) {
            let mut add = cmd("ZADD").arg(key(&format!("rest:{pool}"))).to_owned();
            for one in some {
                add.arg(&now).arg(one);
            }
            to.put(add).await?;
        }
    }
    let revisions: std::collections::HashMap<&str, u64> = plan
        .jobs
        .iter()
        .map(|job| (job.name.as_str(), job.revision.unwrap_or_default()))
        .collect();
    for (id, cluster) in &plan.clusters {
        write_cluster(&mut to, id, cluster, &revisions).await?;
    }
    let set = cmd("SET")
        .arg(key("revision"))
        .arg(plan.revision)
        .to_owned();
    to.put(set).await?;
    to.flush().await?;
    store.end_import().await
}

fn key(name: &str) -> String {
    format!("{TAG}{name}")
}

/// Removes everything but the reservation and the clusters' own entries: clusters register at
/// their start alone, and may have done so before the import.
async fn clear(store: &Store) -> Result<(), StoreError> {
    let kept = |name: &str| {
        name == keys::SLOT_KEY
            || name.strip_prefix(TAG).is_some_and(|name| {
                name == "clusters" || name.starts_with("cluster:") || name.starts_with("at:")
            })
    };
    let mut cursor = String::from("0");
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(&cursor)
            .arg("MATCH")
            .arg(format!("{TAG}*"))
            .arg("COUNT")
            .arg(5000);
        let (next, names): (String, Vec<String>) = store.ask(&scan).await?;
        let gone: Vec<&String> = names.iter().filter(|name| !kept(name)).collect();
        if !gone.is_empty() {
            let unlink = cmd("UNLINK").arg(gone).to_owned();
            store.ask::<u64>(&unlink).await?;
        }
        if next == "0" {
            return Ok(());
        }
        cursor = next;
    }
}

async fn write_job(to: &mut Writer<'_>, job: &PlannedJob) -> Result<(), StoreError> {
    let name = job.name.as_str();
    let revision = job.revision.unwrap_or_default();
    to.put(
        cmd("SET")
            .arg(key(&format!("id:{}", job.id)))
            .arg(name)
            .to_owned(),
    )
    .await?;
    let mut set = cmd("HSET");
    set.arg(key(&format!("job:{name}")))
        .arg("id")
        .arg(&job.id)
        .arg("rev")
        .arg(revision);
    for (field, value) in &job.fields {
        set.arg(field).arg(value);
    }
    to.put(set).await?;
    to.put(
        cmd("ZADD")
            .arg(key("jobs"))
            .arg(revision)
            .arg(name)
            .to_owned(),
    )
    .await
}

/// 16 neighbours share a hash, and they are neighbours in the list.
async fn write_owners(to: &mut Writer<'_>, owners: &[(String, String)]) -> Result<(), StoreError> {
    fn place(address: &str) -> (&str, &str) {
        address.split_at(address.len().saturating_sub(1))
    }
    for group in owners.chunk_by(|a, b| place(&a.0).0 == place(&b.0).0) {
        let Some((first, _)) = group.first() else {
            continue;
        };
        let mut set = cmd("HSET")
            .arg(key(&format!("ip:{}", place(first).0)))
            .to_owned();
        for (address, owner) in group {
            set.arg(place(address).1).arg(owner);
        }
        to.put(set).await?;
    }
    Ok(())
}

async fn write_cluster(
    to: &mut Writer<'_>,
    id: &str,
    cluster: &PlannedCluster,
    revisions: &std::collections::HashMap<&str, u64>,
) -> Result<(), StoreError> {
    let set = cmd("HSET")
        .arg(key(&format!("cluster:{id}")))
        .arg("address")
        .arg(&cluster.address)
        .arg("port")
        .arg(cluster.port)
        .arg("known")
        .arg(cluster.known.join("\t"))
        .arg("status")
        .arg(cluster.status)
        .to_owned();
    to.put(set).await?;
    to.put(cmd("SADD").arg(key("clusters")).arg(id).to_owned())
        .await?;
    for address in &cluster.known {
        to.put(
            cmd("SADD")
                .arg(key(&format!("at:{address}")))
                .arg(id)
                .to_owned(),
        )
        .await?;
    }
    for job in &cluster.interests {
        let revision = revisions.get(job.as_str()).copied().unwrap_or_default();
        to.put(
            cmd("SADD")
                .arg(key(&format!("watch:{job}")))
                .arg(id)
                .to_owned(),
        )
        .await?;
        to.put(
            cmd("ZADD")
                .arg(key(&format!("feed:{id}")))
                .arg(revision)
                .arg(job)
                .to_owned(),
        )
        .await?;
    }
    for (job, revision) in &cluster.gone {
        to.put(
            cmd("ZADD")
                .arg(key(&format!("gone:{id}")))
                .arg(revision)
                .arg(job)
                .to_owned(),
        )
        .await?;
    }
    Ok(())
}
