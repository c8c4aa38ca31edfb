//! A deploy is all or nothing, whatever goes wrong, and nothing that came is left when all is over.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

mod world;

use std::time::{Duration, Instant};

use control::node::Kind;
use control::{STEPS, UNIKERNEL_STEPS};
use protocol::node_http::{Deploy, Undeploy};
use world::killed::killed;
use world::{Broker, Cluster, Sleeper, World, eventually, fingerprint, isolated, run, scratch};

const JOB: &str = "app1.test.client.test";

#[test]
fn a_failure_at_any_step_leaves_nothing_behind() {
    isolated(async || {
        let _broker = Broker::start().await;
        let _cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let container = Sleeper::start().await;
        let first = world
            .deploy(&container, JOB, 0, "8080:80;9000/udp")
            .await
            .unwrap();
        world.undeploy(JOB, 0).await;
        let before = fingerprint();
        let inside = container.inside("ip -o link");
        for step in STEPS {
            world.node.fault.set(Some(step));
            let error = world
                .deploy(&container, JOB, 0, "8080:80;9000/udp")
                .await
                .unwrap_err();
            assert_eq!(error.status, 500);
            assert!(error.message.contains(step), "{}", error.message);
            assert_eq!(fingerprint(), before, "after a failure at {step}");
            assert_eq!(
                container.inside("ip -o link").lines().count(),
                inside.lines().count(),
                "after a failure at {step}"
            );
            assert!(world.recorder.attached.lock().unwrap().is_empty());
            assert!(world.node.status().await.containers.is_empty());
        }
        world.node.fault.set(None);
        let second = world
            .deploy(&container, JOB, 0, "8080:80;9000/udp")
            .await
            .unwrap();
        assert_ne!(first.ns_address, second.ns_address, "a freed address rests");
        world.node.stop().await;
    });
}

#[test]
fn what_cannot_be_deployed_says_why() {
    isolated(async || {
        let _broker = Broker::start().await;
        let _cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let container = Sleeper::start().await;
        let mut neighbour = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        for (pid, job, ports, status, word) in [
            (container.pid(), "a.b.c", "", 400, "four parts"),
            (container.pid(), JOB, "80:x", 400, "port mapping"),
            (0, JOB, "", 400, "not a process"),
            (4_000_000, JOB, "", 500, "does not exist"),
            (
                i64::from(neighbour.id()),
                JOB,
                "",
                500,
                "shares the node's own",
            ),
            (container.pid(), JOB, "10003:80", 500, "in use"),
            (container.pid(), JOB, "81:80;81:82", 400, "named twice"),
        ] {
            let error = world::deploy(&world.node, pid, job, 0, ports)
                .await
                .unwrap_err();
            assert_eq!(error.status, status, "{}", error.message);
            assert!(error.message.contains(word), "{}", error.message);
        }
        neighbour.kill().unwrap();
        neighbour.wait().unwrap();
        world.deploy(&container, JOB, 0, "8080:80").await.unwrap();
        let other = Sleeper::start().await;
        let error = world.deploy(&other, JOB, 1, "8080:80").await.unwrap_err();
        assert!(
            error
                .message
                .contains("published by app1.test.client.test instance 0"),
            "{}",
            error.message
        );
        let rules = run("nft", &["list", "ruleset"]);
        assert!(
            rules.contains("fib daddr type local tcp dport 8080 dnat ip to 10.18.0.2:80"),
            "{rules}"
        );
        world.node.stop().await;
    });
}

#[test]
fn deploying_again_replaces_and_a_dead_namespace_is_noticed() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let first = Sleeper::start().await;
        let one = world.deploy(&first, JOB, 0, "8080:80").await.unwrap();
        let second = Sleeper::start().await;
        let two = world.deploy(&second, JOB, 0, "8080:80").await.unwrap();
        assert_ne!(one.ns_address, two.ns_address);
        assert_eq!(world.recorder.attached.lock().unwrap().len(), 1);
        assert_eq!(world.node.status().await.containers.len(), 1);
        assert!(!first.inside("ip -o link").contains("eth0"));
        drop(second);
        eventually("it is detached", async || {
            world.node.status().await.containers.is_empty()
        })
        .await;
        eventually("it is announced", async || {
            !cluster.heard("service/undeployed").is_empty()
        })
        .await;
        assert_eq!(
            cluster.heard("service/undeployed")[0]["nsip"],
            two.ns_address.unwrap().to_string()
        );
        assert!(!run("nft", &["list", "ruleset"]).contains("8080"));
        world.node.stop().await;
    });
}

