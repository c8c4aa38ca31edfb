//! The root's contract (section 2), held against the real binary and a real Redis.
//!
//! Each test has a Redis server and as many roots as it needs, on free ports, with folders of
//! their own; all end with the test.

mod addresses;
mod callers;
mod changes;
mod clusters;
mod concurrency;
mod instances;
mod netinfo;
mod notifications;
mod services;
mod stage;
mod startup;
mod subnets;
