//! The program itself on real ports: rings, captures that were tampered with, and veth pairs in namespaces of their own.

// A test's own functions are tests too: clippy exempts only the marked ones.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etherparse::{SlicedPacket, TransportSlice};
use serde_json::Value;

const PKTGEN: &str = env!("CARGO_BIN_EXE_pktgen");
const NOWHERE: [&str; 2] = ["--gateway-mac", "02:00:00:00:00:09"];

/// Each run keeps a CPU busy: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn profile(name: &str) -> String {
    format!("{}/../profiles/{name}.toml", env!("CARGO_MANIFEST_DIR"))
}

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn pktgen(arguments: &[&str]) -> Output {
    Command::new(PKTGEN)
        .args(arguments)
        .args(["--no-huge"])
        .output()
        .expect("it runs")
}

fn number(value: &Value, path: &str) -> u64 {
    value
        .pointer(path)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("{path} in {value}"))
}

fn sum(report: &Value, what: &str) -> u64 {
    let services = report["services"].as_array().expect("services");
    services
        .iter()
        .map(|service| service[what].as_u64().expect("a count"))
        .sum()
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("pktgen-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

/// The frames of a capture as net_pcap writes it, with their records' headers.
fn records(capture: &[u8]) -> Vec<&[u8]> {
    let mut rest = &capture[24..];
    let mut records = Vec::new();
    while rest.len() >= 16 {
        let len = u32::from_ne_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
        let (record, after) = rest.split_at(16 + len);
        records.push(record);
        rest = after;
    }
    records
}

fn capture(dir: &Path, arguments: &[&str]) -> (Value, Vec<u8>) {
    let path = dir.join("sent.pcap");
    let tx = format!("net_pcap0,tx_pcap={}", path.display());
    let mut all = vec!["run"];
    all.extend(arguments);
    all.extend(["--tx", &tx, "--json"]);
    all.extend(NOWHERE);
    let report = json(&pktgen(&all));
    (report, std::fs::read(path).expect("a capture"))
}

#[test]
fn what_goes_round_a_ring_is_counted_to_the_packet() {
    let _alone = alone();
    let run = profile("zipf-services");
    let mut arguments = vec![
        "run",
        &run,
        "--tx",
        "net_ring0",
        "--reflect",
        "--json",
        "--verify",
    ];
    arguments.extend(["--duration", "1", "--rate", "50kpps", "--size", "imix"]);
    arguments.extend(NOWHERE);
    let report = json(&pktgen(&arguments));
    let sent = number(&report, "/sent/packets");
    assert!(sent > 1000 && sent <= 50_600, "{report}");
    assert!(number(&report, "/sent/warm_up") > 0);
    assert_eq!(number(&report, "/received/received"), sent);
    for nothing in [
        "/lost/packets",
        "/received/reordered",
        "/received/duplicates",
        "/received/corrupt",
    ] {
        assert_eq!(number(&report, nothing), 0, "{nothing}: {report}");
    }
    assert_eq!(
        (sum(&report, "sent"), sum(&report, "received")),
        (sent, sent)
    );
    let services = report["services"].as_array().expect("services");
    assert_eq!(services.len(), 1000);
    let first = services[0]["sent"].as_u64().expect("a count");
    assert!(
        first * 1000 > 5 * sent,
        "Zipf's first has its share: {first} of {sent}"
    );
    let latency = &report["received"]["latency_us"];
    let at = |name: &str| latency[name].as_f64().expect("a latency");
    assert!(at("p50") <= at("p90") && at("p90") <= at("p99"));
    assert!(at("p99") <= at("p99.9") && at("p99.9") <= at("max") * 1.01);
}

#[test]
fn tampering_with_a_capture_is_counted_exactly() {
    let _alone = alone();
    let dir = folder("tamper");
    let udp = profile("udp64");
    let common = [
        udp.as_str(),
        "--flows",
        "4",
        "--warm-up",
        "0",
        "--duration",
        "0.2",
        "--rate",
        "20kpps",
    ];
    let (report, capture) = capture(&dir, &common);
    let sent = number(&report, "/sent/packets");
    let frames = records(&capture);
    assert_eq!(frames.len() as u64, sent);
    assert!(sent > 200, "{report}");
    // Of four flows in turn: numbers 40 and 44 of the capture change places, 50 is lost, 60 comes twice, 70 changes a
    // bit, and something else comes along.
    let mut changed = frames.clone();
    changed.swap(40, 44);
    let mut bad = frames[70].to_vec();
    *bad.last_mut().expect("not empty") ^= 1;
    changed[70] = &bad;
    let mut other = frames[80].to_vec();
    other[16 + 42..].fill(0);
    changed.insert(61, frames[60]);
    changed.push(&other);
    changed.remove(50);
    let path = dir.join("changed.pcap");
    let mut bytes = capture[..24].to_vec();
    bytes.extend(changed.concat());
    std::fs::write(&path, bytes).expect("written");
    let rx = format!("net_pcap0,rx_pcap={}", path.display());
    let mut arguments = vec!["sink"];
    arguments.extend(common);
    arguments.extend(["--rx", &rx, "--json", "--verify", "--duration", "2"]);
    let got = json(&pktgen(&arguments));
    // The changed bit is in the stamp's time: then it is not ours at all.
    let received = number(&got, "/received/received");
    assert_eq!(received, sent - 2, "one lost, one changed: {got}");
    assert_eq!(number(&got, "/received/reordered"), 1, "{got}");
    assert_eq!(number(&got, "/received/duplicates"), 1, "{got}");
    assert_eq!(number(&got, "/received/gaps"), 2, "{got}");
    assert_eq!(
        number(&got, "/received/foreign") + number(&got, "/received/corrupt"),
        2,
        "{got}"
    );
    std::fs::remove_dir_all(dir).expect("removed");
}

#[test]
fn a_changed_payload_is_corrupt_where_that_is_checked() {
    let _alone = alone();
    let dir = folder("corrupt");
    let udp = profile("udp64");
    let common = [
        udp.as_str(),
        "--size",
        "200",
        "--warm-up",
        "0",
        "--duration",
        "0.1",
        "--rate",
        "10kpps",
    ];
    let (_, capture) = capture(&dir, &common);
    let frames = records(&capture);
    let mut bad = frames[10].to_vec();
    *bad.last_mut().expect("not empty") ^= 1;
    let mut changed = frames.clone();
    changed[10] = &bad;
    let path = dir.join("changed.pcap");
    let mut bytes = capture[..24].to_vec();
    bytes.extend(changed.concat());
    std::fs::write(&path, bytes).expect("written");
    let rx = format!("net_pcap0,rx_pcap={}", path.display());
    let mut arguments = vec!["sink"];
    arguments.extend(common);
    arguments.extend(["--rx", &rx, "--json", "--duration", "2"]);
    let trusting = json(&pktgen(&arguments));
    arguments.push("--verify");
    let checking = json(&pktgen(&arguments));
    let all = frames.len() as u64;
    assert_eq!(
        (
            number(&trusting, "/received/received"),
            number(&trusting, "/received/corrupt")
        ),
        (all, 0)
    );
    assert_eq!(
        (
            number(&checking, "/received/received"),
            number(&checking, "/received/corrupt")
        ),
        (all - 1, 1)
    );
    std::fs::remove_dir_all(dir).expect("removed");
}

#[test]
fn a_syn_flood_read_back_is_syns_of_many_flows() {
    let _alone = alone();
    let dir = folder("syn");
    let flood = profile("syn-flood");
    let (report, capture) = capture(&dir, &[&flood, "--duration", "0.2", "--rate", "20kpps"]);
    let frames = records(&capture);
    assert_eq!(frames.len() as u64, number(&report, "/sent/packets"));
    assert!(frames.len() > 200);
    let mut sources = HashSet::new();
    for record in &frames {
        let packet = SlicedPacket::from_ethernet(&record[16..]).expect("a frame");
        let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else {
            panic!("no IPv4")
        };
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
            panic!("no TCP")
        };
        assert!(tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin());
        assert_eq!(tcp.destination_port(), 80);
        let header = ip.header();
        let sum = tcp.to_header().calc_checksum_ipv4_raw(
            header.source(),
            header.destination(),
            tcp.payload(),
        );
        assert_eq!(sum.expect("short"), tcp.checksum());
        assert_eq!(
            header.to_header().calc_header_checksum(),
            header.header_checksum()
        );
        sources.insert((header.source(), tcp.source_port()));
    }
    assert!(
        sources.len() * 100 > frames.len() * 98,
        "{} of {}",
        sources.len(),
        frames.len()
    );
    // And read back by a sink of the same profile, with its time stamps.
    let rx = format!("net_pcap0,rx_pcap={}", dir.join("sent.pcap").display());
    let got = json(&pktgen(&[
        "sink",
        &flood,
        "--rx",
        &rx,
        "--json",
        "--verify",
        "--duration",
        "2",
    ]));
    assert_eq!(
        number(&got, "/received/received"),
        frames.len() as u64,
        "{got}"
    );
    assert_eq!(number(&got, "/received/gaps"), 0);
    assert!(
        got["received"]["latency_us"]["p50"]
            .as_f64()
            .expect("stamped")
            > 0.0
    );
    std::fs::remove_dir_all(dir).expect("removed");
}

/// Runs a script in a network namespace of its own, which goes when it ends.
fn in_namespace(script: &str) -> Output {
    let prepared = format!("set -e\nexport PKTGEN={PKTGEN}\nip link set lo up\n{script}");
    Command::new("unshare")
        .args(["--net", "sh", "-c", &prepared])
        .output()
        .expect("unshare runs")
}

const PAIR: &str = "ip link add va type veth peer name vb\nip link set va up\nip link set vb up\n";
const PORTS: &str = "--tx net_af_packet0,iface=va --rx net_af_packet1,iface=vb,framecnt=4096,blocksz=65536 --no-huge --json";

#[test]
fn both_ends_of_a_veth_pair_over_either_family() {
    let _alone = alone();
    for (name, more) in [
        ("udp64", "--answer-arp --gateway 10.0.0.2"),
        ("v6", "--answer-arp --gateway fd00::2 --size imix"),
        ("syn-flood", ""),
        // An lcore for each end.
        ("zipf-services", "--cpus 0,0"),
    ] {
        let file = profile(name);
        let script = format!(
            "{PAIR}exec $PKTGEN run {file} {PORTS} {more} --rate 5kpps --warm-up 0.1 --duration 0.5 --verify"
        );
        let report = json(&in_namespace(&script));
        let sent = number(&report, "/sent/packets");
        assert!(sent > 100, "{name}: {report}");
        assert_eq!(
            number(&report, "/received/received"),
            sent,
            "{name}: {report}"
        );
        assert_eq!(number(&report, "/received/corrupt"), 0, "{name}: {report}");
        assert!(
            report["received"]["latency_us"]["p50"]
                .as_f64()
                .expect("stamped")
                > 0.0
        );
    }
}

/// One process is both ends of a cable between two namespaces, and of the path that a system under test would be.
#[test]
fn one_process_has_an_end_in_each_of_two_namespaces() {
    let _alone = alone();
    let file = profile("udp64");
    // Who holds the second namespace ends with the first one's shell.
    let script = format!(
        "own=$(readlink /proc/self/ns/net)\nunshare --net sleep 60 > /dev/null 2>&1 &\nother=$!\n\
         trap 'kill $other' EXIT\n\
         while [ \"$(readlink /proc/$other/ns/net)\" = \"$own\" ]; do sleep 0.01; done\n\
         ip link add va type veth peer name vb netns $other\nip link set va up\n\
         nsenter --net=/proc/$other/ns/net ip link set vb up\n\
         $PKTGEN run {file} {PORTS} --rx-netns /proc/$other/ns/net --nap 50 --rate 5kpps --warm-up 0.1 --duration 0.5\n\
         ! $PKTGEN run {file} {PORTS} --tx-netns no-such-namespace --duration 0.1"
    );
    let output = in_namespace(&script);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("/run/netns/no-such-namespace"), "{said}");
    let report = json(&output);
    let sent = number(&report, "/sent/packets");
    assert!(sent > 100, "{report}");
    assert_eq!(number(&report, "/received/received"), sent, "{report}");
}

