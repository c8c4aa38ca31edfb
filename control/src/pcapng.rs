//! Captured packets as pcapng, which every reader of captures knows (IETF draft-ietf-opsawg-pcapng).
//!
//! A small writer of our own: the four kinds of block that it needs are a few fields each. Numbers are little-endian,
//! as the section header says; times are in nanoseconds since 1970.

use std::collections::HashMap;
use std::time::Duration;

use dataplane::{CapturePort, Captured, PortLine};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

const COMMENT: u16 = 1;
const LINKTYPE_ETHERNET: u16 = 1;
/// Packets that begin with an IP header.
const LINKTYPE_RAW: u16 = 101;

/// Options of a block: code, length, value, padded to 32 bits; an empty one ends them.
#[derive(Default)]
struct Options(Vec<u8>);

impl Options {
    fn add(mut self, code: u16, value: &[u8]) -> Self {
        let value = value.get(..0xfff0).unwrap_or(value);
        self.0.extend_from_slice(&code.to_le_bytes());
        let length = u16::try_from(value.len()).unwrap_or(0);
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn end(self) -> Vec<u8> {
        self.add(0, &[]).0
    }
}

fn block(out: &mut Vec<u8>, kind: u32, parts: &[&[u8]]) {
    let body: usize = parts.iter().map(|part| part.len()).sum();
    let total = u32::try_from(12 + body).unwrap_or(0).to_le_bytes();
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&total);
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(&total);
}

fn time(at: Duration) -> [u8; 8] {
    let nanoseconds = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    let [l0, l1, l2, l3, h0, h1, h2, h3] = nanoseconds.to_le_bytes();
    [h0, h1, h2, h3, l0, l1, l2, l3]
}

/// Writes one section.
pub struct Writer {
    interfaces: HashMap<CapturePort, u32>,
    snaplen: u32,
    out: Vec<u8>,
}

impl Writer {
    /// A section, with nothing in it but its header. Packets are cut to `snaplen` bytes by who captures them.
    #[must_use]
    pub fn new(snaplen: u32) -> Self {
        let mut out = Vec::new();
        let application = format!("NetManager {}", env!("CARGO_PKG_VERSION"));
        let mut fixed = 0x1a2b_3c4d_u32.to_le_bytes().to_vec();
        fixed.extend_from_slice(&1u16.to_le_bytes());
        fixed.extend_from_slice(&0u16.to_le_bytes());
        // The section's length is not known.
        fixed.extend_from_slice(&u64::MAX.to_le_bytes());
        let options = Options::default().add(4, application.as_bytes()).end();
        block(&mut out, SECTION_HEADER, &[&fixed, &options]);
        Self {
            interfaces: HashMap::new(),
            snaplen,
            out,
        }
    }

    /// Whether packets of this port can be written.
    #[must_use]
    pub fn knows(&self, port: CapturePort) -> bool {
        self.interfaces.contains_key(&port)
    }

    /// Describes a port, before its first packet.
    pub fn interface(&mut self, line: &PortLine) {
        if self.knows(line.port) {
            return;
        }
        let link_type = match line.kind {
            "socket" => LINKTYPE_RAW,
            _ => LINKTYPE_ETHERNET,
        };
        let description = match line.port {
            CapturePort::Access(_) => format!("access port ({})", line.kind),
            CapturePort::Uplink => format!("uplink ({})", line.kind),
            CapturePort::Host => format!("the node itself ({})", line.kind),
        };
        let mut fixed = u32::from(link_type).to_le_bytes().to_vec();
        fixed.extend_from_slice(&self.snaplen.to_le_bytes());
        let options = Options::default()
            .add(2, line.name.as_bytes())
            .add(3, description.as_bytes())
            .add(9, &[9])
            .end();
        block(&mut self.out, INTERFACE_DESCRIPTION, &[&fixed, &options]);
        let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.interfaces.insert(line.port, number);
    }

