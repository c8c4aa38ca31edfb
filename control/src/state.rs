//! What must survive `kill -9`: identity, subnetworks, containers and the settings of the machine that were changed.
//!
//! One file, replaced as a whole (written beside, synced, renamed), so that a reader sees the old or the new one.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use protocol::port_mapping::{PortMapping, Transport};
use serde::{Deserialize, Serialize};

use crate::addresses::Ledger;
use crate::forwarding::Pair;

/// Version of the file's format. It grows when an older program would misread what a newer one writes: a program reads
/// the files of all earlier versions and refuses those of later ones. A field that may be missed is no new version.
const VERSION: u32 = 1;

/// Who this node is to its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// MQTT client id and node id.
    pub client_id: String,
    /// The broker's host, as `/register` gave it; empty: as configured.
    pub cluster_address: String,
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Port on the node.
    pub host: u16,
    /// Port in the container.
    pub container: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

impl From<PortMapping> for Published {
    fn from(mapping: PortMapping) -> Self {
        Self {
            host: mapping.host,
            container: mapping.container,
            udp: mapping.transport == Transport::Udp,
        }
    }
}

/// An attached container (or unikernel).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The job.
    pub job: String,
    /// Number of the instance.
    pub number: u32,
    /// The process whose network namespace it is; 0 for a unikernel.
    pub pid: i32,
    /// Inode of the network namespace.
    pub netns: u64,
    /// Interface index of the host end.
    pub ifindex: u32,
    /// Name of the host end.
    pub interface: String,
    /// MAC address of the container's end.
    pub mac: [u8; 6],
    /// Namespace IP, IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Namespace IP, IPv6.
    pub v6: Option<Ipv6Addr>,
    /// What the ledger handed out (IPv6 included where the container has none).
    pub reserved_v6: Option<Ipv6Addr>,
    /// Published ports.
    pub ports: Vec<Published>,
    /// Name of the network namespace that was made for a unikernel.
    #[serde(default)]
    pub made_namespace: Option<String>,
    /// The `vhost-user` socket, where the port is one: no interface of the kernel, and `ifindex` is the number that the
    /// data plane gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

impl Container {
    /// The namespace IPs that are announced.
    #[must_use]
    pub fn namespace(&self) -> Pair {
        Pair::new(self.v4, self.v6)
    }

    /// The namespace IPs as the ledger knows them.
    #[must_use]
    pub fn reserved(&self) -> Pair {
        Pair::new(self.v4, self.reserved_v6)
    }
}

/// An instance that left and that the cluster may still show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// The job.
    pub job: String,
    /// Number of the instance.
    pub number: u32,
    /// Namespace IP that was announced, IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Namespace IP that was announced, IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// Boot that the interface indexes and processes belong to.
    pub boot_id: String,
    /// Network namespace that they belong to: numbers of namespaces are used again.
    #[serde(default)]
    pub namespace: u64,
    /// Highest message number that may have been used.
    #[serde(default)]
    pub seq: u64,
    /// Who this node is, once registered.
    pub identity: Option<Identity>,
    /// Subnetworks and addresses.
    pub ledger: Ledger,
    /// Attached containers.
    pub containers: Vec<Container>,
    /// Kernel settings that were changed, with their former values.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// Jobs whose changes were followed.
    #[serde(default)]
    pub interests: Vec<String>,
    /// Instances that left, until the cluster no longer shows them.
    #[serde(default)]
    pub departures: Vec<Departure>,
    /// Network namespaces that are being made for unikernels.
    #[serde(default)]
    pub making: Vec<String>,
}

/// Why state could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refused.
    #[error("state file {}: {source}; the folder must be writable (choose another with --state-dir)", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// A later version of this program wrote it, and what it means is not known here.
    #[error("state file {}: it is of version {version}, written by a newer Net Manager, and this one reads up to {VERSION}; install that Net Manager again and run its `NetManager down --purge` before going back to this one, or remove the file and deploy this node's containers anew", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u64,
    },
}

