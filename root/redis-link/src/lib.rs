//! A Redis connection that outlives its server.
//!
//! All keys of one manager share a hash tag, so on a Redis Cluster they sit in one slot and at any
//! moment exactly one server holds them; behind Sentinel it is the master. Single server, Sentinel
//! and Cluster therefore differ in one thing only: how that server is found ([`Target`]). A
//! [`Link`] finds it, keeps one multiplexed connection to it, and finds it again after a failure.
//! A [`Subscription`] does the same on a connection of its own with a heartbeat, because a pub/sub
//! connection that broke silently looks like one on which nothing happens.
#![forbid(unsafe_code)]

mod error;
mod find;
mod link;
mod subscription;
mod target;

pub use error::{LinkError, UrlError};
pub use link::Link;
pub use redis::{Cmd, FromRedisValue, Pipeline, Script, ScriptInvocation, Value, cmd, pipe};
pub use subscription::{Event, Subscription};
pub use target::Target;

/// A text that no other call, here or elsewhere, is likely to get. Not a secret.
#[must_use]
pub fn unique() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    // RandomState is seeded by the operating system.
    let time = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default()
        .as_nanos();
    format!("{:016x}", RandomState::new().hash_one(time))
}
