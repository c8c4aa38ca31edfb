//! Links and subscriptions against real servers that are killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "an unwrap in a test is an assertion, in what the tests share too"
)]

use std::time::{Duration, Instant};

use redis_link::{Event, Link, LinkError, Script, Target};
use servers::{Folder, Process, Signal, free_port};

const DEADLINE: Duration = Duration::from_secs(60);
const KEY: &str = "{oak:test}:key";

async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Server {
    port: u16,
    args: Vec<String>,
    // Ends before its folder goes.
    process: Option<Process>,
    folder: Folder,
}

impl Server {
    async fn start(args: &[&str]) -> Self {
        let mut server = Self {
            port: free_port().unwrap(),
            args: args.iter().map(ToString::to_string).collect(),
            process: None,
            folder: Folder::new("link").unwrap(),
        };
        server.again().await;
        server
    }

    async fn again(&mut self) {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let process = servers::redis_with_file(self.port, self.folder.path(), &args);
        self.process = Some(process.expect("redis-server is installed"));
        let link = self.link();
        until("the server answers", async || link.ping().await.ok()).await;
    }

    fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it without closing its connections, as a lost network does, or lets it go on.
    fn signal(&mut self, signal: Signal) {
        self.process.as_mut().unwrap().signal(signal).unwrap();
    }

    fn link(&self) -> Link {
        link(&format!("redis://127.0.0.1:{}", self.port))
    }
}

fn link(url: &str) -> Link {
    Link::new(Target::parse(url).unwrap(), KEY)
}

async fn set(link: &Link, value: &str) -> Result<(), LinkError> {
    let mut command = redis_link::cmd("SET");
    command.arg(KEY).arg(value);
    link.query(&command).await
}

async fn get(link: &Link) -> Result<Option<String>, LinkError> {
    let mut command = redis_link::cmd("GET");
    command.arg(KEY);
    link.query(&command).await
}

async fn publish(link: &Link, text: &str) {
    let mut command = redis_link::cmd("PUBLISH");
    command.arg("oak:test:channel").arg(text);
    link.query::<i64>(&command).await.unwrap();
}

#[tokio::test]
async fn a_link_comes_back_with_its_server() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let link = server.link();
    set(&link, "a").await.unwrap();
    server.kill();
    let error = get(&link).await.unwrap_err();
    assert!(error.is_temporary());
    assert!(
        error.to_string().contains(&server.port.to_string()),
        "{error}"
    );
    server.again().await;
    link.ready().await;
    assert_eq!(get(&link).await.unwrap().as_deref(), Some("a"));
    // A connection that broke while nobody looked costs the next caller nothing.
    server.kill();
    server.again().await;
    until("the hold-off ends", async || get(&link).await.ok()).await;
}

#[tokio::test]
async fn scripts_are_given_to_a_server_that_forgot_them_and_their_errors_are_readable() {
    let server = Server::start(&[]).await;
    let link = server.link();
    let script = Script::new(
        "if ARGV[1] == 'x' then return redis.error_reply('TAKEN by me') end return ARGV[1]",
    );
    for _ in 0..2 {
        let mut call = script.prepare_invoke();
        call.key(KEY).arg("y");
        assert_eq!(link.invoke::<String>(&call).await.unwrap(), "y");
        link.query::<()>(redis_link::cmd("SCRIPT").arg("FLUSH"))
            .await
            .unwrap();
    }
    let mut call = script.prepare_invoke();
    call.key(KEY).arg("x");
    let error = link.invoke::<String>(&call).await.unwrap_err();
    assert_eq!(error.script_error(), Some(("TAKEN", "by me")));
    assert!(!error.is_temporary());
}

