//! Managers that know each other by certificate, or by token.

use std::process::Command;
use std::time::Instant;

use crate::support::{certificates, eventually};
use crate::world::{AGREEMENT, World};

fn secured(world: &mut World) {
    let at = world.folder.path().display().to_string();
    certificates(world.folder.path(), &["root", "manager"]);
    for (setting, file) in [
        ("ROOT_CERT_FILE", "root.crt"),
        ("ROOT_KEY_FILE", "root.key"),
        ("CLUSTER_CA_FILE", "ca.crt"),
    ] {
        world.set_root(setting, &format!("{at}/{file}"));
    }
    for (setting, file) in [
        ("CLUSTER_CERT_FILE", "manager.crt"),
        ("CLUSTER_KEY_FILE", "manager.key"),
        ("ROOT_CA_FILE", "ca.crt"),
    ] {
        world.set(setting, &format!("{at}/{file}"));
    }
    world.set("CLUSTER_KEYFILE_PASSWORD", "secret");
    world.set_root("ROOT_KEYFILE_PASSWORD", "secret");
    world.set("ROOT_SERVICE_MANAGER_USE_TLS", "True");
    world.set("CLUSTER_SERVICE_MANAGER_USE_TLS", "1");
    world.set_root("CLUSTER_SERVICE_MANAGER_USE_TLS", "true");
}

/// Status of a call to the root with the certificate of `who`, `000` when there is none.
fn curl(world: &World, who: Option<&str>, arguments: &[&str], path: &str) -> String {
    let at = world.folder.path();
    let mut command = Command::new("curl");
    command.args([
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--max-time",
        "5",
        "--cacert",
    ]);
    command.arg(at.join("ca.crt"));
    if let Some(who) = who {
        command.arg("--cert").arg(at.join(format!("{who}.crt")));
        command.arg("--key").arg(at.join(format!("{who}.plain")));
    }
    command
        .args(arguments)
        .arg(format!("https://127.0.0.1:{}{path}", world.root_ports[0]));
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_open_the_managers_interfaces_in_both_directions() {
    let mut world = World::prepare(1).await;
    secured(&mut world);
    // Only what is notified may tell: no question would find it.
    world.set("CHANGES_POLL_SECONDS", "3600");
    world.roots = vec![world.start_root(0)];
    world.managers = vec![world.start_manager(0)];
    eventually("the root is ready", async || {
        (curl(&world, None, &[], "/readyz") == "200").then_some(())
    })
    .await;
    assert_eq!(curl(&world, None, &[], "/api/net/subnet"), "401");
    assert_eq!(curl(&world, Some("manager"), &[], "/api/net/subnet"), "200");
    let plain = format!("http://127.0.0.1:{}/healthz", world.root_ports[0]);
    assert!(
        world.http.get(plain).send().await.is_err(),
        "TLS set up is TLS only"
    );

    let post = |path: &str, body: String| {
        let arguments = ["-X", "POST", "-d", &body];
        assert_eq!(curl(&world, Some("manager"), &arguments, path), "200");
    };
    post(
        "/api/net/cluster",
        format!(
            r#"{{"cluster_id":"c1","cluster_address":"127.0.0.1","cluster_port":{}}}"#,
            world.manager
        ),
    );
    let id = crate::world::id(1);
    post(
        "/api/net/service/deploy",
        format!(
            r#"{{"_id":"{id}","deployment_descriptor":{{"app_name":"app","app_ns":"test","service_name":"s1","service_ns":"test","microservice_name":"s1","microservice_namespace":"test"}}}}"#
        ),
    );
    post(
        "/api/net/instance/deploy",
        format!(r#"{{"_id":"{id}","instance_number":0,"cluster_id":"c1"}}"#),
    );
    let worker = world.worker("w1").await;
    worker.deployed(1, 0).await;
    let sees = async |field: &str, value: serde_json::Value| {
        let start = Instant::now();
        loop {
            let answer = worker.node.query(&crate::world::name(1), "").await;
            if answer["instance_list"][0][field] == value {
                return;
            }
            assert!(start.elapsed() < AGREEMENT, "{field}: {answer}");
        }
    };
    sees("host_port", 50103.into()).await;
    // The root calls back by TLS, with its certificate.
    post(&format!("/api/net/{id}/0/drain"), String::from("{}"));
    sees("draining", true.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_need_each_other_say_so() {
    let program = env!("CARGO_BIN_EXE_cluster-service-manager");
    for (setting, value, said) in [
        ("ROOT_SERVICE_MANAGER_USE_TLS", "true", "ROOT_CA_FILE"),
        ("CLUSTER_CERT_FILE", "x", "CLUSTER_KEY_FILE"),
        (
            "CLUSTER_SERVICE_MANAGER_USE_TLS",
            "true",
            "CLUSTER_CERT_FILE",
        ),
    ] {
        let output = Command::new(program)
            .env_clear()
            .env(setting, value)
            .output()
            .unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(said), "{setting}: {text}");
    }
}
