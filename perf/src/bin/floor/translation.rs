//! What the floor does with a packet's addresses: on the client's node a Service IP becomes one of its instances and the
//! client its own Instance IP; on the way back the instance becomes the Service IP again.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use net::packet::Headers;
use net::rewrite::{AddressChange, L4State};

/// An instance: where its container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The container's own address.
    pub container: Ipv4Addr,
    /// Its node's tunnel port; none for this node.
    pub node: Option<SocketAddr>,
}

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onward {
    /// Into the TUN again.
    Here,
    /// To this tunnel port.
    To(SocketAddr),
}

/// Which answers belong to a Service IP: protocol, container and its port, instance and its port. An echo's identifier
/// is a port on both sides.
type Flow = (u8, Ipv4Addr, u16, Ipv4Addr, u16);

/// All that a node knows.
#[derive(Debug, Default)]
pub struct Table {
    /// Instance IPs of services.
    services: HashMap<Ipv4Addr, Ipv4Addr>,
    instances: HashMap<Ipv4Addr, Instance>,
    /// Instance IPs of containers.
    names: HashMap<Ipv4Addr, Ipv4Addr>,
    flows: Mutex<HashMap<Flow, Ipv4Addr>>,
}

impl Table {
    /// Of Service IPs with an instance each, and of Instance IPs.
    pub fn new(
        services: impl IntoIterator<Item = (Ipv4Addr, Ipv4Addr)>,
        instances: impl IntoIterator<Item = (Ipv4Addr, Instance)>,
    ) -> Table {
        let instances: HashMap<_, _> = instances.into_iter().collect();
        Table {
            services: services.into_iter().collect(),
            names: instances
                .iter()
                .map(|(&name, instance)| (instance.container, name))
                .collect(),
            instances,
            flows: Mutex::default(),
        }
    }

    /// Translates what a container sent. Nothing for a packet that is none of ours.
    pub fn leaving(&self, packet: &mut [u8]) -> Option<Onward> {
        let mut headers = Headers::parse(packet, packet.len()).ok()?;
        let (source, target) = addresses(&headers)?;
        let instance = match self.services.get(&target) {
            Some(&instance) => {
                let flow = (
                    headers.protocol.0,
                    source,
                    headers.source_port,
                    instance,
                    headers.destination_port,
                );
                self.flows
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(flow, target);
                instance
            }
            None => target,
        };
        let Instance { container, node } = *self.instances.get(&instance)?;
        let own = *self.names.get(&source)?;
        let change =
            AddressChange::new(source.into(), own.into(), target.into(), container.into())?;
        change.apply(packet, &mut headers, L4State::Finished).ok()?;
        match node {
            Some(node) => Some(Onward::To(node)),
            None => {
                self.restore(packet, &mut headers)?;
                Some(Onward::Here)
            }
        }
    }

    /// Translates what came from another node. Nothing for a packet that is none of ours.
    pub fn arriving(&self, packet: &mut [u8]) -> Option<()> {
        let mut headers = Headers::parse(packet, packet.len()).ok()?;
        self.restore(packet, &mut headers)
    }

    /// An answer to what was sent to a Service IP comes from there.
    fn restore(&self, packet: &mut [u8], headers: &mut Headers) -> Option<()> {
        let (source, target) = addresses(headers)?;
        let flow = (
            headers.protocol.0,
            target,
            headers.destination_port,
            source,
            headers.source_port,
        );
        let service = self
            .flows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&flow)
            .copied();
        match service {
            Some(service) => AddressChange::to_source(headers, service.into())?
                .apply(packet, headers, L4State::Finished)
                .ok(),
            None => Some(()),
        }
    }
}

