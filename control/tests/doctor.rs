//! `doctor` on a live node: nothing to say about a healthy one, and each fault is found with what to do about it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test they are assertions.

mod world;

use std::path::PathBuf;

use control::forwarding::{Count, PeerLine, RoleCounts};
use serde_json::Value;
use world::{Broker, Cluster, Served, Sleeper, World, eventually, ip, isolated, run, scratch};

const JOB: &str = "app1.test.client.test";

/// The node's settings, and what `doctor` says by them.
struct Doctor {
    served: Served,
    folder: PathBuf,
}

impl Doctor {
    fn new(served: Served) -> Self {
        let folder = scratch("doctor");
        std::fs::write(
            folder.join("netcfg.json"),
            r#"{"ClusterUrl":"127.0.0.1","ClusterMqttPort":"10003"}"#,
        )
        .unwrap();
        Self { served, folder }
    }

    async fn command(&self, more: &[&str]) -> (Option<i32>, String, String) {
        let path = |name: &str| self.folder.join(name).to_str().unwrap().to_owned();
        let (config, tun, state) = (path("netcfg.json"), path("tuncfg.json"), path(""));
        let mut arguments = vec![
            "--config",
            &config,
            "--tun-config",
            &tun,
            "--state-dir",
            &state,
        ];
        arguments.push("doctor");
        arguments.extend(more);
        self.served.command(&arguments).await
    }

    /// All findings, after a look at the exit status.
    async fn findings(&self) -> Vec<Value> {
        let (status, output, error) = self.command(&["--json"]).await;
        let report: Value = serde_json::from_str(&output).unwrap_or_else(|_| panic!("{error}"));
        assert_eq!(report["ok"] == true, status == Some(0), "{output}");
        let findings = report["findings"].as_array().unwrap().clone();
        for finding in &findings {
            let said = |field: &str| finding[field].as_str().is_some_and(|text| !text.is_empty());
            assert!(said("check") && said("finding"), "{finding}");
            assert_eq!(said("remedy"), finding["status"] != "ok", "{finding}");
        }
        findings
    }

    /// What is said of one thing, in the worst of its findings.
    async fn of(&self, check: &str) -> (String, String) {
        let findings = self.findings().await;
        let named = findings.iter().filter(|finding| finding["check"] == check);
        let rank = |finding: &&Value| match finding["status"].as_str() {
            Some("fail") => 2,
            Some("warn") => 1,
            _ => 0,
        };
        let worst = named
            .max_by_key(rank)
            .unwrap_or_else(|| panic!("{check}: {findings:#?}"));
        let text = |field: &str| worst[field].as_str().unwrap_or("").to_owned();
        (
            text("status"),
            format!("{} -> {}", text("finding"), text("remedy")),
        )
    }

    async fn expect(&self, check: &str, status: &str, words: &[&str]) {
        let (found, text) = self.of(check).await;
        assert_eq!(found, status, "{check}: {text}");
        for word in words {
            assert!(text.contains(word), "{check}: {word} in {text}");
        }
    }
}

