//! Counters of this replica, and the store's numbers, as Prometheus text.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::store::Overview;

/// What this replica counted since its start.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Notifications that a cluster took.
    pub(crate) delivered: AtomicU64,
    /// Attempts that failed and are repeated.
    pub(crate) failed_attempts: AtomicU64,
    /// Notifications that a cluster answered with an error that repeating does not mend.
    pub(crate) refused: AtomicU64,
    /// Services and instances that got no IPv4 address.
    pub(crate) without_ipv4: AtomicU64,
    ipv4_is_short: AtomicBool,
}

impl Metrics {
    /// Counts a service or instance, and says once when the IPv4 pool is used up.
    pub(crate) fn note_ipv4(&self, short: bool) {
        if short {
            self.without_ipv4.fetch_add(1, Relaxed);
        }
        let before = self.ipv4_is_short.swap(short, Relaxed);
        if short && !before {
            tracing::warn!(
                "the IPv4 pool of Service and Instance IPs (10.30.0.0/16) is used up; handing out IPv6 alone"
            );
        }
    }

    /// Everything, as Prometheus text.
    pub(crate) fn text(&self, store: &Overview) -> String {
        let mut out = String::new();
        let mut put = |name: &str, kind: &str, help: &str, value: u64| {
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "# HELP oak_root_{name} {help}\n# TYPE oak_root_{name} {kind}\noak_root_{name} {value}"
            );
        };
        put(
            "notifications_delivered_total",
            "counter",
            "Notifications that a cluster took.",
            self.delivered.load(Relaxed),
        );
        put(
            "notification_failures_total",
            "counter",
            "Attempts to notify that are repeated.",
            self.failed_attempts.load(Relaxed),
        );
        put(
            "notifications_refused_total",
            "counter",
            "Notifications that a cluster refused.",
            self.refused.load(Relaxed),
        );
        put(
            "without_ipv4_total",
            "counter",
            "Services and instances that got no IPv4 address because the pool was used up.",
            self.without_ipv4.load(Relaxed),
        );
        put(
            "ipv4_pool_empty",
            "gauge",
            "1 while the last allocation found the IPv4 pool empty.",
            self.ipv4_is_short.load(Relaxed).into(),
        );
        put(
            "revision",
            "gauge",
            "Revision of the store.",
            store.revision,
        );
        put(
            "ipv4_next_index",
            "gauge",
            "First index of the IPv4 pool never handed out, of 64516.",
            store.next_v4,
        );
        put(
            "ipv4_resting",
            "gauge",
            "IPv4 addresses that rest.",
            store.resting_v4,
        );
        put(
            "subnet_next_index",
            "gauge",
            "First worker subnetwork never handed out, of 12288.",
            store.next_subnet,
        );
        put(
            "subnets_resting",
            "gauge",
            "Worker subnetworks that rest.",
            store.resting_subnets,
        );
        out.push_str("# HELP oak_root_cluster_up 1 while the cluster takes notifications.\n");
        out.push_str("# TYPE oak_root_cluster_up gauge\n");
        for (id, status, _) in &store.clusters {
            let up = u8::from(status == "ACTIVE");
            let _ = writeln!(
                out,
                "oak_root_cluster_up{{cluster_id=\"{}\"}} {up}",
                escaped(id)
            );
        }
        out.push_str("# HELP oak_root_notifications_pending Notifications not yet delivered.\n");
        out.push_str("# TYPE oak_root_notifications_pending gauge\n");
        for (id, _, pending) in &store.clusters {
            let _ = writeln!(
                out,
                "oak_root_notifications_pending{{cluster_id=\"{}\"}} {pending}",
                escaped(id)
            );
        }
        out
    }
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"")
}
