//! The operator's two files, `netcfg.json` and `tuncfg.json` (contract section 4), and the flags and environment
//! variables that win over them.
//!
//! A node that starts with a wrong setting fails far from its cause, so every field is checked when it is read, all
//! complaints come at once, and each names the file (or the flag), the field and the remedy. Key names are matched
//! without regard to case, as the reference's reader does; keys that are not known are left alone, with a warning.

mod dns;
mod fields;
mod machine;
mod netcfg;
mod settings;
mod tls;
mod tuncfg;
mod uplink;
mod vhost;

pub use dns::DnsConfig;
pub use machine::{carried, misfits};
pub use netcfg::{DataplaneConfig, IdleMode, LogConfig, NetConfig, TlsFiles};
pub use settings::{File, Override, SETTINGS, Setting};
pub use tuncfg::TunConfig;
pub use uplink::UplinkChoice;
pub use vhost::VhostConfig;

use std::path::{Path, PathBuf};

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
    /// A value that won over a field's is wrong.
    #[error("{given} (field {field}): {problem}; {remedy}")]
    Given {
        /// The flag or the environment variable.
        given: String,
        /// The field, as the contract writes it.
        field: String,
        /// What is wrong.
        problem: String,
        /// What to write instead.
        remedy: String,
    },
}

impl ConfigError {
    /// As JSON: where (`file`, or `given` for a flag or variable), which `field`, what is the `problem`, and the `remedy`.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        use serde_json::json;
        match self {
            Self::Read {
                file,
                source,
                remedy,
            } => json!({"file": file, "problem": source.to_string(), "remedy": remedy}),
            Self::Json { file, problem } => {
                json!({"file": file, "problem": format!("not a JSON object: {problem}"), "remedy": "correct the file (a trailing comma or a missing quote is the usual cause)"})
            }
            Self::Field {
                file,
                field,
                problem,
                remedy,
            } => json!({"file": file, "field": field, "problem": problem, "remedy": remedy}),
            Self::Given {
                given,
                field,
                problem,
                remedy,
            } => json!({"given": given, "field": field, "problem": problem, "remedy": remedy}),
        }
    }
}

/// All that is wrong, a line each.
#[derive(Debug)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl std::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            let end = if n == 0 { "" } else { "\n" };
            write!(f, "{end}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

/// What readers found.
#[derive(Debug, Default)]
pub struct Complaints {
    /// What keeps the node from starting.
    pub errors: Vec<ConfigError>,
    /// Unknown fields that are most likely slips: a check fails over them, a start does not.
    pub slips: Vec<ConfigError>,
    /// What is doubtful.
    pub warnings: Vec<ConfigError>,
}

impl Complaints {
    fn add(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.slips.extend(other.slips);
        self.warnings.extend(other.warnings);
    }
}

/// Both files, with what won over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `netcfg.json`.
    pub net: NetConfig,
    /// `tuncfg.json`.
    pub tun: TunConfig,
    /// Whether there is a `tuncfg.json`; without one its defaults hold.
    pub tun_present: bool,
}

/// Where settings come from; read again by a reload.
#[derive(Clone, Debug)]
pub struct Sources {
    /// `netcfg.json`.
    pub config: PathBuf,
    /// `tuncfg.json`.
    pub tun_config: PathBuf,
    /// Flags and environment variables.
    pub overrides: Vec<Override>,
}

impl Sources {
    /// Reads both files. The settings hold where there are no errors among the complaints.
    #[must_use]
    pub fn read(&self) -> (Settings, Complaints) {
        let mut complaints = Complaints::default();
        let mut keep = |read: Result<Option<String>, ConfigError>| match read {
            Ok(text) => text,
            Err(error) => {
                complaints.errors.push(error);
                None
            }
        };
        let net = keep(netcfg::read(&self.config).map(Some));
        let tun = keep(tuncfg::read(&self.tun_config));
        let tun_present = tun.is_some();
        // What wins over a file that cannot be read is checked all the same.
        let net = net.as_deref().unwrap_or("{}");
        let tun = tun.as_deref().unwrap_or("{}");
        let (net, found) = netcfg::examine(&self.config, net, &self.overrides);
        complaints.add(found);
        let (tun, found) = tuncfg::examine(&self.tun_config, tun, &self.overrides);
        complaints.add(found);
        let settings = Settings {
            net,
            tun,
            tun_present,
        };
        (settings, complaints)
    }

    /// Reads both files for a start; slips and warnings are answered beside the settings.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn load(&self) -> Result<(Settings, Vec<ConfigError>), ConfigErrors> {
        let (settings, complaints) = self.read();
        if !complaints.errors.is_empty() {
            return Err(ConfigErrors(complaints.errors));
        }
        let mut doubts = complaints.slips;
        doubts.extend(complaints.warnings);
        Ok((settings, doubts))
    }
}

/// Reads a file's text with the remedy for a file that cannot be read.
fn text(file: &Path, remedy: &'static str) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|source| ConfigError::Read {
        file: file.to_owned(),
        source,
        remedy,
    })
}
