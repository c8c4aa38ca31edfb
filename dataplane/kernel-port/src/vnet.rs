//! `struct virtio_net_hdr`, the kernel's description of an unfinished frame, to [`Offload`] and back.
//!
//! It precedes every frame on packet sockets (`PACKET_VNET_HDR`) and TAPs (`IFF_VNET_HDR`). Its 16-bit
//! fields have the host's byte order there (virtio 1.2 section 5.1.6, "legacy interface"). The kernel
//! checks what we hand in strictly and answers EINVAL for a whole frame; so nothing is guessed here.
//!
//! What comes from a container is not to be trusted either: a process with a packet socket of its own
//! chooses these fields freely. The offsets returned lie inside the frame; whether they agree with its
//! headers is for the pipeline to see.

use dpdk::{L4Checksum, Offload, Segment};

/// Bytes of the header, without `num_buffers`.
pub const LEN: usize = 10;

/// Bytes of an Ethernet header. Frames carry no VLAN tag.
pub const ETHERNET: usize = 14;

const NEEDS_CHECKSUM: u8 = 1;

const SEGMENT_NONE: u8 = 0;
const SEGMENT_TCP4: u8 = 1;
const SEGMENT_UDP_FRAGMENT: u8 = 3;
const SEGMENT_TCP6: u8 = 4;
const SEGMENT_UDP: u8 = 5;
const SEGMENT_ECN: u8 = 0x80;

const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;
const SCTP_CHECKSUM: u16 = 8;

/// What an mbuf can note down, and more than any header that the pipeline walks.
const MAX_L3: u16 = 511;

const TCP_DATA_OFFSET: usize = 12;
const TCP_FLAGS: usize = 13;
const CWR: u8 = 0x80;

/// `struct virtio_net_hdr`; 16-bit fields in host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHeader {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`, with the ECN bit.
    pub segmentation: u8,
    /// Ethernet to L4 header, in bytes; the kernel's own value is only a hint.
    pub header_len: u16,
    /// Payload bytes of each segment.
    pub segment_size: u16,
    /// Where the sum starts, in bytes from the start of the Ethernet header.
    pub checksum_start: u16,
    /// Where its field is, in bytes from `checksum_start`.
    pub checksum_offset: u16,
}

/// Why a frame that arrived cannot be described by an [`Offload`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadVnetHeader {
    /// The checksum field is none of TCP's, UDP's or SCTP's, or lies outside the frame.
    #[error("a partial checksum in an unknown place")]
    Checksum,
    /// UDP fragmentation offload, which the kernel gave up in 4.14.
    #[error("UDP fragmentation offload")]
    UdpFragment,
    /// A segmentation of later kernels, size 0, or one that contradicts the checksum.
    #[error("an unknown segmentation")]
    Segmentation,
}

/// The pipeline asked for something that no header can say. A defect there; the frame is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an offload that contradicts itself or the frame")]
pub struct BadOffload;