#[test]
fn what_ran_is_withdrawn_when_its_successor_cannot_be_deployed() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let first = Sleeper::start().await;
        let one = world.deploy(&first, JOB, 0, "").await.unwrap();
        eventually("it is announced", async || {
            !cluster.heard("service/deployed").is_empty()
        })
        .await;
        let _taken = std::net::TcpListener::bind("0.0.0.0:8080").unwrap();
        let second = Sleeper::start().await;
        let refused = world.deploy(&second, JOB, 0, "8080:80").await.unwrap_err();
        assert!(refused.to_string().contains("8080"), "{refused}");
        eventually("its end is announced", async || {
            let heard = cluster.heard("service/undeployed");
            heard.len() == 1 && heard[0]["nsip"] == one.ns_address.unwrap().to_string()
        })
        .await;
        assert!(world.recorder.attached.lock().unwrap().is_empty());
        assert!(world.node.status().await.containers.is_empty());
        world.node.stop().await;
    });
}

#[test]
fn fifty_deploys_at_once_each_answer_within_two_seconds() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        *cluster.mute.lock().unwrap() = true;
        let mut containers = Vec::new();
        for _ in 0..50 {
            containers.push(Sleeper::start().await);
        }
        let start = Instant::now();
        let deploys: Vec<_> = (0..)
            .zip(&containers)
            .map(|(number, container)| {
                let (node, pid) = (world.node.clone(), container.pid());
                tokio::spawn(async move { world::deploy(&node, pid, JOB, number, "").await })
            })
            .collect();
        let mut addresses = std::collections::HashSet::new();
        for deploy in deploys {
            addresses.insert(deploy.await.unwrap().unwrap().ns_address);
        }
        let took = start.elapsed();
        assert_eq!(addresses.len(), 50);
        assert!(took < Duration::from_secs(2), "{took:?}");
        world.node.purge().await;
    });
}

const SETTINGS: &str = r#"{"ClusterUrl":"127.0.0.1"}"#;

