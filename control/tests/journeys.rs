//! A worker's life, against a real broker and real network namespaces.

mod world;

use std::time::{Duration, Instant};

use control::forwarding::Event;
use serde_json::json;
use world::{Broker, Cluster, Sleeper, World, eventually, isolated, run, table};

const JOB: &str = "app1.test.client.test";

#[test]
fn a_container_is_attached_announced_routed_and_undeployed() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        let container = Sleeper::start().await;
        assert_eq!(
            world
                .deploy(&container, JOB, 0, "")
                .await
                .unwrap_err()
                .status,
            400
        );
        world.register("aaaaaaaaaaaaaaaaaaaaaa01").await.unwrap();
        let request = &cluster.heard("net/subnet")[0];
        assert_eq!(request["METHOD"], "GET");
        assert!(request.get("have").is_none());
        assert_eq!(
            world.recorder.subnets.lock().unwrap()[0]
                .gateway
                .v4
                .unwrap()
                .to_string(),
            "10.18.0.1"
        );
        let host = run("ip", &["addr", "show", "dev", "oak0"]);
        assert!(
            host.contains("10.18.0.1/26") && host.contains("fc00::1/120"),
            "{host}"
        );
        let routes = run("ip", &["route", "show", "dev", "oak0"]);
        assert!(
            routes.contains("10.30.0.0/16") && routes.contains("src 10.18.0.1"),
            "{routes}"
        );

        let deployed = world.deploy(&container, JOB, 0, "").await.unwrap();
        assert_eq!(deployed.ns_address.unwrap().to_string(), "10.18.0.2");
        assert_eq!(deployed.ns_address_v6.unwrap().to_string(), "fc00::2");
        let inside = container.inside("ip addr show eth0");
        assert!(
            inside.contains("10.18.0.2/26") && inside.contains("fc00::2/120"),
            "{inside}"
        );
        assert!(
            inside.contains("mtu 1450") && inside.contains("UP"),
            "{inside}"
        );
        let address = inside
            .lines()
            .find(|line| line.contains("fc00::2"))
            .unwrap();
        assert!(
            address.contains("nodad") && !address.contains("tentative"),
            "{address}"
        );
        assert!(
            container
                .inside("ip route")
                .contains("default via 10.18.0.1")
        );
        assert!(
            container
                .inside("ip -6 route")
                .contains("default via fc00::1")
        );
        let neighbours = container.inside("ip neigh");
        assert_eq!(
            neighbours.matches("02:6f:61:6b:00:01 PERMANENT").count(),
            2,
            "{neighbours}"
        );

        eventually("the announcement", async || {
            !cluster.heard("service/deployed").is_empty()
        })
        .await;
        let announced = &cluster.heard("service/deployed")[0];
        assert_eq!(announced["appname"], JOB);
        assert_eq!(announced["nsip"], "10.18.0.2");
        assert_eq!(announced["host_ip"], "192.0.2.10");
        assert_eq!(announced["host_port"], json!("50103"));
        eventually("the route", async || {
            let jobs = world.recorder.jobs.lock().unwrap();
            jobs.get(JOB).is_some_and(|job| job.instances.len() == 1)
        })
        .await;
        eventually("the confirmation", async || {
            world.node.status().await.link.unconfirmed == 0
        })
        .await;

        world.undeploy(JOB, 0).await;
        eventually("the departure", async || {
            !cluster.heard("service/undeployed").is_empty()
        })
        .await;
        assert!(world.recorder.attached.lock().unwrap().is_empty());
        eventually("the route is empty", async || {
            world.recorder.jobs.lock().unwrap()[JOB]
                .instances
                .is_empty()
        })
        .await;
        world.undeploy(JOB, 0).await;
        world.node.stop().await;
    });
}

