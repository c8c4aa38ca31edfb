//! The contract's section 3, row by row, against the real binary, Redis and broker.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test each is an assertion"
)]

mod support;

use serde_json::json;
use support::{APP, Bench, announcement, cli, count, eventually, job};

#[tokio::test]
async fn a_deployment_is_pulled_from_the_root_and_answered_by_name_and_address() {
    let bench = Bench::with(job(APP, 3, 2)).await;
    bench.deployment(APP).await;
    let asked = bench
        .root
        .called("GET", "/api/net/service/app1_test_server_test/instances")
        .await;
    assert!(asked.query.contains("cluster_name=c1"), "{}", asked.query);
    assert!(
        asked
            .query
            .contains(&format!("cluster_address=127.0.0.1%3A{}", bench.port))
    );

    let node = bench.node("aaaaaaaaaaaaaaaaaaaaaa01").await;
    let none = node.query(APP, "").await;
    assert_eq!(
        none,
        json!({"app_name": APP, "query_key": APP, "instance_list": []})
    );

    node.deployed(APP, 1, 2).await;
    let told = bench
        .root
        .called("POST", "/api/net/service/net_deploy_status")
        .await;
    assert_eq!(
        told.body,
        json!({"job_id": "cccccccccccccccccccccc03", "instances": [{"instance_number": 1,
            "namespace_ip": "10.18.0.2", "namespace_ip_v6": "fc00::2",
            "host_ip": "192.0.2.10", "host_port": 50103}]})
    );
    assert_eq!(
        node.receives(&format!("jobs/{APP}/updates_available"))
            .await,
        json!({"type": "DEPLOYMENT"})
    );

    for (name, address) in [
        (APP, ""),
        ("", "10.30.3.1"),
        ("", "fdff:2000:0:0:0:0:0:3"),
        ("", "10.30.3.101"),
        ("", "FDFF::3:101"),
        ("", "10.18.0.2"),
        ("", "fc00:0::0002"),
    ] {
        let answer = node.query(name, address).await;
        let key = if name.is_empty() { address } else { name };
        assert_eq!(
            answer,
            json!({"app_name": APP, "query_key": key, "instance_list": [{
                "cluster_id": "c1", "instance_number": 1,
                "instance_ip": "10.30.3.101", "instance_ip_v6": "fdff::3:101",
                "namespace_ip": "10.18.0.2", "namespace_ip_v6": "fc00::2",
                "host_ip": "192.0.2.10", "host_port": 50103,
                "service_ip": [
                    {"IpType": "RR", "Address": "10.30.3.1", "Address_v6": "fdff:2000::3"},
                    {"IpType": "instance_ip", "Address": "10.30.3.101", "Address_v6": "fdff::3:101"}]}]})
        );
    }
}

#[tokio::test]
async fn bad_requests_are_refused_with_a_reason() {
    let bench = Bench::start().await;
    for (path, body, status) in [
        ("/api/net/deployment", json!({"job_name": "a.b.c"}), 400),
        ("/api/net/deployment", json!({}), 400),
        ("/api/net/deployment", json!({"job_name": "a.b.c.d"}), 500),
        (
            "/api/net/job/update",
            json!({"job_name": APP, "instance_number": 0, "type": "DANCE"}),
            400,
        ),
        (
            "/api/net/job/update",
            json!({"job_name": APP, "instance_number": -2, "type": "DEPLOYMENT"}),
            400,
        ),
        (
            "/api/net/job/update",
            json!({"job_name": "x", "instance_number": 0, "type": "DEPLOYMENT"}),
            400,
        ),
        ("/api/net/nothing", json!({}), 404),
        ("/healthz", json!({}), 405),
    ] {
        let (got, text) = bench.post(path, &body).await;
        assert_eq!(got, status, "{path} {body}: {text}");
        let error: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    bench.root.with(|root| root.reference = true);
    let (status, _) = bench
        .post("/api/net/deployment", &json!({"job_name": "a.b.c.d"}))
        .await;
    assert_eq!(status, 500, "a reference root's {{}} is an unknown job too");
}

#[tokio::test]
async fn an_unknown_job_has_an_empty_answer_as_asked() {
    let bench = Bench::start().await;
    let node = bench.node("n1").await;
    for reference in [false, true] {
        bench.root.with(|root| root.reference = reference);
        assert_eq!(
            node.query("no.such.job.here", "").await,
            json!({"app_name": "no.such.job.here", "query_key": "no.such.job.here", "instance_list": []})
        );
        for key in ["10.30.9.9", "rubbish"] {
            assert_eq!(
                node.query("", key).await,
                json!({"app_name": "", "query_key": key, "instance_list": []})
            );
        }
    }
}

#[tokio::test]
async fn a_job_that_is_not_here_is_pulled_once_for_all_who_ask() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    let node = bench.node("n1").await;
    for _ in 0..50 {
        node.send(
            "net/tablequery/request",
            &json!({"sname": "", "sip": "10.30.3.1"}),
        )
        .await;
    }
    eventually("50 answers", async || {
        (node.received("net/tablequery/result").len() == 50).then_some(())
    })
    .await;
    for answer in node.received("net/tablequery/result") {
        assert_eq!(answer["app_name"], APP);
    }
    assert!(
        bench
            .root
            .calls("GET", "/api/net/service/ip/10_30_3_1/instances")
            .len()
            < 5
    );
}

