//! What a worker keeps of each host that packets go to: one cache line with the headers of its datagrams and the length
//! of the path, copied from the tables when first needed and again after a change.

use super::{Output, Pipeline};
use crate::tables::Tables;
use crate::uplink::template::Template;

/// One host.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
pub(super) struct Host {
    /// Of which version of the tables this is, and one; 0 for nothing.
    version: u32,
    /// The headers of its datagrams, where the uplink writes frames.
    pub(super) template: Template,
    /// Whether it has any.
    pub(super) has_template: bool,
    /// The longest inner packet that goes there in one piece, in bytes.
    pub(super) path: u16,
}

/// All hosts.
#[derive(Debug)]
pub(super) struct Hosts {
    version: u32,
    kept: Box<[Host]>,
}

impl Hosts {
    pub(super) fn new(count: usize) -> Self {
        Self {
            version: 1,
            kept: vec![Host::default(); count].into(),
        }
    }

    /// Forgets what has changed. At the start of each burst: what is copied during a burst was published before it.
    #[inline(always)]
    pub(super) fn follow(&mut self, tables: &Tables) {
        self.version = tables.hosts_version().wrapping_add(1).max(1);
    }

    /// What is kept of host `host`; none where it must be copied first.
    #[inline(always)]
    pub(super) fn get(&self, host: u32) -> Option<&Host> {
        self.kept
            .get(host as usize)
            .filter(|kept| kept.version == self.version)
    }
}

impl<O: Output> Pipeline<'_, O> {
    /// Copies what the tables say of a host; false for one that they do not have.
    #[cold]
    #[inline(never)]
    pub(super) fn keep_host(&mut self, host: u32) -> bool {
        let template = self.output.outer(host).map(Template::read);
        let path = self.path(host);
        let version = self.hosts.version;
        let Some(kept) = self.hosts.kept.get_mut(host as usize) else {
            return false;
        };
        *kept = Host {
            version,
            has_template: template.is_some(),
            template: template.unwrap_or_default(),
            path,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_takes_one_cache_line() {
        assert_eq!(size_of::<Host>(), 64);
    }
}
