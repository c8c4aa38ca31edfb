//! `Dataplane.Uplink`: how packets leave for other nodes, as an operator writes it.

/// `Dataplane.Uplink`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UplinkChoice {
    /// By what the machine has.
    Auto,
    /// UDP sockets; the kernel keeps the NIC.
    Socket,
    /// A kernel interface, which the kernel shares, by DPDK's PMD.
    Interface {
        /// `af_packet` or `af_xdp`.
        driver: &'static str,
        /// `None` is that of the default route.
        interface: Option<String>,
    },
    /// A NIC wholly in DPDK.
    Pci {
        /// Its PCI address.
        address: String,
        /// It must be a virtio device.
        virtio: bool,
        /// Name of the TAP that stands for it; `None` is the name that the NIC had.
        tap: Option<String>,
    },
    /// Any device of DPDK's.
    Device {
        /// DPDK device arguments.
        devargs: String,
        /// The kernel interface whose addresses count.
        interface: String,
        /// Whether that is a TAP to be made, for a device that is wholly in DPDK.
        tap: bool,
    },
}

impl UplinkChoice {
    /// Reads `auto`, `socket`, `af_packet[:interface]`, `af_xdp[:interface]`, `vfio:PCI[@tap]`, `virtio:PCI[@tap]`, or
    /// DPDK device arguments with the kernel interface behind an `@`, and `tap:` before its name if it is to be made.
    ///
    /// # Errors
    /// The text is none of them; the error says what is missing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        if text.eq_ignore_ascii_case("socket") {
            return Ok(Self::Socket);
        }
        let (kind, rest) = match text.split_once(':') {
            Some((kind, rest)) => (kind, Some(rest.trim())),
            None => (text, None),
        };
        let missing = |what: &str| Err(format!("`{text}`: {what} is missing behind `{kind}:`"));
        for driver in ["af_packet", "af_xdp"] {
            if kind.eq_ignore_ascii_case(driver) {
                return match rest {
                    Some("") => missing("the interface"),
                    rest => Ok(Self::Interface {
                        driver,
                        interface: rest.map(str::to_owned),
                    }),
                };
            }
        }
        let virtio = kind.eq_ignore_ascii_case("virtio");
        if virtio || kind.eq_ignore_ascii_case("vfio") {
            let (address, tap) = match rest.unwrap_or_default().split_once('@') {
                Some((address, tap)) => (address, Some(tap)),
                None => (rest.unwrap_or_default(), None),
            };
            let Some(address) = pci_address(address) else {
                return missing(
                    "a PCI address such as 0000:01:00.0 (scripts/bind --status shows them)",
                );
            };
            return Ok(Self::Pci {
                address,
                virtio,
                tap: tap.map(checked_interface).transpose()?,
            });
        }
        match text.split_once('@') {
            Some((devargs, interface)) if !devargs.is_empty() && !interface.is_empty() => {
                let (tap, interface) = match interface.strip_prefix("tap:") {
                    Some(name) => (true, name),
                    None => (false, interface),
                };
                Ok(Self::Device {
                    devargs: devargs.to_owned(),
                    interface: checked_interface(interface)?,
                    tap,
                })
            }
            _ => Err(format!(
                "`{text}` is no uplink: write auto, socket, af_packet or af_xdp (with :<interface>), vfio:<PCI address>, virtio:<PCI address>, or <DPDK device arguments>@<interface that holds the addresses>"
            )),
        }
    }
}

/// A PCI address as the kernel writes it: `0000:01:00.0`.
fn pci_address(text: &str) -> Option<String> {
    let hex = |text: &str, length: std::ops::RangeInclusive<usize>| {
        length.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let (device, function) = text.trim().rsplit_once('.')?;
    let parts: Vec<&str> = device.split(':').collect();
    let (domain, bus, device) = match parts[..] {
        [domain, bus, device] => (domain, bus, device),
        [bus, device] => ("0000", bus, device),
        _ => return None,
    };
    let right = hex(domain, 4..=8)
        && hex(bus, 2..=2)
        && hex(device, 2..=2)
        && matches!(function.as_bytes(), [b'0'..=b'7']);
    right.then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}

fn checked_interface(name: &str) -> Result<String, String> {
    match is_interface_name(name) {
        true => Ok(name.to_owned()),
        false => Err(format!("`{name}` is no name of an interface")),
    }
}

/// The kernel's rules, and no comma: DPDK's arguments are separated by those.
pub(super) fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !name.starts_with('.')
        && !name.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '%' | ':' | ','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uplinks_are_read_in_every_form() {
        use UplinkChoice::{Auto, Device, Interface, Pci, Socket};
        let pci = |address: &str, virtio, tap: Option<&str>| Pci {
            address: address.to_owned(),
            virtio,
            tap: tap.map(str::to_owned),
        };
        let device = |devargs: &str, interface: &str, tap| Device {
            devargs: devargs.to_owned(),
            interface: interface.to_owned(),
            tap,
        };
        for (text, choice) in [
            ("", Auto),
            ("Auto", Auto),
            ("socket", Socket),
            (
                "af_packet",
                Interface {
                    driver: "af_packet",
                    interface: None,
                },
            ),
            (
                "af_xdp:eth1",
                Interface {
                    driver: "af_xdp",
                    interface: Some("eth1".to_owned()),
                },
            ),
            ("vfio:0000:01:00.0", pci("0000:01:00.0", false, None)),
            (
                "vfio:0A:00.0@eno1",
                pci("0000:0a:00.0", false, Some("eno1")),
            ),
            ("virtio:0000:00:03.0", pci("0000:00:03.0", true, None)),
            ("0000:00:05.0@eth0", device("0000:00:05.0", "eth0", false)),
            (
                "net_ring0,a=b@tap:up0",
                device("net_ring0,a=b", "up0", true),
            ),
        ] {
            assert_eq!(UplinkChoice::parse(text), Ok(choice), "{text}");
        }
        for text in [
            "0000:00:05.0",
            "vfio",
            "vfio:eth0",
            "vfio:0000:01:00.8",
            "virtio:1:2.3",
            "af_xdp:",
            "net_tap0@tap:",
            "net_tap0@a_name_that_is_too_long",
            "tin can",
        ] {
            assert!(UplinkChoice::parse(text).is_err(), "{text}");
        }
    }
}