/// The state file of one Net Manager.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file of an instance in a folder, which is made when missing.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(folder: &Path, instance: &str) -> Result<Self, StateError> {
        let path = folder.join(format!("{instance}.json"));
        std::fs::create_dir_all(folder).map_err(|source| StateError::File {
            file: path.clone(),
            source,
        })?;
        Ok(Self { path })
    }

    /// Refuses a file that a later version wrote, before anything of this machine is touched in its name.
    ///
    /// # Errors
    /// The file is of a later version, or is there and cannot be read.
    pub fn check(&self) -> Result<(), StateError> {
        self.read().map(drop)
    }

    /// Reads the state. A file that cannot be understood is put aside with a log line, and the node starts anew.
    ///
    /// # Errors
    /// The file is of a later version, or is there and cannot be read.
    pub fn load(&self) -> Result<State, StateError> {
        let Some(text) = self.read()? else {
            return Ok(State::default());
        };
        match serde_json::from_slice::<State>(&text) {
            Ok(state) => Ok(state),
            Err(reason) => {
                let aside = self.path.with_extension("damaged");
                tracing::warn!(file = %self.path.display(), aside = %aside.display(), %reason, "the state file cannot be used and was put aside; this node starts anew");
                std::fs::rename(&self.path, &aside).map_err(|source| self.error(source))?;
                Ok(State::default())
            }
        }
    }

    /// The file's bytes, if it is there and not of a later version.
    fn read(&self) -> Result<Option<Vec<u8>>, StateError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.error(source)),
        };
        // Alone: of a later version, nothing else need be as it is here.
        match serde_json::from_slice::<Versioned>(&text) {
            Ok(Versioned { version }) if version > u64::from(VERSION) => Err(StateError::Newer {
                file: self.path.clone(),
                version,
            }),
            _ => Ok(Some(text)),
        }
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, state: &State) -> Result<(), StateError> {
        self.write(state).map_err(|source| self.error(source))
    }

    fn write(&self, state: &State) -> std::io::Result<()> {
        let state = State {
            version: VERSION,
            ..state.clone()
        };
        let beside = self.path.with_extension("new");
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(&state)?)?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)?;
        match self.path.parent() {
            Some(folder) => std::fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Removes the file.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub fn remove(&self) -> Result<(), StateError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(self.error(error)),
            _ => Ok(()),
        }
    }

    fn error(&self, source: std::io::Error) -> StateError {
        StateError::File {
            file: self.path.clone(),
            source,
        }
    }
}

/// The kernel's id of this boot; empty where it is not told.
#[must_use]
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Seconds of Unix time.
#[must_use]
pub fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("oak-state-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn what_was_saved_is_read_again() {
        let folder = folder("again");
        let file = StateFile::open(&folder, "i").unwrap();
        assert_eq!(file.load().unwrap(), State::default());
        let mut state = State {
            version: VERSION,
            boot_id: "b".into(),
            namespace: 1,
            identity: Some(Identity {
                client_id: "n".into(),
                cluster_address: String::new(),
            }),
            ..State::default()
        };
        state
            .ledger
            .add(Some(Ipv4Addr::new(10, 18, 0, 0)), None, "n");
        state.ledger.take("n", 0).unwrap();
        file.save(&state).unwrap();
        assert_eq!(
            StateFile::open(&folder, "i").unwrap().load().unwrap(),
            state
        );
        assert!(!folder.join("i.new").exists());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_damaged_file_is_put_aside() {
        let folder = folder("damaged");
        let file = StateFile::open(&folder, "i").unwrap();
        for text in ["{\"version\":1,\"bo", "{}", "\u{0}"] {
            std::fs::write(folder.join("i.json"), text).unwrap();
            assert_eq!(file.load().unwrap(), State::default());
            assert_eq!(
                std::fs::read_to_string(folder.join("i.damaged")).unwrap(),
                text
            );
            assert!(!folder.join("i.json").exists());
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_newer_versions_file_is_refused_and_left_as_it_is() {
        let folder = folder("newer");
        let file = StateFile::open(&folder, "i").unwrap();
        for text in [
            "{\"version\":2,\"boot_id\":\"\",\"identity\":null,\"ledger\":{\"subnets\":[]},\"containers\":[]}",
            "{\"version\":99,\"of\":{\"another\":\"shape\"}}",
        ] {
            std::fs::write(folder.join("i.json"), text).unwrap();
            for refused in [file.load().unwrap_err(), file.check().unwrap_err()] {
                let said = refused.to_string();
                assert!(said.contains("newer") && said.contains("i.json"), "{said}");
            }
            assert_eq!(
                std::fs::read_to_string(folder.join("i.json")).unwrap(),
                text
            );
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_first_versions_file_is_read() {
        let folder = folder("first");
        let file = StateFile::open(&folder, "i").unwrap();
        let text = r#"{"version":1,"boot_id":"b","identity":{"client_id":"n","cluster_address":""},
            "ledger":{"subnets":[{"v4":"10.18.0.0","v6":"fc00::","owner":"n","used":[2],"resting":{}}]},
            "containers":[{"job":"a.b.c.d","number":0,"pid":1,"netns":2,"ifindex":3,"interface":"oak",
                "mac":[2,0,0,0,0,1],"v4":"10.18.0.2","v6":null,"reserved_v6":"fc00::2","ports":[]}]}"#;
        std::fs::write(folder.join("i.json"), text).unwrap();
        let state = file.load().unwrap();
        assert_eq!(state.containers.len(), 1);
        assert_eq!(state.identity.unwrap().client_id, "n");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
