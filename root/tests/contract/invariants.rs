//! What `keys.rs` says always holds, read back from Redis.

use crate::stage::{Redis, Root, id};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const TAG: &str = "{oak:root}:";

type Hash = BTreeMap<String, String>;

async fn names(redis: &Redis, kind: &str) -> Vec<String> {
    let prefix = format!("{TAG}{kind}:");
    let keys: Vec<String> = redis.ask(&["KEYS", &format!("{prefix}*")]).await;
    keys.iter()
        .map(|key| key[prefix.len()..].to_owned())
        .collect()
}

async fn hash(redis: &Redis, kind: &str, name: &str) -> Hash {
    redis
        .ask(&["HGETALL", &format!("{TAG}{kind}:{name}")])
        .await
}

/// Asserts every invariant and answers how many addresses have an owner.
pub async fn hold(redis: &Redis) -> usize {
    let mut jobs = BTreeMap::new();
    let mut expected = BTreeMap::new();
    for job in names(redis, "job").await {
        let fields = hash(redis, "job", &job).await;
        for (field, value) in &fields {
            let (kind, rest) = field.split_at(1);
            let parts: Vec<&str> = value.split('\t').collect();
            let (owner, addresses) = match kind {
                "s" => (job.clone(), parts),
                "i" if rest.parse::<u32>().is_ok() => {
                    let addresses = [0, 1, 4, 5].map(|index| parts[index]).to_vec();
                    (format!("{job}/{rest}"), addresses)
                }
                _ => continue,
            };
            for address in addresses.into_iter().filter(|address| !address.is_empty()) {
                let before = expected.insert(address.to_owned(), owner.clone());
                assert_eq!(before, None, "{address} is listed twice");
            }
        }
        jobs.insert(job, fields);
    }
    let ids = names(redis, "id").await;
    assert_eq!(ids.len(), jobs.len());
    for id in ids {
        let job: String = redis.ask(&["GET", &format!("{TAG}id:{id}")]).await;
        assert_eq!(jobs[&job]["id"], id);
    }
    let mut owners = BTreeMap::new();
    for bucket in names(redis, "ip").await {
        for (last, owner) in hash(redis, "ip", &bucket).await {
            owners.insert(format!("{bucket}{last}"), owner);
        }
    }
    assert_eq!(owners, expected, "owners and jobs agree");
    for pool in names(redis, "rest").await {
        let resting: Vec<String> = redis
            .ask(&["ZRANGE", &format!("{TAG}rest:{pool}"), "0", "-1"])
            .await;
        for address in resting {
            assert!(
                !owners.contains_key(&address),
                "{address} rests and has an owner"
            );
        }
    }
    let mut watched = BTreeSet::new();
    for job in names(redis, "watch").await {
        let clusters: Vec<String> = redis.ask(&["SMEMBERS", &format!("{TAG}watch:{job}")]).await;
        watched.extend(clusters.into_iter().map(|cluster| (cluster, job.clone())));
    }
    let mut fed = BTreeSet::new();
    for cluster in names(redis, "feed").await {
        let feed: Vec<(String, String)> = redis
            .ask(&[
                "ZRANGE",
                &format!("{TAG}feed:{cluster}"),
                "0",
                "-1",
                "WITHSCORES",
            ])
            .await;
        for (job, revision) in feed {
            assert_eq!(jobs[&job]["rev"], revision, "{cluster} {job}");
            fed.insert((cluster.clone(), job));
        }
    }
    assert_eq!(watched, fed);
    let due: BTreeSet<String> = redis.ask(&["SMEMBERS", &format!("{TAG}due")]).await;
    for cluster in names(redis, "queue").await {
        assert!(due.contains(&cluster), "{cluster} waits unseen");
    }
    owners.len()
}

/// Small numbers, so that operations meet; the same ones in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.0 >> 33) % sides).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_invariant_holds_after_any_operations_of_many_callers_on_two_replicas() {
    let redis = Redis::start().await;
    let settings = [("ADDRESS_REST_SECONDS", "0.05")];
    let roots = [
        Arc::new(Root::start(&redis, &settings).await),
        Arc::new(Root::start(&redis, &settings).await),
    ];
    // Nobody listens there: queues stay full.
    roots[0].register("c1", 9).await;
    roots[1].register("c2", 9).await;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..16_u64 {
        let root = Arc::clone(&roots[usize::try_from(caller % 2).unwrap()]);
        callers.spawn(async move {
            let mut dice = Dice(caller);
            for _ in 0..60 {
                let (n, number) = (1 + dice.roll(5), dice.roll(3));
                let cluster = format!("c{}", 1 + dice.roll(2));
                let answer = match dice.roll(12) {
                    0 => root.service(n).await,
                    1 => root.service_with(n, json!({"RR_ip": format!("10.30.0.{}", dice.roll(8)), "closest_ip": "auto"})).await,
                    2 => {
                        let mut body = crate::stage::service_body(n, json!({}));
                        body["_id"] = json!(id(n + 100));
                        root.post("/api/net/service/deploy", body).await
                    }
                    3 | 4 => root.instance(n, number).await,
                    5 => root.running(n, number, u8::try_from(n * 10 + number).unwrap()).await,
                    6 => root.delete(&format!("/api/net/{}/{number}", id(n))).await,
                    7 => root.delete(&format!("/api/net/{}/-1", id(n + 100))).await,
                    8 => root.delete(&format!("/api/net/service/{}", id(n))).await,
                    9 => root.job_for(n, &cluster).await,
                    10 => root.delete(&format!("/api/net/interest/app.test.s{n}.test?cluster_id={cluster}")).await,
                    _ => root.post("/api/net/host", json!({"cluster_id": cluster, "node_id": format!("n{number}")})).await,
                };
                assert!([200, 400, 404].contains(&answer.status), "{answer:?}");
            }
        });
    }
    callers.join_all().await;
    assert!(hold(&redis).await > 10);
}
