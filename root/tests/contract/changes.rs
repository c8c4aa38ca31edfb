//! Revisions, `changes?since`, and the channel.

use crate::stage::{DEADLINE, Redis, Root, id};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

async fn changes(root: &Root, since: &Value, epoch: &Value) -> Value {
    let epoch = epoch.as_str().unwrap_or_default();
    let path = format!("/api/net/changes?cluster_id=c1&since={since}&epoch={epoch}");
    let mut answer = root.get(&path).await.is(200).json();
    answer["jobs"]
        .as_array_mut()
        .unwrap()
        .sort_by_key(ToString::to_string);
    answer
}

#[tokio::test]
async fn changes_lists_what_changed_for_the_callers_interests() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.get("/api/net/changes?since=0").await.is(400);
    root.register("c1", 1).await;
    for n in 1..=3 {
        root.service(n).await.is(200);
    }
    let first = root.job(1).await;
    root.job(2).await;
    let epoch = &first["epoch"];
    let now = changes(&root, &json!(0), epoch).await;
    assert_eq!(now["jobs"], json!(["app.test.s1.test", "app.test.s2.test"]));
    assert_eq!(&now["epoch"], epoch);
    let idle = changes(&root, &now["revision"], epoch).await;
    assert_eq!(idle["jobs"], json!([]));
    root.instance(2, 0).await.is(200);
    root.instance(3, 0).await.is(200);
    let later = changes(&root, &now["revision"], epoch).await;
    assert_eq!(later["jobs"], json!(["app.test.s2.test"]));
    assert!(later["revision"].as_u64() > now["revision"].as_u64());
    let path = format!("/api/net/changes?cluster_id=c1&since={}", later["revision"]);
    assert_eq!(root.get(&path).await.is(200).json()["jobs"], json!([]));
    // Another epoch: all of them.
    let all = changes(&root, &later["revision"], &json!("other")).await;
    assert_eq!(all["jobs"].as_array().unwrap().len(), 2);
    root.get("/api/net/changes?cluster_id=c1&since=x")
        .await
        .is(400);
}

#[tokio::test]
async fn a_deleted_job_leaves_a_tombstone_and_its_revision_only_grows() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.register("c1", 1).await;
    root.service(1).await.is(200);
    let before = root.job(1).await;
    root.delete(&format!("/api/net/service/{}", id(1)))
        .await
        .is(200);
    let after = changes(&root, &before["revision"], &before["epoch"]).await;
    assert_eq!(after["jobs"], json!(["app.test.s1.test"]));
    let idle = changes(&root, &after["revision"], &before["epoch"]).await;
    assert_eq!(idle["jobs"], json!([]));
    root.service(1).await.is(200);
    assert!(root.job(1).await["revision"].as_u64() > after["revision"].as_u64());
}

#[tokio::test]
async fn the_channel_chains_revisions_and_beats() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.register("c1", 1).await;
    root.service(1).await.is(200);
    root.instance(1, 0).await.is(200);
    let job = root.job(1).await;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    pubsub.subscribe("oak:root:changes:c1").await.unwrap();
    let mut messages = pubsub.into_on_message();
    let mut next = async |beat: bool| -> Value {
        loop {
            let message = tokio::time::timeout(DEADLINE, messages.next())
                .await
                .unwrap()
                .unwrap();
            let value: Value = serde_json::from_slice(message.get_payload_bytes()).unwrap();
            if value.get("job_name").is_none() == beat {
                return value;
            }
        }
    };
    root.running(1, 0, 2).await.is(200);
    let first = next(false).await;
    assert_eq!(first["job_name"], "app.test.s1.test");
    assert_eq!(
        (&first["instance_number"], &first["type"]),
        (&json!(0), &json!("DEPLOYMENT"))
    );
    assert_eq!(first["epoch"], job["epoch"]);
    // A change that does not concern c1 moves the counter, not the chain.
    root.service(2).await.is(200);
    root.delete(&format!("/api/net/{}/-1", id(1))).await.is(200);
    let second = next(false).await;
    assert_eq!(second["prev"], first["revision"]);
    assert!(second["revision"].as_u64() > first["revision"].as_u64().map(|r| r + 1));
    assert_eq!(
        (&second["instance_number"], &second["type"]),
        (&json!(-1), &json!("UNDEPLOYMENT"))
    );
    let beat = next(true).await;
    assert_eq!(beat["revision"], second["revision"]);
    assert_eq!(beat["epoch"], job["epoch"]);
}
