//! Who may do what: Mosquitto with the rules of `mosquitto-acl`, and the managers' own interface.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test each is an assertion"
)]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use support::{APP, Bench, Node, certificates, count, eventually, job};

fn transport(folder: &Path, name: &str) -> Transport {
    let file = |end: &str| folder.join(format!("{name}.{end}"));
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(folder.join("ca.crt")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(file("crt")).unwrap()],
            PrivateKeyDer::from_pem_file(file("plain")).unwrap(),
        )
        .unwrap();
    Transport::Tls(TlsConfiguration::Rustls(Arc::new(tls)))
}

fn broker(bench: &mut Bench, nodes: &[&str]) {
    bench.broker = None;
    let at = bench.folder.path().display().to_string();
    let mut acl = Command::new(env!("CARGO_BIN_EXE_mosquitto-acl"));
    acl.args(["--output", &format!("{at}/acl")]);
    for node in nodes {
        acl.args(["--node", node]);
    }
    assert!(acl.status().unwrap().success());
    let text = format!(
        "listener {} 127.0.0.1\ncafile {at}/ca.crt\ncertfile {at}/broker.crt\nkeyfile {at}/broker.plain\nrequire_certificate true\nuse_identity_as_username true\nacl_file {at}/acl\nset_tcp_nodelay true\nlog_dest none\n",
        bench.broker_port
    );
    let broker = servers::mosquitto(bench.broker_port, bench.folder.path(), &text);
    bench.broker = Some(broker.unwrap());
}

#[tokio::test]
async fn a_certificate_opens_its_own_nodes_topics_and_closes_the_others() {
    let mut bench = Bench::prepare().await;
    certificates(bench.folder.path(), &["worker-1", "worker-2"]);
    broker(&mut bench, &["worker-1=n1", "worker-2=n2"]);
    let folder = bench.folder.path().display().to_string();
    bench.set("MQTT_CERT", &folder);
    bench.set("CLUSTER_SERVICE_KEYFILE_PASSWORD", "secret");
    bench.manager();
    bench.ready().await;
    bench.root.set(job(APP, 3, 2));
    let port = bench.broker_port;
    let as_worker = |name: &str| transport(bench.folder.path(), name);

    // The Net Manager: everything of the contract.
    let one = Node::join_as("n1", "n1", port, true, as_worker("worker-1")).await;
    one.status(true).await;
    one.send("net/subnet", &json!({"METHOD": "GET"})).await;
    assert_eq!(
        one.receives("net/subnetwork/result").await["address"],
        "10.18.0.0"
    );
    one.deployed(APP, 0, 2).await;
    one.receives("updates_available").await;
    one.sees("its instance", APP, |answer| count(answer) == 1)
        .await;
    one.send("net/host/request", &json!({})).await;
    one.receives("net/host/result").await;

    // The NodeEngine beside it has the same certificate, the orchestrator the cluster manager's.
    let engine = Node::join_as("n1-ne", "n1", port, false, as_worker("worker-1")).await;
    let orchestrator = Node::join_as("co", "-", port, false, as_worker("cluster_net")).await;
    for suffix in ["information", "job", "jobs/resources"] {
        orchestrator.subscribe(&format!("nodes/+/{suffix}")).await;
        eventually("the orchestrator hears the engine", async || {
            engine.send(suffix, &json!({"cpu": 1})).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            orchestrator.received(&format!("n1/{suffix}")).pop()
        })
        .await;
    }
    for order in ["control/deploy", "control/delete"] {
        let topic = format!("nodes/n1/{order}");
        orchestrator
            .publish(&topic, &json!({"job_name": APP}))
            .await;
        engine.receives(order).await;
    }

    // Another worker neither speaks for the node nor hears it.
    let two = Node::join_as("n2", "n2", port, true, as_worker("worker-2")).await;
    two.subscribe("nodes/#").await;
    two.subscribe("nodes/n1/control/deploy").await;
    two.publish(
        "nodes/n1/net/service/undeployed",
        &support::announcement(APP, 0, 2),
    )
    .await;
    two.publish("nodes/n1/net/subnet", &json!({"METHOD": "DELETE"}))
        .await;
    two.publish("nodes/n1/net/status", &json!({"online": false}))
        .await;
    two.publish("nodes/n1/control/deploy", &json!({"job_name": "evil"}))
        .await;
    two.publish(
        &format!("jobs/{APP}/updates_available"),
        &json!({"type": "UNDEPLOYMENT"}),
    )
    .await;
    one.forget();
    engine.forget();
    orchestrator
        .publish("nodes/n1/control/deploy", &json!({"job_name": APP}))
        .await;
    engine.receives("control/deploy").await;
    assert_eq!(
        engine.received("control/deploy"),
        [json!({"job_name": APP})]
    );
    // What came after it in its own right has arrived: so has, or has not, what came before.
    assert_eq!(count(&two.query(APP, "").await), 1);
    one.send("net/subnet", &json!({"METHOD": "GET"})).await;
    assert_eq!(
        one.receives("net/subnetwork/result").await["address"],
        "10.18.0.0"
    );
    assert!(one.received("updates_available").is_empty());
    assert!(two.received("control/deploy").is_empty());
    assert_eq!(two.received("net/subnetwork/result").len(), 0);
    assert!(bench.root.calls("DELETE", "/api/net/subnet/").is_empty());
}

#[tokio::test]
async fn the_managers_interface_wants_the_token_and_shows_it_to_the_root() {
    let mut bench = Bench::prepare().await;
    bench.set("API_TOKEN", "hush");
    bench.manager();
    bench.ready().await;
    bench.root.set(job(APP, 3, 1));
    let url = bench.url("/api/net/deployment");
    let body = json!({"job_name": APP});
    let ask = || bench.http.post(&url).json(&body);
    assert_eq!(ask().send().await.unwrap().status(), 401);
    let wrong = ask().bearer_auth("hus").send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    let text = wrong.text().await.unwrap();
    assert!(text.starts_with("{\"message\":"), "{text}");
    assert_eq!(
        ask().bearer_auth("hush").send().await.unwrap().status(),
        200
    );
    let call = bench.root.called("GET", "/api/net/service/").await;
    assert_eq!(call.authorization, "Bearer hush");
}

#[tokio::test]
async fn secrets_are_in_no_log() {
    let bench = Bench::prepare().await;
    let output = Command::new("timeout")
        .args(["-s", "TERM", "3"])
        .arg(env!("CARGO_BIN_EXE_cluster-service-manager"))
        .env_clear()
        .envs([
            ("RUST_LOG", "trace".to_owned()),
            ("MY_PORT", support::free_port().to_string()),
            ("MQTT_BROKER_PORT", bench.broker_port.to_string()),
            (
                "ROOT_SERVICE_MANAGER_URL",
                "http://me:rootroot@127.0.0.1".to_owned(),
            ),
            ("ROOT_SERVICE_MANAGER_PORT", bench.root.port.to_string()),
            (
                "REDIS_URL",
                format!("redis://:redisredis@127.0.0.1:{}", bench.redis_port),
            ),
            (
                "ROOT_REDIS_URL",
                "redis://c1:otherother@127.0.0.1:9".to_owned(),
            ),
            ("API_TOKEN", "tokentoken".to_owned()),
            ("CLUSTER_SERVICE_KEYFILE_PASSWORD", "keykey".to_owned()),
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("waiting for Redis"), "{text}");
    for secret in [
        "rootroot",
        "redisredis",
        "otherother",
        "tokentoken",
        "keykey",
    ] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}
