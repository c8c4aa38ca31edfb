//! What is passed over must not be missed: a control thread that trusts what it did before, beside one that does all of
//! it every time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use net::address::Address;
use proptest::prelude::*;

use crate::api::{
    AccessKind, Attachment, InstanceRoute, JobRoutes, Pair, Policy, ServiceAddress, Subnet,
};
use crate::counters::Counters;
use crate::tables::Tables;
use crate::tables::region::{BackendRef, Layout, Location, Region};
use crate::tables::routes::{BackendSet, Members, Route};
use crate::writer::Writer;

/// Addresses of this node's subnetwork come first; few, so that jobs take them from each other.
fn namespace(n: u8) -> Pair {
    let third = if n < 3 { 18 } else { 19 };
    Pair::of(Ipv4Addr::new(10, third, 0, 10 + n).into())
}

fn dialled(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 30, 0, n).into()
}

/// An instance in short: number, namespace IP, Instance IP, Service IP, host, weight, draining.
type Short = (u8, u8, u8, u8, u8, u8, bool);

fn routes(job: u8, instances: &[Short]) -> JobRoutes {
    let instance = |&(number, ns, own, service, host, weight, draining): &Short| InstanceRoute {
        number: u32::from(number),
        namespace: namespace(ns),
        instance: Pair::of(dialled(own)),
        services: vec![ServiceAddress {
            policy: if service == 0 {
                Policy::Closest
            } else {
                Policy::RoundRobin
            },
            addresses: Pair::of(dialled(100 + service)),
        }],
        host: (Ipv4Addr::new(192, 0, 2, host), 50103).into(),
        weight,
        draining,
        load: None,
    };
    JobRoutes {
        job: format!("a.b.job{job}.d"),
        instances: instances.iter().map(instance).collect(),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, Vec<Short>),
    /// What was said of this job last.
    Again(u8),
    Forget(u8),
    Attach(u8),
    Detach(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let short = (
        0u8..3,
        0u8..6,
        0u8..5,
        0u8..3,
        1u8..3,
        1u8..3,
        prop::bool::weighted(0.2),
    );
    let set = (0u8..3, prop::collection::vec(short, 0..4)).prop_map(|(j, i)| Step::Set(j, i));
    let step = prop_oneof![
        4 => set,
        4 => (0u8..3).prop_map(Step::Again),
        1 => (0u8..3).prop_map(Step::Forget),
        1 => (0u8..5).prop_map(Step::Attach),
        1 => (0u8..5).prop_map(Step::Detach),
    ];
    prop::collection::vec(step, 1..40)
}

struct Node {
    tables: Arc<Tables>,
    writer: Writer,
    said: HashMap<u8, Vec<Short>>,
}

impl Node {
    fn new() -> Self {
        let layout = Layout {
            shards: 1,
            slots: 1 << 10,
            backends: 1 << 8,
            hosts: 16,
        };
        let tables = Arc::new(Tables::new(Region::on_heap(layout, 1), 1));
        let counters = [Arc::new(Counters::default())];
        let mut writer = Writer::new(Arc::clone(&tables), &counters).unwrap();
        let subnet = Subnet {
            v4: Some("10.18.0.0".parse().unwrap()),
            v6: None,
            gateway: Pair::of("10.18.0.1".parse().unwrap()),
        };
        writer.set_subnets(vec![subnet]).unwrap();
        Self {
            tables,
            writer,
            said: HashMap::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Set(job, instances) => {
                self.said.insert(*job, instances.clone());
                self.writer.set_job(routes(*job, instances)).unwrap();
            }
            Step::Again(job) => {
                if let Some(instances) = self.said.get(job) {
                    self.writer.set_job(routes(*job, instances)).unwrap();
                }
            }
            Step::Forget(job) => self.writer.forget_job(&format!("a.b.job{job}.d")),
            Step::Attach(n) => {
                let port = AccessKind::Packet {
                    ifindex: 100 + u32::from(*n),
                    interface: format!("veth{n}"),
                };
                // Attached twice is refused, by both.
                let _ = self.writer.attach(Attachment {
                    port,
                    mac: [2; 6],
                    namespace: namespace(*n),
                    job: String::new(),
                    number: 0,
                });
            }
            Step::Detach(n) => {
                self.writer.detach(100 + u32::from(*n)).unwrap();
            }
        }
    }

    fn backend(&self, reference: BackendRef) -> String {
        self.tables.region.backend(reference).map_or_else(
            || "gone".to_owned(),
            |b| {
                let at = match b.location {
                    Location::Local(_) => "here".to_owned(),
                    Location::Nowhere => "nowhere".to_owned(),
                    Location::Host(host) => format!("{:?}", self.tables.region.host(host)),
                };
                let (ns, own) = (b.namespace.0, b.instance.0);
                format!("{} {ns:x} {own:x} {} {at}", b.number, b.draining)
            },
        )
    }

    // Where every address leads.
    fn seen(&self) -> Vec<(IpAddr, String)> {
        let named = (0..6).flat_map(|n| namespace(n).iter());
        let addresses = named.chain((0..110).map(dialled));
        let meaning = |route| match route {
            Route::Service { set, .. } => {
                let set = BackendSet::at(&self.tables.arena, set);
                let mut members: Vec<String> = (0..set.len())
                    .filter_map(|n| set.get(n))
                    .map(|reference| self.backend(reference))
                    .collect();
                members.sort();
                format!("{:?} {members:?}", set.policy())
            }
            Route::Instance(id) | Route::Namespace(id) => {
                let known = self.tables.region.backend_at(id);
                known.map_or_else(
                    || "gone".to_owned(),
                    |(reference, _)| self.backend(reference),
                )
            }
            Route::Local(slot) => {
                let port = self.tables.slots.get(slot);
                format!("{:?}", port.map(|p| (p.ifindex, p.instance_v4)))
            }
            Route::Unreachable => "unreachable".to_owned(),
        };
        addresses
            .filter_map(|a| Some((a, meaning(self.tables.route(Address::from(a))?))))
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn what_is_said_again_is_passed_over_only_where_that_changes_nothing(steps in steps()) {
        let (mut quick, mut thorough) = (Node::new(), Node::new());
        for step in &steps {
            quick.take(step);
            thorough.writer.controller().distrust();
            thorough.take(step);
            prop_assert_eq!(quick.seen(), thorough.seen());
            let used = |node: &mut Node| {
                let mut lines = node.writer.controller().backend_lines();
                lines.iter_mut().for_each(|line| line.backend = 0);
                lines.sort_by(|a, b| (&a.job, a.instance, &a.via, a.namespace).cmp(&(&b.job, b.instance, &b.via, b.namespace)));
                lines
            };
            prop_assert_eq!(used(&mut quick), used(&mut thorough));
        }
        for job in 0..3 {
            quick.take(&Step::Forget(job));
        }
        for n in 0..5 {
            quick.take(&Step::Detach(n));
        }
        // Nothing is left of them but refusals that run out.
        let left = quick.seen();
        prop_assert!(left.iter().all(|(_, what)| what == "unreachable"), "{:?}", left);
        for id in 0..1 << 8 {
            prop_assert!(quick.tables.region.backend_at(id).is_none());
        }
    }
}
