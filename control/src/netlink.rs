//! The kernel's links, addresses, routes and neighbours over rtnetlink, in the few sentences that this crate speaks.
//!
//! A netlink socket belongs to the network namespace in which it was opened, whichever thread uses it later. That is
//! how containers are set up: the socket is opened inside, the conversation happens here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressScope,
};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteScope, RouteType,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// A conversation with the kernel about one network namespace. Ends with the value.
pub struct Netlink {
    handle: rtnetlink::Handle,
    task: tokio::task::JoinHandle<()>,
    /// The kernel lists one thing at a time per socket, and answers EBUSY to a second wish.
    listing: tokio::sync::Mutex<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct NetlinkError {
    what: String,
    source: io::Error,
}

impl NetlinkError {
    fn new(what: impl Into<String>, error: rtnetlink::Error) -> Self {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        };
        Self {
            what: what.into(),
            source,
        }
    }

    /// No socket could be had.
    pub fn opening(source: io::Error) -> Self {
        Self {
            what: "opening a netlink socket".to_owned(),
            source,
        }
    }

    fn is(&self, code: nix::errno::Errno) -> bool {
        self.source.raw_os_error() == Some(code as i32)
    }

    /// The thing is there already.
    pub fn exists(&self) -> bool {
        self.is(nix::errno::Errno::EEXIST)
    }

    /// The thing is not there.
    pub fn missing(&self) -> bool {
        [
            nix::errno::Errno::ENODEV,
            nix::errno::Errno::ENOENT,
            nix::errno::Errno::ESRCH,
            nix::errno::Errno::EADDRNOTAVAIL,
        ]
        .into_iter()
        .any(|code| self.is(code))
    }
}

/// A link, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: [u8; 6],
    pub mtu: Option<u32>,
    pub up: bool,
}

impl Link {
    pub(crate) fn of(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: [0; 6],
            mtu: None,
            up: message
                .header
                .flags
                .contains(rtnetlink::packet_route::link::LinkFlags::Up),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = Some(mtu),
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().unwrap_or_default(),
                _ => {}
            }
        }
        link
    }
}

/// A default route: its metric, interface, preferred source and gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DefaultRoute {
    pub metric: u32,
    pub interface: u32,
    pub source: Option<IpAddr>,
    pub gateway: Option<IpAddr>,
}

