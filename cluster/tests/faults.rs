//! What must hold when something else fails: pitfalls 37 to 43 and 57 to 60, named after what holds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test each is an assertion"
)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{APP, Bench, Mood, announcement, count, eventually, free_port, job};

#[tokio::test]
async fn malformed_messages_are_counted_and_life_goes_on() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    let node = bench.node("n1").await;
    let topics = [
        "net/subnet",
        "net/tablequery/request",
        "net/service/deployed",
        "net/service/undeployed",
        "net/service/address-changed",
        "net/interest/remove",
        "net/load",
        "net/host/request",
        "net/status",
    ];
    let payloads: [&[u8]; 5] = [b"", b"{", b"\xff\xfe", b"[1,2]", b"\"text\""];
    let mut sent = 0;
    for topic in topics {
        for payload in payloads {
            node.send_bytes(topic, payload).await;
            sent += 1;
        }
    }
    let mut bad = announcement("no-job-name", 0, 2);
    node.send("net/service/deployed", &bad).await;
    bad = announcement(APP, 0, 2);
    bad["instance_number"] = json!(-1);
    node.send("net/service/deployed", &bad).await;
    bad = announcement(APP, 0, 2);
    bad["host_port"] = json!("70000");
    node.send("net/service/deployed", &bad).await;
    assert_eq!(node.query(APP, "").await["app_name"], APP);
    eventually("all are counted", async || {
        // An empty list is read as a sequence of fields where a message has one field only.
        (bench.metric("mqtt_malformed_total").await >= sent).then_some(())
    })
    .await;
    node.send_bytes("information", b"not even json").await;
    assert_eq!(node.query(APP, "").await["app_name"], APP);
}

#[tokio::test]
async fn a_restart_changes_nothing_that_others_can_see() {
    let mut bench = Bench::with(job(APP, 3, 1)).await;
    let node = bench.node("n1").await;
    node.send("net/subnet", &json!({"METHOD": "GET"})).await;
    let subnet = node.receives("net/subnetwork/result").await;
    node.deployed(APP, 0, 2).await;
    let before = node
        .sees("the instance", APP, |answer| count(answer) == 1)
        .await;
    bench
        .root
        .called("POST", "/api/net/service/net_deploy_status")
        .await;

    bench.managers[0].kill();
    bench.root.with(|root| root.mood = Mood::Away);
    bench.manager();
    bench.ready().await;
    assert_eq!(node.query(APP, "").await, before);
    assert_eq!(
        node.query("", "10.30.3.1").await["instance_list"],
        before["instance_list"]
    );
    node.forget();
    node.send("net/subnet", &json!({"METHOD": "GET"})).await;
    assert_eq!(node.receives("net/subnetwork/result").await, subnet);
    assert!(
        bench.managers[1]
            .terminate(support::DEADLINE)
            .unwrap()
            .success()
    );
}

#[tokio::test]
async fn instances_gone_at_the_root_go_here_and_interests_stay() {
    let bench = Bench::with(job(APP, 3, 2)).await;
    let node = bench.node("n1").await;
    node.deployed(APP, 0, 2).await;
    node.deployed(APP, 1, 3).await;
    node.sees("both", APP, |answer| count(answer) == 2).await;
    eventually("both reported", async || {
        (bench
            .root
            .calls("POST", "/api/net/service/net_deploy_status")
            .len()
            >= 2)
            .then_some(())
    })
    .await;
    bench.root.with(|root| {
        let job = root.jobs.get_mut(APP).unwrap();
        job["instance_list"].as_array_mut().unwrap().remove(1);
    });
    bench.update(APP, 1, "UNDEPLOYMENT").await;
    node.sees("one", APP, |answer| count(answer) == 1).await;
    bench
        .root
        .with(|root| root.jobs.get_mut(APP).unwrap()["instance_list"] = json!([]));
    bench.update(APP, 0, "UNDEPLOYMENT").await;
    node.sees("none", APP, |answer| count(answer) == 0).await;
    assert!(bench.root.calls("DELETE", "/api/net/interest/").is_empty());
    bench.root.set(job(APP, 3, 1));
    bench.update(APP, 0, "DEPLOYMENT").await;
    node.deployed(APP, 0, 4).await;
    node.sees("one again", APP, |answer| count(answer) == 1)
        .await;
}

