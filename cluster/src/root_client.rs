//! Calls to the root service manager, each with a time limit.
//!
//! A root that does not answer must cost nothing but its own answers: while it is away one call at
//! a time probes it, and all others fail at once instead of waiting in line.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use manager_http::{Answer, Client};
use protocol::mqtt::HostResult;
use protocol::root_http::{CallerQuery, Changes, DeployStatus, ErrorMessage, HostRequest, Subnet};
use protocol::{Job, JobName, address};
use tokio::sync::Semaphore;
use url::Url;

use crate::metrics::Metrics;

/// An answer must be here by then.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// Calls that run at once.
const CALLS: usize = 64;

/// Why a call to the root gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// No answer, or a proxy's.
    #[error(
        "the root service manager at {base} does not answer ({reason}); check ROOT_SERVICE_MANAGER_URL and ROOT_SERVICE_MANAGER_PORT"
    )]
    Unreachable {
        /// Where it should be.
        base: String,
        /// What happened.
        reason: String,
    },
    /// It answered no.
    #[error("the root service manager refused {what} with {status}: {message}")]
    Refused {
        /// The call.
        what: String,
        /// Its status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// It answered what the contract does not have.
    #[error("the root service manager's answer to {what} is malformed: {reason}")]
    Malformed {
        /// The call.
        what: String,
        /// Why.
        reason: String,
    },
}

/// What a job is asked by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// Its name.
    Name(JobName),
    /// Any of its addresses.
    Address(IpAddr),
}

/// Whether the root takes subnetworks back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenBack {
    /// It has it (again).
    Taken,
    /// It is a reference root: it never takes any back.
    NotSupported,
}

/// The root service manager.
#[derive(Debug)]
pub struct RootClient {
    http: Client,
    base: String,
    caller: Vec<(&'static str, String)>,
    cluster_id: String,
    calls: Semaphore,
    away: AtomicBool,
    probe: Semaphore,
    metrics: Arc<Metrics>,
}

impl RootClient {
    /// A client; nothing is contacted yet.
    pub fn new(
        base: String,
        caller: CallerQuery,
        cluster_id: String,
        metrics: Arc<Metrics>,
        http: Client,
    ) -> Self {
        let caller = [
            ("cluster_id", caller.cluster_id),
            ("cluster_name", caller.cluster_name),
            ("cluster_address", caller.cluster_address),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
        Self {
            http,
            base,
            caller,
            cluster_id,
            calls: Semaphore::new(CALLS),
            away: AtomicBool::new(false),
            probe: Semaphore::new(1),
            metrics,
        }
    }

    fn unreachable(&self, reason: &str) -> RootError {
        RootError::Unreachable {
            base: manager_http::without_credentials(&self.base),
            reason: reason.to_owned(),
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&serde_json::Value>,
    ) -> Result<Answer, RootError> {
        let mut url = Url::parse(&format!("{}{path}", self.base))
            .map_err(|error| self.unreachable(&error.to_string()))?;
        if !query.is_empty() {
            url.query_pairs_mut()
                .extend_pairs(query.iter().map(|(name, value)| (name, value)));
        }
        let _permit = self
            .calls
            .acquire()
            .await
            .map_err(|_| self.unreachable("shutting down"))?;
        let _probe = if self.away.load(Ordering::Relaxed) {
            match self.probe.try_acquire() {
                Ok(permit) => Some(permit),
                Err(_) => return Err(self.unreachable("it did not answer before")),
            }
        } else {
            None
        };
        let body = body.map(|body| body.to_string().into_bytes());
        let answer = match self.http.send(method, url.as_str(), body).await {
            Ok(answer)
                if matches!(
                    answer.status,
                    StatusCode::BAD_GATEWAY
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT
                ) =>
            {
                Err(self.unreachable(&answer.status.to_string()))
            }
            Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => Err(self.unreachable(
                "401: it wants credentials; set the same API_TOKEN here and there, or a certificate that it trusts",
            )),
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.unreachable(&error.to_string())),
        };
        let away = answer.is_err();
        if away {
            self.metrics.root_failures_total.add();
        }
        if self.away.swap(away, Ordering::Relaxed) != away {
            match &answer {
                Err(error) => tracing::warn!(%error, "the root is away"),
                Ok(_) => tracing::info!(
                    base = manager_http::without_credentials(&self.base),
                    "the root answers"
                ),
            }
        }
        answer
    }

    /// Whether the last call got no answer.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Asks for a job, which also registers this cluster's interest. `None`: no such job.
    ///
    /// # Errors
    /// See [`RootError`].
    pub async fn job(&self, key: &Key) -> Result<Option<Job>, RootError> {
        let path = match key {
            Key::Name(name) => format!("/api/net/service/{}/instances", name.path_segment()),
            Key::Address(ip) => format!(
                "/api/net/service/ip/{}/instances",
                address::path_segment(*ip)
            ),
        };
        let answer = self.call(Method::GET, &path, &self.caller, None).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                Job::from_answer(&answer.body).map_err(|error| RootError::Malformed {
                    what: path,
                    reason: error.to_string(),
                })
            }
            _ => Err(refused(path, &answer)),
        }
    }

