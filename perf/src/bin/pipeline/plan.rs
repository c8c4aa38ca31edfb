//! What is laid out for every case: one container, a thousand services of ten instances, ten other hosts; and the
//! capture that is replayed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, Result};
use dataplane::pipeline::GATEWAY_MAC;
use dataplane::{InstanceRoute, JobRoutes, Pair, Policy, ServiceAddress};
use net::Address;
use net::ethernet::{self, EtherType, Mac};

/// Services.
pub const SERVICES: u32 = 1000;
/// Instances of each.
pub const INSTANCES: u32 = 10;
/// Hosts that the instances run on.
pub const HOSTS: u32 = 10;
/// UDP port of the tunnel.
pub const TUNNEL_PORT: u16 = 50103;
/// This node's address on the underlay.
pub const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
/// MAC addresses of container, uplink and next hop.
pub const CONTAINER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// The uplink's.
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The next hop's.
pub const NEXT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn v4(base: u32, n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(base + n)
}

fn v6(first: u16, second: u16, n: u32) -> Ipv6Addr {
    let [a, b, c, d] = n.to_be_bytes();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Ipv6Addr::new(first, second, 0, 0, 0, 0, high, low)
}

/// The namespace IPs of container `n` of this node.
#[must_use]
pub fn container(n: u32) -> Pair {
    Pair::new(Some(v4(0x0a12_0002, n)), Some(v6(0xfc00, 0, 2 + n)))
}

/// Its Instance IPs.
#[must_use]
pub fn own_instance(n: u32) -> Pair {
    Pair::new(Some(v4(0x0a1e_fd00, n)), Some(v6(0xfdff, 0, 0xfd00 + n)))
}

/// A service's round-robin addresses.
#[must_use]
pub fn service(n: u32) -> Pair {
    Pair::new(Some(v4(0x0a1e_0000, n)), Some(v6(0xfdff, 0x2000, n)))
}

/// An instance's namespace IPs.
#[must_use]
pub fn namespace(id: u32) -> Pair {
    Pair::new(Some(v4(0x0a13_0000, id)), Some(v6(0xfc01, 0, id)))
}

/// An instance's Instance IPs.
#[must_use]
pub fn instance(id: u32) -> Pair {
    Pair::new(Some(v4(0x0a1e_4000, id)), Some(v6(0xfdff, 1, id)))
}

/// A host's address on the underlay.
#[must_use]
pub fn host(n: u32) -> Ipv4Addr {
    v4(0xc0a8_0002, n % HOSTS)
}

/// The routes of a service, without the instances in `less`.
#[must_use]
pub fn job(n: u32, less: &[u32]) -> JobRoutes {
    let instances = (0..INSTANCES)
        .filter(|i| !less.contains(i))
        .map(|i| {
            let id = n * INSTANCES + i;
            InstanceRoute {
                number: i,
                namespace: namespace(id),
                instance: instance(id),
                services: vec![ServiceAddress {
                    policy: Policy::RoundRobin,
                    addresses: service(n),
                }],
                host: (host(i), TUNNEL_PORT).into(),
                weight: 1,
                draining: false,
                load: None,
            }
        })
        .collect();
    JobRoutes {
        job: format!("bench.perf.s{n}.default"),
        instances,
    }
}

/// The containers' own job.
#[must_use]
pub fn own_job(containers: u32) -> JobRoutes {
    let instance = |n| InstanceRoute {
        number: n,
        namespace: container(n),
        instance: own_instance(n),
        services: Vec::new(),
        host: (OWN, TUNNEL_PORT).into(),
        weight: 1,
        draining: false,
        load: None,
    };
    JobRoutes {
        job: "bench.perf.client.default".to_owned(),
        instances: (0..containers).map(instance).collect(),
    }
}

/// A job that nobody sends to, over IPv6 alone: the IPv4 pool ends long before a million instances.
#[must_use]
pub fn far_job(n: u32) -> JobRoutes {
    let instance = |i| {
        let id = n * INSTANCES + i;
        InstanceRoute {
            number: i,
            namespace: Pair::new(None, Some(v6(0xfc02, 0, id))),
            instance: Pair::new(None, Some(v6(0xfdff, 2, id))),
            services: vec![ServiceAddress {
                policy: Policy::RoundRobin,
                addresses: Pair::new(None, Some(v6(0xfdff, 0x2001, n))),
            }],
            host: (host(i), TUNNEL_PORT).into(),
            weight: 1,
            draining: false,
            load: None,
        }
    };
    JobRoutes {
        job: format!("bench.perf.far{n}.default"),
        instances: (0..INSTANCES).map(instance).collect(),
    }
}

/// What the frames of a capture are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// From the container to the services.
    Out {
        /// IPv6.
        v6: bool,
    },
    /// From other hosts' instances to the container, in the tunnel over IPv4.
    In {
        /// IPv6 inside.
        v6: bool,
    },
}

