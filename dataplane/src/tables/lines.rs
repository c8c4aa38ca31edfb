//! Many small groups of words, each in a cache line of its own.
//!
//! What one worker writes at every packet must not share a line with what another one writes. The memory comes zeroed
//! and is not touched before it is used, so room for thousands costs nothing until they are there.

use std::sync::atomic::AtomicU64;

/// Words of a line.
pub const LINE_WORDS: usize = 8;
const LINE_BYTES: usize = LINE_WORDS * size_of::<u64>();

/// Lines of eight words, zero at first.
#[derive(Debug)]
pub struct Lines {
    words: Box<[AtomicU64]>,
    skip: usize,
}

impl Lines {
    /// Room for `count` lines.
    #[must_use]
    pub fn new(count: usize) -> Self {
        // One line more than asked for, so that the first can begin where a cache line does.
        let words: Box<[AtomicU64]> = bytemuck::zeroed_slice_box((count + 1) * LINE_WORDS);
        let beyond = words.as_ptr().addr() % LINE_BYTES;
        let skip = (LINE_BYTES - beyond) % LINE_BYTES / size_of::<u64>();
        Self { words, skip }
    }

    /// Line `n`.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, n: usize) -> Option<&[AtomicU64; LINE_WORDS]> {
        self.words.get(self.skip + n * LINE_WORDS..)?.first_chunk()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn every_line_is_a_cache_line_and_nobody_elses() {
        let lines = Lines::new(100);
        for n in 0..100 {
            let line = lines.get(n).unwrap();
            assert_eq!(line.as_ptr().addr() % LINE_BYTES, 0);
            assert!(line.iter().all(|w| w.swap(1, Ordering::Relaxed) == 0));
        }
        assert!(lines.get(1000).is_none());
    }
}
