//! A flow's key in the form that its family needs, so that looking up an IPv4 flow carries no 128-bit addresses about.

use std::sync::atomic::{AtomicU64, Ordering};

use net::packet::Protocol;
use net::plain::{V4, V6};

use super::{FORWARD, REVERSE};
use crate::tables::region::SLOT_WORDS;
use crate::tables::{SALT, halves, low32, mix};

/// Both addresses of a tuple, in the form that their family needs.
pub trait Key: Copy {
    /// Mixes them with the rest of the key.
    fn mix(&self, rest: u64, seed: u64) -> u64;
    /// Whether they are a slot's; the slot's tag has told the family.
    fn is_in(&self, w: &[AtomicU64; SLOT_WORDS]) -> bool;
    /// The bit in a tag that tells the family.
    const FAMILY: u64;
}

/// The form of a mapped address's low word.
const MAPPED: u64 = 0xffff << 32;

impl Key for V4 {
    const FAMILY: u64 = 4;

    #[inline(always)]
    fn mix(&self, rest: u64, seed: u64) -> u64 {
        mix(self.0 ^ seed, rest ^ seed.rotate_left(32) ^ SALT[1])
    }

    #[inline(always)]
    fn is_in(&self, w: &[AtomicU64; SLOT_WORDS]) -> bool {
        w[1].load(Ordering::Relaxed) == MAPPED | (self.0 >> 32)
            && w[3].load(Ordering::Relaxed) == MAPPED | u64::from(low32(self.0))
    }
}

impl Key for V6 {
    const FAMILY: u64 = 0;

    #[inline(always)]
    fn mix(&self, rest: u64, seed: u64) -> u64 {
        let ((sh, sl), (dh, dl)) = (halves(self.0), halves(self.1));
        let a = mix(sl ^ seed, dl ^ SALT[0]);
        let b = mix(sh ^ SALT[1] ^ rest, dh ^ SALT[2] ^ seed.rotate_left(32));
        mix(a ^ SALT[1], b ^ rest)
    }

    #[inline(always)]
    fn is_in(&self, w: &[AtomicU64; SLOT_WORDS]) -> bool {
        let ((sh, sl), (dh, dl)) = (halves(self.0), halves(self.1));
        w[1].load(Ordering::Relaxed) == sl
            && w[3].load(Ordering::Relaxed) == dl
            && w[0].load(Ordering::Relaxed) == sh
            && w[2].load(Ordering::Relaxed) == dh
    }
}

/// The rest of a key in one word: ports, protocol, family and direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub(super) u64);

impl Tag {
    #[inline(always)]
    pub(super) fn new<K: Key>(ports: u32, protocol: Protocol, direction: u8) -> Self {
        Self(
            (u64::from(ports) << 16)
                | (u64::from(protocol.0) << 8)
                | K::FAMILY
                | u64::from(direction),
        )
    }

    /// Of a client's packet; `ports` has the source port in its high half.
    #[inline(always)]
    #[must_use]
    pub fn forward<K: Key>(ports: u32, protocol: Protocol) -> Self {
        Self::new::<K>(ports, protocol, FORWARD)
    }

    /// Of a backend's packet.
    #[inline(always)]
    #[must_use]
    pub fn reverse<K: Key>(ports: u32, protocol: Protocol) -> Self {
        Self::new::<K>(ports, protocol, REVERSE)
    }
}
