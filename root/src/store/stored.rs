//! Values as the store keeps them, for what is written without a script.

use std::net::IpAddr;

use protocol::{Instance, ServiceIp};

use super::hex;

/// An address.
pub(crate) fn address(address: IpAddr) -> String {
    hex::encode(address)
}

/// A Service IP: `v4 TAB v6`.
pub(crate) fn service_ip(ip: &ServiceIp) -> String {
    format!(
        "{}\t{}",
        hex::encode_or_empty(ip.address),
        hex::encode_or_empty(ip.address_v6)
    )
}

/// An instance: nine fields.
pub(crate) fn instance(instance: &Instance) -> String {
    let text = |value: Option<String>| value.unwrap_or_default();
    [
        hex::encode_or_empty(instance.instance_ip),
        hex::encode_or_empty(instance.instance_ip_v6),
        text(instance.weight.map(|weight| weight.to_string())),
        text(instance.draining.then(|| "1".to_owned())),
        hex::encode_or_empty(instance.namespace_ip),
        hex::encode_or_empty(instance.namespace_ip_v6),
        text(instance.host_ip.map(|host| host.to_string())),
        text(instance.host_port.map(|port| port.to_string())),
        instance.cluster_id.clone(),
    ]
    .join("\t")
}