#[tokio::test]
async fn deployed_waits_for_its_job() {
    for reference in [false, true] {
        let bench = Bench::start().await;
        bench.root.with(|root| root.reference = reference);
        let node = bench.node("n1").await;
        node.deployed(APP, 0, 2).await;
        bench
            .root
            .called("GET", "/api/net/service/app1_test_server_test/instances")
            .await;
        assert_eq!(count(&node.query(APP, "").await), 0);
        bench.root.set(job(APP, 3, 1));
        bench.deployment(APP).await;
        node.sees("the instance", APP, |answer| count(answer) == 1)
            .await;
        bench
            .root
            .called("POST", "/api/net/service/net_deploy_status")
            .await;
    }
}

#[tokio::test]
async fn a_stuck_root_stops_nothing_that_needs_it_not() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    let node = bench.node("n1").await;
    node.deployed(APP, 0, 2).await;
    node.sees("the instance", APP, |answer| count(answer) == 1)
        .await;
    bench.root.with(|root| root.mood = Mood::Stuck);
    for number in 0..100 {
        let name = format!("other{number}.test.server.test");
        node.send("net/tablequery/request", &json!({"sname": name, "sip": ""}))
            .await;
        node.send("net/service/deployed", &announcement(&name, 0, 9))
            .await;
    }
    bench.update(APP, 0, "DEPLOYMENT").await;
    // The first waits behind all that was just sent, which takes as long as the machine takes. None waits for the root,
    // which would be seconds each.
    let mut took = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        assert_eq!(count(&node.query(APP, "").await), 1);
        took.push(start.elapsed());
    }
    took.sort_unstable();
    assert!(took[10] < Duration::from_secs(2), "{took:?}");
    bench.root.with(|root| root.mood = Mood::Well);
    bench.root.set(job("late.test.server.test", 4, 1));
    node.sees("the root again", "late.test.server.test", |answer| {
        answer["app_name"] == "late.test.server.test"
    })
    .await;
}

#[tokio::test]
async fn what_the_root_missed_is_delivered_later_even_by_another_process() {
    let mut bench = Bench::with(job(APP, 3, 1)).await;
    bench.deployment(APP).await;
    bench.root.with(|root| root.mood = Mood::Away);
    let node = bench.node("n1").await;
    node.deployed(APP, 0, 2).await;
    node.sees("the instance", APP, |answer| count(answer) == 1)
        .await;
    bench.managers[0].kill();
    bench.root.with(|root| {
        root.mood = Mood::Well;
        root.calls.clear();
    });
    bench.manager();
    let told = bench
        .root
        .called("POST", "/api/net/service/net_deploy_status")
        .await;
    assert_eq!(told.body["instances"][0]["namespace_ip"], "10.18.0.2");
}

