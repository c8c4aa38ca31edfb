//! The root, played by the test: what it answers and whether it does, and what it was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use protocol::root_http::DeployStatus;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::eventually;

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

    /// Waits for a status of instances like this.
    pub async fn reported(&self, is_it: impl Fn(&Value) -> bool) -> Call {
        eventually("the root hears of it", async || {
            self.calls("POST", "/api/net/service/net_deploy_status")
                .into_iter()
                .find(|call| is_it(&call.body["instances"]))
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

    /// Keeps what was reported, and refuses what is not whole, as a root does.
    fn status(&mut self, body: &Value) -> Response {
        let is_whole = DeployStatus::deserialize(body).is_ok_and(|status| {
            let mut instances = status.instances.iter();
            instances.all(|instance| instance.missing().is_empty())
        });
        if !is_whole {
            return StatusCode::BAD_REQUEST.into_response();
        }
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
