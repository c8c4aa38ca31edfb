//! The documents of an export: those of the reference's collections, and what a backup adds.

use protocol::{Job, scalar};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which manager wrote a backup.
pub(super) const MANAGER: &str = "root-service-manager";

/// A job: the reference's document is the job as the root answers it, with more in it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct JobDocument {
    #[serde(flatten)]
    pub(super) job: Job,
    /// **Backup**: the node whose own processes it stands for, `cluster TAB node`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<String>,
}

/// How far a pool was handed out (`next_…`), or a free address (`free_…`).
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PoolDocument {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ipv4: Option<[u8; 4]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ipv6: Option<[u8; 16]>,
}

/// A cluster and its interests.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ClusterDocument {
    #[serde(deserialize_with = "scalar::text_or_number")]
    pub(super) cluster_id: String,
    pub(super) cluster_address: String,
    #[serde(with = "scalar::port_number")]
    pub(super) cluster_port: Option<u16>,
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub(super) status: String,
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub(super) interests: Vec<String>,
    /// **Backup**: every address that it is known by.
    #[serde(default)]
    pub(super) known: Vec<String>,
    /// **Backup**: jobs deleted while it was interested, with the revision of that.
    #[serde(default)]
    pub(super) gone: Vec<(String, u64)>,
}

/// The first line of a backup.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BackupDocument {
    /// [`MANAGER`].
    pub(super) backup_of: String,
    /// The store's counter.
    pub(super) revision: u64,
}

/// Any of them.
#[derive(Debug)]
pub(super) enum Document {
    Job(Box<JobDocument>),
    Pool(PoolDocument),
    Cluster(ClusterDocument),
    Backup(BackupDocument),
}

/// Why a document is none of these.
#[derive(Debug, thiserror::Error)]
pub(super) enum DocumentError {
    #[error("{what}: {error}")]
    Malformed {
        what: String,
        error: serde_json::Error,
    },
    #[error(
        "it belongs to a cluster: import it with cluster-service-manager, and here the root's own collections"
    )]
    OfACluster,
    #[error("this is a backup of {0}: import it there")]
    OfAnother(String),
    #[error(
        "it is no document of the root's collections jobs, netcache or cluster, and no line of a backup"
    )]
    Unknown,
}

impl Document {
    pub(super) fn read(value: Value) -> Result<Self, DocumentError> {
        let name = value["job_name"].as_str().map(str::to_owned);
        if let Some(name) = name {
            let of_a_node = |instance: &Value| instance.get("worker_id").is_some();
            if value.get("interested_nodes").is_some()
                || value["instance_list"]
                    .as_array()
                    .is_some_and(|list| list.iter().any(of_a_node))
            {
                return Err(DocumentError::OfACluster);
            }
            return typed(value, || format!("job {name}"))
                .map(Box::new)
                .map(Self::Job);
        }
        if value.get("backup_of").is_some() {
            let header: BackupDocument = typed(value, || "the backup's first line".to_owned())?;
            if header.backup_of != MANAGER {
                return Err(DocumentError::OfAnother(header.backup_of));
            }
            return Ok(Self::Backup(header));
        }
        if value["type"].is_string() && (value.get("ipv4").is_some() || value.get("ipv6").is_some())
        {
            return typed(value, || "an address pool".to_owned()).map(Self::Pool);
        }
        if value.get("cluster_id").is_some() && value.get("cluster_address").is_some() {
            return typed(value, || "a cluster".to_owned()).map(Self::Cluster);
        }
        if value.get("node_subnet").is_some() {
            return Err(DocumentError::OfACluster);
        }
        Err(DocumentError::Unknown)
    }
}

fn typed<T: serde::de::DeserializeOwned>(
    value: Value,
    what: impl FnOnce() -> String,
) -> Result<T, DocumentError> {
    serde_json::from_value(value).map_err(|error| DocumentError::Malformed {
        what: what(),
        error,
    })
}
