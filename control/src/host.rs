//! The host's side: the gateway addresses on the host interface, routes through it, and the kernel settings that
//! forwarding needs, each remembered with its former value.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::forwarding::{Pair, Subnet};
use crate::netlink::{Netlink, NetlinkError};

/// Ranges that are reached through the host interface. IPv4: all worker subnetworks and the Service and Instance IPs.
/// IPv6: the Service and Instance IPs, and the first 65,536 worker subnetworks: the whole range given to workers
/// would be nearly all private IPv6 addresses there are, the host's own included.
pub const RANGES: [(IpAddr, u8); 7] = [
    (IpAddr::V4(Ipv4Addr::new(10, 18, 0, 0)), 15),
    (IpAddr::V4(Ipv4Addr::new(10, 20, 0, 0)), 14),
    (IpAddr::V4(Ipv4Addr::new(10, 24, 0, 0)), 14),
    (IpAddr::V4(Ipv4Addr::new(10, 28, 0, 0)), 15),
    (IpAddr::V4(Ipv4Addr::new(10, 30, 0, 0)), 16),
    (IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 104),
    (IpAddr::V6(Ipv6Addr::new(0xfdff, 0, 0, 0, 0, 0, 0, 0)), 16),
];

/// Gives the host interface its addresses and routes; what is no longer a gateway of ours goes.
pub async fn configure(
    netlink: &Netlink,
    interface: u32,
    mtu: u16,
    subnets: &[Subnet],
) -> Result<(), NetlinkError> {
    netlink.set_up(interface, Some(mtu)).await?;
    let wanted: Vec<IpAddr> = subnets
        .iter()
        .flat_map(|subnet| subnet.gateway.iter())
        .collect();
    for address in &wanted {
        let prefix = if address.is_ipv4() { 26 } else { 120 };
        let added = netlink.add_address(interface, *address, prefix).await;
        tolerate_missing_ipv6(*address, added)?;
    }
    for (address, _) in netlink.global_addresses(interface).await? {
        let ours = protocol::address_plan::is_namespace(address);
        if ours && !wanted.contains(&address) {
            netlink.delete_address(interface, address).await?;
        }
    }
    let first = subnets
        .first()
        .map(|subnet| subnet.gateway)
        .unwrap_or_default();
    for (destination, prefix) in RANGES {
        let source = match destination {
            IpAddr::V4(_) => first.v4.map(IpAddr::V4),
            IpAddr::V6(_) => first.v6.map(IpAddr::V6),
        };
        if source.is_some() {
            let added = netlink
                .add_route((destination, prefix), interface, None, source)
                .await
                .map(drop);
            tolerate_missing_ipv6(destination, added)?;
        }
    }
    Ok(())
}

/// A host without IPv6 works with IPv4 alone.
fn tolerate_missing_ipv6(
    address: IpAddr,
    outcome: Result<(), NetlinkError>,
) -> Result<(), NetlinkError> {
    match outcome {
        Err(error) if address.is_ipv6() => {
            tracing::warn!(%error, "IPv6 is not available on this host's interface; going on with IPv4");
            Ok(())
        }
        other => other,
    }
}

/// The node's tunnel address where the operator named none: that of the default route, IPv4 before IPv6.
pub async fn public_address(
    netlink: &Netlink,
    wanted: Option<&str>,
) -> Result<Option<IpAddr>, NetlinkError> {
    let only = match wanted {
        None => None,
        Some(name) => match netlink.link(name).await? {
            Some(link) => Some(link.index),
            None => return Ok(None),
        },
    };
    for v6 in [false, true] {
        for route in netlink.default_routes(v6).await? {
            if only.is_some_and(|index| index != route.interface) {
                continue;
            }
            if route.source.is_some() {
                return Ok(route.source);
            }
            if let Some(address) = usable(netlink, route.interface, v6, route.gateway).await? {
                return Ok(Some(address));
            }
        }
    }
    match only {
        // An interface that was named counts even without a default route.
        Some(index) => match usable(netlink, index, false, None).await? {
            None => usable(netlink, index, true, None).await,
            found => Ok(found),
        },
        None => Ok(None),
    }
}

/// Of several addresses the one that the kernel sends from towards the gateway: peers take datagrams from no other.
async fn usable(
    netlink: &Netlink,
    interface: u32,
    v6: bool,
    gateway: Option<IpAddr>,
) -> Result<Option<IpAddr>, NetlinkError> {
    let addresses: Vec<IpAddr> = netlink
        .global_addresses(interface)
        .await?
        .into_iter()
        .map(|(address, _)| address)
        .filter(|address| address.is_ipv6() == v6)
        .collect();
    if let (Some(gateway), [_, _, ..]) = (gateway, &addresses[..])
        && let Ok(Some(route)) = netlink.route_to(gateway).await
        && let Some(source) = route.source
        && addresses.contains(&source)
    {
        return Ok(Some(source));
    }
    Ok(addresses.first().copied())
}

