//! A cluster of one's own: real Redis, real broker, the real manager, and a root that the test
//! plays itself.
#![allow(
    dead_code,
    clippy::missing_panics_doc,
    reason = "each test binary uses a part"
)]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use rumqttc::{AsyncClient, Event, LastWill, MqttOptions, Packet, QoS};
use serde_json::{Value, json};

/// Everything happens within this, or the test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A port that nothing listens on, below those that the kernel gives to outgoing connections: between this look and
/// the server's start, no connection of another test can take it.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 21_000 + (begin + step) % 10_000;
        let bound =
            TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
        if bound.is_ok() {
            return port;
        }
    }
}

/// Waits until a condition gives a value.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A child process that ends with the test.
pub struct Process(Option<Child>);

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let child = command.spawn().unwrap();
        Self(Some(child))
    }

    pub fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let mut child = self.0.take().unwrap();
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < DEADLINE, "it does not end on SIGTERM");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A folder that goes with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!(
            "oak-cluster-{}-{}",
            std::process::id(),
            free_port()
        ));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn redis(port: u16, folder: &Path) -> Process {
    Process::start(
        Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
            ])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(folder)
            .stdout(Stdio::null()),
    )
}

pub fn mosquitto(port: u16, folder: &Path) -> Process {
    let config = folder.join(format!("mosquitto-{port}.conf"));
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\nuser root\nlog_dest none\n"
    );
    std::fs::write(&config, text).unwrap();
    Process::start(
        Command::new("mosquitto")
            .arg("-c")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// `ca.crt`, and certificate and key of the broker, the manager (`cluster_net`, its key encrypted) and others.
pub fn certificates(folder: &Path, others: &[&str]) {
    let ext = folder.join("ext");
    std::fs::write(&ext, "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        folder,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=ca -keyout ca.key -out ca.crt",
    );
    for name in ["broker", "cluster_net"].iter().chain(others) {
        openssl(
            folder,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.plain -out {name}.csr"
            ),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -extfile ext -out {name}.crt"
            ),
        );
    }
    openssl(
        folder,
        "pkcs8 -topk8 -in cluster_net.plain -passout pass:secret -out cluster_net.key",
    );
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Answers.
    Well,
    /// Answers 503.
    Away,
    /// Takes the call and never answers.
    Stuck,
}

/// What the root was asked.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: String,
    pub path: String,
    pub query: String,
    pub authorization: String,
    pub body: Value,
}

pub struct RootState {
    pub jobs: BTreeMap<String, Value>,
    pub calls: Vec<Call>,
    pub mood: Mood,
    /// A reference root knows none of the new calls and answers 200 `{}` for an unknown job.
    pub reference: bool,
    pub next_subnet: u32,
    pub changes: Vec<String>,
    pub epoch: String,
    pub revision: u64,
}

/// The root, played by the test.
#[derive(Clone)]
pub struct Root {
    pub state: Arc<Mutex<RootState>>,
    pub port: u16,
}

impl Root {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let root = Self {
            port: listener.local_addr().unwrap().port(),
            state: Arc::new(Mutex::new(RootState {
                jobs: BTreeMap::new(),
                calls: Vec::new(),
                mood: Mood::Well,
                reference: false,
                next_subnet: 0,
                changes: Vec::new(),
                epoch: "e1".into(),
                revision: 1,
            })),
        };
        let app = axum::Router::new()
            .fallback(answer)
            .with_state(root.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        root
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut RootState) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    pub fn set(&self, job: Value) {
        let name = job["job_name"].as_str().unwrap().to_owned();
        self.with(|root| root.jobs.insert(name, job));
    }

    pub fn calls(&self, method: &str, path: &str) -> Vec<Call> {
        self.with(|root| {
            root.calls
                .iter()
                .filter(|call| call.method == method && call.path.starts_with(path))
                .cloned()
                .collect()
        })
    }

    pub async fn called(&self, method: &str, path: &str) -> Call {
        eventually(&format!("{method} {path} at the root"), async || {
            self.calls(method, path).last().cloned()
        })
        .await
    }
}

async fn answer(
    State(root): State<Root>,
    method: Method,
    uri: Uri,
    headers: axum::http::HeaderMap,
    body: Bytes,
) -> Response {
    let mood = root.with(|state| {
        state.calls.push(Call {
            method: method.to_string(),
            path: uri.path().to_owned(),
            query: uri.query().unwrap_or_default().to_owned(),
            authorization: headers
                .get("authorization")
                .map(|value| value.to_str().unwrap().to_owned())
                .unwrap_or_default(),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        });
        state.mood
    });
    match mood {
        Mood::Well => {}
        Mood::Away => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Mood::Stuck => std::future::pending().await,
    }
    root.with(|state| state.answer(&method, uri.path(), &body))
}

