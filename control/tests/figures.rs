//! Loads between node and cluster, against a real broker, and what is shown of what the data plane counts.

mod world;

use std::time::{Duration, Instant};

use serde_json::json;
use world::{Broker, Cluster, Sleeper, World, eventually, isolated, run};

const JOB: &str = "app1.test.client.test";

#[test]
fn loads_are_said_when_they_change_and_asked_for_while_they_matter() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let container = Sleeper::start().await;
        let set = |flows, wanted: &[&str]| {
            *world.recorder.loads.lock().unwrap() = control::forwarding::Loads {
                own: vec![control::forwarding::InstanceLoad {
                    job: JOB.to_owned(),
                    number: 0,
                    flows,
                }],
                wanted: wanted.iter().map(|job| (*job).to_owned()).collect(),
            };
        };
        // Not before the cluster knows the instance.
        set(7, &[]);
        world.deploy(&container, JOB, 0, "").await.unwrap();
        eventually("the load", async || !cluster.heard("net/load").is_empty()).await;
        let first = Instant::now();
        let said = cluster.heard("net/load")[0].clone();
        assert_eq!(
            said["instances"],
            json!([{"appname": JOB, "instance_number": 0, "flows": 7}])
        );
        assert!(said["seq"].is_u64());
        let position = |ending: &str| {
            let heard = cluster.heard.lock().unwrap();
            heard.iter().position(|(topic, _)| topic.ends_with(ending))
        };
        assert!(position("service/deployed") < position("net/load"));
        // Another number, and a job of others whose loads matter here.
        set(90, &["a.b.busy.d"]);
        let asked = || {
            let queries = cluster.heard("tablequery/request");
            queries
                .iter()
                .filter(|q| q["sname"] == "a.b.busy.d")
                .count()
        };
        eventually("the next load", async || {
            cluster.heard("net/load").len() > 1
        })
        .await;
        let loads = cluster.heard("net/load");
        let apart = first.elapsed();
        assert!(apart > Duration::from_millis(4500), "{apart:?}");
        assert_eq!(loads[1]["instances"][0]["flows"], 90);
        eventually("a query for fresh loads", async || asked() >= 2).await;
        // What does not matter any more is not asked for: two exchanges later nobody has.
        let exchanged = async |flows: u32| {
            set(flows, &[]);
            eventually("an exchange", async || {
                let loads = cluster.heard("net/load");
                loads.iter().any(|l| l["instances"][0]["flows"] == flows)
            })
            .await;
        };
        exchanged(300).await;
        let before = asked();
        exchanged(500).await;
        assert_eq!(asked(), before);
        world.node.stop().await;
    });
}

