//! Where frames for another node go first, for an ethdev uplink: the kernel's routes and neighbours decide, and its
//! changes are followed.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::forwarding::NextHop;
use crate::netlink::{Link, Netlink, NetlinkError};

/// The hosts that the data plane wants to reach and what it was told.
#[derive(Default)]
pub struct NextHops {
    hosts: HashMap<IpAddr, Option<NextHop>>,
}

impl NextHops {
    /// A host is wanted (again): it is told again once it is resolved.
    pub fn want(&mut self, host: IpAddr) {
        self.hosts.insert(host.to_canonical(), None);
    }

    /// Whether a host still has no next hop.
    pub fn pending(&self) -> bool {
        self.hosts.values().any(Option::is_none)
    }

    /// Looks all hosts up; answers what is new.
    pub async fn resolve(&mut self, netlink: &Netlink) -> Vec<(IpAddr, NextHop)> {
        let mut news = Vec::new();
        let links = match netlink.links().await {
            Ok(links) => links,
            Err(error) => {
                tracing::warn!(%error, "the ways to other nodes could not be looked up");
                return news;
            }
        };
        for (host, told) in &mut self.hosts {
            match look_up(netlink, &links, *host).await {
                Ok(Some(hop)) if *told != Some(hop) => {
                    *told = Some(hop);
                    news.push((*host, hop));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%host, %error, "the way to another node could not be looked up");
                }
            }
        }
        news
    }
}

async fn look_up(
    netlink: &Netlink,
    links: &[Link],
    host: IpAddr,
) -> Result<Option<NextHop>, NetlinkError> {
    let Some(route) = netlink.route_to(host).await? else {
        return Ok(None);
    };
    let next = route.gateway.unwrap_or(host);
    let Some(next_mac) = netlink.neighbour(route.interface, next).await? else {
        provoke(host);
        return Ok(None);
    };
    let link = links.iter().find(|link| link.index == route.interface);
    Ok(link.zip(route.source).map(|(link, source)| NextHop {
        source,
        source_mac: link.mac,
        next_mac,
        // Both limit, where both are there; a loopback's is larger than any packet.
        mtu: [route.mtu, link.mtu]
            .into_iter()
            .flatten()
            .min()
            .map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX)),
    }))
}

/// Makes the kernel resolve the neighbour: a datagram to the discard port, which answers nothing.
fn provoke(host: IpAddr) {
    let from: SocketAddr = if host.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let sent = UdpSocket::bind(from).and_then(|socket| socket.send_to(&[0x80], (host, 9)));
    if let Err(error) = sent {
        tracing::debug!(%host, %error, "the neighbour could not be provoked");
    }
}
