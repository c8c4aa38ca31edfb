//! Bodies of the root service manager's HTTP interface (contract section 2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::mqtt::ChangeKind;
use crate::{Job, JobName, ServiceIp, address, scalar};

/// Body of `POST /api/net/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegisterCluster {
    /// The cluster's id; a number is its text.
    #[serde(deserialize_with = "scalar::text_or_number")]
    pub cluster_id: String,
    /// Where its manager listens: an address or a host name.
    pub cluster_address: String,
    /// The port there.
    #[serde(with = "scalar::port_number")]
    #[cfg_attr(feature = "openapi", schema(value_type = u16, minimum = 1))]
    pub cluster_port: Option<u16>,
}

/// Body of `POST /api/net/service/deploy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeployService {
    /// Object id, 24 hex digits.
    #[serde(rename = "_id", default, deserialize_with = "scalar::text_or_number")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[0-9a-fA-F]{24}$", required = true))]
    pub id: String,
    /// What is to be deployed.
    pub deployment_descriptor: Descriptor,
}

/// The part of a deployment descriptor that concerns the network. Everything else in it is
/// accepted and dropped: images, environment variables and secrets are no network peer's business.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Descriptor {
    /// Application name.
    #[serde(deserialize_with = "scalar::null_is_default")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[a-zA-Z0-9]{1,30}$", required = true))]
    pub app_name: String,
    /// Application namespace.
    #[serde(deserialize_with = "scalar::null_is_default")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[a-zA-Z0-9]{1,30}$", required = true))]
    pub app_ns: String,
    /// The orchestrator's name for the service.
    #[serde(deserialize_with = "scalar::null_is_default")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[a-zA-Z0-9]{1,30}$", required = true))]
    pub microservice_name: String,
    /// The orchestrator's namespace for the service.
    #[serde(deserialize_with = "scalar::null_is_default")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[a-zA-Z0-9]{1,30}$", required = true))]
    pub microservice_namespace: String,
    /// Service name.
    #[serde(deserialize_with = "scalar::null_is_default")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[a-zA-Z0-9]{1,30}$", required = true))]
    pub service_name: String,
    /// Service namespace.
    #[serde(deserialize_with = "scalar::null_is_default")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[a-zA-Z0-9]{1,30}$", required = true))]
    pub service_ns: String,
    /// The application's object id.
    #[serde(
        rename = "applicationID",
        deserialize_with = "scalar::text_or_number",
        skip_serializing_if = "String::is_empty"
    )]
    pub application_id: String,
    /// Wanted round-robin IPv4 address.
    #[serde(rename = "RR_ip", skip_serializing_if = "Option::is_none")]
    pub rr_ip: Option<String>,
    /// Wanted round-robin IPv6 address.
    #[serde(rename = "RR_ip_v6", skip_serializing_if = "Option::is_none")]
    pub rr_ip_v6: Option<String>,
    /// **New**: wanted closest IPv4 address, or `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closest_ip: Option<String>,
    /// **New**: wanted closest IPv6 address, or `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closest_ip_v6: Option<String>,
    /// **New**: wanted underutilized IPv4 address, or `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underutilized_ip: Option<String>,
    /// **New**: wanted underutilized IPv6 address, or `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underutilized_ip_v6: Option<String>,
}

/// Body of `POST /api/net/instance/deploy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeployInstance {
    /// The service's object id.
    #[serde(rename = "_id", deserialize_with = "scalar::text_or_number")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[0-9a-fA-F]{24}$"))]
    pub id: String,
    /// Number of the replica, from 0.
    #[serde(deserialize_with = "scalar::instance_number")]
    pub instance_number: u32,
    /// The cluster that runs it.
    #[serde(deserialize_with = "scalar::text_or_number")]
    pub cluster_id: String,
    /// **New**: share of round robin, 1 to 255.
    #[serde(
        default,
        deserialize_with = "scalar::optional_byte",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub weight: Option<u8>,
}