/// The route to one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRoute {
    pub interface: u32,
    pub source: Option<IpAddr>,
    pub gateway: Option<IpAddr>,
    /// As somebody set it on the route; not what the kernel has learned of the path and will forget.
    pub mtu: Option<u32>,
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace. Needs a tokio runtime.
    pub fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let task = tokio::spawn(connection);
        Ok(Self {
            handle,
            task,
            listing: tokio::sync::Mutex::new(()),
        })
    }

    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let _turn = self.listing.lock().await;
        self.handle
            .link()
            .get()
            .execute()
            .map_ok(Link::of)
            .try_collect()
            .await
            .map_err(|error| NetlinkError::new("listing the links", error))
    }

    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let one = self.handle.link().get().match_name(name).execute();
        match one.map_ok(Link::of).try_collect::<Vec<_>>().await {
            Ok(links) => Ok(links.into_iter().next()),
            Err(error) => {
                let error = NetlinkError::new(format!("looking for the interface {name}"), error);
                if error.is(nix::errno::Errno::ENODEV) {
                    return Ok(None);
                }
                Err(error)
            }
        }
    }

    /// Makes a veth pair whose other end comes to be in another namespace, under its final name: to move and to rename
    /// it afterwards takes the kernel longer than all the rest.
    pub async fn add_veth(
        &self,
        name: &str,
        mtu: u16,
        peer: &str,
        namespace: RawFd,
    ) -> Result<(), NetlinkError> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer.to_owned())
            .mtu(u32::from(mtu))
            .setns_by_fd(namespace)
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .name(name.to_owned())
            .mtu(u32::from(mtu))
            .build();
        self.handle
            .link()
            .add(pair)
            .execute()
            .await
            .map_err(|error| NetlinkError::new(format!("making the veth pair {name}"), error))
    }

    pub async fn set_up(&self, index: u32, mtu: Option<u16>) -> Result<(), NetlinkError> {
        let mut message = LinkUnspec::new_with_index(index).up();
        if let Some(mtu) = mtu {
            message = message.mtu(u32::from(mtu));
        }
        self.handle
            .link()
            .set(message.build())
            .execute()
            .await
            .map_err(|error| NetlinkError::new("setting an interface up", error))
    }

    pub async fn set_mac(&self, index: u32, mac: [u8; 6]) -> Result<(), NetlinkError> {
        self.handle
            .link()
            .set(
                LinkUnspec::new_with_index(index)
                    .address(mac.to_vec())
                    .build(),
            )
            .execute()
            .await
            .map_err(|error| NetlinkError::new("setting an interface's address", error))
    }

    /// Removes a link; one that is gone is no error.
    pub async fn delete_link(&self, index: u32) -> Result<(), NetlinkError> {
        match self.handle.link().del(index).execute().await {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = NetlinkError::new("removing an interface", error);
                if error.missing() { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Adds an address without waiting for duplicate detection; one that is there is no error.
    pub async fn add_address(
        &self,
        index: u32,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), NetlinkError> {
        let mut request = self.handle.address().add(index, address, prefix);
        if address.is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        match request.execute().await {
            Ok(()) => Ok(()),
            Err(error) => {
                let error =
                    NetlinkError::new(format!("adding the address {address}/{prefix}"), error);
                if error.exists() { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Addresses of a link that other machines can use.
    pub async fn global_addresses(&self, index: u32) -> Result<Vec<(IpAddr, u8)>, NetlinkError> {
        let _turn = self.listing.lock().await;
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetlinkError::new("listing addresses", error))?;
        Ok(messages
            .into_iter()
            .filter(|message| message.header.scope == AddressScope::Universe)
            .filter_map(|message| {
                let prefix = message.header.prefix_len;
                let local = message
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        AddressAttribute::Local(address) => Some(*address),
                        _ => None,
                    });
                let address = message
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        AddressAttribute::Address(address) => Some(*address),
                        _ => None,
                    });
                local.or(address).map(|address| (address, prefix))
            })
            .collect())
    }

    /// Removes an address from a link; one that is gone is no error.
    pub async fn delete_address(&self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let _turn = self.listing.lock().await;
        let found: Vec<_> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .set_address_filter(address)
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetlinkError::new("listing addresses", error))?;
        for message in found {
            if let Err(error) = self.handle.address().del(message).execute().await {
                let error = NetlinkError::new(format!("removing the address {address}"), error);
                if !error.missing() {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Sets a neighbour entry that never expires.
    pub async fn set_neighbour(
        &self,
        index: u32,
        address: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), NetlinkError> {
        self.handle
            .neighbours()
            .add(index, address)
            .link_layer_address(&mac)
            .state(NeighbourState::Permanent)
            .replace()
            .execute()
            .await
            .map_err(|error| NetlinkError::new(format!("setting the neighbour {address}"), error))
    }

    /// Adds a default route; false when the namespace has one already.
    pub async fn add_default_route(
        &self,
        index: u32,
        gateway: IpAddr,
    ) -> Result<bool, NetlinkError> {
        let unspecified: IpAddr = if gateway.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        self.add_route((unspecified, 0), index, Some(gateway), None)
            .await
    }

    /// Adds a route by interface, and by gateway if there is one; false when it is there already.
    pub async fn add_route(
        &self,
        destination: (IpAddr, u8),
        index: u32,
        gateway: Option<IpAddr>,
        source: Option<IpAddr>,
    ) -> Result<bool, NetlinkError> {
        let message = route(destination, index, gateway, source);
        match self.handle.route().add(message).execute().await {
            Ok(()) => Ok(true),
            Err(error) => {
                let (to, prefix) = destination;
                let error = NetlinkError::new(format!("adding the route to {to}/{prefix}"), error);
                if error.exists() {
                    Ok(false)
                } else {
                    Err(error)
                }
            }
        }
    }

    /// Default routes of the main table.
    pub async fn default_routes(&self, v6: bool) -> Result<Vec<DefaultRoute>, NetlinkError> {
        let filter = if v6 {
            RouteMessageBuilder::<Ipv6Addr>::new().build()
        } else {
            RouteMessageBuilder::<Ipv4Addr>::new().build()
        };
        let _turn = self.listing.lock().await;
        let messages: Vec<RouteMessage> = self
            .handle
            .route()
            .get(filter)
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetlinkError::new("listing routes", error))?;
        let mut routes: Vec<DefaultRoute> = messages
            .into_iter()
            .filter(|message| {
                message.header.destination_prefix_length == 0
                    && message.header.table == 254
                    && message.header.kind == RouteType::Unicast
            })
            .filter_map(|message| {
                let mut found = DefaultRoute {
                    metric: 0,
                    interface: 0,
                    source: None,
                    gateway: None,
                };
                for attribute in &message.attributes {
                    match attribute {
                        RouteAttribute::Oif(index) => found.interface = *index,
                        RouteAttribute::Priority(metric) => found.metric = *metric,
                        RouteAttribute::PrefSource(address) => found.source = address_of(address),
                        RouteAttribute::Gateway(address) => found.gateway = address_of(address),
                        _ => {}
                    }
                }
                (found.interface != 0).then_some(found)
            })
            .collect();
        routes.sort_unstable();
        Ok(routes)
    }

    /// How the kernel would reach a host.
    pub async fn route_to(&self, host: IpAddr) -> Result<Option<HostRoute>, NetlinkError> {
        let message = match host {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(v4, 32)
                .build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(v6, 128)
                .build(),
        };
        let mut request = self.handle.route().get(message);
        request.message_mut().header.table = 0;
        let mut stream = std::pin::pin!(request.execute());
        let answer = match stream.try_next().await {
            Ok(answer) => answer,
            Err(error) => {
                let error = NetlinkError::new(format!("looking up the route to {host}"), error);
                return if error.is(nix::errno::Errno::ENETUNREACH) {
                    Ok(None)
                } else {
                    Err(error)
                };
            }
        };
        Ok(answer.and_then(|message| {
            let mut found = HostRoute {
                interface: 0,
                source: None,
                gateway: None,
                mtu: None,
            };
            let mut passing = false;
            for attribute in &message.attributes {
                match attribute {
                    RouteAttribute::Oif(index) => found.interface = *index,
                    RouteAttribute::PrefSource(address) => found.source = address_of(address),
                    RouteAttribute::Gateway(address) => found.gateway = address_of(address),
                    RouteAttribute::CacheInfo(info) => passing = info.expires != 0,
                    RouteAttribute::Metrics(metrics) => {
                        found.mtu = metrics.iter().find_map(|metric| match metric {
                            RouteMetric::Mtu(mtu) => Some(*mtu),
                            _ => None,
                        });
                    }
                    _ => {}
                }
            }
            found.mtu = found.mtu.filter(|_| !passing);
            (found.interface != 0).then_some(found)
        }))
    }

    /// The MAC address of a neighbour, if the kernel has a usable one.
    pub async fn neighbour(
        &self,
        index: u32,
        address: IpAddr,
    ) -> Result<Option<[u8; 6]>, NetlinkError> {
        let _turn = self.listing.lock().await;
        let messages: Vec<_> = self
            .handle
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetlinkError::new("listing neighbours", error))?;
        Ok(messages.into_iter().find_map(|message| {
            let usable = matches!(
                message.header.state,
                NeighbourState::Reachable
                    | NeighbourState::Permanent
                    | NeighbourState::Noarp
                    | NeighbourState::Stale
                    | NeighbourState::Delay
                    | NeighbourState::Probe
            );
            let ours = message.header.ifindex == index
                && message.attributes.iter().any(|attribute| match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address == *v4,
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address == *v6,
                    _ => false,
                });
            if !(usable && ours) {
                return None;
            }
            message
                .attributes
                .into_iter()
                .find_map(|attribute| match attribute {
                    NeighbourAttribute::LinkLayerAddress(mac) => mac.try_into().ok(),
                    _ => None,
                })
        }))
    }
}

fn route(
    (destination, prefix): (IpAddr, u8),
    index: u32,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
) -> RouteMessage {
    let scope = if gateway.is_some() || destination.is_ipv6() {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    match destination {
        IpAddr::V4(destination) => {
            let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(destination, prefix)
                .output_interface(index)
                .scope(scope);
            if let Some(IpAddr::V4(gateway)) = gateway {
                message = message.gateway(gateway);
            }
            if let Some(IpAddr::V4(source)) = source {
                message = message.pref_source(source);
            }
            message.build()
        }
        IpAddr::V6(destination) => {
            let mut message = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(destination, prefix)
                .output_interface(index)
                .scope(scope);
            if let Some(IpAddr::V6(gateway)) = gateway {
                message = message.gateway(gateway);
            }
            if let Some(IpAddr::V6(source)) = source {
                message = message.pref_source(source);
            }
            message.build()
        }
    }
}
