//! Copies that were read before, so that a table query need not fetch and parse them again.
//!
//! Never an answer by itself: each look-up asks Redis all the same, which leaves out the copy where
//! the version that the caller has is still the one that is stored. So nothing is ever stale.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::Job;

/// Instances (and jobs) that are kept; beyond it everything is forgotten, and read again.
const ROOM: usize = 100_000;

/// A copy and what tells it from others: ticket, epoch and revision together.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub(super) version: String,
    pub(super) job: Arc<Job>,
}

#[derive(Debug, Default)]
struct Held {
    by_name: HashMap<String, Copy>,
    /// Which job an address had last.
    names: HashMap<IpAddr, String>,
    taken: usize,
}

/// The copies of this process.
#[derive(Debug, Default)]
pub(super) struct Copies {
    held: Mutex<Held>,
}

impl Copies {
    /// The copy of a job, or of the job that an address belonged to when it was last asked for.
    pub(super) fn guess(&self, name: &str, address: Option<IpAddr>) -> Option<Copy> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match address {
            Some(address) => held.by_name.get(held.names.get(&address)?).cloned(),
            None => held.by_name.get(name).cloned(),
        }
    }

    /// Keeps what was read.
    pub(super) fn keep(&self, address: Option<IpAddr>, copy: &Copy) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let name = copy.job.job_name.as_str();
        if let Some(address) = address
            && held.names.get(&address).is_none_or(|known| known != name)
        {
            held.taken += 1;
            held.names.insert(address, name.to_owned());
        }
        if held
            .by_name
            .get(name)
            .is_none_or(|known| known.version != copy.version)
        {
            held.taken += 1 + copy.job.instance_list.len();
            held.by_name.insert(name.to_owned(), copy.clone());
        }
        if held.taken > ROOM {
            *held = Held::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(name: &str, version: &str) -> Copy {
        Copy {
            version: version.to_owned(),
            job: Arc::new(Job::new("", name.parse().unwrap())),
        }
    }

    #[test]
    fn a_copy_is_found_by_name_and_by_the_address_that_asked_for_it() {
        let copies = Copies::default();
        let address = "10.30.0.1".parse().unwrap();
        assert!(copies.guess("a.b.c.d", None).is_none());
        copies.keep(Some(address), &copy("a.b.c.d", "1"));
        assert_eq!(copies.guess("a.b.c.d", None).unwrap().version, "1");
        assert_eq!(copies.guess("", Some(address)).unwrap().version, "1");
        copies.keep(None, &copy("a.b.c.d", "2"));
        assert_eq!(copies.guess("", Some(address)).unwrap().version, "2");
        copies.keep(Some(address), &copy("e.b.c.d", "3"));
        assert_eq!(copies.guess("", Some(address)).unwrap().version, "3");
    }

    #[test]
    fn memory_is_bounded() {
        let copies = Copies::default();
        for number in 0..ROOM + 10 {
            copies.keep(None, &copy(&format!("a.b.c{number}.d"), "1"));
        }
        assert!(copies.held.lock().unwrap().by_name.len() < 100);
    }
}
