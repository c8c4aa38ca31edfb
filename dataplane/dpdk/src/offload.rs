//! What is still to be done to a packet before it may leave the host: finish a checksum, cut segments.
//!
//! The kernel and virtual NICs hand over packets larger than any MTU whose checksum field holds only the
//! pseudo-header's sum. That state is part of the packet: a stage that lost it would send garbage. It lives
//! in the mbuf's own TX fields, so that a device with these offloads can take the mbuf as it is.

use dpdk_sys as sys;

/// Work left for whoever sends the packet. Lengths count from the start of the IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// What the L4 checksum field holds.
    pub checksum: L4Checksum,
    /// Whether the packet stands for several, and how large these are.
    pub segment: Segment,
    /// IP header in bytes, with options or extension headers, up to L4. 0 = unknown. An mbuf has 9 bits
    /// for it: more than 511 is stored as 0.
    pub l3_len: u16,
    /// L4 header in bytes. 0 = unknown.
    pub l4_len: u8,
}

/// What the L4 checksum field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum L4Checksum {
    /// A finished checksum (or none, where the protocol has none).
    #[default]
    Complete,
    /// TCP: the folded sum of the pseudo-header, not complemented (virtio `NEEDS_CSUM`, DPDK `TX_*_CKSUM`).
    PartialTcp,
    /// UDP: as `PartialTcp`.
    PartialUdp,
    /// SCTP: the CRC32c is not there yet.
    PartialSctp,
}

/// Whether a packet stands for several.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Segment {
    /// One packet.
    #[default]
    None,
    /// A TCP packet to be cut.
    Tcp {
        /// Payload bytes per segment.
        mss: u16,
    },
    /// A UDP packet to be cut into datagrams (not IP fragments).
    Udp {
        /// Payload bytes per datagram.
        size: u16,
    },
}

/// What a device left to do of a packet that it received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Landed {
    /// The L4 checksum field holds the pseudo-header's sum, as with virtio's `NEEDS_CSUM`.
    Partial,
    /// As `Partial`, and the packet is TCP to be cut into so many payload bytes per segment.
    Joined(u16),
}

/// The bits of `ol_flags` that an [`Offload`] owns.
pub(crate) const REQUESTS: u64 =
    sys::RTE_MBUF_F_TX_L4_MASK | sys::RTE_MBUF_F_TX_TCP_SEG | sys::RTE_MBUF_F_TX_UDP_SEG;

const L3_SHIFT: u32 = 7;
const L4_SHIFT: u32 = L3_SHIFT + 9;
const SIZE_SHIFT: u32 = L4_SHIFT + 8;
/// The L2 length (7 bits) and the tunnel lengths behind the segment size belong to others.
pub(crate) const LENGTHS: u64 = ((1 << (SIZE_SHIFT + 16)) - 1) & !((1 << L3_SHIFT) - 1);

/// The segment size in `tx_offload`.
#[inline]
#[allow(clippy::cast_possible_truncation)] // Cut to the width of the bit field.
pub(crate) fn size(tx_offload: u64) -> u16 {
    (tx_offload >> SIZE_SHIFT) as u16
}

impl Offload {
    /// The bits for `ol_flags` and for `tx_offload`.
    #[inline]
    pub(crate) fn pack(self) -> (u64, u64) {
        let checksum = match self.checksum {
            L4Checksum::Complete => 0,
            L4Checksum::PartialTcp => sys::RTE_MBUF_F_TX_TCP_CKSUM,
            L4Checksum::PartialUdp => sys::RTE_MBUF_F_TX_UDP_CKSUM,
            L4Checksum::PartialSctp => sys::RTE_MBUF_F_TX_SCTP_CKSUM,
        };
        let (segment, size) = match self.segment {
            Segment::None => (0, 0),
            Segment::Tcp { mss } => (sys::RTE_MBUF_F_TX_TCP_SEG, mss),
            Segment::Udp { size } => (sys::RTE_MBUF_F_TX_UDP_SEG, size),
        };
        let l3_len = if self.l3_len < 1 << (L4_SHIFT - L3_SHIFT) {
            self.l3_len
        } else {
            0
        };
        let lengths = u64::from(l3_len) << L3_SHIFT
            | u64::from(self.l4_len) << L4_SHIFT
            | u64::from(size) << SIZE_SHIFT;
        (checksum | segment, lengths)
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // Cut to the width of the bit field.
    pub(crate) fn unpack(ol_flags: u64, tx_offload: u64) -> Self {
        let size = size(tx_offload);
        Self {
            checksum: match ol_flags & sys::RTE_MBUF_F_TX_L4_MASK {
                sys::RTE_MBUF_F_TX_TCP_CKSUM => L4Checksum::PartialTcp,
                sys::RTE_MBUF_F_TX_UDP_CKSUM => L4Checksum::PartialUdp,
                sys::RTE_MBUF_F_TX_SCTP_CKSUM => L4Checksum::PartialSctp,
                _ => L4Checksum::Complete,
            },
            segment: if ol_flags & sys::RTE_MBUF_F_TX_TCP_SEG != 0 {
                Segment::Tcp { mss: size }
            } else if ol_flags & sys::RTE_MBUF_F_TX_UDP_SEG != 0 {
                Segment::Udp { size }
            } else {
                Segment::None
            },
            l3_len: (tx_offload >> L3_SHIFT) as u16 & 0x1ff,
            l4_len: (tx_offload >> L4_SHIFT) as u8,
        }
    }
}
