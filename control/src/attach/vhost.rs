//! A virtual machine's port: a `vhost-user` socket that DPDK listens on and the machine's emulator connects to.
//!
//! DPDK is the server, so that the socket has the mode and the group that are configured, and an emulator that connects
//! again (`reconnect=1`) finds its port after a restart of this process. Memory is the machine's own, handed over with
//! the connection: it must be shared (`memory-backend-memfd,share=on`), while ours may be of any kind.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::AttachError;
use crate::config::VhostConfig;
use crate::instance;
use crate::socket::{self, SocketError};

/// Ends the name of each socket.
const SUFFIX: &str = ".sock";

/// DPDK's name of the device; begins with that of its driver.
pub fn device(instance: &str, job: &str, number: u32) -> String {
    format!(
        "net_vhost_{}",
        instance::interface_name(instance, job, number)
    )
}

/// Where an instance's socket lies.
pub fn path(folder: &Path, instance: &str, job: &str, number: u32) -> PathBuf {
    let name = instance::interface_name(instance, job, number);
    folder.join(format!("{name}{SUFFIX}"))
}

/// The device's arguments for the data plane.
pub fn devargs(device: &str, socket: &Path) -> String {
    format!("{device},iface={},queues=1,client=0", socket.display())
}

fn failed(path: &Path, error: impl std::fmt::Display) -> AttachError {
    AttachError::Vhost(format!(
        "{}: {error}; VhostFolder must be a folder that this Net Manager may write",
        path.display()
    ))
}

/// Makes the folder, and room for the socket where an earlier process left its own.
pub async fn clear(path: &Path) -> Result<(), AttachError> {
    if let Some(folder) = path.parent()
        && !folder.is_dir()
    {
        std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
        // Whoever may open a socket must get there; the sockets themselves are closed to others.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder, open).map_err(|error| failed(folder, error))?;
    }
    socket::make_room(path).await.map_err(|error| match error {
        SocketError::Live(path) => AttachError::Vhost(format!(
            "{}: another program listens there; stop it, or choose another VhostFolder",
            path.display()
        )),
        SocketError::Io(path, error) => failed(&path, error),
        other @ SocketError::Group(_) => failed(path, other),
    })
}

/// Lets the group use a socket that DPDK has made.
pub fn give(socket: &Path, config: &VhostConfig) -> Result<(), AttachError> {
    let mode = std::fs::Permissions::from_mode(0o660);
    std::fs::set_permissions(socket, mode).map_err(|error| failed(socket, error))?;
    socket::give_to_group(socket, config.group.as_deref()).map_err(|error| match error {
        SocketError::Group(group) => AttachError::Vhost(format!(
            "VhostGroup: there is no group `{group}`; create it (groupadd {group}), or name another, and restart"
        )),
        other => failed(socket, other),
    })
}

/// Removes a socket; one that is gone is no error.
pub fn remove(socket: &Path) -> Result<(), AttachError> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(socket, error)),
        _ => Ok(()),
    }
}

/// Removes the sockets of one Net Manager but those that are in use; then the folder, if it is empty.
pub fn sweep(folder: &Path, instance: &str, used: &[&Path]) {
    let prefix = instance::interface_prefix(instance);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let ours = name
            .to_str()
            .is_some_and(|name| name.starts_with(&prefix) && name.ends_with(SUFFIX));
        if ours && !used.contains(&path.as_path()) {
            match remove(&path) {
                Ok(()) => {
                    tracing::info!(socket = %path.display(), "removed a socket that nobody uses");
                }
                Err(error) => tracing::warn!(%error, "a socket could not be removed"),
            }
        }
    }
    // Another Net Manager's sockets may be there.
    let _ = std::fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("oak-vhost-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn the_longest_names_fit() {
        let job = [
            "x".repeat(30),
            "y".repeat(30),
            "z".repeat(30),
            "w".repeat(30),
        ]
        .join(".");
        let long = "/".to_owned() + &"f".repeat(85);
        let socket = path(Path::new(&long), "abcd", &job, u32::MAX);
        assert_eq!(socket.as_os_str().len(), 107);
        assert!(device("abcd", &job, u32::MAX).len() < 64);
    }

    #[tokio::test]
    async fn what_a_killed_process_left_makes_room_and_what_is_in_use_does_not() {
        let folder = folder("clear");
        let socket = path(&folder.join("deep"), "abcd", "a.b.c.d", 0);
        clear(&socket).await.unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let error = clear(&socket).await.unwrap_err().to_string();
        assert!(error.contains("another program listens"), "{error}");
        // A child of the killed process holds it for a moment.
        let (cleared, ()) = tokio::join!(clear(&socket), async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            drop(listener);
        });
        cleared.unwrap();
        assert!(!socket.exists());
        std::fs::write(folder.join("file"), "").unwrap();
        let error = clear(&folder.join("file/x.sock")).await.unwrap_err();
        assert!(error.to_string().contains("VhostFolder"), "{error}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_group_is_given_or_the_lack_of_it_is_said() {
        let folder = folder("give");
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("x.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let group = |name: &str| VhostConfig {
            group: Some(name.to_owned()),
            ..VhostConfig::default()
        };
        give(&socket, &group("4711")).unwrap();
        let metadata = socket.metadata().unwrap();
        assert_eq!((metadata.gid(), metadata.mode() & 0o777), (4711, 0o660));
        let error = give(&socket, &group("no-such-group")).unwrap_err();
        assert!(
            error.to_string().starts_with("VhostGroup: there is no"),
            "{error}"
        );
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn only_our_own_sockets_are_swept() {
        let folder = folder("sweep");
        std::fs::create_dir_all(&folder).unwrap();
        let ours: Vec<PathBuf> = (0..2)
            .map(|n| path(&folder, "abcd", "a.b.c.d", n))
            .collect();
        let other = path(&folder, "abce", "a.b.c.d", 0);
        for file in ours.iter().chain([&other]) {
            std::fs::write(file, "").unwrap();
        }
        sweep(&folder, "abcd", &[&ours[0]]);
        assert!(ours[0].exists() && !ours[1].exists() && other.exists());
        sweep(&folder, "abcd", &[]);
        sweep(&folder, "abce", &[]);
        assert!(!folder.exists(), "nobody's any more");
    }
}
