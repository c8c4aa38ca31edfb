//! Names that somebody waits for: asked for like a packet's address, but not for ever, since whoever wants the name
//! gives up by itself.

use std::collections::HashMap;

use protocol::mqtt::TableQueryResult;
use tokio::sync::oneshot;

use super::super::queries::Key;
use super::Feed;

/// Keys that somebody waits for at one time.
const WAITED_FOR: usize = 1024;

/// Who waits for which answer.
#[derive(Default)]
pub(super) struct Lookups(HashMap<Key, Vec<oneshot::Sender<()>>>);

impl Lookups {
    fn wait(&mut self, key: Key, done: oneshot::Sender<()>) -> bool {
        if self.0.len() >= WAITED_FOR && !self.0.contains_key(&key) {
            return false;
        }
        self.0.entry(key).or_default().push(done);
        true
    }

    /// Those who wait for this answer; they hear of it when what comes back is dropped.
    pub(super) fn take(&mut self, key: &Key) -> Answered {
        Answered(self.0.remove(key).unwrap_or_default())
    }

    /// Keys that nobody waits for any more.
    fn given_up(&mut self) -> Vec<Key> {
        let mut gone = Vec::new();
        self.0.retain(|key, waiting| {
            waiting.retain(|done| !done.is_closed());
            if waiting.is_empty() {
                gone.push(key.clone());
            }
            !waiting.is_empty()
        });
        gone
    }
}

/// Who hears of an answer, once all of it is known.
pub(super) struct Answered(Vec<oneshot::Sender<()>>);

impl Answered {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        for done in self.0.drain(..) {
            let _ = done.send(());
        }
    }
}

impl Feed {
    pub(super) fn look_up(&mut self, key: &str, done: oneshot::Sender<()>) {
        let key = Key::parse(key);
        if self.lookups.wait(key.clone(), done) {
            self.ask(key);
        }
    }

    /// Asks no longer for what nobody wants to know any more: a name that the cluster says nothing about would stay
    /// for ever.
    pub(super) fn drop_lookups(&mut self) {
        for key in self.lookups.given_up() {
            let wanted = match &key {
                Key::Job(job) => self.jobs.contains_key(job) || self.announcements.has_job(job),
                Key::Address(_) => false,
            };
            if !wanted {
                self.queries.forget(&key);
            }
        }
    }

    /// Remembers that the cluster knows nothing by this key.
    pub(super) fn note_absent(&self, key: &Key) {
        match key {
            Key::Job(job) => self.names.mark_absent(job),
            Key::Address(address) => self.names.mark_absent(&address.to_string()),
        }
    }

    /// Keeps the names of a job that is followed: those of others would grow old here.
    pub(super) fn learn_names(&self, key: &Key, result: &TableQueryResult) {
        if self.jobs.contains_key(&result.app_name) {
            self.names.learn(result);
        }
        if let Key::Address(address) = key
            && self.names.name_of(*address).is_none()
        {
            self.note_absent(key);
        }
    }
}