impl RootState {
    fn answer(&mut self, method: &Method, path: &str, body: &[u8]) -> Response {
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let parts: Vec<&str> = path.trim_start_matches("/api/net/").split('/').collect();
        match (method.as_str(), parts.as_slice()) {
            ("GET", ["service", "ip", ip, "instances"]) => {
                let ip: std::net::IpAddr = ip.replace('_', ".").parse().unwrap();
                let job = self.jobs.values().find(|job| has(job, ip)).cloned();
                self.job(job)
            }
            ("GET", ["service", name, "instances"]) => {
                let job = self.jobs.get(&name.replace('_', ".")).cloned();
                self.job(job)
            }
            ("POST", ["service", "net_deploy_status"]) => self.status(&body),
            ("DELETE", ["interest", _]) => "deregistered".into_response(),
            ("GET", ["subnet"]) => {
                let at = self.next_subnet;
                self.next_subnet += 1;
                let v4 = format!("10.18.{}.{}", at / 4, at % 4 * 64);
                let v6 = std::net::Ipv6Addr::from((0xfc00_u128 << 112) + u128::from(at) * 256);
                axum::Json(json!({"subnet_addr": v4, "subnet_addr_v6": v6})).into_response()
            }
            ("DELETE", ["subnet", _]) if !self.reference => "given back".into_response(),
            ("GET", ["changes"]) if !self.reference => axum::Json(
                json!({"epoch": self.epoch, "revision": self.revision, "jobs": self.changes}),
            )
            .into_response(),
            ("POST", ["host"]) if !self.reference => {
                let node = body["node_id"].as_str().unwrap();
                axum::Json(
                    json!({"app_name": format!("c1.nodes.{node}.host"), "instance_number": 0,
                    "instance_ip": "10.30.7.7", "instance_ip_v6": "fdff::77"}),
                )
                .into_response()
            }
            _ => (
                StatusCode::NOT_FOUND,
                axum::Json(json!({"code": 404, "status": "Not Found"})),
            )
                .into_response(),
        }
    }

    fn job(&self, job: Option<Value>) -> Response {
        match job {
            Some(job) => axum::Json(job).into_response(),
            None if self.reference => axum::Json(json!({})).into_response(),
            None => {
                let body = axum::Json(json!({"message": "unknown job"}));
                (StatusCode::NOT_FOUND, body).into_response()
            }
        }
    }

    /// Keeps what was reported, as a root does.
    fn status(&mut self, body: &Value) -> Response {
        let id = &body["job_id"];
        let Some(job) = self.jobs.values_mut().find(|job| job["_id"] == *id) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        for told in body["instances"].as_array().unwrap() {
            for kept in job["instance_list"].as_array_mut().unwrap() {
                if kept["instance_number"] == told["instance_number"] {
                    for field in ["namespace_ip", "namespace_ip_v6", "host_ip", "host_port"] {
                        kept[field] = told[field].clone();
                    }
                }
            }
        }
        "Status updated".into_response()
    }
}

fn has(job: &Value, ip: std::net::IpAddr) -> bool {
    let is = |value: &Value| value.as_str().and_then(|text| text.parse().ok()) == Some(ip);
    let list = |name: &str| job[name].as_array().cloned().unwrap_or_default();
    list("service_ip_list")
        .iter()
        .any(|entry| is(&entry["Address"]) || is(&entry["Address_v6"]))
        || list("instance_list").iter().any(|entry| {
            [
                "instance_ip",
                "instance_ip_v6",
                "namespace_ip",
                "namespace_ip_v6",
            ]
            .iter()
            .any(|field| is(&entry[*field]))
        })
}

/// A job as a reference root answers it, with n instances that do not run yet.
pub fn job(name: &str, index: u32, instances: u32) -> Value {
    let parts: Vec<&str> = name.split('.').collect();
    let list: Vec<Value> = (0..instances)
        .map(|number| {
            json!({"instance_number": number, "cluster_id": "c1",
                "instance_ip": format!("10.30.{index}.{}", 100 + number),
                "instance_ip_v6": format!("fdff::{index}:{}", 100 + number)})
        })
        .collect();
    json!({"_id": format!("cccccccccccccccccccccc{index:02}"), "job_name": name,
        "app_name": parts[0], "app_ns": parts[1], "service_name": parts[2], "service_ns": parts[3],
        "applicationID": "bbbbbbbbbbbbbbbbbbbbbb01", "microserviceID": "x", "instance_list": list,
        "service_ip_list": [{"IpType": "RR", "Address": format!("10.30.{index}.1"),
            "Address_v6": format!("fdff:2000::{index}")}]})
}

