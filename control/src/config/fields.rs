//! Reading one JSON object field by field, each with its own complaint.
//!
//! An operator who corrects a file wants all that is wrong with it at once, so complaints are gathered: a reader hands
//! each to [`Fields::or`] or [`Fields::maybe`] and goes on with a default that nobody will see. Fields that no reader
//! asks for are unknown.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value};

use super::settings::{File, Override};
use super::{Complaints, ConfigError};

/// The fields of one object in one file.
pub(super) struct Fields {
    path: PathBuf,
    prefix: String,
    /// By name in lower case.
    map: Map<String, Value>,
    /// The names as they were written.
    written: Vec<String>,
    overrides: Rc<Vec<Override>>,
    complaints: Rc<RefCell<Complaints>>,
    /// The names that readers asked for.
    asked: RefCell<Vec<String>>,
}

/// Unknown names this close to a known one are taken for a slip.
const CLOSE: usize = 2;

impl Fields {
    pub(super) fn parse(
        path: &Path,
        text: &str,
        (file, overrides): (File, &[Override]),
    ) -> Result<Self, ConfigError> {
        let json = |problem: String| ConfigError::Json {
            file: path.to_owned(),
            problem,
        };
        let map = match serde_json::from_str(text) {
            Ok(Value::Object(map)) => map,
            Ok(_) => return Err(json("the outermost value is something else".to_owned())),
            Err(error) => return Err(json(error.to_string())),
        };
        let overrides = overrides
            .iter()
            .filter(|given| given.setting.file == file)
            .cloned()
            .collect();
        let fields = Self {
            path: path.to_owned(),
            prefix: String::new(),
            map: Map::new(),
            written: Vec::new(),
            overrides: Rc::new(overrides),
            complaints: Rc::default(),
            asked: RefCell::default(),
        };
        Ok(fields.with(String::new(), map))
    }

    fn with(&self, prefix: String, map: Map<String, Value>) -> Self {
        let mut fields = Self {
            path: self.path.clone(),
            prefix,
            map: Map::new(),
            written: Vec::new(),
            overrides: Rc::clone(&self.overrides),
            complaints: Rc::clone(&self.complaints),
            asked: RefCell::default(),
        };
        for (key, value) in map {
            if fields.map.contains_key(&key.to_ascii_lowercase()) {
                let twice = fields.wrong(
                    &key,
                    "it is there twice, in upper and lower case",
                    "remove one of them",
                );
                fields.complaints.borrow_mut().errors.push(twice);
            }
            fields.map.insert(key.to_ascii_lowercase(), value);
            fields.written.push(key);
        }
        fields
    }

    fn given(&self, field: &str) -> Option<&Override> {
        let path = format!("{}{field}", self.prefix);
        self.overrides
            .iter()
            .find(|given| given.setting.field.eq_ignore_ascii_case(&path))
    }