#[tokio::test]
async fn a_node_keeps_its_subnetwork_and_gets_a_further_one_when_it_lists_all() {
    let bench = Bench::start().await;
    let node = bench.node("n1").await;
    let other = bench.node("n2").await;
    let ask = async |body: serde_json::Value| {
        node.forget();
        node.send("net/subnet", &body).await;
        node.receives("net/subnetwork/result").await
    };
    let first = ask(json!({"METHOD": "GET"})).await;
    assert_eq!(
        first,
        json!({"address": "10.18.0.0", "addressv6": "fc00::"})
    );
    other.send("net/subnet", &json!({"METHOD": "GET"})).await;
    assert_eq!(
        other.receives("net/subnetwork/result").await,
        json!({"address": "10.18.0.64", "addressv6": "fc00::100"})
    );
    assert_eq!(ask(json!({"METHOD": "GET"})).await, first);
    assert_eq!(ask(json!({"METHOD": "GET", "have": []})).await, first);
    let second = ask(json!({"METHOD": "GET", "have": ["10.18.0.0"]})).await;
    assert_eq!(second["address"], "10.18.0.128");
    assert_eq!(
        ask(json!({"METHOD": "GET", "have": ["10.18.0.0"]})).await,
        second
    );
    assert_eq!(ask(json!({"METHOD": "GET"})).await, first);

    node.send(
        "net/subnet",
        &json!({"METHOD": "DELETE", "address": "10.18.0.0"}),
    )
    .await;
    bench
        .root
        .called("DELETE", "/api/net/subnet/10.18.0.0")
        .await;
    assert_eq!(ask(json!({"METHOD": "GET"})).await, second);
    node.send("net/subnet", &json!({"METHOD": "DELETE"})).await;
    bench
        .root
        .called("DELETE", "/api/net/subnet/10.18.0.128")
        .await;
    assert_eq!(
        ask(json!({"METHOD": "GET"})).await["address"],
        "10.18.0.192"
    );
}

/// The root lost its memory: it hands out from its first again.
#[tokio::test]
async fn what_a_node_lists_is_never_answered_again() {
    let bench = Bench::start().await;
    let node = bench.node("n1").await;
    let ask = async |have: &[&str]| {
        node.forget();
        node.send("net/subnet", &json!({"METHOD": "GET", "have": have}))
            .await;
        node.receives("net/subnetwork/result").await
    };
    assert_eq!(ask(&["10.18.0.0"]).await["address"], "10.18.0.64");
    // Nor what is not noted as the node's own when the root hands it out.
    let listed = ["10.18.0.0", "10.18.0.64", "10.18.0.128"];
    assert_eq!(ask(&listed).await["address"], "10.18.0.192");
    let key = "{oak:cluster:c1}:node:subnets:n1";
    assert_eq!(
        cli(bench.redis_port, &format!("LRANGE {key} 0 -1")),
        "10.18.0.0 fc00::\n10.18.0.64 fc00::100\n10.18.0.128 fc00::200\n10.18.0.192 fc00::300"
    );
}

