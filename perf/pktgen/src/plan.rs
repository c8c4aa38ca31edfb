//! Which packet is next: its flow, its 5-tuple, its size. Both ends follow the same plan, so that a packet's flow number
//! says which service it was for, whatever translation made of its addresses.

use net::Address;

use crate::draw::{Random, Zipf, mix};
use crate::frame::{self, Kind, SHORTEST, Step, Tuple};
use crate::profile::{Order, Profile, ProfileError, Sizes, ports};

/// What flows there are.
#[derive(Clone, Debug)]
pub struct Flows {
    source: Address,
    destination: Address,
    source_ports: (u16, u32),
    destination_ports: (u16, u32),
    sources: u32,
    services: u32,
    zipf: Option<Zipf>,
    seed: u64,
    kind: Kind,
    /// Flows at a time.
    count: u32,
}

/// Flow numbers go round below 2^31.
pub const NUMBERS: u32 = 1 << 31;

impl Flows {
    /// As a checked profile says.
    #[must_use]
    pub fn new(profile: &Profile) -> Self {
        let narrow = |range: (u16, u16)| (range.0, u32::try_from(ports(range)).unwrap_or(1).max(1));
        let destination = &profile.destination;
        Self {
            source: profile.source.address.into(),
            destination: destination.address.into(),
            source_ports: narrow(profile.source.ports),
            destination_ports: narrow(destination.ports),
            sources: profile.source.count.max(1),
            services: destination.count.max(1),
            zipf: (destination.zipf > 0.0).then(|| Zipf::new(destination.count, destination.zipf)),
            seed: mix(profile.seed),
            kind: profile.protocol,
            count: profile.flows,
        }
    }

    /// Services.
    #[must_use]
    pub const fn services(&self) -> u32 {
        self.services
    }

    /// The address of a service.
    #[inline]
    #[must_use]
    pub const fn service_address(&self, service: u32) -> Address {
        Address(self.destination.0 + service as u128)
    }

    /// The service of a flow, or the one that a segment names instead of its flow.
    #[inline]
    #[must_use]
    pub fn service_of(&self, flow: u32) -> u32 {
        match self.kind {
            Kind::Udp => self.service(flow),
            Kind::TcpSyn | Kind::TcpFlow => frame::service(flow),
        }
    }

    #[inline]
    fn service(&self, flow: u32) -> u32 {
        match &self.zipf {
            Some(zipf) => zipf.pick(mix(self.seed ^ u64::from(flow))),
            None => flow % self.services,
        }
    }

    /// How many flows a sink must keep account of.
    #[must_use]
    pub const fn accounts(&self) -> u32 {
        match self.kind {
            Kind::Udp => self.count,
            // One account for all, whatever their flow.
            Kind::TcpSyn | Kind::TcpFlow => 1,
        }
    }

    /// The account of a packet.
    #[inline]
    #[must_use]
    pub const fn account(&self, flow: u32) -> u32 {
        match self.kind {
            Kind::Udp => flow,
            Kind::TcpSyn | Kind::TcpFlow => 0,
        }
    }

    /// The addresses and ports of flow `flow`, which goes to `service`.
    #[inline]
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // Ports stay in their range.
    pub fn tuple(&self, flow: u32, service: u32) -> Tuple {
        let (first, count) = self.source_ports;
        let (port, rest) = (flow % count, flow / count);
        let (source, rest) = (rest % self.sources, rest / self.sources);
        let (to, choices) = self.destination_ports;
        Tuple {
            source: Address(self.source.0 + u128::from(source)),
            destination: self.service_address(service),
            source_port: first + port as u16,
            destination_port: to + (rest % choices) as u16,
        }
    }
}

/// The order of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    flows: Flows,
    sizes: Sizes,
    order: Order,
    random: Random,
    /// The next number of each flow.
    sequences: Box<[u32]>,
    /// Segments so far.
    segments: u32,
    /// Which one of a flow comes next, as an index.
    step: usize,
    /// The oldest flow that lives.
    oldest: u32,
    cursor: u32,
    at: usize,
    new_flows: u32,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The flow's number, or for a segment its service's and its step.
    pub flow: u32,
    /// The packet's number in its flow, or for a segment among all.
    pub sequence: u32,
    /// Whose it is.
    pub tuple: Tuple,
}

