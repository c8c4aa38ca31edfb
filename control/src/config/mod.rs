//! The operator's two files, `netcfg.json` and `tuncfg.json` (contract section 4).
//!
//! A node that starts with a wrong setting fails far from its cause, so every field is checked when it is read, and
//! each complaint names the file, the field and the remedy. Key names are matched without regard to case, as the
//! reference's reader does; keys that are not known are left alone.

mod fields;
mod netcfg;
mod tuncfg;

pub use netcfg::{DataplaneConfig, DnsConfig, IdleMode, NetConfig, TlsFiles, UplinkChoice};
pub use tuncfg::TunConfig;

use std::path::PathBuf;

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}; {remedy}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The file is no JSON object.
    #[error("{}: not a JSON object: {problem}; correct the file (a trailing comma or a missing quote is the usual cause)", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// What the parser says.
        problem: String,
    },
    /// One field is wrong.
    #[error("{}: field {field}: {problem}; {remedy}", file.display())]
    Field {
        /// The file.
        file: PathBuf,
        /// The field, as the contract writes it.
        field: String,
        /// What is wrong.
        problem: String,
        /// What to write instead.
        remedy: String,
    },
}
