//! The root's channel: what is lost on it is made up for. HTTP notifications go nowhere here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Process, cli, eventually, folder, free_port};
use crate::world::{AGREEMENT, Worker, World};

/// Passes everything on but messages that name a job, as long as it is told to drop them.
async fn lossy_proxy(to: u16, drops: Arc<AtomicU32>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let drops = Arc::clone(&drops);
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else {
                    return;
                };
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let up = tokio::io::copy(&mut from_client, &mut to_server);
                let down = async {
                    let mut buffer = vec![0; 65536];
                    loop {
                        let count = from_server.read(&mut buffer).await?;
                        let bytes = &buffer[..count];
                        let names_a_job = bytes.windows(8).any(|at| at == b"job_name");
                        let drop = names_a_job
                            && drops
                                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                                    left.checked_sub(1)
                                })
                                .is_ok();
                        if count == 0 {
                            return Ok::<(), std::io::Error>(());
                        }
                        if !drop {
                            to_client.write_all(bytes).await?;
                        }
                    }
                };
                tokio::select! {
                    _ = up => {}
                    _ = down => {}
                }
            });
        }
    });
    port
}

/// A job with one instance that worker `w1` runs and `w2` asks for.
async fn one_job(world: &mut World) -> (Worker, Worker) {
    world.notified_at = free_port();
    world.set("CHANGES_POLL_SECONDS", "3600");
    world.start().await;
    let (worker, asker) = (world.worker("w1").await, world.worker("w2").await);
    world.service(1).await;
    world.instance(1, 0, &worker).await;
    let until = Instant::now() + AGREEMENT;
    world.agree(1, &[(0, &worker)], &asker, until).await;
    (worker, asker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_dropped_in_between_is_made_up_for() {
    let mut world = World::prepare(1).await;
    let drops = Arc::new(AtomicU32::new(0));
    let proxy = lossy_proxy(world.root_redis_port, Arc::clone(&drops)).await;
    world.set("ROOT_REDIS_URL", &format!("redis://127.0.0.1:{proxy}"));
    let (worker, asker) = one_job(&mut world).await;
    // Nothing is lost: it comes at once.
    asker.node.forget();
    world.instance(1, 1, &worker).await;
    asker.node.receives("updates_available").await;
    let both = [(0, &worker), (1, &worker)];
    world
        .agree(1, &both, &asker, Instant::now() + AGREEMENT)
        .await;

    drops.store(1, Ordering::Relaxed);
    world.drain(1, 0).await;
    let until = Instant::now() + AGREEMENT;
    world.agree(1, &both, &asker, until).await;
    assert_eq!(drops.load(Ordering::Relaxed), 0, "it was dropped");
    assert_eq!(
        world.job(1).await.unwrap()["instance_list"][0]["draining"],
        true
    );
}

struct Server {
    port: u16,
    process: Process,
}

async fn cluster_server(folder: &std::path::Path) -> Server {
    let port = free_port();
    let dir = folder.join(format!("server-{port}"));
    std::fs::create_dir_all(&dir).unwrap();
    // The default bus, port + 10000, may belong to a neighbour.
    let bus = free_port().to_string();
    let settings = [
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "1500",
        "--cluster-port",
        &bus,
        "--repl-ping-replica-period",
        "1",
    ];
    let process = servers::redis(port, &dir, &settings).unwrap();
    eventually("the server answers", async || {
        (cli(port, "PING") == "PONG").then_some(())
    })
    .await;
    Server { port, process }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_the_cluster_server_that_holds_the_subscription_is_survived() {
    let folder = folder();
    let mut servers = Vec::new();
    for _ in 0..4 {
        servers.push(cluster_server(folder.path()).await);
    }
    for (server, (first, last)) in servers
        .iter()
        .zip([(0, 5460), (5461, 10922), (10923, 16383)])
    {
        assert_eq!(
            cli(
                server.port,
                &format!("CLUSTER ADDSLOTSRANGE {first} {last}")
            ),
            "OK"
        );
    }
    for server in &servers[1..] {
        let bus = cli(server.port, "CONFIG GET cluster-port");
        let bus = bus.lines().last().unwrap();
        let meet = format!("CLUSTER MEET 127.0.0.1 {} {bus}", server.port);
        assert_eq!(cli(servers[0].port, &meet), "OK");
    }
    eventually("the cluster is well", async || {
        let well = |server: &Server| {
            let info = cli(server.port, "CLUSTER INFO");
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:4")
        };
        servers.iter().all(well).then_some(())
    })
    .await;
    let slot: u32 = cli(servers[0].port, "CLUSTER KEYSLOT {oak:root}:")
        .parse()
        .unwrap();
    let owner = usize::try_from(slot / 5461).unwrap().min(2);
    let owner_id = cli(servers[owner].port, "CLUSTER MYID");
    let replicate = format!("CLUSTER REPLICATE {owner_id}");
    assert_eq!(cli(servers[3].port, &replicate), "OK");
    eventually("the replica follows", async || {
        let info = cli(servers[3].port, "INFO replication");
        info.contains("master_link_status:up").then_some(())
    })
    .await;

    let hosts: Vec<String> = servers
        .iter()
        .map(|server| format!("127.0.0.1:{}", server.port))
        .collect();
    let url = format!("redis-cluster://{}", hosts.join(","));
    let mut world = World::without_root_redis(1, folder, &url).await;
    world.set("ROOT_REDIS_URL", &url);
    // Both managers may share it: their keys are in slots of their own.
    world.set("REDIS_URL", &url);
    let (worker, asker) = one_job(&mut world).await;

    servers[owner].process.kill();
    // The next call waits for the replica's promotion.
    world.drain(1, 0).await;
    let until = Instant::now() + AGREEMENT;
    world.agree(1, &[(0, &worker)], &asker, until).await;
    assert_eq!(
        world.job(1).await.unwrap()["instance_list"][0]["draining"],
        true
    );
    // The new subscription brings what comes now.
    eventually("the promoted server is listened to", async || {
        let listeners = cli(servers[3].port, "PUBSUB NUMSUB oak:root:changes:c1");
        (listeners.lines().last()? == "1").then_some(())
    })
    .await;
    asker.node.forget();
    world.instance(1, 1, &worker).await;
    let until = Instant::now() + AGREEMENT;
    world
        .agree(1, &[(0, &worker), (1, &worker)], &asker, until)
        .await;
}
