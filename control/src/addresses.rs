//! Addresses within the node's own worker subnetworks (contract section 1): `+1` is the gateway, containers take `+2`
//! upward, the IPv6 subnetwork in parallel.
//!
//! A freed address rests before it is handed out again, because tables on other nodes still point at it for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use protocol::address_plan::{SUBNET_V4_CONTAINERS, SUBNET_V6_CONTAINERS};
use serde::{Deserialize, Serialize};

use crate::forwarding::{Pair, Subnet};

/// Seconds that a freed address rests.
const REST_SECONDS: u64 = 60;
/// Offset of the gateway in a subnetwork.
const GATEWAY: u8 = 1;
/// Offset of the first container.
const FIRST: u8 = 2;

/// One subnetwork that the cluster gave to this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// First address of the `/26`.
    pub v4: Option<Ipv4Addr>,
    /// First address of the `/120`.
    pub v6: Option<Ipv6Addr>,
    /// The node id that it was given to.
    pub owner: String,
    #[serde(default)]
    used: BTreeSet<u8>,
    /// Offset to the second (Unix time) when it was freed.
    #[serde(default)]
    resting: BTreeMap<u8, u64>,
}

impl Held {
    fn pair(&self, offset: u8) -> Pair {
        Pair::new(
            self.v4
                .map(|base| Ipv4Addr::from(u32::from(base).wrapping_add(u32::from(offset)))),
            self.v6
                .map(|base| Ipv6Addr::from(u128::from(base).wrapping_add(u128::from(offset)))),
        )
    }

    fn offset(&self, address: Pair) -> Option<u8> {
        let v4 = || {
            u32::from(address.v4?)
                .checked_sub(u32::from(self.v4?))
                .map(u128::from)
        };
        let v6 = || u128::from(address.v6?).checked_sub(u128::from(self.v6?));
        let offset = if self.v4.is_some() && address.v4.is_some() {
            v4()
        } else {
            v6()
        }?;
        (offset <= u128::from(self.last()))
            .then(|| u8::try_from(offset).ok())
            .flatten()
    }

    fn last(&self) -> u8 {
        let containers = if self.v4.is_some() {
            SUBNET_V4_CONTAINERS
        } else {
            SUBNET_V6_CONTAINERS
        };
        u8::try_from(containers + 1).unwrap_or(u8::MAX)
    }

    fn capacity(&self) -> usize {
        usize::from(self.last() - GATEWAY)
    }

    fn rests(&self, offset: u8, now: u64) -> bool {
        self.resting
            .get(&offset)
            .is_some_and(|freed| now < freed.saturating_add(REST_SECONDS))
    }

    fn is_idle(&self, now: u64) -> bool {
        self.used.is_empty() && !self.resting.keys().any(|offset| self.rests(*offset, now))
    }

    /// The gateway's addresses.
    #[must_use]
    pub fn gateway(&self) -> Pair {
        self.pair(GATEWAY)
    }
}

/// The subnetworks of a node and what is handed out of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    subnets: Vec<Held>,
    /// Addresses that were handed out before they had rested.
    #[serde(default)]
    pub reused_early: u64,
}

impl Ledger {
    /// The subnetworks, oldest first.
    #[must_use]
    pub fn subnets(&self) -> &[Held] {
        &self.subnets
    }

    /// Takes a subnetwork in; false when it is held already.
    pub fn add(&mut self, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>, owner: &str) -> bool {
        let known = self
            .subnets
            .iter()
            .any(|held| v4.is_some() && held.v4 == v4 || v6.is_some() && held.v6 == v6);
        if known || (v4.is_none() && v6.is_none()) {
            return false;
        }
        self.subnets.push(Held {
            v4,
            v6,
            owner: owner.to_owned(),
            ..Held::default()
        });
        true
    }

    /// Takes a subnetwork in as the cluster gave it: one that is held under another id changes hands.
    pub fn take_in(&mut self, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>, owner: &str) {
        if self.add(v4, v6, owner) {
            return;
        }
        for held in &mut self.subnets {
            if v4.is_some() && held.v4 == v4 || v4.is_none() && held.v6 == v6 {
                owner.clone_into(&mut held.owner);
            }
        }
    }

    /// What the data plane is told.
    #[must_use]
    pub fn for_forwarding(&self) -> Vec<Subnet> {
        self.subnets
            .iter()
            .map(|held| Subnet {
                v4: held.v4,
                v6: held.v6,
                gateway: held.gateway(),
            })
            .collect()
    }

    /// The IPv4 subnetworks of one owner, as `have` lists them.
    #[must_use]
    pub fn have(&self, owner: &str) -> Vec<Ipv4Addr> {
        self.subnets
            .iter()
            .filter(|held| held.owner == owner)
            .filter_map(|held| held.v4)
            .collect()
    }

