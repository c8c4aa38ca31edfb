//! The address plan (contract section 1): which range serves what, and how a position in a range
//! becomes an address. Indexes count from 0 in the order in which addresses are handed out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::IpType;

/// First IPv4 worker subnetwork.
pub const SUBNET_V4_FIRST: Ipv4Addr = Ipv4Addr::new(10, 18, 0, 0);
/// Addresses between one IPv4 worker subnetwork and the next.
pub const SUBNET_V4_STEP: u32 = 64;
/// Prefix length of an IPv4 worker subnetwork.
pub const SUBNET_V4_PREFIX: u8 = 26;
/// IPv4 worker subnetworks: `10.18.0.0` to `10.29.255.192`.
pub const SUBNET_V4_COUNT: u32 = 12_288;
/// First IPv6 worker subnetwork.
pub const SUBNET_V6_FIRST: Ipv6Addr = Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0);
/// Addresses between one IPv6 worker subnetwork and the next.
pub const SUBNET_V6_STEP: u128 = 256;
/// Prefix length of an IPv6 worker subnetwork.
pub const SUBNET_V6_PREFIX: u8 = 120;
/// IPv6 worker subnetworks: `fc00::` up to and without `fdfe::`.
pub const SUBNET_V6_COUNT: u128 = (0xfdfe - 0xfc00) << 104;
/// Containers that fit into one IPv4 worker subnetwork: `+2` to `+62`.
pub const SUBNET_V4_CONTAINERS: u32 = 61;
/// Containers that fit into one IPv6 worker subnetwork: `+2` to `+254`.
pub const SUBNET_V6_CONTAINERS: u32 = 253;

/// Values that each of the two low octets of `10.30.x.y` takes.
pub const SEMANTIC_V4_OCTET: u32 = 254;
/// Service and Instance IPs, IPv4: `10.30.0.0` to `10.30.253.253`.
pub const SEMANTIC_V4_COUNT: u32 = SEMANTIC_V4_OCTET * SEMANTIC_V4_OCTET;
/// Prefix length of each IPv6 pool inside `fdff::/16`.
pub const SEMANTIC_V6_PREFIX: u8 = 21;
/// Addresses in one IPv6 pool.
pub const SEMANTIC_V6_COUNT: u128 = 1 << (128 - SEMANTIC_V6_PREFIX as u32);

/// An IPv6 pool inside `fdff::/16`, named by its second 16-bit group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolV6 {
    /// Instance IPs, `fdff:0000::/21`.
    Instance,
    /// Instance IPs once the first pool is used up, `fdff:0800::/21`.
    InstanceOverflow,
    /// Closest Service IPs, `fdff:1000::/21`.
    Closest,
    /// Round-robin Service IPs, `fdff:2000::/21`.
    RoundRobin,
    /// Underutilized Service IPs, `fdff:3000::/21`.
    Underutilized,
}

impl PoolV6 {
    /// Every pool in use.
    pub const ALL: [Self; 5] = [
        Self::Instance,
        Self::InstanceOverflow,
        Self::Closest,
        Self::RoundRobin,
        Self::Underutilized,
    ];

    /// The pool's first address.
    #[must_use]
    pub const fn first(self) -> Ipv6Addr {
        let group = match self {
            Self::Instance => 0x0000,
            Self::InstanceOverflow => 0x0800,
            Self::Closest => 0x1000,
            Self::RoundRobin => 0x2000,
            Self::Underutilized => 0x3000,
        };
        Ipv6Addr::new(0xfdff, group, 0, 0, 0, 0, 0, 0)
    }

    /// The address at an index, `None` past the end.
    #[must_use]
    pub fn address(self, index: u128) -> Option<Ipv6Addr> {
        (index < SEMANTIC_V6_COUNT).then(|| Ipv6Addr::from(u128::from(self.first()) + index))
    }