/// A TAP device says that it finishes checksums, so that it is asked to; what comes out of it is complete.
#[test]
fn a_device_that_finishes_checksums_does() {
    let _alone = alone();
    for name in ["udp64", "v6", "syn-flood"] {
        let file = profile(name);
        let script = format!(
            "exec $PKTGEN run {file} --tx net_tap0,iface=pt0 --no-huge --json --verify --rate 3kpps --warm-up 0.1 \
             --rx net_af_packet0,iface=pt0,framecnt=4096,blocksz=65536 --duration 0.5"
        );
        let report = json(&in_namespace(&script));
        let sent = number(&report, "/sent/packets");
        assert!(sent > 50, "{name}: {report}");
        assert_eq!(
            number(&report, "/received/received"),
            sent,
            "{name}: {report}"
        );
        assert_eq!(number(&report, "/received/corrupt"), 0, "{name}: {report}");
    }
}

/// Ended, however the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[test]
fn two_processes_in_two_namespaces_agree() {
    let _alone = alone();
    let file = profile("zipf-services");
    // The sink's namespace is there when its process is; it waits for its end of the pair.
    let sink = format!(
        "while ! ip link set vb up 2> /dev/null; do sleep 0.02; done\nexec {PKTGEN} sink {file} --no-huge --json --verify \
         --rx net_af_packet0,iface=vb,framecnt=4096,blocksz=65536 --duration 30 --answer-arp --address 10.0.0.254"
    );
    let mut sink = Running(
        Command::new("unshare")
            .args(["--net", "sh", "-c", &sink])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs"),
    );
    let pid = sink.0.id();
    let own = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|theirs| theirs == own) {
        assert!(Instant::now() < deadline, "unshare has not begun");
        std::thread::sleep(Duration::from_millis(5));
    }
    // The gateway answers when the sink is there, so that the generator does not begin before.
    let script = format!(
        "ip link add va type veth peer name vb netns {pid}\nip link set va up\n\
         for n in 1 2 3 4 5 6; do $PKTGEN run {file} --no-huge --json --tx net_af_packet0,iface=va \
         --gateway 10.0.0.254 --rate 5kpps --warm-up 0.1 --duration 1 && exit 0; done; exit 1"
    );
    let report = json(&in_namespace(&script));
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid")),
        nix::sys::signal::Signal::SIGTERM,
    )
    .expect("it runs still");
    let mut text = String::new();
    std::io::Read::read_to_string(sink.0.stdout.as_mut().expect("piped"), &mut text)
        .expect("its result");
    let got: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let sent = number(&report, "/sent/packets");
    assert!(sent > 100, "{report}");
    assert_eq!(number(&got, "/received/received"), sent, "{got}");
    assert_eq!(sum(&got, "received"), sent);
    let services = |report: &Value, what: &str| -> Vec<u64> {
        report["services"]
            .as_array()
            .expect("services")
            .iter()
            .filter_map(|s| s[what].as_u64())
            .collect()
    };
    assert_eq!(
        services(&report, "sent"),
        services(&got, "received"),
        "both know which service is which"
    );
}

