//! What becomes of connections when instances go, and who gets new ones when instances are busy.
#![allow(clippy::unwrap_used, clippy::panic)] // In a test both are assertions, in its own functions too.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use journeys::container::Container;
use journeys::deadline::wait_for;
use journeys::measure::{HTTP_PORT, Observer, Spread};
use journeys::node::Uplink;
use journeys::orchestrator::Service;
use journeys::topology::{Plan, Topology};

const PATIENCE: Duration = Duration::from_secs(30);

/// A connection from inside the container; it stays in the container's namespace.
fn connect(client: &Container, to: IpAddr) -> TcpStream {
    let target = SocketAddr::new(to, HTTP_PORT);
    let stream = client.namespace().connect(target, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads from all until so many have been reset, or time is up; how many were, and how long the last one took. Nobody may
/// say anything else.
fn resets(streams: &mut Vec<TcpStream>, wanted: usize) -> (usize, Duration) {
    let (begun, mut count, mut last) = (Instant::now(), 0, Duration::ZERO);
    for stream in streams.iter() {
        let blink = Some(Duration::from_millis(5));
        stream.set_read_timeout(blink).unwrap();
    }
    while count < wanted && begun.elapsed() < PATIENCE {
        streams.retain_mut(|stream| match stream.read(&mut [0; 10]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                count += 1;
                last = begun.elapsed();
                false
            }
            Ok(length) => panic!("{length} bytes"),
        });
    }
    (count, last)
}

/// The address of a policy at the root.
fn address(topology: &Topology, service: &Service, policy: &str) -> IpAddr {
    let orchestrator = topology.orchestrator();
    let name = service.job.replace('.', "_");
    let path = format!(
        "/api/net/service/{name}/instances?cluster_id={}",
        orchestrator.cluster_id
    );
    let job = orchestrator.root.get(&path).unwrap().json().unwrap();
    let list = job["service_ip_list"].as_array().unwrap();
    let entry = list.iter().find(|e| e["IpType"] == policy).unwrap();
    entry["Address_v6"].as_str().unwrap().parse().unwrap()
}

fn requests(topology: &Topology, client: &mut Container, to: IpAddr, count: u32) -> Spread {
    let mut observer = Observer {
        container: client,
        run: topology.run(),
        programs: &topology.programs,
    };
    observer.requests(to, count).unwrap()
}

/// A client that only waits for an answer hears at once that its instance is gone: the one on its own node, and the one
/// on another.
#[test]
fn a_waiting_client_hears_that_its_instance_is_gone() {
    let mut topology = Topology::registered(Plan {
        nodes: 2,
        uplink: Uplink::Socket,
    })
    .unwrap();
    let (web, mut instances) = topology.deploy("trial.test.web.default", &[0, 1]).unwrap();
    let (stay, _staying) = topology.deploy("trial.test.stay.default", &[1]).unwrap();
    let (own, client) = topology
        .deploy_client("trial.test.client.default", 0)
        .unwrap();
    let tables = topology
        .wait_running(&[(&web, 2), (&stay, 1), (&own, 1)])
        .unwrap();
    for removed in [0, 1] {
        // Two by the service find both instances; the first time, that is.
        let services = [tables[0].service_ip, tables[0].service_ip_v6];
        let mut waiting: Vec<TcpStream> = services
            .iter()
            .flat_map(|ip| (0..2).map(|_| connect(&client.container, *ip)))
            .collect();
        let mut other = vec![connect(&client.container, tables[1].service_ip)];
        // The order of the orchestrators: the root forgets it, then its container is killed.
        topology
            .orchestrator()
            .undeploy_instance(&web, removed)
            .unwrap();
        let wanted = if removed == 0 { 2 } else { 4 };
        let (count, time) = resets(&mut waiting, wanted);
        assert_eq!(count, wanted, "those of instance {removed}, all of them");
        assert!(time < Duration::from_secs(2), "{time:?}");
        // Those of the other instance, and of another job, wait on.
        assert_eq!(waiting.len(), 4 - wanted);
        let mut blink = Vec::new();
        blink.append(&mut waiting);
        blink.append(&mut other);
        for mut stream in blink {
            stream
                .set_read_timeout(Some(Duration::from_millis(10)))
                .unwrap();
            let error = stream.read(&mut [0; 10]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
        }
        let at = usize::try_from(removed).unwrap();
        instances[at].container.kill().unwrap();
        let node = instances[at].node;
        topology.nodes[node]
            .undeploy(&web.job, removed)
            .unwrap()
            .ok("undeploying")
            .unwrap();
    }
}

/// The same where the container dies first: its own node knows before the cluster does.
#[test]
fn a_waiting_client_hears_that_a_container_died() {
    let mut topology = Topology::registered(Plan {
        nodes: 2,
        uplink: Uplink::Socket,
    })
    .unwrap();
    let (web, mut instances) = topology.deploy("trial.test.web.default", &[0, 1]).unwrap();
    let (own, client) = topology
        .deploy_client("trial.test.client.default", 0)
        .unwrap();
    let table = topology
        .wait_running(&[(&web, 2), (&own, 1)])
        .unwrap()
        .remove(0);
    for (instance, wanted) in instances.iter_mut().zip([1, 2]) {
        let mut waiting: Vec<TcpStream> = (0..2)
            .map(|_| connect(&client.container, table.service_ip))
            .collect();
        // Without a farewell of its kernel.
        let inside = instance.container.namespace();
        inside.ip(&["link", "set", "eth0", "down"]).unwrap();
        instance.container.kill().unwrap();
        topology.nodes[instance.node]
            .undeploy(&web.job, instance.number)
            .unwrap()
            .ok("undeploying")
            .unwrap();
        let (count, time) = resets(&mut waiting, wanted);
        assert_eq!(count, wanted, "those of instance {}", instance.number);
        assert!(time < Duration::from_secs(2), "{time:?}");
    }
}

/// Underutilized: an instance that others keep busy gets no new flows while there is an idle one.
#[test]
fn new_flows_go_where_others_are_not() {
    let mut topology = Topology::registered(Plan {
        nodes: 3,
        uplink: Uplink::Socket,
    })
    .unwrap();
    let (web, _instances) = topology.deploy("trial.test.web.default", &[0, 1]).unwrap();
    let (own, mut client) = topology
        .deploy_client("trial.test.client.default", 2)
        .unwrap();
    let (others, mut other) = topology
        .deploy_client("trial.test.other.default", 2)
        .unwrap();
    let table = topology
        .wait_running(&[(&web, 2), (&own, 1), (&others, 1)])
        .unwrap()
        .remove(0);
    let service = address(&topology, &web, "Underutilized");
    for busy in [1u32, 0] {
        let place = table.instances.iter().find(|p| p.number == busy).unwrap();
        let instance = place.instance_ip;
        wait_for(
            "new flows to prefer the idle instance",
            Duration::from_secs(90),
            || {
                // By its own address: the client's node holds no flow of these, and learns of them by reports alone.
                let load = requests(&topology, &mut other.container, instance, 60);
                assert_eq!(load.per_instance.get(&busy), Some(&60), "{load:?}");
                let spread = requests(&topology, &mut client.container, service, 8);
                assert_eq!(spread.failures, 0, "{spread:?}");
                Ok((spread.per_instance.get(&(1 - busy)) == Some(&8)).then_some(()))
            },
        )
        .unwrap();
    }
    // And it is counted.
    let metrics = topology.nodes[2].server().get("/metrics").unwrap().body;
    let picks = metrics
        .lines()
        .find_map(|l| l.strip_prefix("netmanager_policy_picks_total{policy=\"underutilized\"} "));
    assert!(picks.unwrap().parse::<u64>().unwrap() >= 16, "{metrics}");
}
