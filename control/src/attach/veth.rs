//! A container's cable: a veth pair, one end on the node in the data plane's hands, the other in the container with its
//! addresses, its gateway and the gateway's MAC address.

use std::net::IpAddr;
use std::sync::Arc;

use super::namespace::Namespace;
use super::undo::Undo;
use super::{AttachError, Fault};
use crate::forwarding::Pair;
use crate::host::RANGES;
use crate::netlink::{Link, Netlink};

/// What the container's end is to have.
pub struct Plan<'a> {
    pub host_end: &'a str,
    pub mtu: u16,
    pub address: Pair,
    pub gateway: Pair,
    pub gateway_mac: [u8; 6],
}

/// A pair that is laid; nothing passes yet.
pub struct Cable<'a> {
    plan: &'a Plan<'a>,
    namespace: &'a Namespace,
    inner: Netlink,
    host: Link,
    inside: Link,
    /// What the container's end is called.
    name: String,
}

/// What came of it.
pub struct Wired {
    pub host_index: u32,
    pub mac: [u8; 6],
    /// Whether the container has IPv6.
    pub v6: bool,
}

/// Lays the cable. Taken back by `undo`.
pub async fn lay<'a>(
    netlink: &Arc<Netlink>,
    namespace: &'a Namespace,
    plan: &'a Plan<'a>,
    fault: &Fault,
    undo: &mut Undo,
) -> Result<Cable<'a>, AttachError> {
    let inner = namespace.netlink().await.map_err(AttachError::Namespace)?;
    let name = match inner.link("eth0").await? {
        Some(_) => plan.host_end,
        None => "eth0",
    };
    if let Some(stale) = netlink.link(plan.host_end).await? {
        netlink.delete_link(stale.index).await?;
    }
    netlink
        .add_veth(plan.host_end, plan.mtu, name, namespace.raw_fd())
        .await?;
    let host = present(netlink, plan.host_end).await?;
    let remover = Arc::clone(netlink);
    undo.push("remove the veth pair", async move {
        remover
            .delete_link(host.index)
            .await
            .map_err(|error| error.to_string())
    });
    fault.at("veth")?;
    let inside = present(&inner, name).await?;
    quiet_host_end(plan.host_end);
    Ok(Cable {
        plan,
        namespace,
        inner,
        host,
        inside,
        name: name.to_owned(),
    })
}

impl Cable<'_> {
    /// Makes the host's end ready, the last of all.
    pub async fn set_up(
        self,
        netlink: &Netlink,
        v6: bool,
        fault: &Fault,
    ) -> Result<Wired, AttachError> {
        netlink.set_up(self.host.index, Some(self.plan.mtu)).await?;
        fault.at("up")?;
        Ok(Wired {
            host_index: self.host.index,
            mac: self.inside.mac,
            v6,
        })
    }

    /// Gives the container's end its addresses and ways; whether it has IPv6.
    pub async fn configure(&self, fault: &Fault) -> Result<bool, AttachError> {
        let (inner, plan, index) = (&self.inner, self.plan, self.inside.index);
        if let Some(loopback) = inner.link("lo").await?.filter(|link| !link.up) {
            inner.set_up(loopback.index, None).await?;
        }
        let v6 = plan.address.v6.is_some() && allow_ipv6(self.namespace, self.name.clone()).await?;
        inner.set_up(index, Some(plan.mtu)).await?;
        for (address, gateway) in [
            (
                plan.address.v4.map(IpAddr::V4),
                plan.gateway.v4.map(IpAddr::V4),
            ),
            (
                plan.address.v6.filter(|_| v6).map(IpAddr::V6),
                plan.gateway.v6.filter(|_| v6).map(IpAddr::V6),
            ),
        ] {
            let (Some(address), Some(gateway)) = (address, gateway) else {
                continue;
            };
            let prefix = if address.is_ipv4() { 26 } else { 120 };
            inner.add_address(index, address, prefix).await?;
            fault.at("address")?;
            inner
                .set_neighbour(index, gateway, plan.gateway_mac)
                .await?;
            if !inner.add_default_route(index, gateway).await? {
                // The container has another way out already: leave it, and take what is ours.
                for range in RANGES {
                    if range.0.is_ipv4() == gateway.is_ipv4() {
                        inner.add_route(range, index, Some(gateway), None).await?;
                    }
                }
            }
            fault.at("route")?;
        }
        Ok(v6)
    }
}

async fn present(netlink: &Netlink, name: &str) -> Result<Link, AttachError> {
    netlink
        .link(name)
        .await?
        .ok_or_else(|| AttachError::Gone(name.to_owned()))
}

/// The kernel itself has nothing to say on the host end.
fn quiet_host_end(name: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    if let Err(error) = std::fs::write(path, "1") {
        tracing::debug!(interface = name, %error, "IPv6 could not be turned off on a host end");
    }
}

/// Whether an interface inside may have IPv6; turned on for it where the runtime turned it off.
async fn allow_ipv6(namespace: &Namespace, interface: String) -> Result<bool, AttachError> {
    namespace
        .run(move || {
            let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
            match std::fs::read_to_string(&path) {
                Ok(value) if value.trim() == "0" => true,
                Ok(_) => std::fs::write(&path, "0").is_ok(),
                Err(_) => false,
            }
        })
        .await
        .map_err(AttachError::Namespace)
}
