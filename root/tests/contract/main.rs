//! The root's contract (section 2), held against the real binary and a real Redis.
//!
//! Each test has a Redis server and as many roots as it needs, on free ports, with folders of
//! their own; all end with the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "an unwrap in a test is an assertion, in what the tests share too"
)]

mod access;
mod addresses;
mod callers;
mod changes;
mod clusters;
mod concurrency;
mod instances;
mod invariants;
mod model;
mod moving;
mod netinfo;
mod notifications;
mod services;
mod stage;
mod startup;
mod subnets;
