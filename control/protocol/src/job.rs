//! The job as the root answers it and as managers keep it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{IpType, JobName, address, scalar};

/// One Service IP (or, in a table query, the Instance IP) with its policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceIp {
    /// The policy.
    #[serde(rename = "IpType")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "RR"))]
    pub ip_type: IpType,
    /// IPv4; empty text on the wire when there is none.
    #[serde(rename = "Address", default, with = "address::or_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "10.30.0.1"))]
    pub address: Option<Ipv4Addr>,
    /// IPv6; empty text on the wire when there is none.
    #[serde(rename = "Address_v6", default, with = "address::or_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "fdff:2000::"))]
    pub address_v6: Option<Ipv6Addr>,
}

/// One instance, as it stands in the `instance_list` of a job.
///
/// The last five addresses are absent while it does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Instance {
    /// Number of the replica, from 0.
    #[serde(deserialize_with = "scalar::instance_number")]
    pub instance_number: u32,
    /// Instance IP, IPv4; empty text when that pool was used up.
    #[serde(default, with = "address::or_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "10.30.0.1"))]
    pub instance_ip: Option<Ipv4Addr>,
    /// Instance IP, IPv6.
    #[serde(default, with = "address::or_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "fdff::1"))]
    pub instance_ip_v6: Option<Ipv6Addr>,
    /// The cluster that runs it.
    #[serde(default, deserialize_with = "scalar::text_or_number")]
    pub cluster_id: String,
    /// Namespace IP, IPv4.
    #[serde(
        default,
        with = "address::or_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub namespace_ip: Option<Ipv4Addr>,
    /// Namespace IP, IPv6.
    #[serde(
        default,
        with = "address::or_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub namespace_ip_v6: Option<Ipv6Addr>,
    /// The worker's tunnel endpoint.
    #[serde(
        default,
        with = "address::or_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub host_ip: Option<IpAddr>,
    /// The worker's tunnel port.
    #[serde(
        default,
        with = "scalar::port_number",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u16>))]
    pub host_port: Option<u16>,
    /// **New**: share of round robin, 1 to 255; absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u8>,
    /// **New**: keeps its flows, gets no new ones.
    #[serde(
        default,
        deserialize_with = "scalar::null_is_default",
        skip_serializing_if = "scalar::is_false"
    )]
    pub draining: bool,
    /// **New**: live flows, as its node last reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<u64>,
}

impl Instance {
    /// An instance that has no addresses yet.
    #[must_use]
    pub fn new(instance_number: u32, cluster_id: &str) -> Self {
        Self {
            instance_number,
            instance_ip: None,
            instance_ip_v6: None,
            cluster_id: cluster_id.to_owned(),
            namespace_ip: None,
            namespace_ip_v6: None,
            host_ip: None,
            host_port: None,
            weight: None,
            draining: false,
            load: None,
        }
    }

    /// Whether packets can reach it: it has a namespace IP and a tunnel endpoint.
    #[must_use]
    pub fn is_running(&self) -> bool {
        (self.namespace_ip.is_some() || self.namespace_ip_v6.is_some())
            && self.host_ip.is_some()
            && self.host_port.is_some()
    }

    /// Its Instance IP as an entry of an address list, typed `instance_ip` as the reference does.
    #[must_use]
    pub fn own_address(&self) -> ServiceIp {
        ServiceIp {
            ip_type: IpType::InstanceIp,
            address: self.instance_ip,
            address_v6: self.instance_ip_v6,
        }
    }
}

/// A job with its Service IPs and instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Job {
    /// Object id, 24 hex digits (empty when a peer left it out).
    #[serde(rename = "_id", default, deserialize_with = "scalar::null_is_default")]
    pub id: String,
    /// The name.
    pub job_name: JobName,
    /// Service IPs, one entry per policy.
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub service_ip_list: Vec<ServiceIp>,
    /// Instances.
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub instance_list: Vec<Instance>,
    /// First part of the name.
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub app_name: String,
    /// Second part of the name.
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub app_ns: String,
    /// Third part of the name.
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub service_name: String,
    /// Fourth part of the name.
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub service_ns: String,
    /// The application's object id.
    #[serde(
        rename = "applicationID",
        default,
        deserialize_with = "scalar::text_or_number"
    )]
    pub application_id: String,
    /// **New**: names the root's store; another epoch means that revisions start over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// **New**: the store's counter at this job's last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

