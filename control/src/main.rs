//! The Net Manager of a worker node.
#![forbid(unsafe_code)]
fn main() {}
