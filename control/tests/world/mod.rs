//! A node in a network namespace of its own: a broker, a cluster manager that the test plays, containers that are
//! sleeping processes, and a data plane that records what it is told.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod api;
pub mod killed;

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use control::config::{NetConfig, TunConfig};
use control::forwarding::{
    AccessKind, Answer, Attachment, BackendLine, Capture, CaptureOptions, CommandError, Event,
    FlowLine, Forwarding, JobRoutes, Loads, NextHop, Pair, PeerLine, PortLine, RouteLine, Stats,
    Subnet, Trace, TraceFilter,
};
use control::node::{Kind, Node, Options, Refusal};
use nix::sched::{CloneFlags, unshare};
use protocol::node_http::{Deploy, Deployed, Register, Undeploy};
use rumqttc::{AsyncClient, MqttOptions, Packet, QoS};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Runs a test in a network namespace of its own, on a thread of its own.
pub fn isolated<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        ip("link set lo up");
        ip("link add wan0 type veth peer name wan1");
        ip("addr add 192.0.2.10/24 dev wan0");
        ip("link set wan0 up");
        ip("link set wan1 up");
        ip("route add default via 192.0.2.1 dev wan0");
        ip("link add oak0 type veth peer name oak1");
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn ip(arguments: &str) -> String {
    run("ip", &arguments.split(' ').collect::<Vec<_>>())
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Waits for a condition.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The data plane, as far as the Net Manager sees it.
#[derive(Default)]
pub struct Recorder {
    pub subnets: Mutex<Vec<Subnet>>,
    pub attached: Mutex<HashMap<u32, Attachment>>,
    /// What listens for virtual machines, by the port's number.
    pub sockets: Mutex<Vec<(u32, Option<UnixListener>)>>,
    pub jobs: Mutex<HashMap<String, JobRoutes>>,
    pub unresolvable: Mutex<Vec<IpAddr>>,
    pub next_hops: Mutex<HashMap<IpAddr, NextHop>>,
    pub idle: Mutex<HashMap<String, Duration>>,
    pub loads: Mutex<Loads>,
    pub stats: Mutex<Stats>,
    pub routes: Mutex<Vec<RouteLine>>,
    pub answers: Mutex<Vec<Answer>>,
    pub flows: Mutex<Vec<FlowLine>>,
    pub backends: Mutex<Vec<BackendLine>>,
    pub peers: Mutex<Vec<PeerLine>>,
    pub host_interface: u32,
    pub host_instance: Mutex<Option<Pair>>,
}

impl Forwarding for Recorder {
    fn gateway_mac(&self) -> [u8; 6] {
        [0x02, 0x6f, 0x61, 0x6b, 0, 1]
    }
    fn host_interface_index(&self) -> u32 {
        self.host_interface
    }
    fn set_subnets(&self, subnets: Vec<Subnet>) -> Result<(), CommandError> {
        *self.subnets.lock().unwrap() = subnets;
        Ok(())
    }
    fn set_host_instance(&self, instance: Pair) -> Result<(), CommandError> {
        *self.host_instance.lock().unwrap() = Some(instance);
        Ok(())
    }
    fn attach(&self, attachment: Attachment) -> Result<u32, CommandError> {
        let mut attached = self.attached.lock().unwrap();
        let (number, name) = match attachment.port.clone() {
            AccessKind::Packet { ifindex, interface } => (ifindex, interface),
            AccessKind::Ethdev { devargs } => {
                let (name, path) = devargs.split_once(",iface=").unwrap();
                let path = path.split(',').next().unwrap();
                // As DPDK's driver does.
                let listener = UnixListener::bind(path)
                    .map_err(|error| CommandError::Kernel(format!("{path}: {error}")))?;
                let mut sockets = self.sockets.lock().unwrap();
                let number = (1 << 31) | u32::try_from(sockets.len()).unwrap();
                sockets.push((number, Some(listener)));
                (number, name.to_owned())
            }
        };
        if attached.contains_key(&number) {
            return Err(CommandError::Attached(name));
        }
        attached.insert(number, attachment);
        Ok(number)
    }
    fn detach(&self, port: u32) -> Result<bool, CommandError> {
        for (number, listener) in self.sockets.lock().unwrap().iter_mut() {
            if *number == port {
                *listener = None;
            }
        }
        Ok(self.attached.lock().unwrap().remove(&port).is_some())
    }
    fn set_jobs(&self, jobs: Vec<JobRoutes>) -> Vec<Result<(), CommandError>> {
        let mut known = self.jobs.lock().unwrap();
        jobs.into_iter()
            .map(|job| {
                known.insert(job.job.clone(), job);
                Ok(())
            })
            .collect()
    }
    fn forget_job(&self, job: &str) -> Result<(), CommandError> {
        self.jobs.lock().unwrap().remove(job);
        Ok(())
    }
    fn set_unresolvable(&self, address: IpAddr) -> Result<(), CommandError> {
        self.unresolvable.lock().unwrap().push(address);
        Ok(())
    }
    fn set_next_hop(&self, host: IpAddr, hop: NextHop) -> Result<(), CommandError> {
        self.next_hops.lock().unwrap().insert(host, hop);
        Ok(())
    }
    fn stats(&self) -> Result<Stats, CommandError> {
        Ok(self.stats.lock().unwrap().clone())
    }
    fn loads(&self) -> Result<Loads, CommandError> {
        Ok(self.loads.lock().unwrap().clone())
    }
    fn answer(&self, answer: Answer) {
        self.answers.lock().unwrap().push(answer);
    }
    fn routes(&self) -> Result<Vec<RouteLine>, CommandError> {
        Ok(self.routes.lock().unwrap().clone())
    }
    fn flows(&self, limit: usize) -> Result<Vec<FlowLine>, CommandError> {
        let flows = self.flows.lock().unwrap();
        Ok(flows.iter().take(limit).copied().collect())
    }
    fn job_idle(&self) -> Result<Vec<(String, Duration)>, CommandError> {
        let idle = self.idle.lock().unwrap();
        Ok(idle
            .iter()
            .map(|(job, idle)| (job.clone(), *idle))
            .collect())
    }
    fn ports(&self) -> Result<Vec<PortLine>, CommandError> {
        Ok(Vec::new())
    }
    fn backends(&self) -> Result<Vec<BackendLine>, CommandError> {
        Ok(self.backends.lock().unwrap().clone())
    }
    fn peers(&self) -> Result<Vec<PeerLine>, CommandError> {
        Ok(self.peers.lock().unwrap().clone())
    }
    fn capture(&self, _: CaptureOptions) -> Result<Capture, CommandError> {
        Err(CommandError::Stopped)
    }
    fn trace(&self, _: TraceFilter) -> Result<Trace, CommandError> {
        Err(CommandError::Stopped)
    }
}

/// The broker; ended with the value.
pub struct Broker {
    child: Child,
    folder: PathBuf,
}

impl Broker {
    pub async fn start() -> Self {
        Self::with("").await
    }

    /// With further settings.
    pub async fn with(settings: &str) -> Self {
        let folder = scratch("broker");
        let config = folder.join("mosquitto.conf");
        let text = format!("listener 10003 127.0.0.1\nallow_anonymous true\n{settings}");
        std::fs::write(&config, text).unwrap();
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the broker listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", 10003))
                .await
                .is_ok()
        })
        .await;
        Self { child, folder }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What the cluster manager answers and what it was told.
#[derive(Default)]
pub struct Cluster {
    pub heard: Mutex<Vec<(String, Value)>>,
    /// Answers by name and by address.
    pub tables: Mutex<HashMap<String, Value>>,
    pub next_subnet: Mutex<u8>,
    /// The node's own processes, for a cluster that knows of them.
    pub host: Mutex<Option<Value>>,
    /// Whether it answers.
    pub mute: Mutex<bool>,
    pub client: Mutex<Option<AsyncClient>>,
}

impl Cluster {
    /// Plays a cluster manager, as the recorded one speaks.
    pub async fn start() -> Arc<Self> {
        let cluster = Arc::new(Self::default());
        let (subscribed, ready) = tokio::sync::oneshot::channel();
        let mut options = MqttOptions::new("cluster", "127.0.0.1", 10003);
        options.set_max_packet_size(16 << 20, 16 << 20);
        let (client, mut eventloop) = AsyncClient::new(options, 1024);
        *cluster.client.lock().unwrap() = Some(client.clone());
        let player = Arc::clone(&cluster);
        tokio::spawn(async move {
            let mut subscribed = Some(subscribed);
            loop {
                match eventloop.poll().await {
                    Ok(rumqttc::Event::Incoming(Packet::ConnAck(_))) => {
                        client
                            .subscribe("nodes/+/net/#", QoS::AtLeastOnce)
                            .await
                            .unwrap();
                    }
                    Ok(rumqttc::Event::Incoming(Packet::SubAck(_))) => {
                        if let Some(subscribed) = subscribed.take() {
                            subscribed.send(()).unwrap();
                        }
                    }
                    Ok(rumqttc::Event::Incoming(Packet::Publish(publish))) => {
                        // Its own bad answers, in one test, are no JSON.
                        if let Ok(payload) = serde_json::from_slice(&publish.payload) {
                            player.hear(&client, &publish.topic, &payload);
                        }
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        ready.await.unwrap();
        cluster
    }

    fn hear(&self, client: &AsyncClient, topic: &str, payload: &Value) {
        if topic.ends_with("/result") {
            return;
        }
        self.heard
            .lock()
            .unwrap()
            .push((topic.to_owned(), payload.clone()));
        if *self.mute.lock().unwrap() {
            return;
        }
        let answer = |suffix: &str, answer: Value| {
            let node = topic.split('/').nth(1).unwrap();
            client
                .try_publish(
                    format!("nodes/{node}/net/{suffix}"),
                    QoS::AtLeastOnce,
                    false,
                    answer.to_string(),
                )
                .unwrap();
        };
        if topic.ends_with("net/subnet") && payload["METHOD"] == "GET" {
            let mut next = self.next_subnet.lock().unwrap();
            let v4 = format!("10.18.0.{}", *next * 64);
            answer(
                "subnetwork/result",
                json!({"address": v4, "addressv6": format!("fc00::{:x}", u16::from(*next) << 8)}),
            );
            *next += 1;
        } else if topic.ends_with("host/request") {
            if let Some(host) = self.host.lock().unwrap().clone() {
                answer("host/result", host);
            }
        } else if topic.ends_with("tablequery/request") {
            let name = payload["sname"].as_str().unwrap();
            let key = if name.is_empty() {
                payload["sip"].as_str().unwrap()
            } else {
                name
            };
            let mut table = self
                .tables
                .lock()
                .unwrap()
                .get(key)
                .cloned()
                .unwrap_or(json!({"app_name": name, "instance_list": []}));
            table["query_key"] = json!(key);
            answer("tablequery/result", table);
        } else if topic.ends_with("service/deployed") {
            // As the reference: the instance shows in the next table query, and the change is published.
            let job = payload["appname"].as_str().unwrap().to_owned();
            let number = payload["instance_number"].as_u64().unwrap();
            let table = table(&job, number, payload);
            self.tables.lock().unwrap().insert(job.clone(), table);
            self.changed(&job, "DEPLOYMENT");
        } else if topic.ends_with("service/undeployed") {
            let job = payload["appname"].as_str().unwrap().to_owned();
            self.tables
                .lock()
                .unwrap()
                .insert(job.clone(), json!({"app_name": job, "instance_list": []}));
            self.changed(&job, "UNDEPLOYMENT");
        }
    }

    pub fn changed(&self, job: &str, kind: &str) {
        self.say(
            &format!("jobs/{job}/updates_available"),
            &json!({"type": kind}).to_string(),
        );
    }

    pub fn say(&self, topic: &str, payload: &str) {
        self.client
            .lock()
            .unwrap()
            .as_ref()
            .unwrap()
            .try_publish(topic, QoS::AtLeastOnce, false, payload)
            .unwrap();
    }

    /// Payloads heard on topics with this ending.
    pub fn heard(&self, ending: &str) -> Vec<Value> {
        let heard = self.heard.lock().unwrap();
        heard
            .iter()
            .filter(|(topic, _)| topic.ends_with(ending))
            .map(|(_, payload)| payload.clone())
            .collect()
    }
}

/// A table query's answer with one instance.
pub fn table(job: &str, number: u64, deployed: &Value) -> Value {
    json!({"app_name": job, "instance_list": [{
        "instance_number": number, "instance_ip": "10.30.0.2", "instance_ip_v6": "fdff::2", "cluster_id": "c",
        "namespace_ip": deployed["nsip"], "namespace_ip_v6": deployed["nsipv6"],
        "host_ip": deployed["host_ip"], "host_port": deployed["host_port"],
        "service_ip": [
            {"IpType": "RR", "Address": "10.30.0.1", "Address_v6": "fdff:2000::1"},
            {"IpType": "instance_ip", "Address": "10.30.0.2", "Address_v6": "fdff::2"}]}]})
}

pub fn scratch(name: &str) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder =
        std::env::temp_dir().join(format!("oak-control-{}-{count}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A container: a process that sleeps in a network namespace of its own.
pub struct Sleeper(Child);

impl Sleeper {
    pub async fn start() -> Self {
        let child = Command::new("unshare")
            .args(["--net", "sleep", "600"])
            .spawn()
            .unwrap();
        let sleeper = Self(child);
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        eventually("the container has a namespace", async || {
            std::fs::read_link(format!("/proc/{}/ns/net", sleeper.pid()))
                .is_ok_and(|other| other != own)
        })
        .await;
        sleeper
    }

    pub fn pid(&self) -> i64 {
        i64::from(self.0.id())
    }

    /// Runs a command inside.
    pub fn inside(&self, command: &str) -> String {
        let target = self.pid().to_string();
        let mut arguments = vec!["--target", &target, "--net", "--"];
        arguments.extend(command.split(' '));
        run("nsenter", &arguments)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A started node.
pub struct World {
    pub node: Arc<Node>,
    pub recorder: Arc<Recorder>,
    pub events: mpsc::Sender<Event>,
    pub state_dir: PathBuf,
    pub instance: String,
}

impl World {
    pub async fn start() -> Self {
        Self::with(r#"{"ClusterUrl":"127.0.0.1"}"#, scratch("state")).await
    }

    pub async fn with(netcfg: &str, state_dir: PathBuf) -> Self {
        let recorder = Arc::new(Recorder {
            host_interface: index("oak0"),
            ..Recorder::default()
        });
        let (events, inbox) = mpsc::channel(64);
        let options = Options {
            instance: "test".to_owned(),
            net: NetConfig::parse("netcfg.json".as_ref(), netcfg).unwrap(),
            tun: TunConfig::default(),
            state_dir: state_dir.clone(),
        };
        let forwarding: Arc<dyn Forwarding> = recorder.clone();
        let node = Node::start(options, forwarding, inbox).await.unwrap();
        Self {
            node,
            recorder,
            events,
            state_dir,
            instance: "test".to_owned(),
        }
    }

    pub async fn register(&self, id: &str) -> Result<(), Refusal> {
        let request = Register {
            client_id: id.to_owned(),
            cluster_address: String::new(),
        };
        self.node.register(request).await
    }

    pub async fn deploy(
        &self,
        container: &Sleeper,
        job: &str,
        number: u32,
        ports: &str,
    ) -> Result<Deployed, Refusal> {
        deploy(&self.node, container.pid(), job, number, ports).await
    }

    pub async fn undeploy(&self, job: &str, number: u32) {
        let request = Undeploy {
            service_name: job.to_owned(),
            instance_number: number,
        };
        self.node.undeploy(request).await.unwrap();
    }
}

pub async fn deploy(
    node: &Arc<Node>,
    pid: i64,
    job: &str,
    number: u32,
    ports: &str,
) -> Result<Deployed, Refusal> {
    let request = Deploy {
        pid,
        service_name: job.to_owned(),
        instance_number: number,
        port_mappings: ports.to_owned(),
        vhost_user: false,
    };
    node.deploy(request, Kind::Container).await
}

pub fn index(interface: &str) -> u32 {
    let links = run("ip", &["-j", "link", "show", interface]);
    let links: Value = serde_json::from_str(&links).unwrap();
    u32::try_from(links[0]["ifindex"].as_u64().unwrap()).unwrap()
}

/// Everything on the machine that a deploy touches, for comparing before and after.
pub fn fingerprint() -> String {
    let links = run("ip", &["-o", "link", "show"]);
    let names: Vec<&str> = links
        .lines()
        .filter_map(|line| line.split(": ").nth(1))
        .collect();
    format!("{names:?}\n{}", run("nft", &["list", "ruleset"]))
}

/// A node's HTTP interface on a socket, and the command line on it; ended with the value.
pub struct Served {
    pub folder: PathBuf,
    pub socket: PathBuf,
    server: tokio::task::JoinHandle<()>,
    _open: tokio::sync::watch::Sender<bool>,
}

impl Served {
    pub async fn start(world: &World) -> Self {
        let folder = scratch("socket");
        let socket = folder.join("netmanager.sock");
        let listener = control::socket::listen(&socket).await.unwrap();
        let (open, closing) = tokio::sync::watch::channel(false);
        let purged = Arc::new(tokio::sync::Notify::new());
        let router = control::http::router(Arc::clone(&world.node), purged, closing);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            folder,
            socket,
            server,
            _open: open,
        }
    }

    pub async fn get(&self, path: &str) -> String {
        let url = format!("http://localhost{path}");
        let socket = self.socket.to_str().unwrap().to_owned();
        tokio::task::spawn_blocking(move || run("curl", &["-sf", "--unix-socket", &socket, &url]))
            .await
            .unwrap()
    }

    /// Runs the command line on the socket; answers its exit status, standard output and standard error.
    pub async fn command(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_NetManager"));
        command.arg("--socket").arg(&self.socket).args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
