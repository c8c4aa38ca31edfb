//! A profile in the words of other packet generators, so that their users measure the same.
//!
//! What the other cannot say is said in a comment at the head of the file, and told to the caller.

mod pktgen_dpdk;
mod trex;

use std::fmt::Write as _;
use std::net::IpAddr;

use net::Address;

use crate::frame::Kind;
use crate::profile::{Profile, ports};

/// Another generator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Target {
    /// Pktgen-DPDK: a Lua script for its -f option.
    PktgenDpdk,
    /// TRex: a stateless (STL) profile in Python.
    Trex,
}

/// A file for another generator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exported {
    /// Its text.
    pub text: String,
    /// What it cannot say.
    pub notes: Vec<String>,
}

/// Writes a checked profile for `target`.
#[must_use]
pub fn write(profile: &Profile, target: Target) -> Exported {
    match target {
        Target::PktgenDpdk => pktgen_dpdk::write(profile),
        Target::Trex => trex::write(profile),
    }
}

fn last(address: IpAddr, count: u32) -> IpAddr {
    Address(Address::from(address).0 + u128::from(count.saturating_sub(1))).to_ip()
}

/// What neither can.
fn notes(profile: &Profile, name: &str) -> Vec<String> {
    let mut notes = vec![format!(
        "{name} does not stamp packets as pktgen does: loss per flow, reordering and latency are its own way's"
    )];
    if profile.new_flows > 0 {
        notes.push(format!(
            "{name} has no rate of new flows (new-flows = {})",
            profile.new_flows
        ));
    }
    if profile.protocol == Kind::TcpFlow {
        notes.push(format!(
            "{name} has no flows of several segments: it sends SYNs only, each of another flow, and nothing closes them (tcp-flow)"
        ));
    }
    if profile.warm_up > 0.0 {
        notes.push(format!(
            "{name} counts from the first packet (warm-up = {} s): clear its statistics then",
            profile.warm_up
        ));
    }
    notes
}

fn head(comment: &str, profile: &Profile, notes: &[String]) -> String {
    let mut text = format!(
        "{comment} {}\n",
        profile.description.lines().next().unwrap_or("")
    );
    for note in notes {
        let _written = writeln!(text, "{comment} Not expressed: {note}");
    }
    text
}

/// How many values each field of the flows takes.
#[derive(Clone, Copy)]
struct Spread {
    destinations: u32,
    source_ports: u32,
    sources: u32,
    destination_ports: u32,
}

impl Spread {
    /// All that there are.
    fn whole(profile: &Profile) -> Self {
        let narrow = |range| u32::try_from(ports(range)).unwrap_or(1);
        Self {
            destinations: profile.destination.count,
            source_ports: narrow(profile.source.ports),
            sources: profile.source.count,
            destination_ports: narrow(profile.destination.ports),
        }
    }

    /// As few as make `flows` of them, or hardly more, to `destinations` addresses.
    fn of(profile: &Profile, flows: u32, destinations: u32) -> Self {
        let whole = Self::whole(profile);
        let destinations = destinations.min(flows);
        let each = flows.div_ceil(destinations);
        let more = each.div_ceil(whole.source_ports);
        let sources = more.min(whole.sources);
        let destination_ports = more.div_ceil(sources);
        Self {
            destinations,
            source_ports: each.div_ceil(sources * destination_ports),
            sources,
            destination_ports,
        }
    }

    fn flows(self) -> u64 {
        [self.source_ports, self.sources, self.destination_ports]
            .into_iter()
            .fold(u64::from(self.destinations), |flows, count| {
                flows.saturating_mul(count.into())
            })
    }
}
