//! The name of a job: `app_name.app_ns.service_name.service_ns`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest part of a job name, in characters.
pub const PART_LENGTH: usize = 30;
/// Longest part of a node's own job name: cluster and node ids may be longer than a service's name.
pub const HOST_PART_LENGTH: usize = 64;

/// A validated job name. Cheap to compare and to hash: it is its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(
    feature = "openapi",
    schema(pattern = r"^[a-zA-Z0-9]{1,30}(\.[a-zA-Z0-9]{1,30}){3}$")
)]
pub struct JobName(String);

/// Why a text is no job name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobNameError {
    /// Not four parts.
    #[error(
        "`{0}` is not a job name: it needs four parts, app_name.app_ns.service_name.service_ns"
    )]
    Parts(String),
    /// One part is malformed.
    #[error(
        "`{part}` is not valid in a job name: 1 to {PART_LENGTH} letters or digits, nothing else"
    )]
    Part {
        /// The part as it came.
        part: String,
    },
}

/// Whether a text may be one part of a job name: `^[a-zA-Z0-9]{1,30}$`.
#[must_use]
pub fn is_valid_part(part: &str) -> bool {
    is_alphanumeric(part, PART_LENGTH)
}

fn is_alphanumeric(part: &str, longest: usize) -> bool {
    (1..=longest).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl JobName {
    /// Joins four parts.
    ///
    /// # Errors
    /// A part is malformed; the error names it.
    pub fn new(
        app_name: &str,
        app_ns: &str,
        service_name: &str,
        service_ns: &str,
    ) -> Result<Self, JobNameError> {
        format!("{app_name}.{app_ns}.{service_name}.{service_ns}").parse()
    }

    /// The job of a node's own processes: `<cluster_id>.nodes.<node_id>.host`, where characters
    /// outside `[a-zA-Z0-9]` are left out of both ids.
    ///
    /// # Errors
    /// An id has no usable character, or more than [`HOST_PART_LENGTH`].
    pub fn of_host(cluster_id: &str, node_id: &str) -> Result<Self, JobNameError> {
        let clean =
            |text: &str| -> String { text.chars().filter(char::is_ascii_alphanumeric).collect() };
        format!("{}.nodes.{}.host", clean(cluster_id), clean(node_id)).parse()
    }

    /// Reads the form of a root URL, where `_` stands for `.`.
    ///
    /// # Errors
    /// The text is no job name.
    pub fn from_path_segment(text: &str) -> Result<Self, JobNameError> {
        text.replace('_', ".").parse()
    }

    /// Writes the form of a root URL, `_` for `.`.
    #[must_use]
    pub fn path_segment(&self) -> String {
        self.0.replace('.', "_")
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn part(&self, index: usize) -> &str {
        self.0.split('.').nth(index).unwrap_or_default()
    }

    /// First part.
    #[must_use]
    pub fn app_name(&self) -> &str {
        self.part(0)
    }

    /// Second part.
    #[must_use]
    pub fn app_ns(&self) -> &str {
        self.part(1)
    }

    /// Third part.
    #[must_use]
    pub fn service_name(&self) -> &str {
        self.part(2)
    }

    /// Fourth part.
    #[must_use]
    pub fn service_ns(&self) -> &str {
        self.part(3)
    }

    /// Whether the name has the form of a node's own job (`….nodes.….host`).
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.app_ns() == "nodes" && self.service_ns() == "host"
    }
}

impl FromStr for JobName {
    type Err = JobNameError;

    fn from_str(text: &str) -> Result<Self, JobNameError> {
        let parts: Vec<&str> = text.split('.').collect();
        let [_, app_ns, _, service_ns] = parts[..] else {
            return Err(JobNameError::Parts(text.to_owned()));
        };
        let longest = if app_ns == "nodes" && service_ns == "host" {
            HOST_PART_LENGTH
        } else {
            PART_LENGTH
        };
        match parts.iter().find(|part| !is_alphanumeric(part, longest)) {
            Some(part) => Err(JobNameError::Part {
                part: (*part).to_owned(),
            }),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for JobName {
    type Error = JobNameError;

    fn try_from(text: String) -> Result<Self, JobNameError> {
        text.parse()
    }
}

impl From<JobName> for String {
    fn from(name: JobName) -> Self {
        name.0
    }
}

impl AsRef<str> for JobName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for JobName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_alphanumeric_parts_of_at_most_30() {
        let name: JobName = "app1.test.server.prod".parse().unwrap();
        assert_eq!(
            (
                name.app_name(),
                name.app_ns(),
                name.service_name(),
                name.service_ns()
            ),
            ("app1", "test", "server", "prod")
        );
        let long = "x".repeat(30);
        assert!(JobName::new(&long, "b", "c", "d").is_ok());
        for bad in [
            "a.b.c",
            "a.b.c.d.e",
            "a..c.d",
            "a.b.c.d\n",
            "a.b.c-d.e",
            "a.b.c.ü",
            "",
        ] {
            assert!(bad.parse::<JobName>().is_err(), "{bad:?}");
        }
        assert!(JobName::new(&"x".repeat(31), "b", "c", "d").is_err());
    }

    #[test]
    fn a_path_segment_writes_underscores() {
        let name = JobName::from_path_segment("app1_test_client_test").unwrap();
        assert_eq!(name.as_str(), "app1.test.client.test");
        assert_eq!(name.path_segment(), "app1_test_client_test");
    }

    #[test]
    fn a_host_name_leaves_out_what_no_name_may_hold() {
        let uuid = "6f1c2a4e-0000-4000-8000-123456789abc";
        let name = JobName::of_host("cluster-1", uuid).unwrap();
        assert_eq!(
            name.as_str(),
            "cluster1.nodes.6f1c2a4e000040008000123456789abc.host"
        );
        assert!(name.is_host());
        assert!(JobName::of_host("--", "n").is_err());
    }
}