    pub(super) fn wrong(
        &self,
        field: &str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ConfigError {
        let (problem, remedy) = (problem.into(), remedy.into());
        let path = format!("{}{field}", self.prefix);
        match self.given(field) {
            Some(given) => ConfigError::Given {
                given: given.source(),
                field: path,
                problem,
                remedy,
            },
            None => ConfigError::Field {
                file: self.path.clone(),
                field: path,
                problem,
                remedy,
            },
        }
    }

    /// Says something that need not keep anyone from starting.
    pub(super) fn warn(&self, field: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        let warning = self.wrong(field, problem, remedy);
        self.complaints.borrow_mut().warnings.push(warning);
    }

    /// Keeps a complaint.
    pub(super) fn complain(&self, error: ConfigError) {
        self.complaints.borrow_mut().errors.push(error);
    }

    /// A value, or with a complaint or without a value the default.
    pub(super) fn or<T>(&self, outcome: Result<Option<T>, ConfigError>, default: T) -> T {
        self.maybe(outcome).unwrap_or(default)
    }

    /// A value that may be missing.
    pub(super) fn maybe<T>(&self, outcome: Result<Option<T>, ConfigError>) -> Option<T> {
        match outcome {
            Ok(value) => value,
            Err(error) => {
                self.complain(error);
                None
            }
        }
    }

    fn value(&self, field: &str) -> Option<Value> {
        self.asked.borrow_mut().push(field.to_owned());
        if let Some(given) = self.given(field) {
            return Some(Value::String(given.value.clone()));
        }
        self.map
            .get(&field.to_ascii_lowercase())
            .filter(|value| !value.is_null())
            .cloned()
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
        let remedy =
            format!("write one from {least} to {most}, or leave the field out for its default");
        let text = match self.value(field) {
            Some(other @ (Value::Bool(_) | Value::Array(_) | Value::Object(_))) => {
                return Err(self.wrong(field, format!("{other} is not a number"), remedy));
            }
            _ => self.text(field)?,
        };
        let Some(text) = text else {
            return Ok(None);
        };
        match text.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(
                field,
                format!("`{text}` is not a number from {least} to {most}"),
                remedy,
            )),
        }
    }

    pub(super) fn port(&self, field: &str) -> Result<Option<u16>, ConfigError> {
        Ok(self
            .number(field, 1, 65_535)?
            .and_then(|port| u16::try_from(port).ok()))
    }

    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>, ConfigError> {
        let is = |text: &str, words: [&str; 2]| {
            let text = text.trim();
            words.iter().any(|word| text.eq_ignore_ascii_case(word))
        };
        match self.value(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(Value::String(text)) if is(&text, ["true", "1"]) => Ok(Some(true)),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(Some(false)),
            Some(Value::String(text)) if is(&text, ["false", "0"]) => Ok(Some(false)),
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
            Some(Value::Object(map)) => map,
            Some(other) => {
                return Err(self.wrong(
                    field,
                    format!("{other} is not an object"),
                    "write {\"Uplink\": \"socket\"}",
                ));
            }
        };
        Ok(self.with(format!("{}{field}.", self.prefix), map))
    }

    /// The same, with the complaint kept.
    pub(super) fn object_or_empty(&self, field: &str) -> Self {
        self.object(field).unwrap_or_else(|error| {
            self.complain(error);
            self.with(format!("{}{field}.", self.prefix), Map::new())
        })
    }

    /// Looks for names that nobody asked for. One that is nearly a known one is a slip; others may be a later
    /// version's.
    pub(super) fn look_for_unknown(&self) {
        let asked = self.asked.borrow();
        for key in &self.written {
            if asked.iter().any(|known| known.eq_ignore_ascii_case(key)) {
                continue;
            }
            let nearest = asked
                .iter()
                .map(|known| {
                    let (known_as, key) = (known.to_ascii_lowercase(), key.to_ascii_lowercase());
                    (distance(&known_as, &key), known)
                })
                .min();
            let mut complaints = self.complaints.borrow_mut();
            match nearest {
                Some((distance, known)) if distance <= CLOSE => {
                    let slip = self.wrong(
                        key,
                        "there is no such field",
                        format!("did you mean {}{known}?", self.prefix),
                    );
                    complaints.slips.push(slip);
                }
                nearest => {
                    let known = nearest.map_or_else(String::new, |(_, known)| {
                        format!(" (the nearest known is {}{known})", self.prefix)
                    });
                    let unknown = self.wrong(
                        key,
                        "there is no such field, and it is left alone",
                        format!("remove it, or correct its name{known}"),
                    );
                    complaints.warnings.push(unknown);
                }
            }
        }
    }

    /// All complaints so far.
    pub(super) fn complaints(&self) -> Complaints {
        std::mem::take(&mut self.complaints.borrow_mut())
    }
}

/// Letters to insert, remove or exchange (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, above) in b.iter().zip(row.iter().skip(1)) {
            let cost = diagonal + usize::from(x != *y);
            diagonal = *above;
            left = cost.min(left + 1).min(above + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn slips_are_near() {
        assert_eq!(distance("mtusize", "mtusize"), 0);
        assert_eq!(distance("mtusize", "mtusise"), 1);
        assert_eq!(distance("mqttcert", "mqtcert"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert!(distance("clusterurl", "later") > 2);
    }
}
