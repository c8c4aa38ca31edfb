//! The addresses and jobs that the fixtures speak of.

use std::net::IpAddr;

use net::Address;

use crate::api::{InstanceRoute, JobRoutes, Pair, Policy, ServiceAddress};

/// The other node's address.
pub const AWAY: &str = "192.0.2.20";
/// One that no route names.
pub const STRANGER: &str = "192.0.2.66";

/// The addresses that the fixtures speak of, IPv4 or IPv6.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub c: &'static str,
    pub c_instance: &'static str,
    pub e: &'static str,
    pub e_instance: &'static str,
    pub gateway: &'static str,
    pub service: &'static str,
    /// Another job's service with the same instances.
    pub local_service: &'static str,
    pub d: [&'static str; 2],
    pub d_instance: [&'static str; 2],
    pub outside: &'static str,
    pub unknown: &'static str,
    pub unknown_instance: &'static str,
}

pub const V4: Plan = Plan {
    c: "10.18.0.2",
    c_instance: "10.30.0.2",
    e: "10.18.0.3",
    e_instance: "10.30.0.3",
    gateway: "10.18.0.1",
    service: "10.30.0.10",
    local_service: "10.30.0.11",
    d: ["10.19.0.2", "10.19.0.3"],
    d_instance: ["10.30.0.20", "10.30.0.21"],
    outside: "203.0.113.5",
    unknown: "10.30.9.9",
    unknown_instance: "10.30.9.10",
};

pub const V6: Plan = Plan {
    c: "fc00::2",
    c_instance: "fdff::2",
    e: "fc00::3",
    e_instance: "fdff::3",
    gateway: "fc00::1",
    service: "fdff:2000::10",
    local_service: "fdff:2000::11",
    d: ["fc00::102", "fc00::103"],
    d_instance: ["fdff::20", "fdff::21"],
    outside: "2001:db8::5",
    unknown: "fdff:2000::99",
    unknown_instance: "fdff::99",
};

pub const PLANS: [Plan; 2] = [V4, V6];

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn address(text: &str) -> Address {
    Address::from(ip(text))
}

pub fn pair(v4: &str, v6: &str) -> Pair {
    Pair::new(Some(v4.parse().unwrap()), Some(v6.parse().unwrap()))
}

fn instance(
    number: u32,
    namespace: Pair,
    instance: Pair,
    service: Option<Pair>,
    host: &str,
) -> InstanceRoute {
    InstanceRoute {
        number,
        namespace,
        instance,
        services: service
            .map(|addresses| ServiceAddress {
                policy: Policy::RoundRobin,
                addresses,
            })
            .into_iter()
            .collect(),
        host: format!("{host}:50103").parse().unwrap(),
        weight: 1,
        draining: false,
        load: None,
    }
}

/// The service's job, with these of its instances on the other node.
pub fn job(instances: &[usize]) -> JobRoutes {
    JobRoutes {
        job: "a.b.service.d".to_owned(),
        instances: instances
            .iter()
            .map(|&n| {
                instance(
                    u32::try_from(n).unwrap(),
                    pair(V4.d[n], V6.d[n]),
                    pair(V4.d_instance[n], V6.d_instance[n]),
                    Some(pair(V4.service, V6.service)),
                    AWAY,
                )
            })
            .collect(),
    }
}

/// The client's own job.
pub fn client() -> JobRoutes {
    JobRoutes {
        job: "a.b.client.d".to_owned(),
        instances: vec![instance(
            0,
            pair(V4.c, V6.c),
            pair(V4.c_instance, V6.c_instance),
            None,
            "192.0.2.10",
        )],
    }
}

/// The job of `e`, a server on this node.
pub fn here() -> JobRoutes {
    JobRoutes {
        job: "a.b.here.d".to_owned(),
        instances: vec![instance(
            0,
            pair(V4.e, V6.e),
            pair(V4.e_instance, V6.e_instance),
            Some(pair(V4.local_service, V6.local_service)),
            "192.0.2.10",
        )],
    }
}

/// A job of one instance at an address that no other fixture uses.
pub fn late(service: &str, own: &str, namespace: &str) -> JobRoutes {
    let one = |text: &str| Pair::of(ip(text));
    JobRoutes {
        job: "a.b.late.d".to_owned(),
        instances: vec![instance(
            0,
            one(namespace),
            one(own),
            Some(one(service)),
            AWAY,
        )],
    }
}
