//! Names that containers resolve:
//! `<instance number | any>.<policy>.<service_name>.<service_ns>.<app_name>.<app_ns>`.

use std::fmt;
use std::str::FromStr;

use crate::{IpType, JobName};

/// Which address of a service a name asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// `<n>.instance.…`: the Instance IP of one replica.
    Instance(u32),
    /// `any.rr.…`.
    RoundRobin,
    /// `any.closest.…`.
    Closest,
    /// `any.underutilized.…`.
    Underutilized,
}

impl Wanted {
    /// The type of the address in a job's lists.
    #[must_use]
    pub fn ip_type(self) -> IpType {
        match self {
            Self::Instance(_) => IpType::InstanceIp,
            Self::RoundRobin => IpType::RoundRobin,
            Self::Closest => IpType::Closest,
            Self::Underutilized => IpType::Underutilized,
        }
    }
}

/// A parsed service name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceName {
    /// Which address.
    pub wanted: Wanted,
    /// Of which job.
    pub job: JobName,
}

/// A text that is no service name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a service name: write <instance|any>.<policy>.<service_name>.<service_ns>.<app_name>.<app_ns>"
)]
pub struct BadServiceName(pub String);

impl FromStr for ServiceName {
    type Err = BadServiceName;

    /// Reads a name, with or without the final dot of DNS. Policy and `any` ignore case; the
    /// parts of the job do not. A number with a balancing policy, or `any.instance`, is refused.
    fn from_str(text: &str) -> Result<Self, BadServiceName> {
        let bad = || BadServiceName(text.to_owned());
        let labels: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
        let [which, policy, service_name, service_ns, app_name, app_ns] = labels[..] else {
            return Err(bad());
        };
        let any = which.eq_ignore_ascii_case("any");
        let wanted = match (any, policy.to_ascii_lowercase().as_str()) {
            (false, "instance") if which.bytes().all(|byte| byte.is_ascii_digit()) => {
                Wanted::Instance(which.parse().map_err(|_| bad())?)
            }
            (true, "rr") => Wanted::RoundRobin,
            (true, "closest") => Wanted::Closest,
            (true, "underutilized") => Wanted::Underutilized,
            _ => return Err(bad()),
        };
        let job = JobName::new(app_name, app_ns, service_name, service_ns).map_err(|_| bad())?;
        Ok(Self { wanted, job })
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.wanted {
            Wanted::Instance(number) => write!(out, "{number}.instance"),
            Wanted::RoundRobin => out.write_str("any.rr"),
            Wanted::Closest => out.write_str("any.closest"),
            Wanted::Underutilized => out.write_str("any.underutilized"),
        }?;
        let job = &self.job;
        write!(
            out,
            ".{}.{}.{}.{}",
            job.service_name(),
            job.service_ns(),
            job.app_name(),
            job.app_ns()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_lists_service_before_application() {
        let name: ServiceName = "any.closest.detector.default.video.prod".parse().unwrap();
        assert_eq!(name.wanted, Wanted::Closest);
        assert_eq!(name.job.as_str(), "video.prod.detector.default");
        assert_eq!(name.to_string(), "any.closest.detector.default.video.prod");
        let one: ServiceName = "3.instance.c.d.a.b.".parse().unwrap();
        assert_eq!(one.wanted, Wanted::Instance(3));
    }

    #[test]
    fn what_names_no_address_is_refused() {
        for bad in [
            "any.instance.c.d.a.b",
            "3.rr.c.d.a.b",
            "any.random.c.d.a.b",
            "c.d.a.b",
            "+3.instance.c.d.a.b",
            "any.rr.c.d.a",
            "any.rr.c.d.a.b.x",
        ] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
        }
    }
}
