//! Whose a flow is: the service that it was opened to, and the backend that may go.

use std::sync::atomic::{AtomicU64, Ordering};

use net::packet::Protocol;

use super::{FORWARD, NOTED, Phase, Place, SERVICE_SHIFT, SLOT_WORDS, Shard, Tuple};
use crate::tables::low32;
use crate::tables::region::BackendRef;
use crate::tally::OfService;

impl Shard<'_> {
    /// The number of the service that the flow was opened to; none for a flow of an earlier process, which knew it by
    /// another number.
    #[inline]
    #[must_use]
    pub fn service(&self, place: Place) -> Option<u32> {
        Self::service_of(self.slot(place.0 as usize)?)
    }

    #[inline]
    pub(super) fn service_of(w: &[AtomicU64; SLOT_WORDS]) -> Option<u32> {
        low32(w[7].load(Ordering::Relaxed) >> SERVICE_SHIFT).checked_sub(1)
    }

    /// Notes in both directions which service the flow belongs to, once.
    pub fn set_service(&self, place: Place, service: u32) {
        let Some(w) = self.slot(place.0 as usize) else {
            return;
        };
        for w in [Some(w), self.slot(Self::peer(w))].into_iter().flatten() {
            let rest = w[7].load(Ordering::Relaxed) & (NOTED | u64::from(u32::MAX));
            let number = u64::from(service) + 1;
            w[7].store((number << SERVICE_SHIFT) | rest, Ordering::Relaxed);
        }
        if let Some(tally) = self.tally
            && Self::phase(w) != Phase::Closed
        {
            tally.count_service(service, OfService::Live);
        }
    }

    pub(super) fn backend_of(w: &[AtomicU64; SLOT_WORDS]) -> BackendRef {
        BackendRef::from_word(w[5].load(Ordering::Relaxed))
    }

    // A flow lives until its connection is over or its slots are given up, whichever is first.
    pub(super) fn uncount(&self, w: &[AtomicU64; SLOT_WORDS]) {
        if let Some(tally) = self.tally {
            tally.flow_ended(Self::backend_of(w).id, Self::service_of(w));
        }
    }

    /// The flow whose client's direction is in slot `at`, and its backend.
    #[inline]
    #[must_use]
    pub fn flow_at(&self, at: usize) -> Option<(Place, BackendRef)> {
        let w = self.slot(at)?;
        (Self::direction(w) == FORWARD).then(|| {
            (
                Self::place(at & self.mask),
                BackendRef::from_word(w[5].load(Ordering::Relaxed)),
            )
        })
    }

    /// The client's tuple of a flow whose client may wait for an answer for ever: a TCP connection that its client has
    /// taken part in and that is not over. `place` is the client's direction's.
    #[must_use]
    pub fn waiting_client(&self, place: Place) -> Option<Tuple> {
        let w = self.slot(place.0 as usize)?;
        let waits = Self::protocol(w) == Protocol::TCP
            && matches!(Self::phase(w), Phase::Established | Phase::HalfClosed);
        waits.then(|| Self::tuple(w))
    }

    /// True when its time is up, both directions'.
    #[must_use]
    pub fn has_ended(&self, place: Place, now: u32) -> bool {
        self.slot(place.0 as usize)
            .is_none_or(|w| self.end_of(w) < now)
    }

    /// Lets a flow end at `at` at the latest if no packet comes.
    pub fn shorten(&self, place: Place, at: u32) {
        let Some(w) = self.slot(place.0 as usize) else {
            return;
        };
        for slot in [place.0 as usize, Self::peer(w)] {
            if let Some(w) = self.slot(slot) {
                self.set_expires(slot, w, Self::expires(w).min(at));
            }
        }
    }
}
