//! Bodies of the cluster service manager's HTTP interface (contract section 3).

use serde::{Deserialize, Serialize};

use crate::mqtt::ChangeKind;
use crate::{JobName, scalar};

/// Body of `POST /api/net/deployment`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Deployment {
    /// The job to pull from the root.
    pub job_name: JobName,
}

/// Body of `POST /api/net/job/update`, by which the root tells of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobUpdate {
    /// The job.
    pub job_name: JobName,
    /// The instance; -1 means all of them, less is refused (see [`JobUpdate::is_valid`]).
    #[serde(deserialize_with = "scalar::whole_number")]
    pub instance_number: i64,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: ChangeKind,
    /// **New**: the root's store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// **New**: the root's counter at this change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

impl JobUpdate {
    /// Whether the instance number is -1 or more.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.instance_number >= -1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_update_parses_and_is_written_alike() {
        let text =
            r#"{"job_name":"app1.test.client.test","instance_number":0,"type":"DEPLOYMENT"}"#;
        let update: JobUpdate = serde_json::from_str(text).unwrap();
        assert!(update.is_valid());
        assert_eq!(serde_json::to_string(&update).unwrap(), text);
        assert!(serde_json::from_str::<JobUpdate>(&text.replace("DEPLOYMENT", "x")).is_err());
        let below: JobUpdate = serde_json::from_str(&text.replace(":0", ":-2")).unwrap();
        assert!(!below.is_valid());
    }
}