impl Job {
    /// A job with nothing but its names.
    #[must_use]
    pub fn new(id: &str, job_name: JobName) -> Self {
        Self {
            id: id.to_owned(),
            app_name: job_name.app_name().to_owned(),
            app_ns: job_name.app_ns().to_owned(),
            service_name: job_name.service_name().to_owned(),
            service_ns: job_name.service_ns().to_owned(),
            job_name,
            service_ip_list: Vec::new(),
            instance_list: Vec::new(),
            application_id: String::new(),
            epoch: None,
            revision: None,
        }
    }

    /// Reads a root's 200 answer to a table query. `None` when it is `{}` (or null), by which a
    /// reference root says that it does not know the job.
    ///
    /// # Errors
    /// The body is no job.
    pub fn from_answer(body: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        let value: serde_json::Value = serde_json::from_slice(body)?;
        match &value {
            serde_json::Value::Null => Ok(None),
            serde_json::Value::Object(map) if map.is_empty() => Ok(None),
            _ => serde_json::from_value(value).map(Some),
        }
    }

    /// Whether this copy is newer than another of the same job: another epoch, or a higher
    /// revision. Copies without revisions (a reference root) always count as newer.
    #[must_use]
    pub fn supersedes(&self, other: &Self) -> bool {
        match (self.revision, other.revision) {
            (Some(ours), Some(theirs)) if self.epoch == other.epoch => ours > theirs,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str = r#"{"_id":"cccccccccccccccccccccc01","app_name":"app1","app_ns":"test","applicationID":"bbbbbbbbbbbbbbbbbbbbbb01","instance_list":[{"cluster_id":"cluster1","host_ip":"192.168.57.11","host_port":50103,"instance_ip":"10.30.0.2","instance_ip_v6":"fdff::","instance_number":0,"namespace_ip":"10.18.0.2","namespace_ip_v6":"fc00::2"}],"job_name":"app1.test.client.test","microserviceID":"cccccccccccccccccccccc01","microservice_name":"client","microservice_namespace":"test","service_ip_list":[{"Address":"10.30.0.0","Address_v6":"fdff:2000::","IpType":"RR"}],"service_name":"client","service_ns":"test"}
"#;

    #[test]
    fn a_reference_job_parses_and_is_written_with_the_same_fields() {
        let job = Job::from_answer(REFERENCE.as_bytes()).unwrap().unwrap();
        assert!(job.instance_list[0].is_running());
        let mut written = serde_json::to_value(&job).unwrap();
        let mut expected: serde_json::Value = serde_json::from_str(REFERENCE).unwrap();
        for dropped in [
            "microserviceID",
            "microservice_name",
            "microservice_namespace",
        ] {
            expected.as_object_mut().unwrap().remove(dropped);
        }
        assert_eq!(written, expected);
        // Ours only where there is something to say.
        assert!(
            written
                .as_object_mut()
                .unwrap()
                .remove("revision")
                .is_none()
        );
    }

    #[test]
    fn an_instance_that_does_not_run_has_no_location_keys() {
        let text = r#"{"cluster_id":"cluster1","instance_ip":"10.30.0.2","instance_ip_v6":"fdff::","instance_number":0}"#;
        let instance: Instance = serde_json::from_str(text).unwrap();
        assert!(!instance.is_running());
        let written = serde_json::to_value(&instance).unwrap();
        assert_eq!(
            written,
            serde_json::from_str::<serde_json::Value>(text).unwrap()
        );
    }

    #[test]
    fn an_empty_object_is_an_unknown_job() {
        assert!(Job::from_answer(b"{}\n").unwrap().is_none());
        assert!(Job::from_answer(b"[]").is_err());
    }

    #[test]
    fn a_missing_ipv4_address_is_empty_text() {
        let ip = ServiceIp {
            ip_type: IpType::Closest,
            address: None,
            address_v6: Some("fdff:1000::".parse().unwrap()),
        };
        let text = r#"{"IpType":"Closest","Address":"","Address_v6":"fdff:1000::"}"#;
        assert_eq!(serde_json::to_string(&ip).unwrap(), text);
        assert_eq!(serde_json::from_str::<ServiceIp>(text).unwrap(), ip);
    }

    #[test]
    fn revisions_order_copies_within_an_epoch() {
        let mut old = Job::new("", "a.b.c.d".parse().unwrap());
        old.epoch = Some("e".into());
        old.revision = Some(4);
        let mut new = old.clone();
        assert!(!new.supersedes(&old));
        new.revision = Some(5);
        assert!(new.supersedes(&old) && !old.supersedes(&new));
        old.epoch = Some("f".into());
        assert!(old.supersedes(&new));
    }
}
