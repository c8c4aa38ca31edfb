//! Taking over a shard that an earlier process left, whatever state it died in.

use std::sync::atomic::Ordering;

use super::{EMPTY, FORWARD, REVERSE, Shard, Tuple};
use crate::tables::region::BackendRef;

impl Shard<'_> {
    // Whether the second is the way back of the first; only the server's address differs (`S` here, `D` there).
    pub(super) fn mirrored(forward: &Tuple, reverse: &Tuple) -> bool {
        forward.source == reverse.destination
            && forward.source_port == reverse.destination_port
            && forward.destination_port == reverse.source_port
            && forward.protocol == reverse.protocol
            && forward.destination.is_v4() == forward.source.is_v4()
            && reverse.destination.is_v4() == reverse.source.is_v4()
    }

    /// Brings a shard that an earlier process left into order: what a crash left half-written goes, the rest stays.
    /// Returns the flows kept and the slots dropped.
    pub fn recover(&self, now: u32) -> (u64, u64) {
        let mut kept = Vec::new();
        let mut dropped = 0;
        for at in 0..self.slots() {
            let Some(w) = self.slot(at) else { continue };
            match Self::direction(w) {
                FORWARD => {
                    let peer = self
                        .slot(Self::peer(w))
                        .filter(|_| Self::peer(w) < self.slots());
                    let sound = peer.is_some_and(|p| {
                        Self::direction(p) == REVERSE
                            && Self::peer(p) == at
                            && p[5].load(Ordering::Relaxed) == w[5].load(Ordering::Relaxed)
                            && Self::mirrored(&Self::tuple(w), &Self::tuple(p))
                    });
                    match peer {
                        // No timeout is longer than established TCP's: an expiry beyond it is damage.
                        Some(p)
                            if sound
                                && self.end_of(w) >= now
                                && self.end_of(w) <= now + 7440 + 60 =>
                        {
                            let phase = (Self::phase(w), Self::phase(p));
                            let ends = (Self::expires(w), Self::expires(p));
                            let backend = BackendRef::from_word(w[5].load(Ordering::Relaxed));
                            kept.push((Self::tuple(w), Self::tuple(p), backend, phase, ends));
                        }
                        _ => dropped += 1,
                    }
                }
                EMPTY | REVERSE => {}
                _ => dropped += 1,
            }
        }
        for at in 0..self.slots() {
            if let Some(w) = self.slot(at)
                && w[4].load(Ordering::Relaxed) != 0
            {
                w[4].store(0, Ordering::Relaxed);
            }
        }
        for word in self.header.iter().chain(self.ages) {
            word.store(0, Ordering::Relaxed);
        }
        let mut restored = 0;
        for (forward, reverse, backend, phase, ends) in kept {
            let Ok(place) = self.open(&forward, backend, &reverse, now) else {
                dropped += 1;
                continue;
            };
            restored += 1;
            if let Some(w) = self.slot(place.0 as usize) {
                Self::set_phase(w, phase.0);
                self.set_expires(place.0 as usize, w, ends.0);
                if let Some(p) = self.slot(Self::peer(w)) {
                    Self::set_phase(p, phase.1);
                    self.set_expires(Self::peer(w), p, ends.1);
                }
            }
        }
        (restored, dropped)
    }
}