#[tokio::test]
async fn it_starts_in_any_order_and_says_503_until_redis_is_there() {
    let mut bench = Bench::prepare().await;
    bench.redis = None;
    bench.broker = None;
    bench.root.with(|root| root.mood = Mood::Away);
    bench.manager();
    let (status, text) = eventually("HTTP answers", async || {
        let request = bench.http.post(bench.url("/api/net/deployment"));
        let answer = request.json(&json!({"job_name": APP})).send().await.ok()?;
        Some((answer.status(), answer.text().await.ok()?))
    })
    .await;
    assert_eq!(status, 503);
    assert!(text.contains("\"message\""), "{text}");
    assert_eq!(
        bench
            .http
            .get(bench.url("/healthz"))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(
        bench
            .http
            .get(bench.url("/readyz"))
            .send()
            .await
            .unwrap()
            .status(),
        503
    );

    bench.broker = Some(support::mosquitto(bench.broker_port, bench.folder.path()));
    bench.redis = Some(support::redis(bench.redis_port, bench.folder.path()));
    bench.ready().await;
    bench.root.set(job(APP, 3, 1));
    let (status, _) = bench
        .post("/api/net/deployment", &json!({"job_name": APP}))
        .await;
    assert_eq!(status, 503, "the root is away still");
    bench.root.with(|root| root.mood = Mood::Well);
    let node = bench.node("n1").await;
    node.sees("the job", APP, |answer| answer["app_name"] == APP)
        .await;
}

#[tokio::test]
async fn a_killed_broker_costs_only_time() {
    let mut bench = Bench::with(job(APP, 3, 1)).await;
    let node = bench.node("n1").await;
    node.deployed(APP, 0, 2).await;
    node.sees("the instance", APP, |answer| count(answer) == 1)
        .await;
    bench.broker.as_mut().unwrap().kill();
    // A change while no node can be told.
    bench.root.with(|root| {
        root.jobs.get_mut(APP).unwrap()["instance_list"][0]["weight"] = json!(9);
    });
    bench.update(APP, 0, "DEPLOYMENT").await;
    node.forget();
    bench.broker = Some(support::mosquitto(bench.broker_port, bench.folder.path()));
    let answer = node
        .sees("answers again", APP, |answer| count(answer) == 1)
        .await;
    assert_eq!(answer["instance_list"][0]["weight"], 9);
    assert!(bench.metric("mqtt_sessions_total").await >= 2);
}

#[tokio::test]
async fn a_killed_redis_loses_nothing_that_was_acknowledged() {
    let mut bench = Bench::with(job(APP, 3, 2)).await;
    let node = bench.node("n1").await;
    node.deployed(APP, 0, 2).await;
    node.sees("the instance", APP, |answer| count(answer) == 1)
        .await;
    bench.redis.as_mut().unwrap().kill();
    // Comes while nothing can be written down: it is not acknowledged, and waits.
    node.deployed(APP, 1, 3).await;
    eventually("HTTP says 503", async || {
        let answer = bench.http.get(bench.url("/readyz")).send().await.ok()?;
        (answer.status() == 503).then_some(())
    })
    .await;
    bench.redis = Some(support::redis(bench.redis_port, bench.folder.path()));
    bench.ready().await;
    node.sees("both instances", APP, |answer| count(answer) == 2)
        .await;
}

#[tokio::test]
async fn a_dead_replica_keeps_no_messages() {
    let mut bench = Bench::with(job(APP, 3, 1)).await;
    bench.manager_at(free_port());
    let node = bench.node("n1").await;
    node.deployed(APP, 0, 2).await;
    for _ in 0..20 {
        node.sees("the instance", APP, |answer| count(answer) == 1)
            .await;
    }
    bench.managers[0].kill();
    for _ in 0..20 {
        assert_eq!(count(&node.query(APP, "").await), 1);
    }
}

#[tokio::test]
async fn concurrent_nodes_never_share_a_subnetwork_across_replicas() {
    let mut bench = Bench::start().await;
    bench.manager_at(free_port());
    let mut nodes = Vec::new();
    for number in 0..24 {
        nodes.push(bench.node(&format!("n{number}")).await);
    }
    // Each asks several times: a repeated question must not cost a second one.
    for _ in 0..3 {
        for node in &nodes {
            node.send("net/subnet", &json!({"METHOD": "GET"})).await;
        }
    }
    let mut given = std::collections::BTreeSet::new();
    for node in &nodes {
        let first = node.receives("net/subnetwork/result").await;
        eventually("all three answers", async || {
            (node.received("net/subnetwork/result").len() == 3).then_some(())
        })
        .await;
        for answer in node.received("net/subnetwork/result") {
            assert_eq!(answer, first);
        }
        assert!(
            given.insert(first["address"].to_string()),
            "{first} given twice"
        );
    }
}

#[tokio::test]
async fn many_nodes_that_restart_together_are_all_answered() {
    const NODES: usize = 40;
    const JOBS: usize = 50;
    let bench = Bench::start().await;
    for number in 0..JOBS {
        let index = u32::try_from(number).unwrap();
        bench.root.set(job(&format!("a.b.s{number}.d"), index, 1));
    }
    let mut nodes = Vec::new();
    for number in 0..NODES {
        nodes.push(bench.node(&format!("n{number}")).await);
    }
    for number in 0..JOBS {
        let query = json!({"sname": format!("a.b.s{number}.d"), "sip": ""});
        for node in &nodes {
            node.send("net/tablequery/request", &query).await;
        }
    }
    // What the broker dropped is asked again, as the contract has it.
    let all = || (0..JOBS).map(|number| format!("a.b.s{number}.d"));
    let mut missing: Vec<Vec<String>> = nodes.iter().map(|_| all().collect()).collect();
    let mut asked = Instant::now();
    eventually("every question is answered", async || {
        for (node, missing) in nodes.iter().zip(&mut missing) {
            let answers = node.received("net/tablequery/result");
            missing.retain(|name| {
                !answers
                    .iter()
                    .any(|answer| answer["query_key"] == name.as_str())
            });
        }
        if asked.elapsed() > Duration::from_secs(1) {
            asked = Instant::now();
            for (node, missing) in nodes.iter().zip(&missing) {
                for name in missing {
                    let query = json!({"sname": name, "sip": ""});
                    node.send("net/tablequery/request", &query).await;
                }
            }
        }
        missing.iter().all(Vec::is_empty).then_some(())
    })
    .await;
    assert!(bench.root.calls("GET", "/api/net/service/").len() < 2 * JOBS);
}

/// A node that never says its status (a reference node) is known by its NodeEngine, and says nothing twice.
#[tokio::test]
async fn the_roots_channel_tells_at_once_and_survives_its_redis() {
    let mut bench = Bench::prepare().await;
    let root_redis = free_port();
    let folder = support::folder();
    let mut server = support::redis(root_redis, folder.path());
    bench.set("CHANGES_POLL_SECONDS", "3600");
    bench.set("CLUSTER_ID", "5f");
    bench.set("ROOT_REDIS_URL", &format!("redis://127.0.0.1:{root_redis}"));
    bench.manager();
    bench.ready().await;
    let running = |revision: u64, last: u32| {
        let mut job = job(APP, 3, 1);
        (job["epoch"], job["revision"]) = (json!("e1"), json!(revision));
        job["instance_list"][0]["namespace_ip"] = json!(format!("10.18.0.{last}"));
        job["instance_list"][0]["host_ip"] = json!("192.0.2.9");
        job["instance_list"][0]["host_port"] = json!(50103);
        job
    };
    let at = |answer: &serde_json::Value, last: u32| {
        answer["instance_list"][0]["namespace_ip"] == format!("10.18.0.{last}")
    };
    let publish = |message: serde_json::Value| {
        let output = Command::new("redis-cli")
            .args([
                "-p",
                &root_redis.to_string(),
                "PUBLISH",
                "oak:root:changes:5f",
            ])
            .arg(message.to_string())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim() == "1"
    };
    bench.root.set(running(2, 2));
    let node = bench.node("n1").await;
    node.sees("the instance", APP, |answer| at(answer, 2)).await;
    bench.root.called("GET", "/api/net/changes").await;

    bench.root.set(running(3, 3));
    eventually("a subscriber", async || {
        publish(
            json!({"epoch": "e1", "prev": 1, "revision": 3, "job_name": APP,
            "instance_number": 0, "type": "DEPLOYMENT"}),
        )
        .then_some(())
    })
    .await;
    assert_eq!(
        node.receives("updates_available").await,
        json!({"type": "DEPLOYMENT"})
    );
    node.sees("the change", APP, |answer| at(answer, 3)).await;

    // A change is missed while that server is dead; the new subscription finds it.
    server.kill();
    bench.root.set(running(4, 4));
    bench
        .root
        .with(|root| (root.revision, root.changes) = (4, vec![APP.into()]));
    server = support::redis(root_redis, folder.path());
    node.sees("what was missed", APP, |answer| at(answer, 4))
        .await;

    // A heartbeat that names a higher revision shows a gap.
    bench.root.set(running(5, 5));
    bench.root.with(|root| root.revision = 5);
    eventually("a subscriber", async || {
        publish(json!({"epoch": "e1", "revision": 5})).then_some(())
    })
    .await;
    node.sees("the gap is closed", APP, |answer| at(answer, 5))
        .await;
    drop(server);
}

#[tokio::test]
async fn a_root_that_lost_its_store_is_told_again() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    let node = bench.node("n1").await;
    node.send("net/subnet", &json!({"METHOD": "GET"})).await;
    node.receives("net/subnetwork/result").await;
    node.deployed(APP, 0, 2).await;
    bench
        .root
        .called("POST", "/api/net/service/net_deploy_status")
        .await;
    node.sees("the instance", APP, |answer| count(answer) == 1)
        .await;
    bench.root.with(|root| {
        root.calls.clear();
        root.epoch = "e2".into();
        root.next_subnet = 0;
        root.jobs.insert(APP.into(), job(APP, 3, 1));
    });
    bench
        .root
        .called("POST", "/api/net/service/net_deploy_status")
        .await;
    node.sees("the instance", APP, |answer| count(answer) == 1)
        .await;
    // It hands out again what a node owns: never two owners.
    let other = bench.node("n2").await;
    other.send("net/subnet", &json!({"METHOD": "GET"})).await;
    let given = other.receives("net/subnetwork/result").await;
    assert_eq!(given["address"], "10.18.0.64");
}

#[tokio::test]
async fn settings_are_shown_and_refused_with_a_reason() {
    let binary = env!("CARGO_BIN_EXE_cluster-service-manager");
    let version = Command::new(binary).arg("--version").output().unwrap();
    assert!(
        String::from_utf8(version.stdout)
            .unwrap()
            .contains(env!("CARGO_PKG_VERSION"))
    );
    let help = Command::new(binary).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for name in [
        "MY_PORT",
        "CLUSTER_NAME",
        "MQTT_BROKER_PORT",
        "ROOT_REDIS_URL",
        "MQTT_CERT",
    ] {
        assert!(help.contains(name), "{name}");
    }
    let bad = Command::new(binary)
        .args(["--redis-url", "http://x"])
        .output()
        .unwrap();
    assert!(!bad.status.success());
    assert!(String::from_utf8(bad.stderr).unwrap().contains("REDIS_URL"));
}
