//! Several callers, several replicas: no address, number or update twice.

use crate::stage::{FakeCluster, Redis, Root, id};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;

/// Pitfalls 45 and 55.
#[tokio::test(flavor = "multi_thread")]
async fn no_address_has_two_owners_under_64_callers_and_two_replicas() {
    let redis = Redis::start().await;
    let roots = [
        Arc::new(Root::start(&redis, &[]).await),
        Arc::new(Root::start(&redis, &[]).await),
    ];
    roots[0].register("c1", 1).await;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 1..=64_u32 {
        let root = Arc::clone(&roots[caller as usize % 2]);
        callers.spawn(async move {
            // Every fourth fights for one of 16 chosen addresses that also come up in sequence.
            let chosen = json!({"RR_ip": format!("10.30.0.{}", caller % 16)});
            let extra = if caller % 4 == 0 { chosen } else { json!({}) };
            let deployed = root.service_with(caller, extra).await.status == 200;
            let subnet = root.get("/api/net/subnet").await.is(200).json();
            if deployed {
                for number in 0..4 {
                    root.instance(caller, number).await.is(200);
                }
                root.delete(&format!("/api/net/{}/2", id(caller)))
                    .await
                    .is(200);
                root.instance(caller, 2).await.is(200);
            }
            (deployed, subnet["subnet_addr"].to_string())
        });
    }
    let outcomes = callers.join_all().await;
    let subnets: HashSet<_> = outcomes.iter().map(|(_, subnet)| subnet).collect();
    assert_eq!(subnets.len(), 64);
    let mut seen = HashSet::new();
    let mut jobs = 0;
    for caller in 1..=64 {
        let answer = roots[caller as usize % 2].job_for(caller, "c1").await;
        if answer.status == 404 {
            continue;
        }
        jobs += 1;
        let job = answer.is(200).json();
        let mut note = |value: &Value| {
            let text = value.as_str().unwrap();
            assert!(
                text.is_empty() || seen.insert(text.to_owned()),
                "{text} has two owners"
            );
        };
        for ip in job["service_ip_list"].as_array().unwrap() {
            note(&ip["Address"]);
            note(&ip["Address_v6"]);
        }
        assert_eq!(job["instance_list"].as_array().unwrap().len(), 4);
        for instance in job["instance_list"].as_array().unwrap() {
            note(&instance["instance_ip"]);
            note(&instance["instance_ip_v6"]);
        }
    }
    assert_eq!(
        jobs,
        outcomes.iter().filter(|(deployed, _)| *deployed).count()
    );
    assert!(jobs >= 48);
    crate::invariants::hold(&redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_service_deployed_by_many_at_once_is_one_service() {
    let redis = Redis::start().await;
    let roots = [
        Arc::new(Root::start(&redis, &[]).await),
        Arc::new(Root::start(&redis, &[]).await),
    ];
    roots[0].register("c1", 1).await;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..64 {
        let root = Arc::clone(&roots[caller % 2]);
        callers.spawn(async move {
            root.service(1).await.is(200);
            root.instance(1, 0).await.is(200);
        });
    }
    callers.join_all().await;
    roots[0].service(2).await.is(200);
    let next = roots[0].job(2).await["service_ip_list"][0]["Address"].clone();
    assert_eq!(
        next, "10.30.0.2",
        "one Service IP and one Instance IP were taken"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_deliver_each_update_once_and_in_order() {
    let redis = Redis::start().await;
    let roots = [
        Root::start(&redis, &[]).await,
        Root::start(&redis, &[]).await,
    ];
    let cluster = FakeCluster::start().await;
    roots[0].register("c1", cluster.port).await;
    roots[0].service(1).await.is(200);
    for number in 0..40 {
        roots[0].instance(1, number).await.is(200);
    }
    roots[1].job(1).await;
    for number in 0..40_u8 {
        roots[usize::from(number) % 2]
            .running(1, number.into(), number + 2)
            .await
            .is(200);
    }
    let told = cluster.told(40).await;
    let revisions: Vec<u64> = told
        .iter()
        .map(|update| update["revision"].as_u64().unwrap())
        .collect();
    assert!(revisions.is_sorted_by(|a, b| a < b), "{revisions:?}");
    assert_eq!(told.len(), 40);
}