impl VnetHeader {
    /// Reads the header from the bytes that the kernel wrote.
    #[must_use]
    pub fn from_bytes(bytes: [u8; LEN]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        VnetHeader {
            flags: bytes[0],
            segmentation: bytes[1],
            header_len: word(2),
            segment_size: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    /// The bytes that the kernel reads.
    #[must_use]
    pub fn to_bytes(self) -> [u8; LEN] {
        let [h0, h1] = self.header_len.to_ne_bytes();
        let [s0, s1] = self.segment_size.to_ne_bytes();
        let [c0, c1] = self.checksum_start.to_ne_bytes();
        let [o0, o1] = self.checksum_offset.to_ne_bytes();
        [
            self.flags,
            self.segmentation,
            h0,
            h1,
            s0,
            s1,
            c0,
            c1,
            o0,
            o1,
        ]
    }

    /// What the pipeline may know of a frame that arrived with this header.
    ///
    /// `frame_len` is the whole frame's length with its Ethernet header; `byte` gives the byte at an
    /// offset into it.
    ///
    /// # Errors
    /// [`BadVnetHeader`] for what the pipeline could not keep right; the frame is to be dropped.
    pub fn offload(
        self,
        frame_len: usize,
        byte: impl Fn(usize) -> Option<u8>,
    ) -> Result<Offload, BadVnetHeader> {
        if self.flags & NEEDS_CHECKSUM == 0 {
            return match self.segmentation {
                SEGMENT_NONE => Ok(Offload::default()),
                SEGMENT_UDP_FRAGMENT => Err(BadVnetHeader::UdpFragment),
                _ => Err(BadVnetHeader::Segmentation),
            };
        }
        let start = usize::from(self.checksum_start);
        let l3_len = start
            .checked_sub(ETHERNET)
            .and_then(|len| u16::try_from(len).ok())
            .filter(|&len| (1..=MAX_L3).contains(&len))
            .ok_or(BadVnetHeader::Checksum)?;
        let (checksum, header) = match self.checksum_offset {
            TCP_CHECKSUM => {
                let words = byte(start + TCP_DATA_OFFSET).ok_or(BadVnetHeader::Checksum)? >> 4;
                (L4Checksum::PartialTcp, words * 4)
            }
            UDP_CHECKSUM => (L4Checksum::PartialUdp, 8),
            SCTP_CHECKSUM => (L4Checksum::PartialSctp, 12),
            _ => return Err(BadVnetHeader::Checksum),
        };
        if start + usize::from(self.checksum_offset) + 2 > frame_len {
            return Err(BadVnetHeader::Checksum);
        }
        let segment = match (self.segmentation & !SEGMENT_ECN, checksum) {
            (SEGMENT_NONE, _) => Segment::None,
            (SEGMENT_UDP_FRAGMENT, _) => return Err(BadVnetHeader::UdpFragment),
            _ if self.segment_size == 0 => return Err(BadVnetHeader::Segmentation),
            (SEGMENT_TCP4 | SEGMENT_TCP6, L4Checksum::PartialTcp) => Segment::Tcp {
                mss: self.segment_size,
            },
            (SEGMENT_UDP, L4Checksum::PartialUdp) => Segment::Udp {
                size: self.segment_size,
            },
            _ => return Err(BadVnetHeader::Segmentation),
        };
        Ok(Offload {
            checksum,
            segment,
            l3_len,
            l4_len: header,
        })
    }

    /// The header for a frame of the pipeline, which starts with an Ethernet header.
    ///
    /// # Errors
    /// [`BadOffload`] for a segmentation without its partial checksum or with size 0, and for offsets
    /// outside the frame.
    pub fn of(
        offload: Offload,
        frame_len: usize,
        byte: impl Fn(usize) -> Option<u8>,
    ) -> Result<VnetHeader, BadOffload> {
        let checksum_offset = match offload.checksum {
            L4Checksum::Complete if offload.segment == Segment::None => {
                return Ok(VnetHeader::default());
            }
            L4Checksum::Complete => return Err(BadOffload),
            L4Checksum::PartialTcp => TCP_CHECKSUM,
            L4Checksum::PartialUdp => UDP_CHECKSUM,
            L4Checksum::PartialSctp => SCTP_CHECKSUM,
        };
        let start = ETHERNET + usize::from(offload.l3_len);
        if offload.l3_len == 0 || start + usize::from(checksum_offset) + 2 > frame_len {
            return Err(BadOffload);
        }
        let (segmentation, segment_size, l4_len) = match (offload.segment, offload.checksum) {
            (Segment::None, _) => (SEGMENT_NONE, 0, offload.l4_len),
            (Segment::Tcp { mss: 0 } | Segment::Udp { size: 0 }, _) => return Err(BadOffload),
            (Segment::Tcp { mss }, L4Checksum::PartialTcp) => {
                let version = byte(ETHERNET).ok_or(BadOffload)? >> 4;
                let flags = byte(start + TCP_FLAGS).ok_or(BadOffload)?;
                let words = byte(start + TCP_DATA_OFFSET).ok_or(BadOffload)? >> 4;
                let kind = match version {
                    4 => SEGMENT_TCP4,
                    6 => SEGMENT_TCP6,
                    _ => return Err(BadOffload),
                };
                let ecn = if flags & CWR == 0 { 0 } else { SEGMENT_ECN };
                (kind | ecn, mss, words * 4)
            }
            (Segment::Udp { size }, L4Checksum::PartialUdp) => (SEGMENT_UDP, size, 8),
            _ => return Err(BadOffload),
        };
        let header_len = start + usize::from(l4_len);
        if header_len > frame_len {
            return Err(BadOffload);
        }
        Ok(VnetHeader {
            flags: NEEDS_CHECKSUM,
            segmentation,
            header_len: if segmentation == SEGMENT_NONE {
                0
            } else {
                u16::try_from(header_len).map_err(|_| BadOffload)?
            },
            segment_size,
            checksum_start: u16::try_from(start).map_err(|_| BadOffload)?,
            checksum_offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of zeros with an IP version and, at `l4`, a TCP header of 32 bytes with `flags`.
    fn frame(version: u8, l4: usize, flags: u8) -> Vec<u8> {
        let mut frame = vec![0; 3000];
        frame[ETHERNET] = version << 4;
        frame[l4 + TCP_DATA_OFFSET] = 8 << 4;
        frame[l4 + TCP_FLAGS] = flags;
        frame
    }

    fn read(header: VnetHeader, frame: &[u8]) -> Result<Offload, BadVnetHeader> {
        header.offload(frame.len(), |at| frame.get(at).copied())
    }

    fn write(offload: Offload, frame: &[u8]) -> Result<VnetHeader, BadOffload> {
        VnetHeader::of(offload, frame.len(), |at| frame.get(at).copied())
    }

    fn roundtrip(header: VnetHeader, frame: &[u8]) -> Offload {
        let offload = read(header, frame).unwrap();
        assert_eq!(write(offload, frame).unwrap(), header);
        assert_eq!(VnetHeader::from_bytes(header.to_bytes()), header);
        offload
    }

    #[test]
    fn a_finished_frame_has_a_header_of_zeros() {
        let frame = frame(4, 34, 0);
        assert_eq!(roundtrip(VnetHeader::default(), &frame), Offload::default());
        // DATA_VALID: the kernel vouches for the checksum; nothing is left to do.
        let verified = VnetHeader {
            flags: 2,
            ..VnetHeader::default()
        };
        assert_eq!(read(verified, &frame), Ok(Offload::default()));
    }

    #[test]
    fn partial_checksums_name_their_protocol() {
        for (offset, checksum, l4_len) in [
            (16, L4Checksum::PartialTcp, 32),
            (6, L4Checksum::PartialUdp, 8),
            (8, L4Checksum::PartialSctp, 12),
        ] {
            for l3_len in [20, 40, 60, 104] {
                let frame = frame(4, ETHERNET + usize::from(l3_len), 0);
                let offload = roundtrip(
                    VnetHeader {
                        flags: NEEDS_CHECKSUM,
                        checksum_start: l3_len + 14,
                        checksum_offset: offset,
                        ..VnetHeader::default()
                    },
                    &frame,
                );
                let expected = Offload {
                    checksum,
                    segment: Segment::None,
                    l3_len,
                    l4_len,
                };
                assert_eq!(offload, expected);
            }
        }
    }

    #[test]
    fn tcp_segmentation_keeps_family_and_congestion_bit() {
        for (version, l3_len, kind) in [(4, 20, SEGMENT_TCP4), (6, 40, SEGMENT_TCP6)] {
            for (flags, ecn) in [(0x10, 0), (0x90, SEGMENT_ECN)] {
                let frame = frame(version, 14 + usize::from(l3_len), flags);
                let header = VnetHeader {
                    flags: NEEDS_CHECKSUM,
                    segmentation: kind | ecn,
                    header_len: 14 + l3_len + 32,
                    segment_size: 1400,
                    checksum_start: 14 + l3_len,
                    checksum_offset: TCP_CHECKSUM,
                };
                let offload = roundtrip(header, &frame);
                assert_eq!(offload.segment, Segment::Tcp { mss: 1400 });
                assert_eq!(offload.l4_len, 32);
            }
        }
    }

    #[test]
    fn udp_segmentation_survives() {
        let frame = frame(6, 54, 0);
        let header = VnetHeader {
            flags: NEEDS_CHECKSUM,
            segmentation: SEGMENT_UDP,
            header_len: 62,
            segment_size: 1200,
            checksum_start: 54,
            checksum_offset: UDP_CHECKSUM,
        };
        let offload = roundtrip(header, &frame);
        assert_eq!(offload.segment, Segment::Udp { size: 1200 });
    }

    #[test]
    fn what_cannot_be_kept_right_is_refused_by_name() {
        let frame = frame(4, 34, 0);
        let good = VnetHeader {
            flags: NEEDS_CHECKSUM,
            segmentation: SEGMENT_TCP4,
            header_len: 66,
            segment_size: 1400,
            checksum_start: 34,
            checksum_offset: TCP_CHECKSUM,
        };
        assert!(read(good, &frame).is_ok());
        let cases = [
            (
                BadVnetHeader::UdpFragment,
                VnetHeader {
                    segmentation: 3,
                    ..good
                },
            ),
            (
                BadVnetHeader::UdpFragment,
                VnetHeader {
                    segmentation: 3,
                    flags: 0,
                    ..good
                },
            ),
            (
                BadVnetHeader::Segmentation,
                VnetHeader {
                    segmentation: 2,
                    ..good
                },
            ),
            (
                BadVnetHeader::Segmentation,
                VnetHeader {
                    segmentation: 0x41,
                    ..good
                },
            ),
            (
                BadVnetHeader::Segmentation,
                VnetHeader {
                    segmentation: SEGMENT_UDP,
                    ..good
                },
            ),
            (BadVnetHeader::Segmentation, VnetHeader { flags: 0, ..good }),
            (
                BadVnetHeader::Segmentation,
                VnetHeader {
                    segment_size: 0,
                    ..good
                },
            ),
            (
                BadVnetHeader::Checksum,
                VnetHeader {
                    checksum_offset: 2,
                    ..good
                },
            ),
            (
                BadVnetHeader::Checksum,
                VnetHeader {
                    checksum_start: 14,
                    ..good
                },
            ),
            (
                BadVnetHeader::Checksum,
                VnetHeader {
                    checksum_start: 3,
                    ..good
                },
            ),
            (
                BadVnetHeader::Checksum,
                VnetHeader {
                    checksum_start: 2990,
                    ..good
                },
            ),
            (
                BadVnetHeader::Checksum,
                VnetHeader {
                    checksum_start: u16::MAX,
                    ..good
                },
            ),
        ];
        for (why, header) in cases {
            assert_eq!(read(header, &frame), Err(why), "{header:?}");
        }
    }

    #[test]
    fn a_contradicting_offload_is_refused() {
        let frame = frame(4, 34, 0);
        let good = Offload {
            checksum: L4Checksum::PartialTcp,
            segment: Segment::Tcp { mss: 1400 },
            l3_len: 20,
            l4_len: 32,
        };
        assert!(write(good, &frame).is_ok());
        for bad in [
            Offload {
                checksum: L4Checksum::Complete,
                ..good
            },
            Offload {
                checksum: L4Checksum::PartialUdp,
                ..good
            },
            Offload {
                segment: Segment::Tcp { mss: 0 },
                ..good
            },
            Offload {
                segment: Segment::Udp { size: 9 },
                ..good
            },
            Offload { l3_len: 0, ..good },
            Offload {
                l3_len: 2990,
                ..good
            },
            Offload {
                l3_len: u16::MAX,
                ..good
            },
        ] {
            assert_eq!(write(bad, &frame), Err(BadOffload), "{bad:?}");
        }
        assert_eq!(write(good, &frame[..60]), Err(BadOffload));
    }
}
