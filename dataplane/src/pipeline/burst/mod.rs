//! The common packets of a burst, together: whole TCP or UDP packets of open flows, and those of and to servers.
//!
//! One packet after another would wait for memory at each step: its headers, its flow's slot, its backend's record.
//! Here each pass over the burst asks for what the next pass needs, so that these waits overlap. What is not common
//! takes the general way in its turn, so that a flow's packets stay in order; only the general way opens flows, waits,
//! answers, reassembles and reports.

mod inward;
mod outward;

use arrayvec::ArrayVec;
use dpdk::{Drain, Mbuf, Sole};
use net::address::Address;
use net::plain::{Family, Plain, V4, V6};

use super::{Output, Pipeline};
use crate::plan::{Range, range};
use crate::policy::Policy;
use crate::tables::flows::{Home, Key, Look, Passed, Place, Tag, Timeout};
use crate::tables::region::{BackendRef, Record};
use crate::tables::routes::{BackendSet, Members, Route, prefetch_set};
use crate::tables::slots::AccessSlot;

/// Packets that are worked on together.
const LANES: usize = 64;
/// How many packets ahead headers are asked for.
const AHEAD: usize = 6;

/// How far a plain packet has come.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It takes the general way after all.
    General,
    /// Its flow's home has been asked for.
    Home,
    /// Its flow is not at home; the first of these places beside it has been asked for.
    Away(u16),
    /// It has no flow; the chain of the other end has been asked for.
    Chain,
    /// The first node of that chain has been asked for.
    Node,
    /// Its flow, whose backend's record has been asked for.
    Flow {
        /// The backend.
        backend: BackendRef,
        /// The service's number and one.
        service: u32,
        /// Where the flow's other direction is.
        peer: Place,
    },
    /// The other end is the backend in this record, which has been asked for.
    Backend(u32),
    /// The other end is a Service IP, to which it opens a flow.
    Service {
        /// The service's number.
        service: u32,
        /// The first cell of its backends.
        set: u32,
        /// Where its slot will be, as far as can be foreseen.
        near: Place,
        /// Where the answers' slot will be.
        far: Option<Place>,
    },
}

/// Which way packets go.
trait Way {
    /// The tag of a flow's direction.
    fn tag<F: Key + Family>(plain: &Plain<F>) -> Tag;
    /// The address of the other end, which a packet without a flow is judged by.
    fn other<F: Family>(plain: &Plain<F>) -> Address;
    /// The record of the backend that the other end is, if it is one.
    fn backend(route: Route) -> Option<u32>;
    /// Whether a packet without a flow opens one.
    const OPENS: bool;
}

/// From a container to the tunnel.
struct Outward;

/// From the tunnel to a container.
struct Inward;

impl Way for Outward {
    const OPENS: bool = true;

    #[inline(always)]
    fn tag<F: Key + Family>(plain: &Plain<F>) -> Tag {
        Tag::forward::<F>(plain.ports, plain.protocol)
    }

    #[inline(always)]
    fn other<F: Family>(plain: &Plain<F>) -> Address {
        plain.addresses.destination()
    }

    #[inline(always)]
    fn backend(route: Route) -> Option<u32> {
        match route {
            Route::Instance(id) => Some(id),
            _ => None,
        }
    }
}

impl Way for Inward {
    const OPENS: bool = false;

    #[inline(always)]
    fn tag<F: Key + Family>(plain: &Plain<F>) -> Tag {
        Tag::reverse::<F>(plain.ports, plain.protocol)
    }

    #[inline(always)]
    fn other<F: Family>(plain: &Plain<F>) -> Address {
        plain.addresses.source()
    }

    #[inline(always)]
    fn backend(route: Route) -> Option<u32> {
        match route {
            Route::Instance(id) | Route::Namespace(id) => Some(id),
            _ => None,
        }
    }
}

/// What is known of a plain packet, and how far it has come. `T` is what its way needs further.
#[derive(Clone, Copy, Debug)]
struct Lane<F: Family, T> {
    plain: Plain<F>,
    home: Home,
    step: Step,
    rest: T,
}

/// Plain packets of one family: as many frames as lanes.
struct Lanes<F: Family, T> {
    frames: ArrayVec<Sole, LANES>,
    lanes: ArrayVec<Lane<F, T>, LANES>,
}

impl<F: Family, T> Lanes<F, T> {
    fn new() -> Self {
        Self {
            frames: ArrayVec::new(),
            lanes: ArrayVec::new(),
        }
    }