#[tokio::test]
async fn under_a_reference_root_given_back_subnetworks_rest_and_are_used_again() {
    let mut bench = Bench::prepare().await;
    bench.root.with(|root| root.reference = true);
    bench.set("ADDRESS_REST_SECONDS", "3");
    bench.manager();
    bench.ready().await;
    let node = bench.node("n1").await;
    let get = async || {
        node.forget();
        node.send("net/subnet", &json!({"METHOD": "GET"})).await;
        node.receives("net/subnetwork/result").await["address"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(get().await, "10.18.0.0");
    node.send("net/subnet", &json!({"METHOD": "DELETE"})).await;
    bench
        .root
        .called("DELETE", "/api/net/subnet/10.18.0.0")
        .await;
    assert_eq!(get().await, "10.18.0.64", "the first one rests");
    let mut others = 0;
    let again = eventually("the first one is used again", async || {
        others += 1;
        let other = bench.node(&format!("other{others}")).await;
        other.send("net/subnet", &json!({"METHOD": "GET"})).await;
        let got = other.receives("net/subnetwork/result").await;
        (got["address"] == "10.18.0.0").then_some(got)
    })
    .await;
    assert_eq!(again["addressv6"], "fc00::");
}

#[tokio::test]
async fn an_update_refreshes_the_copy_and_tells_the_nodes() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    bench.deployment(APP).await;
    let node = bench.node("n1").await;
    node.deployed(APP, 0, 2).await;
    node.sees("the instance", APP, |answer| count(answer) == 1)
        .await;

    // Another cluster's instance comes.
    let mut two = bench.root.with(|root| root.jobs[APP].clone());
    two["instance_list"]
        .as_array_mut()
        .unwrap()
        .push(json!({"instance_number": 1,
        "cluster_id": "c2", "instance_ip": "10.30.3.9", "instance_ip_v6": "fdff::9",
        "namespace_ip": "10.18.9.2", "namespace_ip_v6": "fc00::902",
        "host_ip": "2001:db8::9", "host_port": "50104"}));
    bench.root.set(two);
    node.forget();
    bench.update(APP, 1, "DEPLOYMENT").await;
    let update = node
        .receives(&format!("jobs/{APP}/updates_available"))
        .await;
    assert_eq!(update, json!({"type": "DEPLOYMENT"}));
    let answer = node.sees("both", APP, |answer| count(answer) == 2).await;
    assert_eq!(answer["instance_list"][1]["host_port"], 50104);

    // Everything goes.
    let mut none = job(APP, 3, 0);
    none["instance_list"] = json!([]);
    bench.root.set(none);
    node.forget();
    bench.update(APP, -1, "UNDEPLOYMENT").await;
    eventually("the nodes hear of it", async || {
        let heard = node.received(&format!("jobs/{APP}/updates_available"));
        heard
            .contains(&json!({"type": "UNDEPLOYMENT"}))
            .then_some(())
    })
    .await;
    let answer = node.sees("none", APP, |answer| count(answer) == 0).await;
    assert_eq!(answer["app_name"], APP);
}

#[tokio::test]
async fn undeployed_withdraws_the_instance_here_and_at_the_root() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    bench.deployment(APP).await;
    let node = bench.node("n1").await;
    let stranger = bench.node("n2").await;
    node.deployed(APP, 0, 2).await;
    bench
        .root
        .called("POST", "/api/net/service/net_deploy_status")
        .await;
    stranger
        .sees("the instance", APP, |answer| count(answer) == 1)
        .await;

    // Not the stranger's to withdraw, nor an earlier life's.
    stranger
        .send("net/service/undeployed", &announcement(APP, 0, 2))
        .await;
    node.send("net/service/undeployed", &announcement(APP, 0, 99))
        .await;
    assert_eq!(count(&node.query(APP, "").await), 1);
    assert_eq!(count(&stranger.query(APP, "").await), 1);

    stranger.forget();
    let mut gone = announcement(APP, 0, 2);
    gone["status"] = json!("UNDEPLOYED");
    node.send("net/service/undeployed", &gone).await;
    let update = stranger
        .receives(&format!("jobs/{APP}/updates_available"))
        .await;
    assert_eq!(update, json!({"type": "UNDEPLOYMENT"}));
    assert_eq!(count(&stranger.query(APP, "").await), 0);
    let told = bench
        .root
        .reported(|instances| instances[0]["status"] == "UNDEPLOYED")
        .await;
    assert_eq!(
        told.body["instances"][0],
        json!({"instance_number": 0, "namespace_ip": null, "namespace_ip_v6": null,
            "host_ip": null, "host_port": null, "status": "UNDEPLOYED"})
    );
}

