//! What the path to each host carries.
//!
//! Two say so: the kernel's routing table (an interface's MTU, a route's, and with a `socket` uplink all that ICMP has
//! told the kernel), and with an `ethdev` uplink the routers themselves, of whose word the workers tell. The smaller
//! one counts, less the headers around an inner packet. What a router said is forgotten after ten minutes (RFC 1191
//! section 6.3), and then found out again if it still holds. A host's record is in the mapping that outlives the
//! process, so its limit is there at once after a restart, and is judged anew from then on.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use net::address::Address;
use net::{ipv4, ipv6, udp};

use super::Controller;
use crate::api::{CommandError, NextHop, PeerLine};
use crate::tables::routes::set_cells;
use crate::uplink::{FLOOR_V4, PathReport, template};

/// How long a router's word holds.
const MEMORY: Duration = Duration::from_secs(600);
/// Between two rounds of questions to the kernel, and the hosts asked about in one.
const ROUND: Duration = Duration::from_secs(1);
const PER_ROUND: usize = 256;

/// The least that an outer IPv6 packet may be held to.
const LEAST_V6: u16 = 1280;

/// What is known of the path to one address.
#[derive(Debug, Default)]
struct Path {
    /// The host records with this address.
    numbers: Vec<u32>,
    /// By the kernel's table.
    route: Option<u16>,
    /// By a router, until then.
    told: Option<(u16, Instant)>,
    /// How an ethdev uplink's frames begin their way.
    hop: Option<NextHop>,
    /// The limit that the hop's cell has.
    written: u16,
}

impl Path {
    /// The longest outer packet; the largest number while nothing is known.
    fn outer(&self) -> u16 {
        let told = self.told.map_or(u16::MAX, |(mtu, _)| mtu);
        self.route.map_or(told, |route| route.min(told))
    }
}

/// The longest inner packet for an outer one.
fn inner(host: Address, outer: u16) -> u16 {
    let (least, header) = match host.is_v4() {
        true => (FLOOR_V4, ipv4::HEADER_LEN),
        false => (LEAST_V6, ipv6::HEADER_LEN),
    };
    if outer == u16::MAX {
        return u16::MAX;
    }
    let around = u16::try_from(header + udp::HEADER_LEN).unwrap_or(0);
    outer.max(least).saturating_sub(around)
}

/// All paths.
#[derive(Debug, Default)]
pub(super) struct Paths {
    known: BTreeMap<Address, Path>,
    /// Whether the kernel sends our datagrams, and so knows all about their paths.
    ask_kernel: bool,
    /// The port that we send from, where an ethdev uplink writes the headers.
    frames_from: Option<u16>,
    /// The last address of the previous round.
    at: Option<Address>,
    next_round: Option<Instant>,
}

impl Controller {
    /// The kernel is the one to ask about paths: it sends our datagrams.
    #[must_use]
    pub fn with_kernel_paths(mut self) -> Self {
        self.paths.ask_kernel = true;
        self
    }

    /// The uplink writes the headers of datagrams itself, from this port.
    #[must_use]
    pub fn with_frames_from(mut self, port: u16) -> Self {
        self.paths.frames_from = Some(port);
        self
    }

    // Writes the headers of datagrams to a host once, for all that will go there.
    fn write_template(&mut self, host: u32, hop: &NextHop) -> Result<(), CommandError> {
        let (Some(from), Some(to)) = (self.paths.frames_from, self.tables.region.host(host)) else {
            return Ok(());
        };
        let cells = set_cells(template::WORDS - 1);
        let cell = self
            .allocator
            .allocate(&self.tables.arena, cells)
            .ok_or_else(|| CommandError::Full("no memory is left for next hops".to_owned()))?;
        let made = template::fill(self.tables.arena.words(cell), hop, to, from);
        let old = self.tables.set_template(host, if made { cell } else { 0 });
        for unused in [old, if made { 0 } else { cell }] {
            if unused != 0 {
                self.retire(unused, cells);
            }
        }
        Ok(())
    }

    /// A host record with this address is there.
    pub(super) fn add_path(&mut self, host: Address, number: u32) {
        let path = self.paths.known.entry(host).or_default();
        if !path.numbers.contains(&number) {
            path.numbers.push(number);
        }
        if let Some(hop) = path.hop
            && let Err(error) = self.write_template(number, &hop)
        {
            tracing::warn!(host = %host.to_ip(), "its datagrams' headers are written one by one: {error}");
        }
        match self.paths.ask_kernel {
            true => self.ask_kernel(host),
            false => self.publish_path(host),
        }
    }

    /// A worker was told that a path carries less.
    pub(crate) fn path_report(&mut self, report: PathReport) {
        if self.paths.ask_kernel {
            return self.ask_kernel(report.host);
        }
        // Beside an AF_XDP uplink the kernel is told, and knows how much.
        let mtu = match report.mtu {
            0 => kernel_port::path_mtu(report.host.to_ip()).unwrap_or(u16::MAX),
            mtu => mtu,
        };
        if let Some(path) = self.paths.known.get_mut(&report.host)
            && mtu < path.outer()
        {
            path.told = Some((mtu, Self::now() + MEMORY));
            self.publish_path(report.host);
        }
    }