/// Body of `POST /api/net/service/net_deploy_status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeployStatus {
    /// The service's object id.
    #[serde(deserialize_with = "scalar::text_or_number")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[0-9a-fA-F]{24}$"))]
    pub job_id: String,
    /// Where instances live now.
    pub instances: Vec<InstanceStatus>,
}

/// Where one instance lives, or that it is withdrawn. One that is not withdrawn says all of it: a namespace IP of at
/// least one family, `host_ip` and `host_port`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceStatus {
    /// Number of the replica.
    #[serde(deserialize_with = "scalar::instance_number")]
    pub instance_number: u32,
    /// Namespace IP, IPv4; null when it has none.
    #[serde(default, with = "address::or_null")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "10.18.0.2"))]
    pub namespace_ip: Option<Ipv4Addr>,
    /// Namespace IP, IPv6; null when it has none.
    #[serde(default, with = "address::or_null")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "fc00::2"))]
    pub namespace_ip_v6: Option<Ipv6Addr>,
    /// The worker's tunnel endpoint.
    #[serde(default, with = "address::or_null")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "192.0.2.10"))]
    pub host_ip: Option<IpAddr>,
    /// The worker's tunnel port.
    #[serde(default, with = "scalar::port_number")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u16>))]
    pub host_port: Option<u16>,
    /// **New**: `UNDEPLOYED` withdraws the instance, whatever else the entry says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

impl InstanceStatus {
    /// The status text that withdraws an instance.
    pub const UNDEPLOYED: &'static str = "UNDEPLOYED";

    /// The entry that withdraws an instance.
    #[must_use]
    pub fn withdrawn(instance_number: u32) -> Self {
        Self {
            instance_number,
            namespace_ip: None,
            namespace_ip_v6: None,
            host_ip: None,
            host_port: None,
            status: Some(Self::UNDEPLOYED.to_owned()),
        }
    }

    /// Whether this entry withdraws the instance.
    #[must_use]
    pub fn is_withdrawal(&self) -> bool {
        self.status.as_deref() == Some(Self::UNDEPLOYED)
    }

    /// What an entry lacks that is to say where the instance is.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        if self.is_withdrawal() {
            return Vec::new();
        }
        let has_namespace = self.namespace_ip.is_some() || self.namespace_ip_v6.is_some();
        [
            (has_namespace, "namespace_ip or namespace_ip_v6"),
            (self.host_ip.is_some(), "host_ip"),
            (self.host_port.is_some(), "host_port"),
        ]
        .into_iter()
        .filter_map(|(is_there, field)| (!is_there).then_some(field))
        .collect()
    }
}

/// Answer of `GET /api/net/subnet`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Subnet {
    /// First address of the IPv4 subnetwork.
    #[serde(default, with = "address::or_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "10.18.0.0"))]
    pub subnet_addr: Option<Ipv4Addr>,
    /// First address of the IPv6 subnetwork.
    #[serde(default, with = "address::or_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "fc00::"))]
    pub subnet_addr_v6: Option<Ipv6Addr>,
}

/// Body of `POST /api/net/host` (**new**).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostRequest {
    /// The node's cluster.
    #[serde(deserialize_with = "scalar::text_or_number")]
    pub cluster_id: String,
    /// The node.
    #[serde(deserialize_with = "scalar::text_or_number")]
    pub node_id: String,
}

/// Query parameters by which a cluster names itself; empty ones count as absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
#[serde(default)]
pub struct CallerQuery {
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Its name, compared with ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    /// Its address, with or without a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_address: Option<String>,
}

/// Answer of `GET /api/net/changes` (**new**).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Changes {
    /// The store.
    pub epoch: String,
    /// Its counter now.
    pub revision: u64,
    /// Jobs of the caller's interest that changed.
    pub jobs: Vec<JobName>,
    /// Who the root takes the caller for, where that is one cluster: its channel has this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
}

/// A message on `oak:root:changes:<cluster_id>` (**new**).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ChannelMessage {
    /// One instance changed.
    Change(ChannelChange),
    /// Every 2 s: the revision of the last message.
    Heartbeat(ChannelHeartbeat),
}