impl Plan {
    /// From a profile.
    ///
    /// # Errors
    /// When the profile cannot be as it is.
    pub fn new(profile: &Profile) -> Result<Self, ProfileError> {
        let sizes = profile.check()?;
        let flows = Flows::new(profile);
        Ok(Self {
            sequences: vec![0; flows.accounts() as usize].into_boxed_slice(),
            sizes,
            order: profile.order,
            random: Random::new(profile.seed),
            flows,
            segments: 0,
            step: 0,
            oldest: 0,
            cursor: 0,
            at: 0,
            new_flows: profile.new_flows,
        })
    }

    /// What flows there are.
    #[must_use]
    pub const fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Frame sizes.
    #[must_use]
    pub const fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Numbers packets from 0 again, as from the beginning of what counts.
    pub fn restart(&mut self) {
        self.sequences.fill(0);
        self.segments = 0;
    }

    /// Lets flows give way to new ones: as many as came due in `now` nanoseconds since the start.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // Counts the flows of a run, going round.
    pub fn age(&mut self, now: u64) {
        if self.new_flows == 0 {
            return;
        }
        let gone = (u128::from(now) * u128::from(self.new_flows) / 1_000_000_000) as u32;
        // After a long pause every flow is new, and none needs to be replaced twice.
        let mut missing = gone.wrapping_sub(self.oldest).min(self.flows.count);
        while missing > 0 {
            missing -= 1;
            let slot = self.oldest % self.flows.count;
            if let Some(sequence) = self.sequences.get_mut(slot as usize) {
                *sequence = 0;
            }
            self.oldest = self.oldest.wrapping_add(1);
        }
    }

    /// The size of the next frame, check sequence included.
    #[inline]
    pub fn size(&mut self) -> u32 {
        match &self.sizes {
            Sizes::Cycle(sizes) => {
                let size = sizes.get(self.at).copied().unwrap_or(SHORTEST);
                self.at += 1;
                if self.at >= sizes.len() {
                    self.at = 0;
                }
                size
            }
            Sizes::Between(from, to) => from + self.random.below(to - from + 1),
        }
    }

    /// The next packet.
    #[inline]
    pub fn packet(&mut self) -> Next {
        let count = self.flows.count;
        if self.flows.kind == Kind::TcpFlow {
            return self.segment();
        }
        let slot = match self.order {
            Order::RoundRobin => {
                let slot = self.cursor;
                self.cursor = if slot + 1 < count { slot + 1 } else { 0 };
                slot
            }
            Order::Random => self.random.below(count),
        };
        if self.flows.kind == Kind::TcpSyn {
            let sequence = self.segments;
            self.segments = sequence.wrapping_add(1);
            let service = self.flows.service(slot);
            return Next {
                flow: service,
                sequence,
                tuple: self.flows.tuple(slot, service),
            };
        }
        // The flow that has the slot now: the one number from `oldest` on that falls there.
        let first = self.oldest % count;
        let flow = self.oldest.wrapping_add(if slot >= first {
            slot - first
        } else {
            slot + count - first
        });
        let flow = flow % NUMBERS;
        let sequence = self.sequences.get_mut(slot as usize).map_or(0, |next| {
            let sequence = *next;
            *next = next.wrapping_add(1);
            sequence
        });
        Next {
            flow,
            sequence,
            tuple: self.flows.tuple(flow, self.flows.service(flow)),
        }
    }

