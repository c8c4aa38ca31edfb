//! The committed inputs, in an ordinary build: the seeds, among them every input that once broke a promise.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn names(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn run_all(folder: &Path, target: fn(&[u8])) {
    for name in names(folder) {
        println!("{name}");
        target(&std::fs::read(folder.join(name)).unwrap());
    }
}

#[test]
fn the_files_are_what_the_code_says() {
    for (target, seeds) in [
        ("net", fuzz::seeds::packets()),
        ("pipeline", fuzz::seeds::scripts()),
    ] {
        let folder = folder("corpus").join(target);
        let remedy = "run cargo run -p fuzz --bin fuzz-seeds";
        let expected: BTreeSet<String> = seeds.iter().map(|(name, _)| name.clone()).collect();
        // An input that broke something stays beside them, by another name.
        let mut files = names(&folder);
        files.retain(|name| !name.starts_with("found-"));
        assert_eq!(files, expected, "{remedy}");
        for (name, seed) in seeds {
            assert!(
                std::fs::read(folder.join(&name)).unwrap() == seed,
                "{name}: {remedy}"
            );
        }
    }
}

#[test]
fn net_holds_for_its_seeds() {
    run_all(&folder("corpus/net"), fuzz::headers::run);
}

#[test]
fn pipeline_holds_for_its_seeds() {
    run_all(&folder("corpus/pipeline"), fuzz::pipeline::run);
}
