//! How a Service IP picks an instance for a new flow.
//!
//! A policy is one small type behind [`Select`]. To add one: write it in a file beside these, and give it a line in
//! the registry below. What the tables hold, what the control plane speaks of and what people see follow from that line,
//! and what is measured for it follows from its type.

mod closest;
mod round_robin;
mod underutilized;

use crate::tables::region::{Backend, BackendRef, Region};
pub use crate::tables::routes::Members;
use crate::tally::Tally;

pub use closest::Closest;
pub use round_robin::RoundRobin;
pub use underutilized::Underutilized;

/// What a policy may look at, all of it memory of this worker or of the tables.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Backends and the distances of hosts.
    pub region: &'a Region,
    /// This worker's own flows.
    pub tally: &'a Tally,
}

impl Known<'_> {
    /// The member, if it is still there and takes new flows.
    #[inline]
    #[must_use]
    pub fn taking(&self, reference: BackendRef) -> Option<Backend> {
        self.region.backend(reference).filter(|b| !b.draining)
    }
}

/// One way to pick.
pub trait Select {
    /// Whether instances have turns by their weight; else each has one.
    const BY_WEIGHT: bool = false;
    /// Whether it wants the distances of the instances' hosts measured.
    const BY_DISTANCE: bool = false;
    /// Whether it wants the instances' loads known and fresh.
    const BY_LOAD: bool = false;

    /// Picks among the members that `usable` lets through. `state` is the worker's own word for this service; what
    /// it means is the policy's business.
    fn select<M: Members>(
        members: &M,
        state: &mut u32,
        known: Known<'_>,
        usable: impl FnMut(BackendRef, &Backend) -> bool,
    ) -> Option<(BackendRef, Backend)>;
}

macro_rules! registry {
    ($( $(#[$doc:meta])* $policy:ident = $number:literal, $name:literal, $contract:literal; )+) => {
        /// Which instance a Service IP picks (contract section 1).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Policy { $( $(#[$doc])* $policy ),+ }

        impl Policy {
            /// All of them.
            pub const ALL: &'static [Policy] = &[ $( Policy::$policy ),+ ];

            /// Its number in tables.
            #[must_use]
            pub const fn number(self) -> u32 {
                match self { $( Policy::$policy => $number ),+ }
            }

            /// The policy of a number in tables.
            #[must_use]
            pub const fn of_number(number: u32) -> Option<Policy> {
                match number { $( $number => Some(Policy::$policy), )+ _ => None }
            }

            /// Its name for people, as in the names of services (contract section 1).
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Policy::$policy => $name ),+ }
            }

            /// The policy of an address with this `IpType` (contract section 3), if it is one that picks.
            #[must_use]
            pub fn of_type(ip_type: &str) -> Option<Policy> {
                match ip_type { $( $contract => Some(Policy::$policy), )+ _ => None }
            }

            /// See [`Select::BY_WEIGHT`].
            #[must_use]
            pub const fn by_weight(self) -> bool {
                match self { $( Policy::$policy => <$policy as Select>::BY_WEIGHT ),+ }
            }

            /// See [`Select::BY_DISTANCE`].
            #[must_use]
            pub const fn by_distance(self) -> bool {
                match self { $( Policy::$policy => <$policy as Select>::BY_DISTANCE ),+ }
            }

            /// See [`Select::BY_LOAD`].
            #[must_use]
            pub const fn by_load(self) -> bool {
                match self { $( Policy::$policy => <$policy as Select>::BY_LOAD ),+ }
            }
        }

        /// Picks by the policy that the dialled address carries.
        pub fn select<M: Members>(
            policy: Policy,
            members: &M,
            state: &mut u32,
            known: Known<'_>,
            usable: impl FnMut(BackendRef, &Backend) -> bool,
        ) -> Option<(BackendRef, Backend)> {
            match policy { $( Policy::$policy => $policy::select(members, state, known, usable) ),+ }
        }
    };
}

// Number in tables, name for people, `IpType` of the contract.
registry! {
    /// Instances in turn.
    RoundRobin = 0, "rr", "RR";
    /// The nearest instance.
    Closest = 1, "closest", "Closest";
    /// The instance with the fewest active flows of two picked at random.
    Underutilized = 2, "underutilized", "Underutilized";
}

#[cfg(test)]
mod tests;
