//! MQTT payloads between nodes and their cluster manager (contract section 3).
//!
//! Names of jobs stay text here where reference peers also put addresses (`interest/remove`), or
//! where a bad name must not hide the rest of the message.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{Instance, IpType, ServiceIp, address, scalar};

/// What happened to a job or instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ChangeKind {
    /// It came, moved or changed.
    #[serde(rename = "DEPLOYMENT")]
    Deployment,
    /// It went.
    #[serde(rename = "UNDEPLOYMENT")]
    Undeployment,
}

impl ChangeKind {
    /// The text on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "DEPLOYMENT",
            Self::Undeployment => "UNDEPLOYMENT",
        }
    }
}

/// What a node wants of the subnetwork service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubnetMethod {
    /// One to use.
    #[serde(rename = "GET")]
    Get,
    /// Give back.
    #[serde(rename = "DELETE")]
    Delete,
}

/// `nodes/<id>/net/subnet`, node → cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetRequest {
    /// Get or give back.
    #[serde(rename = "METHOD")]
    pub method: SubnetMethod,
    /// **New**: subnetworks that the node holds; the answer is one that it owns but did not
    /// list, else a new one. Absent in a plain GET, which repeats the node's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub have: Option<Vec<Ipv4Addr>>,
    /// **New**: with DELETE, which one; absent means all.
    #[serde(
        default,
        with = "address::or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub address: Option<Ipv4Addr>,
    /// **New**: order among the node's messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// `nodes/<id>/net/subnetwork/result`, cluster → node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetResult {
    /// First address of the IPv4 subnetwork.
    #[serde(default, with = "address::or_empty")]
    pub address: Option<Ipv4Addr>,
    /// First address of the IPv6 subnetwork.
    #[serde(default, with = "address::or_empty")]
    pub addressv6: Option<Ipv6Addr>,
}

/// `nodes/<id>/net/tablequery/request`, node → cluster. One of the two is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableQuery {
    /// By name.
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub sname: String,
    /// By address.
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub sip: String,
    /// **New**: order among the node's messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// `nodes/<id>/net/tablequery/result`, cluster → node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableQueryResult {
    /// The job's name; as asked (or empty) when it is unknown.
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub app_name: String,
    /// The text that was asked.
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub query_key: String,
    /// Instances; empty when there are none or the job is unknown.
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub instance_list: Vec<TableEntry>,
}

impl TableQueryResult {
    /// Reads an answer entry by entry, so that one that cannot be understood costs no other instance its route. The
    /// answer without such entries, and what was wrong with each.
    ///
    /// # Errors
    /// When the answer itself cannot be understood.
    pub fn read(payload: &[u8]) -> Result<(Self, Vec<serde_json::Error>), serde_json::Error> {
        let mut answer: serde_json::Value = serde_json::from_slice(payload)?;
        let mut wrong = Vec::new();
        if let Some(entries) = answer
            .get_mut("instance_list")
            .and_then(serde_json::Value::as_array_mut)
        {
            entries.retain(|entry| match TableEntry::deserialize(entry) {
                Ok(_) => true,
                Err(error) => {
                    wrong.push(error);
                    false
                }
            });
        }
        Ok((serde_json::from_value(answer)?, wrong))
    }
}

/// An instance in a table query result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableEntry {
    /// The instance as the root knows it.
    #[serde(flatten)]
    pub instance: Instance,
    /// Service IPs, and last of all the Instance IP (see [`TableEntry::new`]).
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub service_ip: Vec<ServiceIp>,
}

impl TableEntry {
    /// An entry whose address list ends with the instance's own address: a reference node takes
    /// the last entry that is neither `RR` nor `Closest` for it.
    #[must_use]
    pub fn new(instance: Instance, service_ips: &[ServiceIp]) -> Self {
        let mut service_ip: Vec<ServiceIp> = service_ips
            .iter()
            .filter(|ip| !ip.ip_type.is_instance())
            .cloned()
            .collect();
        service_ip.push(instance.own_address());
        Self {
            instance,
            service_ip,
        }
    }

    /// The instance's own address: the entry typed as one of the twins, else the last that is
    /// neither `RR` nor `Closest` nor `Underutilized`.
    #[must_use]
    pub fn own_address(&self) -> Option<&ServiceIp> {
        let mut from_the_end = self.service_ip.iter().rev();
        from_the_end
            .clone()
            .find(|ip| ip.ip_type.is_instance())
            .or_else(|| from_the_end.find(|ip| matches!(ip.ip_type, IpType::Other(_))))
    }

