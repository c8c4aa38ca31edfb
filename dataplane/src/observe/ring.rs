//! Records on their way from one worker to one reader: a bounded ring of plain words.
//!
//! A worker may neither lock nor wait nor allocate, so what does not fit is lost and counted. Both ends meet in two
//! positions: the worker fills words and then publishes how far it came, the reader copies them out and then gives them
//! back. That is why nothing here needs `unsafe`. The words are zeroed memory that the kernel hands out when they are
//! first written, so a ring that is never used costs nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use dpdk::Mbuf;

/// One worker's ring.
#[derive(Debug)]
pub struct Ring {
    words: Box<[AtomicU64]>,
    written: Position,
    read: Position,
    lost: AtomicU64,
}

/// A count of words since the start, on a cache line of its own: each end writes one and reads the other.
#[repr(align(64))]
#[derive(Debug, Default)]
struct Position(AtomicU64);

/// Bytes copied in one go from a packet that may be a chain.
const CHUNK: usize = 512;

impl Ring {
    /// Room for `1 << order` words.
    #[must_use]
    pub fn new(order: u32) -> Self {
        Self {
            words: bytemuck::zeroed_slice_box(1 << order),
            written: Position::default(),
            read: Position::default(),
            lost: AtomicU64::new(0),
        }
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation)] // cut to the ring's size anyway
    fn word(&self, position: u64) -> Option<&AtomicU64> {
        self.words.get(position as usize & (self.words.len() - 1))
    }

    fn set(&self, position: u64, value: u64) {
        if let Some(word) = self.word(position) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Adds a record of `fields` and the first `length` bytes of a packet; false, and one more lost, without room. Only
    /// the ring's worker may call this.
    pub fn push(&self, fields: &[u64], packet: Option<(&Mbuf, usize)>) -> bool {
        let (bytes, blob) = packet.map_or((0, None), |(mbuf, length)| {
            let length = length.min(mbuf.pkt_len());
            (length, Some(mbuf))
        });
        let size = (fields.len() + bytes.div_ceil(8)) as u64;
        let start = self.written.0.load(Ordering::Relaxed);
        let used = start - self.read.0.load(Ordering::Acquire);
        if used + size + 1 > self.words.len() as u64 {
            let lost = self.lost.load(Ordering::Relaxed);
            self.lost.store(lost + 1, Ordering::Relaxed);
            return false;
        }
        self.set(start, size);
        let mut at = start + 1;
        for &field in fields {
            self.set(at, field);
            at += 1;
        }
        let mut chunk = [0; CHUNK];
        let mut copied = 0;
        while let Some(mbuf) = blob.filter(|_| copied < bytes) {
            let now = (bytes - copied).min(CHUNK);
            let (into, rest) = chunk.split_at_mut(now);
            if !mbuf.copy_out(copied, into) {
                break;
            }
            rest.fill(0);
            for eight in chunk.as_chunks::<8>().0.iter().take(now.div_ceil(8)) {
                self.set(at, u64::from_ne_bytes(*eight));
                at += 1;
            }
            copied += now;
        }
        self.written.0.store(start + 1 + size, Ordering::Release);
        true
    }

    /// The end of what is there now. A reader that goes on beyond it may never be done: the worker writes as fast as it
    /// reads.
    pub fn end(&self) -> u64 {
        self.written.0.load(Ordering::Acquire)
    }

    /// Takes the oldest record before `end`: its words replace what is in `into`. Only one reader at a time may call
    /// this.
    pub fn pop(&self, end: u64, into: &mut Vec<u64>) -> bool {
        let start = self.read.0.load(Ordering::Relaxed);
        if start >= end {
            return false;
        }
        let at = |position| self.word(position).map_or(0, |w| w.load(Ordering::Relaxed));
        let size = at(start);
        into.clear();
        into.extend((0..size).map(|n| at(start + 1 + n)));
        self.read.0.store(start + 1 + size, Ordering::Release);
        true
    }

    /// Forgets what lies there. For the reader, before it begins.
    pub fn skip(&self) {
        self.read
            .0
            .store(self.written.0.load(Ordering::Acquire), Ordering::Release);
    }

    /// Records lost since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_as_they_went_in_and_what_does_not_fit_is_counted() {
        let ring = Ring::new(6);
        let mut record = Vec::new();
        assert!(!ring.pop(ring.end(), &mut record));
        for round in 0..100u64 {
            let mut kept = 0;
            while ring.push(&[round, kept, !round, 7], None) {
                kept += 1;
            }
            assert_eq!(
                (kept, ring.lost()),
                (12, round + 1),
                "64 words hold 12 of 5"
            );
            for n in 0..kept {
                assert!(ring.pop(ring.end(), &mut record));
                assert_eq!(record, [round, n, !round, 7]);
            }
            assert!(!ring.pop(ring.end(), &mut record));
        }
        assert!(ring.push(&[1], None));
        let end = ring.end();
        assert!(ring.push(&[2], None));
        assert!(ring.pop(end, &mut record) && !ring.pop(end, &mut record));
        ring.skip();
        assert!(!ring.pop(ring.end(), &mut record));
    }

    #[test]
    fn a_reader_on_another_thread_sees_whole_records_in_order() {
        let ring = Ring::new(8);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut record, mut next) = (Vec::new(), 0);
                while next < 20_000 {
                    if ring.pop(ring.end(), &mut record) {
                        assert_eq!(record.len() as u64, 1 + next % 7);
                        assert!(record.iter().all(|&word| word == next), "{record:?}");
                        next += 1;
                    }
                }
            });
            let mut n = 0u64;
            while n < 20_000 {
                let fields = vec![n; 1 + usize::try_from(n % 7).unwrap()];
                if ring.push(&fields, None) {
                    n += 1;
                }
            }
            reader.join().unwrap();
        });
    }
}