    /// There must be room.
    #[inline(always)]
    fn push(&mut self, frame: Sole, lane: Lane<F, T>) -> Result<(), Mbuf> {
        let pushed = self.frames.try_push(frame);
        pushed.map_err(|full| full.element().into_mbuf())?;
        // Both have the same room.
        let _ = self.lanes.try_push(lane);
        Ok(())
    }
}

/// The plain packets of a burst, by family: packets of different families are of different flows.
struct Gathered<T> {
    v4: Lanes<V4, T>,
    v6: Lanes<V6, T>,
}

impl<T> Gathered<T> {
    fn new() -> Self {
        Self {
            v4: Lanes::new(),
            v6: Lanes::new(),
        }
    }
}

/// What the pipeline asks of a family's addresses.
trait Plane: Family + Key {
    /// Whether the source is the container's own.
    fn is_from(self, port: &AccessSlot) -> bool;
    /// Whether the container's own Instance IP is known.
    fn has_instance(port: &AccessSlot) -> bool;
    /// Whether the destination is a Service IP or an Instance IP.
    fn is_semantic(self) -> bool;
    /// From the container's Instance IP to the backend's namespace IP; `None` where one of them is missing.
    fn to_backend(port: &AccessSlot, backend: Record<'_>) -> Option<Self>;
    /// The same with another source.
    fn with_source(self, source: Address) -> Self;
    /// What a backend's answer to it comes with.
    fn answered(self, backend: Record<'_>) -> Self;
}

impl Plane for V4 {
    #[inline(always)]
    fn is_from(self, port: &AccessSlot) -> bool {
        self.source_bits() == port.namespace_v4
    }

    #[inline(always)]
    fn has_instance(port: &AccessSlot) -> bool {
        port.instance_v4 != 0
    }

    #[inline(always)]
    fn is_semantic(self) -> bool {
        range(self.destination()) == Range::Semantic
    }

    #[inline(always)]
    fn to_backend(port: &AccessSlot, backend: Record<'_>) -> Option<Self> {
        let (own, namespace) = (port.instance_v4, backend.namespace_v4());
        (own != 0 && namespace != 0).then(|| V4::new(own, namespace))
    }

    #[inline(always)]
    fn with_source(self, source: Address) -> Self {
        V4::new(source.v4_bits(), self.destination_bits())
    }

    #[inline(always)]
    fn answered(self, backend: Record<'_>) -> Self {
        V4::new(backend.instance_v4(), self.source_bits())
    }
}

impl Plane for V6 {
    #[inline(always)]
    fn is_from(self, port: &AccessSlot) -> bool {
        self.0 == port.namespace_v6
    }

    #[inline(always)]
    fn has_instance(port: &AccessSlot) -> bool {
        !port.instance_v6.is_unspecified()
    }

    #[inline(always)]
    fn is_semantic(self) -> bool {
        range(self.1) == Range::Semantic
    }

    #[inline(always)]
    fn to_backend(port: &AccessSlot, backend: Record<'_>) -> Option<Self> {
        let (own, namespace) = (port.instance_v6, backend.namespace_v6());
        (!own.is_unspecified() && !namespace.is_unspecified()).then_some(V6(own, namespace))
    }

    #[inline(always)]
    fn with_source(self, source: Address) -> Self {
        V6(source, self.1)
    }

    #[inline(always)]
    fn answered(self, backend: Record<'_>) -> Self {
        V6(backend.instance_v6(), self.0)
    }
}

/// Frames of a burst, each with its port's number, of which one can look at what comes.
trait Frames: Iterator<Item = (Mbuf, u32)> {
    /// The frame that so many others come before.
    fn ahead(&self, n: usize) -> Option<&Mbuf>;
}

impl Frames for std::vec::Drain<'_, (Mbuf, u32)> {
    #[inline(always)]
    fn ahead(&self, n: usize) -> Option<&Mbuf> {
        self.as_slice().get(n).map(|(frame, _)| frame)
    }
}

/// Frames of one port.
struct OfPort<'a>(Drain<'a>, u32);

impl Iterator for OfPort<'_> {
    type Item = (Mbuf, u32);

    #[inline(always)]
    fn next(&mut self) -> Option<(Mbuf, u32)> {
        Some((self.0.next()?, self.1))
    }
}

impl Frames for OfPort<'_> {
    #[inline(always)]
    fn ahead(&self, n: usize) -> Option<&Mbuf> {
        self.0.as_slice().get(n)
    }
}