#[test]
fn what_a_kill_at_any_step_of_a_deploy_leaves_is_gone_after_the_restart() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let state_dir = scratch("killed");
        let container = Sleeper::start().await;
        let other = Sleeper::start().await;
        let (pid, other_pid) = (container.pid(), other.pid());
        let inside = container.inside("ip -o link").lines().count();
        // A container that stays, so that there is something to take over.
        let folder = state_dir.clone();
        tokio::task::spawn_blocking(move || {
            killed(async move || {
                let world = World::with(SETTINGS, folder).await;
                world.register("n1").await.unwrap();
                world::deploy(&world.node, other_pid, "stays.a.b.c", 0, "9090:90")
                    .await
                    .unwrap();
            });
        })
        .await
        .unwrap();
        let before = fingerprint();
        let job = format!("app{}.test.unikernel.test", std::process::id());
        let steps = STEPS.iter().map(|step| (Kind::Container, *step));
        let unikernel = UNIKERNEL_STEPS.iter().chain(&STEPS);
        let steps = steps.chain(unikernel.map(|step| (Kind::Unikernel, *step)));
        for (kind, step) in steps {
            let request = Deploy {
                pid,
                service_name: if kind == Kind::Container {
                    JOB.into()
                } else {
                    job.clone()
                },
                instance_number: 0,
                port_mappings: "8080:80".into(),
                vhost_user: false,
            };
            let folder = state_dir.clone();
            tokio::task::spawn_blocking(move || {
                killed(async move || {
                    let world = World::with(SETTINGS, folder).await;
                    eventually("it is up", async || world.node.status().await.up).await;
                    world.node.fault.kill_at(step);
                    let error = world.node.deploy(request, kind).await.unwrap_err();
                    assert!(error.message.contains(step), "{}", error.message);
                });
            })
            .await
            .unwrap();
            if step == "state" {
                // From here on the deploy holds: the container is there, and goes as any other.
                let again = World::with(SETTINGS, state_dir.clone()).await;
                eventually("it is up", async || again.node.status().await.up).await;
                assert_eq!(again.node.status().await.containers.len(), 2);
                let name = if kind == Kind::Container { JOB } else { &job };
                let request = Undeploy {
                    service_name: name.into(),
                    instance_number: 0,
                };
                again.node.undeploy(request).await.unwrap();
                again.node.stop().await;
            } else {
                let again = World::with(SETTINGS, state_dir.clone()).await;
                eventually("it is up", async || again.node.status().await.up).await;
                assert_eq!(
                    again.node.status().await.containers.len(),
                    1,
                    "{kind:?} {step}"
                );
                assert_eq!(again.recorder.attached.lock().unwrap().len(), 1);
                again.node.stop().await;
            }
            assert_eq!(
                fingerprint(),
                before,
                "after a kill at {step} of a {kind:?}"
            );
            let left = container.inside("ip -o link").lines().count();
            assert_eq!(left, inside, "after a kill at {step} of a {kind:?}");
            assert!(!run("ip", &["netns", "list"]).contains(&job), "{step}");
        }
        // None of the addresses is lost.
        let again = World::with(SETTINGS, state_dir).await;
        eventually("it is up", async || again.node.status().await.up).await;
        let state = std::fs::read(again.state_dir.join("test.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        assert_eq!(
            state["ledger"]["subnets"][0]["used"],
            serde_json::json!([2])
        );
        assert_eq!(state["making"], serde_json::json!([]));
        assert_eq!(again.node.status().await.subnetworks.len(), 1);
        assert!(
            cluster.heard("net/subnet").len() < 3,
            "no further subnetwork was needed"
        );
        again.node.purge().await;
        assert!(run("nft", &["list", "ruleset"]).trim().is_empty());
    });
}

#[test]
fn a_unikernel_that_fails_at_any_step_leaves_nothing_behind() {
    isolated(async || {
        let _broker = Broker::start().await;
        let _cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let before = fingerprint();
        let job = format!("app{}.test.failing.test", std::process::id());
        for step in UNIKERNEL_STEPS.iter().chain(&STEPS) {
            world.node.fault.set(Some(step));
            let request = Deploy {
                pid: 0,
                service_name: job.clone(),
                instance_number: 3,
                port_mappings: "8080:80".into(),
                vhost_user: false,
            };
            let error = world
                .node
                .deploy(request, Kind::Unikernel)
                .await
                .unwrap_err();
            assert_eq!(error.status, 500);
            assert!(error.message.contains(step), "{}", error.message);
            assert_eq!(fingerprint(), before, "after a failure at {step}");
            assert!(!run("ip", &["netns", "list"]).contains(&job), "{step}");
        }
        world.node.purge().await;
    });
}

#[test]
fn a_deploy_that_meets_the_end_is_whole_or_not_there() {
    isolated(async || {
        let _broker = Broker::start().await;
        let _cluster = Cluster::start().await;
        let mut containers = Vec::new();
        for _ in 0..8 {
            containers.push(Sleeper::start().await);
        }
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let deploys: Vec<_> = (0..)
            .zip(&containers)
            .map(|(number, container)| {
                let (node, pid) = (world.node.clone(), container.pid());
                tokio::spawn(async move { world::deploy(&node, pid, JOB, number, "").await })
            })
            .collect();
        world.node.stop().await;
        let mut whole = 0;
        for deploy in deploys {
            match deploy.await.unwrap() {
                Ok(_) => whole += 1,
                Err(error) => assert!(
                    error.status == 500 && error.message.contains("stopping"),
                    "{}",
                    error.message
                ),
            }
        }
        let state_dir = world.state_dir.clone();
        drop(world);
        let again = World::with(SETTINGS, state_dir).await;
        eventually("all that were answered are there", async || {
            again.node.status().await.containers.len() == whole
        })
        .await;
        assert_eq!(again.recorder.attached.lock().unwrap().len(), whole);
        again.node.purge().await;
    });
}
