//! The stage: a Redis, roots, fake clusters, and what a caller does.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use servers::{Folder, Process, Signal};

/// Everything that is awaited comes well within this.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for a condition.
pub async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    servers::free_port().unwrap()
}

/// A Redis server with a data folder of its own, as the shipped settings have it.
pub struct Redis {
    pub port: u16,
    settings: Vec<String>,
    // Ends before its folder goes.
    process: Option<Process>,
    folder: Folder,
}

impl Redis {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(settings: &[&str]) -> Self {
        let mut redis = Self {
            port: free_port(),
            folder: Folder::new("root").unwrap(),
            settings: settings.iter().map(ToString::to_string).collect(),
            process: None,
        };
        redis.again().await;
        redis
    }

    /// Starts it (again), with the data that it had.
    pub async fn again(&mut self) {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        let process = servers::redis(self.port, self.folder.path(), &settings);
        self.process = Some(process.expect("redis-server is installed"));
        let client = redis::Client::open(self.url()).unwrap();
        until("Redis answers", async || {
            let mut connection = client.get_multiplexed_async_connection().await.ok()?;
            redis::cmd("PING")
                .query_async::<String>(&mut connection)
                .await
                .ok()
        })
        .await;
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command.
    pub async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        // Half a second, its default, is not enough on a busy machine.
        let patient = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&patient)
            .await
            .unwrap();
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command.query_async(&mut connection).await.unwrap()
    }
}

/// A root-service-manager.
pub struct Root {
    pub port: u16,
    process: Process,
    http: reqwest::Client,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Asserts the status and hands the answer on.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        if status >= 400 {
            assert!(self.json()["message"].is_string(), "{}", self.text);
        }
        self
    }
}

pub fn http() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap()
}

impl Root {
    /// Starts one with these settings and waits for nothing.
    pub fn spawn(redis_url: &str, env: &[(&str, &str)]) -> Self {
        let port = free_port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_root-service-manager"));
        command
            .env_remove("RUST_LOG")
            .env("MY_PORT", port.to_string())
            .env("REDIS_URL", redis_url)
            .env("JWT_GENERATOR_PORT", "9")
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(if std::env::var_os("SHOW_LOGS").is_some() {
                Stdio::inherit()
            } else {
                Stdio::null()
            });
        Self {
            port,
            process: Process::start(&mut command).unwrap(),
            http: http(),
        }
    }

    /// Starts one and waits until it listens, not for Redis.
    pub async fn launch(redis_url: &str, env: &[(&str, &str)]) -> Self {
        let root = Self::spawn(redis_url, env);
        until("the root listens", async || {
            root.http.get(root.url("/healthz")).send().await.ok()
        })
        .await;
        root
    }

    pub async fn start(redis: &Redis, env: &[(&str, &str)]) -> Self {
        let root = Self::launch(&redis.url(), env).await;
        root.wait_ready().await;
        root
    }

