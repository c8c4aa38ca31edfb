//! Nodes that vanish and come back, and what is theirs (contract section 3, Liveness).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test each is an assertion"
)]

mod support;

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use support::{APP, Bench, Node, announcement, count, eventually, job};

#[tokio::test]
async fn a_node_whose_will_is_published_is_withdrawn_and_comes_back() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    let (watcher, third) = (bench.node("n2").await, bench.node("n3").await);
    watcher.status(true).await;
    third.status(true).await;
    let node = bench.node("n1").await;
    node.status(true).await;
    node.deployed(APP, 0, 2).await;
    watcher
        .sees("the instance", APP, |answer| count(answer) == 1)
        .await;
    drop(node);
    watcher
        .sees("withdrawn", APP, |answer| count(answer) == 0)
        .await;
    bench
        .root
        .reported(|instances| instances[0]["status"] == "UNDEPLOYED")
        .await;
    let node = bench.node("n1").await;
    node.status(true).await;
    node.deployed(APP, 0, 2).await;
    watcher.sees("back", APP, |answer| count(answer) == 1).await;
}

#[tokio::test]
async fn a_silent_node_comes_back_with_its_instances() {
    let bench = Bench::with(job(APP, 3, 2)).await;
    let silent = Node::join("silent", bench.broker_port, false).await;
    let watcher = bench.node("n2").await;
    for node in [&watcher, &bench.node("n3").await] {
        node.status(true).await;
    }
    silent.deployed(APP, 0, 2).await;
    silent.deployed(APP, 1, 3).await;
    silent.send("information", &json!({"cpu": 1})).await;
    watcher.sees("both", APP, |answer| count(answer) == 2).await;
    watcher
        .sees("withdrawn", APP, |answer| count(answer) == 0)
        .await;
    // One of them ended meanwhile.
    silent
        .send("net/service/undeployed", &announcement(APP, 1, 3))
        .await;
    watcher.forget();
    bench.root.with(|root| root.calls.clear());
    silent.send("information", &json!({"cpu": 1})).await;
    let answer = watcher
        .sees("the other is back", APP, |answer| count(answer) == 1)
        .await;
    assert_eq!(answer["instance_list"][0]["instance_number"], 0);
    bench
        .root
        .reported(|instances| instances[0]["namespace_ip"] == "10.18.0.2")
        .await;
}

#[tokio::test]
async fn a_node_engine_does_not_speak_for_a_net_manager_that_is_gone() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    let (watcher, third) = (bench.node("n2").await, bench.node("n3").await);
    watcher.status(true).await;
    third.status(true).await;
    let node = bench.node("n1").await;
    node.status(true).await;
    node.deployed(APP, 0, 2).await;
    watcher
        .sees("the instance", APP, |answer| count(answer) == 1)
        .await;
    drop(node);
    let engine = Node::join_as(
        "n1-ne",
        "n1",
        bench.broker_port,
        false,
        rumqttc::Transport::Tcp,
    )
    .await;
    engine.send("information", &json!({"cpu": 1})).await;
    watcher
        .sees("withdrawn", APP, |answer| count(answer) == 0)
        .await;
    for _ in 0..5 {
        engine.send("information", &json!({"cpu": 1})).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(count(&watcher.query(APP, "").await), 0);
    }
    assert_eq!(bench.metric("nodes_withdrawn_total").await, 1);
    // It comes back by its own word, with what it ran.
    let node = bench.node("n1").await;
    node.status(true).await;
    watcher.sees("back", APP, |answer| count(answer) == 1).await;
}

