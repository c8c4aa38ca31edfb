//! What happened between two looks at a node, per second.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// A stream of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Stream {
    pub(super) packets_per_second: f64,
    /// None where bytes are not counted (the kernel's sockets).
    pub(super) bits_per_second: Option<f64>,
}

/// Both directions of one role's ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Role {
    pub(super) received: Stream,
    pub(super) sent: Stream,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Core {
    pub(super) worker: u64,
    /// Share of the time in rounds that moved packets, 0 to 1.
    pub(super) busy: f64,
    pub(super) flows: u64,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Container {
    pub(super) job: String,
    pub(super) instance: u64,
    pub(super) interface: String,
    pub(super) from: Stream,
    pub(super) to: Stream,
    pub(super) refused_per_second: f64,
}

/// A service by one policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Service {
    pub(super) job: String,
    pub(super) policy: String,
    pub(super) address: String,
    pub(super) flows_per_second: f64,
    pub(super) packets_per_second: f64,
    pub(super) live: u64,
    pub(super) refused_per_second: f64,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rates {
    /// Seconds between the looks.
    pub(super) seconds: f64,
    /// `access`, `tunnel`, `host`.
    pub(super) roles: BTreeMap<String, Role>,
    /// By reason, those that occurred meanwhile.
    pub(super) drops: BTreeMap<String, f64>,
    pub(super) cores: Vec<Core>,
    pub(super) containers: Vec<Container>,
    pub(super) services: Vec<Service>,
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn list<'a>(status: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    status["dataplane"][field].as_array().into_iter().flatten()
}

/// The element of an earlier look that is the same thing.
fn earlier<'a>(before: &'a Value, field: &str, now: &Value, same: &[&str]) -> Option<&'a Value> {
    list(before, field).find(|other| same.iter().all(|key| other[*key] == now[*key]))
}

impl Rates {
    /// Between two answers of `/status`, so many seconds apart.
    pub(super) fn between(before: &Value, after: &Value, seconds: f64) -> Self {
        let seconds = seconds.max(1e-3);
        // A counter that is smaller than before began anew.
        let per_second = |now: &Value, then: &Value| {
            let (now, then) = (number(now), number(then));
            (if now < then { now } else { now - then }) / seconds
        };
        let nothing = Value::Null;
        let mut rates = Self {
            seconds,
            ..Self::default()
        };
        let (planes, old) = (&after["dataplane"], &before["dataplane"]);
        for (field, received) in [("received", true), ("sent", false)] {
            for (role, count) in planes[field].as_object().into_iter().flatten() {
                let stream = Stream {
                    packets_per_second: per_second(count, &old[field][role]),
                    bits_per_second: None,
                };
                let known = rates.roles.entry(role.clone()).or_default();
                *(if received {
                    &mut known.received
                } else {
                    &mut known.sent
                }) = stream;
            }
        }
        for (reason, count) in planes["drops"].as_object().into_iter().flatten() {
            let rate = per_second(count, &old["drops"][reason]);
            if rate > 0.0 {
                rates.drops.insert(reason.clone(), rate);
            }
        }
        rates.cores = list(after, "cores")
            .map(|core| {
                let then = earlier(before, "cores", core, &["worker"]).unwrap_or(&nothing);
                let alive = per_second(&core["alive_seconds"], &then["alive_seconds"]);
                let busy = per_second(&core["busy_seconds"], &then["busy_seconds"]);
                Core {
                    worker: core["worker"].as_u64().unwrap_or(0),
                    busy: if alive > 0.0 {
                        (busy / alive).min(1.0)
                    } else {
                        0.0
                    },
                    flows: core["flows"].as_u64().unwrap_or(0),
                }
            })
            .collect();
        rates.containers = list(after, "containers")
            .map(|container| {
                let same = ["interface", "job", "instance"];
                let then = earlier(before, "containers", container, &same).unwrap_or(&nothing);
                let stream = |packets: &str, bytes: &str| Stream {
                    packets_per_second: per_second(&container[packets], &then[packets]),
                    bits_per_second: Some(8.0 * per_second(&container[bytes], &then[bytes])),
                };
                Container {
                    job: text(&container["job"]),
                    instance: container["instance"].as_u64().unwrap_or(0),
                    interface: text(&container["interface"]),
                    from: stream("packets_in", "bytes_in"),
                    to: stream("packets_out", "bytes_out"),
                    refused_per_second: per_second(&container["refused"], &then["refused"]),
                }
            })
            .collect();
        rates.services = list(after, "services")
            .map(|service| {
                let then =
                    earlier(before, "services", service, &["job", "policy"]).unwrap_or(&nothing);
                let rate = |field: &str| per_second(&service[field], &then[field]);
                Service {
                    job: text(&service["job"]),
                    policy: text(&service["policy"]),
                    address: text(&service["addresses"][0]),
                    flows_per_second: rate("opened"),
                    packets_per_second: rate("packets"),
                    live: service["live"].as_u64().unwrap_or(0),
                    refused_per_second: rate("refused"),
                }
            })
            .collect();
        rates.count_bits(before, after, &per_second);
        rates
    }

