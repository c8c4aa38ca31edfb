//! Restarts of the Net Manager, of the broker and of the machine, against a real broker and real network namespaces.

mod world;

use protocol::node_http::Register;
use world::{Broker, Cluster, Sleeper, World, eventually, isolated, run, scratch};

const JOB: &str = "app1.test.client.test";

#[test]
fn a_restart_takes_over_containers_ports_and_registration_by_itself() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let container = Sleeper::start().await;
        let dead = Sleeper::start().await;
        world.deploy(&container, JOB, 0, "8080:80").await.unwrap();
        world.deploy(&dead, JOB, 1, "").await.unwrap();
        let attached = world.recorder.attached.lock().unwrap().clone();
        let state_dir = world.state_dir.clone();
        world.node.stop().await;
        assert!(
            container
                .inside("ip addr show eth0")
                .contains("10.18.0.2/26")
        );
        drop(world);
        drop(dead);
        cluster.heard.lock().unwrap().clear();

        let again = World::with(r#"{"ClusterUrl":"127.0.0.1"}"#, state_dir).await;
        eventually("it is up", async || again.node.status().await.up).await;
        let now = again.recorder.attached.lock().unwrap().clone();
        assert_eq!(now.len(), 1);
        assert!(
            now.iter()
                .all(|(index, attachment)| attached.get(index) == Some(attachment))
        );
        eventually("announced again", async || {
            !cluster.heard("service/deployed").is_empty()
        })
        .await;
        eventually("the dead one too", async || {
            cluster
                .heard("service/undeployed")
                .iter()
                .any(|gone| gone["instance_number"] == 1)
        })
        .await;
        assert!(
            cluster.heard("net/subnet").is_empty(),
            "the subnetwork is kept"
        );
        assert_eq!(
            run("nft", &["list", "ruleset"])
                .matches("dport 8080 dnat ip to")
                .count(),
            2
        );

        // The NodeEngine comes with another id: the restored identity yields.
        again.register("n2").await.unwrap();
        eventually("announced under the new id", async || {
            !cluster.heard("n2/net/service/deployed").is_empty()
        })
        .await;
        again.undeploy(JOB, 0).await;
        again.node.purge().await;
        assert!(run("nft", &["list", "ruleset"]).trim().is_empty());
        eventually("given back", async || {
            cluster
                .heard("net/subnet")
                .iter()
                .any(|request| request["METHOD"] == "DELETE")
        })
        .await;
    });
}

#[test]
fn a_register_that_overtakes_the_restart_still_tells_what_ended_meanwhile() {
    isolated(async || {
        let broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::with("{}", scratch("overtaken")).await;
        let request = |id: &str, cluster: &str| Register {
            client_id: id.to_owned(),
            cluster_address: cluster.to_owned(),
        };
        world
            .node
            .register(request("n1", "127.0.0.1"))
            .await
            .unwrap();
        let dead = Sleeper::start().await;
        world.deploy(&dead, JOB, 0, "").await.unwrap();
        let state_dir = world.state_dir.clone();
        world.node.stop().await;
        drop((world, dead));

        // Without a broker nothing is told before the caller is there.
        drop(broker);
        let again = World::with("{}", state_dir).await;
        let _broker = Broker::start().await;
        // A move that fails leaves the node where it was.
        *cluster.mute.lock().unwrap() = true;
        let error = again
            .node
            .register(request("n2", "127.0.0.1"))
            .await
            .unwrap_err();
        assert_eq!(error.status, 500);
        eventually("it is back", async || {
            let status = again.node.status().await;
            status.up && status.client_id.as_deref() == Some("n1")
        })
        .await;
        *cluster.mute.lock().unwrap() = false;
        again
            .node
            .register(request("n2", "127.0.0.1"))
            .await
            .unwrap();
        eventually("the end is told", async || {
            !cluster.heard("n2/net/service/undeployed").is_empty()
        })
        .await;
        eventually("the old subnetwork goes back at once", async || {
            cluster
                .heard("n1/net/subnet")
                .iter()
                .any(|request| request["METHOD"] == "DELETE")
        })
        .await;
        // No cluster named: the one that it is in.
        again.node.register(request("n2", "")).await.unwrap();
        assert!(again.node.status().await.up);
        again.node.stop().await;
    });
}

#[test]
fn the_broker_may_vanish_and_what_changed_meanwhile_is_caught_up() {
    isolated(async || {
        let broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let container = Sleeper::start().await;
        let other = Sleeper::start().await;
        world.deploy(&container, JOB, 0, "").await.unwrap();
        eventually("announced", async || {
            !cluster.heard("service/deployed").is_empty()
        })
        .await;
        eventually("confirmed", async || {
            world.node.status().await.link.unconfirmed == 0
        })
        .await;
        drop(broker);
        eventually("noticed", async || {
            !world.node.status().await.link.connected
        })
        .await;
        world.deploy(&other, "a.b.c.d", 0, "").await.unwrap();
        world.undeploy(JOB, 0).await;
        cluster.heard.lock().unwrap().clear();
        let _broker = Broker::start().await;
        eventually("the new one is announced", async || {
            cluster
                .heard("service/deployed")
                .iter()
                .any(|said| said["appname"] == "a.b.c.d")
        })
        .await;
        eventually("the old one is taken back", async || {
            cluster
                .heard("service/undeployed")
                .iter()
                .any(|said| said["appname"] == JOB)
        })
        .await;
        eventually("all is confirmed", async || {
            world.node.status().await.link.unconfirmed == 0
        })
        .await;
        world.node.purge().await;
    });
}

#[test]
fn after_a_reboot_the_subnetwork_is_kept_and_the_containers_are_withdrawn() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let container = Sleeper::start().await;
        let before = world.deploy(&container, JOB, 0, "8080:80").await.unwrap();
        let state_dir = world.state_dir.clone();
        world.node.stop().await;
        drop(world);
        // Nothing of what the kernel held outlives it; numbers of processes and interfaces are others' afterwards.
        let file = state_dir.join("test.json");
        let mut state: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        state["boot_id"] = "00000000-0000-0000-0000-000000000000".into();
        let interface = state["containers"][0]["interface"]
            .as_str()
            .unwrap()
            .to_owned();
        std::fs::write(&file, state.to_string()).unwrap();
        run("ip", &["link", "delete", &interface]);
        run("nft", &["flush", "ruleset"]);
        cluster.heard.lock().unwrap().clear();
        let again = World::with(r#"{"ClusterUrl":"127.0.0.1"}"#, state_dir).await;
        eventually("it is up", async || again.node.status().await.up).await;
        let status = again.node.status().await;
        assert!(status.containers.is_empty());
        assert_eq!(status.subnetworks, ["10.18.0.0/26 fc00::/120"]);
        assert!(cluster.heard("net/subnet").is_empty(), "none was asked for");
        assert!(!run("nft", &["list", "ruleset"]).contains("8080"));
        eventually("it is withdrawn", async || {
            let said = cluster.heard("service/undeployed");
            said.iter().any(|said| said["nsip"] == "10.18.0.2")
        })
        .await;
        // Tables elsewhere still point at the old address.
        let after = again.deploy(&container, JOB, 0, "8080:80").await.unwrap();
        assert_ne!(after.ns_address, before.ns_address);
        again.node.purge().await;
    });
}
