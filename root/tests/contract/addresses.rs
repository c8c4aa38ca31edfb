//! Pools: what is given back rests, then is used again; every address is usable.

use crate::stage::{Redis, Root, id, until};
use serde_json::{Value, json};

fn instance_ip(job: &Value, index: usize) -> String {
    job["instance_list"][index]["instance_ip"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Pitfall 44.
#[tokio::test]
async fn a_given_back_address_rests_and_is_then_reused() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[("ADDRESS_REST_SECONDS", "1.5")]).await;
    root.register("c1", 1).await;
    root.service(1).await.is(200);
    root.instance(1, 0).await.is(200);
    let first = root.job(1).await;
    root.delete(&format!("/api/net/{}/0", id(1))).await.is(200);
    root.instance(1, 1).await.is(200);
    let second = root.job(1).await;
    assert_ne!(instance_ip(&second, 0), instance_ip(&first, 0), "it rests");
    until("the first address comes back", async || {
        root.delete(&format!("/api/net/{}/2", id(1))).await.is(200);
        root.instance(1, 2).await.is(200);
        let job = root.job(1).await;
        let v6 = &job["instance_list"][1]["instance_ip_v6"];
        (instance_ip(&job, 1) == instance_ip(&first, 0)
            && *v6 == first["instance_list"][0]["instance_ip_v6"])
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn by_default_an_address_rests_for_a_minute() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.register("c1", 1).await;
    let mut seen = std::collections::BTreeSet::new();
    for round in 1..=5 {
        root.service(round).await.is(200);
        let job = root.job(round).await;
        assert!(seen.insert(job["service_ip_list"][0]["Address"].to_string()));
        root.delete(&format!("/api/net/service/{}", id(round)))
            .await
            .is(200);
    }
}

/// Pitfall 47.
#[tokio::test]
async fn every_ipv4_address_is_usable_and_then_work_goes_on_with_ipv6_alone() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.register("c1", 1).await;
    root.service(1).await.is(200);
    // The sequence is about to end: two addresses are left.
    redis
        .ask::<()>(&["HSET", "{oak:root}:next", "v4", "64514"])
        .await;
    root.instance(1, 0).await.is(200);
    root.instance(1, 1).await.is(200);
    root.instance(1, 2).await.is(200);
    let job = root.job(1).await;
    assert_eq!(instance_ip(&job, 0), "10.30.253.252");
    assert_eq!(instance_ip(&job, 1), "10.30.253.253");
    assert_eq!(instance_ip(&job, 2), "");
    assert_eq!(job["instance_list"][2]["instance_ip_v6"], "fdff::2");
    root.service(2).await.is(200);
    let list = &root.job(2).await["service_ip_list"];
    assert_eq!(list[0]["Address"], "");
    assert_eq!(list[0]["Address_v6"], "fdff:2000::1");
    // Only a caller who asks for IPv4 is refused, and nothing is stored.
    let refused = root
        .service_with(3, json!({"closest_ip": "auto"}))
        .await
        .is(503);
    assert!(refused.text.contains("10.30.0.0/16"), "{}", refused.text);
    root.job_for(3, "c1").await.is(404);
    root.service(3).await.is(200);
    assert_eq!(
        root.job(3).await["service_ip_list"][0]["Address_v6"],
        "fdff:2000::2"
    );
    let host = root
        .post("/api/net/host", json!({"cluster_id": "c1", "node_id": "n"}))
        .await
        .is(200);
    assert_eq!(host.json()["instance_ip"], "");
    let metrics = root.get("/metrics").await.is(200).text;
    assert!(metrics.contains("oak_root_ipv4_pool_empty 1"), "{metrics}");
    let free = root
        .get("/api/pubnet/service/netinfo/available-ip/2?v=4")
        .await
        .is(200)
        .json();
    assert_eq!(free, json!({"available_service_ips": []}));
}

#[tokio::test]
async fn the_ipv4_pool_counts_both_low_octets_to_253() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.register("c1", 1).await;
    redis
        .ask::<()>(&["HSET", "{oak:root}:next", "v4", "253"])
        .await;
    root.service(1).await.is(200);
    root.service(2).await.is(200);
    assert_eq!(
        root.job(1).await["service_ip_list"][0]["Address"],
        "10.30.0.253"
    );
    assert_eq!(
        root.job(2).await["service_ip_list"][0]["Address"],
        "10.30.1.0"
    );
}

#[tokio::test]
async fn chosen_addresses_outside_the_sequence_are_freed_but_never_handed_out() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[("ADDRESS_REST_SECONDS", "0")]).await;
    root.register("c1", 1).await;
    root.service_with(1, json!({"RR_ip": "10.30.254.255"}))
        .await
        .is(200);
    root.delete(&format!("/api/net/service/{}", id(1)))
        .await
        .is(200);
    root.service(2).await.is(200);
    assert_eq!(
        root.job(2).await["service_ip_list"][0]["Address"],
        "10.30.0.0"
    );
    root.service_with(3, json!({"RR_ip": "10.30.254.255"}))
        .await
        .is(200);
}