    /// Bits are counted at containers' ports, and by a device that is the uplink.
    fn count_bits(
        &mut self,
        before: &Value,
        after: &Value,
        per_second: &dyn Fn(&Value, &Value) -> f64,
    ) {
        let sum = |of: fn(&Container) -> Stream| -> f64 {
            let bits = self.containers.iter().filter_map(|c| of(c).bits_per_second);
            // The sum of nothing is -0.
            bits.sum::<f64>() + 0.0
        };
        let (from, to) = (sum(|c| c.from), sum(|c| c.to));
        if let Some(access) = self.roles.get_mut("access") {
            access.received.bits_per_second = Some(from);
            access.sent.bits_per_second = Some(to);
        }
        let nothing = Value::Null;
        let device = list(after, "devices").find(|device| device["role"] == "uplink");
        if let (Some(device), Some(tunnel)) = (device, self.roles.get_mut("tunnel")) {
            let then = earlier(before, "devices", device, &["device"]).unwrap_or(&nothing);
            let bits = |field: &str| Some(8.0 * per_second(&device[field], &then[field]));
            tunnel.received.bits_per_second = bits("received_bytes");
            tunnel.sent.bits_per_second = bits("sent_bytes");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counters_become_rates() {
        let look = |n: u64| {
            json!({"dataplane": {
                "received": {"access": 100 * n, "tunnel": 7}, "sent": {"access": 50 * n},
                "drops": {"not_ip": 10 * n, "icmp": 3},
                "cores": [{"worker": 0, "busy_seconds": 0.5 * n as f64, "alive_seconds": 2.0 * n as f64, "flows": 4}],
                "containers": [{"job": "a.b.c.d", "instance": 1, "interface": "v1", "packets_in": 10 * n, "bytes_in": 1000 * n, "packets_out": 0, "bytes_out": 0, "refused": 0}],
                "services": [{"job": "a.b.c.d", "policy": "rr", "addresses": ["10.30.0.1"], "opened": 4 * n, "packets": 8 * n, "live": 3, "refused": 0}],
                "devices": [{"device": "net0", "role": "uplink", "received_bytes": 500 * n, "sent_bytes": 0}],
            }})
        };
        let rates = Rates::between(&look(1), &look(2), 2.0);
        let access = &rates.roles["access"];
        assert_eq!(access.received.packets_per_second, 50.0);
        assert_eq!(access.received.bits_per_second, Some(4000.0));
        assert_eq!(access.sent.packets_per_second, 25.0);
        assert_eq!(rates.roles["tunnel"].received.bits_per_second, Some(2000.0));
        assert_eq!(rates.drops, BTreeMap::from([("not_ip".to_owned(), 5.0)]));
        assert_eq!(rates.cores[0].busy, 0.25);
        assert_eq!(rates.containers[0].from.packets_per_second, 5.0);
        assert_eq!(rates.services[0].flows_per_second, 2.0);
        // A node that restarted meanwhile counts from zero; one that gives no numbers has none.
        let again = Rates::between(&look(5), &look(1), 1.0);
        assert_eq!(again.roles["access"].received.packets_per_second, 100.0);
        assert_eq!(Rates::between(&Value::Null, &Value::Null, 1.0).cores, []);
    }
}
