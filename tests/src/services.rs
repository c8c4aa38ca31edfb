//! Redis, Mosquitto and the two service managers: real processes with the shipped settings,
//! private data folders, and a namespace each.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::deadline::wait_for;
use crate::http::Server;
use crate::namespace::Namespace;
use crate::process::{Launch, Process};
use crate::run::{Run, Stage};

/// Redis's port.
pub const REDIS_PORT: u16 = 6379;
/// Mosquitto's port (contract, section 3).
pub const BROKER_PORT: u16 = 10003;
/// The root service manager's port (contract, section 2).
pub const ROOT_PORT: u16 = 10099;
/// The cluster service manager's port (contract, section 3).
pub const CLUSTER_PORT: u16 = 10110;

const START: Duration = Duration::from_secs(15);

/// Where one service is.
#[derive(Debug, Clone)]
pub struct Seat {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its address on the management network.
    pub address: Ipv4Addr,
}

impl Seat {
    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), port)
    }
}

/// The project's programs, built beside the one that runs.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Finds the folder of this build's programs.
    ///
    /// # Errors
    /// When one is missing: says how to build it.
    pub fn find() -> Result<Programs> {
        let own = std::env::current_exe().context("finding the running program")?;
        let mut folder = own
            .parent()
            .context("a program without a folder")?
            .to_owned();
        if folder.ends_with("deps") {
            folder.pop();
        }
        let programs = Programs { folder };
        for name in [
            "NetManager",
            "root-service-manager",
            "cluster-service-manager",
            "workload",
        ] {
            programs.built(name)?;
        }
        Ok(programs)
    }

    /// The path of any program beside them.
    ///
    /// # Errors
    /// When it is not built.
    pub fn built(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        if !path.is_file() {
            bail!(
                "{} is not built: run `cargo build --workspace --bins` (scripts/test and \
                 scripts/demo do)",
                path.display()
            );
        }
        Ok(path)
    }

    /// The path of one of them.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// A file of the project's `config/`.
#[must_use]
pub fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../config")
        .join(name)
}

/// Starts Redis with the shipped settings and waits until it answers.
///
/// # Errors
/// When it does not come up.
pub fn start_redis(run: &Run, seat: &Seat) -> Result<Process> {
    let data = folder(run, "redis")?;
    let mut process = Launch::new(
        "redis",
        Path::new("redis-server"),
        &seat.namespace,
        Stage::Service,
    )
    .args([shipped("redis.conf").to_string_lossy().into_owned()])
    .args([
        "--port",
        &REDIS_PORT.to_string(),
        "--bind",
        &seat.address.to_string(),
    ])
    .args([
        "--dir",
        &data.to_string_lossy(),
        "--daemonize",
        "no",
        "--protected-mode",
        "no",
    ])
    .start(run)?;
    wait_for("Redis", START, || {
        process.check_running()?;
        let mut stream = seat
            .namespace
            .connect(seat.at(REDIS_PORT), Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        Ok((&answer == b"+PONG").then_some(()))
    })?;
    Ok(process)
}

/// Starts Mosquitto with the shipped settings and waits until it accepts connections.
///
/// # Errors
/// When it does not come up.
pub fn start_broker(run: &Run, seat: &Seat) -> Result<Process> {
    let data = folder(run, "mosquitto")?;
    let shipped =
        fs::read_to_string(shipped("mosquitto.conf")).context("reading config/mosquitto.conf")?;
    let private = [
        "listener",
        "persistence_location",
        "log_dest",
        "user",
        "pid_file",
    ];
    let mut settings: Vec<String> = shipped
        .lines()
        .filter(|line| {
            !line
                .split_whitespace()
                .next()
                .is_some_and(|word| private.contains(&word))
        })
        .map(str::to_owned)
        .collect();
    settings.push(format!("listener {BROKER_PORT} {}", seat.address));
    settings.push(format!("persistence_location {}/", data.display()));
    settings.push("log_dest stderr".into());
    settings.push("user root".into());
    let file = data.join("mosquitto.conf");
    fs::write(&file, settings.join("\n") + "\n").context("writing the broker's settings")?;
    let mut process = Launch::new(
        "mosquitto",
        Path::new("mosquitto"),
        &seat.namespace,
        Stage::Service,
    )
    .args(["-c".to_owned(), file.to_string_lossy().into_owned()])
    .start(run)?;
    wait_for("Mosquitto", START, || {
        process.check_running()?;
        seat.namespace
            .connect(seat.at(BROKER_PORT), Duration::from_secs(1))
            .map(Some)
    })?;
    Ok(process)
}

/// Starts the root service manager; it answers soon, with 503 until its store is there.
///
/// # Errors
/// When it cannot be started.
pub fn start_root(run: &Run, programs: &Programs, seat: &Seat, redis: &Seat) -> Result<Process> {
    Launch::new(
        "root",
        &programs.path("root-service-manager"),
        &seat.namespace,
        Stage::Manager,
    )
    .env("MY_PORT", ROOT_PORT.to_string())
    .env("REDIS_URL", format!("redis://{}", redis.at(REDIS_PORT)))
    .start(run)
}

/// Starts the cluster service manager.
///
/// # Errors
/// When it cannot be started.
pub fn start_cluster(
    run: &Run,
    programs: &Programs,
    seat: &Seat,
    (redis, broker, root): (&Seat, &Seat, &Seat),
) -> Result<Process> {
    let program = programs.path("cluster-service-manager");
    Launch::new("cluster", &program, &seat.namespace, Stage::Manager)
        .env("MY_PORT", CLUSTER_PORT.to_string())
        .env("CLUSTER_NAME", "cluster1")
        .env("CLUSTER_ADDRESS", seat.address.to_string())
        .env("MQTT_BROKER_URL", broker.address.to_string())
        .env("MQTT_BROKER_PORT", BROKER_PORT.to_string())
        .env("ROOT_SERVICE_MANAGER_URL", root.address.to_string())
        .env("ROOT_SERVICE_MANAGER_PORT", ROOT_PORT.to_string())
        .env("REDIS_URL", format!("redis://{}", redis.at(REDIS_PORT)))
        .start(run)
}

/// Waits until a manager says that it is ready.
///
/// # Errors
/// When it ends or stays not ready.
pub fn wait_ready(process: &mut Process, server: &Server) -> Result<()> {
    let what = format!("{} to be ready", process.name());
    wait_for(&what, START, || {
        process.check_running()?;
        let answer = server.get("/readyz")?.ok("/readyz")?;
        Ok(Some(answer))
    })
    .map(drop)
}

fn folder(run: &Run, name: &str) -> Result<PathBuf> {
    let folder = run.folder().join(name);
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}