#[test]
fn a_search_says_what_ended_it() {
    let _alone = alone();
    let file = profile("udp64");
    let common = [
        "search",
        &file,
        "--json",
        "--trial",
        "0.1",
        "--warm-up",
        "0.01",
        "--max",
        "20000",
    ];
    let mut arguments = common.to_vec();
    arguments.extend(["--tx", "net_ring0", "--reflect"]);
    arguments.extend(NOWHERE);
    let found = json(&pktgen(&arguments));
    for outcome in found["outcomes"].as_array().expect("outcomes") {
        // On a busy machine the generator may be what ends it.
        let limit = outcome["limit"].as_str().expect("a limit");
        assert!(["maximum", "generator"].contains(&limit), "{found}");
        assert!(
            outcome["lower"]["rate"].as_f64().expect("passes") > 500.0,
            "{found}"
        );
    }
    // What goes to one device and never comes out of another.
    let mut arguments = common.to_vec();
    arguments.extend([
        "--tx",
        "net_null0",
        "--rx",
        "net_ring0",
        "--min",
        "5000",
        "--drain",
        "20",
    ]);
    arguments.extend(NOWHERE);
    let found = json(&pktgen(&arguments));
    for outcome in found["outcomes"].as_array().expect("outcomes") {
        assert_eq!(outcome["limit"], "minimum", "{found}");
        assert!(outcome["lower"].is_null());
    }
}

