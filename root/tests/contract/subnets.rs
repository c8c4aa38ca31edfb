//! Worker subnetworks.

use crate::stage::{Redis, Root, until};
use serde_json::json;

#[tokio::test]
async fn subnetworks_follow_the_plan_and_never_repeat() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    let take = async || root.get("/api/net/subnet").await.is(200).json();
    assert_eq!(
        take().await,
        json!({"subnet_addr": "10.18.0.0", "subnet_addr_v6": "fc00::"})
    );
    assert_eq!(
        take().await,
        json!({"subnet_addr": "10.18.0.64", "subnet_addr_v6": "fc00::100"})
    );
    assert_eq!(
        take().await,
        json!({"subnet_addr": "10.18.0.128", "subnet_addr_v6": "fc00::200"})
    );
}

/// Pitfall 47.
#[tokio::test]
async fn the_last_subnetwork_is_handed_out_and_then_503_names_the_pool() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    redis
        .ask::<()>(&["HSET", "{oak:root}:next", "subnet", "12287"])
        .await;
    let last = root.get("/api/net/subnet").await.is(200).json();
    assert_eq!(last["subnet_addr"], "10.29.255.192");
    let empty = root.get("/api/net/subnet").await.is(503);
    assert!(empty.text.contains("10.29.255.192"), "{}", empty.text);
}

#[tokio::test]
async fn a_given_back_subnetwork_rests_and_is_then_reused() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[("ADDRESS_REST_SECONDS", "1")]).await;
    let take = async || root.get("/api/net/subnet").await.is(200).json()["subnet_addr"].clone();
    assert_eq!(take().await, "10.18.0.0");
    assert_eq!(take().await, "10.18.0.64");
    root.delete("/api/net/subnet/10_18_0_0").await.is(200);
    root.delete("/api/net/subnet/10.18.0.0").await.is(200);
    assert_eq!(take().await, "10.18.0.128", "the first one rests");
    until("the first subnetwork comes back", async || {
        let next = take().await;
        if next == "10.18.0.0" {
            return Some(());
        }
        let back = next.as_str().unwrap().to_owned();
        root.delete(&format!("/api/net/subnet/{back}"))
            .await
            .is(200);
        None
    })
    .await;
    // By its IPv6 address too.
    root.delete("/api/net/subnet/fc00::100").await.is(200);
}

#[tokio::test]
async fn what_is_no_subnetwork_or_was_never_handed_out_is_refused() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.get("/api/net/subnet").await.is(200);
    for bad in ["10.18.0.1", "10.30.0.0", "nonsense", "fc00::1", "fdff::"] {
        root.delete(&format!("/api/net/subnet/{bad}")).await.is(400);
    }
    root.delete("/api/net/subnet/10.18.0.64").await.is(404);
}
