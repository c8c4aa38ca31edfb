//! Instances: deploy, weight, drain, status, delete, and a node's own.

use crate::stage::{Redis, Root, id};
use serde_json::{Value, json};

async fn stage() -> (Redis, Root) {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.register("c1", 1).await;
    root.service(1).await.is(200);
    (redis, root)
}

async fn deploy(root: &Root, extra: Value) -> crate::stage::Answer {
    let mut body = json!({"_id": id(1), "instance_number": 0, "cluster_id": "c1"});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    root.post("/api/net/instance/deploy", body).await
}

#[tokio::test]
async fn an_instance_gets_addresses_and_no_location() {
    let (_redis, root) = stage().await;
    root.instance(1, 0).await.is(200);
    root.instance(1, 1).await.is(200);
    let job = root.job(1).await;
    assert_eq!(
        job["instance_list"],
        json!([
            {"instance_number": 0, "instance_ip": "10.30.0.1", "instance_ip_v6": "fdff::", "cluster_id": "c1"},
            {"instance_number": 1, "instance_ip": "10.30.0.2", "instance_ip_v6": "fdff::1", "cluster_id": "c1"}
        ])
    );
}

/// Pitfall 48.
#[tokio::test]
async fn deploying_again_changes_nothing_but_a_new_cluster() {
    let (_redis, root) = stage().await;
    root.instance(1, 0).await.is(200);
    root.running(1, 0, 2).await.is(200);
    let before = root.job(1).await;
    root.instance(1, 0).await.is(200);
    assert_eq!(root.job(1).await, before);
    deploy(&root, json!({"cluster_id": 17})).await.is(200);
    let mut expected = before["instance_list"].clone();
    expected[0]["cluster_id"] = json!("17");
    let after = root.job(1).await;
    assert_eq!(after["instance_list"], expected);
    assert!(after["revision"].as_u64() > before["revision"].as_u64());
    // No address was lost on the way.
    root.instance(1, 1).await.is(200);
    assert_eq!(
        root.job(1).await["instance_list"][1]["instance_ip"],
        "10.30.0.2"
    );
}

#[tokio::test]
async fn unknown_is_404_and_malformed_400() {
    let (_redis, root) = stage().await;
    deploy(&root, json!({"_id": id(9)})).await.is(404);
    deploy(&root, json!({"_id": "x"})).await.is(400);
    deploy(&root, json!({"instance_number": -1})).await.is(400);
    deploy(&root, json!({"instance_number": "x"})).await.is(400);
    deploy(&root, json!({"cluster_id": ""})).await.is(400);
    deploy(&root, json!({"cluster_id": null})).await.is(400);
    deploy(&root, json!({"weight": 0})).await.is(400);
    deploy(&root, json!({"weight": 256})).await.is(400);
    assert_eq!(root.job(1).await["instance_list"], json!([]));
    let path = |id: &str, number: &str| format!("/api/net/{id}/{number}");
    // Pitfall 50.
    root.delete(&path(&id(9), "0")).await.is(404);
    root.delete(&path(&id(9), "-1")).await.is(404);
    root.delete(&path("x", "0")).await.is(400);
    root.delete(&path(&id(1), "x")).await.is(400);
    root.delete(&path(&id(1), "-2")).await.is(400);
    root.delete(&path(&id(1), "0")).await.is(200);
    root.delete(&path(&id(1), "-1")).await.is(200);
}

#[tokio::test]
async fn minus_one_clears_every_instance() {
    let (_redis, root) = stage().await;
    for number in [0, 1, 2, 30] {
        root.instance(1, number).await.is(200);
    }
    root.delete(&format!("/api/net/{}/30", id(1))).await.is(200);
    assert_eq!(
        root.job(1).await["instance_list"].as_array().unwrap().len(),
        3
    );
    root.delete(&format!("/api/net/{}/-1", id(1))).await.is(200);
    assert_eq!(root.job(1).await["instance_list"], json!([]));
}

