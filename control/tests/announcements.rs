//! What the node says to its cluster: the contract's fields, in order, heard again after any outage.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

mod world;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use control::forwarding::Event;
use serde_json::{Value, json};
use world::{Broker, Cluster, Sleeper, World, eventually, isolated};

const JOB: &str = "app1.test.client.test";

fn keys(message: &Value) -> BTreeSet<&str> {
    message
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn what_the_node_says_has_the_contracts_fields_and_grows_in_order() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let one = Sleeper::start().await;
        let two = Sleeper::start().await;
        world.deploy(&one, JOB, 0, "").await.unwrap();
        world.deploy(&two, JOB, 7, "").await.unwrap();
        let said = |ending: &'static str, number: u64| {
            let heard = cluster.heard(ending);
            heard
                .into_iter()
                .find(|said| said["instance_number"] == number)
        };
        eventually("both are announced", async || {
            said("service/deployed", 0).is_some() && said("service/deployed", 7).is_some()
        })
        .await;
        let fields = BTreeSet::from([
            "appname",
            "status",
            "instance_number",
            "nsip",
            "nsipv6",
            "host_ip",
            "host_port",
            "seq",
        ]);
        let deployed = said("service/deployed", 7).unwrap();
        assert_eq!(keys(&deployed), fields);
        assert_eq!(deployed["appname"], JOB);
        assert_eq!(deployed["status"], "DEPLOYED");
        assert_eq!(deployed["nsip"], "10.18.0.3");
        assert_eq!(deployed["nsipv6"], "fc00::3");
        assert_eq!(deployed["host_ip"], "192.0.2.10");
        assert_eq!(deployed["host_port"], "50103");

        world::ip("addr add 198.51.100.7/24 dev wan0");
        world::ip("route replace default via 198.51.100.1 dev wan0");
        eventually("both have moved", async || {
            said("address-changed", 0).is_some() && said("address-changed", 7).is_some()
        })
        .await;
        let moved = said("address-changed", 7).unwrap();
        assert_eq!(
            keys(&moved),
            BTreeSet::from(["appname", "instance_number", "host_ip", "host_port", "seq"])
        );
        assert_eq!(moved["appname"], JOB);
        assert_eq!(moved["host_ip"], "198.51.100.7");
        assert_eq!(moved["host_port"], "50103");

        world.undeploy(JOB, 7).await;
        eventually("the departure", async || {
            said("service/undeployed", 7).is_some()
        })
        .await;
        let gone = said("service/undeployed", 7).unwrap();
        assert_eq!(keys(&gone), fields);
        assert_eq!(gone["status"], "UNDEPLOYED");
        assert_eq!(gone["host_port"], "50103");

        let queries = cluster.heard("tablequery/request");
        for query in &queries {
            assert_eq!(keys(query), BTreeSet::from(["sname", "sip", "seq"]));
            assert_ne!(query["sname"] == "", query["sip"] == "", "{query}");
        }
        let heard = cluster.heard.lock().unwrap().clone();
        let numbers: Vec<u64> = heard
            .iter()
            .filter_map(|(_, said)| said["seq"].as_u64())
            .collect();
        assert!(numbers.len() > 6 && numbers.is_sorted(), "{numbers:?}");
        for (topic, said) in &heard {
            assert!(topic.starts_with("nodes/n1/net/"), "{topic}");
            assert_eq!(
                said["seq"].is_u64(),
                !topic.ends_with("net/status"),
                "{topic}"
            );
        }
        world.node.purge().await;
    });
}

#[test]
fn its_presence_is_retained_and_its_will_speaks_when_it_vanishes() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        eventually("it says so", async || {
            cluster
                .heard("net/status")
                .contains(&json!({"online": true}))
        })
        .await;
        let retained = || {
            let words = [
                "-p",
                "10003",
                "-t",
                "nodes/n1/net/status",
                "-C",
                "1",
                "-W",
                "5",
            ];
            world::run("mosquitto_sub", &words)
        };
        assert_eq!(
            serde_json::from_str::<Value>(&retained()).unwrap(),
            json!({"online": true})
        );
        // Someone with its name takes its place: to the broker, that is a connection that vanished.
        cluster.heard.lock().unwrap().clear();
        world::run(
            "mosquitto_pub",
            &["-p", "10003", "-i", "n1", "-t", "x", "-m", "y"],
        );
        eventually("the will, and then itself again", async || {
            let said = cluster.heard("net/status");
            said.first() == Some(&json!({"online": false}))
                && said.last() == Some(&json!({"online": true}))
        })
        .await;
        world.node.purge().await;
        eventually("it leaves", async || {
            cluster.heard("net/status").last() == Some(&json!({"online": false}))
        })
        .await;
        assert_eq!(
            serde_json::from_str::<Value>(&retained()).unwrap(),
            json!({"online": false})
        );
    });
}