impl<O: Output> Pipeline<'_, O> {
    /// Finds each lane's flow, or the backend that the other end is, and asks for its record.
    #[inline(always)]
    fn look<W: Way, F: Plane, T>(&self, lanes: &mut [Lane<F, T>]) {
        let mut further = false;
        for lane in lanes.iter_mut() {
            if !matches!(lane.step, Step::Home) {
                further = true;
                continue;
            }
            let plain = &lane.plain;
            let timeout = Timeout::of(plain.protocol);
            let look = self.shard.look(
                lane.home,
                &plain.addresses,
                W::tag(plain),
                timeout,
                self.now,
            );
            if let Look::Passed(passed) = look {
                lane.step = self.pass(passed);
            } else {
                lane.step = match look {
                    Look::Away(bits) => Step::Away(bits),
                    Look::Nowhere => {
                        self.tables.routes.seek(W::other(plain));
                        Step::Chain
                    }
                    _ => Step::General,
                };
                further = true;
            }
        }
        if further {
            self.look_further::<W, F, T>(lanes);
        }
    }

    #[inline(always)]
    fn pass(&self, passed: Passed) -> Step {
        self.records.prefetch(passed.backend.id);
        if passed.refreshed {
            self.tables.mark_used(passed.backend.id, self.now);
        }
        Step::Flow {
            backend: passed.backend,
            service: passed.service,
            peer: passed.peer,
        }
    }

    #[inline(never)]
    fn look_further<W: Way, F: Plane, T>(&self, lanes: &mut [Lane<F, T>]) {
        let mut opens = false;
        for lane in lanes.iter_mut() {
            let plain = &lane.plain;
            match lane.step {
                Step::Away(bits) => {
                    let timeout = Timeout::of(plain.protocol);
                    let found = self.shard.search(
                        (lane.home, bits),
                        &plain.addresses,
                        W::tag(plain),
                        timeout,
                        self.now,
                    );
                    lane.step = match found {
                        Look::Passed(passed) => self.pass(passed),
                        // What lies at this home's other places is not the packet's: so it is on its own.
                        Look::Nowhere => {
                            self.tables.routes.seek(W::other(plain));
                            Step::Chain
                        }
                        _ => Step::General,
                    };
                }
                Step::Chain => {
                    let other = W::other(plain);
                    self.tables.routes.approach(&self.tables.arena, other);
                    lane.step = Step::Node;
                }
                _ => {}
            }
        }
        for lane in lanes.iter_mut() {
            if let Step::Node | Step::Chain = lane.step {
                let route = self.tables.route(W::other(&lane.plain));
                lane.step = match (route.and_then(W::backend), route) {
                    (Some(id), _) => {
                        self.records.prefetch(id);
                        self.tables.mark_used(id, self.now);
                        Step::Backend(id)
                    }
                    (None, Some(Route::Service { service, set })) if W::OPENS => {
                        opens = true;
                        prefetch_set(&self.tables.arena, set);
                        let near = self.shard.foresee(lane.home, self.now);
                        Step::Service {
                            service,
                            set,
                            near,
                            far: None,
                        }
                    }
                    _ => Step::General,
                };
            }
        }
        if opens {
            self.foresee::<F, T>(lanes);
        }
    }

    /// Asks for all that the opening of flows will touch. Others may come first in the meantime: what is foreseen here
    /// is decided later.
    #[inline(never)]
    fn foresee<F: Plane, T>(&self, lanes: &mut [Lane<F, T>]) {
        let picks = |service: u32, set: u32| {
            let set = BackendSet::at(&self.tables.arena, set);
            let state = self.policy_state.get(service as usize)?;
            match set.policy()? {
                Policy::RoundRobin => set.get((*state as usize).checked_rem(set.len())?),
                _ => None,
            }
        };
        for lane in lanes.iter() {
            if let Step::Service {
                service, set, near, ..
            } = lane.step
            {
                self.shard.foresee_end(near);
                if let Some(backend) = picks(service, set) {
                    self.records.prefetch(backend.id);
                }
            }
        }
        for lane in lanes.iter_mut() {
            if let Step::Service {
                service, set, far, ..
            } = &mut lane.step
                && let Some(record) = picks(*service, *set).and_then(|b| self.records.get(b))
            {
                let plain = &lane.plain;
                let tag = Tag::reverse::<F>(plain.ports.rotate_left(16), plain.protocol);
                let home = self.shard.seek(&plain.addresses.answered(record), tag);
                *far = Some(self.shard.foresee(home, self.now));
            }
        }
        for lane in lanes.iter() {
            if let Step::Service { far: Some(far), .. } = lane.step {
                self.shard.foresee_end(far);
            }
        }
    }
}
