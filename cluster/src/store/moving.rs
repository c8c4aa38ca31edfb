//! The whole store at once, for `import` and `export`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Store, StoreError, json, read};
use crate::{keys, scripts};

/// Documents that travel in one argument.
const TOGETHER: usize = 500;

/// What a backup holds.
#[derive(Debug)]
pub struct Exported {
    /// Node, its subnetworks (`v4 v6`), the root's answer for its own processes (or empty).
    pub nodes: Vec<(String, Vec<String>, String)>,
    /// Job, interested nodes, and what nodes announced of its instances.
    pub jobs: Vec<(String, Vec<String>, BTreeMap<String, Value>)>,
    /// Subnetworks that no node holds.
    pub free: Vec<String>,
    /// Subnetworks that are owed back to the root.
    pub owed: Vec<String>,
}

impl Store {
    /// Writes documents into an empty store. `OK`, or what is in the way.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn import(&self, documents: &[Value], replace: bool) -> Result<String, StoreError> {
        let mut pattern = String::new();
        for letter in self.prefix.chars() {
            if "*?[]\\".contains(letter) {
                pattern.push('\\');
            }
            pattern.push(letter);
        }
        pattern.push('*');
        let lists = documents
            .chunks(TOGETHER)
            .map(|list| json("documents", &list))
            .collect::<Result<Vec<String>, StoreError>>()?;
        let mut arguments = vec![if replace { "1" } else { "" }, keys::SCHEMA, &pattern];
        arguments.extend(lists.iter().map(String::as_str));
        self.change(&scripts::IMPORT, &arguments).await
    }

    /// Reads everything that a backup holds.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn export(&self) -> Result<Exported, StoreError> {
        type Jobs = Vec<(String, Vec<String>, BTreeMap<String, String>)>;
        type Nodes = Vec<(String, Vec<String>, String)>;
        let (mut nodes, jobs, free, owed): (Nodes, Jobs, Vec<String>, Vec<String>) =
            self.call(&scripts::EXPORT, &[]).await?;
        nodes.sort_unstable();
        let mut jobs = jobs
            .into_iter()
            .map(|(job, mut interested, locals)| {
                interested.sort_unstable();
                let locals = locals
                    .into_iter()
                    .map(|(number, record)| Ok((number, read("local", &record)?)))
                    .collect::<Result<_, StoreError>>()?;
                Ok((job, interested, locals))
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        jobs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(Exported {
            nodes,
            jobs,
            free,
            owed,
        })
    }
}
