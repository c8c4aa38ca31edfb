//! Memory for records that workers read while the control thread writes others.
//!
//! It grows by chunks that never move, so a place, once handed out, stays readable for ever; whether what stands
//! there is still the same record is the business of `quiescent`. The unit is a cell of four words (32 bytes).

use std::collections::VecDeque;
use std::sync::OnceLock;

use crate::sync::{AtomicU64, zeros};

/// Words of 8 bytes in a cell.
pub const CELL_WORDS: usize = 4;
// A model has room for a few words only.
const BASE_CELLS: u32 = if cfg!(loom) { 1 << 3 } else { 1 << 12 };
const CHUNKS: usize = 19;
const CLASSES: usize = 20;

/// Chunked memory, read by anyone. Cell 0 is never handed out: it stands for "none".
#[derive(Debug)]
pub struct Arena {
    chunks: [OnceLock<Box<[AtomicU64]>>; CHUNKS],
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl Arena {
    /// An arena without memory; it takes some with the first allocation.
    #[must_use]
    pub fn new() -> Self {
        Self {
            chunks: [const { OnceLock::new() }; CHUNKS],
        }
    }

    // Chunk k holds BASE_CELLS << k cells, so the position of the highest bit of cell + BASE_CELLS names the chunk.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)]
    fn locate(cell: u32) -> (usize, usize) {
        let shifted = u64::from(cell) + u64::from(BASE_CELLS);
        let chunk = (63 - shifted.leading_zeros()) - BASE_CELLS.trailing_zeros();
        let first = u64::from(BASE_CELLS) << chunk;
        (chunk as usize, (shifted - first) as usize)
    }

    /// The words from `cell` on to the end of its chunk; empty for a cell that was never handed out.
    #[inline(always)]
    pub fn words(&self, cell: u32) -> &[AtomicU64] {
        let (chunk, index) = Self::locate(cell);
        match self.chunks.get(chunk).and_then(OnceLock::get) {
            Some(words) => words.get(index * CELL_WORDS..).unwrap_or(&[]),
            None => &[],
        }
    }

    /// One cell.
    #[inline(always)]
    pub fn cell(&self, cell: u32) -> Option<&[AtomicU64; CELL_WORDS]> {
        self.words(cell).first_chunk()
    }

    fn ensure(&self, chunk: usize) -> bool {
        let Some(slot) = self.chunks.get(chunk) else {
            return false;
        };
        slot.get_or_init(|| zeros(((BASE_CELLS as usize) * CELL_WORDS) << chunk));
        true
    }
}

/// The writer's side of an arena: hands out runs of cells and takes them back.
#[derive(Debug, Default)]
pub struct Allocator {
    next: u32,
    free: [Vec<u32>; CLASSES],
    retired: VecDeque<(u64, u32, u8)>,
    in_use: u64,
}

impl Allocator {
    // Run lengths are powers of two, so that what is given back fits again.
    fn class(cells: usize) -> usize {
        cells.next_power_of_two().trailing_zeros() as usize
    }

    /// A run of at least `cells` cells in one chunk; `None` when the arena is at its limit or the run is longer than
    /// any chunk may be.
    #[allow(clippy::cast_possible_truncation)]
    pub fn allocate(&mut self, arena: &Arena, cells: usize) -> Option<u32> {
        let class = Self::class(cells.max(1));
        let run = 1u32 << class;
        if let Some(cell) = self.free.get_mut(class)?.pop() {
            self.in_use += u64::from(run);
            return Some(cell);
        }
        if self.next == 0 {
            self.next = 1;
        }
        loop {
            let (chunk, index) = Arena::locate(self.next);
            if !arena.ensure(chunk) {
                return None;
            }
            let left = ((u64::from(BASE_CELLS) << chunk) - index as u64) as u32;
            if left >= run {
                let cell = self.next;
                self.next = self.next.checked_add(run)?;
                self.in_use += u64::from(run);
                return Some(cell);
            }
            // Too little is left in this chunk: keep it as smaller runs and go on in the next.
            let mut rest = left;
            while rest > 0 {
                let piece = rest.ilog2();
                self.free.get_mut(piece as usize)?.push(self.next);
                self.next = self.next.checked_add(1 << piece)?;
                rest -= 1 << piece;
            }
        }
    }

    /// Gives a run back once every worker has passed `epoch`.
    #[allow(clippy::cast_possible_truncation)]
    pub fn retire(&mut self, epoch: u64, cell: u32, cells: usize) {
        self.retired
            .push_back((epoch, cell, Self::class(cells.max(1)) as u8));
    }

    /// Makes what was retired before `passed` usable again.
    pub fn reclaim(&mut self, passed: u64) {
        while let Some(&(epoch, cell, class)) = self.retired.front() {
            if epoch >= passed {
                return;
            }
            self.retired.pop_front();
            if let Some(list) = self.free.get_mut(usize::from(class)) {
                list.push(cell);
                self.in_use -= 1 << class;
            }
        }
    }

    /// Cells that are handed out or not yet reclaimed.
    #[must_use]
    pub fn in_use(&self) -> u64 {
        self.in_use
    }

    /// True when runs wait for their grace period.
    #[must_use]
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn runs_never_overlap_and_are_used_again() {
        let arena = Arena::new();
        let mut allocator = Allocator::default();
        let mut owner: HashMap<u32, usize> = HashMap::new();
        let mut runs = Vec::new();
        for n in 0..3000usize {
            let cells = 1 + (n * 7) % 60;
            let at = allocator.allocate(&arena, cells).unwrap();
            assert_ne!(at, 0);
            assert!(
                arena.words(at).len() >= cells * CELL_WORDS,
                "a run crosses its chunk"
            );
            for c in 0..cells.next_power_of_two() {
                assert_eq!(
                    owner.insert(at + u32::try_from(c).unwrap(), n),
                    None,
                    "two runs share a cell"
                );
            }
            arena.words(at)[0].store(n as u64, Relaxed);
            runs.push((at, cells));
        }
        for (n, (at, _)) in runs.iter().enumerate() {
            assert_eq!(arena.words(*at)[0].load(Relaxed), n as u64);
        }
        let top = allocator.next;
        for (at, cells) in runs.drain(..) {
            allocator.retire(5, at, cells);
        }
        allocator.reclaim(5);
        assert!(
            allocator.has_retired(),
            "given back before every worker passed the epoch"
        );
        allocator.reclaim(6);
        assert_eq!(allocator.in_use(), 0);
        for n in 0..3000usize {
            allocator.allocate(&arena, 1 + (n * 7) % 60).unwrap();
        }
        assert_eq!(
            allocator.next, top,
            "given-back runs are used before new memory"
        );
    }
}
