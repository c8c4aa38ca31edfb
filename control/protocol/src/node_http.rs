//! Bodies of the Net Manager's HTTP interface on its unix socket (contract section 4).

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{address, scalar};

/// Body of `POST /register`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// The node's id, and its MQTT client id.
    pub client_id: String,
    /// Overrides `ClusterUrl` when not empty.
    #[serde(
        default,
        deserialize_with = "scalar::null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub cluster_address: String,
}

/// Body of `POST /container/deploy` and `POST /unikernel/deploy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    /// A task that is created but not started; 0 for a unikernel.
    #[serde(default, deserialize_with = "scalar::null_is_default")]
    pub pid: i64,
    /// The job's name.
    #[serde(rename = "serviceName")]
    pub service_name: String,
    /// Number of the replica.
    #[serde(rename = "instanceNumber")]
    pub instance_number: u32,
    /// See [`crate::port_mapping`].
    #[serde(
        rename = "portMappings",
        default,
        deserialize_with = "scalar::null_is_default"
    )]
    pub port_mappings: String,
    /// **New**: instead of a veth pair or a tap, a `vhost-user` socket for the instance's virtual machine. A pid is then
    /// the process whose end is the instance's, 0 where nobody watches it.
    #[serde(
        rename = "vhostUser",
        default,
        deserialize_with = "scalar::null_is_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub vhost_user: bool,
}

/// Body of the undeploy calls. A pid of -1 may come along; it means nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undeploy {
    /// The job's name.
    #[serde(rename = "serviceName")]
    pub service_name: String,
    /// Number of the replica.
    #[serde(rename = "instanceNumber")]
    pub instance_number: u32,
}

/// Answer of the deploy calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// The job's name.
    #[serde(rename = "serviceName")]
    pub service_name: String,
    /// Namespace IP, IPv4.
    #[serde(rename = "nsAddress", default, with = "address::or_empty")]
    pub ns_address: Option<Ipv4Addr>,
    /// Namespace IP, IPv6.
    #[serde(rename = "nsAddressv6", default, with = "address::or_empty")]
    pub ns_address_v6: Option<Ipv6Addr>,
    /// **New**: what a virtual machine needs to know, where a socket for one was asked for.
    #[serde(rename = "vhostUser", default, skip_serializing_if = "Option::is_none")]
    pub vhost_user: Option<VhostUser>,
}

/// How a virtual machine takes part: nobody but who starts it can tell it so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VhostUser {
    /// The socket that its emulator connects to (and connects to again when the Net Manager was restarted).
    pub socket: String,
    /// The MAC address that its network device must have, `06:…`.
    pub mac: String,
    /// Length of the prefix of `nsAddress`.
    pub prefix: u8,
    /// Its way to everywhere, and the resolver of services' names.
    #[serde(default, with = "address::or_empty")]
    pub gateway: Option<Ipv4Addr>,
    /// Length of the prefix of `nsAddressv6`.
    #[serde(rename = "prefixv6")]
    pub prefix_v6: u8,
    /// The same for IPv6.
    #[serde(rename = "gatewayv6", default, with = "address::or_empty")]
    pub gateway_v6: Option<Ipv6Addr>,
    /// The longest IP packet that it may send, in bytes.
    pub mtu: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_engines_bodies_parse() {
        let deploy: Deploy = serde_json::from_str(
            r#"{"pid":4711,"serviceName":"a.b.c.d","instanceNumber":0,"portMappings":"8080:80/tcp;9000/udp"}"#,
        )
        .unwrap();
        assert_eq!(deploy.pid, 4711);
        assert!(!deploy.vhost_user);
        let undeploy: Undeploy =
            serde_json::from_str(r#"{"pid":-1,"serviceName":"a.b.c.d","instanceNumber":0}"#)
                .unwrap();
        assert_eq!(undeploy.instance_number, 0);
        let register: Register = serde_json::from_str(r#"{"client_id":"n1"}"#).unwrap();
        assert!(register.cluster_address.is_empty());
    }

    #[test]
    fn other_types_than_the_contracts_are_refused() {
        for body in [
            r#"{"client_id":5}"#,
            r#"{"client_id":null}"#,
            r#"{"client_id":"n1","cluster_address":5}"#,
        ] {
            assert!(serde_json::from_str::<Register>(body).is_err(), "{body}");
        }
        for body in [
            r#"{"pid":1,"serviceName":"a.b.c.d","instanceNumber":"0"}"#,
            r#"{"pid":1,"serviceName":"a.b.c.d","instanceNumber":-1}"#,
            r#"{"pid":"1","serviceName":"a.b.c.d","instanceNumber":0}"#,
            r#"{"pid":1,"serviceName":7,"instanceNumber":0}"#,
            r#"{"pid":1,"serviceName":"a.b.c.d","instanceNumber":0,"portMappings":80}"#,
            r#"{"pid":1,"serviceName":"a.b.c.d","instanceNumber":0,"vhostUser":"yes"}"#,
        ] {
            assert!(serde_json::from_str::<Deploy>(body).is_err(), "{body}");
        }
    }
}