    /// The index of an address, `None` when it lies elsewhere.
    #[must_use]
    pub fn index(self, address: Ipv6Addr) -> Option<u128> {
        u128::from(address)
            .checked_sub(u128::from(self.first()))
            .filter(|index| *index < SEMANTIC_V6_COUNT)
    }

    /// Whether the address lies in this pool.
    #[must_use]
    pub fn contains(self, address: Ipv6Addr) -> bool {
        self.index(address).is_some()
    }

    /// The pool that an address lies in.
    #[must_use]
    pub fn of(address: Ipv6Addr) -> Option<Self> {
        Self::ALL.into_iter().find(|pool| pool.contains(address))
    }

    /// The pool of a Service IP policy; `None` for types without one.
    #[must_use]
    pub fn of_policy(policy: &IpType) -> Option<Self> {
        match policy {
            IpType::RoundRobin => Some(Self::RoundRobin),
            IpType::Closest => Some(Self::Closest),
            IpType::Underutilized => Some(Self::Underutilized),
            _ => None,
        }
    }
}

/// The Service or Instance IPv4 address at an index, `None` past the end.
#[must_use]
pub fn semantic_v4(index: u32) -> Option<Ipv4Addr> {
    if index >= SEMANTIC_V4_COUNT {
        return None;
    }
    let third = u8::try_from(index / SEMANTIC_V4_OCTET).ok()?;
    let fourth = u8::try_from(index % SEMANTIC_V4_OCTET).ok()?;
    Some(Ipv4Addr::new(10, 30, third, fourth))
}

/// The index of a Service or Instance IPv4 address, `None` for any other (also for octets 254
/// and 255, which are never handed out).
#[must_use]
pub fn semantic_v4_index(address: Ipv4Addr) -> Option<u32> {
    let [first, second, third, fourth] = address.octets();
    let (third, fourth) = (u32::from(third), u32::from(fourth));
    (first == 10 && second == 30 && third < SEMANTIC_V4_OCTET && fourth < SEMANTIC_V4_OCTET)
        .then(|| third * SEMANTIC_V4_OCTET + fourth)
}

/// The IPv4 worker subnetwork at an index, `None` past the end.
#[must_use]
pub fn subnet_v4(index: u32) -> Option<Ipv4Addr> {
    (index < SUBNET_V4_COUNT)
        .then(|| Ipv4Addr::from(u32::from(SUBNET_V4_FIRST) + index * SUBNET_V4_STEP))
}

/// The index of an IPv4 worker subnetwork; `None` when the address starts none.
#[must_use]
pub fn subnet_v4_index(address: Ipv4Addr) -> Option<u32> {
    let offset = u32::from(address).checked_sub(u32::from(SUBNET_V4_FIRST))?;
    (offset % SUBNET_V4_STEP == 0 && offset / SUBNET_V4_STEP < SUBNET_V4_COUNT)
        .then_some(offset / SUBNET_V4_STEP)
}

/// The IPv6 worker subnetwork at an index, `None` past the end.
#[must_use]
pub fn subnet_v6(index: u128) -> Option<Ipv6Addr> {
    (index < SUBNET_V6_COUNT)
        .then(|| Ipv6Addr::from(u128::from(SUBNET_V6_FIRST) + index * SUBNET_V6_STEP))
}

/// The index of an IPv6 worker subnetwork; `None` when the address starts none.
#[must_use]
pub fn subnet_v6_index(address: Ipv6Addr) -> Option<u128> {
    let offset = u128::from(address).checked_sub(u128::from(SUBNET_V6_FIRST))?;
    (offset % SUBNET_V6_STEP == 0 && offset / SUBNET_V6_STEP < SUBNET_V6_COUNT)
        .then_some(offset / SUBNET_V6_STEP)
}

/// Whether an address lies in `10.30.0.0/16` or `fdff::/16`: a Service or Instance IP.
#[must_use]
pub fn is_semantic(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets()[..2] == [10, 30],
        IpAddr::V6(v6) => v6.segments()[0] == 0xfdff,
    }
}

