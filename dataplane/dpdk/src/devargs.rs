//! Device arguments, `driver,key=value,...`: what can be said about them before a driver fails.

use std::ffi::CString;

/// The device's name: what stands before the first comma.
pub(crate) fn name(devargs: &str) -> &str {
    devargs.split_once(',').map_or(devargs, |(name, _)| name)
}

/// The kernel interface that the arguments name and that does not exist.
///
/// Drivers on a kernel interface report its absence as they like, down to a bare "no such device".
pub(crate) fn missing_interface(devargs: &str) -> Option<String> {
    // net_tap's `iface` names an interface that it makes itself.
    let keys: &[&str] = match name(devargs) {
        driver if driver.starts_with("net_tap") => &["remote"],
        driver
            if ["net_af_packet", "net_af_xdp", "net_pcap"]
                .iter()
                .any(|known| driver.starts_with(known)) =>
        {
            &["iface", "rx_iface", "tx_iface", "rx_iface_in"]
        }
        _ => return None,
    };
    devargs
        .split(',')
        .skip(1)
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, interface)| keys.contains(key) && !exists(interface))
        .map(|(_, interface)| interface.to_owned())
}

/// Whether this network namespace has the interface; /sys may show another's.
fn exists(interface: &str) -> bool {
    let Ok(name) = CString::new(interface) else {
        return false;
    };
    // SAFETY: `name` is a C string.
    (unsafe { libc::if_nametoindex(name.as_ptr()) }) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_only_interfaces_that_must_exist() {
        assert_eq!(
            missing_interface("net_af_packet0,iface=nope0,blocksz=4096").as_deref(),
            Some("nope0")
        );
        assert_eq!(
            missing_interface("net_pcap0,rx_iface=lo,tx_iface=nope1").as_deref(),
            Some("nope1")
        );
        assert_eq!(missing_interface("net_af_packet0,iface=lo"), None);
        assert_eq!(missing_interface("net_tap0,iface=nope0"), None);
        assert_eq!(
            missing_interface("net_tap0,iface=x,remote=nope2").as_deref(),
            Some("nope2")
        );
        assert_eq!(missing_interface("net_null0"), None);
        assert_eq!(name("net_null0,size=64"), "net_null0");
    }
}
