//! What the fuzz targets do with their input. Every input is legal; a target fails only when a promise is broken.
//!
//! | target | input | promises |
//! |---|---|---|
//! | [`net`](mod@headers) | an IP packet | edits keep checksums and lengths, and undo gives the packet back |
//! | [`pipeline`](mod@pipeline) | a script of happenings at a node | the books balance, nothing reaches who must not get it |
//!
//! `scripts/fuzz` builds the targets with coverage counters and runs them. In an ordinary build the same programs run
//! the files that they are given, each once: to look at a crash in a debugger. `tests/seeds.rs` runs `corpus/`; an input
//! that broke a promise goes there as `corpus/<target>/found-<what>` with the change that mends it.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a target fails by a panic"
)]

pub mod headers;
pub mod judge;
pub mod node;
pub mod packets;
pub mod pipeline;
pub mod plan;
pub mod script;
pub mod seeds;

/// Runs a target on each of the named files, or on all files in a named folder. For `main` of an ordinary build.
///
/// # Panics
/// When a promise is broken, or a file cannot be read.
pub fn replay(target: fn(&[u8])) {
    for name in std::env::args_os().skip(1) {
        let path = std::path::PathBuf::from(name);
        let files = if path.is_dir() {
            std::fs::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect()
        } else {
            vec![path]
        };
        for file in files {
            println!("{}", file.display());
            target(&std::fs::read(&file).unwrap());
        }
    }
}
