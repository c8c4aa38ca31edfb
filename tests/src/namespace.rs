//! Network namespaces: making them, wiring them, and acting from inside.
//!
//! A namespace belongs to a thread, so to act inside one (start a process, connect a socket) a
//! thread of its own goes there and brings the result back; the caller never moves.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};

use crate::run::Run;

/// A network namespace to act in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespace {
    /// Where this process itself is.
    Own,
    /// One of `ip netns`.
    Named(String),
    /// The one of a process.
    OfProcess(u32),
    /// A new one, which lives as long as what is started in it.
    Fresh,
}

impl Namespace {
    /// Makes a named one, its loopback up, and writes it down in the run.
    ///
    /// # Errors
    /// When `ip` fails or the run is being taken down.
    pub fn create(run: &Run, role: &str) -> Result<Namespace> {
        let name = format!("{}-{role}", run.id());
        run.note_namespace(&name)?;
        ip(&["netns", "add", &name])?;
        let namespace = Namespace::Named(name);
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The name for `ip netns exec`, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Namespace::Named(name) => Some(name),
            _ => None,
        }
    }

    /// Runs `ip` inside.
    ///
    /// # Errors
    /// When it fails: with what it said.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        self.command("ip", arguments)
    }

    /// Runs a short command inside and answers its output.
    ///
    /// # Errors
    /// When it cannot be run or fails: with what it said.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.enter(|| run_command(program, arguments))?
    }

    /// Writes a file below `/proc/sys/net` inside.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.enter(|| std::fs::write(&path, value))?
            .with_context(|| format!("writing {value} to {path}"))
    }

    /// Connects from inside; the socket stays there, whoever uses it.
    ///
    /// # Errors
    /// Those of connecting.
    pub fn connect(&self, to: SocketAddr, limit: Duration) -> Result<TcpStream> {
        self.enter(|| TcpStream::connect_timeout(&to, limit))?
            .with_context(|| format!("connecting to {to}"))
    }

    /// Runs `action` on a thread that is inside.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T> {
        if *self == Namespace::Own {
            return Ok(action());
        }
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                self.move_thread()?;
                Ok(action())
            });
            inside
                .join()
                .map_err(|_| anyhow!("the thread inside {self:?} panicked"))?
        })
    }

    fn move_thread(&self) -> Result<()> {
        let path = match self {
            Namespace::Own => return Ok(()),
            Namespace::Fresh => {
                return unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace");
            }
            Namespace::Named(name) => PathBuf::from("/run/netns").join(name),
            Namespace::OfProcess(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        };
        let file = File::open(&path)
            .with_context(|| format!("the network namespace {} is gone", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("entering the network namespace {}", path.display()))
    }
}

/// One end of a cable.
#[derive(Debug, Clone, Copy)]
pub struct Plug<'a> {
    /// Where it is.
    pub namespace: &'a Namespace,
    /// The interface's name there, 15 bytes at most.
    pub interface: &'a str,
}

/// Joins two named namespaces by a veth pair, both ends up.
///
/// # Errors
/// When `ip` fails.
pub fn cable(one: Plug<'_>, other: Plug<'_>) -> Result<()> {
    let far = other
        .namespace
        .name()
        .context("a cable needs named namespaces")?;
    one.namespace.ip(&[
        "link",
        "add",
        "name",
        one.interface,
        "type",
        "veth",
        "peer",
        "name",
        other.interface,
        "netns",
        far,
    ])?;
    for end in [one, other] {
        end.namespace.ip(&["link", "set", end.interface, "up"])?;
    }
    Ok(())
}

/// Runs `ip` where this process is.
///
/// # Errors
/// When it fails: with what it said.
pub fn ip(arguments: &[&str]) -> Result<String> {
    run_command("ip", arguments)
}

fn run_command(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| {
            format!("running {program}: is its package installed? scripts/setup does it")
        })?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim(),
            String::from_utf8_lossy(&output.stdout).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