    /// The Service IPs, without the instance's own address.
    pub fn service_ips(&self) -> impl Iterator<Item = &ServiceIp> {
        self.service_ip
            .iter()
            .filter(|ip| !ip.ip_type.is_instance())
    }
}

/// `nodes/<id>/net/service/deployed` and `…/undeployed`, node → cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// The job's name.
    pub appname: String,
    /// [`ServiceStatus::DEPLOYED`] or [`ServiceStatus::UNDEPLOYED`].
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub status: String,
    /// Number of the replica.
    #[serde(deserialize_with = "scalar::instance_number")]
    pub instance_number: u32,
    /// Namespace IP, IPv4.
    #[serde(default, with = "address::or_empty")]
    pub nsip: Option<Ipv4Addr>,
    /// Namespace IP, IPv6.
    #[serde(default, with = "address::or_empty")]
    pub nsipv6: Option<Ipv6Addr>,
    /// Tunnel port, as text on the wire.
    #[serde(default, with = "scalar::port_text")]
    pub host_port: Option<u16>,
    /// Tunnel endpoint.
    #[serde(default, with = "address::or_empty")]
    pub host_ip: Option<IpAddr>,
    /// **New**: order among the node's messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

impl ServiceStatus {
    /// Status of an instance that runs.
    pub const DEPLOYED: &'static str = "DEPLOYED";
    /// Status of an instance that is gone.
    pub const UNDEPLOYED: &'static str = "UNDEPLOYED";
}

/// `nodes/<id>/net/service/address-changed`, node → cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressChanged {
    /// The job's name (a reference node names the application only).
    pub appname: String,
    /// Number of the replica.
    #[serde(deserialize_with = "scalar::instance_number")]
    pub instance_number: u32,
    /// Tunnel endpoint.
    #[serde(default, with = "address::or_empty")]
    pub host_ip: Option<IpAddr>,
    /// Tunnel port, as text on the wire.
    #[serde(default, with = "scalar::port_text")]
    pub host_port: Option<u16>,
    /// **New**: order among the node's messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// `nodes/<id>/net/interest/remove`, node → cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterestRemove {
    /// The job's name; a reference node also sends Service IPs here.
    pub appname: String,
    /// **New**: order among the node's messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// `nodes/<id>/net/load` (**new**), node → cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Only those that changed.
    pub instances: Vec<InstanceLoad>,
    /// Order among the node's messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// Live flows of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceLoad {
    /// The job's name.
    pub appname: String,
    /// Number of the replica.
    #[serde(deserialize_with = "scalar::instance_number")]
    pub instance_number: u32,
    /// Live flows.
    pub flows: u64,
}

/// `nodes/<id>/net/host/request` (**new**), node → cluster: an empty object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRequest {
    /// Order among the node's messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// `nodes/<id>/net/host/result` (**new**), cluster → node, and the root's answer to
/// `POST /api/net/host`: the node's own processes as an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostResult {
    /// `<cluster_id>.nodes.<id>.host`.
    pub app_name: String,
    /// Always 0.
    #[serde(deserialize_with = "scalar::instance_number")]
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

/// `nodes/<id>/net/status` (**new**), retained, and the node's last will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Whether the node is there.
    pub online: bool,
}

