//! What lies between two nodes besides a cable.

use anyhow::Result;

use crate::namespace::{Namespace, Plug, cable};
use crate::node::{Node, UNDERLAY};
use crate::run::Run;

/// How nodes are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underlay {
    /// By a cable, or a bridge.
    Direct,
    /// By a router. The first node's link has 1500 bytes; those of the others have `mtu`, so that the first can only
    /// learn of it.
    Routed {
        /// Of the links behind the router, in bytes.
        mtu: u16,
    },
}

/// Lays a router and its links. Each node is alone on its own, with the addresses that it has elsewhere too.
///
/// # Errors
/// When `ip` fails.
pub fn lay_routed(run: &Run, nodes: &[Node], mtu: u16) -> Result<()> {
    let router = Namespace::create(run, "router")?;
    for (number, node) in (1..).zip(nodes) {
        let inside = &node.namespace;
        let side = format!("r-{}", node.id);
        cable(
            Plug {
                namespace: inside,
                interface: UNDERLAY,
            },
            Plug {
                namespace: &router,
                interface: &side,
            },
        )?;
        let mtu = if number == 1 { 1500 } else { mtu }.to_string();
        inside.ip(&["link", "set", "dev", UNDERLAY, "mtu", &mtu])?;
        router.ip(&["link", "set", "dev", &side, "mtu", &mtu])?;
        let own = [
            format!("{}/32", node.underlay),
            format!("2001:db8::{number}/128"),
        ];
        for (own, gateway, bits) in [
            (&own[0], "192.0.2.254", "32"),
            (&own[1], "2001:db8::fe", "128"),
        ] {
            let gateway_net = format!("{gateway}/{bits}");
            // Duplicate address detection is IPv6's, and for IPv4 the word means nothing.
            inside.ip(&["address", "add", own, "dev", UNDERLAY, "nodad"])?;
            router.ip(&["address", "add", &gateway_net, "dev", &side, "nodad"])?;
            inside.ip(&["route", "add", &gateway_net, "dev", UNDERLAY])?;
            inside.ip(&["route", "add", "default", "via", gateway, "dev", UNDERLAY])?;
            router.ip(&["route", "add", own, "dev", &side])?;
        }
    }
    router.sysctl("ipv4/ip_forward", "1")?;
    router.sysctl("ipv6/conf/all/forwarding", "1")
}
