//! The access ports as workers see them: which container is behind an interface.
//!
//! A slot is filled before it is published (by the interface index or an address in an `Index`) and never changed in
//! place while a worker may read it. A change of a container is a new slot. The host TAP has one too (interface index
//! 0): the node's own processes are a container of a kind.

use std::sync::atomic::Ordering;

use net::address::Address;

use super::{halves, high32, join, low32, word};
use crate::sync::{AtomicU64, zeros};

const WORDS: usize = 8;

/// An access port and the container behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessSlot {
    /// Interface index of the host end; 0 for the host TAP.
    pub ifindex: u32,
    /// The worker that owns the container's flows.
    pub worker: u16,
    /// What its numbers are kept under; it stays when the container gets another slot. 0 for the host TAP.
    pub number: u16,
    /// MAC address of the container's end.
    pub mac: [u8; 6],
    /// Namespace IPv4 address, 0 where missing.
    pub namespace_v4: u32,
    /// Namespace IPv6 address, unspecified where missing.
    pub namespace_v6: Address,
    /// Instance IPv4 address, 0 while unknown.
    pub instance_v4: u32,
    /// Instance IPv6 address, unspecified while unknown.
    pub instance_v6: Address,
}

impl AccessSlot {
    /// The namespace address of the family of `like`, unspecified when there is none.
    #[inline(always)]
    #[must_use]
    pub fn namespace(&self, v4: bool) -> Address {
        if v4 {
            family4(self.namespace_v4)
        } else {
            self.namespace_v6
        }
    }

    /// The Instance IP of one family, unspecified when it is not known.
    #[inline(always)]
    #[must_use]
    pub fn instance(&self, v4: bool) -> Address {
        if v4 {
            family4(self.instance_v4)
        } else {
            self.instance_v6
        }
    }
}

#[inline(always)]
fn family4(bits: u32) -> Address {
    if bits == 0 {
        Address(0)
    } else {
        Address::from_v4_bits(bits)
    }
}

/// All slots.
#[derive(Debug)]
pub struct Slots {
    words: Box<[AtomicU64]>,
}

impl Slots {
    /// Room for `count` ports.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            words: zeros(count * WORDS),
        }
    }

    /// How many there can be.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.words.len() / WORDS
    }

    fn at(&self, slot: u32) -> Option<&[AtomicU64; WORDS]> {
        self.words.get(slot as usize * WORDS..)?.first_chunk()
    }

    /// The port in a slot. The slot must have been found in a published record in this round.
    #[inline]
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub fn get(&self, slot: u32) -> Option<AccessSlot> {
        let w = self.at(slot)?;
        let head = w[0].load(Ordering::Acquire);
        let v4 = w[2].load(Ordering::Relaxed);
        let mac = w[1].load(Ordering::Relaxed).to_be_bytes();
        Some(AccessSlot {
            ifindex: high32(head),
            worker: head as u16,
            number: (head >> 16) as u16,
            mac: [mac[2], mac[3], mac[4], mac[5], mac[6], mac[7]],
            namespace_v4: high32(v4),
            instance_v4: low32(v4),
            namespace_v6: join(w[3].load(Ordering::Relaxed), w[4].load(Ordering::Relaxed)),
            instance_v6: join(w[5].load(Ordering::Relaxed), w[6].load(Ordering::Relaxed)),
        })
    }

    /// Fills a slot that no worker can reach. Writer only.
    pub fn fill(&self, slot: u32, port: &AccessSlot) {
        let Some(w) = self.at(slot) else { return };
        let m = port.mac;
        w[1].store(
            u64::from_be_bytes([0, 0, m[0], m[1], m[2], m[3], m[4], m[5]]),
            Ordering::Relaxed,
        );
        w[2].store(word(port.namespace_v4, port.instance_v4), Ordering::Relaxed);
        let (high, low) = halves(port.namespace_v6);
        w[3].store(high, Ordering::Relaxed);
        w[4].store(low, Ordering::Relaxed);
        let (high, low) = halves(port.instance_v6);
        w[5].store(high, Ordering::Relaxed);
        w[6].store(low, Ordering::Relaxed);
        w[0].store(
            word(
                port.ifindex,
                (u32::from(port.number) << 16) | u32::from(port.worker),
            ),
            Ordering::Release,
        );
    }
}
