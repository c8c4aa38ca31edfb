//! Virtual machines behind `vhost-user` sockets, as far as the Net Manager has to do with them: all or nothing, the
//! same socket after a restart, and nothing left. The traffic is the journeys'.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

mod world;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use control::MACHINE_STEPS;
use control::forwarding::Pair;
use control::node::{Kind, Refusal};
use protocol::node_http::{Deploy, Deployed};
use world::api::Api;
use world::killed::killed;
use world::{Broker, Cluster, Sleeper, World, eventually, fingerprint, isolated, scratch};

const JOB: &str = "app1.test.machine.test";

fn request(pid: i64, number: u32) -> Deploy {
    Deploy {
        pid,
        service_name: JOB.to_owned(),
        instance_number: number,
        port_mappings: "8080:80".to_owned(),
        vhost_user: true,
    }
}

async fn deploy(world: &World, kind: Kind, pid: i64) -> Result<Deployed, Refusal> {
    world.node.deploy(request(pid, 0), kind).await
}

async fn start(folder: &Path, state_dir: PathBuf) -> World {
    let folder = folder.display();
    let settings = format!(
        r#"{{"ClusterUrl":"127.0.0.1","VhostFolder":"{folder}/vhost","VhostGroup":"4711"}}"#
    );
    World::with(&settings, state_dir).await
}

fn sockets(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("vhost")).map_or(0, Iterator::count)
}

#[test]
fn the_answer_says_all_that_a_machine_must_know() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let folder = scratch("vhost");
        let world = start(&folder, scratch("state")).await;
        world.register("n1").await.unwrap();
        let before = fingerprint();
        let api = Api::serve(&world.node).await;
        let body = format!(
            r#"{{"pid":0,"serviceName":"{JOB}","instanceNumber":0,"portMappings":"","vhostUser":true}}"#
        );
        let (status, answer) = api.post("/unikernel/deploy", &body).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["nsAddress"], "10.18.0.2");
        assert_eq!(answer["nsAddressv6"], "fc00::2");
        let machine = &answer["vhostUser"];
        for (field, value) in [("gateway", "10.18.0.1"), ("gatewayv6", "fc00::1")] {
            assert_eq!(machine[field], value);
        }
        assert_eq!(
            (&machine["prefix"], &machine["prefixv6"]),
            (&26.into(), &120.into())
        );
        assert_eq!(machine["mtu"], 1450);
        let attached = world.recorder.attached.lock().unwrap().clone();
        let attached = attached.values().next().unwrap();
        let mac = attached.mac.map(|byte| format!("{byte:02x}")).join(":");
        assert_eq!(machine["mac"], mac.as_str());
        assert_eq!(
            attached.namespace,
            Pair::new(
                answer["nsAddress"].as_str().unwrap().parse().ok(),
                "fc00::2".parse().ok()
            )
        );
        let socket = machine["socket"].as_str().unwrap();
        let metadata = std::fs::metadata(socket).unwrap();
        assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o660, 4711));
        assert_eq!(fingerprint(), before, "no interface, no namespace, no rule");
        eventually("announced", async || {
            !cluster.heard("service/deployed").is_empty()
        })
        .await;
        assert_eq!(cluster.heard("service/deployed")[0]["nsip"], "10.18.0.2");
        // As ever without being asked.
        let container = Sleeper::start().await;
        let body = format!(
            r#"{{"pid":{},"serviceName":"a.b.c.d","instanceNumber":0,"portMappings":"","vhostUser":false}}"#,
            container.pid()
        );
        let (status, answer) = api.post("/container/deploy", &body).await;
        assert_eq!(status, 200, "{answer}");
        assert!(answer.get("vhostUser").is_none(), "{answer}");
        world.undeploy(JOB, 0).await;
        assert_eq!(sockets(&folder), 0);
        world.node.purge().await;
        assert!(!folder.join("vhost").exists());
    });
}

#[test]
fn a_failure_or_a_kill_at_any_step_leaves_nothing() {
    isolated(async || {
        let _broker = Broker::start().await;
        let _cluster = Cluster::start().await;
        let (folder, state_dir) = (scratch("vhost"), scratch("state"));
        let world = start(&folder, state_dir.clone()).await;
        world.register("n1").await.unwrap();
        let before = fingerprint();
        for step in MACHINE_STEPS {
            world.node.fault.set(Some(step));
            let error = deploy(&world, Kind::Unikernel, 0).await.unwrap_err();
            assert_eq!(error.status, 500);
            assert!(error.message.contains(step), "{}", error.message);
            assert_eq!(sockets(&folder), 0, "after a failure at {step}");
            assert_eq!(fingerprint(), before, "after a failure at {step}");
            assert!(world.recorder.attached.lock().unwrap().is_empty());
        }
        world.node.fault.set(None);
        world.node.stop().await;
        // Whoever is killed leaves the file; who starts again removes it, or takes over what was written down.
        for step in MACHINE_STEPS {
            let (place, state) = (folder.clone(), state_dir.clone());
            tokio::task::spawn_blocking(move || {
                killed(async move || {
                    let world = start(&place, state).await;
                    eventually("it is up", async || world.node.status().await.up).await;
                    world.node.fault.kill_at(step);
                    deploy(&world, Kind::Unikernel, 0).await.unwrap_err();
                });
            })
            .await
            .unwrap();
            let again = start(&folder, state_dir.clone()).await;
            eventually("it is up", async || again.node.status().await.up).await;
            let kept = usize::from(step == "state");
            assert_eq!(sockets(&folder), kept, "after a kill at {step}");
            assert_eq!(again.node.status().await.containers.len(), kept);
            again.undeploy(JOB, 0).await;
            assert_eq!(sockets(&folder), 0, "after a kill at {step}");
            again.node.stop().await;
        }
        assert_eq!(fingerprint(), before);
    });
}

