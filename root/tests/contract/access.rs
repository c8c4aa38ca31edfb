//! Who may call, and how much.

use serde_json::json;

use crate::stage::{FakeCluster, Redis, Root, http};

#[tokio::test]
async fn with_a_token_the_managers_interface_is_closed_and_the_rest_open() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[("API_TOKEN", "hush")]).await;
    for (path, status) in [
        ("/api/net/subnet", 401),
        ("/api/net/service/a_b_c_d/instances", 401),
        ("/healthz", 200),
        ("/metrics", 200),
        ("/api/pubnet/service/netinfo/available-ip", 200),
    ] {
        root.get(path).await.is(status);
    }
    let shown = |token: &str| http().get(root.url("/api/net/subnet")).bearer_auth(token);
    root.send(shown("hus")).await.is(401);
    root.send(shown("hush")).await.is(200);

    // It shows the token to the clusters that it notifies.
    let cluster = FakeCluster::start().await;
    let post = |path: &str, body| {
        let request = http().post(root.url(path)).bearer_auth("hush");
        root.send(request.json(&body))
    };
    let body =
        json!({"cluster_id": "c1", "cluster_address": "127.0.0.1", "cluster_port": cluster.port});
    post("/api/net/cluster", body).await.is(200);
    let service = crate::stage::service_body(1, json!({}));
    post("/api/net/service/deploy", service).await.is(200);
    let instance = json!({"_id": crate::stage::id(1), "instance_number": 0, "cluster_id": "c1"});
    post("/api/net/instance/deploy", instance).await.is(200);
    let ask = root.url("/api/net/service/app_test_s1_test/instances");
    root.send(http().get(ask).bearer_auth("hush")).await.is(200);
    let gone = root.url(&format!("/api/net/{}/0", crate::stage::id(1)));
    root.send(http().delete(gone).bearer_auth("hush"))
        .await
        .is(200);
    cluster.told(1).await;
    assert_eq!(
        cluster.authorizations.lock().unwrap().as_slice(),
        ["Bearer hush"]
    );
}

#[tokio::test]
async fn one_caller_takes_no_more_than_the_limits() {
    let redis = Redis::start().await;
    let limits = [
        ("MAX_BODY_BYTES", "1000"),
        ("MAX_REQUESTS_PER_SECOND", "50"),
        ("MAX_CONNECTIONS", "8"),
    ];
    let root = Root::start(&redis, &limits).await;
    let large = json!({"_id": "x".repeat(2000)});
    root.post("/api/net/service/deploy", large).await.is(413);
    let mut refused = 0;
    for _ in 0..200 {
        let answer = root.get("/healthz").await;
        refused += usize::from(answer.status == 429);
    }
    assert!(refused > 0, "200 requests at once at 50 per second");
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    root.get("/healthz").await.is(200);

    // Half of the connections are one source's; whoever closes one makes room.
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(
            tokio::net::TcpStream::connect(("127.0.0.1", root.port))
                .await
                .unwrap(),
        );
    }
    let fresh = || http().get(root.url("/healthz")).send();
    crate::stage::until("new connections are closed", async || fresh().await.err()).await;
    drop(open);
    crate::stage::until("there is room again", async || fresh().await.ok()).await;
}

#[tokio::test]
async fn every_refusal_is_json() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    for path in [
        "/api/net/service/%ff/instances",
        "/api/net/service/ip/%ff/instances",
        "/api/pubnet/service/netinfo/available-ip/1?v=%ff&v=4",
        "/api/net/changes?since=%ff&since=1",
    ] {
        root.get(path).await.is(400);
    }
    root.delete("/api/net/subnet/%ff").await.is(400);
    root.delete("/api/net/%ff/0").await.is(400);
}

#[tokio::test]
async fn secrets_are_in_no_log() {
    let redis = Redis::start().await;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", "geheim"])
        .query_async::<()>(&mut connection)
        .await
        .unwrap();
    for password in ["geheim", "falsch"] {
        let url = redis.url().replace("//", &format!("//:{password}@"));
        let output = std::process::Command::new("timeout")
            .args(["-s", "TERM", "2"])
            .arg(env!("CARGO_BIN_EXE_root-service-manager"))
            .env("RUST_LOG", "trace")
            .env("MY_PORT", crate::stage::free_port().to_string())
            .env("REDIS_URL", &url)
            .env("API_TOKEN", "tokentoken")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("root service manager starts"), "{text}");
        for secret in [password, "tokentoken"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}
