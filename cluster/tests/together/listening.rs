//! The root's Redis gives each cluster a user of its own, by TLS: it may listen to its own channel and do nothing else.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use serde_json::json;

use crate::support::{Process, eventually, folder, free_port};
use crate::world::{AGREEMENT, World, root_program};

/// What the root's orchestrator calls the cluster `c1`, which it does not tell it.
const ID: &str = "65f0c0ffee65f0c0ffee65f0";
const OTHER: &str = "65f0c0ffee65f0c0ffee65f1";

/// The root's Redis, with what scripts/certificates makes for it.
struct RootRedis {
    port: u16,
    tls: u16,
}

impl RootRedis {
    fn start(&self, folder: &Path) -> Process {
        let file = |name: &str| {
            let path = folder.join("secrets/redis_rootnet").join(name);
            path.display().to_string()
        };
        let data = folder.join("root");
        std::fs::create_dir_all(&data).unwrap();
        servers::redis(
            self.port,
            &data,
            &[
                "--aclfile",
                &file("users.acl"),
                "--tls-port",
                &self.tls.to_string(),
                "--tls-cert-file",
                &file("redis.crt"),
                "--tls-key-file",
                &file("redis.key"),
                "--tls-ca-cert-file",
                &file("ca.crt"),
                "--tls-auth-clients",
                "no",
            ],
        )
        .unwrap()
    }
}

async fn world() -> (World, RootRedis) {
    let folder = folder();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/certificates");
    // Twice: what is there stays.
    for _ in 0..2 {
        let made = Command::new(&script)
            .env("REDIS_UID", "0")
            .arg("--in")
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
    }
    let variables = std::fs::read_to_string(folder.file(".env")).unwrap();
    let password = variables
        .trim()
        .strip_prefix("ROOT_REDIS_PASSWORD=")
        .unwrap();
    let redis = RootRedis {
        port: free_port(),
        tls: free_port(),
    };
    let server = redis.start(folder.path());
    let url = format!("redis://root:{password}@127.0.0.1:{}", redis.port);
    let mut world = World::without_root_redis(1, folder, &url).await;
    world.root_redis = Some(server);
    (world, redis)
}

fn access(world: &World, arguments: &[&str]) -> Output {
    Command::new(root_program())
        .env_clear()
        .env("REDIS_URL", &world.root_redis_url)
        .arg("cluster-access")
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap().trim().to_owned()
}

/// `redis-cli` by TLS as one of these users.
fn cli(world: &World, url: &str, words: &[&str]) -> String {
    let output = Command::new("timeout")
        .args(["2", "redis-cli", "--no-auth-warning", "-u", url, "--cacert"])
        .arg(world.folder.file("secrets/ca.crt"))
        .args(words)
        .output()
        .unwrap();
    text(&output.stdout) + &text(&output.stderr)
}

