//! Interfaces without offloads, for those who know neither checksum nor segmentation state.

use anyhow::Result;
use journeys::namespace::Namespace;

/// Turns an interface's offloads off: what leaves it is complete and no larger than its MTU.
///
/// # Errors
/// When `ethtool` fails.
pub fn plain(namespace: &Namespace, interface: &str) -> Result<()> {
    let off = ["tx", "rx", "tso", "gso", "gro"].map(|what| [what, "off"]);
    let arguments = [&["-K", interface], off.as_flattened()].concat();
    namespace.command("ethtool", &arguments).map(drop)
}
