//! The messages of the Oakestra Net contract: the one place where their JSON lives, and how fast they may be asked.
//!
//! Root, cluster and node exchange these bodies with peers that we did not write (the Oakestra
//! orchestrators, the NodeEngine, reference managers), so reading is lenient (unknown fields are
//! ignored; null, absent and empty text mean the same; numbers may be text) and writing is exact.
//!
//! ```
//! use protocol::job::Job;
//! let answer = br#"{"job_name":"a.b.c.d","instance_list":[],"service_ip_list":[]}"#;
//! let job = Job::from_answer(answer)?.ok_or("a reference root answers {} for an unknown job")?;
//! assert_eq!(job.job_name.service_name(), "c");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod address;
pub mod address_plan;
pub mod cluster_http;
pub mod ip_type;
pub mod job;
pub mod job_name;
pub mod mongo_export;
pub mod mqtt;
pub mod node_http;
pub mod pacing;
pub mod port_mapping;
pub mod root_http;
pub mod scalar;
pub mod service_name;
pub mod topic;

pub use ip_type::IpType;
pub use job::{Instance, Job, ServiceIp};
pub use job_name::JobName;