#[tokio::test]
async fn weight_and_drain_show_in_table_queries() {
    let (_redis, root) = stage().await;
    deploy(&root, json!({"weight": 7})).await.is(200);
    assert_eq!(root.job(1).await["instance_list"][0]["weight"], 7);
    deploy(&root, json!({})).await.is(200);
    assert_eq!(root.job(1).await["instance_list"][0]["weight"], 7);
    let path = format!("/api/net/{}/0/drain", id(1));
    root.post(&path, json!({})).await.is(200);
    root.post(&path, json!({})).await.is(200);
    assert_eq!(root.job(1).await["instance_list"][0]["draining"], true);
    root.post(&format!("/api/net/{}/5/drain", id(1)), json!({}))
        .await
        .is(404);
    root.post(&format!("/api/net/{}/0/drain", id(9)), json!({}))
        .await
        .is(404);
    root.post(&format!("/api/net/{}/-1/drain", id(1)), json!({}))
        .await
        .is(400);
}

#[tokio::test]
async fn the_status_says_where_an_instance_lives_and_withdraws_it() {
    let (_redis, root) = stage().await;
    root.instance(1, 0).await.is(200);
    let send = async |instances: Value| {
        root.post(
            "/api/net/service/net_deploy_status",
            json!({"job_id": id(1), "instances": instances}),
        )
        .await
    };
    send(
        json!([{"instance_number": "0", "namespace_ip": "10.18.0.2", "namespace_ip_v6": "fc00:0::2",
        "host_ip": "::ffff:192.0.2.10", "host_port": "50103"}]),
    )
    .await
    .is(200);
    let found = root
        .get("/api/net/service/ip/10_18_0_2/instances")
        .await
        .is(200)
        .json();
    let mut expected = json!({"instance_number": 0, "instance_ip": "10.30.0.1", "instance_ip_v6": "fdff::",
        "cluster_id": "c1", "namespace_ip": "10.18.0.2", "namespace_ip_v6": "fc00::2",
        "host_ip": "192.0.2.10", "host_port": 50103});
    assert_eq!(found["instance_list"][0], expected);
    root.get("/api/net/service/ip/fc00::2/instances")
        .await
        .is(200);
    send(
        json!([{"instance_number": 0, "namespace_ip": null, "namespace_ip_v6": null,
        "host_ip": null, "host_port": null, "status": "UNDEPLOYED"}]),
    )
    .await
    .is(200);
    for key in ["namespace_ip", "namespace_ip_v6", "host_ip", "host_port"] {
        expected.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(root.job(1).await["instance_list"][0], expected);
    root.get("/api/net/service/ip/10_18_0_2/instances")
        .await
        .is(404);
    // One that is not deployed is not brought back, and an unknown job is 404.
    send(
        json!([{"instance_number": 5, "namespace_ip": "10.18.0.9", "host_ip": "192.0.2.10", "host_port": 50103}]),
    )
    .await
    .is(200);
    assert_eq!(
        root.job(1).await["instance_list"].as_array().unwrap().len(),
        1
    );
    root.get("/api/net/service/ip/10_18_0_9/instances")
        .await
        .is(404);
    root.running(9, 0, 2).await.is(404);
    send(json!([{"instance_number": 0, "namespace_ip": "10.30.0.0"}]))
        .await
        .is(400);
    send(json!([{"instance_number": 0, "host_port": 70000}]))
        .await
        .is(400);
    send(json!([{"instance_number": 0, "namespace_ip": "nonsense"}]))
        .await
        .is(400);
}

#[tokio::test]
async fn a_place_that_is_not_whole_is_refused_and_nothing_of_it_applied() {
    let (_redis, root) = stage().await;
    root.instance(1, 0).await.is(200);
    root.instance(1, 1).await.is(200);
    root.running(1, 0, 2).await.is(200);
    let before = root.job(1).await;
    let send = async |instances: Value| {
        root.post(
            "/api/net/service/net_deploy_status",
            json!({"job_id": id(1), "instances": instances}),
        )
        .await
    };
    let place = |number: u32, last: u32| {
        json!({"instance_number": number, "namespace_ip": format!("10.18.0.{last}"),
            "namespace_ip_v6": format!("fc00::{last}"), "host_ip": "192.0.2.10", "host_port": "50103"})
    };
    for left_out in [
        &["namespace_ip", "namespace_ip_v6"][..],
        &["host_ip"],
        &["host_port"],
        &["host_ip", "host_port"],
    ] {
        for nothing in [None, Some(Value::Null), Some(json!(""))] {
            let mut partial = place(1, 4);
            for field in left_out {
                match &nothing {
                    Some(nothing) => partial[*field] = nothing.clone(),
                    None => drop(partial.as_object_mut().unwrap().remove(*field)),
                }
            }
            let answer = send(json!([place(0, 3), partial])).await.is(400).json();
            let message = answer["message"].as_str().unwrap();
            assert!(message.contains("instance 1"), "{message}");
            assert!(message.contains("UNDEPLOYED"), "{message}");
            for field in left_out {
                assert!(message.contains(field), "{message}");
            }
        }
    }
    // Another status withdraws nothing.
    send(json!([{"instance_number": 0, "status": "DEPLOYED"}]))
        .await
        .is(400);
    assert_eq!(root.job(1).await, before);
    // One family is enough.
    for (number, other) in [(0, "namespace_ip_v6"), (1, "namespace_ip")] {
        let mut one = place(number, 5 + number);
        one[other] = Value::Null;
        send(json!([one])).await.is(200);
    }
    let after = root.job(1).await;
    assert_eq!(after["instance_list"][0]["namespace_ip"], "10.18.0.5");
    assert_eq!(after["instance_list"][1]["namespace_ip_v6"], "fc00::6");
}

#[tokio::test]
async fn a_withdrawal_leaves_no_place_whatever_it_carries() {
    let (_redis, root) = stage().await;
    root.instance(1, 0).await.is(200);
    let nowhere = root.job(1).await["instance_list"].clone();
    for carried in ["10.18.0.2", "10.18.0.3", "10.30.0.0"] {
        root.running(1, 0, 2).await.is(200);
        let body = json!({"job_id": id(1), "instances": [{"instance_number": 0, "namespace_ip": carried,
            "namespace_ip_v6": "fc00::2", "host_ip": "192.0.2.10", "host_port": 50103, "status": "UNDEPLOYED"}]});
        root.post("/api/net/service/net_deploy_status", body)
            .await
            .is(200);
        assert_eq!(root.job(1).await["instance_list"], nowhere, "{carried}");
        for address in ["10_18_0_2", "10_18_0_3", "fc00::2"] {
            root.get(&format!("/api/net/service/ip/{address}/instances"))
                .await
                .is(404);
        }
    }
}

#[tokio::test]
async fn a_namespace_ip_belongs_to_whoever_announced_it_last() {
    let (_redis, root) = stage().await;
    root.service(2).await.is(200);
    root.instance(1, 0).await.is(200);
    root.instance(2, 0).await.is(200);
    root.running(1, 0, 2).await.is(200);
    root.running(2, 0, 2).await.is(200);
    root.delete(&format!("/api/net/{}/0", id(1))).await.is(200);
    let found = root
        .get("/api/net/service/ip/10_18_0_2/instances")
        .await
        .is(200)
        .json();
    assert_eq!(found["job_name"], "app.test.s2.test");
}

#[tokio::test]
async fn a_nodes_own_processes_are_allocated_once() {
    let (_redis, root) = stage().await;
    let ask = async |cluster: &str, node: &str| {
        root.post(
            "/api/net/host",
            json!({"cluster_id": cluster, "node_id": node}),
        )
        .await
    };
    let first = ask("c-1", "node_7").await.is(200).json();
    assert_eq!(
        first,
        json!({"app_name": "c1.nodes.node7.host", "instance_number": 0,
            "instance_ip": "10.30.0.1", "instance_ip_v6": "fdff::"})
    );
    assert_eq!(ask("c-1", "node_7").await.is(200).json(), first);
    assert_ne!(
        ask("c-1", "node8").await.is(200).json()["instance_ip"],
        first["instance_ip"]
    );
    // Another node with the same cleaned name never shares its address.
    ask("c1", "node7").await.is(400);
    ask("", "node7").await.is(400);
    // It is a job like any other: resolved by address, located by its status.
    let job = root
        .get("/api/net/service/ip/10_30_0_1/instances")
        .await
        .is(200)
        .json();
    assert_eq!(job["job_name"], "c1.nodes.node7.host");
    let status = json!({"job_id": job["_id"], "instances": [{"instance_number": 0,
        "namespace_ip": "10.18.0.1", "host_ip": "192.0.2.1", "host_port": 50103}]});
    root.post("/api/net/service/net_deploy_status", status)
        .await
        .is(200);
    root.get("/api/net/service/ip/10_18_0_1/instances")
        .await
        .is(200);
    // The name cannot be taken by a service.
    let taken =
        json!({"app_name": "c1", "app_ns": "nodes", "service_name": "node7", "service_ns": "host"});
    root.service_with(5, taken).await.is(400);
}