/// Who listens to a channel, as the root's own user sees it.
fn listeners(world: &World, id: &str) -> String {
    let channel = format!("oak:root:changes:{id}");
    let answer = cli(
        world,
        &world.root_redis_url,
        &["PUBSUB", "NUMSUB", &channel],
    );
    answer.lines().last().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_hears_of_changes_by_tls_and_can_do_nothing_else_there() {
    let (mut world, redis) = world().await;
    let tls = redis.tls;
    let place = format!("rediss://127.0.0.1:{tls}");
    world.roots = vec![world.start_root(0)];
    let made = access(&world, &[ID, "--url", &place]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    // One line that an environment file takes; nothing of it anywhere else.
    let line = text(&made.stdout);
    let url = line.strip_prefix("ROOT_REDIS_URL=").unwrap().to_owned();
    assert!(url.starts_with(&format!("rediss://cluster-{ID}:")), "{url}");
    assert!(url.ends_with(&format!("@127.0.0.1:{tls}")), "{url}");
    let password = url.split([':', '@']).nth(2).unwrap();
    assert!(password.len() >= 64, "{url}");
    let users =
        std::fs::read_to_string(world.folder.file("secrets/redis_rootnet/users.acl")).unwrap();
    assert!(users.contains(ID) && !users.contains(password), "{users}");
    assert!(!text(&made.stderr).contains(password));

    let own = format!("oak:root:changes:{ID}");
    let others = format!("oak:root:changes:{OTHER}");
    assert!(cli(&world, &url, &["SUBSCRIBE", &own]).contains(&own));
    assert_eq!(cli(&world, &url, &["PING"]), "PONG");
    for words in [
        &["SUBSCRIBE", &others][..],
        &["SUBSCRIBE", &own, &others],
        &["PSUBSCRIBE", "*"],
        &["PUBLISH", &own, "{}"],
        &["GET", "{oak:root}:epoch"],
        &["SET", "x", "y"],
        &["KEYS", "*"],
        &["ACL", "LIST"],
        &["CONFIG", "GET", "*"],
        &["INFO"],
        &["EVAL", "return 1", "0"],
    ] {
        let answer = cli(&world, &url, words);
        assert!(answer.contains("NOPERM"), "{words:?}: {answer}");
    }
    // Who shows no password gets nowhere, by TLS either.
    assert!(cli(&world, &place, &["PING"]).contains("NOAUTH"));

    // The cluster is registered under an id that only the root and its orchestrator know, and notified where nobody is.
    world.set("ROOT_REDIS_URL", &url);
    let authority = world.folder.file("secrets/ca.crt").display().to_string();
    world.set("ROOT_REDIS_CA_FILE", &authority);
    world.set("CHANGES_POLL_SECONDS", "3600");
    world.managers = vec![world.start_manager(0)];
    world.ready().await;
    let body =
        json!({"cluster_id": ID, "cluster_address": "127.0.0.1", "cluster_port": free_port()});
    world
        .orchestrate(reqwest::Method::POST, "/api/net/cluster", &body)
        .await;
    eventually("the manager listens to its channel", async || {
        (listeners(&world, ID) == "1").then_some(())
    })
    .await;
    let (worker, asker) = (world.worker("w1").await, world.worker("w2").await);
    world.service(1).await;
    world.instance(1, 0, &worker).await;
    let until = Instant::now() + AGREEMENT;
    world.agree(1, &[(0, &worker)], &asker, until).await;
    world.drain(1, 0).await;
    let until = Instant::now() + AGREEMENT;
    world.agree(1, &[(0, &worker)], &asker, until).await;
    let job = world.job(1).await.unwrap();
    assert_eq!(job["instance_list"][0]["draining"], true);

    // Its Redis starts again: it knows all that it knew, and so do its users.
    world.root_redis = None;
    world.root_redis = Some(redis.start(world.folder.path()));
    eventually("the root has its state", async || {
        (world.job(1).await? == job).then_some(())
    })
    .await;
    eventually("the manager listens again", async || {
        (listeners(&world, ID) == "1").then_some(())
    })
    .await;

    // A new password closes the old one, and no access is none.
    let again = access(&world, &[ID, "--url", &place]);
    let next = text(&again.stdout).replace("ROOT_REDIS_URL=", "");
    assert!(cli(&world, &url, &["PING"]).contains("WRONGPASS"));
    assert_eq!(cli(&world, &next, &["PING"]), "PONG");
    assert!(access(&world, &[ID, "--revoke"]).status.success());
    assert!(cli(&world, &next, &["PING"]).contains("WRONGPASS"));
    eventually("its connections are closed", async || {
        (listeners(&world, ID) == "0").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn access_that_makes_no_sense_is_refused_with_a_reason() {
    let (world, redis) = world().await;
    let place = format!("rediss://127.0.0.1:{}", redis.tls);
    for (arguments, said) in [
        (&["a*", "--url", &place][..], "no cluster id"),
        (&["", "--url", &place], "no cluster id"),
        (&[ID], "--url"),
        (&[ID, "--url", "http://x"], "CLUSTERS_REDIS_URL"),
    ] {
        let output = access(&world, arguments);
        assert!(!output.status.success(), "{arguments:?}");
        let error = text(&output.stderr);
        assert!(error.contains(said), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty());
    }
}