    /// Whether `owner` has a subnetwork.
    #[must_use]
    pub fn has_any(&self, owner: &str) -> bool {
        self.subnets.iter().any(|held| held.owner == owner)
    }

    /// The gateways of the subnetwork that an address lies in.
    #[must_use]
    pub fn gateway_of(&self, address: Pair) -> Option<Pair> {
        self.subnets
            .iter()
            .find(|held| held.offset(address).is_some())
            .map(Held::gateway)
    }

    /// Addresses that rest; `now` in seconds of Unix time.
    #[must_use]
    pub fn resting(&self, now: u64) -> usize {
        let of = |held: &Held| {
            let offsets = held.resting.keys();
            offsets.filter(|offset| held.rests(**offset, now)).count()
        };
        self.subnets.iter().map(of).sum()
    }

    /// Hands out an address that is free and has rested; `now` in seconds of Unix time.
    pub fn take(&mut self, owner: &str, now: u64) -> Option<Pair> {
        for held in self.subnets.iter_mut().filter(|held| held.owner == owner) {
            let free = (FIRST..=held.last())
                .find(|offset| !held.used.contains(offset) && !held.rests(*offset, now));
            if let Some(offset) = free {
                held.resting.remove(&offset);
                held.used.insert(offset);
                return Some(held.pair(offset));
            }
        }
        None
    }

    /// Whether an address of `owner` only rests.
    #[must_use]
    pub fn has_resting(&self, owner: &str) -> bool {
        let mut own = self.subnets.iter().filter(|held| held.owner == owner);
        own.any(|held| !held.resting.is_empty())
    }

    /// Hands out the address that has rested longest, although not long enough, and counts it.
    pub fn take_resting(&mut self, owner: &str) -> Option<Pair> {
        let (index, offset) = self
            .subnets
            .iter()
            .enumerate()
            .filter(|(_, held)| held.owner == owner)
            .flat_map(|(index, held)| {
                held.resting
                    .iter()
                    .map(move |(offset, freed)| (*freed, index, *offset))
            })
            .min()
            .map(|(_, index, offset)| (index, offset))?;
        let held = self.subnets.get_mut(index)?;
        held.resting.remove(&offset);
        held.used.insert(offset);
        self.reused_early += 1;
        Some(held.pair(offset))
    }

    /// Marks an address as used, for a container that was there before this start.
    pub fn claim(&mut self, address: Pair) {
        for held in &mut self.subnets {
            if let Some(offset) = held.offset(address) {
                held.resting.remove(&offset);
                held.used.insert(offset);
                return;
            }
        }
    }

    /// Puts to rest what is handed out to nobody that is known: a process that is killed in the middle of a deploy
    /// may have written down the address and not the container.
    pub fn keep_only(&mut self, known: &[Pair], now: u64) {
        for held in &mut self.subnets {
            let kept: BTreeSet<u8> = known
                .iter()
                .filter_map(|address| held.offset(*address))
                .collect();
            for offset in held.used.difference(&kept) {
                held.resting.insert(*offset, now);
            }
            held.used = kept;
        }
    }

    /// Puts an address to rest.
    pub fn free(&mut self, address: Pair, now: u64) {
        for held in &mut self.subnets {
            if let Some(offset) = held.offset(address) {
                if held.used.remove(&offset) {
                    held.resting.insert(offset, now);
                }
                return;
            }
        }
    }

    /// Takes an address back that nobody saw: it need not rest.
    pub fn untake(&mut self, address: Pair) {
        for held in &mut self.subnets {
            if let Some(offset) = held.offset(address) {
                held.used.remove(&offset);
                return;
            }
        }
    }

    fn needed(&self, owner: &str, further: usize) -> usize {
        let live: usize = self
            .subnets
            .iter()
            .filter(|held| held.owner == owner)
            .map(|held| held.used.len())
            .sum();
        let capacity = self
            .subnets
            .iter()
            .find(|held| held.owner == owner)
            .map_or(1, Held::capacity);
        (live + further).div_ceil(capacity).max(1)
    }

    /// Whether one more subnetwork may be asked for: a node holds at most one more than its containers need.
    #[must_use]
    pub fn may_grow(&self, owner: &str) -> bool {
        let count = self
            .subnets
            .iter()
            .filter(|held| held.owner == owner)
            .count();
        count < self.needed(owner, 1) + 1
    }

