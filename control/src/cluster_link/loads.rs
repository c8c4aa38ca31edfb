//! Loads: what this node's instances serve, said to the cluster, and what others' serve, asked of it (contract section 3,
//! `net/load`).
//!
//! A load is said when it has changed, and counts as said when a table query shows it: a message may be lost, and the cluster takes
//! none for an instance that it does not know yet. Others' loads have no news of their own; they come with the answer of a
//! table query, so jobs whose addresses pick by load are asked for again while flows are opened to them.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::mqtt::{InstanceLoad, TableQueryResult};
use protocol::pacing::jittered;

use super::announce::Instance;
use crate::forwarding;

/// Between two messages at least (contract).
const INTERVAL: Duration = Duration::from_secs(5);
/// On top of it, so that nodes that started together do not stay together.
const SPREAD: Duration = Duration::from_millis(500);

/// How long to the next exchange.
pub fn pause() -> Duration {
    INTERVAL + jittered(SPREAD)
}

/// What the cluster has been told of this node's instances.
#[derive(Debug, Default)]
pub struct Loads {
    told: BTreeMap<Instance, u64>,
}

/// Whether the cluster should hear of it: any change of a small number, a sixteenth of a large one. The
/// numbers are estimates, and what they decide is which of two is smaller.
fn differs(told: u64, flows: u64) -> bool {
    told.abs_diff(flows) > told / 16
}

impl Loads {
    /// What is to be said now of the instances that the cluster knows to be here.
    pub fn changed(
        &mut self,
        own: &[forwarding::InstanceLoad],
        known: impl Fn(&Instance) -> bool,
    ) -> Vec<InstanceLoad> {
        let mut changed = Vec::new();
        let mut told = BTreeMap::new();
        for load in own {
            let instance = (load.job.clone(), load.number);
            let before = self.told.get(&instance).copied().unwrap_or(0);
            let flows = u64::from(load.flows);
            if differs(before, flows) && known(&instance) {
                changed.push(InstanceLoad {
                    appname: load.job.clone(),
                    instance_number: load.number,
                    flows,
                });
                told.insert(instance, flows);
            } else {
                told.insert(instance, before);
            }
        }
        // What is no longer here was dropped by the cluster, too.
        self.told = told;
        changed
    }

    /// Compares with what a table query shows.
    pub fn observe(&mut self, result: &TableQueryResult) {
        for entry in &result.instance_list {
            let instance = (result.app_name.clone(), entry.instance.instance_number);
            if let Some(told) = self.told.get_mut(&instance) {
                *told = entry.instance.load.unwrap_or(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(number: u32, flows: u32) -> forwarding::InstanceLoad {
        forwarding::InstanceLoad {
            job: "a.b.c.d".into(),
            number,
            flows,
        }
    }

    fn said(loads: &mut Loads, own: &[forwarding::InstanceLoad]) -> Vec<(u32, u64)> {
        loads
            .changed(own, |(_, number)| *number != 9)
            .iter()
            .map(|load| (load.instance_number, load.flows))
            .collect()
    }

    fn shown(flows: &str) -> TableQueryResult {
        let text = format!(
            r#"{{"app_name":"a.b.c.d","query_key":"a.b.c.d","instance_list":[{{"instance_number":0,"namespace_ip":"10.18.0.2","namespace_ip_v6":"fc00::2","host_ip":"192.0.2.1","host_port":50103,"service_ip":[]{flows}}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn only_what_changed_is_said() {
        let mut loads = Loads::default();
        assert_eq!(said(&mut loads, &[load(0, 0), load(1, 3)]), [(1, 3)]);
        assert_eq!(said(&mut loads, &[load(0, 0), load(1, 3)]), []);
        assert_eq!(
            said(&mut loads, &[load(0, 1), load(1, 4)]),
            [(0, 1), (1, 4)]
        );
        assert_eq!(
            said(&mut loads, &[load(0, 1000), load(1, 0)]),
            [(0, 1000), (1, 0)]
        );
        assert_eq!(
            said(&mut loads, &[load(0, 1060), load(1, 0)]),
            [],
            "an estimate"
        );
        assert_eq!(said(&mut loads, &[load(0, 900), load(1, 0)]), [(0, 900)]);
        // Gone and back: the cluster knows nothing of it.
        assert_eq!(said(&mut loads, &[load(1, 0)]), []);
        assert_eq!(said(&mut loads, &[load(0, 900)]), [(0, 900)]);
    }

    #[test]
    fn what_does_not_show_is_said_again() {
        let mut loads = Loads::default();
        // Not announced yet: later.
        assert_eq!(said(&mut loads, &[load(9, 5)]), []);
        assert_eq!(said(&mut loads, &[load(0, 5)]), [(0, 5)]);
        loads.observe(&shown(r#","load":5"#));
        assert_eq!(said(&mut loads, &[load(0, 5)]), []);
        loads.observe(&shown(""));
        assert_eq!(said(&mut loads, &[load(0, 5)]), [(0, 5)]);
        // What an earlier process said and no longer is.
        loads.observe(&shown(r#","load":70"#));
        assert_eq!(said(&mut loads, &[load(0, 0)]), [(0, 0)]);
    }
}
