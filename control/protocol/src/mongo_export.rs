//! Reading what `mongoexport` writes of a reference manager's collections: one document a line, or
//! one list of them (`--jsonArray`), in either form of MongoDB's extended JSON.
//!
//! The managers' own backups have the same form, so that one reader serves both.

use std::fmt;
use std::io::{self, BufRead};

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::Value;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError<E> {
    /// The file itself.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not JSON there.
    #[error("document {number} is no JSON: {error}")]
    Json {
        /// Which document, from 1.
        number: usize,
        /// What and where.
        error: serde_json::Error,
    },
    /// The reader of the documents refused one.
    #[error("document {number}: {error}")]
    Document {
        /// Which document, from 1.
        number: usize,
        /// Why.
        error: E,
    },
}

/// Hands over each document of a file, extended JSON resolved (see [`plain`]). Answers how many
/// there were.
///
/// # Errors
/// See [`ExportError`]; documents before the faulty one were handed over.
pub fn documents<E: fmt::Display>(
    mut from: impl BufRead,
    mut each: impl FnMut(Value) -> Result<(), E>,
) -> Result<usize, ExportError<E>> {
    let mut number = 0;
    if !starts_with_list(&mut from)? {
        for document in serde_json::Deserializer::from_reader(from).into_iter::<Value>() {
            number += 1;
            let document = document.map_err(|error| ExportError::Json { number, error })?;
            each(plain(document)).map_err(|error| ExportError::Document { number, error })?;
        }
        return Ok(number);
    }
    let mut refused = None;
    let mut reader = serde_json::Deserializer::from_reader(from);
    let list = List {
        number: &mut number,
        each: |document| {
            each(plain(document)).map_err(|error| {
                refused = Some(error);
            })
        },
    };
    let read = list.deserialize(&mut reader).and_then(|()| reader.end());
    match (refused, read) {
        (Some(error), _) => Err(ExportError::Document { number, error }),
        (None, Err(error)) => Err(ExportError::Json {
            number: number + 1,
            error,
        }),
        (None, Ok(())) => Ok(number),
    }
}

/// Skips white space and a byte order mark.
fn starts_with_list(from: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let buffer = from.fill_buf()?;
        let Some(first) = buffer.first() else {
            return Ok(false);
        };
        if first.is_ascii_whitespace() || [0xef, 0xbb, 0xbf].contains(first) {
            from.consume(1);
        } else {
            return Ok(*first == b'[');
        }
    }
}

struct List<'a, F> {
    number: &'a mut usize,
    each: F,
}

impl<'de, F: FnMut(Value) -> Result<(), ()>> DeserializeSeed<'de> for List<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(Value) -> Result<(), ()>> Visitor<'de> for List<'_, F> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a list of documents")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(document) = list.next_element()? {
            *self.number += 1;
            (self.each)(document)
                .map_err(|()| serde::de::Error::custom("the document was refused"))?;
        }
        Ok(())
    }
}

/// Resolves extended JSON: `{"$oid": "…"}` is its text, `{"$numberInt": "7"}` the number 7.
#[must_use]
pub fn plain(value: Value) -> Value {
    match value {
        Value::Array(list) => list.into_iter().map(plain).collect(),
        Value::Object(fields) => {
            if fields.len() == 1
                && let Some((key, inner)) = fields.iter().next()
                && let Some(resolved) = resolve(key, inner)
            {
                return resolved;
            }
            fields
                .into_iter()
                .map(|(key, value)| (key, plain(value)))
                .collect()
        }
        other => other,
    }
}

fn resolve(key: &str, inner: &Value) -> Option<Value> {
    match key {
        "$oid" | "$symbol" => inner.as_str().map(Value::from),
        "$numberInt" | "$numberLong" | "$numberDouble" | "$numberDecimal" => match inner {
            Value::Number(_) => Some(inner.clone()),
            Value::String(text) => serde_json::Number::deserialize(
                &mut serde_json::Deserializer::from_str(text.trim()),
            )
            .ok()
            .map(Value::Number),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Value>, String> {
        let mut all = Vec::new();
        documents(text.as_bytes(), |document| {
            if document["bad"] == true {
                return Err("bad");
            }
            all.push(document);
            Ok(())
        })
        .map_err(|error| error.to_string())
        .map(|count| {
            assert_eq!(count, all.len());
            all
        })
    }

    #[test]
    fn lines_and_lists_say_the_same() {
        let lines = "{\"a\":1}\n{\"a\":{\"$numberInt\":\"2\"}}\n\n";
        let list = "\u{feff} [{\"a\":1},\n{\"a\":{\"$numberLong\":\"2\"}}]\n";
        assert_eq!(read(lines), read(list));
        assert_eq!(read(lines).unwrap().len(), 2);
        assert_eq!(read("").unwrap(), read("[]").unwrap());
    }

    #[test]
    fn extended_json_is_resolved_at_any_depth() {
        let read = read(
            r#"{"_id":{"$oid":"cc"},"list":[{"n":{"$numberInt":"-1"},"d":{"$date":"x"}},{"$numberDouble":"1.0"}]}"#,
        );
        assert_eq!(
            read.unwrap()[0],
            serde_json::json!({"_id":"cc","list":[{"n":-1,"d":{"$date":"x"}},1.0]})
        );
    }

    #[test]
    fn an_error_names_the_document() {
        for text in ["{}\n{\"a\":", "[{},{\"a\":"] {
            assert!(read(text).unwrap_err().starts_with("document 2 is no JSON"));
        }
        for text in ["{}\n{\"bad\":true}", "[{},{\"bad\":true}]"] {
            assert_eq!(read(text).unwrap_err(), "document 2: bad");
        }
        assert!(read("[{}] x").is_err());
    }
}