#[tokio::test]
async fn a_node_may_announce_only_addresses_of_its_own_subnetworks() {
    let bench = Bench::with(job(APP, 3, 2)).await;
    let (one, two) = (bench.node("n1").await, bench.node("n2").await);
    for (node, address) in [(&one, "10.18.0.0"), (&two, "10.18.0.64")] {
        node.send("net/subnet", &json!({"METHOD": "GET"})).await;
        let given = node.receives("net/subnetwork/result").await;
        assert_eq!(given["address"], address);
    }
    one.deployed(APP, 0, 2).await;
    one.sees("its own", APP, |answer| count(answer) == 1).await;
    // The neighbour's, in either family, and one that nobody has.
    two.deployed(APP, 1, 3).await;
    let mut mixed = announcement(APP, 1, 70);
    two.send("net/service/deployed", &mixed).await;
    mixed["nsip"] = json!("10.18.9.2");
    mixed["nsipv6"] = json!("");
    two.send("net/service/deployed", &mixed).await;
    // Without a subnetwork of its own, none of another's either.
    let three = bench.node("n3").await;
    three.deployed(APP, 1, 4).await;
    mixed["nsip"] = json!("10.30.3.1");
    three.send("net/service/deployed", &mixed).await;
    eventually("each is refused", async || {
        let refused = bench.metric("mqtt_foreign_total").await;
        (refused == 4 && bench.metric("mqtt_malformed_total").await == 1).then_some(())
    })
    .await;
    assert_eq!(count(&two.query(APP, "").await), 1);
    mixed["nsip"] = json!("10.18.0.66");
    mixed["nsipv6"] = json!("fc00::102");
    two.send("net/service/deployed", &mixed).await;
    two.sees("its own", APP, |answer| count(answer) == 2).await;
}

