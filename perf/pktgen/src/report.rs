//! What came of a run: for programs as JSON, for people as a table.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::generator::Sent;
use crate::plan::Flows;
use crate::run::Prepared;
use crate::search::{Limit, Outcome};
use crate::sink::Sink;
use crate::tally::Counts;

/// The result of a run. What one end alone cannot know is absent.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Seconds that count.
    pub seconds: f64,
    /// What was sent.
    pub sent: Option<SentReport>,
    /// What arrived.
    pub received: Option<ReceivedReport>,
    /// What was sent and did not arrive.
    pub lost: Option<Lost>,
    /// Packets per service, in order of address.
    pub services: Vec<Service>,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SentReport {
    /// Packets that the port took.
    pub packets: u64,
    /// Packets a second.
    pub packets_per_second: f64,
    /// Bits a second of whole frames, check sequence included.
    pub bits_per_second: f64,
    /// Packets a second that were asked for; absent for as many as possible.
    pub asked_packets_per_second: Option<f64>,
    /// Seconds of the schedule that were given up, because generator or port did not keep up.
    pub missed_seconds: f64,
    /// Packets that were due, and that the port had not taken when the time was over.
    pub left: u64,
    /// Packets to warm up, that do not count.
    pub warm_up: u64,
}

/// What arrived.
#[derive(Clone, Debug, Serialize)]
pub struct ReceivedReport {
    /// What happened to packets.
    #[serde(flatten)]
    pub counts: Counts,
    /// Packets a second, over the seconds that count; over the time between first and last where only they are known.
    pub packets_per_second: f64,
    /// Bits a second of whole frames, check sequence included.
    pub bits_per_second: f64,
    /// Packets to warm up, that do not count.
    pub warm_up: u64,
    /// From when each packet was due to when it was received; absent when no packet said.
    pub latency_us: Option<Latency>,
}

/// Latencies in microseconds, corrected for coordinated omission: from when a packet was due, not when it was sent.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Smallest.
    pub min: f64,
    /// Mean.
    pub mean: f64,
    /// Half are below.
    pub p50: f64,
    /// 90 % are below.
    pub p90: f64,
    /// 99 % are below.
    pub p99: f64,
    /// 99.9 % are below.
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    /// Largest.
    pub max: f64,
}

/// Loss.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Lost {
    /// Packets.
    pub packets: u64,
    /// Their share of what was sent.
    pub ratio: f64,
}

/// A service.
#[derive(Clone, Debug, Serialize)]
pub struct Service {
    /// Its address.
    pub address: std::net::IpAddr,
    /// Packets sent to it; absent where they were not sent by this process.
    pub sent: Option<u64>,
    /// Packets received that were sent to it; absent where none are received here.
    pub received: Option<u64>,
}

#[allow(clippy::cast_precision_loss)] // Counts below 2^52.
fn per(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        #[allow(clippy::cast_precision_loss)] // 100 s are 10^11 ns.
        let us = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
        let quantile = |q| us(histogram.value_at_quantile(q));
        (!histogram.is_empty()).then(|| Self {
            min: us(histogram.min()),
            mean: histogram.mean() / 1000.0,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: us(histogram.max()),
        })
    }
}

impl Report {
    pub(crate) fn new(
        prepared: &Prepared,
        flows: &Flows,
        sent: Option<&(Sent, Box<[u64]>)>,
        sink: Option<&Sink>,
    ) -> Self {
        let seconds = sent.map_or(prepared.profile.duration, |(sent, _)| {
            per(sent.elapsed, 1e9)
        });
        let asked = prepared
            .profile
            .rate
            .0
            .packets_per_second(prepared.mean_size());
        let sent_report = sent.map(|(sent, _)| SentReport {
            packets: sent.packets,
            packets_per_second: per(sent.packets, seconds),
            bits_per_second: per(sent.bytes * 8, seconds),
            asked_packets_per_second: asked.is_finite().then_some(asked),
            missed_seconds: per(sent.missed, 1e9),
            left: sent.left,
            warm_up: sent.warm,
        });
        let received = sink.map(|sink| {
            let over = if sent.is_some() {
                seconds
            } else {
                per(sink.span(), 1e9)
            };
            let counts = sink.tally().counts();
            ReceivedReport {
                counts,
                packets_per_second: per(counts.received, over),
                bits_per_second: per(sink.bytes() * 8, over),
                warm_up: sink.warm(),
                latency_us: Latency::of(sink.tally().latency()),
            }
        });
        let lost = match (&sent_report, &received) {
            (Some(sent), Some(received)) => {
                let packets = sent.packets.saturating_sub(received.counts.received);
                #[allow(clippy::cast_precision_loss)] // As above.
                let ratio = per(packets, sent.packets as f64);
                Some(Lost { packets, ratio })
            }
            _ => None,
        };
        let services = (0..flows.services())
            .map(|service| Service {
                address: flows.service_address(service).to_ip(),
                sent: sent.and_then(|(_, counts)| counts.get(service as usize).copied()),
                received: sink
                    .and_then(|sink| sink.tally().services().get(service as usize).copied()),
            })
            .collect();
        Self {
            seconds,
            sent: sent_report,
            received,
            lost,
            services,
        }
    }