#[test]
fn an_unknown_address_is_asked_for_and_answered_either_way() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let instance = json!({"nsip":"10.18.0.66","nsipv6":"fc00::102","host_ip":"192.0.2.12","host_port":50103});
        cluster
            .tables
            .lock()
            .unwrap()
            .insert("10.30.0.1".into(), table("a.b.c.d", 0, &instance));
        let asked = "10.30.0.1".parse().unwrap();
        for _ in 0..20 {
            world.events.send(Event::Unresolved(asked)).await.unwrap();
        }
        eventually("the route", async || {
            world.recorder.jobs.lock().unwrap().contains_key("a.b.c.d")
        })
        .await;
        world
            .events
            .send(Event::Unresolved("10.30.9.9".parse().unwrap()))
            .await
            .unwrap();
        eventually("the refusal", async || {
            world
                .recorder
                .unresolvable
                .lock()
                .unwrap()
                .contains(&"10.30.9.9".parse().unwrap())
        })
        .await;
        let queries = cluster.heard("tablequery/request");
        let by_address = queries
            .iter()
            .filter(|query| query["sip"] == "10.30.0.1")
            .count();
        assert!(
            by_address < 20,
            "one query per key, not one per event: {by_address}"
        );

        // A change is noticed, because the answer made this node follow the job.
        let moved = json!({"nsip":"10.18.0.70","nsipv6":"fc00::106","host_ip":"192.0.2.13","host_port":"50103"});
        cluster
            .tables
            .lock()
            .unwrap()
            .insert("a.b.c.d".into(), table("a.b.c.d", 0, &moved));
        cluster.changed("a.b.c.d", "DEPLOYMENT");
        eventually("the new route", async || {
            let jobs = world.recorder.jobs.lock().unwrap();
            jobs["a.b.c.d"].instances[0].host.to_string() == "192.0.2.13:50103"
        })
        .await;

        // Unused for five minutes: the interest goes.
        world
            .recorder
            .idle
            .lock()
            .unwrap()
            .insert("a.b.c.d".into(), Duration::from_secs(301));
        eventually("the interest is dropped", async || {
            !cluster.heard("interest/remove").is_empty()
        })
        .await;
        assert_eq!(cluster.heard("interest/remove")[0]["appname"], "a.b.c.d");
        assert!(!world.recorder.jobs.lock().unwrap().contains_key("a.b.c.d"));
        world.node.stop().await;
    });
}

#[test]
fn malformed_messages_are_counted_and_survived() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        for payload in [
            "",
            "{",
            "[]",
            "7",
            "{\"app_name\":{}}",
            "\u{0}",
            "{\"app_name\":\"a/+/#\",\"query_key\":\"x\",\"instance_list\":[]}",
        ] {
            cluster.say("nodes/n1/net/tablequery/result", payload);
        }
        cluster.say("nodes/n1/net/subnetwork/result", "{}");
        eventually("all are counted", async || {
            world.node.status().await.link.malformed == 8
        })
        .await;
        let container = Sleeper::start().await;
        world.deploy(&container, JOB, 0, "").await.unwrap();
        eventually("life goes on", async || {
            !cluster.heard("service/deployed").is_empty()
        })
        .await;
        world.node.stop().await;
    });
}

#[test]
fn registering_again_another_and_after_a_failure() {
    isolated(async || {
        let world = World::start().await;
        let start = Instant::now();
        let error = world.register("n1").await.unwrap_err();
        assert_eq!(error.status, 500, "no broker: {}", error.message);
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "within the caller's patience"
        );
        let _broker = Broker::start().await;
        let _cluster = Cluster::start().await;
        world.register("n1").await.unwrap();
        world.register("n1").await.unwrap();
        let error = world.register("n2").await.unwrap_err();
        assert_eq!(error.status, 400);
        assert!(error.message.contains("n1"), "{}", error.message);
        assert_eq!(world.register("a/b").await.unwrap_err().status, 400);

        world.node.stop().await;
    });
}