/// A node with nothing behind it.
pub struct Node {
    pub id: String,
    client: AsyncClient,
    received: Arc<Mutex<Vec<(String, Value)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        // No DISCONNECT is sent: the broker publishes the will.
        self.task.abort();
    }
}

impl Node {
    pub async fn join(id: &str, broker: u16, will: bool) -> Self {
        Self::join_as(id, id, broker, will, rumqttc::Transport::Tcp).await
    }

    /// A client under a name of its own; it still hears and says what concerns node `id`.
    pub async fn join_as(
        client_id: &str,
        id: &str,
        broker: u16,
        will: bool,
        transport: rumqttc::Transport,
    ) -> Self {
        let mut options = MqttOptions::new(client_id, "127.0.0.1", broker);
        options.set_transport(transport);
        options.set_keep_alive(Duration::from_secs(5));
        options.set_max_packet_size(1 << 20, 1 << 20);
        if will {
            options.set_last_will(LastWill::new(
                format!("nodes/{id}/net/status"),
                r#"{"online":false}"#,
                QoS::AtLeastOnce,
                true,
            ));
        }
        let (client, mut events) = AsyncClient::new(options, 2048);
        let mut network = rumqttc::NetworkOptions::new();
        network.set_tcp_nodelay(true);
        events.set_network_options(network);
        let received = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&received);
        let (subscribed, wait) = tokio::sync::watch::channel(false);
        let (filters, again) = (id.to_owned(), client.clone());
        let task = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        for filter in [
                            format!("nodes/{filters}/net/subnetwork/result"),
                            format!("nodes/{filters}/net/tablequery/result"),
                            format!("nodes/{filters}/net/host/result"),
                            format!("nodes/{filters}/control/+"),
                            "jobs/+/updates_available".to_owned(),
                        ] {
                            again.try_subscribe(filter, QoS::AtLeastOnce).unwrap();
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        let _ = subscribed.send(true);
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let body = serde_json::from_slice(&publish.payload).unwrap();
                        sink.lock().unwrap().push((publish.topic, body));
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        eventually("the node's session", async || wait.borrow().then_some(())).await;
        Self {
            id: id.to_owned(),
            client,
            received,
            task,
        }
    }

    pub async fn subscribe(&self, filter: &str) {
        let qos = QoS::AtLeastOnce;
        self.client.subscribe(filter, qos).await.unwrap();
    }

