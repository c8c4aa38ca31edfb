//! Scalars as the peers write them: numbers as text, text as numbers, null for nothing.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

#[derive(Deserialize)]
#[serde(untagged, expecting = "neither a number nor text")]
enum Loose {
    Nothing(()),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
}

impl Loose {
    fn text(self) -> Option<String> {
        match self {
            Self::Nothing(()) => None,
            Self::Unsigned(number) => Some(number.to_string()),
            Self::Signed(number) => Some(number.to_string()),
            Self::Float(number) => Some(number.to_string()),
            Self::Text(text) => Some(text),
        }
    }
}

fn read_port<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    let Some(text) = Loose::deserialize(from)?.text() else {
        return Ok(None);
    };
    let text = text.trim();
    if crate::address::is_nothing(text) {
        return Ok(None);
    }
    let number: u16 = text
        .parse()
        .map_err(|_| D::Error::custom(format!("`{text}` is not a port (0 to 65535)")))?;
    // Some writers say 0 for "not known".
    Ok((number != 0).then_some(number))
}

/// A port that is written as a number and read as number, text or nothing.
pub mod port_number {
    use super::{Deserializer, Serializer};

    /// Writes a number, or null.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(value: &Option<u16>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(port) => to.serialize_u16(*port),
            None => to.serialize_none(),
        }
    }

    /// Reads a number, text, null or empty text.
    ///
    /// # Errors
    /// The value is no port.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
        super::read_port(from)
    }
}

/// A port that is written as text (a node's announcements) and read as number, text or nothing.
pub mod port_text {
    use super::{Deserializer, Serializer};

    /// Writes text; empty when there is none.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(value: &Option<u16>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(port) => to.collect_str(port),
            None => to.serialize_str(""),
        }
    }

    /// Reads a number, text, null or empty text.
    ///
    /// # Errors
    /// The value is no port.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
        super::read_port(from)
    }
}

/// Text that may come as a number (identifiers); null is empty text.
///
/// # Errors
/// The value is an object, a list or a boolean.
pub fn text_or_number<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Loose::deserialize(from)?.text().unwrap_or_default())
}

/// A whole number that may come as text, for instance numbers (-1 = all of them).
///
/// # Errors
/// The value is no whole number.
pub fn whole_number<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    let text = Loose::deserialize(from)?
        .text()
        .ok_or_else(|| D::Error::custom("a number is missing"))?;
    text.trim()
        .parse()
        .map_err(|_| D::Error::custom(format!("`{text}` is not a whole number")))
}

/// An instance number (0 upwards) that may come as text.
///
/// # Errors
/// The value is no whole number from 0 to 4294967295.
pub fn instance_number<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let number = whole_number(from)?;
    u32::try_from(number)
        .map_err(|_| D::Error::custom(format!("`{number}` is not an instance number")))
}

/// A number from 0 to 255 that may come as text; null or empty text is none.
///
/// # Errors
/// The value is no such number.
pub fn optional_byte<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u8>, D::Error> {
    match Loose::deserialize(from)?.text() {
        Some(text) if !text.trim().is_empty() => text
            .trim()
            .parse()
            .map(Some)
            .map_err(|_| D::Error::custom(format!("`{text}` is not a number from 0 to 255"))),
        _ => Ok(None),
    }
}

/// Reads null like an absent field.
///
/// # Errors
/// The value is neither null nor of the type.
pub fn null_is_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
pub(crate) fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Sample {
        #[serde(default, with = "super::port_number")]
        number: Option<u16>,
        #[serde(default, with = "super::port_text")]
        text: Option<u16>,
        #[serde(default, deserialize_with = "super::text_or_number")]
        id: String,
    }

    #[test]
    fn ports_come_as_number_or_text_and_leave_as_the_reader_expects() {
        let sample: Sample =
            serde_json::from_str(r#"{"number":"50103","text":50103,"id":7}"#).unwrap();
        assert_eq!(
            serde_json::to_string(&sample).unwrap(),
            r#"{"number":50103,"text":"50103","id":"7"}"#
        );
        let nothing: Sample =
            serde_json::from_str(r#"{"number":null,"text":"","id":"x"}"#).unwrap();
        assert_eq!((nothing.number, nothing.text), (None, None));
        assert!(serde_json::from_str::<Sample>(r#"{"number":65536}"#).is_err());
        assert!(serde_json::from_str::<Sample>(r#"{"number":"http"}"#).is_err());
    }
}