/// One change on the channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelChange {
    /// The store.
    pub epoch: String,
    /// Revision of the message before this one on this channel, 0 when there was none.
    pub prev: u64,
    /// Revision of this change.
    pub revision: u64,
    /// The job.
    pub job_name: JobName,
    /// The instance, -1 for all.
    pub instance_number: i64,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: ChangeKind,
}

/// Heartbeat on the channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelHeartbeat {
    /// The store.
    pub epoch: String,
    /// Revision of the last change on this channel, 0 when there was none.
    pub revision: u64,
}

/// The channel of one cluster's changes on the root's Redis.
#[must_use]
pub fn changes_channel(cluster_id: &str) -> String {
    format!("oak:root:changes:{cluster_id}")
}

/// Answer of the JWT generator's `GET /key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// RSA public key, PEM.
    pub public_key: String,
}

/// Answer of `GET /api/pubnet/service/netinfo/…`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetInfo {
    /// Object id.
    #[serde(rename = "_id")]
    pub id: String,
    /// The application's object id.
    #[serde(rename = "applicationID")]
    pub application_id: String,
    /// Application namespace.
    pub app_ns: String,
    /// Application name.
    pub app_name: String,
    /// Service namespace.
    pub service_ns: String,
    /// Service name.
    pub service_name: String,
    /// The object id again, under the name that the dashboard reads.
    pub service_job_id: String,
    /// Service IPs.
    pub service_ip_list: Vec<ServiceIp>,
    /// Instances, without where they live.
    pub instance_list: Vec<NetInfoInstance>,
}

/// An instance in [`NetInfo`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetInfoInstance {
    /// The cluster that runs it.
    pub cluster_id: String,
    /// Number of the replica.
    pub instance_number: u32,
    /// Instance IP, IPv4.
    #[serde(default, with = "address::or_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "10.30.0.1"))]
    pub instance_ip: Option<Ipv4Addr>,
    /// Instance IP, IPv6.
    #[serde(default, with = "address::or_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "fdff::1"))]
    pub instance_ip_v6: Option<Ipv6Addr>,
}

/// Answer of `GET /api/pubnet/service/netinfo/available-ip/[<n>]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AvailableIps {
    /// The next free addresses; `IpType` is `IPv4` or `IPv6` here.
    pub available_service_ips: Vec<ServiceIp>,
}

/// Answer of `GET /api/net/overview` (**new**), for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Overview {
    /// The store.
    pub epoch: String,
    /// Its counter now.
    pub revision: u64,
    /// Jobs in all.
    pub jobs_stored: u64,
    /// Worker subnetworks that nodes hold.
    pub subnets_in_use: u64,
    /// Clusters, by id.
    pub clusters: Vec<OverviewCluster>,
    /// Some jobs: those that changed last, or those that were searched for.
    pub jobs: Vec<Job>,
}

/// A cluster in [`Overview`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OverviewCluster {
    /// Its id.
    pub cluster_id: String,
    /// Where its manager listens.
    pub cluster_address: String,
    /// The port there.
    #[serde(with = "scalar::port_number")]
    #[cfg_attr(feature = "openapi", schema(value_type = u16))]
    pub cluster_port: Option<u16>,
    /// `ACTIVE` or `ERROR`.
    pub status: String,
    /// Notifications that it did not take yet.
    pub pending: u64,
    /// Jobs that it is interested in.
    pub interests: u64,
}

