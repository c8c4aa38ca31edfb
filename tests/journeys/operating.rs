//! Operating a node: settings that change while it runs, its log, its interface on TCP, and what `top` and `doctor` see
//! of a node that works.
#![allow(clippy::unwrap_used, clippy::panic)] // In a test they are assertions, in its own functions too.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use journeys::deadline::wait_until;
use journeys::measure::Observer;
use journeys::node::{Node, Uplink};
use journeys::process::Launch;
use journeys::run::Stage;
use journeys::topology::{Plan, Topology};
use nix::sys::signal::Signal;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

/// Where the run has a node's standard error go.
fn log_of(node: &Node) -> PathBuf {
    let folder = node.folder().parent().unwrap().join("logs");
    fs::create_dir_all(&folder).unwrap();
    folder.join(format!("{}.log", node.id))
}

/// A command that needs no more than the socket.
fn manager(topology: &Topology, arguments: &[&str]) -> (bool, String, String) {
    let node = &topology.nodes[0];
    let log = log_of(node).to_string_lossy().into_owned();
    let output = Command::new(topology.programs.path("NetManager"))
        .args(node.flags())
        .args(["--log", &log])
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.success(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn fields(report: &str, list: &str) -> Vec<String> {
    let report: Value = serde_json::from_str(report).unwrap();
    let list = report[list].as_array().unwrap().iter();
    list.map(|field| field.as_str().unwrap().to_owned())
        .collect()
}

fn log_says(node: &Node, words: &str) -> bool {
    fs::read_to_string(log_of(node)).is_ok_and(|log| log.contains(words))
}

/// The longest that the kernel lets an idle core take to wake, in µs.
fn wake_up_limit() -> Option<i32> {
    let limit = fs::read("/dev/cpu_dma_latency").ok()?;
    Some(i32::from_ne_bytes(limit.try_into().ok()?))
}

#[test]
fn settings_and_the_log_change_without_a_restart() {
    let limit_before = wake_up_limit();
    let filler = "2026-01-01T00:00:00.000000Z  INFO before: a line of an earlier run\n";
    let mut topology = Topology::registered_with(
        Plan {
            nodes: 1,
            uplink: Uplink::Socket,
        },
        |nodes| {
            let log = log_of(&nodes[0]);
            // A full megabyte: whatever comes first is the last in it.
            fs::write(&log, filler.repeat((1 << 20) / filler.len() + 1))?;
            nodes[0].set_env("NETMANAGER_LOG", &log.to_string_lossy());
            nodes[0].configure(|settings| {
                settings["LogMaxMb"] = 1.into();
                settings["LogFiles"] = 2.into();
                settings["ApiListen"] = "127.0.0.1:10990".into();
                settings["ApiToken"] = "first".into();
            })
        },
    )
    .unwrap();

    // By size, by itself: the old file is kept whole, and nothing of the new run is lost.
    let log = log_of(&topology.nodes[0]);
    let older = PathBuf::from(format!("{}.1", log.display()));
    wait_until("the log is rotated", PATIENCE, || {
        older.exists() && log_says(&topology.nodes[0], "the node is up")
    })
    .unwrap();
    let (old, new) = (
        fs::read_to_string(&older).unwrap(),
        fs::metadata(&log).unwrap(),
    );
    assert!(old.starts_with(filler) && old.contains("Net Manager starts"));
    assert!(new.len() < 1 << 20, "{}", new.len());
    let (_, shown, _) = manager(&topology, &["logs", "-n", "1000"]);
    assert!(shown.contains("an earlier run") && shown.contains("the node is up"));

    // By reload: what can change does, what cannot is named.
    let set = |topology: &Topology, change: &dyn Fn(&mut Value)| {
        topology.nodes[0]
            .configure(|settings| change(settings))
            .unwrap();
    };
    set(&topology, &|settings| {
        settings["Debug"] = true.into();
        settings["ApiToken"] = "second".into();
        settings["SocketGroup"] = "daemon".into();
        settings["Dataplane"] = serde_json::json!({"Flows": 4096, "CpuLatency": 7});
    });
    // In a container without the device the limit cannot be held, and that is said.
    let limited = wake_up_limit().is_some();
    let (done, report, error) = manager(&topology, &["reload", "--json"]);
    assert!(done, "{error}");
    let mut changed = fields(&report, "changed");
    assert_eq!(
        (
            changed
                .extract_if(.., |field| field == "Dataplane.CpuLatency")
                .count(),
            fields(&report, "remarks").len()
        ),
        if limited { (1, 0) } else { (0, 1) },
        "{report}"
    );
    assert!(wake_up_limit().is_none_or(|limit| limit <= 7));
    assert_eq!(changed, ["Debug", "SocketGroup", "ApiToken"]);
    assert_eq!(fields(&report, "restart"), ["Dataplane.Flows"]);
    let socket = fs::metadata(topology.nodes[0].socket()).unwrap();
    assert_eq!((socket.mode() & 0o777, socket.gid()), (0o660, 1));
    wait_until("a line that only Debug brings", PATIENCE, || {
        log_says(&topology.nodes[0], "DEBUG")
    })
    .unwrap();
    let (_, again, _) = manager(&topology, &["reload"]);
    assert!(again.contains("nothing to take over") && again.contains("Dataplane.Flows"));

    // The token on TCP is the new one.
    let namespace = topology.nodes[0].namespace.clone();
    let curl = |token: &str| {
        let header = format!("Authorization: Bearer {token}");
        let url = "http://127.0.0.1:10990/status";
        let code = [
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-H",
            &header,
            url,
        ];
        namespace.command("curl", &code).unwrap()
    };
    assert_eq!(
        (curl("first").as_str(), curl("second").as_str()),
        ("401", "200")
    );

    // A bad file changes nothing, and says all that is wrong with it.
    set(&topology, &|settings| {
        settings["Debug"] = false.into();
        settings["NodePublicPort"] = 0.into();
        settings["ClusterUrl"] = "a b".into();
    });
    let (done, _, error) = manager(&topology, &["reload"]);
    assert!(!done);
    for words in [
        "nothing has changed",
        "field NodePublicPort",
        "field ClusterUrl",
    ] {
        assert!(error.contains(words), "{words}\n{error}");
    }
    topology.nodes[0]
        .process()
        .unwrap()
        .signal(Signal::SIGHUP)
        .unwrap();
    wait_until("the signal's complaint", PATIENCE, || {
        log_says(&topology.nodes[0], "field ClusterUrl")
    })
    .unwrap();
    assert_eq!(
        (curl("first").as_str(), curl("second").as_str()),
        ("401", "200")
    );

    // Someone else's rotation, followed on SIGHUP, which takes good settings over as well.
    set(&topology, &|settings| {
        settings["NodePublicPort"] = 50103.into();
        settings["ClusterUrl"] = topology.broker.address.to_string().into();
    });
    let moved = log.with_extension("moved");
    fs::rename(&log, &moved).unwrap();
    topology.nodes[0]
        .process()
        .unwrap()
        .signal(Signal::SIGHUP)
        .unwrap();
    wait_until("a new log under the name", PATIENCE, || {
        log_says(&topology.nodes[0], "settings read again")
    })
    .unwrap();
    assert!(!fs::read_to_string(&moved).unwrap().contains("Debug\"]"));
    topology.nodes[0]
        .process()
        .unwrap()
        .check_running()
        .unwrap();
    topology.down().unwrap();
    assert_eq!(wake_up_limit(), limit_before, "a limit ends with its node");
}

#[test]
fn top_and_doctor_see_a_node_that_works() {
    let mut topology = Topology::registered(Plan {
        nodes: 2,
        uplink: Uplink::Socket,
    })
    .unwrap();
    let (web, _) = topology.deploy("op.test.web.default", &[1]).unwrap();
    let (own, client) = topology.deploy_client("op.test.client.default", 0).unwrap();
    let tables = topology.wait_running(&[(&web, 1), (&own, 1)]).unwrap();
    let service = tables[0].service_ip;
    let mut client = client.container;
    let start = |name: &str, arguments: &[&str]| {
        let node = &topology.nodes[0];
        let program = topology.programs.path("NetManager");
        Launch::new(name, &program, &node.namespace, Stage::Workload)
            .args(arguments.iter().copied())
            .args(node.flags())
            .start(topology.run())
            .unwrap()
    };
    let mut top = start("top", &["top", "--json", "--interval", "0.5"]);
    let spread = Observer {
        container: &mut client,
        run: topology.run(),
        programs: &topology.programs,
    }
    .requests(service, 50)
    .unwrap();
    assert_eq!(spread.failures, 0, "{spread:?}");
    let looks = |output: &str| -> Vec<Value> {
        let lines = output
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.collect()
    };
    let seen = |look: &Value| {
        let of = |list: &str, key: &str, wanted: &str, job: &str| {
            let mut list = look[list].as_array().unwrap().iter();
            let found = list.find(|entry| entry["job"] == job && entry[key] == wanted);
            found.cloned().unwrap_or_default()
        };
        let client = look["containers"][0].clone();
        let service = of("services", "policy", "rr", "op.test.web.default");
        let rate = |value: &Value| value.as_f64().unwrap_or(0.0) > 0.0;
        client["job"] == "op.test.client.default"
            && rate(&service["flows_per_second"])
            && rate(&client["from"]["packets_per_second"])
            && rate(&client["to"]["bits_per_second"])
            && rate(&look["roles"]["tunnel"]["sent"]["packets_per_second"])
            && rate(&look["cores"][0]["busy"])
    };
    wait_until("top has seen the requests", PATIENCE, || {
        looks(&top.output().unwrap()).iter().any(seen)
    })
    .unwrap();
    top.kill().unwrap();

    let mut doctor = start("doctor", &["doctor", "--json"]);
    doctor.wait(PATIENCE).unwrap();
    let report: Value = serde_json::from_str(&doctor.output().unwrap()).unwrap();
    let findings = report["findings"].as_array().unwrap();
    for check in [
        "daemon",
        "config",
        "registration",
        "cluster link",
        "cluster",
        "broker",
        "underlay MTU",
        "address",
        "host interface",
        "tunnel port",
        "peer",
        "firewall",
        "kernel settings",
        "workers",
    ] {
        let mut found = findings
            .iter()
            .filter(|finding| finding["check"] == check)
            .peekable();
        assert!(found.peek().is_some(), "{check}: {report:#}");
        assert!(
            found.all(|finding| finding["status"] == "ok"),
            "{check}: {report:#}"
        );
    }

    let mut status = start("status", &["status"]);
    let text = status.finish(PATIENCE).unwrap();
    for words in [
        "cluster link connected since",
        "% busy",
        "tunnel UDP 50103, host interface",
        "rate         access: in",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    let mut services = start("services", &["services", "--json"]);
    let jobs: Value = serde_json::from_str(&services.finish(PATIENCE).unwrap()).unwrap();
    let job = jobs
        .as_array()
        .unwrap()
        .iter()
        .find(|job| job["job"] == "op.test.web.default");
    let instance = &job.unwrap()["instances"][0];
    assert_eq!(instance["local"], false, "{jobs:#}");
    assert!(instance["via"].as_str().unwrap().ends_with(":50103"));
    assert!(instance["idle_seconds"].is_u64());

    // The other node is cut off: its silence is noticed.
    let other = &topology.nodes[1].namespace;
    for rule in [
        "add table inet cut",
        "add chain inet cut input { type filter hook input priority -300 ; }",
        "add rule inet cut input udp dport 50103 drop",
    ] {
        other
            .command("nft", &rule.split(' ').collect::<Vec<_>>())
            .unwrap();
    }
    let server = topology.nodes[0].server();
    wait_until("probes go unanswered", 3 * PATIENCE, || {
        let peers = server.get("/peers").unwrap().json().unwrap();
        let peers = peers.as_array().unwrap();
        peers
            .iter()
            .any(|peer| peer["unanswered_probes"].as_u64() >= Some(3))
    })
    .unwrap();

    // A rule of someone else's that stops forwarding is found where it matters.
    let inside = &topology.nodes[0].namespace;
    for rule in [
        "add table ip filter",
        "add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }",
    ] {
        inside
            .command("nft", &rule.split(' ').collect::<Vec<_>>())
            .unwrap();
    }
    let mut doctor = start("doctor2", &["doctor"]);
    assert!(!doctor.wait(PATIENCE).unwrap().success());
    let text = doctor.output().unwrap();
    assert!(text.contains("unanswered"), "{text}");
    assert!(
        text.contains("FAIL  forwarding") && text.contains("-i oak0 -j ACCEPT"),
        "{text}"
    );
    topology.down().unwrap();
}
