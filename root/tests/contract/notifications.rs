//! Root → cluster.

use crate::stage::{FakeCluster, Redis, Root, brief, id, until};
use serde_json::json;
use std::time::{Duration, Instant};

async fn status(redis: &Redis, cluster: &str) -> String {
    redis
        .ask(&["HGET", &format!("{{oak:root}}:cluster:{cluster}"), "status"])
        .await
}

async fn stage(instances: u32) -> (Redis, Root, FakeCluster) {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    let cluster = FakeCluster::start().await;
    root.register("c1", cluster.port).await;
    root.service(1).await.is(200);
    for number in 0..instances {
        root.instance(1, number).await.is(200);
    }
    root.job(1).await;
    (redis, root, cluster)
}

#[tokio::test]
async fn interested_clusters_are_told_in_order_with_epoch_and_revision() {
    let (_redis, root, cluster) = stage(2).await;
    let stranger = FakeCluster::start().await;
    root.register("c2", stranger.port).await;
    let both = json!({"job_id": id(1), "instances": [
        {"instance_number": 0, "namespace_ip": "10.18.0.2", "host_ip": "192.0.2.1", "host_port": 50103},
        {"instance_number": 1, "namespace_ip": "10.18.0.3", "host_ip": "192.0.2.1", "host_port": 50103}]});
    root.post("/api/net/service/net_deploy_status", both)
        .await
        .is(200);
    root.post(&format!("/api/net/{}/0/drain", id(1)), json!({}))
        .await
        .is(200);
    cluster.told(3).await;
    root.post("/api/net/service/net_deploy_status", json!({"job_id": id(1), "instances": [
        {"instance_number": 1, "namespace_ip": "10.18.0.3", "host_ip": "192.0.2.1", "host_port": 50103,
         "status": "UNDEPLOYED"}]}))
        .await
        .is(200);
    root.delete(&format!("/api/net/{}/0", id(1))).await.is(200);
    root.delete(&format!("/api/net/{}/-1", id(1))).await.is(200);
    let told = cluster.told(6).await;
    let briefs: Vec<String> = told.iter().map(brief).collect();
    assert_eq!(
        briefs,
        [
            "DEPLOYMENT app.test.s1.test 0",
            "DEPLOYMENT app.test.s1.test 1",
            "DEPLOYMENT app.test.s1.test 0",
            "UNDEPLOYMENT app.test.s1.test 1",
            "UNDEPLOYMENT app.test.s1.test 0",
            "UNDEPLOYMENT app.test.s1.test -1",
        ]
    );
    let revisions: Vec<u64> = told
        .iter()
        .map(|update| update["revision"].as_u64().unwrap())
        .collect();
    assert!(revisions.is_sorted_by(|a, b| a < b), "{revisions:?}");
    assert_eq!(told[0]["epoch"], root.job(1).await["epoch"]);
    assert!(stranger.updates.lock().unwrap().is_empty());
    // Repeated by the orchestrator: nothing left to clear, nothing to tell.
    root.delete(&format!("/api/net/{}/-1", id(1))).await.is(200);
    root.service(2).await.is(200);
    root.instance(2, 0).await.is(200);
    root.job(2).await;
    root.running(2, 0, 9).await.is(200);
    assert_eq!(
        brief(&cluster.told(7).await[6]),
        "DEPLOYMENT app.test.s2.test 0"
    );
}

#[tokio::test]
async fn a_repeated_status_is_told_again_without_a_new_revision() {
    let (_redis, root, cluster) = stage(1).await;
    root.running(1, 0, 2).await.is(200);
    let first = cluster.told(1).await;
    let revision = root.job(1).await["revision"].clone();
    root.running(1, 0, 2).await.is(200);
    let both = cluster.told(2).await;
    assert_eq!(both[1], first[0]);
    assert_eq!(root.job(1).await["revision"], revision);
}

