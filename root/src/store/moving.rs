//! The whole store at once, for `import` and `export`.

use std::collections::BTreeMap;

use protocol::Job;
use redis_link::{Cmd, FromRedisValue, Pipeline};

use super::script::SCRIPTS;
use super::{Store, StoreError, table, translate};
use crate::keys;

/// What a store holds beside its jobs.
#[derive(Debug)]
pub(crate) struct ExportedRest {
    /// Its counter.
    pub(crate) revision: u64,
    /// Pool → first index never handed out.
    pub(crate) next: BTreeMap<String, u64>,
    /// Subnetworks that rest.
    pub(crate) resting_subnets: Vec<u32>,
    /// Clusters.
    pub(crate) clusters: Vec<ExportedCluster>,
    /// Names of all jobs.
    pub(crate) names: Vec<String>,
}

/// A cluster as it is stored.
#[derive(Debug)]
pub(crate) struct ExportedCluster {
    /// Its id.
    pub(crate) id: String,
    /// Its hash.
    pub(crate) fields: BTreeMap<String, String>,
    /// Jobs it is interested in.
    pub(crate) interests: Vec<String>,
    /// Deleted ones, with the revision of that.
    pub(crate) gone: Vec<(String, u64)>,
}

/// Some jobs, each with the node whose own processes it stands for; with the last page, the rest.
type Page = (Vec<(Job, Option<String>)>, Option<ExportedRest>);

impl Store {
    /// Waits until Redis answers.
    pub(crate) async fn answers(&self) {
        self.link.ready().await;
    }

    /// Sends commands of an import.
    pub(crate) async fn send(&self, commands: &Pipeline) -> Result<(), StoreError> {
        self.link.pipeline(commands).await.map_err(translate)
    }

    /// Sends one command of an import.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.link.query(command).await.map_err(translate)
    }

    /// Reserves the store: from here on every other operation is refused.
    pub(crate) async fn begin_import(&self, replace: bool) -> Result<(), StoreError> {
        let mut call = SCRIPTS.import_begin.prepare_invoke();
        call.key(keys::SLOT_KEY)
            .arg(&self.rest_ms)
            .arg(keys::SCHEMA_VERSION)
            .arg(keys::IMPORT_UNDER_WAY)
            .arg(u8::from(replace));
        self.link.invoke(&call).await.map_err(translate)
    }

    /// Opens the store again, with an epoch that nobody has seen.
    pub(crate) async fn end_import(&self) -> Result<(), StoreError> {
        let mut call = SCRIPTS.import_end.prepare_invoke();
        call.key(keys::SLOT_KEY)
            .arg(&self.rest_ms)
            .arg(keys::SCHEMA_VERSION)
            .arg(redis_link::unique());
        self.link.invoke(&call).await.map_err(translate)
    }

    /// Jobs that changed after a revision, in that order.
    pub(crate) async fn export_page(&self, after: u64, most: usize) -> Result<Page, StoreError> {
        type Fields = Vec<(String, String)>;
        type Cluster = (
            String,
            BTreeMap<String, String>,
            Vec<String>,
            Vec<(String, u64)>,
        );
        type Rest = (
            u64,
            BTreeMap<String, u64>,
            Vec<u32>,
            Vec<Cluster>,
            Vec<String>,
        );
        let (page, rest): (Vec<(String, Fields)>, Vec<Rest>) = self
            .call(
                |all| &all.export_page,
                &[&after.to_string(), &most.to_string()],
            )
            .await?;
        let jobs = page
            .into_iter()
            .map(|(name, fields)| {
                let node = fields
                    .iter()
                    .find(|(field, _)| field == "node")
                    .map(|(_, node)| node.clone());
                Ok((table::stored_job(&name, None, &fields)?, node))
            })
            .collect::<Result<_, StoreError>>()?;
        let rest =
            rest.into_iter()
                .next()
                .map(
                    |(revision, next, resting_subnets, clusters, names)| ExportedRest {
                        revision,
                        next,
                        resting_subnets,
                        clusters: clusters
                            .into_iter()
                            .map(|(id, fields, interests, gone)| ExportedCluster {
                                id,
                                fields,
                                interests,
                                gone,
                            })
                            .collect(),
                        names,
                    },
                );
        Ok((jobs, rest))
    }
}
