//! Who there is: addresses, containers and jobs that scripts speak of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dataplane::{InstanceRoute, JobRoutes, Pair, Policy, ServiceAddress};
use net::Address;

/// Containers that can be attached.
pub const CONTAINERS: usize = 4;
/// Instances that jobs can have: those of the containers, and as many away.
pub const INSTANCES: usize = 8;
/// Jobs; each instance belongs to one of them.
pub const JOBS: usize = 3;

/// Hosts that datagrams come from: two that routes can name, this one, and one that no route ever names.
pub const HOSTS: [&str; 4] = ["192.0.2.20", "2001:db8::30", "192.0.2.10", "192.0.2.66"];
/// The place in `HOSTS` of the one that nobody knows.
pub const STRANGER: usize = 3;

fn pair(v4: [u8; 4], v6: [u16; 8]) -> Pair {
    Pair::new(Some(Ipv4Addr::from(v4)), Some(Ipv6Addr::from(v6)))
}

/// The gateway addresses.
#[must_use]
pub fn gateway() -> Pair {
    pair([10, 18, 0, 1], [0xfc00, 0, 0, 0, 0, 0, 0, 1])
}

/// The Instance IPs of the node's own processes.
#[must_use]
pub fn host_instance() -> Pair {
    pair([10, 30, 0, 50], [0xfdff, 0, 0, 0, 0, 0, 0, 0x50])
}

/// Namespace IPs of an instance: the first ones live here, the others away.
#[must_use]
pub fn namespace(instance: usize) -> Pair {
    let n = u8::try_from(instance % CONTAINERS).unwrap() + 2;
    if instance < CONTAINERS {
        pair([10, 18, 0, n], [0xfc00, 0, 0, 0, 0, 0, 0, u16::from(n)])
    } else {
        pair(
            [10, 19, 0, n],
            [0xfc00, 0, 0, 0, 0, 0, 0, 0x100 + u16::from(n)],
        )
    }
}

/// Instance IPs of an instance.
#[must_use]
pub fn instance(number: usize) -> Pair {
    let n = u8::try_from(number).unwrap() + 10;
    pair([10, 30, 0, n], [0xfdff, 0, 0, 0, 0, 0, 0, u16::from(n)])
}

/// Service IPs of a job under a policy.
#[must_use]
pub fn service(job: usize, policy: Policy) -> Pair {
    let (low, range) = match policy {
        Policy::RoundRobin => (0, 0x2000),
        Policy::Closest => (1, 0x1000),
        Policy::Underutilized => (2, 0x3000),
    };
    let n = u8::try_from(job * 3 + low).unwrap() + 100;
    pair([10, 30, 1, n], [0xfdff, range, 0, 0, 0, 0, 0, u16::from(n)])
}

/// The policies by number.
pub const POLICIES: [Policy; 3] = [Policy::RoundRobin, Policy::Closest, Policy::Underutilized];

/// MAC address of a container.
#[must_use]
pub fn mac(container: usize) -> [u8; 6] {
    [2, 0, 0, 0, 1, u8::try_from(container).unwrap()]
}

/// Interface index of a container.
#[must_use]
pub fn ifindex(container: usize) -> u32 {
    u32::try_from(container).unwrap() + 101
}

/// A host's address.
#[must_use]
pub fn host(n: usize) -> IpAddr {
    HOSTS[n].parse().unwrap()
}

/// A job's routes: which instances it names, where those that are away run, and how they are told apart.
#[must_use]
pub fn job(job: usize, members: u8, away: u8, details: u8) -> JobRoutes {
    let services = POLICIES
        .iter()
        .map(|&policy| ServiceAddress {
            policy,
            addresses: service(job, policy),
        })
        .collect::<Vec<_>>();
    let instances = (0..INSTANCES)
        .filter(|n| n % JOBS == job && members >> n & 1 == 1)
        .map(|n| InstanceRoute {
            number: u32::try_from(n).unwrap(),
            namespace: namespace(n),
            instance: instance(n),
            services: services.clone(),
            host: SocketAddr::new(
                if n < CONTAINERS {
                    host(2)
                } else {
                    host(usize::from(away >> n & 1))
                },
                50103,
            ),
            weight: if details & 1 == 0 {
                1
            } else {
                u8::try_from(n).unwrap() + 1
            },
            draining: details >> 1 & 7 == u8::try_from(n).unwrap() && details & 16 != 0,
            load: (details & 32 != 0).then_some(u32::try_from(n * 3 % 5).unwrap()),
        })
        .collect();
    JobRoutes {
        job: format!("a.b.job{job}.d"),
        instances,
    }
}

/// What recipes choose addresses from, IPv4 and IPv6.
#[must_use]
pub fn addresses() -> [Vec<Address>; 2] {
    let mut lists = [Vec::new(), Vec::new()];
    let mut add = |pair: Pair| {
        for address in pair.iter() {
            lists[usize::from(address.is_ipv6())].push(Address::from(address));
        }
    };
    add(gateway());
    add(host_instance());
    for n in 0..INSTANCES {
        add(namespace(n));
        add(instance(n));
    }
    for n in 0..JOBS {
        for policy in POLICIES {
            add(service(n, policy));
        }
    }
    // Nobody's.
    add(pair([10, 30, 9, 9], [0xfdff, 0x2000, 0, 0, 0, 0, 0, 9]));
    add(pair([10, 19, 0, 99], [0xfc00, 0, 0, 0, 0, 0, 0, 0x199]));
    // The outside, a group, the link.
    add(pair([203, 0, 113, 5], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 5]));
    add(pair([224, 0, 0, 1], [0xff02, 0, 0, 0, 0, 0, 0, 1]));
    add(pair([169, 254, 0, 1], [0xfe80, 0, 0, 0, 0, 0, 0, 1]));
    add(pair([0, 0, 0, 0], [0; 8]));
    lists
}
