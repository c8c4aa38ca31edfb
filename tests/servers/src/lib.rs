//! What the managers' tests and benchmark start on the host: real servers on loopback, each with a port that
//! nobody else has, a data folder of its own, and an end with the value that stands for it.
#![forbid(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

/// Below the ports that the kernel gives to outgoing connections: none of them can take a port between the look at
/// it and the server's start.
const FIRST_PORT: u16 = 11_000;
const PORTS: u16 = 20_000;

/// A TCP port that nothing listens on, another one at each call.
///
/// # Errors
/// When all are taken.
pub fn free_port() -> io::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run side by side begin at different places.
    let begin = std::process::id().wrapping_mul(97) % u32::from(PORTS);
    for _ in 0..PORTS {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let place = (begin + step) % u32::from(PORTS);
        let port = FIRST_PORT + u16::try_from(place).map_err(io::Error::other)?;
        if nobody_listens(port) {
            return Ok(port);
        }
    }
    Err(io::Error::other("no TCP port from 11000 to 30999 is free"))
}

/// Binds the port and does not listen: a listener would live on in every child that another thread forks at that
/// moment, until it becomes its program, and refuse the port to the server that it is for.
fn nobody_listens(port: u16) -> bool {
    let bind = |domain, address: SocketAddr| {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    };
    match bind(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into()) {
        // A host without IPv6.
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            bind(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into()).is_ok()
        }
        bound => bound.is_ok(),
    }
}

/// A folder that goes with this value.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one, in memory where that is possible: a Redis that waits for its file at each write waits seconds when
    /// the disk is shared.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(name: &str) -> io::Result<Self> {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() {
            Self::make(memory, name)
        } else {
            Self::on_disk(name)
        }
    }

    /// Makes one among the temporary files, for those who measure what a disk costs.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn on_disk(name: &str) -> io::Result<Self> {
        Self::make(&std::env::temp_dir(), name)
    }

    fn make(parent: &Path, name: &str) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("oak-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process that ends with this value.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// When that fails; names the program.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        command.spawn().map(Self).map_err(|error| {
            let program = command.get_program().to_string_lossy();
            io::Error::new(error.kind(), format!("cannot start {program}: {error}"))
        })
    }

    /// Its process number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Ends it by SIGKILL and waits for its end; nothing when it has ended.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Sends a signal, such as SIGSTOP: its connections stay open, as when a network is lost.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        // What was waited for may have given its number to another process.
        if let Some(status) = self.ended()? {
            return Err(io::Error::other(format!("it has ended ({status})")));
        }
        let pid = i32::try_from(self.id()).map_err(io::Error::other)?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Ends it by SIGTERM, and says how it ended.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                return Err(io::Error::other("it does not end on SIGTERM"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a Redis server that loses nothing, as the shipped settings have it, with more settings as on its command
/// line; it does not answer yet.
///
/// # Errors
/// When it cannot be started.
pub fn redis(port: u16, folder: &Path, more: &[&str]) -> io::Result<Process> {
    Process::start(
        Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "always", "--dir"])
            .arg(folder)
            .args(more)
            .stdout(Stdio::null()),
    )
}

/// Starts a Redis server with a configuration file in the folder, where Sentinel keeps what it learns; it saves nothing
/// by itself, and does not answer yet.
///
/// # Errors
/// When the file cannot be written, or the server not be started.
pub fn redis_with_file(port: u16, folder: &Path, more: &[&str]) -> io::Result<Process> {
    let config = folder.join("redis.conf");
    if !config.exists() {
        std::fs::write(&config, "save \"\"\n")?;
    }
    Process::start(
        Command::new("redis-server")
            .arg(config)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(folder)
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )
}

/// Starts a Mosquitto with these settings after those of its listener; it does not answer yet.
///
/// # Errors
/// When it cannot be started.
pub fn mosquitto(port: u16, folder: &Path, settings: &str) -> io::Result<Process> {
    let config = folder.join(format!("mosquitto-{port}.conf"));
    // Without it Mosquitto becomes a user who may not read the folder.
    std::fs::write(&config, format!("{settings}\nuser root\n"))?;
    Process::start(
        Command::new("mosquitto")
            .arg("-c")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn no_port_comes_twice_and_each_can_be_had() {
        let ports: Vec<_> = (0..50).map(|_| free_port().unwrap()).collect();
        for (n, port) in ports.iter().enumerate() {
            assert!(!ports[..n].contains(port));
            TcpListener::bind(("127.0.0.1", *port)).unwrap();
        }
    }

    #[test]
    fn a_listener_has_its_port_whatever_its_address() {
        for address in ["127.0.0.1", "0.0.0.0", "::1", "::"] {
            let Ok(listener) = TcpListener::bind((address, free_port().unwrap())) else {
                assert!(address.contains(':'), "{address}: only IPv6 may be missing");
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            assert!(!nobody_listens(port), "{address}");
            drop(listener);
        }
    }

    #[test]
    fn a_look_takes_the_port_from_nobody() {
        let port = free_port().unwrap();
        std::thread::scope(|scope| {
            let looks = scope.spawn(move || (0..2000).all(|_| nobody_listens(port)));
            for _ in 0..8 {
                let _child = Process::start(Command::new("true").stdout(Stdio::null())).unwrap();
            }
            assert!(looks.join().unwrap());
        });
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }

    #[test]
    fn a_folder_and_a_process_go_with_their_values() {
        let folder = Folder::new("servers").unwrap();
        let path = folder.path().to_owned();
        std::fs::write(folder.file("a"), "b").unwrap();
        let mut process = Process::start(Command::new("sleep").arg("600")).unwrap();
        let status = process.terminate(Duration::from_secs(20)).unwrap();
        assert!(!status.success());
        assert!(process.signal(Signal::SIGTERM).is_err(), "it has ended");
        process.kill();
        drop(folder);
        assert!(!path.exists());
        let error = Process::start(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/program"));
    }
}
