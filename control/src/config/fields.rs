//! Reading one JSON object field by field, each with its own complaint.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::ConfigError;

/// The fields of one object in one file.
pub(super) struct Fields {
    file: PathBuf,
    prefix: String,
    map: Map<String, Value>,
}

impl Fields {
    pub(super) fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let json = |problem: String| ConfigError::Json {
            file: file.to_owned(),
            problem,
        };
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(Self::of(file.to_owned(), String::new(), map)),
            Ok(_) => Err(json("the outermost value is something else".to_owned())),
            Err(error) => Err(json(error.to_string())),
        }
    }

    fn of(file: PathBuf, prefix: String, map: Map<String, Value>) -> Self {
        let map = map
            .into_iter()
            .map(|(key, value)| (key.to_ascii_lowercase(), value))
            .collect();
        Self { file, prefix, map }
    }

    pub(super) fn wrong(
        &self,
        field: &str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Field {
            file: self.file.clone(),
            field: format!("{}{field}", self.prefix),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    fn value(&self, field: &str) -> Option<&Value> {
        self.map
            .get(&field.to_ascii_lowercase())
            .filter(|value| !value.is_null())
    }

    /// Text, or a number written as one; empty text is nothing.
    pub(super) fn text(&self, field: &str) -> Result<Option<String>, ConfigError> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.trim().to_owned())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => {
                Err(self.wrong(field, format!("{other} is not text"), "write it in quotes"))
            }
        }
    }

    /// A whole number in a range, as number or text.
    pub(super) fn number(
        &self,
        field: &str,
        least: u64,
        most: u64,
    ) -> Result<Option<u64>, ConfigError> {
        let Some(text) = self.text(field)? else {
            return Ok(None);
        };
        match text.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(
                field,
                format!("`{text}` is not a number from {least} to {most}"),
                format!("write one from {least} to {most}, or leave the field out for its default"),
            )),
        }
    }

    pub(super) fn port(&self, field: &str) -> Result<Option<u16>, ConfigError> {
        Ok(self
            .number(field, 1, 65_535)?
            .and_then(|port| u16::try_from(port).ok()))
    }

    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>, ConfigError> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(Value::String(text)) if text.is_empty() || text.eq_ignore_ascii_case("false") => {
                Ok(Some(false))
            }
            Some(other) => Err(self.wrong(
                field,
                format!("{other} is not true or false"),
                "write true or false",
            )),
        }
    }

    /// A nested object; absent is an empty one.
    pub(super) fn object(&self, field: &str) -> Result<Self, ConfigError> {
        let map = match self.value(field) {
            None => Map::new(),
            Some(Value::Object(map)) => map.clone(),
            Some(other) => {
                return Err(self.wrong(
                    field,
                    format!("{other} is not an object"),
                    "write {\"Uplink\": \"socket\"}",
                ));
            }
        };
        Ok(Self::of(self.file.clone(), format!("{field}."), map))
    }
}