    /// Tells where instances live, or that they are gone. False: the root does not know the job.
    ///
    /// # Errors
    /// See [`RootError`].
    pub async fn report(&self, status: &DeployStatus) -> Result<bool, RootError> {
        let path = "/api/net/service/net_deploy_status";
        let body = to_json(path, status)?;
        let answer = self.call(Method::POST, path, &[], Some(&body)).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            _ => Err(refused(path.to_owned(), &answer)),
        }
    }

    /// Takes back this cluster's interest in a job.
    ///
    /// # Errors
    /// See [`RootError`].
    pub async fn forget(&self, job: &JobName) -> Result<(), RootError> {
        let path = format!("/api/net/interest/{job}");
        let answer = self.call(Method::DELETE, &path, &self.caller, None).await?;
        // 404: the root does not know this cluster, so it has no interest either.
        if answer.status.is_success() || answer.status == StatusCode::NOT_FOUND {
            Ok(())
        } else {
            Err(refused(path, &answer))
        }
    }

    /// A subnetwork that nobody has.
    ///
    /// # Errors
    /// See [`RootError`].
    pub async fn subnet(&self) -> Result<Subnet, RootError> {
        let path = "/api/net/subnet";
        let answer = self.call(Method::GET, path, &[], None).await?;
        if !answer.status.is_success() {
            return Err(refused(path.to_owned(), &answer));
        }
        let subnet: Subnet = from_json(path, &answer.body)?;
        if subnet.subnet_addr.is_none() {
            return Err(RootError::Malformed {
                what: path.to_owned(),
                reason: "subnet_addr is missing".to_owned(),
            });
        }
        Ok(subnet)
    }

    /// Gives a subnetwork back.
    ///
    /// # Errors
    /// See [`RootError`].
    pub async fn give_back(&self, subnet: Ipv4Addr) -> Result<GivenBack, RootError> {
        let path = format!("/api/net/subnet/{subnet}");
        let answer = self.call(Method::DELETE, &path, &[], None).await?;
        match answer.status {
            status if status.is_success() => Ok(GivenBack::Taken),
            // Either this root has no such call, or it has the subnetwork already.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                match self.changes(0, "").await? {
                    None => Ok(GivenBack::NotSupported),
                    Some(_) => Ok(GivenBack::Taken),
                }
            }
            _ => Err(refused(path, &answer)),
        }
    }

    /// What changed since a revision. `None`: a reference root, which cannot say.
    ///
    /// # Errors
    /// See [`RootError`].
    pub async fn changes(&self, since: u64, epoch: &str) -> Result<Option<Changes>, RootError> {
        let path = "/api/net/changes";
        let mut query = self.caller.clone();
        query.push(("since", since.to_string()));
        query.push(("epoch", epoch.to_owned()));
        let answer = self.call(Method::GET, path, &query, None).await?;
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(None),
            status if status.is_success() => from_json(path, &answer.body).map(Some),
            _ => Err(refused(path.to_owned(), &answer)),
        }
    }

    /// The instance that stands for a node's own processes. `None`: a reference root.
    ///
    /// # Errors
    /// See [`RootError`].
    pub async fn host(&self, node: &str) -> Result<Option<HostResult>, RootError> {
        let path = "/api/net/host";
        let body = to_json(
            path,
            &HostRequest {
                cluster_id: self.cluster_id.clone(),
                node_id: node.to_owned(),
            },
        )?;
        let answer = self
            .call(Method::POST, path, &self.caller, Some(&body))
            .await?;
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(None),
            status if status.is_success() => from_json(path, &answer.body).map(Some),
            _ => Err(refused(path.to_owned(), &answer)),
        }
    }
}

impl RootClient {
    /// Removes a service with its instances: one that this cluster itself had asked for.
    ///
    /// # Errors
    /// See [`RootError`].
    pub async fn remove(&self, id: &str) -> Result<(), RootError> {
        for path in [
            format!("/api/net/{id}/-1"),
            format!("/api/net/service/{id}"),
        ] {
            let answer = self.call(Method::DELETE, &path, &[], None).await?;
            // 404 and 400: it is gone already.
            if !answer.status.is_success()
                && !matches!(
                    answer.status,
                    StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST
                )
            {
                return Err(refused(path, &answer));
            }
        }
        Ok(())
    }
}

fn refused(what: String, answer: &Answer) -> RootError {
    let message = serde_json::from_slice::<ErrorMessage>(&answer.body).map_or_else(
        |_| {
            String::from_utf8_lossy(&answer.body)
                .chars()
                .take(200)
                .collect()
        },
        |error| error.message,
    );
    RootError::Refused {
        what,
        status: answer.status.as_u16(),
        message,
    }
}

fn to_json<T: serde::Serialize>(what: &str, body: &T) -> Result<serde_json::Value, RootError> {
    serde_json::to_value(body).map_err(|error| RootError::Malformed {
        what: what.to_owned(),
        reason: error.to_string(),
    })
}

fn from_json<T: serde::de::DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, RootError> {
    serde_json::from_slice(body).map_err(|error| RootError::Malformed {
        what: what.to_owned(),
        reason: error.to_string(),
    })
}
