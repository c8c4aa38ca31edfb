//! What all peers of a comparison have in common.

/// Where the two containers of a way are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nodes {
    /// On one node.
    One,
    /// On a node each, with a cable between the nodes.
    Two,
}

impl Nodes {
    /// Both.
    pub const BOTH: [Nodes; 2] = [Nodes::One, Nodes::Two];

    /// Of a pair, the part that belongs to it.
    pub(super) fn of<T>(self, pair: &[T; 2]) -> &T {
        let [one, two] = pair;
        match self {
            Nodes::One => one,
            Nodes::Two => two,
        }
    }
}

/// What interfaces may leave to each other: checksums, and segments larger than the MTU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offloads {
    /// Everyone uses what it can: veth as the kernel makes it. Peers behind the `af_packet` PMD cannot, and have them
    /// off all the same.
    #[default]
    On,
    /// Nobody: checksums are finished and frames are of one MTU at most, on the containers' interfaces, on the nodes'
    /// ends of these cables, and on the underlay.
    Off,
}

/// How our own workers wait; other peers wait as they are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// On the ports' descriptors.
    #[default]
    Backoff,
    /// Not at all: they poll.
    Spin,
}

impl Idle {
    /// As the Net Manager's `--idle` takes it.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Idle::Backoff => "backoff",
            Idle::Spin => "spin",
        }
    }
}

/// Who runs where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cores {
    /// Where the scheduler likes; peers that pin themselves by nature (DPDK's lcores) have a core for each node as far as
    /// there are enough.
    #[default]
    Shared,
    /// Node one on core 1, node two on core 2 where there are three; on one node generator and sink on core 0; between
    /// two nodes the generator on core 0 and the sink on core 3 where there are four. What has no core of its own is
    /// where the scheduler likes: on two cores, node two pinned beside the generator halves what both can do.
    Apart,
}

impl Cores {
    /// The only core of a node's process, the first node being 0.
    #[must_use]
    pub fn node(self, node: usize) -> Option<usize> {
        (self == Cores::Apart && node + 1 < there()).then_some(node + 1)
    }

    /// The cores of a client's programs and of a server's.
    #[must_use]
    pub fn workload(self, nodes: Nodes) -> [Option<usize>; 2] {
        match (self, nodes) {
            (Cores::Apart, Nodes::One) => [Some(0); 2],
            (Cores::Apart, Nodes::Two) if there() >= 4 => [Some(0), Some(3)],
            _ => [None; 2],
        }
    }
}

/// How many cores this process may use; 1 where that is not known.
#[must_use]
pub fn there() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// One for all peers of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Of interfaces.
    pub offloads: Offloads,
    /// Of our workers.
    pub idle: Idle,
    /// The longest that an idle core may take to wake, µs, as our nodes ask the kernel for it: it holds for the whole
    /// machine, so for all peers.
    pub cpu_latency: Option<u32>,
    /// Who runs where.
    pub cores: Cores,
}
