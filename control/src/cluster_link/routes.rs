//! A table query's answer as the data plane's routes.

use std::net::{IpAddr, SocketAddr};

use protocol::mqtt::{TableEntry, TableQueryResult};

use crate::forwarding::{InstanceRoute, JobRoutes, Pair, Policy, ServiceAddress};

fn instance(entry: &TableEntry) -> Option<InstanceRoute> {
    let instance = &entry.instance;
    let host = SocketAddr::new(instance.host_ip?.to_canonical(), instance.host_port?);
    let namespace = Pair::new(instance.namespace_ip, instance.namespace_ip_v6);
    namespace.iter().next()?;
    let own = match entry.own_address() {
        Some(own) => Pair::new(own.address, own.address_v6),
        None => Pair::new(instance.instance_ip, instance.instance_ip_v6),
    };
    Some(InstanceRoute {
        number: instance.instance_number,
        namespace,
        instance: own,
        services: entry
            .service_ips()
            .filter_map(|service| {
                Some(ServiceAddress {
                    policy: Policy::of_type(service.ip_type.as_str())?,
                    addresses: Pair::new(service.address, service.address_v6),
                })
            })
            .collect(),
        host,
        weight: instance.weight.unwrap_or(1).max(1),
        draining: instance.draining,
        load: instance
            .load
            .map(|flows| u32::try_from(flows).unwrap_or(u32::MAX)),
    })
}

/// The routes of a job; instances that do not run yet are left out.
pub fn job(result: &TableQueryResult) -> JobRoutes {
    JobRoutes {
        job: result.app_name.clone(),
        instances: result.instance_list.iter().filter_map(instance).collect(),
    }
}

/// Whether an address leads anywhere by these routes.
pub fn covers(routes: &JobRoutes, address: IpAddr) -> bool {
    routes.instances.iter().any(|instance| {
        instance
            .namespace
            .iter()
            .chain(instance.instance.iter())
            .chain(
                instance
                    .services
                    .iter()
                    .flat_map(|service| service.addresses.iter()),
            )
            .any(|known| known == address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_answer_becomes_routes() {
        let result: TableQueryResult = serde_json::from_str(
            r#"{"app_name": "app1.test.server.test", "instance_list": [{"cluster_id": "cluster1", "instance_ip": "10.30.0.3", "instance_ip_v6": "fdff::1", "instance_number": 0, "worker_id": "w", "namespace_ip": "10.18.0.66", "namespace_ip_v6": "fc00::102", "host_ip": "192.168.57.12", "host_port": 50103, "service_ip": [{"Address": "10.30.0.1", "Address_v6": "fdff:2000::1", "IpType": "RR"}, {"IpType": "instance_ip", "Address": "10.30.0.3", "Address_v6": "fdff::1"}]}, {"instance_number": 1, "instance_ip": "10.30.0.4", "instance_ip_v6": "", "service_ip": []}], "query_key": "10.30.0.1"}"#,
        )
        .unwrap();
        let routes = job(&result);
        assert_eq!(routes.instances.len(), 1);
        let instance = &routes.instances[0];
        assert_eq!(instance.host.to_string(), "192.168.57.12:50103");
        assert_eq!(instance.services.len(), 1);
        assert_eq!(instance.services[0].policy, Policy::RoundRobin);
        assert_eq!(instance.instance.v4.unwrap().to_string(), "10.30.0.3");
        for known in [
            "10.30.0.1",
            "10.30.0.3",
            "fdff::1",
            "fdff:2000::1",
            "10.18.0.66",
            "fc00::102",
        ] {
            assert!(covers(&routes, known.parse().unwrap()), "{known}");
        }
        assert!(!covers(&routes, "10.30.0.9".parse().unwrap()));
    }
}
