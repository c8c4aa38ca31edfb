//! One worker's queues of an ethdev port that plays the access or the host role, and what the device cannot do for it.
//!
//! A packet of ours may want its checksum finished, or stand for several. Ports by DPDK promise too different things
//! here to leave it to them: it is done before the packet is handed over, but for the one device whose terms are the
//! kernel's own (virtio).

use dpdk::{Burst, L4Checksum, Mbuf, Mempool, Offload, RxQueue, Segment, TxQueue};
use kernel_port::Sent;
use net::ethernet::{self, EtherType};
use net::finish;
use net::packet::Headers;

use crate::tunnel;

/// Packets that wait for a flush, and that one poll of a port takes.
const BURST: usize = 64;
/// Further tries when a port takes only some of a burst.
const RETRIES: usize = 4;

/// The queues.
#[derive(Debug)]
pub struct Plugged {
    /// The port's number.
    pub(crate) number: u32,
    rx: RxQueue,
    tx: TxQueue,
    takes_chains: bool,
    takes_unfinished: bool,
    /// Bytes of a frame at most, Ethernet header included.
    longest: usize,
    small: Mempool,
    outbox: Burst<BURST>,
    sent: Sent,
    pieces: usize,
    /// Frames that were not sent, for who asks by port.
    pub(crate) refused: usize,
}

/// What a port that is plugged in can do.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// It sends packets of several segments.
    pub takes_chains: bool,
    /// It takes TCP and UDP with unfinished checksums, and TCP that is to be cut, as virtio has them.
    pub takes_unfinished: bool,
    /// Its MTU, in bytes of an IP packet.
    pub mtu: u16,
}

/// What became of frames that were pushed since the flush before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flushed {
    /// Sent or not.
    pub sent: Sent,
    /// Pieces beyond the first of frames that had to be cut.
    pub pieces: usize,
}

impl Plugged {
    /// A port's queues under its number.
    #[must_use]
    pub fn new(
        number: u32,
        queues: (RxQueue, TxQueue),
        abilities: Abilities,
        small: Mempool,
    ) -> Self {
        let (rx, tx) = queues;
        Self {
            number,
            rx,
            tx,
            takes_chains: abilities.takes_chains,
            takes_unfinished: abilities.takes_unfinished,
            longest: usize::from(abilities.mtu) + ethernet::HEADER_LEN,
            small,
            outbox: Burst::new(),
            sent: Sent::default(),
            pieces: 0,
            refused: 0,
        }
    }

    /// Adds what has arrived to `into`; how many frames that was.
    #[inline]
    pub(crate) fn receive<const N: usize>(&mut self, into: &mut Burst<N>) -> usize {
        self.rx.burst(into)
    }

    /// Queues a frame.
    #[inline]
    pub(crate) fn push(&mut self, frame: Mbuf) {
        let plain = frame.offload() == Offload::default()
            && (self.takes_chains || frame.segment_count() == 1)
            && frame.pkt_len() <= self.longest;
        if plain {
            self.queue(frame);
        } else if self.leaves_to_device(&frame) {
            self.request(frame);
        } else {
            self.finish(frame);
        }
    }

    #[inline]
    fn leaves_to_device(&self, frame: &Mbuf) -> bool {
        let offload = frame.offload();
        let known = match offload.segment {
            Segment::None => {
                frame.pkt_len() <= self.longest
                    && matches!(
                        offload.checksum,
                        L4Checksum::PartialTcp | L4Checksum::PartialUdp
                    )
            }
            Segment::Tcp { .. } => offload.checksum == L4Checksum::PartialTcp,
            Segment::Udp { .. } => false,
        };
        known && self.takes_unfinished && (self.takes_chains || frame.segment_count() == 1)
    }

    /// Queues a frame with what is left to do. The checksum field holds what virtio wants there already, and the IPv4
    /// header its checksum, so there is nothing that the driver would have to prepare.
    fn request(&mut self, mut frame: Mbuf) {
        let ipv6 = ethernet::Header::parse(frame.data())
            .is_some_and(|header| header.ethertype == EtherType::IPV6);
        #[allow(clippy::cast_possible_truncation)] // 14
        frame.set_frame(ethernet::HEADER_LEN as u8, ipv6);
        self.queue(frame);
    }

    fn queue(&mut self, frame: Mbuf) {
        if let Err(frame) = self.outbox.push(frame) {
            self.send();
            if self.outbox.push(frame).is_err() {
                self.sent.dropped += 1;
            }
        }
    }

    /// What the device does not do by itself: checksums are finished, what stands for several packets is cut, chains
    /// are copied together.
    #[cold]
    fn finish(&mut self, mut frame: Mbuf) {
        let Some(&ethernet) = frame.data().first_chunk::<{ ethernet::HEADER_LEN }>() else {
            self.sent.dropped += 1;
            return;
        };
        let offload = frame.offload();
        if offload == Offload::default() {
            return self.queue_whole(frame);
        }
        let headers = frame
            .advance(ethernet::HEADER_LEN)
            .then(|| Headers::parse(frame.data(), frame.pkt_len()).ok())
            .flatten();
        let Some(headers) = headers else {
            self.sent.dropped += 1;
            return;
        };
        let (Segment::Tcp { mss: size } | Segment::Udp { size }) = offload.segment else {
            let finished = offload.checksum == L4Checksum::Complete
                || finish::partial(&headers, frame.segments())
                    .is_ok_and(|sum| sum.write(frame.data_mut()).is_ok());
            frame.set_offload(Offload::default());
            return match frame.prepend(ethernet::HEADER_LEN) {
                Some(front) if finished => {
                    front.copy_from_slice(&ethernet);
                    self.queue_whole(frame);
                }
                _ => self.sent.dropped += 1,
            };
        };
        let small = self.small.clone();
        let cut = tunnel::cut(&frame, &headers, size, &small, |mut piece| {
            match piece.prepend(ethernet::HEADER_LEN) {
                Some(front) => {
                    front.copy_from_slice(&ethernet);
                    self.queue_whole(piece);
                }
                None => self.sent.dropped += 1,
            }
        });
        match cut.failure {
            None => self.pieces += cut.pieces.saturating_sub(1),
            // One piece more was due, which stands for all that is lost.
            Some(_) => {
                self.pieces += cut.pieces;
                self.sent.dropped += 1;
            }
        }
    }

    /// A finished frame, in one segment where the port wants that.
    fn queue_whole(&mut self, frame: Mbuf) {
        if frame.pkt_len() > self.longest {
            self.sent.dropped += 1;
            return;
        }
        if self.takes_chains || frame.segment_count() == 1 {
            return self.queue(frame);
        }
        let copy = self.small.alloc().and_then(|mut copy| {
            let room = copy.append(frame.pkt_len())?;
            frame.copy_out(0, room).then_some(copy)
        });
        match copy {
            Some(copy) => self.queue(copy),
            None => self.sent.dropped += 1,
        }
    }

    fn send(&mut self) {
        let waiting = self.outbox.len();
        let mut sent = 0;
        for _ in 0..=RETRIES {
            sent += self.tx.burst(&mut self.outbox);
            if self.outbox.is_empty() {
                break;
            }
        }
        self.outbox.clear();
        self.sent += Sent {
            sent,
            dropped: waiting - sent,
        };
    }

    /// Sends what is queued. What became of all frames pushed since the flush before.
    pub(crate) fn flush(&mut self) -> Flushed {
        if !self.outbox.is_empty() {
            self.send();
        }
        Flushed {
            sent: std::mem::take(&mut self.sent),
            pieces: std::mem::take(&mut self.pieces),
        }
    }
}
