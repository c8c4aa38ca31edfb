//! Network namespaces: those of containers, found by process, and those made for unikernels, found by name.
//!
//! A thread that enters another namespace must never serve anything else afterwards, so each visit has a thread of its
//! own that ends with it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use nix::sched::{CloneFlags, setns};

use crate::netlink::Netlink;

/// An open network namespace; it lives at least as long as this value.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    inode: u64,
}

impl Namespace {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode })
    }

    /// The namespace of a process.
    pub fn of_process(pid: i32) -> io::Result<Self> {
        Self::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// The namespace with a name, as `ip netns` makes it.
    pub fn named(name: &str) -> io::Result<Self> {
        let found = Self::open(&Path::new("/run/netns").join(name))?;
        // The file is there, too, where the namespace is mounted for others only.
        let kind = std::fs::metadata("/proc/thread-self/ns/net")?.dev();
        if found.file.metadata()?.dev() == kind {
            return Ok(found);
        }
        Err(io::Error::from(io::ErrorKind::NotFound))
    }

    /// The calling thread's.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Tells it from others.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// For moving links into it.
    pub fn raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// Runs something inside, on a thread of its own.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let file = self.file.try_clone()?;
        let (done, result) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("namespace".to_owned())
            .spawn(move || {
                let outcome = setns(&file, CloneFlags::CLONE_NEWNET)
                    .map_err(io::Error::from)
                    .map(|()| work());
                drop(file);
                let _ = done.send(outcome);
            })?;
        result
            .await
            .map_err(|_| io::Error::other("the thread inside the namespace ended early"))?
    }

    /// Opens a netlink socket inside.
    pub async fn netlink(&self) -> io::Result<Netlink> {
        let runtime = tokio::runtime::Handle::current();
        self.run(move || {
            let _context = runtime.enter();
            Netlink::open()
        })
        .await?
    }
}

/// The host's mounts, where this process has others: a hardened unit or `ip netns exec` gives it its own, and a named
/// namespace, which is a mount, would be seen by no other program. They are those of the first process, or where that
/// one is closed to us those of who started this one; kept open, since a parent may end.
pub fn host_mounts() -> Option<&'static File> {
    static HOST: OnceLock<Option<File>> = OnceLock::new();
    let inode = |file: &File| file.metadata().map(|metadata| metadata.ino());
    let find = || {
        let own = File::open("/proc/self/ns/mnt").and_then(|own| inode(&own));
        let parent = std::os::unix::process::parent_id();
        let host = [1, parent]
            .into_iter()
            .find_map(|pid| File::open(format!("/proc/{pid}/ns/mnt")).ok())?;
        (inode(&host).ok()? != own.ok()?).then_some(host)
    };
    HOST.get_or_init(find).as_ref()
}

/// The inode of a process's network namespace; `None` when there is no such process.
pub fn inode_of_process(pid: i32) -> Option<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/net"))
        .ok()
        .map(|metadata| metadata.ino())
}
