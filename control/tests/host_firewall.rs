//! The machine's own firewall, as Docker and others leave it, in a namespace of its own.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

mod world;

use world::{Broker, Cluster, Sleeper, World, eventually, isolated, run, scratch};

const SETTINGS: &str = r#"{"ClusterUrl":"127.0.0.1"}"#;
const FAMILIES: [&str; 2] = ["iptables", "ip6tables"];

/// What Docker's start does.
fn docker() {
    for program in FAMILIES {
        for words in [
            "-P FORWARD DROP",
            "-N DOCKER-USER",
            "-A DOCKER-USER -j RETURN",
            "-A FORWARD -j DOCKER-USER",
        ] {
            run(program, &words.split(' ').collect::<Vec<_>>());
        }
    }
}

fn accepted() -> Vec<String> {
    let listings = FAMILIES.map(|program| run(program, &["-S", "DOCKER-USER"]));
    let lines = listings.iter().flat_map(|listing| listing.lines());
    lines
        .filter(|line| line.contains("ACCEPT"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn dockers_firewall_lets_containers_pass_and_is_left_as_it_was() {
    isolated(async || {
        let _broker = Broker::start().await;
        let _cluster = Cluster::start().await;
        docker();
        let state_dir = scratch("docker");
        // Once for each address family, however often it starts.
        for _ in 0..3 {
            let world = World::with(SETTINGS, state_dir.clone()).await;
            world.register("n1").await.unwrap();
            let rules = accepted();
            let wanted = ["-i oak0", "-o oak0", "-i oak0", "-o oak0"];
            for way in wanted {
                assert_eq!(
                    rules.iter().filter(|rule| rule.contains(way)).count(),
                    2,
                    "{rules:?}"
                );
            }
            assert_eq!(rules.len(), 4, "{rules:?}");
            assert_eq!(world.node.status().await.host_firewall, None);
            // With a container, what it needs stays.
            let container = Sleeper::start().await;
            world.deploy(&container, "a.b.c.d", 0, "").await.unwrap();
            world.node.stop().await;
            assert_eq!(accepted().len(), 4);
        }
        let world = World::with(SETTINGS, state_dir).await;
        world.register("n1").await.unwrap();
        world.node.purge().await;
        assert_eq!(accepted(), Vec::<String>::new());
        for program in FAMILIES {
            assert!(run(program, &["-S", "FORWARD"]).starts_with("-P FORWARD DROP"));
        }
    });
}

#[test]
fn docker_may_start_later() {
    isolated(async || {
        let _broker = Broker::start().await;
        let _cluster = Cluster::start().await;
        let world = World::start().await;
        world.register("n1").await.unwrap();
        docker();
        world::ip("link add docker0 type bridge");
        world::ip("addr add 172.17.0.1/16 dev docker0");
        eventually("its firewall is opened", async || accepted().len() == 4).await;
        world.node.purge().await;
    });
}

#[test]
fn another_firewall_is_left_alone_and_said_with_the_remedy() {
    isolated(async || {
        let _broker = Broker::start().await;
        let _cluster = Cluster::start().await;
        run("iptables", &["-P", "FORWARD", "DROP"]);
        let before = run("iptables", &["-S"]);
        let world = World::start().await;
        world.register("n1").await.unwrap();
        let said = world.node.status().await.host_firewall.unwrap();
        assert!(
            said.contains("iptables -I FORWARD -i oak0 -j ACCEPT") && !said.contains("ip6tables"),
            "{said}"
        );
        assert_eq!(run("iptables", &["-S"]), before);
        // As it says.
        for way in ["-i", "-o"] {
            run("iptables", &["-I", "FORWARD", way, "oak0", "-j", "ACCEPT"]);
        }
        world::ip("addr add 198.51.100.9/24 dev wan0");
        eventually("nothing is in the way", async || {
            world.node.status().await.host_firewall.is_none()
        })
        .await;
        world.node.purge().await;
    });
}
