//! What must keep working while something else goes wrong.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use journeys::deadline::{wait_for, wait_until};
use journeys::demo::Demo;
use journeys::demo::report::Report;
use journeys::demo::voice::Voice;
use journeys::measure::Observer;
use journeys::node::{TUNNEL_PORT, Uplink};
use journeys::topology::{Deployed, Plan, Topology};

/// Pitfall 1: nothing that arrives on the tunnel port ends the process or harms the traffic.
#[test]
fn any_datagram_to_the_tunnel_port_is_survived() {
    let mut topology = Topology::registered(Plan {
        nodes: 2,
        uplink: Uplink::Socket,
    })
    .unwrap();
    let (web, _instances) = topology.deploy("trial.test.web.default", &[1]).unwrap();
    let (own, mut client) = topology
        .deploy_client("trial.test.client.default", 0)
        .unwrap();
    let table = topology
        .wait_running(&[(&web, 1), (&own, 1)])
        .unwrap()
        .remove(0);
    let target = SocketAddr::new(IpAddr::V4(topology.nodes[1].underlay), TUNNEL_PORT);
    topology.nodes[0]
        .namespace
        .enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for round in 0..50u8 {
                socket.send_to(&[], target).unwrap();
                for length in (1..1400).step_by(31) {
                    // Every first half-byte, lengths and offsets of all kinds.
                    let mut bytes: Vec<u8> = (0..length)
                        .map(|at: u16| at.to_le_bytes()[0].wrapping_mul(round.wrapping_add(7)))
                        .collect();
                    bytes[0] = round.wrapping_mul(5);
                    socket.send_to(&bytes, target).unwrap();
                    bytes[0] = if round % 2 == 0 { 0x45 } else { 0x60 };
                    socket.send_to(&bytes, target).unwrap();
                }
            }
        })
        .unwrap();
    topology.nodes[1]
        .process()
        .unwrap()
        .check_running()
        .unwrap();
    let mut observer = Observer {
        container: &mut client.container,
        run: topology.run(),
        programs: &topology.programs,
    };
    let spread = observer.requests(table.service_ip, 50).unwrap();
    assert_eq!(spread.failures, 0, "{spread:?}");
    topology.nodes[1]
        .process()
        .unwrap()
        .check_running()
        .unwrap();
}

#[test]
fn an_instance_goes_under_load_over_af_packet() {
    let voice = Voice::new(true);
    let mut demo = Demo::lay(Uplink::AfPacket).unwrap();
    demo.bring_up(&voice).unwrap();
    demo.register(&voice).unwrap();
    demo.deploy(&voice).unwrap();
    demo.drain(&voice, &mut Report::default()).unwrap();
}

/// Pitfall 24: a Net Manager that is killed comes back with its subnetwork and its containers, and
/// nobody has to register or deploy again.
#[test]
fn a_killed_net_manager_takes_its_containers_over() {
    let mut topology = Topology::registered(Plan {
        nodes: 2,
        uplink: Uplink::Socket,
    })
    .unwrap();
    let (web, _instances) = topology.deploy("trial.test.web.default", &[0, 1]).unwrap();
    let (own, mut client) = topology
        .deploy_client("trial.test.client.default", 0)
        .unwrap();
    let table = topology
        .wait_running(&[(&web, 2), (&own, 1)])
        .unwrap()
        .remove(0);
    let service = table.service_ip;
    let requests = |client: &mut Deployed, topology: &Topology| {
        let mut observer = Observer {
            container: &mut client.container,
            run: topology.run(),
            programs: &topology.programs,
        };
        observer.requests(service, 10).unwrap()
    };
    assert_eq!(requests(&mut client, &topology).failures, 0);
    for node in 0..2 {
        topology.nodes[node].process().unwrap().kill().unwrap();
        topology.restart_node(node).unwrap();
        wait_for(
            "requests to be answered again",
            Duration::from_secs(20),
            || {
                let spread = requests(&mut client, &topology);
                Ok((spread.failures == 0 && spread.per_instance.len() == 2).then_some(()))
            },
        )
        .unwrap();
    }
    let again = topology.wait_running(&[(&web, 2)]).unwrap().remove(0);
    assert_eq!(again.instances, table.instances);
}

/// A container that dies without an undeploy is taken out by its node.
#[test]
fn a_dead_container_gets_no_more_requests() {
    let mut topology = Topology::registered(Plan {
        nodes: 2,
        uplink: Uplink::Socket,
    })
    .unwrap();
    let (web, mut instances) = topology.deploy("trial.test.web.default", &[0, 1]).unwrap();
    topology.wait_running(&[(&web, 2)]).unwrap();
    instances[1].container.kill().unwrap();
    let orchestrator = topology.orchestrator();
    wait_until(
        "the dead instance to be withdrawn",
        Duration::from_secs(15),
        || {
            orchestrator
                .table(&web)
                .is_ok_and(|table| table.instances.iter().map(|place| place.number).eq([0]))
        },
    )
    .unwrap();
}
