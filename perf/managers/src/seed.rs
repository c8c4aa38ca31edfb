//! A store full of jobs, made the way an operator would: by an import.

use std::io::{BufWriter, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::Result;

/// Instances of one job in a full store.
pub const INSTANCES: u32 = 10;

/// A job's name.
pub fn job(number: u32) -> String {
    format!("app.test.s{number}.test")
}

/// A service's object id.
pub fn id(number: u32) -> String {
    format!("{number:024x}")
}

/// The IPv6 Service IP of a job.
pub fn service_ip(number: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(Ipv6Addr::new(0xfdff, 0x2000, 0, 0, 0, 0, 0, 0)) + u128::from(number))
}

/// The namespace IP of the n-th instance: 250 on a node.
fn namespace_ip(number: u32) -> Ipv6Addr {
    let subnet = u128::from(number / 250) << 8;
    let first = u128::from(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0));
    Ipv6Addr::from(first + subnet + 2 + u128::from(number % 250))
}

/// Writes a backup with so many jobs, IPv6 alone, each with ten running instances.
pub fn write(file: &Path, jobs: u32) -> Result<()> {
    let mut to = BufWriter::new(std::fs::File::create(file)?);
    let next = |kind: &str, first: Ipv6Addr, count: u32| {
        let bytes = Ipv6Addr::from(u128::from(first) + u128::from(count)).octets();
        format!(r#"{{"type":"{kind}","ipv6":{bytes:?}}}"#)
    };
    let nodes = (jobs * INSTANCES).div_ceil(250);
    let subnets = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 18, 0, 0)) + 64 * nodes);
    writeln!(
        to,
        r#"{{"type":"next_subnet_ip","ipv4":{:?}}}"#,
        subnets.octets()
    )?;
    writeln!(to, "{}", next("next_rr_ipv6", service_ip(0), jobs))?;
    let instances = Ipv6Addr::new(0xfdff, 0, 0, 0, 0, 0, 0, 0);
    writeln!(
        to,
        "{}",
        next("next_service_ipv6", instances, jobs * INSTANCES)
    )?;
    for number in 0..jobs {
        write!(
            to,
            r#"{{"_id":"{}","job_name":"{}","applicationID":"{}","service_ip_list":[{{"IpType":"RR","Address":"","Address_v6":"{}"}}],"instance_list":["#,
            id(number),
            job(number),
            id(number / 10),
            service_ip(number),
        )?;
        for instance in 0..INSTANCES {
            let index = number * INSTANCES + instance;
            let own = Ipv6Addr::from(u128::from(instances) + u128::from(index));
            let comma = if instance == 0 { "" } else { "," };
            write!(
                to,
                r#"{comma}{{"instance_number":{instance},"instance_ip":"","instance_ip_v6":"{own}","cluster_id":"c1","namespace_ip_v6":"{}","host_ip":"{}","host_port":50103}}"#,
                namespace_ip(index),
                Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + index / 250),
            )?;
        }
        writeln!(to, "]}}")?;
    }
    Ok(to.flush()?)
}
