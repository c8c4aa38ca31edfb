//! `VhostFolder` and `VhostGroup`: where virtual machines find their sockets, and who may open them.

use std::path::PathBuf;

use super::ConfigError;
use super::fields::Fields;

/// `VhostFolder` and `VhostGroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostConfig {
    /// The folder of the sockets, made when the first is.
    pub folder: PathBuf,
    /// The group that may use them, by name or number; `None` leaves them to the process's own.
    pub group: Option<String>,
}

impl Default for VhostConfig {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("/run/netmanager/vhost"),
            group: None,
        }
    }
}

/// A socket's path has 107 bytes at most, and its name in the folder takes 21 of them.
const FOLDER_MAX: usize = 86;

/// Reads them.
pub(super) fn read(fields: &Fields) -> VhostConfig {
    VhostConfig {
        folder: fields.or(folder(fields), VhostConfig::default().folder),
        group: fields.maybe(fields.text("VhostGroup")),
    }
}

fn folder(fields: &Fields) -> Result<Option<PathBuf>, ConfigError> {
    let Some(text) = fields.text("VhostFolder")? else {
        return Ok(None);
    };
    // DPDK takes the path apart at commas and reads brackets, quotes and backslashes in a way of its own.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@:".contains(&byte);
    if !text.starts_with('/') || text.len() > FOLDER_MAX || !text.bytes().all(plain) {
        return Err(fields.wrong(
            "VhostFolder",
            format!("`{text}` cannot hold sockets"),
            format!("write an absolute path of at most {FOLDER_MAX} bytes, of letters, digits and / . _ - + @ :"),
        ));
    }
    Ok(Some(PathBuf::from(text)))
}
