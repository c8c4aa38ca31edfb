//! A replica that missed writes becomes the master: what was lost is lost, and nobody goes on as if it were not.

use std::path::Path;
use std::time::Instant;

use crate::support::{Process, cli, count, eventually, folder, free_port};
use crate::world::{AGREEMENT, World, name};

fn server(port: u16, folder: &Path, more: &[&str]) -> Process {
    let dir = folder.join(format!("server-{port}"));
    std::fs::create_dir_all(&dir).unwrap();
    servers::redis_with_file(port, &dir, more).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_a_replica_that_missed_writes_ends_in_agreement() {
    let folder = folder();
    let (master_port, replica_port, sentinel_port) = (free_port(), free_port(), free_port());
    let aof = [
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--repl-diskless-sync-delay",
        "0",
    ];
    let master_text = master_port.to_string();
    let follow = [&aof[..], &["--replicaof", "127.0.0.1", &master_text]].concat();
    let mut master = server(master_port, folder.path(), &aof);
    let mut replica = server(replica_port, folder.path(), &follow);
    let _sentinel = server(sentinel_port, folder.path(), &["--sentinel"]);
    eventually("all answer", async || {
        let well = |port| cli(port, "PING") == "PONG";
        [master_port, replica_port, sentinel_port]
            .into_iter()
            .all(well)
            .then_some(())
    })
    .await;
    let watch = format!("SENTINEL MONITOR main 127.0.0.1 {master_port} 1");
    cli(sentinel_port, &watch);
    for (name, value) in [
        ("down-after-milliseconds", "500"),
        ("failover-timeout", "3000"),
    ] {
        cli(sentinel_port, &format!("SENTINEL SET main {name} {value}"));
    }
    eventually("the sentinel knows the replica", async || {
        let known = cli(sentinel_port, "SENTINEL REPLICAS main");
        known.contains(&replica_port.to_string()).then_some(())
    })
    .await;

    let url = format!("redis-sentinel://127.0.0.1:{sentinel_port}/0?service=main");
    let root_folder = crate::support::folder();
    let mut world = World::without_root_redis(2, root_folder, &url).await;
    world.start().await;
    let (worker, asker) = (world.worker("w1").await, world.worker("w2").await);
    world.service(1).await;
    world.instance(1, 0, &worker).await;
    let until = Instant::now() + AGREEMENT;
    world.agree(1, &[(0, &worker)], &asker, until).await;
    let before = world.job(1).await.unwrap();
    eventually("the replica has it", async || {
        let revision = |port| cli(port, "GET {oak:root}:revision");
        (revision(replica_port) == revision(master_port)).then_some(())
    })
    .await;

    // It misses what follows.
    replica.kill();
    world.instance(1, 1, &worker).await;
    world.service(2).await;
    world.instance(2, 0, &worker).await;
    let until = Instant::now() + AGREEMENT;
    world
        .agree(1, &[(0, &worker), (1, &worker)], &asker, until)
        .await;
    world.agree(2, &[(0, &worker)], &asker, until).await;
    let lost = world.job(1).await.unwrap()["instance_list"][1].clone();

    master.kill();
    replica = server(replica_port, folder.path(), &follow);
    eventually("the replica is the master", async || {
        cli(replica_port, "ROLE")
            .starts_with("master")
            .then_some(())
    })
    .await;
    world.ready().await;
    let until = Instant::now() + AGREEMENT;
    world.agree(1, &[(0, &worker)], &asker, until).await;
    let after = world.job(1).await.unwrap();
    assert_ne!(
        after["epoch"], before["epoch"],
        "another store than the one that was"
    );
    assert_eq!(after["instance_list"], before["instance_list"]);
    assert!(world.job(2).await.is_none());
    eventually("the node sees that the other is gone", async || {
        (count(&asker.node.query(&name(2), "").await) == 0).then_some(())
    })
    .await;

    // Deployed again, it gets an address that nobody may have in mind still.
    world.instance(1, 1, &worker).await;
    let until = Instant::now() + AGREEMENT;
    world
        .agree(1, &[(0, &worker), (1, &worker)], &asker, until)
        .await;
    let again = world.job(1).await.unwrap()["instance_list"][1].clone();
    for field in ["instance_ip", "instance_ip_v6"] {
        assert_ne!(again[field], lost[field]);
    }
    drop(replica);
}