/// A root refuses a place that is not whole.
#[tokio::test]
async fn an_instance_of_one_family_is_reported_whole() {
    let bench = Bench::with(job(APP, 3, 2)).await;
    bench.deployment(APP).await;
    let node = bench.node("n1").await;
    for (number, missing) in [(0, "nsipv6"), (1, "nsip")] {
        let mut one = announcement(APP, number, 2 + number);
        one[missing] = json!("");
        node.send("net/service/deployed", &one).await;
    }
    for expected in [
        json!({"instance_number": 0, "namespace_ip": "10.18.0.2", "namespace_ip_v6": null,
            "host_ip": "192.0.2.10", "host_port": 50103}),
        json!({"instance_number": 1, "namespace_ip": null, "namespace_ip_v6": "fc00::3",
            "host_ip": "192.0.2.10", "host_port": 50103}),
    ] {
        bench
            .root
            .reported(|instances| *instances == json!([expected]))
            .await;
    }
}

#[tokio::test]
async fn deleting_a_deployment_undeploys_and_forgets() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    bench.deployment(APP).await;
    let node = bench.node("n1").await;
    node.deployed(APP, 0, 2).await;
    node.sees("the instance", APP, |answer| count(answer) == 1)
        .await;
    bench
        .root
        .called("POST", "/api/net/service/net_deploy_status")
        .await;
    node.forget();
    let path = bench.url(&format!("/api/net/deployment/{APP}"));
    for _ in 0..2 {
        assert_eq!(bench.http.delete(&path).send().await.unwrap().status(), 200);
    }
    bench
        .root
        .reported(|instances| instances[0]["status"] == "UNDEPLOYED")
        .await;
    bench
        .root
        .called("DELETE", &format!("/api/net/interest/{APP}"))
        .await;
    let update = node
        .receives(&format!("jobs/{APP}/updates_available"))
        .await;
    assert_eq!(update, json!({"type": "UNDEPLOYMENT"}));
    node.sees("no instance", APP, |answer| count(answer) == 0)
        .await;
    let bad = bench
        .http
        .delete(bench.url("/api/net/deployment/x"))
        .send()
        .await
        .unwrap();
    assert_eq!(bad.status(), 400);
}

#[tokio::test]
async fn the_last_interest_that_goes_is_taken_back_at_the_root() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    let (one, two) = (bench.node("n1").await, bench.node("n2").await);
    one.query(APP, "").await;
    two.query("", "10.30.3.1").await;
    one.send("net/interest/remove", &json!({"appname": APP}))
        .await;
    // A reference node also takes back addresses: no job's interest changes by that.
    two.send("net/interest/remove", &json!({"appname": "10.30.3.1"}))
        .await;
    two.query(APP, "").await;
    assert!(bench.root.calls("DELETE", "/api/net/interest/").is_empty());
    two.send("net/interest/remove", &json!({"appname": APP}))
        .await;
    let call = bench
        .root
        .called("DELETE", &format!("/api/net/interest/{APP}"))
        .await;
    assert!(call.query.contains("cluster_name=c1"));

    // What runs here keeps the interest.
    one.deployed(APP, 0, 2).await;
    one.sees("the instance", APP, |answer| count(answer) == 1)
        .await;
    one.send("net/interest/remove", &json!({"appname": APP}))
        .await;
    one.query("no.such.job.here", "").await;
    assert_eq!(bench.root.calls("DELETE", "/api/net/interest/").len(), 1);
}

#[tokio::test]
async fn a_node_that_moves_is_found_at_its_new_address() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    let node = bench.node("n1").await;
    node.deployed(APP, 0, 2).await;
    node.sees("the instance", APP, |answer| count(answer) == 1)
        .await;
    let moved = json!({"appname": APP, "instance_number": 0, "host_ip": "2001:db8::7", "host_port": "50200"});
    node.send("net/service/address-changed", &moved).await;
    let answer = node.query(APP, "").await;
    assert_eq!(answer["instance_list"][0]["host_ip"], "2001:db8::7");
    assert_eq!(answer["instance_list"][0]["host_port"], 50200);
    bench
        .root
        .reported(|instances| instances[0]["host_ip"] == "2001:db8::7")
        .await;
    // A reference node names the application alone; another node's instances are not meant.
    let other = bench.node("n2").await;
    let moved = json!({"appname": "app1", "instance_number": 0, "host_ip": "192.0.2.77", "host_port": "50103"});
    other.send("net/service/address-changed", &moved).await;
    assert_eq!(
        other.query(APP, "").await["instance_list"][0]["host_ip"],
        "2001:db8::7"
    );
    node.send("net/service/address-changed", &moved).await;
    node.sees("the next address", APP, |answer| {
        answer["instance_list"][0]["host_ip"] == "192.0.2.77"
    })
    .await;
}