/// Name of the interface of the default route.
pub async fn default_interface(netlink: &Netlink) -> Result<Option<String>, NetlinkError> {
    for v6 in [false, true] {
        if let Some(route) = netlink.default_routes(v6).await?.first() {
            let links = netlink.links().await?;
            return Ok(links
                .into_iter()
                .find(|link| link.index == route.interface)
                .map(|link| link.name));
        }
    }
    Ok(None)
}

/// Changes one kernel setting and answers its former value; `None` when nothing had to change.
fn set(path: &str, value: &str) -> std::io::Result<Option<String>> {
    let before = std::fs::read_to_string(path)?.trim().to_owned();
    if before == value {
        return Ok(None);
    }
    std::fs::write(path, value)?;
    Ok(Some(before))
}

/// Kernel settings that forwarding needs. Answers the machine-wide ones that were changed, with their former values;
/// those of the host interface go with it. A setting that cannot be changed is a log line: a container host often
/// has it set already and read-only.
pub fn apply_settings(host_interface: &str, uplink: Option<&str>) -> Vec<(String, String)> {
    let mut changed = Vec::new();
    let mut wanted = Vec::new();
    if let Some(uplink) = uplink {
        let path = format!("/proc/sys/net/ipv6/conf/{uplink}/accept_ra");
        // With forwarding on, the kernel ignores router advertisements unless told twice.
        if std::fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
            wanted.push((path, "2"));
        }
    }
    wanted.push(("/proc/sys/net/ipv4/ip_forward".to_owned(), "1"));
    wanted.push(("/proc/sys/net/ipv6/conf/all/forwarding".to_owned(), "1"));
    for (path, value) in wanted {
        match set(&path, value) {
            Ok(Some(before)) => {
                tracing::info!(setting = %path, %before, now = value, "kernel setting changed");
                changed.push((path, before));
            }
            Ok(None) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(setting = %path, %error, "kernel setting could not be changed; containers may not reach outside");
            }
        }
    }
    for (path, value) in [
        (
            format!("/proc/sys/net/ipv4/conf/{host_interface}/rp_filter"),
            "2",
        ),
        (
            format!("/proc/sys/net/ipv4/conf/{host_interface}/route_localnet"),
            "1",
        ),
    ] {
        if let Err(error) = set(&path, value) {
            tracing::warn!(setting = %path, %error, "kernel setting of the host interface could not be changed");
        }
    }
    changed
}

/// Puts settings back as they were.
pub fn restore_settings(changed: &[(String, String)]) {
    for (path, before) in changed.iter().rev() {
        if let Err(error) = std::fs::write(path, before) {
            tracing::warn!(setting = %path, %error, "kernel setting could not be put back");
        }
    }
}

/// The addresses of both families in one line, for people.
pub fn show(pair: Pair) -> String {
    let addresses: Vec<String> = pair.iter().map(|address| address.to_string()).collect();
    addresses.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::address_plan::{SUBNET_V4_COUNT, is_namespace, is_semantic, subnet_v4};

    fn covered(address: IpAddr) -> bool {
        RANGES.iter().any(|(net, prefix)| match (net, address) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                (u32::from(*net) ^ u32::from(address)) >> (32 - prefix) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                (u128::from(*net) ^ u128::from(address)) >> (128 - prefix) == 0
            }
            _ => false,
        })
    }

    #[test]
    fn the_ranges_cover_the_plan_and_nothing_else() {
        assert!(covered(subnet_v4(0).unwrap().into()));
        assert!(covered(subnet_v4(SUBNET_V4_COUNT - 1).unwrap().into()));
        for (net, prefix) in RANGES {
            assert!(is_namespace(net) || is_semantic(net), "{net}/{prefix}");
        }
        for outside in [
            "10.17.255.255",
            "10.31.0.0",
            "10.0.0.1",
            "192.168.1.1",
            "fd12:3456::1",
            "fe80::1",
        ] {
            assert!(!covered(outside.parse().unwrap()), "{outside}");
        }
        for inside in ["10.30.253.253", "fdff:2000::1", "fc00::2", "fc00::ff:ff02"] {
            assert!(covered(inside.parse().unwrap()), "{inside}");
        }
    }
}
