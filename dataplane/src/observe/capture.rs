//! Copies of packets as ports received and were given them.
//!
//! What is copied is what the port saw: a checksum that is still to be finished is not, a segment of 64 KB is one
//! packet, and what crosses a socket uplink has no outer header here; its peer stands beside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dpdk::Mbuf;
use net::address::Address;

use super::View;
use super::clock::Clock;
use crate::api::CommandError;
use crate::tables::{Tables, halves, high32, join, low32, word};

/// Words of a worker's ring: 8 MB, of which the kernel gives what is used.
pub(super) const RING_ORDER: u32 = 20;

/// The most of a packet that is kept: the largest that there is, with its Ethernet header.
pub const SNAPLEN_MAX: u32 = 65_535 + 64;

/// A port, as a capture names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CapturePort {
    /// The access port with this number (a veth's interface index, or what attaching an ethdev answered).
    Access(u32),
    /// Towards other nodes.
    Uplink,
    /// The node itself.
    Host,
}

impl CapturePort {
    fn to_word(self) -> u64 {
        match self {
            CapturePort::Access(number) => u64::from(number),
            CapturePort::Uplink => 1 << 32,
            CapturePort::Host => 2 << 32,
        }
    }

    fn from_word(word: u64) -> Self {
        match high32(word) {
            0 => CapturePort::Access(low32(word)),
            1 => CapturePort::Uplink,
            _ => CapturePort::Host,
        }
    }
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureOptions {
    /// One port; none means all.
    pub port: Option<CapturePort>,
    /// Bytes kept of each packet.
    pub snaplen: u32,
}

/// A copy of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Where it was seen.
    pub port: CapturePort,
    /// Whether the port was given it to send; else it received it.
    pub outgoing: bool,
    /// When, since 1970.
    pub at: Duration,
    /// Its length in bytes, however much of it was kept.
    pub length: usize,
    /// Its beginning.
    pub bytes: Vec<u8>,
    /// At a socket uplink: the other node's tunnel endpoint (port 0 where it is not known), and `bytes` begin with
    /// the inner IP header. Elsewhere they begin with an Ethernet header.
    pub peer: Option<SocketAddr>,
}

const ALL: u64 = u64::MAX;

/// A worker's eye on its ports.
#[derive(Debug)]
pub struct Eye<'a> {
    view: View<'a>,
    port: u64,
    snaplen: usize,
}

impl<'a> Eye<'a> {
    /// Closed.
    #[must_use]
    pub fn new(tables: &'a Tables, worker: u16) -> Self {
        Self {
            view: View::new(&tables.observation.capture, worker),
            port: ALL,
            snaplen: 0,
        }
    }

    /// Looks whether anyone wants to see; once a round.
    #[inline(always)]
    pub fn refresh(&mut self) {
        if let Some([port, snaplen, ..]) = self.view.refresh() {
            self.port = port;
            self.snaplen = usize::try_from(snaplen).unwrap_or(usize::MAX);
        }
    }

    /// Itself while it is open.
    #[inline(always)]
    #[must_use]
    pub fn open(&self) -> Option<&Self> {
        self.view.is_on().then_some(self)
    }

    /// Copies a packet; `peer` is the other end where the packet does not say it.
    #[cold]
    pub fn see(
        &self,
        port: CapturePort,
        outgoing: bool,
        mbuf: &Mbuf,
        peer: Option<(Address, u16)>,
    ) {
        let port = port.to_word();
        if self.port != ALL && self.port != port {
            return;
        }
        let (address, number) = peer.unwrap_or((Address(0), 0));
        let (high, low) = halves(address);
        let flags = u64::from(outgoing)
            | u64::from(peer.is_some()) << 1
            | u64::from(number) << 16
            | u64::from(self.view.session()) << 32;
        let length = u32::try_from(mbuf.pkt_len()).unwrap_or(u32::MAX);
        let kept = mbuf.pkt_len().min(self.snaplen);
        let fields = [
            port,
            flags,
            dpdk::cycles(),
            word(length, u32::try_from(kept).unwrap_or(0)),
            high,
            low,
        ];
        if let Some(ring) = self.view.ring() {
            ring.push(&fields, Some((mbuf, kept)));
        }
    }
}

/// A capture under way; dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    tables: Arc<Tables>,
    session: u32,
    lost_before: u64,
    clock: Clock,
    record: Vec<u64>,
}

impl Capture {
    pub(crate) fn begin(
        tables: Arc<Tables>,
        options: &CaptureOptions,
    ) -> Result<Self, CommandError> {
        let switch = &tables.observation.capture;
        let asked = [
            options.port.map_or(ALL, CapturePort::to_word),
            u64::from(options.snaplen.clamp(1, SNAPLEN_MAX)),
            0,
            0,
            0,
            0,
        ];
        let session = switch.begin(asked, "capture")?;
        Ok(Self {
            lost_before: switch.lost(),
            session,
            clock: Clock::now(),
            record: Vec::new(),
            tables,
        })
    }

    /// Waits until all workers take part, or a second at most.
    pub(crate) fn settle(&self) {
        self.tables.observation.capture.settle(self.session);
    }

    /// Adds what has been seen since the last time, in order of time.
    pub fn read(&mut self, into: &mut Vec<Captured>) {
        self.clock.refresh();
        let begun = into.len();
        for lane in &self.tables.observation.capture.lanes {
            let end = lane.ring.end();
            while lane.ring.pop(end, &mut self.record) {
                into.extend(captured(&self.record, self.session, &self.clock));
            }
        }
        if let Some(new) = into.get_mut(begun..) {
            new.sort_by_key(|packet| packet.at);
        }
    }

    /// Packets that were not copied, because the reader was too slow.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.tables.observation.capture.lost() - self.lost_before
    }

    /// Whether the data plane has stopped, so that nothing more will come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.tables
            .observation
            .capture
            .closed
            .load(std::sync::atomic::Ordering::Acquire)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.tables.observation.capture.end();
    }
}

fn captured(record: &[u64], session: u32, clock: &Clock) -> Option<Captured> {
    let (&[port, flags, cycles, lengths, high, low], blob) = record.split_first_chunk()?;
    if high32(flags) != session {
        return None;
    }
    let kept = low32(lengths) as usize;
    let mut bytes: Vec<u8> = blob.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.truncate(kept);
    let peer = (flags & 2 != 0).then(|| {
        let port = u16::try_from((flags >> 16) & 0xffff).unwrap_or(0);
        SocketAddr::new(join(high, low).to_ip(), port)
    });
    Some(Captured {
        port: CapturePort::from_word(port),
        outgoing: flags & 1 != 0,
        at: clock.at(cycles),
        length: high32(lengths) as usize,
        bytes,
        peer,
    })
}