#[tokio::test]
async fn wrong_credentials_are_named_without_the_password() {
    let server = Server::start(&[]).await;
    server
        .link()
        .query::<()>(
            redis_link::cmd("CONFIG")
                .arg("SET")
                .arg("requirepass")
                .arg("right"),
        )
        .await
        .unwrap();
    let wrong = link(&format!("redis://:hush@127.0.0.1:{}", server.port));
    let error = wrong.ping().await.unwrap_err();
    assert!(matches!(error, LinkError::Credentials { .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("hush"));
    link(&format!("redis://:right@127.0.0.1:{}", server.port))
        .ping()
        .await
        .unwrap();
}

/// Pitfall 59: the subscribed server is killed.
#[tokio::test]
async fn a_subscription_survives_its_server_and_reports_the_gap() {
    let mut server = Server::start(&[]).await;
    let link = server.link();
    let mut subscription = link.subscribe(vec!["oak:test:channel".to_owned()]);
    assert_eq!(subscription.next().await, Event::Gap);
    publish(&link, "one").await;
    let message = |text: &str| Event::Message {
        channel: "oak:test:channel".to_owned(),
        payload: text.as_bytes().to_vec(),
    };
    assert_eq!(subscription.next().await, message("one"));
    server.kill();
    server.again().await;
    let event = tokio::time::timeout(DEADLINE, subscription.next())
        .await
        .unwrap();
    assert_eq!(event, Event::Gap);
    link.ready().await;
    publish(&link, "two").await;
    assert_eq!(subscription.next().await, message("two"));
}

/// Pitfall 59: the server falls silent, and no packet says so.
#[tokio::test]
async fn a_silent_server_is_given_up_after_three_seconds() {
    let mut server = Server::start(&[]).await;
    let link = server.link();
    let mut subscription = link.subscribe(vec!["oak:test:channel".to_owned()]);
    assert_eq!(subscription.next().await, Event::Gap);
    server.signal(Signal::SIGSTOP);
    let start = Instant::now();
    // Nothing is reported until it can be subscribed again.
    let quiet = tokio::time::timeout(Duration::from_secs(6), subscription.next()).await;
    server.signal(Signal::SIGCONT);
    assert!(quiet.is_err());
    let event = tokio::time::timeout(DEADLINE, subscription.next())
        .await
        .unwrap();
    assert_eq!(event, Event::Gap);
    assert!(start.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn a_cluster_is_asked_who_serves_our_slot() {
    // The default bus, port + 10000, may be another test's.
    let buses = [free_port().unwrap(), free_port().unwrap()];
    let start = async |bus: u16| {
        let bus = bus.to_string();
        Server::start(&[
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1000",
            "--cluster-port",
            &bus,
        ])
        .await
    };
    let (seed, owner) = (start(buses[0]).await, start(buses[1]).await);
    let (seed_link, owner_link) = (seed.link(), owner.link());
    let slot: u32 = seed_link
        .query(redis_link::cmd("CLUSTER").arg("KEYSLOT").arg(KEY))
        .await
        .unwrap();
    let give = async |link: &Link, first: u32, last: u32| {
        let mut command = redis_link::cmd("CLUSTER");
        command.arg("ADDSLOTSRANGE").arg(first).arg(last);
        link.query::<()>(&command).await.unwrap();
    };
    // Only our slot is on the second server; the URL names the first.
    give(&owner_link, slot, slot).await;
    give(&seed_link, 0, slot - 1).await;
    give(&seed_link, slot + 1, 16383).await;
    seed_link
        .query::<()>(
            redis_link::cmd("CLUSTER")
                .arg("MEET")
                .arg("127.0.0.1")
                .arg(owner.port)
                .arg(buses[1]),
        )
        .await
        .unwrap();
    let link = link(&format!("redis-cluster://127.0.0.1:{}", seed.port));
    until("the cluster agrees", async || set(&link, "a").await.ok()).await;
    assert_eq!(get(&owner_link).await.unwrap().as_deref(), Some("a"));
    let mut subscription = link.subscribe(vec!["oak:test:channel".to_owned()]);
    assert_eq!(subscription.next().await, Event::Gap);
    publish(&link, "one").await;
    assert!(matches!(subscription.next().await, Event::Message { .. }));
}

#[tokio::test]
async fn sentinel_names_the_master_and_after_a_failover_the_next() {
    let mut master = Server::start(&[]).await;
    let replica = Server::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
    let sentinel = Server::start(&["--sentinel"]).await;
    let sentinel_link = sentinel.link();
    let tell = async |words: &[&str]| {
        let mut command = redis_link::cmd("SENTINEL");
        for word in words {
            command.arg(*word);
        }
        sentinel_link.query::<()>(&command).await.unwrap();
    };
    tell(&[
        "MONITOR",
        "main",
        "127.0.0.1",
        &master.port.to_string(),
        "1",
    ])
    .await;
    // Nobody is taken for dead before it is, however busy the machine.
    tell(&["SET", "main", "down-after-milliseconds", "60000"]).await;
    // A failover that does not come about is tried again after twice this.
    tell(&["SET", "main", "failover-timeout", "2000"]).await;
    let link = link(&format!(
        "redis-sentinel://127.0.0.1:{}/0?service=main",
        sentinel.port
    ));
    until("the master takes writes", async || {
        set(&link, "a").await.ok()
    })
    .await;
    let replica_link = replica.link();
    until("the replica has it", async || {
        (get(&replica_link).await.ok()??.as_str() == "a").then_some(())
    })
    .await;
    until("the sentinel knows the replica", async || {
        let mut command = redis_link::cmd("SENTINEL");
        command.arg("REPLICAS").arg("main");
        let known: Vec<redis_link::Value> = sentinel_link.query(&command).await.ok()?;
        (!known.is_empty()).then_some(())
    })
    .await;
    master.kill();
    tell(&["SET", "main", "down-after-milliseconds", "500"]).await;
    until("the next master takes writes", async || {
        set(&link, "b").await.ok()
    })
    .await;
    // It cut its connections when it was promoted.
    let now = until("it answers", async || get(&replica_link).await.ok()).await;
    assert_eq!(now.as_deref(), Some("b"));
    let other = self::link(&format!(
        "redis-sentinel://127.0.0.1:{}/0?service=other",
        sentinel.port
    ));
    let error = other.ping().await.unwrap_err();
    assert!(matches!(error, LinkError::NoMaster { .. }), "{error}");
}

/// The root's Redis gives a cluster a user that may subscribe to its own channel and nothing else.
#[tokio::test]
async fn a_user_who_may_only_subscribe_is_enough() {
    let server = Server::start(&[]).await;
    let admin = server.link();
    let mut command = redis_link::cmd("ACL");
    for word in [
        "SETUSER",
        "c1",
        "on",
        ">pw",
        "resetchannels",
        "&oak:test:channel",
        "-@all",
        "+subscribe",
    ] {
        command.arg(word);
    }
    admin.query::<()>(&command).await.unwrap();
    let link = link(&format!("redis://c1:pw@127.0.0.1:{}", server.port));
    let mut subscription = link.subscribe(vec!["oak:test:channel".to_owned()]);
    assert_eq!(subscription.next().await, Event::Gap);
    // Heartbeats are refused, which is an answer: no gap comes of it.
    let quiet = tokio::time::timeout(Duration::from_secs(5), subscription.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    publish(&admin, "one").await;
    assert!(matches!(subscription.next().await, Event::Message { .. }));
    assert!(get(&link).await.is_err());
}