#[tokio::test]
async fn loads_are_spread_with_the_instance() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    let node = bench.node("n1").await;
    let stranger = bench.node("n2").await;
    node.deployed(APP, 0, 2).await;
    node.sees("the instance", APP, |answer| count(answer) == 1)
        .await;
    let load = json!({"instances": [{"appname": APP, "instance_number": 0, "flows": 17}]});
    node.send("net/load", &load).await;
    assert_eq!(node.query(APP, "").await["instance_list"][0]["load"], 17);
    let lie = json!({"instances": [{"appname": APP, "instance_number": 0, "flows": 1}]});
    stranger.send("net/load", &lie).await;
    assert_eq!(
        stranger.query(APP, "").await["instance_list"][0]["load"],
        17
    );
}

#[tokio::test]
async fn a_nodes_own_processes_are_an_instance() {
    let bench = Bench::start().await;
    let node = bench.node("n1").await;
    node.send("net/host/request", &json!({})).await;
    let answer = node.receives("net/host/result").await;
    assert_eq!(
        answer,
        json!({"app_name": "c1.nodes.n1.host", "instance_number": 0,
            "instance_ip": "10.30.7.7", "instance_ip_v6": "fdff::77"})
    );
    let call = bench.root.called("POST", "/api/net/host").await;
    assert_eq!(call.body, json!({"cluster_id": "c1", "node_id": "n1"}));

    bench.root.set(job("c1.nodes.n1.host", 7, 1));
    node.deployed("c1.nodes.n1.host", 0, 1).await;
    node.sees("the host", "c1.nodes.n1.host", |answer| count(answer) == 1)
        .await;

    // While the root is away its last answer serves.
    bench.root.with(|root| root.mood = support::Mood::Away);
    node.forget();
    node.send("net/host/request", &json!({})).await;
    assert_eq!(node.receives("net/host/result").await, answer);
}

#[tokio::test]
async fn a_message_that_was_overtaken_changes_nothing() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    let node = bench.node("n1").await;
    let mut late = announcement(APP, 0, 2);
    late["seq"] = json!(5);
    let mut gone = announcement(APP, 0, 2);
    gone["seq"] = json!(6);
    node.send("net/service/deployed", &late).await;
    node.sees("the instance", APP, |answer| count(answer) == 1)
        .await;
    node.send("net/service/undeployed", &gone).await;
    node.send("net/service/deployed", &late).await;
    assert_eq!(count(&node.query(APP, "").await), 0);
    assert_eq!(bench.metric("mqtt_late_total").await, 1);
}

#[tokio::test]
async fn changes_at_the_root_are_found_without_a_notification() {
    let bench = Bench::start().await;
    let mut first = job(APP, 3, 1);
    (first["epoch"], first["revision"]) = (json!("e1"), json!(4));
    bench.root.set(first.clone());
    let node = bench.node("n1").await;
    node.query(APP, "").await;

    let mut second = first.clone();
    second["revision"] = json!(5);
    for (field, value) in [
        ("namespace_ip", json!("10.18.9.2")),
        ("host_ip", json!("192.0.2.9")),
        ("host_port", json!(50103)),
        ("draining", json!(true)),
        ("weight", json!(3)),
    ] {
        second["instance_list"][0][field] = value;
    }
    bench.root.set(second);
    bench
        .root
        .with(|root| (root.revision, root.changes) = (5, vec![APP.into()]));
    assert_eq!(
        node.receives("updates_available").await,
        json!({"type": "DEPLOYMENT"})
    );
    let answer = node.query(APP, "").await;
    assert_eq!(answer["instance_list"][0]["draining"], true);
    assert_eq!(answer["instance_list"][0]["weight"], 3);

    // An older answer never overwrites a newer one.
    bench.root.set(first);
    bench.update(APP, 0, "DEPLOYMENT").await;
    let before = bench.root.calls("GET", "/api/net/service/").len();
    eventually("it is read again", async || {
        (bench.root.calls("GET", "/api/net/service/").len() > before).then_some(())
    })
    .await;
    assert_eq!(count(&node.query(APP, "").await), 1);
}

