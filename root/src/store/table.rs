//! Table queries: from a name or an address to the whole job.

use std::net::IpAddr;

use protocol::{Instance, IpType, Job, JobName, ServiceIp};

use super::{Caller, Store, StoreError, hex, instance};

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) enum Key {
    /// A job's name.
    Name(JobName),
    /// A Service IP, Instance IP or namespace IP.
    Address(IpAddr),
}

/// The answer.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The job.
    pub(crate) job: Job,
    /// The clusters that now have the interest.
    pub(crate) clusters: Vec<String>,
}

impl Store {
    /// Finds a job. With a caller, registers its interest; without, only looks.
    pub(crate) async fn resolve(
        &self,
        key: &Key,
        caller: Option<&Caller>,
    ) -> Result<Found, StoreError> {
        let (mode, value) = match key {
            Key::Name(name) => ("name", name.to_string()),
            Key::Address(address) => ("ip", hex::encode(*address)),
        };
        let nobody = Caller::default();
        let register = if caller.is_some() { "1" } else { "0" };
        let mut args = vec![mode, &value, register];
        args.extend(caller.unwrap_or(&nobody).args());
        let (name, epoch, fields, clusters): (String, String, Vec<(String, String)>, Vec<String>) =
            self.call(|all| &all.resolve, &args).await?;
        let job = stored_job(&name, Some(epoch), &fields)?;
        Ok(Found { job, clusters })
    }
}

/// A job from its hash.
pub(super) fn stored_job(
    name: &str,
    epoch: Option<String>,
    fields: &[(String, String)],
) -> Result<Job, StoreError> {
    let name = name
        .parse()
        .map_err(|_| StoreError::Damaged(format!("`{name}` is stored as a job's name")))?;
    read_job(name, epoch, fields)
}

fn read_job(
    name: JobName,
    epoch: Option<String>,
    fields: &[(String, String)],
) -> Result<Job, StoreError> {
    let mut job = Job::new("", name);
    job.epoch = epoch;
    for (field, value) in fields {
        match field.as_str() {
            "id" => job.id.clone_from(value),
            "app" => job.application_id.clone_from(value),
            "rev" => job.revision = value.parse().ok(),
            "node" => {}
            _ => match (field.get(..1), field.get(1..)) {
                (Some("s"), Some(policy)) => {
                    job.service_ip_list.push(read_service_ip(policy, value));
                }
                (Some("i"), Some(number)) => job.instance_list.push(read_instance(number, value)?),
                _ => {}
            },
        }
    }
    job.service_ip_list.sort_by_key(|ip| order(&ip.ip_type));
    job.instance_list
        .sort_unstable_by_key(|instance| instance.instance_number);
    Ok(job)
}

/// `RR` first, where every reference peer looks for it.
fn order(policy: &IpType) -> u8 {
    match policy {
        IpType::RoundRobin => 0,
        IpType::Closest => 1,
        _ => 2,
    }
}

fn read_service_ip(policy: &str, value: &str) -> ServiceIp {
    let (v4, v6) = value.split_once('\t').unwrap_or((value, ""));
    ServiceIp {
        ip_type: IpType::from(policy.to_owned()),
        address: hex::decode_v4(v4),
        address_v6: hex::decode_v6(v6),
    }
}

fn read_instance(number: &str, line: &str) -> Result<Instance, StoreError> {
    let damaged = || StoreError::Damaged(format!("instance {number} is stored as `{line}`"));
    let parts: Vec<&str> = line.splitn(9, '\t').collect();
    let [v4, v6, weight, draining, ns4, ns6, host, port, cluster] = parts[..] else {
        return Err(damaged());
    };
    let mut instance = Instance::new(number.parse().map_err(|_| damaged())?, cluster);
    instance.instance_ip = hex::decode_v4(v4);
    instance.instance_ip_v6 = hex::decode_v6(v6);
    instance.weight = weight.parse().ok();
    instance.draining = draining == "1";
    instance.namespace_ip = hex::decode_v4(ns4);
    instance.namespace_ip_v6 = hex::decode_v6(ns6);
    instance.host_ip = instance::host(host);
    instance.host_port = port.parse().ok();
    Ok(instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_job_is_read_in_the_order_that_peers_expect() {
        let field = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let fields = [
            field("i10", "\t00000000000000000000000000000001\t7\t1\t\t\t\t\tc"),
            field(
                "i2",
                "0a1e0002\tfdff0000000000000000000000000002\t\t\t0a120002\t\t192.0.2.1\t50103\tc 1",
            ),
            field("sUnderutilized", "\tfdff3000000000000000000000000000"),
            field("sRR", "0a1e0000\tfdff2000000000000000000000000000"),
            field("rev", "12"),
            field("id", "x"),
        ];
        let job = read_job("a.b.c.d".parse().unwrap(), Some("e".into()), &fields).unwrap();
        assert_eq!(job.revision, Some(12));
        assert_eq!(job.service_ip_list[0].ip_type, IpType::RoundRobin);
        assert_eq!(job.service_ip_list[1].address, None);
        let [first, second] = &job.instance_list[..] else {
            panic!("two instances")
        };
        assert_eq!((first.instance_number, first.is_running()), (2, true));
        assert_eq!(first.cluster_id, "c 1");
        assert_eq!((second.weight, second.draining), (Some(7), true));
        assert!(
            read_job(
                "a.b.c.d".parse().unwrap(),
                Some("e".into()),
                &[field("i1", "x")]
            )
            .is_err()
        );
    }
}