    /// To any topic.
    pub async fn publish(&self, topic: &str, payload: &Value) {
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload.to_string())
            .await
            .unwrap();
    }

    pub async fn send_bytes(&self, topic: &str, payload: &[u8]) {
        let topic = format!("nodes/{}/{topic}", self.id);
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .await
            .unwrap();
    }

    pub async fn send(&self, topic: &str, payload: &Value) {
        self.send_bytes(topic, payload.to_string().as_bytes()).await;
    }

    pub async fn status(&self, online: bool) {
        let topic = format!("nodes/{}/net/status", self.id);
        let body = json!({"online": online}).to_string();
        self.client
            .publish(topic, QoS::AtLeastOnce, true, body)
            .await
            .unwrap();
    }

    pub fn forget(&self) {
        self.received.lock().unwrap().clear();
    }

    pub fn received(&self, topic: &str) -> Vec<Value> {
        let list = self.received.lock().unwrap();
        list.iter()
            .filter(|(at, _)| at.ends_with(topic))
            .map(|(_, body)| body.clone())
            .collect()
    }

    pub async fn receives(&self, topic: &str) -> Value {
        eventually(&format!("{} receives {topic}", self.id), async || {
            self.received(topic).last().cloned()
        })
        .await
    }

    /// Asks until it is answered, as nodes do; the answer to this question.
    pub async fn query(&self, name: &str, address: &str) -> Value {
        let asked = if name.is_empty() { address } else { name };
        let start = Instant::now();
        loop {
            self.forget();
            self.send(
                "net/tablequery/request",
                &json!({"sname": name, "sip": address}),
            )
            .await;
            let patience = Instant::now();
            while patience.elapsed() < Duration::from_secs(3) {
                let answers = self.received("net/tablequery/result");
                if let Some(answer) = answers
                    .into_iter()
                    .find(|answer| answer["query_key"] == asked)
                {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(start.elapsed() < DEADLINE, "no answer for {asked}");
        }
    }

    /// Asks until the answer is as it should be.
    pub async fn sees(&self, what: &str, name: &str, good: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let answer = self.query(name, "").await;
            if good(&answer) {
                return answer;
            }
            assert!(start.elapsed() < DEADLINE, "{what}: {answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn deployed(&self, job: &str, number: u32, last: u32) {
        self.send("net/service/deployed", &announcement(job, number, last))
            .await;
    }
}

pub fn announcement(job: &str, number: u32, last: u32) -> Value {
    json!({"appname": job, "status": "DEPLOYED", "instance_number": number,
        "nsip": format!("10.18.0.{last}"), "nsipv6": format!("fc00::{last}"),
        "host_port": "50103", "host_ip": "192.0.2.10"})
}

pub fn count(answer: &Value) -> usize {
    answer["instance_list"].as_array().unwrap().len()
}

/// One cluster.
pub struct Bench {
    pub root: Root,
    pub redis: Option<Process>,
    pub broker: Option<Process>,
    pub managers: Vec<Process>,
    pub redis_port: u16,
    pub broker_port: u16,
    pub port: u16,
    pub settings: Vec<(String, String)>,
    pub http: reqwest::Client,
    pub folder: Folder,
}

impl Bench {
    /// Redis, broker and root run; the manager does not yet.
    pub async fn prepare() -> Self {
        let folder = Folder::new();
        let (redis_port, broker_port) = (free_port(), free_port());
        Self {
            root: Root::start().await,
            redis: Some(redis(redis_port, &folder.0)),
            broker: Some(mosquitto(broker_port, &folder.0)),
            managers: Vec::new(),
            redis_port,
            broker_port,
            port: free_port(),
            settings: vec![
                ("CHANGES_POLL_SECONDS".into(), "0.2".into()),
                ("NODE_GRACE_SECONDS".into(), "1".into()),
                ("NODE_SILENCE_SECONDS".into(), "2".into()),
                ("ADDRESS_REST_SECONDS".into(), "1".into()),
                ("CLUSTER_ADDRESS".into(), "127.0.0.1".into()),
            ],
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            folder,
        }
    }

    pub async fn start() -> Self {
        let mut bench = Self::prepare().await;
        bench.manager();
        bench.ready().await;
        bench
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.into(), value.into()));
    }

    pub fn manager(&mut self) {
        self.manager_at(self.port);
    }

    pub fn manager_at(&mut self, port: u16) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cluster-service-manager"));
        command
            .env_clear()
            .env("MY_PORT", port.to_string())
            .env("CLUSTER_NAME", "c1")
            .env("MQTT_BROKER_URL", "127.0.0.1")
            .env("MQTT_BROKER_PORT", self.broker_port.to_string())
            .env("ROOT_SERVICE_MANAGER_URL", "127.0.0.1")
            .env("ROOT_SERVICE_MANAGER_PORT", self.root.port.to_string())
            .env(
                "REDIS_URL",
                format!("redis://127.0.0.1:{}", self.redis_port),
            )
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
        if let Ok(level) = std::env::var("RUST_LOG") {
            command.env("RUST_LOG", level);
        } else {
            command.env("RUST_LOG", "error");
        }
        self.managers.push(Process::start(&mut command));
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Redis answers and the session with the broker is up.
    pub async fn ready(&self) {
        eventually("the manager is ready", async || {
            let answer = self.http.get(self.url("/readyz")).send().await.ok()?;
            let state: Value = answer.json().await.ok()?;
            (state["mqtt"] == true).then_some(())
        })
        .await;
    }

    pub async fn metric(&self, name: &str) -> u64 {
        let text = self
            .http
            .get(self.url("/metrics"))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("oak_cluster_{name} ")));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, String) {
        let answer = self
            .http
            .post(self.url(path))
            .json(body)
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    pub async fn deployment(&self, job: &str) {
        let (status, text) = self
            .post("/api/net/deployment", &json!({"job_name": job}))
            .await;
        assert_eq!((status, text.as_str()), (200, "job stored succesfully"));
    }

    pub async fn update(&self, job: &str, number: i64, kind: &str) {
        let body = json!({"job_name": job, "instance_number": number, "type": kind});
        let (status, text) = self.post("/api/net/job/update", &body).await;
        assert_eq!(
            (status, text.as_str()),
            (200, "update notification received")
        );
    }

    pub async fn node(&self, id: &str) -> Node {
        Node::join(id, self.broker_port, true).await
    }
}
