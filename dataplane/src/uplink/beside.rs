//! The kernel beside an ethdev uplink: what it shall get of the device's frames, and what it hands us.
//!
//! Where a NIC is wholly in DPDK, the node's own addresses live on a TAP: whatever is not the tunnel's crosses here, both
//! ways, so that the kernel answers ARP, keeps its connections, and knows the next hops that our own datagrams take.
//! Where the kernel keeps the interface and a program takes the tunnel's datagrams from it, the kernel is left with those
//! that came in fragments, which it has put together, and those of queues that are not ours.

use dpdk::{Burst, Mbuf, TxQueue};
use kernel_port::{Sent, TapPort, TunnelPort};

use crate::observe::capture::Eye;
use crate::port_stats::EthdevStats;

/// Frames of the kernel's sent together.
const BURST: usize = 64;

/// What there is beside one worker's queues.
pub enum Beside {
    /// The kernel has a copy of each frame.
    Copies,
    /// The kernel's socket at the tunnel port.
    Rest(Box<TunnelPort>),
    /// One queue of the NIC's TAP.
    Tap(Box<TapPort>),
}

/// What crossed between the kernel and the NIC since it was last asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Crossed {
    /// Frames that were to cross.
    pub received: usize,
    /// What became of them.
    pub sent: Sent,
}

impl Beside {
    /// Whether the kernel must be given what is not the tunnel's.
    #[inline]
    pub(super) fn wants(&self) -> bool {
        matches!(self, Beside::Tap(_))
    }

    /// Gives the kernel a frame.
    #[cold]
    pub(super) fn give(&mut self, frame: Mbuf, crossed: &mut Crossed) {
        if let Beside::Tap(tap) = self {
            crossed.received += 1;
            tap.push(frame);
        }
    }

    /// Sends what was given.
    pub(super) fn flush(&mut self, stats: &mut EthdevStats, crossed: &mut Crossed) {
        if let Beside::Tap(tap) = self {
            let sent = tap.flush();
            stats.to_kernel += (sent.sent + sent.dropped) as u64;
            stats.to_kernel_refused += sent.dropped as u64;
            crossed.sent += sent;
        }
    }

    /// Takes what the kernel sends by the NIC, and sends it. How many frames these were.
    pub(super) fn forward(
        &mut self,
        tx: &mut TxQueue,
        eye: Option<&Eye<'_>>,
        stats: &mut EthdevStats,
        crossed: &mut Crossed,
    ) -> usize {
        let Beside::Tap(tap) = self else { return 0 };
        let mut frames = Burst::<BURST>::new();
        let came = tap.receive(BURST, &mut |frame| {
            // There is room for as many as are asked for.
            let _ = frames.push(frame);
        });
        if came == 0 {
            return 0;
        }
        if let Some(eye) = eye {
            super::see_all(eye, true, &frames);
        }
        let mut sent = 0;
        for _ in 0..super::TRIES {
            sent += tx.burst(&mut frames);
            if frames.is_empty() {
                break;
            }
        }
        let dropped = frames.len();
        frames.clear();
        stats.from_kernel += sent as u64;
        stats.from_kernel_full += dropped as u64;
        crossed.received += came;
        crossed.sent += Sent { sent, dropped };
        came
    }
}
