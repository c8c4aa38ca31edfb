//! Root, cluster and nodes together: real managers, Redis and broker, and what becomes of them when parts
//! are killed, paused or cut off. In the end all of them say the same, to the last field.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test each is an assertion"
)]

#[path = "../support/mod.rs"]
mod support;

mod channel;
mod deaths;
mod failover;
mod listening;
mod secured;
mod world;
