//! What is still to be done to a packet, in the words of both crates that say so.

use dpdk::{L4Checksum, Mbuf, Offload, Segment};
use net::packet::{Fragment, Headers, Protocol};
use net::rewrite::L4State;

/// What the checksum field of a received packet holds, as `net` wants to know it.
#[inline(always)]
#[must_use]
pub fn l4_state(mbuf: &Mbuf) -> L4State {
    match mbuf.offload().checksum {
        L4Checksum::Complete => L4State::Finished,
        L4Checksum::PartialTcp | L4Checksum::PartialUdp | L4Checksum::PartialSctp => {
            L4State::Partial
        }
    }
}

/// The smallest segment size that Linux sends (`TCP_MIN_SND_MSS`). Below it, one frame of a hostile container would
/// have the node make tens of thousands of pieces.
const MSS_MIN: u16 = 48;
/// Datagrams in one message (Linux: `UDP_MAX_SEGMENTS`).
const DATAGRAMS_MAX: usize = 128;

/// Whether the work that is left to do fits the packet: the right protocol, and the transport header where it is.
#[inline(always)]
#[must_use]
pub fn agrees(mbuf: &Mbuf, headers: &Headers) -> bool {
    let offload = mbuf.offload();
    if offload == Offload::default() {
        return true;
    }
    let checksum = match offload.checksum {
        L4Checksum::Complete => true,
        L4Checksum::PartialTcp => headers.protocol == Protocol::TCP,
        L4Checksum::PartialUdp => headers.protocol == Protocol::UDP,
        L4Checksum::PartialSctp => headers.protocol == Protocol::SCTP,
    };
    let segment = match offload.segment {
        Segment::None => true,
        Segment::Tcp { mss } => mss >= MSS_MIN && headers.protocol == Protocol::TCP,
        Segment::Udp { size } => {
            headers.payload_len() <= usize::from(size) * DATAGRAMS_MAX
                && headers.protocol == Protocol::UDP
        }
    };
    let partial = offload.checksum != L4Checksum::Complete;
    checksum
        && segment
        && (!partial || (offload.l3_len == headers.l4_offset && headers.fragment == Fragment::None))
        && (offload.segment == Segment::None || partial)
}

/// The offload of a joined packet: cut it again by `size`, and finish the checksums then.
#[must_use]
pub fn joined(headers: &Headers, size: usize) -> Offload {
    let size = u16::try_from(size).unwrap_or(u16::MAX);
    let l4_len =
        u8::try_from(usize::from(headers.header_len) - usize::from(headers.l4_offset)).unwrap_or(0);
    let tcp = headers.protocol == Protocol::TCP;
    Offload {
        checksum: if tcp {
            L4Checksum::PartialTcp
        } else {
            L4Checksum::PartialUdp
        },
        segment: if tcp {
            Segment::Tcp { mss: size }
        } else {
            Segment::Udp { size }
        },
        l3_len: headers.l4_offset,
        l4_len,
    }
}
