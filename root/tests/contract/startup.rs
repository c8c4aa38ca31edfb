//! Starting, waiting, stopping, and what every path answers.

use crate::stage::{FakeCluster, Redis, Root, free_port, http, id, until};
use serde_json::json;

#[tokio::test]
async fn it_starts_without_redis_answers_503_and_serves_once_redis_is_there() {
    let mut redis = Redis::start().await;
    redis.kill();
    let root = Root::launch(&redis.url(), &[]).await;
    root.get("/api/net/subnet").await.is(503);
    root.get("/readyz").await.is(503);
    root.service(1).await.is(503);
    redis.again().await;
    root.wait_ready().await;
    root.get("/api/net/subnet").await.is(200);
}

#[tokio::test]
async fn it_rides_out_a_restart_of_redis_and_keeps_what_it_acknowledged() {
    let mut redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.service(1).await.is(200);
    root.instance(1, 0).await.is(200);
    root.register("c1", 1).await;
    let before = root.job(1).await;
    redis.kill();
    root.service(2).await.is(503);
    redis.again().await;
    root.wait_ready().await;
    assert_eq!(root.job(1).await, before);
}

#[tokio::test]
async fn a_restart_of_the_root_changes_nothing() {
    let redis = Redis::start().await;
    let mut root = Root::start(&redis, &[]).await;
    root.register("c1", 1).await;
    root.service(1).await.is(200);
    root.instance(1, 0).await.is(200);
    let before = root.job(1).await;
    assert!(root.terminate().await, "SIGTERM ends it with success");
    let root = Root::start(&redis, &[]).await;
    assert_eq!(root.job(1).await, before);
}

#[tokio::test]
async fn an_empty_redis_after_a_loss_is_a_new_epoch() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.register("c1", 1).await;
    root.service(1).await.is(200);
    let before = root.job(1).await["epoch"].clone();
    assert!(before.is_string());
    redis.ask::<()>(&["FLUSHALL"]).await;
    root.service(1).await.is(200);
    root.register("c1", 1).await;
    assert_ne!(root.job(1).await["epoch"], before);
}

#[tokio::test]
async fn a_store_of_another_version_is_not_touched() {
    let redis = Redis::start().await;
    redis.ask::<()>(&["SET", "{oak:root}:schema", "999"]).await;
    let mut root = Root::spawn(&redis.url(), &[]);
    assert!(!root.ended().await, "it says why and ends");
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]).await;
    assert_eq!(keys, ["{oak:root}:schema"]);
}

#[tokio::test]
async fn unknown_paths_and_methods_answer_json() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.get("/nothing").await.is(404);
    root.get("/api/net/nothing").await.is(404);
    root.get("/api/net/service/deploy").await.is(405);
    root.delete("/api/net/cluster").await.is(405);
    root.post("/api/net/subnet", json!({})).await.is(405);
}

#[tokio::test]
async fn malformed_bodies_are_400_with_a_reason() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    for path in [
        "/api/net/cluster",
        "/api/net/service/deploy",
        "/api/net/instance/deploy",
        "/api/net/service/net_deploy_status",
        "/api/net/host",
    ] {
        for body in ["", "{", "[]", "null", "{}", "{\"_id\":{}}", "\u{0}"] {
            let request = http().post(root.url(path)).body(body);
            root.send(request).await.is(400);
        }
    }
    // JSON counts, not what the header calls it.
    let body = r#"{"cluster_id":"c","cluster_address":"127.0.0.1","cluster_port":"1"}"#;
    let request = http()
        .post(root.url("/api/net/cluster"))
        .header("content-type", "text/plain");
    root.send(request.body(body)).await.is(200);
}

#[tokio::test]
async fn it_listens_on_ipv4_and_ipv6() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    let url = format!("http://[::1]:{}/healthz", root.port);
    assert_eq!(http().get(url).send().await.unwrap().status(), 200);
    root.get("/healthz").await.is(200);
}

#[tokio::test]
async fn a_wrong_redis_url_ends_it_with_a_reason() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_root-service-manager"))
        .env("REDIS_URL", "mongodb://user:hush@h/")
        .env("MY_PORT", free_port().to_string())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("REDIS_URL") && text.contains("redis://"),
        "{text}"
    );
    assert!(!text.contains("hush"), "{text}");
}

