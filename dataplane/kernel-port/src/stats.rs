//! Ports' statistics as lists of named numbers, for whoever shows them.
//!
//! Each list is taken apart field by field, so that a counter that is added to a port cannot be forgotten here.

use crate::{AccessStats, TapStats, TunnelStats};

/// A name in lower snake case, fit for a metric, and its value.
pub type Named = (&'static str, u64);

macro_rules! named {
    ($stats:ident, $count:literal: $($field:ident),+ $(,)?) => {
        impl $stats {
            /// How many numbers there are.
            pub const COUNT: usize = $count;

            /// All numbers with their names. Those of packets pushed and not sent begin with `tx_`.
            #[must_use]
            pub fn named(&self) -> [Named; $count] {
                let Self { $($field),+ } = *self;
                [$((stringify!($field), $field)),+]
            }

            /// Packets pushed that the port did not send.
            #[must_use]
            pub fn refused(&self) -> u64 {
                let refused = |(name, _): &Named| name.starts_with("tx_");
                self.named().into_iter().filter(refused).map(|(_, count)| count).sum()
            }
        }
    };
}

named!(AccessStats, 14:
    received, truncated, no_mbuf, vlan, bad_vnet_header, udp_fragment, out_of_step, foreign, sent, tx_would_block,
    tx_interface_down, tx_too_big, tx_invalid, tx_rejected,
);

named!(TunnelStats, 14:
    received, empty, truncated, no_mbuf, receive_failed, sent, groups, segmentation_refused, tx_would_block,
    tx_unreachable, tx_too_big, tx_no_socket, tx_invalid, tx_rejected,
);

named!(TapStats, 11:
    received, truncated, no_mbuf, bad_vnet_header, udp_fragment, read_failed, sent, tx_would_block, tx_interface_down,
    tx_invalid, tx_rejected,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_name_and_those_not_sent_add_up() {
        let stats = AccessStats {
            sent: 7,
            tx_too_big: 2,
            tx_rejected: 3,
            ..AccessStats::default()
        };
        let named = stats.named();
        assert_eq!(named.len(), AccessStats::COUNT);
        assert!(named.contains(&("sent", 7)) && named.contains(&("tx_too_big", 2)));
        assert_eq!(stats.refused(), 5);
    }
}
