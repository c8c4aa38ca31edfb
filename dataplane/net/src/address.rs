//! One address type for both families.
//!
//! Tables keyed by address would otherwise exist twice. An IPv4 address is kept as its IPv4-mapped IPv6
//! form (RFC 4291 section 2.5.5.2), so one 128-bit key serves both. [`Headers`](crate::packet::Headers)
//! refuses IPv6 packets that carry mapped addresses, so the two families can never be mistaken.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const MAPPED: u128 = 0xffff_0000_0000;

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d`; the integer is in host order.
///
/// ```
/// use net::Address;
/// let address: Address = "10.18.0.2".parse::<std::net::IpAddr>().unwrap().into();
/// assert!(address.is_v4());
/// assert_eq!(address.to_string(), "10.18.0.2");
/// assert_eq!(address, Address::v4([10, 18, 0, 2]));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Address(pub u128);

impl Address {
    /// `0.0.0.0`.
    pub const UNSPECIFIED_V4: Address = Address(MAPPED);
    /// `::`.
    pub const UNSPECIFIED_V6: Address = Address(0);
    /// `ff02::1`, every node on the link (RFC 4291 section 2.7.1).
    pub const ALL_NODES: Address = Address(0xff02_0000_0000_0000_0000_0000_0000_0001);

    /// The IPv4 address with these octets.
    #[inline]
    #[must_use]
    pub const fn v4(octets: [u8; 4]) -> Address {
        Address::from_v4_bits(u32::from_be_bytes(octets))
    }

    /// The IPv4 address with this value (host order).
    #[inline]
    #[must_use]
    pub const fn from_v4_bits(bits: u32) -> Address {
        Address(MAPPED | bits as u128)
    }

    /// The IPv6 address with these octets.
    #[inline]
    #[must_use]
    pub const fn v6(octets: [u8; 16]) -> Address {
        Address(u128::from_be_bytes(octets))
    }

    /// Whether this is an IPv4 address.
    #[inline]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        self.0 >> 32 == 0xffff
    }

    /// The low 32 bits: of an IPv4 address, its value in host order.
    #[inline]
    #[must_use]
    pub const fn v4_bits(self) -> u32 {
        (self.0 & 0xffff_ffff) as u32
    }

    /// The four octets of an IPv4 address.
    #[inline]
    #[must_use]
    pub const fn v4_octets(self) -> Option<[u8; 4]> {
        if self.is_v4() {
            Some(self.v4_bits().to_be_bytes())
        } else {
            None
        }
    }

    /// The sixteen octets; of an IPv4 address, its mapped form.
    #[inline]
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The standard library's form; a mapped address becomes an IPv4 one.
    #[inline]
    #[must_use]
    pub const fn to_ip(self) -> IpAddr {
        if self.is_v4() {
            IpAddr::V4(Ipv4Addr::from_bits(self.v4_bits()))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(self.0))
        }
    }

    /// `0.0.0.0` or `::`.
    #[inline]
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        self.0 == MAPPED || self.0 == 0
    }

    /// In `224.0.0.0/4` or `ff00::/8`.
    #[inline]
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        if self.is_v4() {
            self.v4_bits() >> 28 == 0xe
        } else {
            self.0 >> 120 == 0xff
        }
    }

    /// `255.255.255.255`. A subnetwork's own broadcast address cannot be told without its prefix.
    #[inline]
    #[must_use]
    pub const fn is_broadcast(self) -> bool {
        self.0 == MAPPED | 0xffff_ffff
    }

    /// In `127.0.0.0/8`, or `::1`.
    #[inline]
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        self.0 == 1 || (self.is_v4() && self.v4_bits() >> 24 == 127)
    }

    /// In `169.254.0.0/16` or `fe80::/10`: never leaves its link.
    #[inline]
    #[must_use]
    pub const fn is_link_local(self) -> bool {
        if self.is_v4() {
            self.v4_bits() >> 16 == 0xa9fe
        } else {
            self.0 >> 118 == 0xfe80 >> 6
        }
    }

    /// Whether one single host can have this address as its source: neither unspecified, nor
    /// multicast, broadcast or IPv4's reserved `240.0.0.0/4`, nor loopback.
    #[inline]
    #[must_use]
    pub const fn is_host(self) -> bool {
        let reserved = self.is_v4() && (self.v4_bits() >> 28 >= 0xe || self.v4_bits() >> 24 == 0);
        !(reserved || self.is_unspecified() || self.is_multicast() || self.is_loopback())
    }

    /// The solicited-node multicast address of an IPv6 address (RFC 4291 section 2.7.1).
    #[inline]
    #[must_use]
    pub const fn solicited_node(self) -> Address {
        Address(0xff02_0000_0000_0000_0000_0001_ff00_0000 | (self.0 & 0xff_ffff))
    }
}

impl From<IpAddr> for Address {
    #[inline]
    fn from(ip: IpAddr) -> Address {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Ipv4Addr> for Address {
    #[inline]
    fn from(v4: Ipv4Addr) -> Address {
        Address::from_v4_bits(v4.to_bits())
    }
}

impl From<Ipv6Addr> for Address {
    #[inline]
    fn from(v6: Ipv6Addr) -> Address {
        Address(v6.to_bits())
    }
}

impl From<Address> for IpAddr {
    #[inline]
    fn from(address: Address) -> IpAddr {
        address.to_ip()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn one_key_per_address_however_it_is_written() {
        assert_eq!(address("fdff::1"), address("fdff:0:0:0:0:0:0:1"));
        assert_eq!(address("::ffff:10.18.0.2"), address("10.18.0.2"));
        assert_eq!(
            address("10.18.0.2").to_ip(),
            "10.18.0.2".parse::<IpAddr>().unwrap()
        );
        assert_eq!(address("fc00::2").v4_octets(), None);
    }

    #[test]
    fn kinds_of_address() {
        for text in [
            "0.0.0.0",
            "::",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
            "127.0.0.1",
            "::1",
            "240.0.0.1",
        ] {
            assert!(!address(text).is_host(), "{text}");
        }
        for text in [
            "10.18.0.2",
            "fc00::2",
            "fe80::1",
            "169.254.0.1",
            "223.255.255.255",
        ] {
            assert!(address(text).is_host(), "{text}");
        }
        assert!(address("fe80::1").is_link_local() && address("febf::1").is_link_local());
        assert!(!address("fec0::1").is_link_local());
        assert_eq!(
            address("fc00::12:3456").solicited_node(),
            address("ff02::1:ff12:3456")
        );
    }
}
