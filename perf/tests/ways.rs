//! Every peer of the benchmarks really carries packets, in both topologies, and leaves nothing behind.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "an unwrap in a test is an assertion"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use journeys::measure::{BULK_PORT, ECHO_PORT};
use perf::ways::{
    Cores, Field, Idle, Laid, Means, Nodes, Offloads, PEERS, Peer, Sending, Settings, Way, report,
};

/// They compare what is here before and after.
static ALONE: Mutex<()> = Mutex::new(());

/// What of this machine could be left changed.
#[derive(Debug, PartialEq)]
struct Machine {
    namespaces: BTreeSet<PathBuf>,
    dpdk: BTreeSet<PathBuf>,
    interfaces: BTreeSet<PathBuf>,
    hugepages: String,
    policies: String,
}

impl Machine {
    fn now() -> Machine {
        let list = |folder: &str| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<BTreeSet<_>>()
        };
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        // Others work on this machine at the same time: what is theirs may come and go.
        let own = format!("oakrun-{}-", std::process::id());
        let ours = |paths: BTreeSet<PathBuf>| {
            let named = |path: &PathBuf| path.to_string_lossy().contains(&own);
            paths.into_iter().filter(named).collect::<BTreeSet<_>>()
        };
        Machine {
            namespaces: ours(list("/run/netns")),
            dpdk: ours(list("/run/dpdk")),
            interfaces: list("/sys/class/net"),
            hugepages: read("/proc/sys/vm/nr_hugepages"),
            policies: read("/sys/kernel/mm/transparent_hugepage/enabled"),
        }
    }
}

/// Processes that work in a run's folder.
fn processes_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
        })
        .collect()
}

/// What a process of `/proc` has open or mapped elsewhere than in its run's folder and would outlast it.
fn files_of(process: &Path) -> BTreeSet<String> {
    let pid = process.file_name().and_then(|name| name.to_str());
    journeys::run::files_of(pid.unwrap().parse().unwrap())
}

fn carries_everything(way: &Way, means: Means<'_>) {
    let target = way.target.to_string();
    way.client
        .command("ping", &["-c", "3", "-i", "0.05", "-W", "5", &target])
        .unwrap();
    let at = |port: u16| ["--target".to_owned(), format!("{target}:{port}")];
    let echoed = way
        .at_client(means, "echo")
        .args(at(ECHO_PORT))
        .args(["--from", "1250", "--to", "1400"])
        .start(means.run)
        .unwrap();
    let echoed = report(echoed, 30.0).unwrap();
    assert_eq!(echoed["lost"].as_array().map(Vec::len), Some(0), "{echoed}");
    // What nobody answers passes, too.
    let sending = Sending {
        rate: 2000,
        ..Sending::ALL
    };
    assert!(way.udp(means, 0.3, &sending).unwrap() > 200.0);
    // So does a stream in full segments, at a rate.
    let gbit_s = way.tcp(means, 0.3).unwrap();
    assert!(gbit_s > 0.01, "{}: {gbit_s} Gbit/s", way.name);
    for direction in [&[][..], &["--download"]] {
        let moved = way
            .at_client(means, "transfer")
            .args(at(BULK_PORT))
            .args(["--bytes", "100000"])
            .args(direction.iter().copied())
            .start(means.run)
            .unwrap();
        // It fails itself when a byte is wrong.
        report(moved, 30.0).unwrap();
    }
}

fn lays_and_leaves_nothing(settings: Settings) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = Machine::now();
    let field = Field::lay(&PEERS, settings, |text| eprintln!("{text}")).unwrap();
    let names: BTreeSet<_> = field.peers().iter().map(Laid::name).collect();
    assert_eq!(names, PEERS.map(Peer::name).into(), "each by its own name");
    let folder = field.means().run.folder().to_owned();
    for laid in field.peers() {
        for nodes in Nodes::BOTH {
            match laid.absent(nodes) {
                Some(why) => {
                    eprintln!("skipped: {} on {nodes:?}: {why}", laid.name());
                    // What is installed works.
                    assert!(why.contains("is not installed"), "{}: {why}", laid.name());
                }
                None => {
                    eprintln!("{} on {nodes:?}", laid.name());
                    carries_everything(&laid.wake(nodes).unwrap(), field.means());
                }
            }
        }
    }
    let working = processes_in(&folder);
    assert!(!working.is_empty());
    let files: BTreeSet<_> = working
        .iter()
        .flat_map(|process| files_of(process))
        .collect();
    assert!(!files.is_empty());
    field.down().unwrap();
    assert_eq!(processes_in(&folder), Vec::<PathBuf>::new());
    let left: Vec<_> = files
        .iter()
        .filter(|file| Path::new(file).exists())
        .collect();
    assert_eq!(left, Vec::<&String>::new());
    assert!(!folder.exists());
    assert_eq!(Machine::now(), before);
}

#[test]
fn every_peer_carries_everything_and_leaves_nothing() {
    lays_and_leaves_nothing(Settings::default());
}

#[test]
fn so_does_each_without_offloads_on_cores_of_its_own_and_polling() {
    lays_and_leaves_nothing(Settings {
        offloads: Offloads::Off,
        idle: Idle::Spin,
        cores: Cores::Apart,
        ..Settings::default()
    });
}
