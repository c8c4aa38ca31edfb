//! Table queries, interests, and who is calling.

use crate::stage::{Redis, Root, http, id};
use serde_json::{Value, json};

async fn watchers(redis: &Redis, n: u32) -> Vec<String> {
    let mut ids: Vec<String> = redis
        .ask(&[
            "SMEMBERS",
            &format!("{{oak:root}}:watch:app.test.s{n}.test"),
        ])
        .await;
    ids.sort();
    ids
}

async fn register(root: &Root, id: Value, address: &str, port: Value) {
    let body = json!({"cluster_id": id, "cluster_address": address, "cluster_port": port});
    root.post("/api/net/cluster", body).await.is(200);
}

const NAME: &str = "/api/net/service/app_test_s1_test/instances";

#[tokio::test]
async fn the_source_address_names_the_caller() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.service(1).await.is(200);
    root.get(NAME).await.is(400);
    root.delete("/api/net/interest/app.test.s1.test")
        .await
        .is(404);
    register(&root, json!("far"), "192.0.2.1", json!(10110)).await;
    root.get(NAME).await.is(400);
    assert!(watchers(&redis, 1).await.is_empty());
    // 127.0.0.1 arrives as an IPv4-mapped IPv6 address on the one socket.
    register(&root, json!("near"), "::ffff:127.0.0.1", json!("10110")).await;
    root.get(NAME).await.is(200);
    assert_eq!(watchers(&redis, 1).await, ["near"]);
    root.delete("/api/net/interest/app.test.s1.test")
        .await
        .is(200);
    assert!(watchers(&redis, 1).await.is_empty());
    root.delete("/api/net/interest/app.test.s1.test")
        .await
        .is(200);
}

/// Pitfall 51.
#[tokio::test]
async fn ipv6_loopback_and_host_names_work() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.service(1).await.is(200);
    register(&root, json!("six"), "0:0:0:0:0:0:0:1", json!(1)).await;
    let url = format!("http://[::1]:{}{NAME}", root.port);
    assert_eq!(http().get(url).send().await.unwrap().status(), 200);
    assert_eq!(watchers(&redis, 1).await, ["six"]);
    register(&root, json!("named"), "localhost", json!(1)).await;
    root.get(NAME).await.is(200);
    assert!(watchers(&redis, 1).await.contains(&"named".to_owned()));
}

#[tokio::test]
async fn a_cluster_may_name_itself_and_is_matched_in_order() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.service(1).await.is(200);
    register(&root, json!("a"), "127.0.0.1", json!(1001)).await;
    register(&root, json!("b"), "127.0.0.1", json!(1002)).await;
    register(&root, json!(17), "192.0.2.7", json!(1003)).await;
    let asks = async |query: &str| {
        for id in ["a", "b", "17"] {
            root.delete(&format!(
                "/api/net/interest/app.test.s1.test?cluster_id={id}"
            ))
            .await
            .is(200);
        }
        root.get(&format!("{NAME}?{query}")).await.is(200);
        watchers(&redis, 1).await.join(" ")
    };
    assert_eq!(asks("cluster_id=17").await, "17");
    assert_eq!(asks("cluster_id=b&cluster_name=a").await, "b");
    assert_eq!(asks("cluster_id=unknown&cluster_name=a").await, "a");
    assert_eq!(
        asks("cluster_name=17&cluster_address=127.0.0.1").await,
        "17"
    );
    assert_eq!(asks("cluster_address=127.0.0.1:1002").await, "b");
    assert_eq!(asks("cluster_address=192.0.2.7").await, "17");
    // Where several match, all get the interest.
    assert_eq!(asks("cluster_address=127.0.0.1").await, "a b");
    assert_eq!(asks("cluster_address=127.0.0.1:9").await, "a b");
    assert_eq!(asks("").await, "a b");
    assert_eq!(asks("cluster_id=&cluster_name=").await, "a b");
    // The same by address, and on the DELETE.
    root.get("/api/net/service/ip/10_30_0_0/instances?cluster_id=17")
        .await
        .is(200);
    assert_eq!(watchers(&redis, 1).await, ["17", "a", "b"]);
    root.delete("/api/net/interest/app.test.s1.test?cluster_name=a")
        .await
        .is(200);
    assert_eq!(watchers(&redis, 1).await, ["17", "b"]);
}

/// Pitfall 52.
#[tokio::test]
async fn an_unknown_service_is_404_and_nothing_is_stored() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.register("c1", 1).await;
    let before: Vec<String> = redis.ask(&["KEYS", "*watch*"]).await;
    root.get("/api/net/service/no_such_service_here/instances")
        .await
        .is(404);
    root.get("/api/net/service/ip/10_30_9_9/instances")
        .await
        .is(404);
    root.get("/api/net/service/ip/fdff:2000::99/instances")
        .await
        .is(404);
    root.get("/api/net/service/ip/10_30_999_foo/instances")
        .await
        .is(400);
    let after: Vec<String> = redis.ask(&["KEYS", "*watch*"]).await;
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_job_is_found_by_each_of_its_addresses() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.register("c1", 1).await;
    root.service(1).await.is(200);
    root.instance(1, 0).await.is(200);
    root.running(1, 0, 2).await.is(200);
    let by_name = root.job(1).await;
    for address in [
        "10_30_0_0",
        "10.30.0.0",
        "10_30_0_1",
        "fdff:2000::",
        "fdff:1000::",
        "fdff:3000::",
        "fdff::",
        "fdff:0000:0000:0000:0000:0000:0000:0000",
        "10_18_0_2",
        "fc00::2",
    ] {
        let found = root
            .get(&format!("/api/net/service/ip/{address}/instances"))
            .await
            .is(200)
            .json();
        assert_eq!(found, by_name, "{address}");
    }
    root.delete(&format!("/api/net/{}/-1", id(1))).await.is(200);
    for address in ["10_30_0_1", "fdff::", "10_18_0_2", "fc00::2"] {
        root.get(&format!("/api/net/service/ip/{address}/instances"))
            .await
            .is(404);
    }
}

#[tokio::test]
async fn an_interest_delete_for_an_address_changes_nothing() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.register("c1", 1).await;
    root.service(1).await.is(200);
    root.job(1).await;
    root.delete("/api/net/interest/10.30.0.0").await.is(200);
    root.delete("/api/net/interest/fdff:2000::").await.is(200);
    assert_eq!(watchers(&redis, 1).await, ["c1"]);
    root.delete("/api/net/interest/nonsense").await.is(400);
}

/// Pitfall 53.
#[tokio::test]
async fn interests_end_with_their_service() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.register("c1", 1).await;
    root.service(1).await.is(200);
    root.job(1).await;
    root.delete(&format!("/api/net/service/{}", id(1)))
        .await
        .is(200);
    assert!(watchers(&redis, 1).await.is_empty());
    let left: i64 = redis.ask(&["ZCARD", "{oak:root}:feed:c1"]).await;
    assert_eq!(left, 0);
}
