//! One root and one cluster, each with as many replicas as a test needs behind a balancer.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Folder, Node, Process, eventually, folder, free_port, mosquitto, redis};

/// All agree within 10 s of all links being up (contract), on a machine that has nothing else to do. This is for one
/// that has: what is never made up for is not there after a minute either.
pub const AGREEMENT: Duration = Duration::from_secs(60);

/// The root's program, built beside ours.
pub fn root_program() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_cluster-service-manager"))
        .with_file_name("root-service-manager");
    if !path.exists() {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "-p", "root-service-manager"])
            .status();
        assert!(built.unwrap().success());
    }
    path
}

/// Connections to one port go to whichever server answers, in turn.
pub async fn balancer(servers: Vec<u16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut turn = 0;
        loop {
            let Ok((mut from, _)) = listener.accept().await else {
                continue;
            };
            turn += 1;
            let servers = servers.clone();
            tokio::spawn(async move {
                for step in 0..servers.len() {
                    let server = servers[(turn + step) % servers.len()];
                    if let Ok(mut to) = TcpStream::connect(("127.0.0.1", server)).await {
                        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                        return;
                    }
                }
            });
        }
    });
    port
}

pub struct World {
    pub folder: Folder,
    pub root_redis: Option<Process>,
    pub root_redis_port: u16,
    pub root_redis_url: String,
    pub cluster_redis: Option<Process>,
    pub cluster_redis_port: u16,
    pub broker: Option<Process>,
    pub broker_port: u16,
    pub root_ports: Vec<u16>,
    pub roots: Vec<Process>,
    pub manager_ports: Vec<u16>,
    pub managers: Vec<Process>,
    /// The balancers in front of them.
    pub root: u16,
    pub manager: u16,
    /// Where the root is told to notify the cluster.
    pub notified_at: u16,
    pub root_settings: Vec<(String, String)>,
    pub settings: Vec<(String, String)>,
    pub http: reqwest::Client,
}

impl World {
    /// Everything but the managers runs, a Redis for the root included.
    pub async fn prepare(replicas: usize) -> Self {
        let folder = folder();
        let root_redis_port = free_port();
        let root_folder = folder.file("root");
        std::fs::create_dir_all(&root_folder).unwrap();
        let mut world = Self::without_root_redis(
            replicas,
            folder,
            &format!("redis://127.0.0.1:{root_redis_port}"),
        )
        .await;
        world.root_redis = Some(redis(root_redis_port, &root_folder));
        world.root_redis_port = root_redis_port;
        world
    }

