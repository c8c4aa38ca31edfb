//! What ports say of themselves, and how many packets a worker holds, where others can read it.
//!
//! A port counts in plain fields of its own. Its worker copies them here now and then, and before it sleeps, so that
//! whoever asks sees numbers at most some milliseconds old at no cost per packet.

use std::sync::atomic::{AtomicU64, Ordering};

use kernel_port::{AccessStats, Named, TapStats, TunnelStats};

const WORDS: usize = 16;

/// A role's numbers: names beside values, in the order of the port's own list.
#[derive(Debug, Default)]
struct Role([AtomicU64; WORDS]);

impl Role {
    fn store(&self, values: &[Named]) {
        for (word, (_, value)) in self.0.iter().zip(values) {
            word.store(*value, Ordering::Relaxed);
        }
    }

    fn read(&self, names: &[Named]) -> Vec<Named> {
        names
            .iter()
            .zip(&self.0)
            .map(|((name, _), word)| (*name, word.load(Ordering::Relaxed)))
            .collect()
    }
}

/// What an ethdev uplink's queues count.
#[derive(Clone, Copy, Debug, Default)]
pub struct EthdevStats {
    /// Tunnel datagrams received.
    pub received: u64,
    /// Frames of others, whose copy the kernel has.
    pub ignored: u64,
    /// Frames that went to the kernel by the NIC's TAP: those of others, and copies of fragments and ICMP errors, which
    /// may be anyone's.
    pub to_kernel: u64,
    /// Of these, frames that the TAP did not take: it was down or full.
    pub to_kernel_refused: u64,
    /// Frames that the kernel sent there and the device took.
    pub from_kernel: u64,
    /// Of the kernel's frames, those that the device had no room for.
    pub from_kernel_full: u64,
    /// Frames that the device took.
    pub sent: u64,
    /// Frames that it had no room for.
    pub tx_full: u64,
}

impl EthdevStats {
    /// All numbers with their names.
    #[must_use]
    pub fn named(&self) -> [Named; 8] {
        let Self {
            received,
            ignored,
            to_kernel,
            to_kernel_refused,
            from_kernel,
            from_kernel_full,
            sent,
            tx_full,
        } = *self;
        [
            ("received", received),
            ("ignored", ignored),
            ("to_kernel", to_kernel),
            ("tx_to_kernel_refused", to_kernel_refused),
            ("from_kernel", from_kernel),
            ("tx_from_kernel_full", from_kernel_full),
            ("sent", sent),
            ("tx_full", tx_full),
        ]
    }
}

/// One worker's ports.
#[derive(Debug, Default)]
pub struct PortStats {
    access: Role,
    tunnel: Role,
    tunnel_drops: AtomicU64,
    ethdev: Role,
    host: Role,
    waiting: AtomicU64,
}

impl PortStats {
    /// Copies what the access port counted.
    pub fn store_access(&self, stats: &AccessStats) {
        const { assert!(AccessStats::COUNT <= WORDS) };
        self.access.store(&stats.named());
    }

    /// Copies what the tunnel's sockets counted, and what the kernel dropped because they were full.
    pub fn store_tunnel(&self, stats: &TunnelStats, kernel_drops: Option<u64>) {
        const { assert!(TunnelStats::COUNT <= WORDS) };
        self.tunnel.store(&stats.named());
        if let Some(drops) = kernel_drops {
            self.tunnel_drops.store(drops, Ordering::Relaxed);
        }
    }

    /// Copies what the ethdev uplink counted.
    pub fn store_ethdev(&self, stats: &EthdevStats) {
        self.ethdev.store(&stats.named());
    }

    /// Copies what the host TAP counted.
    pub fn store_host(&self, stats: &TapStats) {
        const { assert!(TapStats::COUNT <= WORDS) };
        self.host.store(&stats.named());
    }

    /// Says how many packets wait at the worker now.
    pub fn store_waiting(&self, packets: usize) {
        self.waiting.store(packets as u64, Ordering::Relaxed);
    }

    /// How many packets waited when the worker last looked.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// All numbers of all roles, as the workers last copied them.
    #[must_use]
    pub fn read(&self) -> [(&'static str, Vec<Named>); 4] {
        let mut tunnel = self.tunnel.read(&TunnelStats::default().named());
        tunnel.push(("kernel_drops", self.tunnel_drops.load(Ordering::Relaxed)));
        [
            ("access", self.access.read(&AccessStats::default().named())),
            ("tunnel", tunnel),
            ("ethdev", self.ethdev.read(&EthdevStats::default().named())),
            ("host", self.host.read(&TapStats::default().named())),
        ]
    }
}
