//! What routers say about our datagrams: "fragmentation needed" (RFC 1191) and "packet too big" (RFC 8201).
//!
//! Anyone can send such a message. It counts only if it quotes a datagram that this node sends: from our address and
//! port, to a tunnel endpoint that the route table knows, and if it makes the path narrower than it is known to be. A
//! forged one that is that well informed can cost no more than the floor allows.

use dpdk::Mbuf;
use net::icmp;
use net::ipv4;
use net::packet::{Fragment, Headers, Protocol, Version};

use super::outer::FLOOR_V4;
use super::{Hop, PathReport};
use crate::tables::Tables;

/// No IPv6 path may carry less (RFC 8200 section 5), and who says otherwise is not believed (RFC 8201 section 4).
const LEAST_V6: u32 = 1280;

/// What old routers' silence about the MTU is taken for: the next of the sizes that links have (RFC 1191 section 7).
const PLATEAUS: [u16; 9] = [32_000, 17_914, 8166, 4352, 2002, 1492, 1280, 1006, FLOOR_V4];

/// Reads an ICMP error, an IP packet: `None` when it does not say that one of our datagrams was too big.
pub(super) fn read(
    tables: &Tables,
    tunnel_port: u16,
    mut packet: Mbuf,
    headers: &Headers,
) -> Option<PathReport> {
    let length = packet.pkt_len().min(1280);
    if !packet.pull_up(length) {
        return None;
    }
    let l3 = packet.data();
    let message = l3.get(usize::from(headers.l4_offset)..)?;
    let said = icmp::reported_mtu(message, headers.version == Version::V6)?;
    let quoted = headers.quoted(l3).ok()?;
    let hop = Hop::towards(tables, quoted.destination)?;
    let ours = quoted.source == headers.destination
        && quoted.source == hop.source
        && quoted.protocol == Protocol::UDP
        // A later fragment has no ports to know it by, but the first one was as long.
        && matches!(quoted.fragment, Fragment::None | Fragment::First { .. })
        && quoted.source_port == tunnel_port
        && tables.endpoint_of(quoted.destination).is_some();
    let mtu = match headers.version {
        Version::V6 => u16::try_from(said).ok().filter(|_| said >= LEAST_V6)?,
        Version::V4 if said == 0 => {
            let sent = ipv4::Header::of(l3.get(usize::from(quoted.offset)..)?)?.total_len();
            PLATEAUS.into_iter().find(|&size| size < sent)?
        }
        Version::V4 => u16::try_from(said).ok()?.max(FLOOR_V4),
    };
    (ours && mtu < hop.path).then_some(PathReport {
        host: quoted.destination,
        mtu,
    })
}