/// Whether an address lies in a worker subnetwork's range: a namespace IP or a gateway.
#[must_use]
pub fn is_namespace(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets()[0] == 10 && (18..=29).contains(&v4.octets()[1]),
        IpAddr::V6(v6) => (0xfc00..0xfdfe).contains(&v6.segments()[0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_semantic_ipv4_pool_counts_both_low_octets_to_253() {
        let at = |index| semantic_v4(index).unwrap().to_string();
        assert_eq!(at(0), "10.30.0.0");
        assert_eq!(at(1), "10.30.0.1");
        assert_eq!(at(253), "10.30.0.253");
        assert_eq!(at(254), "10.30.1.0");
        assert_eq!(at(SEMANTIC_V4_COUNT - 1), "10.30.253.253");
        assert_eq!(SEMANTIC_V4_COUNT, 64_516);
        assert!(semantic_v4(SEMANTIC_V4_COUNT).is_none());
        assert!(semantic_v4_index(Ipv4Addr::new(10, 30, 0, 254)).is_none());
        assert!(semantic_v4_index(Ipv4Addr::new(10, 31, 0, 0)).is_none());
        for index in 0..SEMANTIC_V4_COUNT {
            assert_eq!(semantic_v4_index(semantic_v4(index).unwrap()), Some(index));
        }
    }

    #[test]
    fn subnetworks_end_where_the_plan_ends() {
        assert_eq!(subnet_v4(0).unwrap(), SUBNET_V4_FIRST);
        assert_eq!(
            subnet_v4(SUBNET_V4_COUNT - 1).unwrap().to_string(),
            "10.29.255.192"
        );
        assert!(subnet_v4(SUBNET_V4_COUNT).is_none());
        assert!(subnet_v4_index("10.18.0.1".parse().unwrap()).is_none());
        assert!(subnet_v4_index("10.30.0.0".parse().unwrap()).is_none());
        assert_eq!(subnet_v6(1).unwrap().to_string(), "fc00::100");
        let last = subnet_v6(SUBNET_V6_COUNT - 1).unwrap();
        assert_eq!(last.to_string(), "fdfd:ffff:ffff:ffff:ffff:ffff:ffff:ff00");
        assert_eq!(subnet_v6_index(last), Some(SUBNET_V6_COUNT - 1));
        assert!(subnet_v6(SUBNET_V6_COUNT).is_none());
    }

    #[test]
    fn each_ipv6_pool_is_a_21_bit_prefix_of_its_own() {
        let last = PoolV6::RoundRobin.address(SEMANTIC_V6_COUNT - 1).unwrap();
        assert_eq!(last.segments()[1], 0x27ff);
        assert!(PoolV6::RoundRobin.address(SEMANTIC_V6_COUNT).is_none());
        assert_eq!(PoolV6::of(last), Some(PoolV6::RoundRobin));
        assert_eq!(
            PoolV6::of("fdff:0800::".parse().unwrap()),
            Some(PoolV6::InstanceOverflow)
        );
        assert_eq!(PoolV6::of("fdff:4000::".parse().unwrap()), None);
        assert_eq!(PoolV6::Instance.address(2).unwrap().to_string(), "fdff::2");
    }

    #[test]
    fn ranges_tell_semantic_from_namespace() {
        assert!(is_semantic("10.30.0.1".parse().unwrap()));
        assert!(is_semantic("::ffff:10.30.0.1".parse().unwrap()));
        assert!(is_semantic("fdff:2000::".parse().unwrap()));
        assert!(is_namespace("10.29.255.254".parse().unwrap()));
        assert!(is_namespace("fdfd::2".parse().unwrap()));
        assert!(!is_namespace("fdfe::2".parse().unwrap()));
        assert!(!is_namespace("10.30.0.1".parse().unwrap()));
    }
}
