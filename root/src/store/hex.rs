//! Addresses as the store keeps them: the hex digits of their bytes, so that one address has one
//! text and scripts can count through a pool.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// 8 digits for IPv4, 32 for IPv6; IPv4-mapped is IPv4.
pub(crate) fn encode(address: IpAddr) -> String {
    let mut out = String::with_capacity(32);
    let mut put = |bytes: &[u8]| {
        for byte in bytes {
            // Writing to a String cannot fail.
            let _ = write!(out, "{byte:02x}");
        }
    };
    match address.to_canonical() {
        IpAddr::V4(v4) => put(&v4.octets()),
        IpAddr::V6(v6) => put(&v6.octets()),
    }
    out
}

/// Empty text for none.
pub(crate) fn encode_or_empty(address: Option<impl Into<IpAddr>>) -> String {
    address.map_or_else(String::new, |address| encode(address.into()))
}

pub(crate) fn decode(text: &str) -> Option<IpAddr> {
    match text.len() {
        8 => decode_v4(text).map(IpAddr::V4),
        32 => decode_v6(text).map(IpAddr::V6),
        _ => None,
    }
}

pub(crate) fn decode_v4(text: &str) -> Option<Ipv4Addr> {
    (text.len() == 8).then_some(())?;
    u32::from_str_radix(text, 16).ok().map(Ipv4Addr::from)
}

pub(crate) fn decode_v6(text: &str) -> Option<Ipv6Addr> {
    (text.len() == 32).then_some(())?;
    u128::from_str_radix(text, 16).ok().map(Ipv6Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives() {
        for text in ["10.30.0.1", "fdff:2000::1", "::1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(decode(&encode(address)), Some(address));
        }
        assert_eq!(encode("::ffff:10.30.0.1".parse().unwrap()), "0a1e0001");
        assert_eq!(decode(""), None);
    }
}