    /// Lines for a person; `bold` for a terminal.
    #[must_use]
    pub fn table(&self, bold: bool) -> String {
        let mut rows: Vec<(String, String)> = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        if let Some(sent) = &self.sent {
            row(
                "sent",
                format!("{} packets in {:.1} s", sent.packets, self.seconds),
            );
            let asked = sent.asked_packets_per_second.map_or_else(
                || "as many as possible".to_owned(),
                |asked| format!("{asked:.0}"),
            );
            row(
                "offered",
                format!("{:.0} packets/s of {asked}", sent.packets_per_second),
            );
            row("", format!("{:.1} Mbit/s", sent.bits_per_second / 1e6));
            if sent.missed_seconds > 0.0 {
                row(
                    "given up",
                    format!("{:.3} s of the schedule", sent.missed_seconds),
                );
            }
        }
        if let Some(received) = &self.received {
            let counts = received.counts;
            row("received", format!("{} packets", counts.received));
            row("", format!("{:.0} packets/s", received.packets_per_second));
            row("", format!("{:.1} Mbit/s", received.bits_per_second / 1e6));
            match self.lost {
                Some(lost) => row(
                    "lost",
                    format!("{} ({:.4} %)", lost.packets, lost.ratio * 100.0),
                ),
                None => row("passed over", format!("{} numbers", counts.gaps)),
            }
            row("reordered", counts.reordered.to_string());
            row("duplicates", counts.duplicates.to_string());
            row("corrupt", counts.corrupt.to_string());
            row("not ours", counts.foreign.to_string());
            if let Some(latency) = received.latency_us {
                for (name, value) in [
                    ("latency min", latency.min),
                    ("p50", latency.p50),
                    ("p90", latency.p90),
                    ("p99", latency.p99),
                    ("p99.9", latency.p99_9),
                    ("max", latency.max),
                ] {
                    row(name, format!("{value:.1} us"));
                }
            }
        }
        let mut text = String::new();
        let (on, off) = if bold {
            ("\x1b[1m", "\x1b[0m")
        } else {
            ("", "")
        };
        for (name, value) in rows {
            // Writing to a string does not fail.
            let _written = writeln!(text, "{on}{name:<12}{off} {value}");
        }
        if self.services.len() > 1 {
            let mut services: Vec<&Service> = self.services.iter().collect();
            services.sort_by_key(|service| std::cmp::Reverse(service.sent.max(service.received)));
            let shown = |count: Option<u64>| {
                count.map_or_else(|| "-".to_owned(), |count| count.to_string())
            };
            let _written = writeln!(
                text,
                "{on}{:<24} {:>12} {:>12}{off}",
                "service", "sent", "received"
            );
            for service in services.iter().take(SHOWN) {
                let (address, sent, received) = (
                    service.address,
                    shown(service.sent),
                    shown(service.received),
                );
                let _written = writeln!(text, "{address:<24} {sent:>12} {received:>12}");
            }
            if let Some(more) = services.len().checked_sub(SHOWN).filter(|more| *more > 0) {
                let _written = writeln!(text, "and {more} more, which --json has");
            }
        }
        text
    }
}

/// Services in a table.
const SHOWN: usize = 10;

/// A table of what a search found.
#[must_use]
pub fn search_table(outcomes: &[Outcome], bold: bool) -> String {
    let (on, off) = if bold {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    };
    let mut text = format!(
        "{on}{:<10} {:>14} {:>14} {:>9}  {}{off}\n",
        "loss", "packets/s", "not", "width %", "ended by"
    );
    for outcome in outcomes {
        let rate = |bound: &Option<crate::search::Bound>| {
            bound
                .as_ref()
                .map_or_else(|| "-".to_owned(), |bound| format!("{:.0}", bound.rate))
        };
        let ended = match outcome.limit {
            Limit::Precision => "precision",
            Limit::Maximum => "the highest rate passes: raise --max",
            Limit::Minimum => "the lowest rate does not pass: lower --min, or look at the path",
            Limit::Generator => "the generator, which offers no more",
            Limit::Unfinished => "the number of trials: raise --max-trials",
        };
        let loss = format!("{} %", outcome.goal.loss_ratio * 100.0);
        let width = outcome
            .width()
            .map_or_else(|| "-".to_owned(), |width| format!("{:.2}", width * 100.0));
        let (lower, upper) = (rate(&outcome.lower), rate(&outcome.upper));
        let _written = writeln!(
            text,
            "{loss:<10} {lower:>14} {upper:>14} {width:>9}  {ended}"
        );
    }
    text
}
