//! Unix sockets, our own and those that DPDK makes for us: a stale file is replaced, a live one is not.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

/// Looks at a socket that answers before it counts as another's: a Net Manager that was killed while it started a
/// program (nft, ip) leaves the socket to that one until its exec.
const LOOKS: u32 = 40;
const BETWEEN: Duration = Duration::from_millis(50);

/// Why the socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("{}: another Net Manager answers here; stop it, or choose another path with --socket", .0.display())]
    Live(PathBuf),
    /// The file system refused.
    #[error("{path}: {1}; choose another path with --socket", path = .0.display())]
    Io(PathBuf, io::Error),
    /// There is no such group.
    #[error("SocketGroup: there is no group `{0}`; create it (groupadd {0}), or name another")]
    Group(String),
}

/// Lets a group use the socket beside its owner; without one, the process's own.
///
/// # Errors
/// There is no such group, or it may not be given the file.
pub fn give_to_group(path: &Path, group: Option<&str>) -> Result<(), SocketError> {
    let id = match group {
        None => nix::unistd::getegid().as_raw(),
        Some(group) => match nix::unistd::Group::from_name(group) {
            Ok(Some(group)) => group.gid.as_raw(),
            _ => group
                .parse()
                .map_err(|_| SocketError::Group(group.to_owned()))?,
        },
    };
    std::os::unix::fs::chown(path, None, Some(id))
        .map_err(|error| SocketError::Io(path.to_owned(), error))
}

/// Removes what an earlier process left at a path.
///
/// # Errors
/// Somebody listens there, or it is no socket, or it cannot be removed.
pub async fn make_room(path: &Path) -> Result<(), SocketError> {
    let failed = |error| SocketError::Io(path.to_owned(), error);
    let mut found = UnixStream::connect(path).await;
    for _ in 1..LOOKS {
        if found.is_err() {
            break;
        }
        tokio::time::sleep(BETWEEN).await;
        found = UnixStream::connect(path).await;
    }
    match found {
        Ok(_) => Err(SocketError::Live(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Listens on a path with mode 0660, making its folder when missing.
///
/// # Errors
/// The path is in use or cannot be made.
pub async fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |error| SocketError::Io(path.to_owned(), error);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    make_room(path).await?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_file_is_replaced_and_a_live_one_is_not() {
        let folder = std::env::temp_dir().join(format!("oak-socket-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let path = folder.join("deep/netmanager.sock");
        let listener = listen(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert!(matches!(listen(&path).await, Err(SocketError::Live(_))));
        // What a killed process's child holds for a moment is nobody's.
        let (again, ()) = tokio::join!(listen(&path), async {
            tokio::time::sleep(BETWEEN * 3).await;
            drop(listener);
        });
        let listener = again.unwrap();
        drop(listener);
        assert!(path.exists());
        drop(listen(&path).await.unwrap());
        std::fs::write(folder.join("file"), "").unwrap();
        assert!(listen(&folder.join("file/x.sock")).await.is_err());
        let file = folder.join("file");
        assert!(matches!(
            give_to_group(&file, Some("no-such-group")),
            Err(SocketError::Group(_))
        ));
        give_to_group(&file, None).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
    }
}