/// Body of every error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorMessage {
    /// What is wrong, for a person.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_bodies_parse() {
        let cluster: RegisterCluster = serde_json::from_str(
            r#"{"cluster_id":"cluster1","cluster_port":10200,"cluster_address":"127.0.0.1"}"#,
        )
        .unwrap();
        assert_eq!(cluster.cluster_port, Some(10200));
        let cluster: RegisterCluster = serde_json::from_str(
            r#"{"cluster_id":17,"cluster_port":"10200","cluster_address":"::1"}"#,
        )
        .unwrap();
        assert_eq!(
            (cluster.cluster_id.as_str(), cluster.cluster_port),
            ("17", Some(10200))
        );
        let service: DeployService = serde_json::from_str(
            r#"{"_id":"cccccccccccccccccccccc01","deployment_descriptor":{"app_name":"app1","app_ns":"test","service_name":"client","service_ns":"test","microservice_name":"client","microservice_namespace":"test","applicationID":"bbbbbbbbbbbbbbbbbbbbbb01","microserviceID":"cccccccccccccccccccccc01","RR_ip":null,"environment":["SECRET=x"],"code":{"any":[1]}}}"#,
        )
        .unwrap();
        assert_eq!(service.deployment_descriptor.service_name, "client");
        assert!(service.deployment_descriptor.rr_ip.is_none());
        let instance: DeployInstance = serde_json::from_str(
            r#"{"_id":"cccccccccccccccccccccc01","instance_number":0,"cluster_id":"cluster1"}"#,
        )
        .unwrap();
        assert!(instance.weight.is_none());
        let subnet: Subnet = serde_json::from_str(
            "{\"subnet_addr\":\"10.18.0.64\",\"subnet_addr_v6\":\"fc00::100\"}\n",
        )
        .unwrap();
        assert_eq!(
            serde_json::to_string(&subnet).unwrap(),
            r#"{"subnet_addr":"10.18.0.64","subnet_addr_v6":"fc00::100"}"#
        );
    }

    #[test]
    fn the_recorded_status_is_written_alike() {
        let text = r#"{"job_id":"cccccccccccccccccccccc01","instances":[{"instance_number":0,"namespace_ip":"10.18.0.2","namespace_ip_v6":"fc00::2","host_ip":"192.168.57.11","host_port":50103}]}"#;
        let status: DeployStatus = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&status).unwrap(), text);
        let withdrawn = serde_json::to_string(&InstanceStatus::withdrawn(3)).unwrap();
        assert_eq!(
            withdrawn,
            r#"{"instance_number":3,"namespace_ip":null,"namespace_ip_v6":null,"host_ip":null,"host_port":null,"status":"UNDEPLOYED"}"#
        );
        assert!(
            serde_json::from_str::<InstanceStatus>(&withdrawn)
                .unwrap()
                .is_withdrawal()
        );
    }

    #[test]
    fn a_status_says_where_an_instance_is_or_withdraws_it() {
        for (text, missing, withdraws) in [
            (
                r#"{"instance_number":0,"namespace_ip_v6":"fc00::2","host_ip":"192.0.2.1","host_port":"50103"}"#,
                "",
                false,
            ),
            (
                r#"{"instance_number":0,"namespace_ip":"10.18.0.2","host_ip":"","host_port":0}"#,
                "host_ip, host_port",
                false,
            ),
            (
                r#"{"instance_number":0,"host_ip":"192.0.2.1","host_port":50103,"status":"DEPLOYED"}"#,
                "namespace_ip or namespace_ip_v6",
                false,
            ),
            (
                r#"{"instance_number":0,"namespace_ip":"10.18.0.2","status":"UNDEPLOYED"}"#,
                "",
                true,
            ),
        ] {
            let status: InstanceStatus = serde_json::from_str(text).unwrap();
            assert_eq!(status.missing().join(", "), missing, "{text}");
            assert_eq!(status.is_withdrawal(), withdraws, "{text}");
        }
    }

    #[test]
    fn channel_messages_tell_change_from_heartbeat() {
        let change: ChannelMessage = serde_json::from_str(
            r#"{"epoch":"e","prev":3,"revision":7,"job_name":"a.b.c.d","instance_number":-1,"type":"UNDEPLOYMENT"}"#,
        )
        .unwrap();
        assert!(
            matches!(change, ChannelMessage::Change(c) if c.prev == 3 && c.instance_number == -1)
        );
        let beat: ChannelMessage = serde_json::from_str(r#"{"epoch":"e","revision":7}"#).unwrap();
        assert!(matches!(beat, ChannelMessage::Heartbeat(b) if b.revision == 7));
    }
}
