//! Registration of clusters.

use crate::stage::{FakeCluster, Redis, Root, until};
use serde_json::{Value, json};

#[tokio::test]
async fn registering_again_moves_a_cluster() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.service(1).await.is(200);
    root.instance(1, 0).await.is(200);
    let old = FakeCluster::start().await;
    let new = FakeCluster::start().await;
    root.register("c1", old.port).await;
    root.job(1).await;
    root.register("c1", new.port).await;
    root.running(1, 0, 2).await.is(200);
    new.told(1).await;
    assert!(old.updates.lock().unwrap().is_empty());
    let ids: Vec<String> = redis.ask(&["SMEMBERS", "{oak:root}:clusters"]).await;
    assert_eq!(ids, ["c1"]);
}

#[tokio::test]
async fn a_registration_is_validated() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    let good = json!({"cluster_id": "c", "cluster_address": "192.0.2.1", "cluster_port": 10110});
    for (field, bad) in [
        ("cluster_id", json!("")),
        ("cluster_id", json!({})),
        ("cluster_address", json!("")),
        ("cluster_address", json!("a/b")),
        ("cluster_port", json!(0)),
        ("cluster_port", json!(65536)),
        ("cluster_port", json!("http")),
        ("cluster_port", Value::Null),
    ] {
        let mut body = good.clone();
        body[field] = bad;
        root.post("/api/net/cluster", body).await.is(400);
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(field);
        root.post("/api/net/cluster", body).await.is(400);
    }
    root.post("/api/net/cluster", good).await.is(200);
}

/// Pitfall 53.
#[tokio::test]
async fn a_dead_cluster_loses_its_interests_and_reads_them_again_when_it_returns() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[("CLUSTER_EXPIRY_SECONDS", "0.5")]).await;
    root.register("c1", 9).await;
    root.service(1).await.is(200);
    root.instance(1, 0).await.is(200);
    let job = root.job(1).await;
    root.running(1, 0, 2).await.is(200);
    until("the interest ends", async || {
        let left: i64 = redis
            .ask(&["SCARD", "{oak:root}:watch:app.test.s1.test"])
            .await;
        (left == 0).then_some(())
    })
    .await;
    let since = format!(
        "/api/net/changes?cluster_id=c1&since={}&epoch={}",
        job["revision"],
        job["epoch"].as_str().unwrap()
    );
    let changes = root.get(&since).await.is(200).json();
    assert_eq!(changes["jobs"], json!(["app.test.s1.test"]));
}