#[tokio::test]
async fn a_change_is_told_once_also_where_the_copy_came_before_its_notification() {
    let bench = Bench::start().await;
    let mut held = job(APP, 3, 2);
    (held["epoch"], held["revision"]) = (json!("e1"), json!(4));
    for (number, instance) in (2..).zip(held["instance_list"].as_array_mut().unwrap()) {
        for (field, value) in [
            ("namespace_ip", json!(format!("10.18.9.{number}"))),
            ("host_ip", json!("192.0.2.9")),
            ("host_port", json!(50103)),
        ] {
            instance[field] = value;
        }
    }
    bench.root.set(held.clone());
    bench.deployment(APP).await;
    let node = bench.node("n1").await;
    assert_eq!(count(&node.query(APP, "").await), 2);
    node.forget();
    let told = || node.received(&format!("jobs/{APP}/updates_available"));
    let update = json!({"job_name": APP, "instance_number": 1, "type": "DEPLOYMENT", "epoch": "e1", "revision": 4});
    for _ in 0..2 {
        let (status, text) = bench.post("/api/net/job/update", &update).await;
        assert_eq!(status, 200, "{text}");
        eventually("the nodes are told", async || {
            (!told().is_empty()).then_some(())
        })
        .await;
    }
    // One goes, and the notification of it is late: what is found without it is told as what it is.
    held["instance_list"].as_array_mut().unwrap().pop();
    held["revision"] = json!(5);
    bench.root.set(held);
    bench
        .root
        .with(|root| (root.revision, root.changes) = (5, vec![APP.into()]));
    eventually("the nodes are told of both", async || {
        (told().len() > 1).then_some(())
    })
    .await;
    assert_eq!(
        told(),
        [
            json!({"type": "DEPLOYMENT"}),
            json!({"type": "UNDEPLOYMENT"})
        ]
    );
}

#[tokio::test]
async fn under_a_reference_root_held_jobs_are_read_again_in_turn() {
    let mut bench = Bench::prepare().await;
    bench.root.with(|root| root.reference = true);
    bench.manager();
    bench.ready().await;
    bench.root.set(job(APP, 3, 1));
    let node = bench.node("n1").await;
    node.query(APP, "").await;
    bench.root.with(|root| {
        let instance = &mut root.jobs.get_mut(APP).unwrap()["instance_list"][0];
        instance["namespace_ip"] = json!("10.18.9.2");
        instance["host_ip"] = json!("192.0.2.9");
        instance["host_port"] = json!("50103");
    });
    assert_eq!(
        node.receives("updates_available").await,
        json!({"type": "DEPLOYMENT"})
    );
    assert_eq!(count(&node.query(APP, "").await), 1);
}

#[tokio::test]
async fn the_page_of_the_interface_is_there_with_and_without_a_slash() {
    let bench = Bench::start().await;
    let mut pages = Vec::new();
    for path in ["/api/docs", "/api/docs/"] {
        let answer = bench.http.get(bench.url(path)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        pages.push(answer.text().await.unwrap());
    }
    assert_eq!(pages[0], pages[1]);
    let description = bench.http.get(bench.url("/docs/openapi.json"));
    let api: serde_json::Value = description.send().await.unwrap().json().await.unwrap();
    assert_eq!(api["paths"].as_object().unwrap().len(), 6);
}

#[tokio::test]
async fn requests_are_counted_by_route() {
    let bench = Bench::with(job(APP, 3, 1)).await;
    bench.deployment(APP).await;
    bench.update(APP, 0, "DEPLOYMENT").await;
    bench.update(APP, 0, "UNDEPLOYMENT").await;
    let malformed = json!({"job_name": APP, "instance_number": 0, "type": "MOVED"});
    let (status, _) = bench.post("/api/net/job/update", &malformed).await;
    assert_eq!(status, 400);
    let gone = bench.url(&format!("/api/net/deployment/{APP}"));
    bench.http.delete(gone).send().await.unwrap();
    let answer = bench.http.get(bench.url("/metrics")).send().await.unwrap();
    let text = answer.text().await.unwrap();
    for (series, count) in [
        (
            r#"http_requests_total{method="POST",route="/api/net/deployment",status="200"}"#,
            1,
        ),
        (
            r#"http_requests_total{method="POST",route="/api/net/job/update",status="200"}"#,
            2,
        ),
        (
            r#"http_requests_total{method="POST",route="/api/net/job/update",status="400"}"#,
            1,
        ),
        (
            r#"http_requests_total{method="DELETE",route="/api/net/deployment/{job_name}",status="200"}"#,
            1,
        ),
        (
            r#"http_request_duration_seconds_count{route="/api/net/job/update"}"#,
            3,
        ),
    ] {
        let line = format!("{series} {count}");
        assert!(text.lines().any(|is| is == line), "{line} in\n{text}");
    }
}