#[test]
fn errors_name_the_remedy() {
    let _alone = alone();
    let udp = profile("udp64");
    let zipf = profile("zipf-services");
    for (arguments, says) in [
        (
            vec!["run", &udp, "--tx", "net_af_packet0,iface=nope0"],
            "check ip link",
        ),
        (
            vec![
                "run",
                &udp,
                "--tx",
                "net_null0,copy=x",
                "--gateway-mac",
                "1",
            ],
            "02:00:00:00:00:01",
        ),
        (
            vec!["run", &zipf, "--tx", "net_ring0"],
            "--gateway or --gateway-mac",
        ),
        (
            vec!["run", &zipf, "--tx", "net_ring0", "--gateway", "fd00::1"],
            "family",
        ),
        (vec!["run", "nothing", "--tx", "net_ring0"], "perf/profiles"),
        (
            vec!["run", &udp, "--tx", "net_ring0", "--rate", "fast"],
            "200kpps",
        ),
        (
            vec!["run", &udp, "--tx", "net_ring0", "--flows", "100000"],
            "source.count",
        ),
        (vec!["search", &udp, "--tx", "net_ring0"], "--reflect"),
        (
            vec!["run", &udp, "--tx", "net_ring0", "--cpus", "4000"],
            "lscpu",
        ),
    ] {
        let output = pktgen(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(said.contains(says), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty());
    }
}
