//! From an address to what it means, for readers that never wait.
//!
//! A hash table of chains. The number of buckets is fixed at the start (a power of two, untouched memory costs
//! nothing), so an update touches one chain, whatever the table holds. A node is one arena cell: key, successor and
//! value. Nodes are inserted at the head by one store, removed by one store in their predecessor, and their value
//! changes by one store; a reader therefore sees the old or the new, never a part.

use std::sync::atomic::Ordering;

use net::address::Address;

use super::arena::{Allocator, Arena};
use super::{SALT, halves, join, low32, mix};
use crate::sync::{AtomicU32, AtomicU64, zeros};

const KEY_HIGH: usize = 0;
const KEY_LOW: usize = 1;
const NEXT: usize = 2;
const VALUE: usize = 3;

/// The table; its nodes live in an arena beside it.
#[derive(Debug)]
pub struct Index {
    heads: Box<[AtomicU32]>,
    seed: u64,
}

impl Index {
    /// A table with 2^`bits` buckets.
    #[must_use]
    pub fn new(bits: u32, seed: u64) -> Self {
        Self {
            heads: zeros(1usize << bits),
            seed,
        }
    }

    #[inline(always)]
    fn head(&self, high: u64, low: u64) -> Option<&AtomicU32> {
        let hash = mix(high ^ self.seed ^ SALT[0], low ^ SALT[1]);
        #[allow(clippy::cast_possible_truncation)] // masked to the table's size
        let bucket = (mix(hash, SALT[2]) as usize) & (self.heads.len() - 1);
        self.heads.get(bucket)
    }

    /// The value of `key`. Wait-free.
    #[inline]
    #[must_use]
    pub fn get(&self, arena: &Arena, key: Address) -> Option<u64> {
        let (high, low) = halves(key);
        let mut at = self.head(high, low)?.load(Ordering::Acquire);
        while at != 0 {
            let node = arena.cell(at)?;
            if node[KEY_LOW].load(Ordering::Relaxed) == low
                && node[KEY_HIGH].load(Ordering::Relaxed) == high
            {
                return Some(node[VALUE].load(Ordering::Acquire));
            }
            at = low32(node[NEXT].load(Ordering::Acquire));
        }
        None
    }

    /// Asks for the head of the chain that `key` would be in.
    #[inline(always)]
    pub fn seek(&self, key: Address) {
        let (high, low) = halves(key);
        if let Some(head) = self.head(high, low) {
            dpdk::prefetch(head);
        }
    }

    /// Asks for the first node of that chain.
    #[inline(always)]
    pub fn approach(&self, arena: &Arena, key: Address) {
        let (high, low) = halves(key);
        let first = self
            .head(high, low)
            .map_or(0, |h| h.load(Ordering::Acquire));
        if let Some(node) = arena.cell(first).filter(|_| first != 0) {
            dpdk::prefetch(node);
        }
    }

    /// Sets the value of `key`; the old one is given back. Writer only. `Err` when the arena is at its limit.
    pub fn set(
        &self,
        arena: &Arena,
        allocator: &mut Allocator,
        key: Address,
        value: u64,
    ) -> Result<Option<u64>, TableFull> {
        let (high, low) = halves(key);
        let head = self.head(high, low).ok_or(TableFull)?;
        let first = head.load(Ordering::Relaxed);
        let mut at = first;
        while at != 0 {
            let node = arena.cell(at).ok_or(TableFull)?;
            if node[KEY_LOW].load(Ordering::Relaxed) == low
                && node[KEY_HIGH].load(Ordering::Relaxed) == high
            {
                return Ok(Some(node[VALUE].swap(value, Ordering::AcqRel)));
            }
            at = low32(node[NEXT].load(Ordering::Relaxed));
        }
        let cell = allocator.allocate(arena, 1).ok_or(TableFull)?;
        let node = arena.cell(cell).ok_or(TableFull)?;
        node[KEY_HIGH].store(high, Ordering::Relaxed);
        node[KEY_LOW].store(low, Ordering::Relaxed);
        node[NEXT].store(u64::from(first), Ordering::Relaxed);
        node[VALUE].store(value, Ordering::Relaxed);
        head.store(cell, Ordering::Release);
        Ok(None)
    }

    /// Takes `key` out; its value and its cell, which the caller retires after a grace period. Writer only.
    pub fn remove(&self, arena: &Arena, key: Address) -> Option<(u64, u32)> {
        let (high, low) = halves(key);
        let head = self.head(high, low)?;
        let mut before: Option<&AtomicU64> = None;
        let mut at = head.load(Ordering::Relaxed);
        while at != 0 {
            let node = arena.cell(at)?;
            let next = node[NEXT].load(Ordering::Relaxed);
            if node[KEY_LOW].load(Ordering::Relaxed) == low
                && node[KEY_HIGH].load(Ordering::Relaxed) == high
            {
                match before {
                    // The removed node keeps its own successor, so a reader that stands on it goes on from there.
                    Some(link) => link.store(next, Ordering::Release),
                    None => head.store(low32(next), Ordering::Release),
                }
                return Some((node[VALUE].load(Ordering::Relaxed), at));
            }
            before = Some(&node[NEXT]);
            at = low32(next);
        }
        None
    }

    /// Calls `visit` for each key and value. Writer only: a reader could miss what changes meanwhile.
    pub fn for_each(&self, arena: &Arena, mut visit: impl FnMut(Address, u64)) {
        for head in &self.heads {
            let mut at = head.load(Ordering::Relaxed);
            while let Some(node) = (at != 0).then(|| arena.cell(at)).flatten() {
                let key = join(
                    node[KEY_HIGH].load(Ordering::Relaxed),
                    node[KEY_LOW].load(Ordering::Relaxed),
                );
                visit(key, node[VALUE].load(Ordering::Relaxed));
                at = low32(node[NEXT].load(Ordering::Relaxed));
            }
        }
    }
}

/// The arena behind a table is at its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the route table is full; fewer services must be reachable from this node")]
pub struct TableFull;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn it_behaves_like_a_map(ops in proptest::collection::vec((0u8..3, 0u32..40, any::<u64>()), 0..400)) {
            let arena = Arena::new();
            let mut allocator = Allocator::default();
            let index = Index::new(3, 7);
            let mut model = HashMap::new();
            for (op, key, value) in ops {
                let address = Address::from_v4_bits(0x0a1e_0000 + key);
                match op {
                    0 => prop_assert_eq!(index.set(&arena, &mut allocator, address, value).unwrap(), model.insert(key, value)),
                    1 => {
                        let gone = index.remove(&arena, address);
                        prop_assert_eq!(gone.map(|g| g.0), model.remove(&key));
                        if let Some((_, cell)) = gone { allocator.retire(0, cell, 1); allocator.reclaim(1); }
                    }
                    _ => prop_assert_eq!(index.get(&arena, address), model.get(&key).copied()),
                }
            }
            let mut seen = HashMap::new();
            index.for_each(&arena, |a, v| { seen.insert(a.v4_bits() - 0x0a1e_0000, v); });
            prop_assert_eq!(seen, model);
        }
    }
}