#[test]
fn an_interest_ends_where_the_cluster_can_hear_it_and_outlives_a_restart() {
    isolated(async || {
        let broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let instance = json!({"nsip":"10.18.0.66","nsipv6":"fc00::102","host_ip":"192.0.2.12","host_port":50103});
        for (address, job) in [("10.30.0.1", "a.b.c.d"), ("10.30.0.5", "kept.b.c.d")] {
            let mut tables = cluster.tables.lock().unwrap();
            tables.insert(address.into(), table_of(job, address, &instance));
            tables.insert(job.into(), table_of(job, address, &instance));
        }
        for address in ["10.30.0.1", "10.30.0.5"] {
            world
                .events
                .send(Event::Unresolved(address.parse().unwrap()))
                .await
                .unwrap();
        }
        eventually("both are followed", async || {
            world.node.status().await.link.jobs == ["a.b.c.d", "kept.b.c.d"]
        })
        .await;
        drop(broker);
        eventually("noticed", async || {
            !world.node.status().await.link.connected
        })
        .await;
        world.recorder.idle.lock().unwrap().extend([
            ("a.b.c.d".to_owned(), Duration::from_secs(301)),
            ("kept.b.c.d".to_owned(), Duration::from_secs(1)),
        ]);
        // Longer than between two looks at them.
        let away = Instant::now();
        while away.elapsed() < Duration::from_millis(6500) {
            assert_eq!(world.node.status().await.link.jobs.len(), 2);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let _broker = Broker::start().await;
        eventually("the cluster hears of it", async || {
            cluster
                .heard("interest/remove")
                .iter()
                .any(|said| said["appname"] == "a.b.c.d")
        })
        .await;
        assert!(
            !cluster
                .heard("interest/remove")
                .iter()
                .any(|said| said["appname"] == "kept.b.c.d")
        );
        let file = world.state_dir.join("test.json");
        eventually("the other is written down", async || {
            let state: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            state["interests"] == json!(["kept.b.c.d"])
        })
        .await;
        let state_dir = world.state_dir.clone();
        world.node.stop().await;
        drop(world);
        cluster.heard.lock().unwrap().clear();
        // No packet asks for it, and it is followed all the same.
        let again = World::with(r#"{"ClusterUrl":"127.0.0.1"}"#, state_dir).await;
        eventually("its routes are there", async || {
            again
                .recorder
                .jobs
                .lock()
                .unwrap()
                .contains_key("kept.b.c.d")
        })
        .await;
        let asked = || {
            let queries = cluster.heard("tablequery/request");
            queries
                .iter()
                .filter(|query| query["sname"] == "kept.b.c.d")
                .count()
        };
        let before = asked();
        cluster.changed("kept.b.c.d", "UNDEPLOYMENT");
        eventually("it hears of changes", async || asked() > before).await;
        again.node.purge().await;
    });
}

#[test]
fn a_departure_that_nobody_could_hear_is_said_after_a_restart() {
    isolated(async || {
        let broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let (goes, stays) = (Sleeper::start().await, Sleeper::start().await);
        let gone = world.deploy(&goes, JOB, 0, "").await.unwrap();
        world.deploy(&stays, JOB, 7, "").await.unwrap();
        eventually("both are announced", async || {
            cluster.heard("service/deployed").len() > 1
        })
        .await;
        drop(broker);
        eventually("noticed", async || {
            !world.node.status().await.link.connected
        })
        .await;
        world.undeploy(JOB, 0).await;
        let kept = |state_dir: &std::path::Path| -> Value {
            let file = std::fs::read(state_dir.join("test.json")).unwrap();
            serde_json::from_slice::<Value>(&file).unwrap()["departures"].clone()
        };
        let nsip = gone.ns_address.unwrap().to_string();
        eventually("it is written down", async || {
            kept(&world.state_dir)[0]["v4"] == nsip
        })
        .await;
        let state_dir = world.state_dir.clone();
        world.node.stop().await;
        drop(world);
        let again = World::with(r#"{"ClusterUrl":"127.0.0.1"}"#, state_dir).await;
        let _broker = Broker::start().await;
        eventually("the cluster hears of it", async || {
            let heard = cluster.heard("service/undeployed");
            heard.iter().any(|said| said["nsip"] == nsip)
        })
        .await;
        eventually("it is forgotten", async || {
            kept(&again.state_dir) == json!([])
        })
        .await;
        again.node.purge().await;
    });
}

#[test]
fn a_job_without_an_instance_is_followed_from_the_first_dial_on() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let address = "10.30.0.1";
        let deployed = json!({"nsip":"10.18.0.66","nsipv6":"fc00::102","host_ip":"192.0.2.12","host_port":50103});
        let placed = table_of("a.b.c.d", address, &deployed);
        let mut scheduled = placed.clone();
        for key in ["namespace_ip", "namespace_ip_v6", "host_ip", "host_port"] {
            let instance = scheduled["instance_list"][0].as_object_mut().unwrap();
            instance.remove(key);
        }
        let none = json!({"app_name": "e.b.c.d", "instance_list": []});
        for (at, table) in [(address, scheduled), ("10.30.0.5", none)] {
            cluster.tables.lock().unwrap().insert(at.into(), table);
            let dialled = Event::Unresolved(at.parse().unwrap());
            world.events.send(dialled).await.unwrap();
        }
        // Whoever scans addresses follows nothing.
        let nobody = Event::Unresolved("10.30.0.9".parse().unwrap());
        world.events.send(nobody).await.unwrap();
        eventually("all are refused", async || {
            world.recorder.unresolvable.lock().unwrap().len() == 3
        })
        .await;
        // Said a moment after the refusals.
        eventually("both jobs are followed, and no other", async || {
            world.node.status().await.link.jobs == ["a.b.c.d", "e.b.c.d"]
        })
        .await;
        assert!(world.recorder.jobs.lock().unwrap().is_empty());
        cluster
            .tables
            .lock()
            .unwrap()
            .insert("a.b.c.d".into(), placed);
        let routes = || world.recorder.jobs.lock().unwrap().get("a.b.c.d").cloned();
        eventually("its first instance is seen", async || {
            cluster.changed("a.b.c.d", "DEPLOYMENT");
            routes().is_some_and(|job| job.instances.len() == 1)
        })
        .await;
        world.node.stop().await;
    });
}

fn table_of(job: &str, address: &str, instance: &Value) -> Value {
    let mut table = world::table(job, 0, instance);
    table["instance_list"][0]["service_ip"][0]["Address"] = json!(address);
    table
}