#[test]
fn a_full_subnetwork_is_followed_by_a_further_one() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let mut containers = Vec::new();
        for number in 0..62 {
            let container = Sleeper::start().await;
            world.deploy(&container, JOB, number, "").await.unwrap();
            containers.push(container);
        }
        let further = &cluster.heard("net/subnet")[1];
        assert_eq!(further["have"], json!(["10.18.0.0"]));
        let status = world.node.status().await;
        assert_eq!(status.subnetworks.len(), 2);
        assert!(run("ip", &["addr", "show", "dev", "oak0"]).contains("10.18.0.65/26"));
        assert!(
            containers[61]
                .inside("ip route")
                .contains("default via 10.18.0.65")
        );
        world.node.purge().await;
    });
}

#[test]
fn a_changed_address_is_announced_for_every_instance_and_an_offline_start_waits() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        world::ip("route del default");
        let world = World::start().await;
        let error = world.register("n1").await.unwrap_err();
        assert!(error.message.contains("default route"), "{}", error.message);
        world::ip("route add default via 192.0.2.1 dev wan0");
        world.register("n1").await.unwrap();
        let container = Sleeper::start().await;
        world.deploy(&container, JOB, 0, "").await.unwrap();
        eventually("announced", async || {
            !cluster.heard("service/deployed").is_empty()
        })
        .await;
        world::ip("addr add 198.51.100.7/24 dev wan0");
        world::ip("route replace default via 198.51.100.1 dev wan0 src 198.51.100.7");
        eventually("announced anew", async || {
            !cluster.heard("address-changed").is_empty()
        })
        .await;
        let changed = &cluster.heard("address-changed")[0];
        assert_eq!(changed["appname"], JOB);
        assert_eq!(changed["instance_number"], 0);
        assert_eq!(changed["host_ip"], "198.51.100.7");
        // The old connection may have lost its address: a new one is made at once, not after the keep-alive.
        eventually("connected anew", async || {
            let link = world.node.status().await.link;
            link.connected && link.connections == 2
        })
        .await;
        world.node.purge().await;
    });
}

#[test]
fn the_socket_speaks_json_whatever_the_content_type_and_the_nodes_own_processes_are_an_instance() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        *cluster.host.lock().unwrap() = Some(json!({
            "app_name": "c.nodes.n1.host", "instance_number": 0,
            "instance_ip": "10.30.0.9", "instance_ip_v6": "fdff::9"}));
        let world = World::start().await;
        let socket = world::scratch("socket").join("nm.sock");
        let listener = control::socket::listen(&socket).await.unwrap();
        let purged = std::sync::Arc::new(tokio::sync::Notify::new());
        let (_close, closing) = tokio::sync::watch::channel(false);
        let router = control::http::router(world.node.clone(), purged, closing);
        tokio::spawn(axum::serve(listener, router).into_future());
        let path = socket.to_str().unwrap().to_owned();
        let post = async |url: &str, body: String| {
            let url = format!("http://x{url}");
            let arguments = [
                "-s",
                "-w",
                " %{http_code}",
                "-H",
                "content-type: text/plain",
                "--unix-socket",
                &path,
                &url,
                "-d",
                &body,
            ];
            let output = tokio::process::Command::new("curl")
                .args(arguments)
                .output()
                .await
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let (body, status) = text.rsplit_once(' ').unwrap();
            (
                status.to_owned(),
                serde_json::from_str::<serde_json::Value>(body).unwrap(),
            )
        };
        // A caller that is slow with its body is answered too, whatever it wants.
        for (line, status) in [("POST /nowhere", "404"), ("PUT /register", "405")] {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut slow = tokio::net::UnixStream::connect(&path).await.unwrap();
            let head = format!(
                "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 4\r\n\r\n"
            );
            slow.write_all(head.as_bytes()).await.unwrap();
            let early = tokio::time::timeout(Duration::from_millis(200), slow.read_u8()).await;
            assert!(early.is_err(), "answered before the body was read");
            slow.write_all(b"null").await.unwrap();
            let mut answer = String::new();
            slow.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{answer}"
            );
        }
        let (status, answer) = post("/register", "{".into()).await;
        assert_eq!(
            (status.as_str(), answer["message"].is_string()),
            ("400", true)
        );
        assert_eq!(
            post(
                "/register",
                r#"{"client_id":"n1","cluster_address":""}"#.into()
            )
            .await
            .0,
            "200"
        );
        let container = Sleeper::start().await;
        let deploy = json!({"pid": container.pid(), "serviceName": JOB, "instanceNumber": 0, "portMappings": ""});
        let (status, answer) = post("/container/deploy", deploy.to_string()).await;
        assert_eq!(status, "200");
        assert_eq!(
            answer,
            json!({"serviceName": JOB, "nsAddress": "10.18.0.2", "nsAddressv6": "fc00::2"})
        );
        let undeploy = json!({"pid": -1, "serviceName": JOB, "instanceNumber": 0}).to_string();
        assert_eq!(post("/docker/undeploy", undeploy).await.0, "200");

        eventually("the node's own instance", async || {
            cluster
                .heard("service/deployed")
                .iter()
                .any(|said| said["appname"] == "c.nodes.n1.host" && said["nsip"] == "10.18.0.1")
        })
        .await;
        let own = world.recorder.host_instance.lock().unwrap().unwrap();
        assert_eq!(own.v4.unwrap().to_string(), "10.30.0.9");
        world.node.purge().await;
    });
}

