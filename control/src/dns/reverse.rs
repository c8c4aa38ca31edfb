//! Names of addresses (RFC 1035 section 3.5, RFC 3596 section 2.5): those of Service and Instance IPs are ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;
use protocol::address_plan::is_semantic;

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for, if it is semantic, and the zone of all of
/// those. What lies between the two is left to the host's resolvers, which know nothing of it either.
pub fn address(name: &Name) -> Option<(IpAddr, Name)> {
    let labels: Vec<&str> = name
        .iter()
        .map(std::str::from_utf8)
        .collect::<Result<_, _>>()
        .ok()?;
    let is = |label: &&str, text: &str| label.eq_ignore_ascii_case(text);
    let (address, apex) = match labels.as_slice() {
        [rest @ .., family, arpa] if is(family, "in-addr") && is(arpa, "arpa") => {
            let [d, c, b, a] = *<&[&str; 4]>::try_from(rest).ok()?;
            let octet = |text: &str| text.parse::<u8>().ok();
            let v4 = Ipv4Addr::new(octet(a)?, octet(b)?, octet(c)?, octet(d)?);
            (IpAddr::V4(v4), "30.10.in-addr.arpa.")
        }
        [rest @ .., family, arpa] if is(family, "ip6") && is(arpa, "arpa") => {
            let digits = <&[&str; 32]>::try_from(rest).ok()?;
            let mut bits = 0_u128;
            for digit in digits.iter().rev() {
                let one = (digit.len() == 1).then(|| u128::from_str_radix(digit, 16).ok())??;
                bits = bits << 4 | one;
            }
            (IpAddr::V6(Ipv6Addr::from_bits(bits)), "f.f.d.f.ip6.arpa.")
        }
        _ => return None,
    };
    let apex = Name::from_ascii(apex).ok()?;
    is_semantic(address).then_some((address, apex))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Option<String> {
        let (address, apex) = address(&Name::from_ascii(name).unwrap())?;
        assert!(apex.zone_of(&Name::from_ascii(name).unwrap()));
        Some(address.to_string())
    }

    #[test]
    fn semantic_addresses_alone_are_ours() {
        assert_eq!(of("1.0.30.10.in-addr.ARPA.").unwrap(), "10.30.0.1");
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.f.f.d.f.ip6.arpa.";
        assert_eq!(of(v6).unwrap(), "fdff:2000::1");
        for other in [
            "1.0.31.10.in-addr.arpa.",
            "30.10.in-addr.arpa.",
            "1.0.0.30.10.in-addr.arpa.",
            "256.0.30.10.in-addr.arpa.",
            "f.f.d.f.ip6.arpa.",
            "example.org.",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
