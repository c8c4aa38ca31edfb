//! Counters, shown at `/metrics` in the Prometheus text format.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($name:ident, $kind:literal, $help:literal;)*) => {
        /// What this replica counts since its start.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $name: Count,)*
        }

        impl Metrics {
            /// The text for Prometheus.
            pub fn render(&self) -> String {
                let mut text = String::new();
                $({
                    let name = concat!("oak_cluster_", stringify!($name));
                    // Writing to a String cannot fail.
                    let _ = writeln!(
                        text,
                        "# HELP {name} {}\n# TYPE {name} {}\n{name} {}",
                        $help, $kind, self.$name.get()
                    );
                })*
                text
            }
        }
    };
}

counters! {
    mqtt_messages_total, "counter", "Messages from nodes.";
    mqtt_malformed_total, "counter", "Messages that could not be read and were dropped.";
    mqtt_late_total, "counter", "Messages that a later one of the same node had overtaken.";
    mqtt_foreign_total, "counter", "Announcements of an address of another node's subnetwork, refused.";
    mqtt_sessions_total, "counter", "Sessions with the broker.";
    mqtt_connected, "gauge", "1 while a session with the broker is up.";
    mqtt_undelivered_total, "counter", "Answers that found no session; nodes ask again.";
    root_failures_total, "counter", "Calls that the root did not answer.";
    tasks_done_total, "counter", "Tasks owed to root and nodes that were done.";
    tasks_failed_total, "counter", "Attempts at such tasks that failed and are repeated.";
    nodes_withdrawn_total, "counter", "Nodes whose instances were withdrawn because they vanished.";
    mass_vanish_alarm, "gauge", "1 while more than half of the nodes are missing; none is withdrawn then.";
}

/// One counter or gauge.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_counted_is_shown() {
        let metrics = super::Metrics::default();
        metrics.mqtt_malformed_total.add();
        let text = metrics.render();
        assert!(text.contains("\noak_cluster_mqtt_malformed_total 1\n"));
        assert!(text.contains("# TYPE oak_cluster_mqtt_connected gauge"));
    }
}