/// `jobs/<job>/updates_available`, cluster → nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdatesAvailable {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: ChangeKind,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_cannot_be_understood_costs_no_other_its_route() {
        let good = r#"{"instance_number": 1, "namespace_ip": "10.18.0.2", "host_ip": "192.0.2.1", "host_port": "50103", "service_ip": []}"#;
        for bad in [
            r#"{"instance_number": 0, "namespace_ip": "10.18.0.999", "service_ip": []}"#,
            r#"{"namespace_ip": "10.18.0.3", "service_ip": 5}"#,
            r#""text""#,
            "null",
        ] {
            let text =
                format!(r#"{{"app_name": "a.b.c.d", "instance_list": [{bad}, {good}, {bad}]}}"#);
            let (result, wrong) = TableQueryResult::read(text.as_bytes()).unwrap();
            assert_eq!((result.instance_list.len(), wrong.len()), (1, 2), "{bad}");
            assert_eq!(result.instance_list[0].instance.instance_number, 1);
        }
        for text in ["", "5", r#"{"instance_list": 5}"#] {
            assert!(TableQueryResult::read(text.as_bytes()).is_err(), "{text}");
        }
        let (empty, wrong) = TableQueryResult::read(br#"{"app_name": null}"#).unwrap();
        assert!(empty.instance_list.is_empty() && wrong.is_empty());
    }

    #[test]
    fn the_recorded_table_query_result_parses_and_keeps_the_own_address_last() {
        let text = r#"{"app_name": "app1.test.client.test", "instance_list": [{"cluster_id": "cluster1", "instance_ip": "10.30.0.2", "instance_ip_v6": "fdff::", "instance_number": 0, "worker_id": "aaaaaaaaaaaaaaaaaaaaaa01", "namespace_ip": "10.18.0.2", "namespace_ip_v6": "fc00::2", "host_ip": "192.168.57.11", "host_port": 50103, "service_ip": [{"Address": "10.30.0.0", "Address_v6": "fdff:2000::", "IpType": "RR"}, {"IpType": "instance_ip", "Address": "10.30.0.2", "Address_v6": "fdff::"}]}], "query_key": "app1.test.client.test"}"#;
        let result: TableQueryResult = serde_json::from_str(text).unwrap();
        let entry = &result.instance_list[0];
        assert_eq!(entry.own_address().unwrap(), &entry.instance.own_address());
        assert_eq!(entry.service_ips().count(), 1);
        let mut shuffled = entry.service_ip.clone();
        shuffled.reverse();
        let again = TableEntry::new(entry.instance.clone(), &shuffled);
        assert_eq!(&again, entry);
        let mut expected: serde_json::Value = serde_json::from_str(text).unwrap();
        expected["instance_list"][0]
            .as_object_mut()
            .unwrap()
            .remove("worker_id");
        assert_eq!(serde_json::to_value(&result).unwrap(), expected);
    }

    #[test]
    fn the_contracts_entry_without_cluster_and_with_the_twin_type_parses() {
        let text = r#"{"instance_number":0,"namespace_ip":"10.18.0.2","namespace_ip_v6":"","host_ip":"192.0.2.10","host_port":"50103","service_ip":[{"IpType":"InstanceNumber","Address":"10.30.0.2","Address_v6":"fdff::2"},{"IpType":"RR","Address":"10.30.0.1","Address_v6":""}]}"#;
        let entry: TableEntry = serde_json::from_str(text).unwrap();
        assert_eq!(entry.instance.host_port, Some(50103));
        assert_eq!(
            entry.own_address().unwrap().address.unwrap().to_string(),
            "10.30.0.2"
        );
    }

    #[test]
    fn an_empty_result_is_no_error() {
        let text = r#"{"app_name": "", "instance_list": [], "query_key": "10.30.9.9"}"#;
        let result: TableQueryResult = serde_json::from_str(text).unwrap();
        assert!(result.instance_list.is_empty());
        let null: TableQueryResult =
            serde_json::from_str(r#"{"app_name":"a.b.c.d","instance_list":null,"query_key":"x"}"#)
                .unwrap();
        assert!(null.instance_list.is_empty());
    }

    #[test]
    fn the_recorded_announcement_is_written_alike() {
        let text = r#"{"appname":"app1.test.client.test","status":"DEPLOYED","instance_number":0,"nsip":"10.18.0.2","nsipv6":"fc00::2","host_port":"50103","host_ip":"192.168.57.11"}"#;
        let status: ServiceStatus = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&status).unwrap(), text);
        let unikernel = text.replace("fc00::2", "<nil>");
        assert_eq!(
            serde_json::from_str::<ServiceStatus>(&unikernel)
                .unwrap()
                .nsipv6,
            None
        );
    }

    #[test]
    fn the_other_recorded_payloads_parse_and_are_written_alike() {
        fn same<T: Serialize + serde::de::DeserializeOwned>(text: &str) {
            let value: T = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
        }
        same::<SubnetRequest>(r#"{"METHOD":"GET"}"#);
        same::<SubnetRequest>(r#"{"METHOD":"GET","have":["10.18.0.0"]}"#);
        same::<SubnetRequest>(r#"{"METHOD":"DELETE","address":"10.18.0.0"}"#);
        same::<SubnetResult>(r#"{"address":"10.18.0.0","addressv6":"fc00::"}"#);
        same::<TableQuery>(r#"{"sname":"","sip":"10.30.0.1"}"#);
        same::<InterestRemove>(r#"{"appname":"10.30.0.1"}"#);
        same::<UpdatesAvailable>(r#"{"type":"DEPLOYMENT"}"#);
        same::<NodeStatus>(r#"{"online":false}"#);
        same::<HostRequest>("{}");
        same::<HostResult>(
            r#"{"app_name":"c.nodes.n.host","instance_number":0,"instance_ip":"10.30.0.9","instance_ip_v6":"fdff::9"}"#,
        );
        same::<Load>(r#"{"instances":[{"appname":"a.b.c.d","instance_number":1,"flows":7}]}"#);
        same::<AddressChanged>(
            r#"{"appname":"a.b.c.d","instance_number":1,"host_ip":"2001:db8::1","host_port":"50103"}"#,
        );
    }
}