    pub async fn without_root_redis(replicas: usize, folder: Folder, url: &str) -> Self {
        let (cluster_redis_port, broker_port) = (free_port(), free_port());
        let ports = |count| (0..count).map(|_| free_port()).collect::<Vec<_>>();
        let (root_ports, manager_ports) = (ports(replicas), ports(replicas));
        let cluster_folder = folder.file("cluster");
        std::fs::create_dir_all(&cluster_folder).unwrap();
        let manager = balancer(manager_ports.clone()).await;
        Self {
            root_redis: None,
            root_redis_port: 0,
            root_redis_url: url.to_owned(),
            cluster_redis: Some(redis(cluster_redis_port, &cluster_folder)),
            cluster_redis_port,
            broker: Some(mosquitto(broker_port, folder.path())),
            broker_port,
            root: balancer(root_ports.clone()).await,
            manager,
            notified_at: manager,
            root_ports,
            roots: Vec::new(),
            manager_ports,
            managers: Vec::new(),
            root_settings: Vec::new(),
            settings: Vec::new(),
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(3))
                .build()
                .unwrap(),
            folder,
        }
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.into(), value.into()));
    }

    pub fn set_root(&mut self, name: &str, value: &str) {
        self.root_settings.push((name.into(), value.into()));
    }

    fn spawn(program: &Path, common: &[(&str, String)], settings: &[(String, String)]) -> Process {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env(
                "RUST_LOG",
                std::env::var("RUST_LOG").unwrap_or_else(|_| "off".into()),
            )
            .envs(common.iter().map(|(name, value)| (name, value)))
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null());
        Process::start(&mut command).unwrap()
    }

    pub fn start_root(&self, replica: usize) -> Process {
        let common = [
            ("MY_PORT", self.root_ports[replica].to_string()),
            ("REDIS_URL", self.root_redis_url.clone()),
            ("JWT_GENERATOR_PORT", "9".to_owned()),
        ];
        Self::spawn(&root_program(), &common, &self.root_settings)
    }

    pub fn start_manager(&self, replica: usize) -> Process {
        let common = [
            ("MY_PORT", self.manager_ports[replica].to_string()),
            ("CLUSTER_NAME", "c1".to_owned()),
            ("CLUSTER_ADDRESS", "127.0.0.1".to_owned()),
            ("MQTT_BROKER_URL", "127.0.0.1".to_owned()),
            ("MQTT_BROKER_PORT", self.broker_port.to_string()),
            ("ROOT_SERVICE_MANAGER_URL", "127.0.0.1".to_owned()),
            ("ROOT_SERVICE_MANAGER_PORT", self.root.to_string()),
            (
                "REDIS_URL",
                format!("redis://127.0.0.1:{}", self.cluster_redis_port),
            ),
        ];
        let program = Path::new(env!("CARGO_BIN_EXE_cluster-service-manager"));
        Self::spawn(program, &common, &self.settings)
    }

    /// Starts every replica, waits for them, and registers the cluster.
    pub async fn start(&mut self) {
        self.roots = (0..self.root_ports.len())
            .map(|at| self.start_root(at))
            .collect();
        self.managers = (0..self.manager_ports.len())
            .map(|at| self.start_manager(at))
            .collect();
        self.ready().await;
        self.register().await;
    }

    pub async fn register(&self) {
        let body = json!({"cluster_id": "c1", "cluster_address": "127.0.0.1",
            "cluster_port": self.notified_at});
        self.orchestrate(reqwest::Method::POST, "/api/net/cluster", &body)
            .await;
    }

    /// Every root and manager is well.
    pub async fn ready(&self) {
        for port in &self.root_ports {
            eventually("the root is ready", async || {
                let url = format!("http://127.0.0.1:{port}/readyz");
                let answer = self.http.get(url).send().await.ok()?;
                answer.status().is_success().then_some(())
            })
            .await;
        }
        for port in &self.manager_ports {
            eventually("the manager is ready", async || {
                let url = format!("http://127.0.0.1:{port}/readyz");
                let state: Value = self.http.get(url).send().await.ok()?.json().await.ok()?;
                (state["mqtt"] == true).then_some(())
            })
            .await;
        }
    }

    /// Calls the root as the orchestrator would if it repeated what failed.
    pub async fn orchestrate(&self, method: reqwest::Method, path: &str, body: &Value) {
        let url = format!("http://127.0.0.1:{}{path}", self.root);
        eventually(path, async || {
            let request = self.http.request(method.clone(), &url).json(body);
            let answer = request.send().await.ok()?;
            let status = answer.status();
            assert!(
                status.is_success() || status.is_server_error(),
                "{path}: {status} {:?}",
                answer.text().await
            );
            status.is_success().then_some(())
        })
        .await;
    }

    pub async fn service(&self, number: u32) {
        let part = format!("s{number}");
        let body = json!({"_id": id(number), "deployment_descriptor": {"app_name": "app",
            "app_ns": "test", "service_name": part, "service_ns": "test",
            "microservice_name": part, "microservice_namespace": "test"}});
        self.orchestrate(reqwest::Method::POST, "/api/net/service/deploy", &body)
            .await;
    }

    /// Deploys an instance: the root gives addresses, the cluster hears of it and the node runs it.
    pub async fn instance(&self, service: u32, number: u32, node: &Worker) {
        let body = json!({"_id": id(service), "instance_number": number, "cluster_id": "c1"});
        self.orchestrate(reqwest::Method::POST, "/api/net/instance/deploy", &body)
            .await;
        // Its status is ignored.
        let _ = self
            .http
            .post(format!(
                "http://127.0.0.1:{}/api/net/deployment",
                self.manager
            ))
            .json(&json!({"job_name": name(service)}))
            .send()
            .await;
        node.deployed(service, number).await;
    }

    pub async fn drain(&self, service: u32, number: u32) {
        let path = format!("/api/net/{}/{number}/drain", id(service));
        self.orchestrate(reqwest::Method::POST, &path, &json!({}))
            .await;
    }

    /// The job at the root; `None` when it is unknown or the root does not answer.
    pub async fn job(&self, service: u32) -> Option<Value> {
        let url = format!(
            "http://127.0.0.1:{}/api/net/service/{}/instances?cluster_id=c1",
            self.root,
            name(service).replace('.', "_")
        );
        let answer = self.http.get(url).send().await.ok()?;
        answer.status().is_success().then_some(())?;
        answer.json().await.ok()
    }

    /// A worker with a subnetwork of its own.
    pub async fn worker(&self, id: &str) -> Worker {
        let node = Node::join(id, self.broker_port, true).await;
        node.status(true).await;
        node.send("net/subnet", &json!({"METHOD": "GET"})).await;
        let subnet = node.receives("net/subnetwork/result").await;
        Worker {
            base: subnet["address"].as_str().unwrap().parse().unwrap(),
            base_v6: subnet["addressv6"].as_str().unwrap().parse().unwrap(),
            node,
        }
    }

    /// Waits until the root has exactly these instances, each where its worker runs it, and `asker` sees the
    /// same to the last field. Workers announce again what does not show, as the contract has it.
    pub async fn agree(
        &self,
        service: u32,
        placed: &[(u32, &Worker)],
        asker: &Worker,
        until: Instant,
    ) {
        loop {
            let answer = asker.node.query(&name(service), "").await;
            let job = self.job(service).await;
            if let Some(job) = &job
                && answer["instance_list"] == expected(job)
                && is_placed(service, job, placed)
            {
                assert_eq!(answer["app_name"], name(service));
                return;
            }
            assert!(
                Instant::now() < until,
                "no agreement on s{service}:\nroot {job:?}\nnode {answer}"
            );
            for (number, worker) in placed {
                let shown = answer["instance_list"].as_array().unwrap();
                if !shown
                    .iter()
                    .any(|entry| entry["instance_number"] == *number)
                {
                    worker.deployed(service, *number).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn is_placed(service: u32, job: &Value, placed: &[(u32, &Worker)]) -> bool {
    let listed = job["instance_list"].as_array().unwrap();
    listed.len() == placed.len()
        && placed.iter().all(|(number, worker)| {
            listed.iter().any(|instance| {
                instance["instance_number"] == *number
                    && instance["namespace_ip"] == worker.address(service, *number).to_string()
                    && instance["namespace_ip_v6"]
                        == worker.address_v6(service, *number).to_string()
                    && instance["host_ip"] == "192.0.2.10"
                    && instance["host_port"] == 50103
            })
        })
}

/// What a node has to be answered for a job of the root.
fn expected(job: &Value) -> Value {
    let running = job["instance_list"].as_array().unwrap().iter();
    let entries = running
        .filter(|instance| instance.get("host_ip").is_some())
        .map(|instance| {
            let mut entry = instance.clone();
            let mut addresses = job["service_ip_list"].as_array().unwrap().clone();
            addresses.push(
                json!({"IpType": "instance_ip", "Address": instance["instance_ip"],
                "Address_v6": instance["instance_ip_v6"]}),
            );
            entry["service_ip"] = json!(addresses);
            entry
        });
    entries.collect()
}

/// A worker's instances, in up to 20 services with numbers that differ by 20, each have a place of their own.
fn slot(service: u32, number: u32) -> u32 {
    (service * 3 + number / 20 + number % 20 * 31) % 61
}

pub fn id(service: u32) -> String {
    format!("{service:024x}")
}

pub fn name(service: u32) -> String {
    format!("app.test.s{service}.test")
}

pub struct Worker {
    pub node: Node,
    base: std::net::Ipv4Addr,
    base_v6: std::net::Ipv6Addr,
}

impl Worker {
    fn address(&self, service: u32, number: u32) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::from(u32::from(self.base) + 2 + slot(service, number))
    }

    fn address_v6(&self, service: u32, number: u32) -> std::net::Ipv6Addr {
        std::net::Ipv6Addr::from(u128::from(self.base_v6) + 2 + u128::from(slot(service, number)))
    }

    pub async fn deployed(&self, service: u32, number: u32) {
        let body = json!({"appname": name(service), "status": "DEPLOYED", "instance_number": number,
            "nsip": self.address(service, number), "nsipv6": self.address_v6(service, number),
            "host_port": "50103", "host_ip": "192.0.2.10"});
        self.node.send("net/service/deployed", &body).await;
    }
}
