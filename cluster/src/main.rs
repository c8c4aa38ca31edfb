//! The cluster service manager.
#![forbid(unsafe_code)]
fn main() {}
