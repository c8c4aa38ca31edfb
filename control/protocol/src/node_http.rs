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
        ] {
            assert!(serde_json::from_str::<Deploy>(body).is_err(), "{body}");
        }
    }
}