#[test]
fn a_unikernel_gets_a_namespace_and_both_addresses() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let job = format!("app{}.test.unikernel.test", std::process::id());
        let request = protocol::node_http::Deploy {
            pid: 0,
            service_name: job.clone(),
            instance_number: 0,
            port_mappings: String::new(),
            vhost_user: false,
        };
        world
            .node
            .deploy(request, control::node::Kind::Unikernel)
            .await
            .unwrap();
        let name = format!("{job}.instance.0");
        assert!(run("ip", &["-n", &name, "addr", "show", "virbr0"]).contains("192.168.1.1/30"));
        assert!(run("ip", &["-n", &name, "link", "show", "tap0"]).contains("master virbr0"));
        assert!(run("ip", &["-n", &name, "addr", "show", "eth0"]).contains("10.18.0.2/26"));
        eventually("announced", async || {
            !cluster.heard("service/deployed").is_empty()
        })
        .await;
        assert_eq!(cluster.heard("service/deployed")[0]["nsipv6"], "fc00::2");
        world.undeploy(&job, 0).await;
        assert!(!run("ip", &["netns", "list"]).contains(&name));
        world.node.purge().await;
    });
}

#[test]
fn next_hops_come_from_the_kernel_and_follow_its_changes() {
    isolated(async || {
        let world = World::start().await;
        let host = "203.0.113.9".parse().unwrap();
        world.events.send(Event::NextHop(host)).await.unwrap();
        world::ip("neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev wan0 nud permanent");
        let told = || world.recorder.next_hops.lock().unwrap().get(&host).copied();
        eventually("the next hop", async || told().is_some()).await;
        let hop = told().unwrap();
        assert_eq!(hop.source.to_string(), "192.0.2.10");
        assert_eq!(hop.next_mac, [2, 0, 0, 0, 0, 1]);
        world::ip("neigh replace 192.0.2.1 lladdr 02:00:00:00:00:02 dev wan0 nud permanent");
        eventually("the change", async || {
            told().is_some_and(|hop| hop.next_mac[5] == 2)
        })
        .await;
        assert_eq!(told().unwrap().mtu, Some(1500));
        world::ip("link set wan0 mtu 1400");
        eventually("the narrower interface", async || {
            told().is_some_and(|hop| hop.mtu == Some(1400))
        })
        .await;
        world::ip("route add 203.0.113.0/24 via 192.0.2.1 dev wan0 mtu 1300");
        eventually("the route's own", async || {
            told().is_some_and(|hop| hop.mtu == Some(1300))
        })
        .await;
        world.node.stop().await;
    });
}