impl Drop for Doctor {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn sysctl(setting: &str) {
    run("sysctl", &["-q", "-w", setting]);
}

fn nft(rule: &str) {
    run("nft", &rule.split(' ').collect::<Vec<_>>());
}

#[test]
fn each_fault_is_found_with_its_remedy() {
    isolated(async || {
        let broker = Broker::start().await;
        let _cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let container = Sleeper::start().await;
        world.deploy(&container, JOB, 0, "").await.unwrap();
        eventually("the confirmation", async || {
            world.node.status().await.link.unconfirmed == 0
        })
        .await;
        let tunnel = std::net::UdpSocket::bind("0.0.0.0:50103").unwrap();
        let doctor = Doctor::new(Served::start(&world).await);

        let healthy = doctor.findings().await;
        let failed: Vec<_> = healthy.iter().filter(|f| f["status"] == "fail").collect();
        assert!(failed.is_empty(), "{failed:#?}");
        let (_, text, _) = doctor.command(&[]).await;
        assert!(
            text.contains("ok    cluster link") && text.contains("0 failed"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "no colours in a pipe");

        doctor
            .expect("host port", "ok", &["tap; this machine"])
            .await;

        // Docker's rule, and then the remedy.
        nft("add table ip filter");
        nft("add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }");
        let remedy = ["FORWARD", "-i oak0 -j ACCEPT"];
        doctor.expect("forwarding", "fail", &remedy).await;
        nft("insert rule ip filter FORWARD iifname oak0 accept");
        nft("insert rule ip filter FORWARD oifname oak0 accept");
        doctor.expect("forwarding", "ok", &[]).await;

        ip("link set wan0 mtu 1400");
        let words = ["wan0 carries 1400", "MTUSize in tuncfg.json to 1372"];
        doctor.expect("underlay MTU", "fail", &words).await;
        ip("link set wan0 mtu 1478");
        doctor.expect("underlay MTU", "ok", &[]).await;

        sysctl("net.ipv4.ip_forward=0");
        let words = ["ip_forward is 0", "sysctl -w net.ipv4.ip_forward=1"];
        doctor.expect("kernel settings", "fail", &words).await;
        sysctl("net.ipv4.ip_forward=1");
        doctor.expect("kernel settings", "ok", &[]).await;

        nft("delete table netdev oakestra_test");
        doctor
            .expect("firewall", "fail", &["has no chain for", "restart"])
            .await;
        nft("delete table inet oakestra_test");
        doctor
            .expect("firewall", "fail", &["oakestra_test is gone", "restart"])
            .await;

        ip("link set oak0 down");
        doctor
            .expect("host interface", "fail", &["oak0 is down"])
            .await;
        ip("link set oak0 up");

        drop(tunnel);
        doctor
            .expect("tunnel port", "fail", &["nothing is bound to UDP 50103"])
            .await;

        *world.recorder.peers.lock().unwrap() = vec![PeerLine {
            endpoint: "203.0.113.9:50103".parse().unwrap(),
            mtu: Some(1380),
            routed: true,
            round_trip: None,
            answers_probes: false,
            unanswered: 0,
        }];
        let words = ["203.0.113.9:50103 carries 1380", "MTUSize to 1380"];
        doctor.expect("peer", "warn", &words).await;
        world.recorder.peers.lock().unwrap()[0].mtu = None;
        doctor.expect("peer", "ok", &[]).await;
        world.recorder.peers.lock().unwrap()[0].unanswered = 3;
        let words = ["last 3 probes", "UDP at this port open"];
        doctor.expect("peer", "warn", &words).await;
        world.recorder.peers.lock().unwrap()[0].routed = false;
        doctor
            .expect("peer", "fail", &["no way to 203.0.113.9:50103"])
            .await;

        doctor.expect("drops", "ok", &[]).await;
        world.recorder.stats.lock().unwrap().roles = vec![RoleCounts {
            role: "tunnel",
            counts: vec![Count {
                name: "kernel_drops",
                packets: 7,
            }],
        }];
        let words = ["7 packets", "tunnel port", "Dataplane.Workers"];
        doctor.expect("drops", "warn", &words).await;

        drop(broker);
        eventually("the link is down", async || {
            !world.node.status().await.link.connected
        })
        .await;
        doctor
            .expect("cluster link", "fail", &["127.0.0.1:10003"])
            .await;
        doctor
            .expect("broker", "fail", &["127.0.0.1 port 10003", "refused"])
            .await;

        std::fs::write(
            doctor.folder.join("tuncfg.json"),
            r#"{"MTUSise":1400,"TunnelPort":0}"#,
        )
        .unwrap();
        doctor
            .expect("config", "fail", &["tuncfg.json: field "])
            .await;
        world.node.stop().await;
    });
}

#[test]
fn without_a_daemon_the_rest_is_looked_at() {
    isolated(async || {
        let world = World::start().await;
        let served = Served::start(&world).await;
        world.node.stop().await;
        std::fs::remove_file(&served.socket).unwrap();
        let doctor = Doctor::new(served);
        doctor
            .expect(
                "daemon",
                "fail",
                &["no such socket", "systemctl start netmanager"],
            )
            .await;
        doctor
            .expect("broker", "fail", &["127.0.0.1 port 10003"])
            .await;
        doctor.expect("underlay MTU", "ok", &[]).await;
        doctor.expect("config", "ok", &[]).await;
        let asked = r#"{"ClusterUrl":"127.0.0.1","Dataplane":{"HostPort":"virtio_user"}}"#;
        std::fs::write(doctor.folder.join("netcfg.json"), asked).unwrap();
        let (status, words) = match std::path::Path::new(dataplane::VHOST_NET).exists() {
            true => ("ok", ["virtio_user", "has vhost-net"]),
            false => (
                "fail",
                ["modprobe vhost_net", "HostPort of Dataplane to tap"],
            ),
        };
        doctor.expect("host port", status, &words).await;
        ip("route del default");
        doctor
            .expect("underlay", "fail", &["no default route"])
            .await;
    });
}