    pub async fn wait_ready(&self) {
        until("the root is ready", async || {
            (self.get("/readyz").await.status == 200).then_some(())
        })
        .await;
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let answer = request.send().await.expect("the root answers");
        Answer {
            status: answer.status().as_u16(),
            text: answer.text().await.unwrap(),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.http.get(self.url(path))).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.http.delete(self.url(path))).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.http.post(self.url(path)).json(&body)).await
    }

    /// Stops it with SIGTERM and answers whether it ended well.
    pub async fn terminate(&mut self) -> bool {
        self.process.signal(Signal::SIGTERM).unwrap();
        self.ended().await
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> bool {
        until("the root ends", async || self.process.ended().unwrap())
            .await
            .success()
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub async fn register(&self, id: &str, port: u16) {
        let body = json!({"cluster_id": id, "cluster_address": "127.0.0.1", "cluster_port": port});
        let answer = self.post("/api/net/cluster", body).await.is(200);
        assert_eq!(answer.text, "cluster registered");
    }

    /// Deploys service number `n`, named `app.test.s<n>.test`.
    pub async fn service(&self, n: u32) -> Answer {
        self.post("/api/net/service/deploy", service_body(n, json!({})))
            .await
    }

    pub async fn service_with(&self, n: u32, extra: Value) -> Answer {
        self.post("/api/net/service/deploy", service_body(n, extra))
            .await
    }

    pub async fn instance(&self, n: u32, number: u32) -> Answer {
        let body = json!({"_id": id(n), "instance_number": number, "cluster_id": "c1"});
        self.post("/api/net/instance/deploy", body).await
    }

    /// Says where an instance runs; `nsip` is the last octet of its namespace IP.
    pub async fn running(&self, n: u32, number: u32, nsip: u8) -> Answer {
        let body = json!({"job_id": id(n), "instances": [{
            "instance_number": number, "namespace_ip": format!("10.18.0.{nsip}"),
            "namespace_ip_v6": format!("fc00::{nsip:x}"), "host_ip": "192.0.2.10", "host_port": 50103}]});
        self.post("/api/net/service/net_deploy_status", body).await
    }

    /// The job as the cluster `c` sees it (and is then interested in).
    pub async fn job_for(&self, n: u32, cluster: &str) -> Answer {
        self.get(&format!(
            "/api/net/service/app_test_s{n}_test/instances?cluster_id={cluster}"
        ))
        .await
    }

    pub async fn job(&self, n: u32) -> Value {
        self.job_for(n, "c1").await.is(200).json()
    }
}

/// Object id number `n`.
pub fn id(n: u32) -> String {
    format!("{n:024x}")
}

pub fn service_body(n: u32, extra: Value) -> Value {
    let name = format!("s{n}");
    let mut descriptor = json!({"app_name": "app", "app_ns": "test", "service_name": name,
        "service_ns": "test", "microservice_name": name, "microservice_namespace": "test",
        "applicationID": "bbbbbbbbbbbbbbbbbbbbbb01", "environment": ["SECRET=hush"]});
    let fields = descriptor.as_object_mut().unwrap();
    let Value::Object(extra) = extra else {
        panic!("{extra} is no object");
    };
    fields.extend(extra);
    json!({"_id": id(n), "deployment_descriptor": descriptor})
}

/// A cluster's HTTP interface that records what it is told.
pub struct FakeCluster {
    pub port: u16,
    /// Every update that was answered 200, in order.
    pub updates: Arc<Mutex<Vec<Value>>>,
    /// What was shown with them.
    pub authorizations: Arc<Mutex<Vec<String>>>,
    status: Arc<AtomicU16>,
    server: Option<tokio::task::JoinHandle<()>>,
}

impl FakeCluster {
    pub async fn start() -> Self {
        let mut cluster = Self {
            port: free_port(),
            updates: Arc::default(),
            authorizations: Arc::default(),
            status: Arc::new(AtomicU16::new(200)),
            server: None,
        };
        cluster.again().await;
        cluster
    }

    /// Listens (again).
    pub async fn again(&mut self) {
        type Shared = (
            Arc<Mutex<Vec<Value>>>,
            Arc<Mutex<Vec<String>>>,
            Arc<AtomicU16>,
        );
        async fn update(
            State((updates, authorizations, status)): State<Shared>,
            headers: axum::http::HeaderMap,
            body: axum::body::Bytes,
        ) -> StatusCode {
            let status = StatusCode::from_u16(status.load(Ordering::Relaxed)).unwrap();
            if status == StatusCode::OK {
                if let Some(shown) = headers.get("authorization") {
                    let shown = shown.to_str().unwrap().to_owned();
                    authorizations.lock().unwrap().push(shown);
                }
                updates
                    .lock()
                    .unwrap()
                    .push(serde_json::from_slice(&body).unwrap());
            }
            status
        }
        let app = axum::Router::new()
            .route("/api/net/job/update", axum::routing::post(update))
            .with_state((
                Arc::clone(&self.updates),
                Arc::clone(&self.authorizations),
                Arc::clone(&self.status),
            ));
        let address = format!("127.0.0.1:{}", self.port);
        let listener = until("the port is free", async || {
            tokio::net::TcpListener::bind(&address).await.ok()
        })
        .await;
        self.server = Some(tokio::spawn(async move {
            axum::serve(listener, app).await.unwrap();
        }));
    }

    /// Closes the port and every connection.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
        // Connections are tasks of their own in axum: answering 503 stands for them.
        self.answer_with(503);
    }

    pub fn answer_with(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// Waits until it was told this often and answers all of it.
    pub async fn told(&self, times: usize) -> Vec<Value> {
        until(&format!("{times} updates"), async || {
            let updates = self.updates.lock().unwrap();
            (updates.len() >= times).then(|| updates.clone())
        })
        .await
    }
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }
}

/// `type job number` of an update.
pub fn brief(update: &Value) -> String {
    format!(
        "{} {} {}",
        update["type"].as_str().unwrap(),
        update["job_name"].as_str().unwrap(),
        update["instance_number"]
    )
}
