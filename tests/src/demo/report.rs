//! What the demo found, as numbers.

use std::collections::BTreeMap;

use serde_json::json;

use crate::measure::RoundTrip;

/// One step's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// Whether it held.
    pub ok: bool,
    /// How long it took, milliseconds.
    pub ms: u128,
}

/// All numbers; what was not reached stays 0.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// HTTP requests to the Service IP.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Answers of each instance.
    pub per_instance: BTreeMap<u32, u64>,
    /// Ping between two nodes.
    pub rtt: RoundTrip,
    /// TCP between two nodes, received.
    pub tcp_mbit_s: f64,
    /// 64-byte UDP between two nodes, received.
    pub udp_pps: f64,
    /// TCP within one node.
    pub tcp_mbit_s_near: f64,
    /// 64-byte UDP within one node.
    pub udp_pps_near: f64,
    /// Requests that failed while an instance went.
    pub drained_failures: u64,
    /// The steps that were tried.
    pub steps: Vec<Step>,
}

impl Report {
    /// The numbers as one JSON object, its keys in the order that is promised.
    #[must_use]
    pub fn json(&self, ok: bool) -> String {
        let steps: Vec<_> = self
            .steps
            .iter()
            .map(|step| {
                let name = json!(step.name);
                format!(r#"{{"name":{name},"ok":{},"ms":{}}}"#, step.ok, step.ms)
            })
            .collect();
        format!(
            r#"{{"ok":{ok},"requests":{},"failures":{},"per_instance":{},"rtt_us":{{"p50":{},"p99":{}}},"tcp_mbit_s":{:.0},"udp_pps":{:.0},"drained_failures":{},"steps":[{}]}}"#,
            self.requests,
            self.failures,
            json!(self.per_instance),
            self.rtt.p50,
            self.rtt.p99,
            self.tcp_mbit_s,
            self.udp_pps,
            self.drained_failures,
            steps.join(",")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_as_promised() {
        let report = Report {
            requests: 300,
            per_instance: BTreeMap::from([(0, 100), (1, 100), (2, 100)]),
            steps: vec![Step {
                name: "",
                ok: true,
                ms: 0,
            }],
            ..Report::default()
        };
        assert_eq!(
            report.json(true),
            r#"{"ok":true,"requests":300,"failures":0,"per_instance":{"0":100,"1":100,"2":100},"rtt_us":{"p50":0,"p99":0},"tcp_mbit_s":0,"udp_pps":0,"drained_failures":0,"steps":[{"name":"","ok":true,"ms":0}]}"#
        );
    }
}
