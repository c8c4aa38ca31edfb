//! The root service manager.
#![forbid(unsafe_code)]
fn main() {}
