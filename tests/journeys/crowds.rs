//! Many at once: connections, clients with the same source ports, protocols with the same ports, instances that come
//! and go.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use journeys::deadline::wait_for;
use journeys::measure::Observer;
use journeys::node::Uplink;
use journeys::process::Process;
use journeys::scene::{Scene, crowd};
use serde_json::Value;

fn per_instance(report: &Value) -> BTreeMap<String, u64> {
    let counts = report["per_instance"].as_object().unwrap();
    counts
        .iter()
        .map(|(instance, count)| (instance.clone(), count.as_u64().unwrap()))
        .collect()
}

/// Pitfalls 5 and 8: flows are limited by memory alone, and spread evenly however many they are.
#[test]
fn ten_thousand_connections_stand_at_once() {
    let mut scene = Scene::new(Uplink::Socket, &[1, 0]).unwrap();
    let service = scene.table.service_ip;
    let report = scene.crowd(service, &["--count", "10000"]).unwrap();
    assert_eq!(report["connections"], 10_000, "{report}");
    let counts = per_instance(&report);
    let (most, least) = (
        counts.values().max().unwrap(),
        counts.values().min().unwrap(),
    );
    assert!(counts.len() == 2 && most - least <= 1, "{report}");
}

/// Pitfalls 4 and 6: eight containers with 25 connections and 25 datagram sockets each, all from the same 25 ports to
/// the same Service IP and port, and each hears its own words only.
#[test]
fn clients_that_share_source_ports_hear_their_own_answers() {
    let mut scene = Scene::new(Uplink::Socket, &[1, 0]).unwrap();
    let services = [scene.table.service_ip, scene.table.service_ip_v6];
    let mut clients = Vec::new();
    for number in 0..8 {
        let job = format!("trial.test.client{number}.default");
        let (_, client) = scene.topology.deploy_client(&job, number % 2).unwrap();
        clients.push(client);
    }
    for service in services {
        std::thread::scope(|scope| {
            let (run, programs) = (scene.topology.run(), &scene.topology.programs);
            for (client, name) in clients.iter_mut().zip(1..) {
                scope.spawn(move || {
                    let mut observer = Observer {
                        container: &mut client.container,
                        run,
                        programs,
                    };
                    let name = i32::to_string(&name);
                    let report = crowd(
                        &mut observer,
                        service,
                        &[
                            "--name",
                            &name,
                            "--count",
                            "25",
                            "--source-port",
                            "20000",
                            "--datagrams",
                            "--rounds",
                            "10",
                        ],
                    )
                    .unwrap();
                    assert_eq!(report["connections"], 25, "{report}");
                });
            }
        });
    }
}

/// Pitfall 2: the last port is a port, at either end and at both.
#[test]
fn the_last_port_is_a_port() {
    let mut scene = Scene::new(Uplink::Socket, &[1, 0]).unwrap();
    for service in [scene.table.service_ip, scene.table.service_ip_v6] {
        let report = scene
            .crowd(
                service,
                &["--count", "2", "--source-port", "65534", "--datagrams"],
            )
            .unwrap();
        assert_eq!(report["connections"], 2, "{report}");
        scene
            .echo(service, 65535, &["--to", "5", "--source-port", "65535"])
            .unwrap();
    }
}

struct Request {
    start: u128,
    answer: Result<u32, String>,
}

fn requests(poll: &Process) -> Vec<Request> {
    let lines = poll.output().unwrap();
    let parse = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let start = words.next()?.parse().ok()?;
        let outcome = words.nth(1)?;
        let answer = match outcome.strip_prefix("failed: ") {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(outcome.parse().ok()?),
        };
        Some(Request { start, answer })
    };
    lines.lines().filter_map(parse).collect()
}

fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_micros()
}

/// Instances come and go while four connections at a time are opened: what fails was in flight on one that went.
#[test]
fn instances_come_and_go_under_load() {
    const CONNECTIONS: u32 = 4;
    const ROUNDS: u32 = 4;
    let mut scene = Scene::new(Uplink::Socket, &[1, 0]).unwrap();
    let service = scene.table.service_ip;
    let orchestrator = scene.topology.orchestrator();
    let mut poll = scene.observer().poll(service, CONNECTIONS).unwrap();
    let answered = |poll: &mut Process, what: &str, instance: u32, after: u128| {
        wait_for(what, Duration::from_secs(20), || {
            poll.check_running()?;
            let of = |r: &&Request| r.answer == Ok(instance) && r.start > after;
            Ok((requests(poll).iter().filter(of).count() >= 10).then_some(()))
        })
        .unwrap();
    };
    let mut went = Vec::new();
    for round in 0..ROUNDS {
        let number = 2 + round;
        let node = usize::try_from(round % 2).unwrap();
        let mut further = scene
            .topology
            .deploy_instance(&scene.service, number, node)
            .unwrap();
        answered(&mut poll, "the new instance to be found", number, 0);
        // Taken out of the routes first, then gone: as the orchestrators do it.
        let before = now();
        orchestrator
            .undeploy_instance(&scene.service, number)
            .unwrap();
        let mut last = before;
        wait_for(
            "the routes to leave it out",
            Duration::from_secs(20),
            || {
                poll.check_running()?;
                let all = requests(&poll);
                last = all
                    .iter()
                    .filter(|r| r.answer == Ok(number))
                    .map(|r| r.start)
                    .max()
                    .unwrap_or(before);
                // Nothing of it among the last hundred.
                Ok((all.iter().filter(|r| r.start > last).count() >= 100).then_some(()))
            },
        )
        .unwrap();
        further.container.kill().unwrap();
        scene.topology.nodes[node]
            .undeploy(&scene.service.job, number)
            .unwrap();
        went.push((number, last));
    }
    answered(&mut poll, "the first instances to be there still", 0, now());
    drop(poll.stdin());
    poll.finish(Duration::from_secs(20)).unwrap();
    let all = requests(&poll);
    let failures: Vec<_> = all.iter().filter_map(|r| r.answer.as_ref().err()).collect();
    assert!(
        failures.len() <= usize::try_from(CONNECTIONS * ROUNDS).unwrap(),
        "{} of {} failed, the first: {:?}",
        failures.len(),
        all.len(),
        failures.first()
    );
    for (number, last) in went {
        let late = all
            .iter()
            .filter(|r| r.answer == Ok(number) && r.start > last);
        assert_eq!(late.count(), 0, "instance {number} answered after it went");
    }
}
