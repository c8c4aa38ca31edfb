//! One multiplexed connection that is found again after each failure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, Script, ScriptInvocation};
use tokio::sync::Mutex;

use crate::find::{self, ANSWER_TIMEOUT};
use crate::subscription::Subscription;
use crate::{LinkError, Target};

/// For this long after a failed attempt, callers get its error instead of another attempt each.
const HOLD_OFF: Duration = Duration::from_millis(200);

/// A handle to Redis: cheap to clone, connected on first use, connected again when it breaks.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    slot_key: String,
    greeting: Option<Script>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Current>,
    failed: Option<(Instant, LinkError)>,
    generation: u64,
}

#[derive(Clone)]
struct Current {
    connection: MultiplexedConnection,
    at: Arc<str>,
    generation: u64,
}

/// What is sent. Not a closure: futures of async closures are not `Send` for callers.
#[derive(Clone, Copy)]
enum Request<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
    Script(&'a ScriptInvocation<'a>),
}

impl Request<'_> {
    async fn send<T: FromRedisValue>(
        self,
        connection: &mut MultiplexedConnection,
    ) -> Result<T, RedisError> {
        match self {
            Self::Command(command) => command.query_async(connection).await,
            Self::Pipeline(pipeline) => pipeline.query_async(connection).await,
            Self::Script(call) => call.invoke_async(connection).await,
        }
    }
}

impl Link {
    /// A link to a target; nothing is contacted yet. `slot_key` is any key of the caller's (all
    /// share one hash tag); it matters on a Redis Cluster only.
    #[must_use]
    pub fn new(target: Target, slot_key: &str) -> Self {
        Self::build(target, slot_key, None)
    }

    /// A link that runs a script on each new connection before anything else is sent there. It gets
    /// `slot_key` as its key, and as arguments the server's run id, `1` when the server cannot have
    /// lost what was acknowledged (else `0`: a replica that was promoted, or a restart without AOF),
    /// and a text that no other call has.
    ///
    /// A server that does not tell about itself is not greeted.
    #[must_use]
    pub fn with_greeting(target: Target, slot_key: &str, greeting: Script) -> Self {
        Self::build(target, slot_key, Some(greeting))
    }

    fn build(target: Target, slot_key: &str, greeting: Option<Script>) -> Self {
        // Two TLS back-ends in one program would leave rustls without a default. Whoever comes
        // second keeps the first one's choice.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            shared: Arc::new(Shared {
                target,
                slot_key: slot_key.to_owned(),
                greeting,
                state: Mutex::new(State::default()),
            }),
        }
    }

    /// Where this link leads, without credentials.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.shared.target
    }

    /// Sends a command. After a broken connection it is sent once more to the server found then,
    /// so a command may be carried out twice: send only what may be repeated.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, LinkError> {
        self.attempt(Request::Command(command)).await
    }

    /// Sends a pipeline (atomic if the caller made it so); repeated like [`Link::query`].
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, LinkError> {
        self.attempt(Request::Pipeline(pipeline)).await
    }

    /// Runs a script by its hash; a server that does not know it is given it first. Repeated
    /// like [`Link::query`].
    ///
    /// # Errors
    /// See [`LinkError`]; [`LinkError::script_error`] for what the script itself answered.
    pub async fn invoke<T: FromRedisValue>(
        &self,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, LinkError> {
        self.attempt(Request::Script(call)).await
    }

    /// Asks Redis for a sign of life.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn ping(&self) -> Result<(), LinkError> {
        self.query::<String>(&redis::cmd("PING")).await.map(drop)
    }

    /// Returns once Redis answers. Logs why it does not, at first and every 10 s.
    pub async fn ready(&self) {
        let mut pause = Duration::from_millis(100);
        let mut logged: Option<Instant> = None;
        loop {
            match self.ping().await {
                Ok(()) => {
                    if logged.is_some() {
                        tracing::info!(redis = %self.shared.target, "Redis answers");
                    }
                    return;
                }
                Err(error) => {
                    if logged.is_none_or(|at| at.elapsed() >= Duration::from_secs(10)) {
                        tracing::warn!(%error, "waiting for Redis");
                        logged = Some(Instant::now());
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    }

    /// Listens to channels on a connection of its own. See [`Subscription`].
    #[must_use]
    pub fn subscribe(&self, channels: Vec<String>) -> Subscription {
        Subscription::start(
            self.shared.target.clone(),
            self.shared.slot_key.clone(),
            channels,
        )
    }

    async fn attempt<T: FromRedisValue>(&self, request: Request<'_>) -> Result<T, LinkError> {
        let mut repeated = false;
        loop {
            let mut current = self.current().await?;
            let error = match request.send(&mut current.connection).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if error.is_timeout() {
                self.forget(current.generation).await;
                return Err(LinkError::Timeout {
                    at: current.at.to_string(),
                    after: ANSWER_TIMEOUT,
                });
            }
            if !find::is_lost(&error) {
                return Err(match error.code() {
                    Some("OOM") => LinkError::Full,
                    Some("NOAUTH") => find::unreachable(&error, &current.at),
                    _ => LinkError::Command(error),
                });
            }
            self.forget(current.generation).await;
            if repeated {
                return Err(LinkError::Broken {
                    at: current.at.to_string(),
                    reason: error.to_string(),
                });
            }
            repeated = true;
        }
    }

    async fn current(&self) -> Result<Current, LinkError> {
        // Held while connecting: whoever comes meanwhile shares the outcome.
        let mut state = self.shared.state.lock().await;
        if let Some(current) = &state.current {
            return Ok(current.clone());
        }
        if let Some((at, error)) = &state.failed
            && at.elapsed() < HOLD_OFF
        {
            return Err(error.clone());
        }
        match self.open().await {
            Ok((connection, at)) => {
                state.generation += 1;
                let current = Current {
                    connection,
                    at: at.into(),
                    generation: state.generation,
                };
                tracing::debug!(at = %current.at, "connected to Redis");
                state.failed = None;
                state.current = Some(current.clone());
                Ok(current)
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn open(&self) -> Result<(MultiplexedConnection, String), LinkError> {
        let found = find::find(&self.shared.target, &self.shared.slot_key).await?;
        let mut connection = found.connect().await?;
        if let Some(script) = &self.shared.greeting {
            find::greet(&mut connection, &found.at, &self.shared.slot_key, script).await?;
        }
        Ok((connection, found.at))
    }

    async fn forget(&self, generation: u64) {
        let mut state = self.shared.state.lock().await;
        if state
            .current
            .as_ref()
            .is_some_and(|current| current.generation == generation)
        {
            state.current = None;
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Link({})", self.shared.target)
    }
}
