//! One cluster: its servers, its managers, its root.

use std::process::Command;

use serde_json::{Value, json};

use super::{Folder, Node, Process, Root, eventually, folder, free_port, mosquitto, redis};

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
        let folder = folder();
        let (redis_port, broker_port) = (free_port(), free_port());
        Self {
            root: Root::start().await,
            redis: Some(redis(redis_port, folder.path())),
            broker: Some(mosquitto(broker_port, folder.path())),
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

    /// Everything runs, and the root knows a job.
    pub async fn with(job: Value) -> Self {
        let bench = Self::start().await;
        bench.root.set(job);
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
        self.managers.push(Process::start(&mut command).unwrap());
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
