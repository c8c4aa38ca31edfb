//! Where a flow's slot goes: a free place of its home's buckets, or that of a flow which is given up.
//!
//! A byte for each slot says until when it is needed, so that neither takes a look at the slots.

use std::sync::atomic::Ordering;

use super::{AWAY_MASK, BUCKET, EMPTY, EVICTED, Home, Place, Shard, Tuple};

const AGES: u32 = 255;
/// The longest timeout in steps, and one for the step that has begun.
const FARTHEST: u8 = 233;
/// Victims that are looked at before one is given up.
const TRIES: usize = 4;

/// Which of 255 steps of 32 seconds an expiry lies in, counted from 1: enough to tell the longest timeout from one that
/// is over.
#[allow(clippy::cast_possible_truncation)] // below 255
pub(super) fn age(expires: u32) -> u8 {
    ((expires >> 5) % AGES) as u8 + 1
}

/// How much longer an age lives than what is over at the age of now, which is 1; a free slot's is 0.
#[inline(always)]
const fn rank(of: u8, now: u8) -> u8 {
    // Ages are counted round, and 0 is none of them.
    let ahead = of.wrapping_sub(now).wrapping_sub((of < now) as u8);
    if of == 0 {
        0
    } else if ahead > FARTHEST {
        1
    } else {
        ahead + 2
    }
}

impl Shard<'_> {
    #[inline(always)]
    fn age_of(&self, at: usize) -> u8 {
        self.ages.get((at & self.mask) / BUCKET).map_or(0, |word| {
            word.load(Ordering::Relaxed).to_ne_bytes()[at % BUCKET]
        })
    }

    pub(super) fn set_age(&self, at: usize, age: u8) {
        if let Some(word) = self.ages.get((at & self.mask) / BUCKET) {
            let mut ages = word.load(Ordering::Relaxed).to_ne_bytes();
            ages[at % BUCKET] = age;
            word.store(u64::from_ne_bytes(ages), Ordering::Relaxed);
        }
    }

    // A free slot for the key, the home first; gives up the flow that would expire first when there is none.
    pub(super) fn take(&self, tuple: &Tuple, direction: u8, pinned: usize, now: u32) -> usize {
        let homes = self.homes(self.hash(tuple, direction));
        let home = homes.0;
        let free = |at: usize| at != pinned && self.age_of(at) == 0;
        if free(home) {
            return home;
        }
        let at = match self.soonest(homes, now, pinned) {
            at if free(at) => at,
            _ => self.evict(homes, pinned, now),
        };
        self.note_away(homes, at, true);
        at
    }

    // Of both buckets, the place that is free, or whose flow would end first as far as its age tells.
    #[inline(always)]
    fn soonest(&self, (home, second): (usize, usize), now: u32, pinned: usize) -> usize {
        let present = age(now);
        let of = |at: usize| {
            self.ages
                .get((at & self.mask) / BUCKET)
                .map_or([u8::MAX; BUCKET], |w| {
                    w.load(Ordering::Relaxed).to_ne_bytes()
                })
        };
        let (near, far) = (of(home), of(second));
        let (near_at, far_at) = (home & !(BUCKET - 1), second & !(BUCKET - 1));
        let mut best = (u8::MAX, home);
        for (first, ages) in [(near_at, near), (far_at, far)] {
            for (at, age) in (first..).zip(ages) {
                let rank = rank(age, present);
                // The second bucket's last place is out of a home's reach.
                if rank < best.0 && at != pinned && (at != far_at + BUCKET - 1 || near_at == far_at)
                {
                    best = (rank, at);
                }
            }
        }
        best.1
    }

    /// Asks for the slot that a key of this home would be given now, were it not there yet.
    #[inline]
    pub fn foresee(&self, Home(home): Home, now: u32) -> Place {
        let home = home as usize;
        let at = match self.age_of(home) {
            0 => home,
            _ => self.soonest((home, self.second(home)), now, usize::MAX),
        };
        self.prefetch(Self::place(at));
        Self::place(at)
    }

    /// Asks for what giving up the flow in a slot will touch.
    #[inline]
    pub fn foresee_end(&self, place: Place) {
        let at = place.0 as usize;
        if let Some(w) = self.slot(at)
            && Self::direction(w) != EMPTY
        {
            self.prefetch(Self::place(Self::peer(w)));
            let home = self.home(self.hash(&Self::tuple(w), Self::direction(w)));
            self.prefetch(Self::place(home));
        }
    }

    // Gives up the flow that would end first.
    #[inline(never)]
    fn evict(&self, homes: (usize, usize), pinned: usize, now: u32) -> usize {
        let mut victim = homes.0;
        for _ in 0..TRIES {
            victim = self.soonest(homes, now, pinned);
            let Some(w) = self.slot(victim) else { break };
            // One direction may be silent for ever while the other lives.
            let end = self.end_of(w);
            if age(end) == age(Self::expires(w)) || end == Self::expires(w) {
                break;
            }
            self.set_expires(victim, w, end);
        }
        if self.slot(victim).is_some_and(|w| self.end_of(w) >= now) {
            self.count(EVICTED, 1);
        }
        self.remove(Self::place(victim));
        victim
    }

    // Notes at a home that its key lies at `at`, or does no more.
    pub(super) fn note_away(&self, homes: (usize, usize), at: usize, there: bool) {
        let (home, second) = homes;
        let Some(w) = self.slot(home).filter(|_| at != home) else {
            return;
        };
        // Where both buckets are one, a place has two numbers; the first counts.
        let k = if at / BUCKET == home / BUCKET {
            at.wrapping_sub(home + 1) % BUCKET
        } else if at / BUCKET == second / BUCKET {
            at % BUCKET + BUCKET - 1
        } else {
            return;
        };
        let old = w[4].load(Ordering::Relaxed);
        let new = if there {
            old | (1 << k)
        } else {
            old & !(1 << k)
        };
        w[4].store(new & AWAY_MASK | old & !AWAY_MASK, Ordering::Release);
    }
}
