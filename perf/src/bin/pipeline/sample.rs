//! A look at what left: a fast wrong answer must not count.
//!
//! Some hundred packets are copied at the port that sends them and read by another implementation of the protocols.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dataplane::{CaptureOptions, CapturePort, Handle, Pair};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::plan;

/// Packets that are looked at.
const PACKETS: usize = 512;

/// What the headers of a packet say.
struct Seen<'a> {
    source: IpAddr,
    destination: IpAddr,
    ports: (u16, u16),
    payload: &'a [u8],
}

fn read(l3: &[u8]) -> Result<Seen<'_>> {
    let packet = SlicedPacket::from_ip(l3).context("no IP packet")?;
    let Some(TransportSlice::Udp(udp)) = &packet.transport else {
        bail!("no UDP");
    };
    let (source, destination, right): (IpAddr, IpAddr, _) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            ensure!(
                header.header_checksum == header.calc_header_checksum(),
                "a wrong IPv4 header checksum"
            );
            ensure!(
                usize::from(header.total_len) <= l3.len(),
                "a total length beyond the frame"
            );
            let right = udp.to_header().calc_checksum_ipv4(&header, udp.payload())?;
            (
                Ipv4Addr::from(header.source).into(),
                Ipv4Addr::from(header.destination).into(),
                right,
            )
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header().to_header();
            let right = udp.to_header().calc_checksum_ipv6(&header, udp.payload())?;
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                right,
            )
        }
        _ => bail!("no IP header"),
    };
    // RFC 768: none over IPv4 is allowed.
    let none = udp.checksum() == 0 && source.is_ipv4();
    ensure!(
        none || udp.checksum() == right,
        "a wrong UDP checksum: {:#06x} for {right:#06x}",
        udp.checksum()
    );
    Ok(Seen {
        source,
        destination,
        ports: (udp.source_port(), udp.destination_port()),
        payload: udp.payload(),
    })
}

fn is(pair: Pair, address: IpAddr) -> bool {
    pair.iter().any(|one| one == address)
}

/// The number of the instance that has this namespace address, or this Instance IP.
fn instance(address: IpAddr, of: fn(u32) -> Pair) -> Option<u32> {
    let first = of(0).iter().find(|a| a.is_ipv4() == address.is_ipv4())?;
    let id = match (address, first) {
        (IpAddr::V4(a), IpAddr::V4(first)) => a.to_bits().checked_sub(first.to_bits())?,
        (IpAddr::V6(a), IpAddr::V6(first)) => {
            u32::try_from(a.to_bits().checked_sub(first.to_bits())?).ok()?
        }
        _ => return None,
    };
    (id < plan::SERVICES * plan::INSTANCES && is(of(id), address)).then_some(id)
}

/// Outwards: from one of our containers' Instance IPs to an instance, in a datagram to that instance's host. The service
/// and the instance, and the ports.
fn outward(frame: &[u8]) -> Result<(u32, u32, (u16, u16))> {
    let (ethernet, l3) = frame.split_at_checked(14).context("a short frame")?;
    ensure!(
        ethernet.starts_with(&plan::NEXT_MAC) && ethernet.get(6..12) == Some(&plan::UPLINK_MAC),
        "wrong MAC addresses"
    );
    let outer = read(l3)?;
    ensure!(
        outer.source == IpAddr::from(plan::OWN)
            && outer.ports == (plan::TUNNEL_PORT, plan::TUNNEL_PORT),
        "it does not come from our tunnel port"
    );
    let inner = read(outer.payload)?;
    ensure!(
        (0..2).any(|n| is(plan::own_instance(n), inner.source)),
        "{} is not our container's Instance IP",
        inner.source
    );
    let id = instance(inner.destination, plan::namespace)
        .with_context(|| format!("{} is no instance", inner.destination))?;
    ensure!(
        outer.destination == IpAddr::from(plan::host(id % plan::INSTANCES)),
        "instance {id} does not run on {}",
        outer.destination
    );
    Ok((id / plan::INSTANCES, id, inner.ports))
}

/// Inwards: what another node sent, to our container.
fn inward(frame: &[u8]) -> Result<()> {
    let (ethernet, l3) = frame.split_at_checked(14).context("a short frame")?;
    ensure!(
        ethernet.starts_with(&plan::CONTAINER_MAC),
        "wrong MAC addresses"
    );
    let inner = read(l3)?;
    ensure!(
        is(plan::container(0), inner.destination)
            && instance(inner.source, plan::instance).is_some(),
        "{} to {} is not what was sent",
        inner.source,
        inner.destination
    );
    Ok(())
}

/// Looks at packets that leave. With `affinity`, packets of one flow must go to one instance.
///
/// # Errors
/// When one of them is not what it should be, or none leaves.
pub fn check(handle: &Handle, inwards: bool, affinity: bool) -> Result<()> {
    let port = (!inwards).then_some(CapturePort::Uplink);
    let mut capture = handle.capture(CaptureOptions { port, snaplen: 256 })?;
    let deadline = Instant::now() + Duration::from_secs(5);
    let (mut copies, mut seen) = (Vec::new(), 0);
    let mut flows = HashMap::new();
    while seen < PACKETS {
        ensure!(
            Instant::now() < deadline,
            "only {seen} packets were seen to leave"
        );
        capture.read(&mut copies);
        for copy in copies.drain(..).filter(|copy| copy.outgoing) {
            seen += 1;
            if inwards {
                inward(&copy.bytes)?;
                continue;
            }
            let (service, id, ports) = outward(&copy.bytes)?;
            let before = *flows.entry((service, ports)).or_insert(id);
            ensure!(
                before == id || !affinity,
                "a flow went to instance {before} and then to {id}"
            );
        }
    }
    Ok(())
}