/// Pitfall 54.
#[tokio::test]
async fn a_cluster_that_does_not_answer_delays_neither_callers_nor_other_clusters() {
    let (redis, root, cluster) = stage(1).await;
    // A listener that never accepts: connections open, nothing is answered.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    root.register("mute", silent.local_addr().unwrap().port())
        .await;
    root.job_for(1, "mute").await.is(200);
    let start = Instant::now();
    for nsip in 2..12 {
        root.running(1, 0, nsip).await.is(200);
    }
    root.delete(&format!("/api/net/{}/0", id(1))).await.is(200);
    let told = until("the other cluster knows", async || {
        let updates = cluster.updates.lock().unwrap();
        updates
            .iter()
            .any(|update| update["type"] == "UNDEPLOYMENT")
            .then_some(())
    });
    told.await;
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(status(&redis, "c1").await, "ACTIVE");
    until("the mute cluster is noted", async || {
        (status(&redis, "mute").await == "ERROR").then_some(())
    })
    .await;
}

#[tokio::test]
async fn undelivered_updates_are_repeated_until_the_cluster_has_them() {
    let (redis, root, mut cluster) = stage(2).await;
    cluster.stop().await;
    root.running(1, 0, 2).await.is(200);
    root.running(1, 1, 3).await.is(200);
    root.delete(&format!("/api/net/{}/0", id(1))).await.is(200);
    until("the failure is noted", async || {
        (status(&redis, "c1").await == "ERROR").then_some(())
    })
    .await;
    cluster.again().await;
    cluster.answer_with(200);
    let briefs: Vec<String> = cluster.told(3).await.iter().map(brief).collect();
    assert_eq!(
        briefs,
        [
            "DEPLOYMENT app.test.s1.test 0",
            "DEPLOYMENT app.test.s1.test 1",
            "UNDEPLOYMENT app.test.s1.test 0",
        ]
    );
    until("it is active again", async || {
        (status(&redis, "c1").await == "ACTIVE").then_some(())
    })
    .await;
    until("nothing is pending", async || {
        let pending: i64 = redis.ask(&["ZCARD", "{oak:root}:queue:c1"]).await;
        (pending == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_gateways_errors_are_repeated() {
    let (redis, root, cluster) = stage(1).await;
    for (times, answer) in [(1, 502), (2, 503), (3, 504)] {
        cluster.answer_with(answer);
        root.running(1, 0, 2).await.is(200);
        until("the failure is noted", async || {
            (status(&redis, "c1").await == "ERROR").then_some(())
        })
        .await;
        cluster.answer_with(200);
        cluster.told(times).await;
        until("it is active again", async || {
            (status(&redis, "c1").await == "ACTIVE").then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn an_update_that_is_refused_does_not_block_the_next() {
    let (_redis, root, cluster) = stage(2).await;
    cluster.answer_with(400);
    root.running(1, 0, 2).await.is(200);
    until("the refusal is counted", async || {
        let metrics = root.get("/metrics").await.text;
        metrics
            .contains("oak_root_notifications_refused_total 1")
            .then_some(())
    })
    .await;
    cluster.answer_with(200);
    root.running(1, 1, 3).await.is(200);
    assert_eq!(
        brief(&cluster.told(1).await[0]),
        "DEPLOYMENT app.test.s1.test 1"
    );
}

#[tokio::test]
async fn undelivered_updates_survive_a_killed_root() {
    let (redis, mut root, mut cluster) = stage(1).await;
    cluster.stop().await;
    root.running(1, 0, 2).await.is(200);
    root.kill();
    let _root = Root::start(&redis, &[]).await;
    cluster.again().await;
    cluster.answer_with(200);
    assert_eq!(
        brief(&cluster.told(1).await[0]),
        "DEPLOYMENT app.test.s1.test 0"
    );
}

/// Pitfall 55.
#[tokio::test]
async fn another_replica_delivers_what_a_killed_one_left() {
    let (redis, mut first, mut cluster) = stage(1).await;
    let second = Root::start(&redis, &[]).await;
    cluster.stop().await;
    first.running(1, 0, 2).await.is(200);
    until("the first replica tries", async || {
        (status(&redis, "c1").await == "ERROR").then_some(())
    })
    .await;
    first.kill();
    cluster.again().await;
    cluster.answer_with(200);
    assert_eq!(
        brief(&cluster.told(1).await[0]),
        "DEPLOYMENT app.test.s1.test 0"
    );
    second.get("/healthz").await.is(200);
}