fn addresses(headers: &Headers) -> Option<(Ipv4Addr, Ipv4Addr)> {
    match (headers.source.to_ip(), headers.destination.to_ip()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => Some((source, target)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 19, 1, 2);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 19, 2, 2);
    const CLIENT_NAME: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 1);
    const SERVER_NAME: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 2);
    const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 3);

    fn table(node: Option<SocketAddr>) -> Table {
        let at = |container, node| Instance { container, node };
        Table::new(
            [(SERVICE, SERVER_NAME)],
            [
                (CLIENT_NAME, at(CLIENT, None)),
                (SERVER_NAME, at(SERVER, node)),
            ],
        )
    }

    fn packet(from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(from.octets(), to.octets(), 64)
            .udp(ports.0, ports.1)
            .write(&mut bytes, b"word")
            .unwrap();
        bytes
    }

    /// Source and destination, after an independent parser has verified both checksums.
    fn seen(bytes: &[u8]) -> (Ipv4Addr, Ipv4Addr) {
        let sliced = SlicedPacket::from_ip(bytes).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = sliced.net else {
            panic!("no IPv4");
        };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        let Some(TransportSlice::Udp(udp)) = sliced.transport else {
            panic!("no UDP");
        };
        let right = udp
            .to_header()
            .calc_checksum_ipv4(&header, udp.payload())
            .unwrap();
        assert_eq!(udp.checksum(), right);
        (ip.header().source_addr(), ip.header().destination_addr())
    }

    #[test]
    fn a_service_is_an_instance_on_the_other_node_and_answers_as_the_service() {
        let far: SocketAddr = "192.0.2.2:50103".parse().unwrap();
        let (here, there) = (table(Some(far)), {
            let near: SocketAddr = "192.0.2.1:50103".parse().unwrap();
            let at = |container, node| Instance { container, node };
            Table::new(
                [(SERVICE, SERVER_NAME)],
                [
                    (CLIENT_NAME, at(CLIENT, Some(near))),
                    (SERVER_NAME, at(SERVER, None)),
                ],
            )
        });
        let mut bytes = packet(CLIENT, SERVICE, (4000, 7));
        assert_eq!(here.leaving(&mut bytes), Some(Onward::To(far)));
        there.arriving(&mut bytes).unwrap();
        assert_eq!(seen(&bytes), (CLIENT_NAME, SERVER));

        let mut answer = packet(SERVER, CLIENT_NAME, (7, 4000));
        assert!(matches!(there.leaving(&mut answer), Some(Onward::To(_))));
        assert_eq!(seen(&answer), (SERVER_NAME, CLIENT));
        here.arriving(&mut answer).unwrap();
        assert_eq!(seen(&answer), (SERVICE, CLIENT));
    }

    #[test]
    fn on_one_node_it_goes_back_into_the_tun() {
        let table = table(None);
        let mut bytes = packet(CLIENT, SERVICE, (4000, 7));
        assert_eq!(table.leaving(&mut bytes), Some(Onward::Here));
        assert_eq!(seen(&bytes), (CLIENT_NAME, SERVER));
        let mut answer = packet(SERVER, CLIENT_NAME, (7, 4000));
        assert_eq!(table.leaving(&mut answer), Some(Onward::Here));
        assert_eq!(seen(&answer), (SERVICE, CLIENT));
    }

    #[test]
    fn what_was_sent_to_the_instance_is_answered_by_the_instance() {
        let table = table(None);
        let mut bytes = packet(CLIENT, SERVER_NAME, (4000, 7));
        table.leaving(&mut bytes).unwrap();
        let mut answer = packet(SERVER, CLIENT_NAME, (7, 4000));
        table.leaving(&mut answer).unwrap();
        assert_eq!(seen(&answer), (SERVER_NAME, CLIENT));
    }

    #[test]
    fn strangers_are_left_out() {
        let table = table(None);
        for (from, to) in [
            (CLIENT, Ipv4Addr::new(10, 30, 9, 9)),
            (Ipv4Addr::new(10, 19, 1, 9), SERVICE),
        ] {
            assert_eq!(table.leaving(&mut packet(from, to, (1, 2))), None);
        }
        assert_eq!(table.leaving(&mut [0x45, 0]), None);
    }
}