    /// The next segment of flows that open and close: so many at a time are opened, then all of these used, then all
    /// of them closed, and new ones come after them.
    #[inline]
    fn segment(&mut self) -> Next {
        let flow = self.oldest.wrapping_add(self.cursor) % NUMBERS;
        let service = self.flows.service(flow);
        let step = Step::ALL.get(self.step).copied().unwrap_or(Step::Close);
        let sequence = self.segments;
        self.segments = sequence.wrapping_add(1);
        self.cursor += 1;
        if self.cursor >= self.flows.count {
            self.cursor = 0;
            self.step += 1;
        }
        if self.step >= Step::ALL.len() {
            self.step = 0;
            self.oldest = self.oldest.wrapping_add(self.flows.count);
        }
        Next {
            flow: step.flow(service),
            sequence,
            tuple: self.flows.tuple(flow, service),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};
    use std::path::Path;

    fn profile(more: &str) -> Profile {
        let text = format!(
            "protocol = \"udp\"\nrate = \"max\"\nsize = 64\n{more}\n[source]\naddress = \"10.0.0.2\"\ncount = 3\n\
             ports = [1000, 1099]\n[destination]\naddress = \"10.30.0.1\"\ncount = 50\nports = [7, 8]\nzipf = 1.0"
        );
        Profile::parse(&text, Path::new("test")).expect("valid")
    }

    #[test]
    fn flows_differ_and_count_by_themselves() {
        let mut plan = Plan::new(&profile("flows = 600")).expect("valid");
        let mut tuples = HashSet::new();
        for round in 0..3 {
            for flow in 0..600 {
                let next = plan.packet();
                assert_eq!((next.flow, next.sequence), (flow, round));
                let Tuple {
                    source,
                    source_port,
                    destination_port,
                    ..
                } = next.tuple;
                assert!((1000..1100).contains(&source_port) && (7..9).contains(&destination_port));
                tuples.insert((source, source_port, destination_port));
                let service = plan.flows().service_of(flow);
                assert_eq!(
                    plan.flows().service_address(service),
                    next.tuple.destination
                );
            }
        }
        assert_eq!(tuples.len(), 600, "all of 3 addresses, 100 ports, 2 ports");
    }

    #[test]
    fn services_follow_zipf() {
        let mut plan = Plan::new(&profile("flows = 600\nnew-flows = 100000")).expect("valid");
        let mut counts = HashMap::new();
        for n in 0..100_000u64 {
            plan.age(n * 10_000);
            *counts
                .entry(plan.packet().tuple.destination)
                .or_insert(0u32) += 1;
        }
        let count = |n: u8| {
            f64::from(
                counts
                    .get(&Address::v4([10, 30, 0, n]))
                    .copied()
                    .unwrap_or(0),
            )
        };
        assert!((count(1) / count(2) - 2.0).abs() < 0.2, "{counts:?}");
        assert!((count(1) / count(10) - 10.0).abs() < 1.5, "{counts:?}");
    }

    #[test]
    fn new_flows_take_the_place_of_old_ones() {
        let mut plan = Plan::new(&profile("flows = 10\nnew-flows = 1000")).expect("valid");
        let mut round = |now| {
            plan.age(now);
            (0..10)
                .map(|_| plan.packet())
                .map(|next| (next.flow, next.sequence))
                .collect::<Vec<_>>()
        };
        assert_eq!(round(0), (0..10).map(|flow| (flow, 0)).collect::<Vec<_>>());
        // Three milliseconds later the three oldest are gone.
        let expected: Vec<_> = (0..10)
            .map(|slot| if slot < 3 { (slot + 10, 0) } else { (slot, 1) })
            .collect();
        assert_eq!(round(3_000_000), expected);
        assert!(
            round(1_000_000_000)
                .iter()
                .all(|(_, sequence)| *sequence == 0)
        );
    }

    #[test]
    fn a_seed_repeats_the_plan() {
        let draw = |seed: u64| {
            let profile = profile(&format!("flows = 600\norder = \"random\"\nseed = {seed}"));
            let mut plan = Plan::new(&Profile {
                size: crate::profile::Size::Range { from: 64, to: 1518 },
                ..profile
            })
            .expect("valid");
            (0..100)
                .map(|_| (plan.size(), plan.packet()))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }

    #[test]
    fn flows_open_are_used_and_close() {
        let profile = Profile {
            protocol: Kind::TcpFlow,
            ..profile("flows = 10")
        };
        let mut plan = Plan::new(&profile).expect("valid");
        let mut open = HashMap::new();
        let mut closed = HashSet::new();
        for n in 0..300 {
            let next = plan.packet();
            assert_eq!(next.sequence, n);
            let service = plan.flows().service_of(next.flow);
            let address = plan.flows().service_address(service);
            assert_eq!(address, next.tuple.destination);
            let key = (next.tuple.source, next.tuple.source_port);
            let step = Step::ALL.into_iter().find(|s| s.flow(service) == next.flow);
            match step.expect("a step") {
                Step::Open => assert_eq!(open.insert(key, Step::Open), None),
                Step::Use => assert_eq!(open.insert(key, Step::Use), Some(Step::Open)),
                Step::Close => {
                    assert_eq!(open.remove(&key), Some(Step::Use));
                    assert!(closed.insert(key), "each is another one");
                }
            }
            assert!(open.len() <= 10);
        }
        assert_eq!((open.len(), closed.len()), (0, 100));
    }

    #[test]
    fn each_syn_is_a_flow_and_names_its_service() {
        let profile = Profile {
            protocol: Kind::TcpSyn,
            ..profile("flows = 600")
        };
        let mut plan = Plan::new(&profile).expect("valid");
        for n in 0..1200 {
            let next = plan.packet();
            assert_eq!(next.sequence, n);
            assert_eq!(
                plan.flows().service_address(next.flow),
                next.tuple.destination
            );
            assert_eq!(plan.flows().account(next.flow), 0);
        }
    }
}