#[test]
fn a_restart_makes_the_same_socket_again_and_a_process_that_ended_takes_it_with_it() {
    isolated(async || {
        let _broker = Broker::start().await;
        let cluster = Cluster::start().await;
        let (folder, state_dir) = (scratch("vhost"), scratch("state"));
        let world = start(&folder, state_dir.clone()).await;
        world.register("n1").await.unwrap();
        let emulator = Sleeper::start().await;
        let deployed = deploy(&world, Kind::Container, emulator.pid())
            .await
            .unwrap();
        let socket = PathBuf::from(deployed.vhost_user.unwrap().socket);
        let attached = |world: &World| -> Vec<_> {
            let attached = world.recorder.attached.lock().unwrap();
            attached.values().cloned().collect()
        };
        let before = attached(&world);
        let inode = std::fs::metadata(&socket).unwrap().ino();
        // A stop with an instance attached leaves it to be taken over.
        world.node.stop().await;
        world.recorder.sockets.lock().unwrap().clear();
        assert!(socket.exists(), "a killed process leaves the file");
        let again = start(&folder, state_dir.clone()).await;
        eventually("it is up", async || again.node.status().await.up).await;
        assert_eq!(attached(&again), before);
        let metadata = std::fs::metadata(&socket).unwrap();
        assert_ne!(metadata.ino(), inode, "somebody listens again");
        assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o660, 4711));
        let view = serde_json::to_value(again.node.status().await).unwrap();
        let view = &view["containers"][0];
        assert_eq!(view["vhost_user"]["socket"], socket.to_str().unwrap());
        // Not taken for gone, although it has no interface.
        cluster.heard.lock().unwrap().clear();
        tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
        assert_eq!(attached(&again), before);
        drop(emulator);
        eventually("the machine's end is noticed", async || {
            attached(&again).is_empty()
        })
        .await;
        eventually("and told", async || {
            !cluster.heard("service/undeployed").is_empty()
        })
        .await;
        eventually("its socket is gone", async || !socket.exists()).await;
        again.node.purge().await;
    });
}

#[test]
fn what_cannot_be_had_says_why() {
    isolated(async || {
        let _broker = Broker::start().await;
        let _cluster = Cluster::start().await;
        let folder = scratch("vhost");
        let world = start(&folder, scratch("state")).await;
        world.register("n1").await.unwrap();
        for (kind, pid, status, word) in [
            (Kind::Container, -1, 400, "not a process"),
            (Kind::Container, 4_000_000, 500, "does not exist"),
        ] {
            let error = deploy(&world, kind, pid).await.unwrap_err();
            assert_eq!(error.status, status);
            assert!(error.message.contains(word), "{}", error.message);
        }
        // Somebody else listens where the socket is to be.
        let deployed = deploy(&world, Kind::Container, 0).await.unwrap();
        let socket = deployed.vhost_user.unwrap().socket;
        world.undeploy(JOB, 0).await;
        let _other = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = deploy(&world, Kind::Unikernel, 0).await.unwrap_err();
        assert!(
            error.message.contains("another program listens"),
            "{}",
            error.message
        );
        assert!(Path::new(&socket).exists(), "it is not ours to remove");
        world.node.purge().await;
        std::fs::remove_dir_all(&folder).unwrap();

        std::fs::create_dir_all(&folder).unwrap();
        let settings = format!(
            r#"{{"ClusterUrl":"127.0.0.1","VhostFolder":"{}/v","VhostGroup":"nobody-here"}}"#,
            folder.display()
        );
        let world = World::with(&settings, scratch("state")).await;
        world.register("n2").await.unwrap();
        let error = deploy(&world, Kind::Unikernel, 0).await.unwrap_err();
        assert_eq!(error.status, 500);
        assert!(
            error.message.contains("VhostGroup: there is no group"),
            "{}",
            error.message
        );
        assert_eq!(std::fs::read_dir(folder.join("v")).unwrap().count(), 0);
        world.node.purge().await;
    });
}
