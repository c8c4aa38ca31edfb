//! The demo as a newcomer runs it, through both uplinks, and its ways to end.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use journeys::deadline::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// One demo at a time: they measure, and two cores are few.
fn alone() -> MutexGuard<'static, ()> {
    static SERIAL: Mutex<()> = Mutex::new(());
    SERIAL.lock().unwrap_or_else(PoisonError::into_inner)
}

fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.stdin(Stdio::null());
    command
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        text.lines().count(),
        1,
        "one object on standard output, not {text:?}; {told}"
    );
    serde_json::from_str(&text).unwrap()
}

fn holds(uplink: &str) {
    let output = demo()
        .args(["--json", "--uplink", uplink])
        .output()
        .unwrap();
    let report = json(&output);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && report["ok"] == true, "{told}");
    assert_eq!(report["requests"], 300);
    assert_eq!(report["failures"], 0);
    let shares = report["per_instance"].as_object().unwrap();
    assert!(
        shares.len() == 3 && shares.values().all(|share| share == 100),
        "{report}"
    );
    for key in ["tcp_mbit_s", "udp_pps"] {
        assert!(report[key].as_u64().unwrap() > 0, "{report}");
    }
    assert!(report["rtt_us"]["p50"].as_u64() <= report["rtt_us"]["p99"].as_u64());
    let steps = report["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["ok"] == true), "{report}");
    let total: u64 = steps.iter().map(|step| step["ms"].as_u64().unwrap()).sum();
    assert!(total < 60_000, "the demo took {total} ms: {report}");
}

#[test]
fn it_holds_over_udp_sockets_and_right_after_over_af_packet() {
    let _alone = alone();
    holds("socket");
    holds("af_packet");
}

/// Processes whose command line carries the demo's id.
fn processes_of(pid: u32) -> Vec<(u32, String)> {
    let prefix = format!("oakrun-{pid}-");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let number = entry.file_name().to_string_lossy().parse();
        if let (true, Ok(number)) = (command.contains(&prefix), number) {
            found.push((number, command.replace('\0', " ")));
        }
    }
    found
}

/// Namespaces, run folders and processes that carry the demo's id.
fn left_of(pid: u32) -> Vec<String> {
    let prefix = format!("oakrun-{pid}-");
    let mut left: Vec<_> = processes_of(pid)
        .into_iter()
        .map(|(_, command)| command)
        .collect();
    for place in ["/run/netns", "/tmp"] {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&prefix) {
                left.push(format!("{place}/{name}"));
            }
        }
    }
    left
}

/// What DPDK and the shared tables hold for the demo outside its folder.
fn shared_files_of(pid: u32) -> Vec<String> {
    processes_of(pid)
        .into_iter()
        .flat_map(|(number, _)| journeys::run::files_of(number))
        .collect()
}

fn assert_gone(files: &[String]) {
    assert!(
        !files.is_empty(),
        "the demo held no shared files, so this shows nothing"
    );
    let left: Vec<_> = files
        .iter()
        .filter(|file| Path::new(file).exists())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Starts the demo and answers once it has said `line`.
fn start_until(line: &str) -> std::process::Child {
    let mut child = demo()
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|said| said.unwrap().trim() == line),
        "the demo never said {line:?}"
    );
    // Keeps reading, so that the demo may go on speaking.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

#[test]
fn ctrl_c_leaves_nothing() {
    let _alone = alone();
    let mut child = start_until("traffic");
    let pid = child.id();
    assert!(!left_of(pid).is_empty());
    let shared = shared_files_of(pid);
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success());
    assert_eq!(left_of(pid), Vec::<String>::new());
    assert_gone(&shared);
}

#[test]
fn what_a_killed_demo_leaves_goes_at_the_next_start() {
    let _alone = alone();
    let mut child = start_until("traffic");
    let pid = child.id();
    let shared = shared_files_of(pid);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!left_of(pid).is_empty());
    let mut next = start_until("bring up");
    wait_until("the sweep", Duration::from_secs(20), || {
        left_of(pid).is_empty()
    })
    .unwrap();
    kill(Pid::from_raw(next.id().cast_signed()), Signal::SIGTERM).unwrap();
    next.wait().unwrap();
    assert_gone(&shared);
}

#[test]
fn without_root_rights_it_says_so() {
    let _alone = alone();
    // A path that a stranger may read and run.
    let folder = Path::new("/tmp").join(format!("oak-demo-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let target = Path::new(env!("CARGO_BIN_EXE_demo")).parent().unwrap();
    for name in [
        "demo",
        "workload",
        "NetManager",
        "root-service-manager",
        "cluster-service-manager",
    ] {
        std::fs::copy(target.join(name), folder.join(name)).unwrap();
    }
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(folder.join("demo"))
        .output()
        .unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(told.contains("root rights"), "{told}");
}
