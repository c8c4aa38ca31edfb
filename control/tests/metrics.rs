//! `/metrics` as a strict reader of Prometheus' text format takes it, and by the conventions that `promtool check
//! metrics` holds exporters to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test they are assertions.

mod world;

use std::collections::{HashMap, HashSet};

use control::forwarding::{
    Count, DeviceCounts, PolicyCounts, PoolCounts, PortCounts, RoleCounts, ServiceCounts, Stats,
    WorkerCounts,
};
use std::time::Duration;
use world::{Served, World, isolated};

/// Splits `name{a="b"} value`; answers the name, the labels as text and the value.
fn sample(line: &str) -> (String, String, f64) {
    let end = line.find(['{', ' ']).expect("a value");
    let (name, rest) = line.split_at(end);
    let (labels, value) = match rest.strip_prefix('{') {
        None => ("", rest.strip_prefix(' ').expect("one blank")),
        Some(inner) => {
            let (mut quoted, mut escaped, mut close) = (false, false, None);
            for (at, c) in inner.char_indices() {
                match c {
                    _ if escaped => {
                        assert!(matches!(c, '\\' | '"' | 'n'), "an escape: {line}");
                        escaped = false;
                    }
                    '\\' if quoted => escaped = true,
                    '"' => quoted = !quoted,
                    '}' if !quoted => {
                        close = Some(at);
                        break;
                    }
                    _ => {}
                }
            }
            let close = close.unwrap_or_else(|| panic!("labels that end: {line}"));
            (
                &inner[..close],
                inner[close + 1..].strip_prefix(' ').expect("one blank"),
            )
        }
    };
    let number = value.parse().unwrap_or_else(|_| panic!("a number: {line}"));
    (name.to_owned(), labels.to_owned(), number)
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Reads all of it; answers every series.
fn read(text: &str) -> HashMap<(String, String), f64> {
    assert!(text.ends_with('\n'), "the last line ends");
    let mut series = HashMap::new();
    let (mut families, mut current) = (HashSet::new(), None::<(String, String)>);
    let mut help = None::<String>;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, text) = rest.split_once(' ').expect("a help text");
            assert!(!text.trim().is_empty() && help.is_none(), "{line}");
            help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(
                help.take().as_deref(),
                Some(name),
                "help, then type: {line}"
            );
            assert!(is_name(name), "{name}");
            assert!(
                families.insert(name.to_owned()),
                "a family is there once: {name}"
            );
            assert!(matches!(kind, "counter" | "gauge"), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            for suffix in [
                "_ms",
                "_us",
                "_milliseconds",
                "_mb",
                "_kb",
                "_count",
                "_sum",
                "_bucket",
            ] {
                assert!(!name.ends_with(suffix), "base units: {name}");
            }
            current = Some((name.to_owned(), kind.to_owned()));
        } else {
            let (name, labels, value) = sample(line);
            let (family, kind) = current.as_ref().expect("a family");
            assert_eq!(*family, name, "samples follow their family");
            assert!(
                value.is_finite() && (kind == "gauge" || value >= 0.0),
                "{line}"
            );
            for label in labels.split("\",").filter(|label| !label.is_empty()) {
                let (label, text) = label.split_once("=\"").expect("a label");
                assert!(is_name(label) && !label.starts_with("__"), "{line}");
                assert!(!text.is_empty(), "an empty label is none: {line}");
            }
            let twice = series.insert((name, labels), value);
            assert!(twice.is_none(), "a series is there once: {line}");
        }
    }
    assert!(help.is_none());
    series
}

#[test]
fn everything_is_counted_by_the_conventions() {
    isolated(async || {
        let world = World::start().await;
        let count = |name, packets| Count { name, packets };
        *world.recorder.stats.lock().unwrap() = Stats {
            received: vec![count("access", 10), count("tunnel", 2), count("host", 0)],
            sent: vec![count("access", 3), count("tunnel", 8), count("host", 0)],
            made: vec![count("answers", 2)],
            drops: vec![count("spoofed_source", 3)],
            consumed: vec![count("answered", 1)],
            events: vec![count("misses", 1)],
            flows: 4,
            flow_capacity: 1024,
            containers: vec![PortCounts {
                interface: "oakv1".to_owned(),
                // No job is called so; nothing in a name may break what others read.
                job: "a\"b\\c\n.{}".to_owned(),
                number: 3,
                packets_in: 10,
                bytes_in: 1000,
                packets_out: 6,
                bytes_out: 600,
                refused: 1,
            }],
            policies: vec![PolicyCounts {
                policy: "rr",
                picks: 5,
                refusals: 1,
            }],
            services: vec![ServiceCounts {
                job: "a.b.c.d".to_owned(),
                policy: "rr",
                addresses: vec!["10.30.0.1".parse().unwrap()],
                opened: 5,
                live: 2,
                packets: 40,
                refused: 1,
            }],
            roles: vec![RoleCounts {
                role: "access",
                counts: vec![count("kernel_drops", 12)],
            }],
            worker_counts: vec![WorkerCounts {
                worker: 1,
                busy: Duration::from_millis(1500),
                alive: Duration::from_secs(6),
                flows: 4,
            }],
            pools: vec![PoolCounts {
                pool: "small",
                size: 100,
                in_use: 7,
            }],
            devices: vec![DeviceCounts {
                up: true,
                device: "net_af_packet0".to_owned(),
                role: "uplink",
                counts: dpdk_counts(),
            }],
            commands_waiting: 2,
            unresolved: 1,
            ..Stats::default()
        };
        let served = Served::start(&world).await;
        let series = read(&served.get("/metrics").await);
        let value = |name: &str, labels: &str| {
            let key = (format!("netmanager_{name}"), labels.to_owned());
            *series
                .get(&key)
                .unwrap_or_else(|| panic!("{key:?}\n{series:?}"))
        };
        assert_eq!(value("up", ""), 0.0);
        assert_eq!(value("link_connections_total", ""), 0.0);
        assert_eq!(value("table_queries_repeated_total", ""), 0.0);
        assert_eq!(value("addresses_resting", ""), 0.0);
        assert_eq!(value("flows", ""), 4.0);
        assert_eq!(value("worker_busy_seconds_total", "worker=\"1\""), 1.5);
        assert_eq!(value("worker_seconds_total", "worker=\"1\""), 6.0);
        assert_eq!(value("mempool_mbufs_in_use", "pool=\"small\""), 7.0);
        let device = "device=\"net_af_packet0\",role=\"uplink\"";
        assert_eq!(value("device_missed_packets_total", device), 11.0);
        assert_eq!(value("device_no_mbuf_total", device), 12.0);
        assert_eq!(value("device_up", device), 1.0);
        assert_eq!(value("device_sent_bytes_total", device), 13.0);
        assert_eq!(value("commands_waiting", ""), 2.0);
        assert_eq!(value("unresolved_addresses", ""), 1.0);
        assert!(
            series
                .keys()
                .any(|(_, labels)| labels.contains("a\\\"b\\\\c\\n.{}"))
        );
        world.node.stop().await;
    });
}

fn dpdk_counts() -> control::forwarding::DriverCounts {
    control::forwarding::DriverCounts {
        rx_missed: 11,
        rx_no_mbuf: 12,
        tx_bytes: 13,
        ..control::forwarding::DriverCounts::default()
    }
}
