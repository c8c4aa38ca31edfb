//! MQTT over TLS with an encrypted key, as upstream sets it up.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test each is an assertion"
)]

mod support;

use std::process::Command;

use support::{Bench, certificates, eventually};

async fn broker(bench: &mut Bench) {
    bench.broker = None;
    let at = bench.folder.path().display().to_string();
    let text = format!(
        "listener {} 127.0.0.1\ncafile {at}/ca.crt\ncertfile {at}/broker.crt\nkeyfile {at}/broker.plain\nrequire_certificate true\nallow_anonymous true\nlog_dest none\n",
        bench.broker_port
    );
    let broker = servers::mosquitto(bench.broker_port, bench.folder.path(), &text);
    bench.broker = Some(broker.unwrap());
}

#[tokio::test]
async fn an_encrypted_key_opens_a_session_over_tls_and_never_one_without() {
    let mut bench = Bench::prepare().await;
    certificates(bench.folder.path(), &[]);
    let folder = bench.folder.path().display().to_string();
    bench.set("MQTT_CERT", &folder);
    bench.set("CLUSTER_SERVICE_KEYFILE_PASSWORD", "secret");

    // Against a plain broker there is no session: TLS set up means TLS only.
    bench.manager();
    eventually("Redis is ready", async || {
        let answer = bench.http.get(bench.url("/readyz")).send().await.ok()?;
        (answer.status() == 200).then_some(())
    })
    .await;
    assert_eq!(bench.metric("mqtt_sessions_total").await, 0);
    broker(&mut bench).await;
    bench.ready().await;
    assert!(bench.metric("mqtt_sessions_total").await >= 1);
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_said() {
    let folder = support::folder();
    certificates(folder.path(), &[]);
    for (password, said) in [
        (Some("wrong"), "cannot be decrypted"),
        (None, "set CLUSTER_SERVICE_KEYFILE_PASSWORD"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cluster-service-manager"));
        command.env_clear().arg("--mqtt-cert").arg(folder.path());
        if let Some(password) = password {
            command.env("CLUSTER_SERVICE_KEYFILE_PASSWORD", password);
        }
        let output = command.output().unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(said), "{text}");
    }
}
