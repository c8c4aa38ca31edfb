//! The contract's address plan (section 1), as the packet path asks it: what kind of address is this?

use net::address::Address;

/// What a destination address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// A Service IP or an Instance IP: `10.30.0.0/16`, `fdff::/16`.
    Semantic,
    /// A namespace IP: `10.18.0.0` to `10.29.255.255`, `fc00::` to `fdfd:ffff:…`.
    Namespace,
    /// Everything else.
    Outside,
}

/// The range that an address lies in.
#[inline(always)]
#[must_use]
pub fn range(address: Address) -> Range {
    if address.is_v4() {
        match address.v4_bits() >> 16 {
            0x0a1e => Range::Semantic,
            0x0a12..=0x0a1d => Range::Namespace,
            _ => Range::Outside,
        }
    } else {
        match address.0 >> 112 {
            0xfdff => Range::Semantic,
            0xfc00..=0xfdfd => Range::Namespace,
            _ => Range::Outside,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn ranges_end_where_the_contract_says() {
        let of = |text: &str| range(Address::from(text.parse::<IpAddr>().unwrap()));
        for (text, expected) in [
            ("10.17.255.255", Range::Outside),
            ("10.18.0.0", Range::Namespace),
            ("10.29.255.255", Range::Namespace),
            ("10.30.0.0", Range::Semantic),
            ("10.30.255.255", Range::Semantic),
            ("10.31.0.0", Range::Outside),
            ("fbff::1", Range::Outside),
            ("fc00::2", Range::Namespace),
            ("fdfd:ffff::1", Range::Namespace),
            ("fdfe::1", Range::Outside),
            ("fdff:2000::1", Range::Semantic),
            ("fe80::1", Range::Outside),
            ("8.8.8.8", Range::Outside),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }
}