#[tokio::test]
async fn metrics_show_clusters_and_pools() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.register("c1", 1).await;
    root.service(1).await.is(200);
    let text = root.get("/metrics").await.is(200).text;
    assert!(
        text.contains("oak_root_cluster_up{cluster_id=\"c1\"} 1"),
        "{text}"
    );
    assert!(text.contains("oak_root_ipv4_next_index 1"), "{text}");
}

#[tokio::test]
async fn metrics_count_requests_by_route_and_how_long_they_took() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[("MAX_BODY_BYTES", "1000")]).await;
    root.register("c1", 1).await;
    for n in 1..4 {
        root.service(n).await.is(200);
        root.job(n).await;
    }
    root.job_for(9, "c1").await.is(404);
    root.get("/nothing").await.is(404);
    root.get("/api/net/cluster").await.is(405);
    root.service_with(1, json!({"filler": "x".repeat(2000)}))
        .await
        .is(413);
    let text = root.get("/metrics").await.is(200).text;
    let table = "/api/net/service/{name}/instances";
    for line in [
        format!(r#"http_requests_total{{method="GET",route="{table}",status="200"}} 3"#),
        format!(r#"http_requests_total{{method="GET",route="{table}",status="404"}} 1"#),
        r#"http_requests_total{method="GET",route="none",status="404"} 1"#.to_owned(),
        r#"http_requests_total{method="GET",route="/api/net/cluster",status="405"} 1"#.to_owned(),
        r#"http_requests_total{method="POST",route="/api/net/service/deploy",status="413"} 1"#
            .to_owned(),
        format!(r#"http_request_duration_seconds_count{{route="{table}"}} 4"#),
        format!(r#"http_request_duration_seconds_bucket{{route="{table}",le="+Inf"}} 4"#),
    ] {
        assert!(text.lines().any(|is| is == line), "{line} in\n{text}");
    }
}

/// A look must not take anything.
#[tokio::test]
async fn a_head_request_hands_out_no_subnetwork() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    let look = http().head(root.url("/api/net/subnet"));
    assert_eq!(look.send().await.unwrap().status(), 405);
    let first = root.get("/api/net/subnet").await.is(200).json();
    assert_eq!(first["subnet_addr"], "10.18.0.0");
}

/// Every key is in one slot, so that the scripts run on a Redis Cluster.
#[tokio::test]
async fn it_works_on_a_redis_cluster() {
    // The default, port + 10000, is among those that the kernel gives to outgoing connections.
    let bus = crate::stage::free_port().to_string();
    let redis = Redis::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await;
    redis
        .ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"])
        .await;
    until("the cluster is up", async || {
        let info: String = redis.ask(&["CLUSTER", "INFO"]).await;
        info.contains("cluster_state:ok").then_some(())
    })
    .await;
    let url = format!("redis-cluster://127.0.0.1:{}", redis.port);
    let root = Root::launch(&url, &[]).await;
    root.wait_ready().await;
    let cluster = FakeCluster::start().await;
    root.register("c1", cluster.port).await;
    root.service(1).await.is(200);
    root.instance(1, 0).await.is(200);
    root.job(1).await;
    root.running(1, 0, 2).await.is(200);
    cluster.told(1).await;
    root.get("/api/net/subnet").await.is(200);
    root.post("/api/net/host", json!({"cluster_id": "c1", "node_id": "n"}))
        .await
        .is(200);
    root.delete(&format!("/api/net/{}/-1", id(1))).await.is(200);
    root.delete(&format!("/api/net/service/{}", id(1)))
        .await
        .is(200);
    root.get("/api/net/changes?cluster_id=c1").await.is(200);
}

/// Every path and method of the description is served, and answers with a status that it names.
#[tokio::test]
async fn the_description_is_true_of_every_path() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    root.register("c1", 1).await;
    let page = root.get("/api/docs").await.is(200);
    // Where a reference root serves its own.
    assert_eq!(root.get("/api/docs/").await.is(200).text, page.text);
    let api = root.get("/docs/openapi.json").await.is(200).json();
    assert!(api["openapi"].as_str().unwrap().starts_with("3."));
    let paths = api["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 23);
    // Events have no end to wait for.
    for (path, methods) in paths.iter().filter(|(path, _)| !path.ends_with("/events")) {
        let filled = path
            .replace("{id}", &id(1))
            .replace("{number}", "0")
            .replace("{name}", "a_b_c_d")
            .replace("{job}", "a.b.c.d")
            .replace("{ip}", "10_30_0_0")
            .replace("{address}", "10.18.0.0")
            .replace("{count}", "1");
        for (method, what) in methods.as_object().unwrap() {
            let verb = method.to_uppercase().parse().unwrap();
            let answer = root
                .send(http().request(verb, root.url(&filled)).body("{}"))
                .await;
            assert!(
                !what["responses"][answer.status.to_string()].is_null(),
                "{method} {path}: {answer:?}"
            );
        }
    }
}

/// Both ways to look at a root that was just started: what it can be told, and what it says.
#[test]
fn help_names_every_variable_and_logs_are_json_where_asked() {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};
    let help = Command::new(env!("CARGO_BIN_EXE_root-service-manager"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for name in [
        "MY_PORT",
        "MY_ADDRESS",
        "REDIS_URL",
        "JWT_GENERATOR_URL",
        "JWT_GENERATOR_PORT",
        "SYSTEM_MANAGER_URL",
        "SYSTEM_MANAGER_PORT",
        "ADDRESS_REST_SECONDS",
        "CLUSTER_EXPIRY_SECONDS",
        "REDIS_CA_FILE",
        "ROOT_KEYFILE_PASSWORD",
        "LOG_JSON",
        "RUST_LOG",
        "cluster-access",
        "import",
        "export",
    ] {
        assert!(help.contains(name), "{name} is missing: {help}");
    }
    let mut root = Command::new(env!("CARGO_BIN_EXE_root-service-manager"))
        .env_remove("RUST_LOG")
        .env("LOG_JSON", "true")
        .env("MY_PORT", crate::stage::free_port().to_string())
        .env("REDIS_URL", "redis://127.0.0.1:9")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(root.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    root.kill().unwrap();
    root.wait().unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["level"], "INFO");
    assert!(line["timestamp"].is_string() && line["fields"]["message"].is_string());
}

/// A certificate authority and a certificate for localhost, made for this test.
fn certificates(folder: &std::path::Path) {
    std::fs::create_dir_all(folder).unwrap();
    let openssl = |line: &str| {
        let output = std::process::Command::new("openssl")
            .args(line.split(' '))
            .current_dir(folder)
            .output()
            .expect("openssl is installed");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=authority -days 2",
    );
    openssl(
        "req -newkey rsa:2048 -nodes -keyout key.pem -out csr.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost",
    );
    openssl(
        "x509 -req -in csr.pem -CA ca.crt -CAkey ca.key -out cert.pem -days 2 -copy_extensions copy",
    );
}

#[tokio::test]
async fn it_speaks_tls_to_redis_and_trusts_only_its_authority() {
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("tls-{}", std::process::id()));
    certificates(&folder);
    let file = |name: &str| folder.join(name).display().to_string();
    let port = free_port().to_string();
    let redis = Redis::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &file("cert.pem"),
        "--tls-key-file",
        &file("key.pem"),
        "--tls-ca-cert-file",
        &file("ca.crt"),
        "--tls-auth-clients",
        "no",
    ])
    .await;
    let url = format!("rediss://localhost:{port}");
    for setting in ["SSL_CERT_FILE", "REDIS_CA_FILE"] {
        let trusting = Root::launch(&url, &[(setting, &file("ca.crt"))]).await;
        trusting.wait_ready().await;
        trusting.get("/api/net/subnet").await.is(200);
    }
    let stranger = Root::launch(&url, &[]).await;
    let refused = stranger.get("/api/net/subnet").await.is(503);
    assert!(
        refused.text.to_lowercase().contains("cert"),
        "{}",
        refused.text
    );
    drop(redis);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_taken_port_ends_it_with_a_reason() {
    let taken = std::net::TcpListener::bind("[::]:0").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_root-service-manager"))
        .env("MY_PORT", taken.local_addr().unwrap().port().to_string())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("is taken") && text.contains("MY_PORT"),
        "{text}"
    );
}

#[tokio::test]
async fn flags_mirror_the_environment_and_show_themselves() {
    let run = |flag: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_root-service-manager"))
            .arg(flag)
            .env("REDIS_URL", "redis://:hush@h")
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run("--version").contains(env!("CARGO_PKG_VERSION")));
    let help = run("--help");
    for name in [
        "MY_PORT",
        "REDIS_URL",
        "JWT_GENERATOR_URL",
        "JWT_GENERATOR_PORT",
        "SYSTEM_MANAGER_URL",
        "SYSTEM_MANAGER_PORT",
    ] {
        assert!(help.contains(name), "{name}");
    }
    assert!(!help.contains("hush"));
}
