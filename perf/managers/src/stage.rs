//! The servers: real ones, with the shipped settings, a folder of their own, and ports that nobody
//! else has. All end with the benchmark.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use servers::{Folder, Process, free_port};

use crate::http;

const START: Duration = Duration::from_secs(60);

/// The most memory that a process ever had resident, in bytes.
fn peak_memory(process: &Process) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .context("no VmHWM in /proc")?;
    Ok(kilobytes.trim().parse::<u64>()? * 1024)
}

fn wait(what: &str, mut check: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !check() {
        ensure!(start.elapsed() < START, "{what} does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../config")
        .join(name)
}

fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// A Redis as shipped: `config/redis.conf`, hence `appendfsync always`.
pub struct Redis {
    pub port: u16,
    process: Process,
    _folder: Folder,
}

impl Redis {
    pub fn start(name: &str) -> Result<Self> {
        let folder = Folder::on_disk(name)?;
        let port = free_port()?;
        let process = Process::start(
            Command::new("redis-server")
                .arg(config("redis.conf"))
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
                .arg(folder.path())
                .stdout(Stdio::null()),
        )?;
        wait("Redis", || listens(port))?;
        Ok(Self {
            port,
            process,
            _folder: folder,
        })
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn peak_memory(&self) -> Result<u64> {
        peak_memory(&self.process)
    }
}

/// Which limits the broker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    /// Those of `config/mosquitto.conf`.
    Shipped,
    /// Mosquitto's own.
    Default,
}

/// A Mosquitto.
pub struct Broker {
    pub port: u16,
    _process: Process,
    _folder: Folder,
}

impl Broker {
    pub fn start(limits: Limits) -> Result<Self> {
        let folder = Folder::on_disk("broker")?;
        let port = free_port()?;
        let settings = match limits {
            Limits::Shipped => std::fs::read_to_string(config("mosquitto.conf"))?
                .replace("listener 10003", &format!("listener {port} 127.0.0.1"))
                .replace(
                    "/var/lib/mosquitto/",
                    &format!("{}/", folder.path().display()),
                ),
            // What Mosquitto does when it is told nothing; the delay of Nagle's algorithm would
            // measure the kernel's timers instead.
            Limits::Default => {
                format!("listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
            }
        };
        let process = servers::mosquitto(port, folder.path(), &settings)?;
        wait("Mosquitto", || listens(port))?;
        Ok(Self {
            port,
            _process: process,
            _folder: folder,
        })
    }
}

fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.with_file_name(name);
    ensure!(
        path.is_file(),
        "{} is not built: scripts/perf managers does it",
        path.display()
    );
    Ok(path)
}

fn logs() -> Stdio {
    if std::env::var_os("SHOW_LOGS").is_some() {
        Stdio::inherit()
    } else {
        Stdio::null()
    }
}

/// A manager.
pub struct Manager {
    pub port: u16,
    process: Process,
}

impl Manager {
    fn start(name: &str, env: &[(&str, String)]) -> Result<Self> {
        let port = free_port()?;
        let process = Process::start(
            Command::new(program(name)?)
                .env("MY_PORT", port.to_string())
                .envs(env.iter().map(|(key, value)| (*key, value.as_str())))
                .stdout(Stdio::null())
                .stderr(logs()),
        )?;
        wait(name, || {
            http::once(port, &http::get("/readyz")).is_ok_and(|answer| answer.status == 200)
        })?;
        Ok(Self { port, process })
    }

    pub fn root(redis: &Redis) -> Result<Self> {
        Self::start("root-service-manager", &[("REDIS_URL", redis.url())])
    }

    /// A cluster named `c1`, which the root knows.
    pub fn cluster(
        redis: &Redis,
        broker: &Broker,
        root: &Self,
        root_redis: &Redis,
    ) -> Result<Self> {
        let cluster = Self::start(
            "cluster-service-manager",
            &[
                ("REDIS_URL", redis.url()),
                ("ROOT_REDIS_URL", root_redis.url()),
                ("CLUSTER_NAME", "c1".to_owned()),
                ("MQTT_BROKER_URL", "127.0.0.1".to_owned()),
                ("MQTT_BROKER_PORT", broker.port.to_string()),
                ("ROOT_SERVICE_MANAGER_URL", "127.0.0.1".to_owned()),
                ("ROOT_SERVICE_MANAGER_PORT", root.port.to_string()),
            ],
        )?;
        root.register("c1", cluster.port)?;
        wait("the cluster's session with the broker", || {
            http::once(cluster.port, &http::get("/readyz"))
                .is_ok_and(|answer| answer.text.contains("\"mqtt\":true"))
        })?;
        Ok(cluster)
    }

    pub fn register(&self, id: &str, port: u16) -> Result<()> {
        let body = format!(
            r#"{{"cluster_id":"{id}","cluster_address":"127.0.0.1","cluster_port":{port}}}"#
        );
        let answer = http::once(self.port, &http::post("/api/net/cluster", &body))?;
        ensure!(
            answer.status == 200,
            "cluster not registered: {}",
            answer.text
        );
        Ok(())
    }

    pub fn peak_memory(&self) -> Result<u64> {
        peak_memory(&self.process)
    }

    /// Imports documents into a root's Redis.
    pub fn import(redis: &Redis, file: &Path) -> Result<()> {
        let output = Command::new(program("root-service-manager")?)
            .args(["import", "--redis-url", &redis.url()])
            .arg(file)
            .output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}