    /// Removes and returns what is to be given back: subnetworks of former owners without a container (their addresses
    /// rest at the cluster, which hands none of them out to this node's new id), and of `owner` those beyond one more
    /// than needed. The first stays.
    pub fn give_back(&mut self, owner: &str, now: u64) -> Vec<Held> {
        let keep = self.needed(owner, 0) + 1;
        let mut own = self
            .subnets
            .iter()
            .filter(|held| held.owner == owner)
            .count();
        let mut given = Vec::new();
        let mut index = self.subnets.len();
        while index > 0 {
            index -= 1;
            let Some(held) = self.subnets.get(index) else {
                continue;
            };
            let foreign = held.owner != owner;
            let free = if foreign {
                held.used.is_empty()
            } else {
                held.is_idle(now) && own > keep
            };
            if free {
                if !foreign {
                    own -= 1;
                }
                given.push(self.subnets.remove(index));
            }
        }
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(subnets: u8) -> Ledger {
        let mut ledger = Ledger::default();
        for index in 0..subnets {
            let v6 = Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, u16::from(index) << 8);
            assert!(ledger.add(Some(Ipv4Addr::new(10, 18, 0, index * 64)), Some(v6), "n"));
        }
        ledger
    }

    #[test]
    fn sixty_one_containers_fit_and_both_families_run_in_parallel() {
        let mut ledger = ledger(1);
        let taken: Vec<Pair> = std::iter::from_fn(|| ledger.take("n", 0)).collect();
        assert_eq!(taken.len(), 61);
        assert_eq!(taken[0].v4.unwrap().to_string(), "10.18.0.2");
        assert_eq!(taken[0].v6.unwrap().to_string(), "fc00::2");
        assert_eq!(taken[60].v4.unwrap().to_string(), "10.18.0.62");
        assert_eq!(taken[60].v6.unwrap().to_string(), "fc00::3e");
        assert_eq!(
            taken.iter().collect::<std::collections::HashSet<_>>().len(),
            61
        );
    }

    #[test]
    fn a_freed_address_rests_and_the_oldest_is_reused_when_all_rest() {
        let mut ledger = ledger(1);
        let taken: Vec<Pair> = std::iter::from_fn(|| ledger.take("n", 0)).collect();
        ledger.free(taken[7], 100);
        ledger.free(taken[3], 101);
        assert_eq!(ledger.take("n", 159), None);
        assert_eq!(ledger.take_resting("n"), Some(taken[7]));
        assert_eq!(ledger.reused_early, 1);
        assert_eq!(ledger.take("n", 161), Some(taken[3]));
        assert_eq!(ledger.take_resting("n"), None);
    }

    #[test]
    fn an_address_that_nobody_saw_need_not_rest() {
        let mut ledger = ledger(1);
        let first = ledger.take("n", 0).unwrap();
        ledger.untake(first);
        assert_eq!(ledger.take("n", 0), Some(first));
    }

    #[test]
    fn what_nobody_has_is_handed_out_again() {
        let mut ledger = ledger(2);
        let taken: Vec<Pair> = (0..70).map(|_| ledger.take("n", 0).unwrap()).collect();
        ledger.keep_only(&taken[60..62], 100);
        assert_eq!(ledger.needed("n", 0), 1);
        let rested: Vec<Pair> = std::iter::from_fn(|| ledger.take("n", 160)).collect();
        assert_eq!(rested.len(), 2 * 61 - 2);
        assert!(!rested.contains(&taken[60]) && !rested.contains(&taken[61]));
    }

    #[test]
    fn a_node_holds_at_most_one_subnetwork_more_than_it_needs() {
        let mut ledger = ledger(1);
        assert!(ledger.may_grow("n"));
        ledger.add(Some(Ipv4Addr::new(10, 18, 0, 64)), None, "n");
        assert!(!ledger.may_grow("n"));
        for _ in 0..61 {
            ledger.take("n", 0).unwrap();
        }
        assert!(ledger.may_grow("n"));
    }

    #[test]
    fn what_is_not_needed_is_given_back_once_it_has_rested() {
        let mut ledger = ledger(3);
        let taken: Vec<Pair> = (0..150).map(|_| ledger.take("n", 0).unwrap()).collect();
        for address in &taken {
            ledger.free(*address, 10);
        }
        assert!(ledger.give_back("n", 20).is_empty());
        let given = ledger.give_back("n", 70);
        assert_eq!(given.len(), 1);
        assert_eq!(given[0].v4.unwrap().to_string(), "10.18.0.128");
        assert_eq!(ledger.give_back("other", 70).len(), 2);
    }

    #[test]
    fn a_former_ids_subnetwork_goes_back_with_its_last_container() {
        let mut ledger = ledger(1);
        let container = ledger.take("n", 0).unwrap();
        assert!(ledger.give_back("other", 10).is_empty());
        ledger.free(container, 10);
        assert_eq!(ledger.give_back("other", 10).len(), 1);
    }

    #[test]
    fn the_same_subnetwork_is_taken_in_once() {
        let mut ledger = ledger(1);
        assert!(!ledger.add(Some(Ipv4Addr::new(10, 18, 0, 0)), None, "n"));
        assert!(!ledger.add(None, None, "n"));
        assert_eq!(ledger.have("n"), [Ipv4Addr::new(10, 18, 0, 0)]);
        assert!(ledger.have("m").is_empty());
    }
}