    /// A packet of a port that is described; else nothing is written.
    pub fn packet(&mut self, packet: &Captured) {
        let Some(interface) = self.interfaces.get(&packet.port) else {
            return;
        };
        let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        let padding = [0; 3];
        let padding = padding
            .get(..packet.bytes.len().next_multiple_of(4) - packet.bytes.len())
            .unwrap_or(&[]);
        let direction: u32 = if packet.outgoing { 2 } else { 1 };
        let mut options = Options::default().add(2, &direction.to_le_bytes());
        if let Some(peer) = packet.peer {
            let way = if packet.outgoing { "to" } else { "from" };
            options = options.add(COMMENT, format!("{way} node {peer}").as_bytes());
        }
        block(
            &mut self.out,
            ENHANCED_PACKET,
            &[
                &interface.to_le_bytes(),
                &time(packet.at),
                &size(packet.bytes.len()),
                &size(packet.length),
                &packet.bytes,
                padding,
                &options.end(),
            ],
        );
    }

    /// How many packets were not captured, over all interfaces, which is said of the first.
    pub fn lost(&mut self, at: Duration, packets: u64) {
        if self.interfaces.is_empty() {
            return;
        }
        let options = Options::default()
            .add(COMMENT, b"isb_osdrop counts the packets of all interfaces that were not captured because the reader was too slow")
            .add(7, &packets.to_le_bytes())
            .end();
        let interface = 0u32.to_le_bytes();
        block(
            &mut self.out,
            INTERFACE_STATISTICS,
            &[&interface, &time(at), &options],
        );
    }

    /// What was written since the last time: whole blocks.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

/// Tells blocks apart in a stream of them.
#[derive(Debug, Default)]
pub struct Counter {
    held: Vec<u8>,
    /// Packets seen.
    pub packets: u64,
    /// Packets that were not captured, as the stream said last.
    pub lost: u64,
}

impl Counter {
    /// Takes a piece of the stream; gives back the whole blocks that there are now.
    pub fn whole_blocks(&mut self, piece: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(piece);
        let mut end = 0;
        loop {
            let rest = self.held.get(end..).unwrap_or(&[]);
            let word = |at: usize| {
                let bytes = rest.get(at..)?.first_chunk::<4>()?;
                Some(u32::from_le_bytes(*bytes))
            };
            let (Some(kind), Some(length)) = (word(0), word(4)) else {
                break;
            };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some(block) = rest.get(..length).filter(|_| length >= 12) else {
                break;
            };
            match kind {
                ENHANCED_PACKET => self.packets += 1,
                // Its last option before the end is the count.
                INTERFACE_STATISTICS => {
                    if let Some(bytes) = block
                        .len()
                        .checked_sub(16)
                        .and_then(|at| block.get(at..)?.first_chunk::<8>())
                    {
                        self.lost = u64::from_le_bytes(*bytes);
                    }
                }
                _ => {}
            }
            end += length;
        }
        self.held.drain(..end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(port: CapturePort, kind: &'static str) -> PortLine {
        PortLine {
            port,
            name: "näme".to_owned(),
            kind,
        }
    }

    fn packet(port: CapturePort, length: usize, kept: usize) -> Captured {
        Captured {
            port,
            outgoing: kept % 2 == 1,
            at: Duration::new(1_700_000_000, 123_456_789),
            length,
            bytes: vec![0xa5; kept],
            peer: None,
        }
    }

    #[test]
    fn blocks_are_whole_however_the_stream_is_cut() {
        let mut writer = Writer::new(100);
        writer.interface(&port(CapturePort::Access(7), "packet"));
        writer.interface(&port(CapturePort::Access(7), "packet"));
        writer.interface(&port(CapturePort::Uplink, "socket"));
        for kept in 0..9 {
            writer.packet(&packet(CapturePort::Uplink, 65_000, kept));
        }
        writer.packet(&packet(CapturePort::Host, 1, 1));
        writer.lost(Duration::from_secs(1), 0x0102_0304_0506);
        let stream = writer.take();
        for size in [1, 3, 7, 64, stream.len()] {
            let (mut counter, mut out) = (Counter::default(), Vec::new());
            for piece in stream.chunks(size) {
                out.extend(counter.whole_blocks(piece));
            }
            assert_eq!(out, stream);
            assert_eq!((counter.packets, counter.lost), (9, 0x0102_0304_0506));
        }
        let mut counter = Counter::default();
        let out = counter.whole_blocks(&stream[..stream.len() - 1]);
        assert_eq!(counter.packets, 9);
        assert!(out.len() < stream.len() - 1, "the last block is not whole");
    }
}