#[test]
fn what_the_data_plane_counts_is_shown_to_people_and_to_prometheus() {
    use control::forwarding::{
        Count, PolicyCounts, PortCounts, RoleCounts, RouteLine, ServiceCounts, Stats,
    };
    isolated(async || {
        let world = World::start().await;
        let count = |name, packets| Count { name, packets };
        *world.recorder.stats.lock().unwrap() = Stats {
            received: vec![count("access", 10)],
            made: vec![count("answers", 2)],
            sent: vec![count("tunnel", 8)],
            drops: vec![count("spoofed_source", 3)],
            consumed: vec![count("answered", 1)],
            flows_evicted: 4,
            containers: vec![PortCounts {
                interface: "oakv1".to_owned(),
                job: JOB.to_owned(),
                number: 3,
                packets_in: 10,
                bytes_in: 1000,
                packets_out: 6,
                bytes_out: 600,
                refused: 1,
            }],
            policies: vec![PolicyCounts {
                policy: "rr",
                picks: 5,
                refusals: 1,
            }],
            services: vec![ServiceCounts {
                job: JOB.to_owned(),
                policy: "rr",
                addresses: vec!["10.30.0.1".parse().unwrap()],
                opened: 5,
                live: 2,
                packets: 40,
                refused: 1,
            }],
            roles: vec![RoleCounts {
                role: "access",
                counts: vec![count("kernel_drops", 12)],
            }],
            ..Stats::default()
        };
        *world.recorder.routes.lock().unwrap() = vec![RouteLine {
            job: JOB.to_owned(),
            address: "10.30.0.1".parse().unwrap(),
            kind: "rr",
            backends: Vec::new(),
        }];
        let folder = world::scratch("socket");
        let socket = folder.join("netmanager.sock");
        let listener = control::socket::listen(&socket).await.unwrap();
        let (_open, closing) = tokio::sync::watch::channel(false);
        let router = control::http::router(
            std::sync::Arc::clone(&world.node),
            std::sync::Arc::new(tokio::sync::Notify::new()),
            closing,
        );
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let get = async |path: &str| {
            let url = format!("http://localhost{path}");
            let path = socket.to_str().unwrap().to_owned();
            tokio::task::spawn_blocking(move || run("curl", &["-sf", "--unix-socket", &path, &url]))
                .await
                .unwrap()
        };
        let metrics = get("/metrics").await;
        for line in [
            "netmanager_packets_received_total{port=\"access\"} 10",
            "netmanager_packets_made_total{kind=\"answers\"} 2",
            "netmanager_packets_dropped_total{reason=\"spoofed_source\"} 3",
            "netmanager_packets_consumed_total{kind=\"answered\"} 1",
            "netmanager_flows_evicted_total 4",
            "netmanager_port_events_total{port=\"access\",event=\"kernel_drops\"} 12",
            "netmanager_container_received_bytes_total{job=\"app1.test.client.test\",instance=\"3\",interface=\"oakv1\"} 1000",
            "netmanager_container_refused_packets_total{job=\"app1.test.client.test\",instance=\"3\",interface=\"oakv1\"} 1",
            "netmanager_policy_picks_total{policy=\"rr\"} 5",
            "netmanager_policy_refusals_total{policy=\"rr\"} 1",
            "netmanager_service_flows_opened_total{job=\"app1.test.client.test\",policy=\"rr\"} 5",
            "netmanager_service_flows{job=\"app1.test.client.test\",policy=\"rr\"} 2",
            "netmanager_service_refused_packets_total{job=\"app1.test.client.test\",policy=\"rr\"} 1",
        ] {
            assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
        }
        // Every sample belongs to a family that says what it is.
        for line in metrics.lines().filter(|l| !l.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(metrics.contains(&format!("# TYPE {name} ")), "{line}");
            assert!(metrics.contains(&format!("# HELP {name} ")), "{line}");
        }
        let status: serde_json::Value = serde_json::from_str(&get("/status").await).unwrap();
        let dataplane = &status["dataplane"];
        assert_eq!(dataplane["containers"][0]["packets_out"], 6);
        assert_eq!(dataplane["services"][0]["live"], 2);
        assert_eq!(dataplane["ports"][0]["counts"]["kernel_drops"], 12);
        let routes: serde_json::Value = serde_json::from_str(&get("/routes").await).unwrap();
        assert_eq!(routes[0]["counts"]["packets"], 40);
        for (command, wanted) in [
            ("status", "rr: 5 picks, 1 refusals"),
            ("status", "access: kernel_drops 12"),
            ("status", "dropped      spoofed_source 3"),
            ("routes", "5 flows opened, 2 live, 40 packets, 1 refused"),
        ] {
            let path = socket.to_str().unwrap().to_owned();
            let text = tokio::task::spawn_blocking(move || {
                run(
                    env!("CARGO_BIN_EXE_NetManager"),
                    &["--socket", &path, command],
                )
            })
            .await
            .unwrap();
            assert!(text.contains(wanted), "{wanted}\n{text}");
        }
        server.abort();
        world.node.stop().await;
        let _ = std::fs::remove_dir_all(folder);
    });
}
