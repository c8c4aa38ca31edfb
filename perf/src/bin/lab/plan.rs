//! What is measured, in which order, and how long it is thought to take.

use std::time::Duration;

use clap::ValueEnum;
use perf::ways::{Nodes, Offloads};

use crate::search::Care;

/// A head-to-head. The order is that of a run: what matters most comes first, what needs another field last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// Two nodes: one TCP stream with the offloads that everyone can use
    TwoTcp,
    /// Two nodes: HTTP, a connection per request
    TwoConnections,
    /// Two nodes: highest rates of 64-byte UDP without loss (NDR), with 0.1 % and with 0.5 % (PDR)
    #[value(name = "two-udp64")]
    TwoUdp64,
    /// One node: the same
    #[value(name = "one-udp64")]
    OneUdp64,
    /// Two nodes: echoes of 64 bytes, idle and beside half of the highest rate that both ours and the kernel's way carry
    TwoRr,
    /// Routes change 1,000 times a second while the highest lossless rate passes
    Churn,
    /// Flows opened and closed: failures, and growth in memory
    Soak,
    /// Two nodes: processor time of the whole machine per packet
    TwoBusy,
    /// One node: the same
    OneBusy,
    /// Two nodes: echoes at 0, 10, 50 and 90 % of each peer's own PDR
    Latency,
    /// Two nodes: throughput with 1, 32 and 1,024 flows
    Flows,
    /// One node: one TCP stream
    OneTcp,
    /// Two nodes: throughput by workers of each node, on machines with cores for them
    Scaling,
    /// Two nodes: one TCP stream, no frame above the MTU anywhere
    TwoTcpMtu,
}

impl Case {
    /// As results name it.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Where its containers are.
    #[must_use]
    pub fn nodes(self) -> Nodes {
        match self {
            Case::OneUdp64 | Case::OneBusy | Case::OneTcp => Nodes::One,
            _ => Nodes::Two,
        }
    }

    /// On which field it is measured.
    #[must_use]
    pub fn offloads(self) -> Offloads {
        match self {
            Case::TwoTcpMtu => Offloads::Off,
            _ => Offloads::On,
        }
    }

    /// Whether `--quick` measures it.
    #[must_use]
    pub fn is_quick(self) -> bool {
        !matches!(self, Case::OneTcp | Case::Scaling)
    }
}

/// How thorough a run is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Seconds of one measurement.
    pub seconds: f64,
    /// Interleaved rounds.
    pub rounds: u16,
    /// Rounds of searches, each of which is many trials.
    pub searches: u16,
    /// Of these.
    pub care: Care,
    /// Loads of the latency curve, % of PDR.
    pub loads: &'static [u16],
    /// Flows of the soak.
    pub flows: u64,
    /// What all may take.
    pub limit: Option<Duration>,
}

/// Less than three minutes, with what starting and ending take.
const QUICK_LIMIT: Duration = Duration::from_secs(160);

impl Pace {
    /// For a first look.
    #[must_use]
    pub fn quick(seconds: Option<f64>, rounds: Option<u16>) -> Pace {
        let seconds = seconds.unwrap_or(0.4);
        Pace {
            seconds,
            rounds: rounds.unwrap_or(2),
            searches: 1,
            care: Care {
                seconds,
                trials: 8,
                deciding: 1,
                precision: 0.05,
            },
            loads: &[0, 50, 90],
            flows: 100_000,
            limit: Some(QUICK_LIMIT),
        }
    }

    /// For figures that are kept.
    #[must_use]
    pub fn full(seconds: Option<f64>, rounds: Option<u16>) -> Pace {
        let seconds = seconds.unwrap_or(2.0);
        let rounds = rounds.unwrap_or(10);
        Pace {
            seconds,
            rounds,
            searches: rounds.div_ceil(3),
            care: Care {
                seconds,
                trials: 60,
                deciding: 3,
                precision: 0.02,
            },
            loads: &[0, 10, 50, 90],
            flows: 10_000_000,
            limit: None,
        }
    }

    /// What a round of a case is thought to take, for so many peers.
    #[must_use]
    pub fn thought(&self, case: Case, peers: usize) -> Duration {
        let peers = f64::from(u32::try_from(peers).unwrap_or(1));
        // Starting, warming up, ending: pktgen's half second among it.
        let around = 0.9;
        let one = self.seconds + around;
        let points = f64::from(u32::try_from(self.loads.len()).unwrap_or(1));
        #[allow(clippy::cast_precision_loss)] // ten million
        let flows = self.flows as f64;
        let seconds = match case {
            Case::TwoUdp64 | Case::OneUdp64 => peers * one * f64::from(self.care.trials.min(20)),
            Case::TwoTcp | Case::OneTcp | Case::TwoTcpMtu | Case::TwoConnections => peers * one,
            Case::TwoRr => peers * (2.0 * one + 0.8),
            Case::TwoBusy | Case::OneBusy => peers * 2.0 * (self.seconds.max(1.0) + around + 0.8),
            Case::Churn => 6.0 * (one + 1.0),
            // A search, short flows, connections.
            Case::Soak => one * f64::from(self.care.trials.min(20)) + flows / 20_000.0 + 30.0,
            // That the rates hold, in some tries.
            Case::Latency => peers * (points + 3.0) * (one + 0.8),
            Case::Flows => peers * 3.0 * one,
            Case::Scaling => 4.0 * one,
        };
        Duration::from_secs_f64(seconds)
    }

    /// How often a case is measured.
    #[must_use]
    pub fn rounds_of(&self, case: Case) -> u16 {
        match case {
            Case::TwoUdp64 | Case::OneUdp64 | Case::Latency => self.searches,
            Case::Soak => 1,
            _ => self.rounds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_ends_in_three_minutes_and_begins_with_what_has_targets() {
        let quick = Pace::quick(None, None);
        assert!(quick.limit.unwrap() < Duration::from_secs(170));
        let peers = 5;
        let first = [
            Case::TwoTcp,
            Case::TwoConnections,
            Case::TwoUdp64,
            Case::OneUdp64,
        ];
        assert_eq!(Case::value_variants()[..4], first);
        let thought: Duration = first
            .iter()
            .map(|&case| quick.thought(case, peers) * quick.rounds_of(case).into())
            .sum();
        assert!(thought < quick.limit.unwrap(), "{thought:?}");
        // A field of its own is laid once, at the end.
        let cases = Case::value_variants();
        let off = cases
            .iter()
            .position(|case| case.offloads() == Offloads::Off);
        assert_eq!(off, Some(cases.len() - 1));
    }
}