    fn ask_kernel(&mut self, host: Address) {
        if let Some(path) = self.paths.known.get_mut(&host) {
            // Without a route nothing can be said, nor sent.
            path.route = kernel_port::path_mtu(host.to_ip()).ok();
            self.publish_path(host);
        }
    }

    /// How frames for a host begin their way, and what the route carries.
    pub(crate) fn set_next_hop(&mut self, host: Address, hop: NextHop) -> Result<(), CommandError> {
        let path = self.paths.known.entry(host).or_default();
        path.route = hop.mtu;
        path.hop = Some(hop);
        let outer = path.outer();
        self.write_hop(host, &hop, outer)?;
        self.publish_path(host);
        Ok(())
    }

    fn write_hop(&mut self, host: Address, hop: &NextHop, outer: u16) -> Result<(), CommandError> {
        let cell = self
            .allocator
            .allocate(&self.tables.arena, 1)
            .ok_or_else(|| CommandError::Full("no memory is left for next hops".to_owned()))?;
        crate::uplink::write_next_hop(self.tables.arena.words(cell), hop, outer);
        let old = self
            .tables
            .next_hops
            .set(
                &self.tables.arena,
                &mut self.allocator,
                host,
                u64::from(cell),
            )
            .map_err(|e| CommandError::Full(e.to_string()))?;
        if let Some(old) = old {
            self.retire(crate::tables::low32(old), 1);
        }
        let mut numbers = Vec::new();
        if let Some(path) = self.paths.known.get_mut(&host) {
            path.written = outer;
            numbers.clone_from(&path.numbers);
        }
        numbers
            .into_iter()
            .try_for_each(|number| self.write_template(number, hop))
    }

    fn publish_path(&mut self, host: Address) {
        let Some(path) = self.paths.known.get(&host) else {
            return;
        };
        let outer = path.outer();
        let limit = inner(host, outer);
        for &number in &path.numbers {
            if self.tables.region.host_mtu(number) != limit {
                self.tables.region.set_host_mtu(number, limit);
                self.tables.bump_hosts_version();
                tracing::debug!(host = %host.to_ip(), outer, "the path to another node carries this much now");
            }
        }
        let hop = path.hop.filter(|_| path.written != outer);
        if let Some(hop) = hop
            && let Err(error) = self.write_hop(host, &hop, outer)
        {
            tracing::warn!(host = %host.to_ip(), "its next hop keeps an old path MTU: {error}");
        }
    }

    /// The other nodes that are known.
    pub(crate) fn peer_lines(&self) -> Vec<PeerLine> {
        let region = &self.tables.region;
        let known = self.paths.known.values();
        known
            .flat_map(|path| path.numbers.iter().map(move |number| (path, *number)))
            .filter_map(|(path, number)| {
                let limit = region.host_mtu(number);
                let round_trip = region.host_rtt(number);
                Some(PeerLine {
                    endpoint: crate::pipeline::endpoint(region.host(number)?),
                    mtu: (limit != u16::MAX).then_some(limit),
                    routed: path.route.is_some() || path.hop.is_some(),
                    round_trip: (round_trip != 0)
                        .then(|| Duration::from_micros(u64::from(round_trip))),
                    answers_probes: region.is_probed(number),
                    unanswered: region.unanswered_probes(number),
                })
            })
            .collect()
    }

    /// Forgets what routers said long ago, and asks the kernel about some hosts in turn.
    pub(super) fn look_at_paths(&mut self) {
        let now = Self::now();
        if self.paths.next_round.is_some_and(|next| now < next) {
            return;
        }
        self.paths.next_round = Some(now + ROUND);
        if self.paths.ask_kernel {
            let from = self.paths.at.map_or(Bound::Unbounded, Bound::Excluded);
            let turn: Vec<Address> = self
                .paths
                .known
                .range((from, Bound::Unbounded))
                .take(PER_ROUND)
                .map(|(host, _)| *host)
                .collect();
            self.paths.at = turn.last().copied().filter(|_| turn.len() == PER_ROUND);
            for host in turn {
                self.ask_kernel(host);
            }
        } else {
            self.forget_told(now);
        }
    }

    pub(crate) fn forget_told(&mut self, now: Instant) {
        let over: Vec<Address> = self
            .paths
            .known
            .iter_mut()
            .filter_map(|(host, path)| {
                path.told.take_if(|(_, until)| *until <= now)?;
                Some(*host)
            })
            .collect();
        for host in over {
            self.publish_path(host);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_for_an_inner_packet() {
        let (v4, v6) = (Address::v4([192, 0, 2, 1]), Address(1 << 120));
        for (host, outer, expected) in [
            (v4, 1500, 1472),
            (v6, 1500, 1452),
            (v4, 552, 524),
            (v4, 68, 524),
            (v6, 1280, 1232),
            (v6, 0, 1232),
            (v4, u16::MAX, u16::MAX),
            (v6, u16::MAX, u16::MAX),
        ] {
            assert_eq!(inner(host, outer), expected, "{outer}");
        }
    }

    #[test]
    fn the_smaller_word_counts() {
        let mut path = Path::default();
        assert_eq!(path.outer(), u16::MAX);
        path.route = Some(1500);
        assert_eq!(path.outer(), 1500);
        path.told = Some((1300, Instant::now()));
        assert_eq!(path.outer(), 1300);
        path.route = Some(1280);
        assert_eq!(path.outer(), 1280);
    }
}
