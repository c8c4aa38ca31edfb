//! Processes that are killed or paused in the middle of the work.

use std::time::{Duration, Instant};

use servers::Signal;

use crate::support::{mosquitto, redis};
use crate::world::{AGREEMENT, World};

const WORKERS: usize = 20;
const SERVICES: u32 = 20;
const INSTANCES: u32 = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_deployments_outlive_the_death_of_each_part() {
    let mut world = World::prepare(2).await;
    world.start().await;
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        workers.push(world.worker(&format!("w{number}")).await);
    }
    for service in 0..SERVICES {
        world.service(service).await;
    }
    // Each worker runs one instance of each service, and some of them two or three.
    let place = |number: u32| &workers[usize::try_from(number).unwrap() % WORKERS];
    let began = Instant::now();
    let mut done = 0;
    for number in 0..INSTANCES {
        for batch in (0..SERVICES).collect::<Vec<_>>().chunks(4) {
            let world = &world;
            let deploy = |at: usize| world.instance(batch[at], number, place(number));
            tokio::join!(deploy(0), deploy(1), deploy(2), deploy(3));
        }
        done += SERVICES;
        match done {
            160 => {
                world.root_redis.as_mut().unwrap().kill();
                let folder = world.folder.file("root");
                world.root_redis = Some(redis(world.root_redis_port, &folder));
            }
            320 => {
                world.broker.as_mut().unwrap().kill();
                world.broker = Some(mosquitto(world.broker_port, world.folder.path()));
            }
            480 => world.roots[0].kill(),
            560 => world.roots[0] = world.start_root(0),
            640 => {
                world.cluster_redis.as_mut().unwrap().kill();
                let folder = world.folder.file("cluster");
                world.cluster_redis = Some(redis(world.cluster_redis_port, &folder));
            }
            720 => world.managers[0].kill(),
            800 => world.managers[0] = world.start_manager(0),
            _ => {}
        }
    }
    assert_eq!(done, 1000);
    world.ready().await;
    let start = Instant::now();
    // The contract's 10 s; longer where the deployments took longer than that, too.
    let until = start + Duration::from_secs(10).max(2 * (start - began));
    let mut addresses = std::collections::BTreeSet::new();
    for service in 0..SERVICES {
        let placed: Vec<_> = (0..INSTANCES)
            .map(|number| (number, place(number)))
            .collect();
        let asker = &workers[usize::try_from(service).unwrap() % WORKERS];
        world.agree(service, &placed, asker, until).await;
        let job = world.job(service).await.unwrap();
        for instance in job["instance_list"].as_array().unwrap() {
            for field in ["instance_ip", "instance_ip_v6"] {
                let address = instance[field].as_str().unwrap();
                assert!(addresses.insert(address.to_owned()), "{address} twice");
            }
        }
    }
    println!("all agree after {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_stand_still_for_half_a_minute_are_not_missed_and_do_no_harm() {
    let mut world = World::prepare(2).await;
    world.start().await;
    let worker = world.worker("w1").await;
    let other = world.worker("w2").await;
    world.service(1).await;
    world.instance(1, 0, &worker).await;
    world
        .agree(1, &[(0, &worker)], &other, Instant::now() + AGREEMENT)
        .await;
    world.roots[0].signal(Signal::SIGSTOP).unwrap();
    world.managers[0].signal(Signal::SIGSTOP).unwrap();
    let paused = Instant::now();
    world.service(2).await;
    world.instance(2, 0, &worker).await;
    world.instance(1, 1, &other).await;
    // What the broker gave to the one that stands still comes after its session has ended.
    let patience = paused + Duration::from_secs(30);
    world
        .agree(1, &[(0, &worker), (1, &other)], &other, patience)
        .await;
    world.agree(2, &[(0, &worker)], &other, patience).await;
    tokio::time::sleep(patience.saturating_duration_since(Instant::now())).await;
    world.roots[0].signal(Signal::SIGCONT).unwrap();
    world.managers[0].signal(Signal::SIGCONT).unwrap();
    world.drain(1, 0).await;
    world.ready().await;
    let until = Instant::now() + AGREEMENT;
    world
        .agree(1, &[(0, &worker), (1, &other)], &worker, until)
        .await;
    world.agree(2, &[(0, &worker)], &other, until).await;
    assert_eq!(
        world.job(1).await.unwrap()["instance_list"][0]["draining"],
        true
    );
}