#[tokio::test]
async fn a_node_from_before_this_store_keeps_its_subnetworks() {
    let bench = Bench::with(job(APP, 3, 2)).await;
    let node = bench.node("n1").await;
    node.send(
        "net/subnet",
        &json!({"METHOD": "GET", "have": ["10.20.0.64"]}),
    )
    .await;
    let further = node.receives("net/subnetwork/result").await;
    assert_eq!(further["address"], "10.18.0.0");
    let mut held = announcement(APP, 0, 2);
    held["nsip"] = json!("10.20.0.70");
    held["nsipv6"] = json!("");
    node.send("net/service/deployed", &held).await;
    node.deployed(APP, 1, 2).await;
    node.sees("in both", APP, |answer| count(answer) == 2).await;
    let other = bench.node("n2").await;
    other
        .send(
            "net/subnet",
            &json!({"METHOD": "GET", "have": ["10.20.0.64"]}),
        )
        .await;
    assert_eq!(
        other.receives("net/subnetwork/result").await["address"],
        "10.18.0.64"
    );
    held["instance_number"] = json!(1);
    other.send("net/service/deployed", &held).await;
    eventually("it is the first one's", async || {
        (bench.metric("mqtt_foreign_total").await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_goes_for_good_gives_its_host_instance_back() {
    let bench = Bench::start().await;
    let node = bench.node("n1").await;
    node.send("net/subnet", &json!({"METHOD": "GET"})).await;
    node.receives("net/subnetwork/result").await;
    node.send("net/host/request", &json!({})).await;
    let host = node.receives("net/host/result").await;
    let name = host["app_name"].as_str().unwrap();
    let mut kept = job(name, 7, 1);
    kept["_id"] = json!("abababababababababababab");
    bench.root.set(kept);
    // The root's answer is kept by a task of its own.
    eventually("the answer is kept", async || {
        let key = "{oak:cluster:c1}:host:n1";
        let output = Command::new("redis-cli")
            .args(["-p", &bench.redis_port.to_string(), "GET", key])
            .output()
            .unwrap();
        (output.stdout.len() > 4).then_some(())
    })
    .await;
    node.send("net/subnet", &json!({"METHOD": "DELETE"})).await;
    bench
        .root
        .called("DELETE", "/api/net/subnet/10.18.0.0")
        .await;
    bench
        .root
        .called("DELETE", "/api/net/abababababababababababab/-1")
        .await;
    bench
        .root
        .called("DELETE", "/api/net/service/abababababababababababab")
        .await;
}

#[tokio::test]
async fn a_node_that_stays_away_gives_its_subnetwork_back() {
    let mut bench = Bench::prepare().await;
    bench.set("NODE_FORGET_SECONDS", "2");
    bench.manager();
    bench.ready().await;
    let others = (bench.node("n2").await, bench.node("n3").await);
    others.0.status(true).await;
    others.1.status(true).await;
    let node = bench.node("n1").await;
    node.status(true).await;
    node.send("net/subnet", &json!({"METHOD": "GET"})).await;
    node.receives("net/subnetwork/result").await;
    drop(node);
    bench
        .root
        .called("DELETE", "/api/net/subnet/10.18.0.0")
        .await;
    assert_eq!(bench.metric("nodes_withdrawn_total").await, 1);
}

#[tokio::test]
async fn a_node_without_status_expires_by_silence_and_one_without_signs_never() {
    let bench = Bench::with(job(APP, 3, 2)).await;
    let quiet = Node::join("quiet", bench.broker_port, false).await;
    let silent = Node::join("silent", bench.broker_port, false).await;
    let lively = Node::join("lively", bench.broker_port, false).await;
    quiet.deployed(APP, 0, 2).await;
    silent.deployed(APP, 1, 3).await;
    silent.send("information", &json!({"cpu": 1})).await;
    lively.send("information", &json!({"cpu": 1})).await;
    lively.sees("both", APP, |answer| count(answer) == 2).await;
    let answer = eventually("the silent one is withdrawn", async || {
        lively.send("information", &json!({"cpu": 1})).await;
        let answer = lively.query(APP, "").await;
        (count(&answer) == 1).then_some(answer)
    })
    .await;
    assert_eq!(answer["instance_list"][0]["instance_number"], 0);
}

#[tokio::test]
async fn when_most_nodes_vanish_at_once_none_is_withdrawn() {
    let bench = Bench::with(job(APP, 3, 2)).await;
    let watcher = bench.node("n3").await;
    watcher.status(true).await;
    let (one, two) = (bench.node("n1").await, bench.node("n2").await);
    for (node, number) in [(&one, 0), (&two, 1)] {
        node.status(true).await;
        node.deployed(APP, number, 2 + number).await;
    }
    watcher.sees("both", APP, |answer| count(answer) == 2).await;
    drop((one, two));
    eventually("the alarm", async || {
        (bench.metric("mass_vanish_alarm").await == 1).then_some(())
    })
    .await;
    assert_eq!(bench.metric("nodes_withdrawn_total").await, 0);
    assert_eq!(count(&watcher.query(APP, "").await), 2);
}

#[tokio::test]
async fn nodes_that_only_ask_count_when_it_is_judged_how_many_vanished() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    let (two, three) = (
        Node::join("n2", bench.broker_port, false).await,
        Node::join("n3", bench.broker_port, false).await,
    );
    let node = bench.node("n1").await;
    node.status(true).await;
    node.deployed(APP, 0, 2).await;
    for asking in [&two, &three] {
        asking
            .sees("the instance", APP, |answer| count(answer) == 1)
            .await;
    }
    drop(node);
    two.sees("withdrawn", APP, |answer| count(answer) == 0)
        .await;
    assert_eq!(bench.metric("nodes_withdrawn_total").await, 1);
}

/// The will of a node that dies while the broker is down is never published.
#[tokio::test]
async fn a_node_that_dies_with_the_broker_is_withdrawn() {
    let mut bench = Bench::with(job(APP, 3, 2)).await;
    let mut others = Vec::new();
    for number in 2..5 {
        others.push(bench.node(&format!("n{number}")).await);
    }
    let node = bench.node("n1").await;
    for node in others.iter().chain([&node]) {
        node.status(true).await;
    }
    node.deployed(APP, 0, 2).await;
    others[0].deployed(APP, 1, 3).await;
    others[1]
        .sees("both", APP, |answer| count(answer) == 2)
        .await;
    bench.broker.as_mut().unwrap().kill();
    drop(node);
    bench.broker = Some(support::mosquitto(bench.broker_port, bench.folder.path()));
    bench.ready().await;
    // The others do as the contract says: when they connect, and every minute.
    let answer = eventually("the dead one is withdrawn", async || {
        others[0].status(true).await;
        others[0].deployed(APP, 1, 3).await;
        let answer = others[1].query(APP, "").await;
        (count(&answer) == 1).then_some(answer)
    })
    .await;
    assert_eq!(answer["instance_list"][0]["instance_number"], 1);
    let node = bench.node("n1").await;
    node.status(true).await;
    others[1]
        .sees("it is back", APP, |answer| count(answer) == 2)
        .await;
}
