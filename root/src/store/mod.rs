//! The root's state in Redis, as typed operations. Each is one script, hence atomic.

mod browse;
mod cluster;
mod hex;
mod instance;
mod moving;
mod queue;
mod script;
mod service;
pub(crate) mod stored;
mod subnet;
mod table;

use std::net::IpAddr;
use std::time::Duration;

use redis_link::{FromRedisValue, Link, LinkError};

pub(crate) use cluster::{Caller, Cluster, Overview, known_text};
pub(crate) use moving::ExportedRest;
pub(crate) use queue::{Delivered, Step};
pub(crate) use script::settle;
use script::{SCRIPTS, Source};
pub(crate) use service::{PolicyWish, Wish, WishedService};
pub(crate) use table::Key;

use crate::keys;

/// Why an operation did not happen. Nothing was stored then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Redis is not there, or not well.
    #[error(transparent)]
    Redis(LinkError),
    /// The store was written by another version.
    #[error("{}", schema_text(.found))]
    Schema {
        /// The version found.
        found: String,
    },
    /// No such job.
    #[error("{0}")]
    UnknownJob(String),
    /// The job has no such instance.
    #[error("{0}")]
    UnknownInstance(String),
    /// The caller is no registered cluster.
    #[error("the caller is not a registered cluster; register it with POST /api/net/cluster")]
    UnknownCaller,
    /// A subnetwork that was never handed out.
    #[error("this subnetwork was never handed out")]
    UnknownSubnet,
    /// An address has another owner.
    #[error("{address} already belongs to {owner}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// The job or instance that has it.
        owner: String,
    },
    /// A pool has no free address.
    #[error("no address is free in {0}")]
    Exhausted(&'static str),
    /// Against the rules; the text says which.
    #[error("{0}")]
    Refused(String),
    /// The store holds what it never should.
    #[error("the store in Redis is damaged: {0}")]
    Damaged(String),
}

/// Handle to the store. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    link: Link,
    rest_ms: String,
}

impl Store {
    pub(crate) fn new(link: Link, rest: Duration) -> Self {
        Self {
            link,
            rest_ms: rest.as_millis().to_string(),
        }
    }

    /// Makes the store if Redis is empty, and checks its version.
    pub(crate) async fn prepare(&self) -> Result<(), StoreError> {
        let candidate = redis_link::unique();
        let mut call = SCRIPTS.init.prepare_invoke();
        call.key(keys::SLOT_KEY)
            .arg(&self.rest_ms)
            .arg(keys::SCHEMA_VERSION)
            .arg(&candidate);
        let epoch: String = self.link.invoke(&call).await.map_err(translate)?;
        if epoch == candidate {
            tracing::info!(epoch, "made a new store");
        }
        Ok(())
    }

    async fn call<T: FromRedisValue>(
        &self,
        script: Source,
        args: &[&str],
    ) -> Result<T, StoreError> {
        let script = script(&SCRIPTS);
        let mut call = script.prepare_invoke();
        call.key(keys::SLOT_KEY).arg(&self.rest_ms);
        for arg in args {
            call.arg(arg);
        }
        match self.link.invoke(&call).await {
            Err(error) if is_unmade(&error) => {
                // The first call ever, or Redis lost everything: a new store, a new epoch.
                self.prepare().await?;
                self.link.invoke(&call).await.map_err(translate)
            }
            answer => answer.map_err(translate),
        }
    }
}

fn schema_text(found: &str) -> String {
    if found == keys::IMPORT_UNDER_WAY {
        return "an import into the store in Redis is under way or was cut short; run it (again), and then everything is there".to_owned();
    }
    format!(
        "the store in Redis has schema version {found}, this root-service-manager needs {}: run the version that wrote it, or give it a Redis of its own",
        keys::SCHEMA_VERSION
    )
}

fn is_unmade(error: &LinkError) -> bool {
    matches!(error.script_error(), Some(("NOSTORE", _)))
}

fn translate(error: LinkError) -> StoreError {
    let Some((code, detail)) = error.script_error() else {
        return StoreError::Redis(error);
    };
    let detail_text = detail.to_owned();
    match code {
        "NOJOB" => StoreError::UnknownJob(detail_text),
        "NOINSTANCE" => StoreError::UnknownInstance(detail_text),
        "NOCALLER" => StoreError::UnknownCaller,
        "NOSUBNET" => StoreError::UnknownSubnet,
        "REFUSED" => StoreError::Refused(detail_text),
        "SCHEMA" => StoreError::Schema { found: detail_text },
        "TAKEN" => match detail.split_once(' ') {
            Some((address, owner)) => match hex::decode(address) {
                Some(address) => StoreError::Taken {
                    address,
                    owner: owner.replace('/', " instance "),
                },
                None => StoreError::Damaged(detail_text),
            },
            None => StoreError::Damaged(detail_text),
        },
        "EMPTY" => StoreError::Exhausted(pool_name(detail.split(' ').next().unwrap_or_default())),
        _ => StoreError::Redis(error),
    }
}

/// A pool, in words for the operator.
fn pool_name(pool: &str) -> &'static str {
    match pool {
        "v4" => "the IPv4 pool of Service and Instance IPs (10.30.0.0/16)",
        "instance6" => "the IPv6 pool of Instance IPs (fdff::/21)",
        "RR6" => "the IPv6 pool of round-robin Service IPs (fdff:2000::/21)",
        "Closest6" => "the IPv6 pool of closest Service IPs (fdff:1000::/21)",
        "Underutilized6" => "the IPv6 pool of underutilized Service IPs (fdff:3000::/21)",
        "subnet" => "the pool of worker subnetworks (10.18.0.0 to 10.29.255.192)",
        _ => "an address pool",
    }
}
