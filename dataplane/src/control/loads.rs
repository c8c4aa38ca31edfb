//! Loads for policies that go by them: what this node's own instances serve, and of which jobs others' loads matter.

use std::time::{Duration, Instant};

use super::Controller;
use crate::api::{InstanceLoad, Loads};
use crate::tables::activity;
use crate::tally::OfService;

/// An address that opened no flow for so long needs no fresh loads.
const IN_USE: Duration = Duration::from_secs(30);

/// When a service was last seen to open flows.
#[derive(Debug, Default)]
pub(super) struct Usage {
    opened: u64,
    at: Option<Instant>,
}

impl Usage {
    /// Whether it is in use, by its count of flows opened.
    fn in_use(&mut self, opened: u64, now: Instant) -> bool {
        // Another tenant's count may begin below.
        if opened != self.opened {
            self.opened = opened;
            self.at = Some(now);
        }
        self.at.is_some_and(|at| now.duration_since(at) < IN_USE)
    }
}

impl Controller {
    /// As of this second of the machine's clock.
    pub(crate) fn loads(&mut self, seconds: u32) -> Loads {
        let window = activity::window(seconds);
        let mut own: Vec<InstanceLoad> = self
            .attached
            .values()
            .map(|attached| InstanceLoad {
                job: attached.attachment.job.clone(),
                number: attached.attachment.number,
                flows: self.tables.activity.flows(attached.port.number, window),
            })
            .collect();
        own.sort_by(|a, b| (&a.job, a.number).cmp(&(&b.job, b.number)));
        let opened: Vec<(String, u64, u32)> = self
            .services()
            .filter(|(_, policy, ..)| policy.by_load())
            .map(|(job, _, _, number)| {
                let opened = self.tallied(|t| t.service(number, OfService::Opened));
                (job.to_owned(), opened, number)
            })
            .collect();
        let now = Self::now();
        let mut wanted = Vec::new();
        let mut usage = std::collections::HashMap::new();
        for (job, opened, number) in opened {
            let mut used = self.usage.remove(&number).unwrap_or_default();
            if used.in_use(opened, now) {
                wanted.push(job);
            }
            usage.insert(number, used);
        }
        // Those that are not named any more are forgotten.
        self.usage = usage;
        wanted.sort_unstable();
        wanted.dedup();
        Loads { own, wanted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_in_use_while_it_opens_flows_and_a_little_longer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut usage = Usage::default();
        assert!(!usage.in_use(0, at(0)));
        assert!(usage.in_use(3, at(5)) && usage.in_use(3, at(34)));
        assert!(!usage.in_use(3, at(35)));
        assert!(usage.in_use(4, at(50)));
    }
}
