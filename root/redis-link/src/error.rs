//! What can go wrong between a manager and its Redis, in words for the operator.

use std::time::Duration;

/// A URL that names no Redis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The scheme is none of ours.
    #[error(
        "the Redis URL starts with `{0}`; write redis://, rediss://, redis-sentinel:// or redis-cluster:// (rediss-sentinel:// and rediss-cluster:// for TLS)"
    )]
    Scheme(String),
    /// A host or port is malformed.
    #[error("`{0}` in the Redis URL is not host:port")]
    Host(String),
    /// The path is no database number.
    #[error("`{0}` in the Redis URL is not a database number")]
    Database(String),
    /// A Cluster has database 0 only.
    #[error("a Redis Cluster has database 0 only; remove /{0} from the URL")]
    ClusterDatabase(u32),
    /// Sentinel needs the name of the master.
    #[error(
        "a redis-sentinel URL needs the master's name: redis-sentinel://h1:26379,h2:26379/0?service=NAME"
    )]
    Service,
    /// The file with the authority of the servers' certificates holds something else.
    #[error("the authority of the Redis servers' certificates cannot be used: {0}")]
    Authority(String),
    /// The Redis client refuses the URL.
    #[error("the Redis URL is malformed: {0}")]
    Malformed(String),
}

/// A failure of Redis or on the way to it. Never holds a password.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// No connection.
    #[error(
        "Redis at {at} cannot be reached: {reason}; check that it runs and that REDIS_URL is right"
    )]
    Unreachable {
        /// Where, without credentials.
        at: String,
        /// What the system said.
        reason: String,
    },
    /// The credentials are wrong.
    #[error("Redis at {at} refused the credentials in REDIS_URL: {reason}")]
    Credentials {
        /// Where.
        at: String,
        /// What Redis said.
        reason: String,
    },
    /// No Sentinel names a master.
    #[error("none of the Sentinels {sentinels} names a master for service `{service}`: {reason}")]
    NoMaster {
        /// The Sentinels asked.
        sentinels: String,
        /// The service.
        service: String,
        /// What the last one said.
        reason: String,
    },
    /// No cluster node knows the slot's owner.
    #[error("none of the Redis Cluster nodes {nodes} knows who serves our slot: {reason}")]
    NoSlotOwner {
        /// The nodes asked.
        nodes: String,
        /// What the last one said.
        reason: String,
    },
    /// No answer in time; whether the command was carried out is not known.
    #[error("Redis at {at} did not answer within {after:?}")]
    Timeout {
        /// Where.
        at: String,
        /// How long we waited.
        after: Duration,
    },
    /// The connection broke; whether the command was carried out is not known.
    #[error("the connection to Redis at {at} broke: {reason}")]
    Broken {
        /// Where.
        at: String,
        /// What the system said.
        reason: String,
    },
    /// Redis refuses writes because its memory limit is reached.
    #[error("Redis is out of memory (maxmemory): raise the limit")]
    Full,
    /// Redis answered with an error.
    #[error("Redis refused a command: {0}")]
    Command(redis::RedisError),
}

impl LinkError {
    /// Whether trying again later may help without anyone touching the settings.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Command(error) => matches!(
                error.code(),
                Some("MISCONF" | "BUSY" | "NOREPLICAS" | "TRYAGAIN")
            ),
            _ => true,
        }
    }

    /// The error that a script returned by `redis.error_reply("CODE …")`, if it is one: code and
    /// text.
    #[must_use]
    pub fn script_error(&self) -> Option<(&str, &str)> {
        match self {
            Self::Command(error) => Some((error.code()?, error.detail().unwrap_or_default())),
            _ => None,
        }
    }
}