fn udp_packet(source: Address, destination: Address, ports: (u16, u16), payload: usize) -> Vec<u8> {
    let udp_len = u16::try_from(payload + 8).unwrap_or(u16::MAX);
    let mut packet = if source.is_v4() {
        let build = net::ipv4::Build {
            source,
            destination,
            protocol: 17,
            ttl: 64,
            tos: 0,
            id: 0,
            dont_fragment: true,
            total_len: udp_len + 20,
        };
        build.to_bytes().to_vec()
    } else {
        let build = net::ipv6::Build {
            source,
            destination,
            next_header: 17,
            hop_limit: 64,
            traffic_class: 0,
            flow_label: 0,
            payload_len: udp_len,
        };
        build.to_bytes().to_vec()
    };
    let body = vec![0; payload];
    let header = net::udp::header(ports.0, ports.1, udp_len, 0);
    let sum = net::checksum::add(
        net::checksum::pseudo_header(source, destination, 17, usize::from(udp_len)),
        net::checksum::sum(&header),
    );
    let checksum = net::checksum::udp_field(!sum);
    packet.extend(net::udp::header(ports.0, ports.1, udp_len, checksum));
    packet.extend(body);
    packet
}

fn pick(pair: Pair, v6: bool) -> Address {
    let missing = std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let address = match v6 {
        true => pair.v6.map(Into::into),
        false => pair.v4.map(Into::into),
    };
    address.unwrap_or(missing).into()
}

/// Frame number `n` of a capture from or to a container: as short as Ethernet allows, or as the headers need.
#[must_use]
pub fn frame(frames: Frames, at: u32, n: u32) -> Vec<u8> {
    // Ports that differ for each flow of one service.
    let high = u16::try_from(n / 60_000).unwrap_or(0);
    let low = u16::try_from(n % 60_000).unwrap_or(0);
    let ports = (1024 + low, 1000 + high);
    let (packet, to, from) = match frames {
        Frames::Out { v6 } => {
            let to = pick(service(n % SERVICES), v6);
            let room = if v6 { 0 } else { 18 };
            let packet = udp_packet(pick(container(at), v6), to, ports, room);
            (packet, GATEWAY_MAC, Mac(CONTAINER_MAC))
        }
        Frames::In { v6 } => {
            let id = n % (SERVICES * INSTANCES);
            let source = pick(instance(id), v6);
            let inner = udp_packet(source, pick(container(at), v6), ports, 18);
            let outer_source = Address::from(std::net::IpAddr::from(host(id % INSTANCES)));
            let own = Address::from(std::net::IpAddr::from(OWN));
            let mut outer = udp_packet(outer_source, own, (TUNNEL_PORT, TUNNEL_PORT), inner.len());
            // RFC 768: no checksum, as the tunnel sends it over IPv4.
            outer.truncate(26);
            outer.extend([0, 0]);
            outer.extend(inner);
            (outer, Mac(UPLINK_MAC), Mac(NEXT_MAC))
        }
    };
    let v6 = matches!(frames, Frames::Out { v6: true });
    let header = ethernet::Header {
        destination: to,
        source: from,
        ethertype: if v6 { EtherType::IPV6 } else { EtherType::IPV4 },
    };
    let mut frame = header.to_bytes().to_vec();
    frame.extend(packet);
    frame
}

/// Whom a frame with an IPv4 packet in the tunnel over IPv4 is for, inside.
#[must_use]
pub fn receiver(frame: &[u8]) -> Option<Ipv4Addr> {
    // Ethernet, IP and UDP headers, and the destination at the end of the inner header.
    let at = ethernet::HEADER_LEN + 20 + 8;
    let inner = frame.get(at..at + 20)?;
    let bytes: [u8; 4] = inner.get(16..)?.try_into().ok()?;
    (inner.first() == Some(&0x45)).then_some(bytes.into())
}

/// Writes a capture (pcap) of `flows` frames from or to a container.
///
/// # Errors
/// When the file cannot be written.
pub fn write_capture(path: &Path, frames: Frames, container: u32, flows: u32) -> Result<()> {
    let mut file = BufWriter::new(File::create(path).context("making the capture")?);
    // pcap's global header: microseconds, version 2.4, 64 KB at most, Ethernet.
    let words = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1];
    for word in words {
        file.write_all(&word.to_ne_bytes())?;
    }
    for n in 0..flows {
        let frame = frame(frames, container, n);
        let length = u32::try_from(frame.len())?.to_ne_bytes();
        for word in [[0; 4], [0; 4], length, length] {
            file.write_all(&word)?;
        }
        file.write_all(&frame)?;
    }
    file.flush().context("writing the capture")
}
