//! Addresses as text. Every comparison in the managers is by address, never by text, so text is
//! turned into an address on the way in, and one canonical text leaves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an IP address")]
pub struct NotAnAddress(pub String);

/// Parses an address; an IPv4-mapped IPv6 address is the IPv4 address.
///
/// # Errors
/// The text is no IPv4 dotted quad and no IPv6 address.
pub fn parse(text: &str) -> Result<IpAddr, NotAnAddress> {
    text.trim()
        .parse::<IpAddr>()
        .map(|address| address.to_canonical())
        .map_err(|_| NotAnAddress(text.to_owned()))
}

/// Parses the address segment of a root URL, where IPv4 is written with `_` for `.`
/// (`10_30_0_1`) and IPv6 as it is. Dots are accepted too.
///
/// # Errors
/// The text is neither form.
pub fn parse_path_segment(text: &str) -> Result<IpAddr, NotAnAddress> {
    parse(&text.replace('_', ".")).map_err(|_| NotAnAddress(text.to_owned()))
}

/// Writes an address as the segment of a root URL: IPv4 with `_` for `.`, IPv6 as it is.
#[must_use]
pub fn path_segment(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_string().replace('.', "_"),
        IpAddr::V6(v6) => v6.to_string(),
    }
}

/// True for the texts by which peers say "no address": empty, or Go's and Python's nothing.
#[must_use]
pub fn is_nothing(text: &str) -> bool {
    matches!(text.trim(), "" | "<nil>" | "None" | "null")
}

/// Serde for an optional address; nothing is written as empty text.
///
/// Use on fields that the contract always carries.
pub mod or_empty {
    use super::FromText;
    use serde::{Deserializer, Serializer};

    /// Writes the canonical text, or empty text.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<T: FromText, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(address) => to.collect_str(address),
            None => to.serialize_str(""),
        }
    }

    /// Reads text, null or nothing.
    ///
    /// # Errors
    /// The text is not an address of this family.
    pub fn deserialize<'de, T: FromText, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        super::read_optional(from)
    }
}

/// Serde for an optional address; nothing is written as null (combine with
/// `skip_serializing_if` to leave the key out).
pub mod or_null {
    use super::FromText;
    use serde::{Deserializer, Serializer};

    /// Writes the canonical text, or null.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<T: FromText, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(address) => to.collect_str(address),
            None => to.serialize_none(),
        }
    }

    /// Reads text, null or nothing.
    ///
    /// # Errors
    /// The text is not an address of this family.
    pub fn deserialize<'de, T: FromText, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        super::read_optional(from)
    }
}

fn read_optional<'de, T: FromText, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    let text: Option<String> = serde::Deserialize::deserialize(from)?;
    match text {
        Some(text) if !is_nothing(&text) => T::from_text(&text)
            .map(Some)
            .map_err(serde::de::Error::custom),
        _ => Ok(None),
    }
}

/// An address type that is read from text as any peer writes it.
pub trait FromText: Sized + std::fmt::Display {
    /// Reads one address of this family.
    ///
    /// # Errors
    /// The text is no address, or of the other family.
    fn from_text(text: &str) -> Result<Self, NotAnAddress>;
}

impl FromText for IpAddr {
    fn from_text(text: &str) -> Result<Self, NotAnAddress> {
        parse(text)
    }
}

impl FromText for Ipv4Addr {
    fn from_text(text: &str) -> Result<Self, NotAnAddress> {
        match parse(text)? {
            IpAddr::V4(v4) => Ok(v4),
            IpAddr::V6(_) => Err(NotAnAddress(text.to_owned())),
        }
    }
}

impl FromText for Ipv6Addr {
    fn from_text(text: &str) -> Result<Self, NotAnAddress> {
        match parse(text)? {
            IpAddr::V6(v6) => Ok(v6),
            IpAddr::V4(_) => Err(NotAnAddress(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_one_value_whatever_its_text() {
        let exploded = "fdff:0000:0000:0000:0000:0000:0000:0001";
        assert_eq!(parse(exploded).unwrap(), parse("FDFF::1").unwrap());
        assert_eq!(parse("::ffff:10.0.0.1").unwrap().to_string(), "10.0.0.1");
        assert_eq!(parse(exploded).unwrap().to_string(), "fdff::1");
    }

    #[test]
    fn path_segments_carry_ipv4_with_underscores() {
        assert_eq!(
            parse_path_segment("10_30_0_1").unwrap().to_string(),
            "10.30.0.1"
        );
        assert_eq!(
            parse_path_segment("10.30.0.1").unwrap().to_string(),
            "10.30.0.1"
        );
        assert_eq!(
            parse_path_segment("fdff:2000::1").unwrap().to_string(),
            "fdff:2000::1"
        );
        assert!(parse_path_segment("10_30_999_foo").is_err());
        assert_eq!(path_segment("10.30.0.1".parse().unwrap()), "10_30_0_1");
        assert_eq!(path_segment("fdff::1".parse().unwrap()), "fdff::1");
    }
}
