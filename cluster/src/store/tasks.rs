//! Tasks: what is owed to root and nodes, taken up by one replica at a time.

use std::time::Duration;

use super::{Pairs, Store, StoreError, pairs};
use crate::scripts;

/// A task that this replica took up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Its name.
    pub task: String,
    /// Names this version of it.
    pub ticket: String,
    /// What it carries.
    pub payload: String,
}

impl Store {
    /// Adds a task.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn owe(&self, task: &str, payload: &str, delay: Duration) -> Result<(), StoreError> {
        self.change(
            &scripts::OWE,
            &[task, payload, &delay.as_millis().to_string()],
        )
        .await
        .map(|_: u8| ())
    }

    /// Takes up tasks that are due; also says in how long the next one is.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn claim(
        &self,
        most: usize,
        lease: Duration,
    ) -> Result<(Vec<Claimed>, Option<Duration>), StoreError> {
        let flat: Vec<String> = self
            .call(
                &scripts::CLAIM,
                &[&most.to_string(), &lease.as_millis().to_string()],
            )
            .await?;
        let mut rest = flat.iter();
        let next = rest.next().and_then(|next| next.parse::<u64>().ok());
        let rest: Pairs = rest.cloned().collect();
        let claimed = pairs(&rest)
            .map(|(task, held)| {
                let (ticket, payload) = held.split_once(' ').unwrap_or((held, ""));
                Claimed {
                    task: task.to_owned(),
                    ticket: ticket.to_owned(),
                    payload: payload.to_owned(),
                }
            })
            .collect();
        Ok((claimed, next.map(Duration::from_millis)))
    }

    /// Ends the work on a task: done, or to be repeated after a pause that grows from `first`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn finish(
        &self,
        task: &Claimed,
        done: bool,
        first: Duration,
        longest: Duration,
    ) -> Result<(), StoreError> {
        self.change(
            &scripts::FINISH,
            &[
                &task.task,
                &task.ticket,
                if done { "done" } else { "again" },
                &first.as_millis().to_string(),
                &longest.as_millis().to_string(),
            ],
        )
        .await
        .map(|_: u8| ())
    }
}
