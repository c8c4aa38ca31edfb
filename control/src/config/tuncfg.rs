//! `tuncfg.json`: the host interface and the tunnel. A missing file means the defaults.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::fields::Fields;
use super::netcfg::interface_name;
use super::{Complaints, ConfigError, ConfigErrors, File, Override};

/// `tuncfg.json`, checked. The reference's `TunnelIP`, `ProxySubnetwork…` and `TunNetIPv6` describe a device that
/// this Net Manager does not have: they are checked to be what they should and then left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunConfig {
    /// Name of the host interface, 15 bytes at most.
    pub host_interface: String,
    /// UDP port that the tunnel is bound to, host byte order.
    pub tunnel_port: u16,
    /// MTU of containers and of what goes into the tunnel, bytes.
    pub mtu: u16,
}

impl Default for TunConfig {
    fn default() -> Self {
        Self {
            host_interface: "oak0".to_owned(),
            tunnel_port: 50_103,
            mtu: 1450,
        }
    }
}

impl TunConfig {
    /// Checks the text of the file.
    ///
    /// # Errors
    /// All fields that are wrong.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigErrors> {
        match examine(file, text, &[]) {
            (config, complaints) if complaints.errors.is_empty() => Ok(config),
            (_, complaints) => Err(ConfigErrors(complaints.errors)),
        }
    }
}

/// The file's text; `None` where there is no file.
pub(super) fn read(file: &Path) -> Result<Option<String>, ConfigError> {
    match super::text(file, "make it readable, or name another with --tun-config") {
        Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// The settings by a file's text and what wins over it. They hold where there is no error among the complaints.
pub(super) fn examine(file: &Path, text: &str, overrides: &[Override]) -> (TunConfig, Complaints) {
    let parse = |text| Fields::parse(file, text, (File::Tun, overrides));
    let mut unreadable = None;
    let fields = parse(text).or_else(|error| {
        unreadable = Some(error);
        parse("{}")
    });
    match fields {
        Ok(fields) => {
            let config = config(&fields);
            fields.look_for_unknown();
            let mut complaints = fields.complaints();
            complaints.errors.extend(unreadable);
            (config, complaints)
        }
        Err(_) => (TunConfig::default(), Complaints::default()),
    }
}

fn config(fields: &Fields) -> TunConfig {
    let defaults = TunConfig::default();
    // Older files of the reference have other names for some.
    let host_interface = fields
        .maybe(interface_name(fields, "HostTunnelDeviceName"))
        .or(fields.maybe(interface_name(fields, "HostTUNDeviceName")));
    for (field, v6) in [
        ("TunnelIP", false),
        ("TunNetIP", false),
        ("TunNetIPv6", true),
    ] {
        fields.maybe(address(fields, field, v6));
    }
    ranges(fields);
    let mtu = fields.maybe(fields.number("MTUSize", 1280, 65_000));
    TunConfig {
        host_interface: host_interface.unwrap_or(defaults.host_interface),
        tunnel_port: fields.or(fields.port("TunnelPort"), defaults.tunnel_port),
        mtu: mtu
            .and_then(|mtu| u16::try_from(mtu).ok())
            .unwrap_or(defaults.mtu),
    }
}

/// An address of one family.
fn address(fields: &Fields, field: &str, v6: bool) -> Result<Option<IpAddr>, ConfigError> {
    let Some(text) = fields.text(field)? else {
        return Ok(None);
    };
    let family = if v6 { "IPv6" } else { "IPv4" };
    match protocol::address::parse(&text) {
        Ok(address) if address.is_ipv6() == v6 => Ok(Some(address)),
        Ok(_) => Err(fields.wrong(
            field,
            format!("`{text}` is not an {family} address"),
            "correct it or leave it out",
        )),
        Err(_) => Err(fields.wrong(
            field,
            format!("`{text}` is not an IP address"),
            "correct it or leave it out",
        )),
    }
}

/// The plan's own range (contract section 1): whatever the file says, it is this one that is used.
const PLAN_V4: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 0);
const PLAN_V6: Ipv6Addr = Ipv6Addr::new(0xfdff, 0, 0, 0, 0, 0, 0, 0);

fn ranges(fields: &Fields) {
    let network = fields.maybe(address(fields, "ProxySubnetwork", false));
    let mask = fields.maybe(mask(fields));
    if let (Some(IpAddr::V4(network)), mask) = (network, mask) {
        let mask = mask.unwrap_or(0xffff_0000);
        if u32::from(network) & !mask != 0 {
            fields.complain(fields.wrong(
                "ProxySubnetworkMask",
                format!(
                    "{} leaves no room for the host bits of ProxySubnetwork {network}",
                    Ipv4Addr::from(mask)
                ),
                format!(
                    "write ProxySubnetwork {}, or a longer mask",
                    Ipv4Addr::from(u32::from(network) & mask)
                ),
            ));
        } else if (u32::from(network) ^ u32::from(PLAN_V4)) & mask != 0 {
            fields.warn(
                "ProxySubnetwork",
                format!("{network} does not hold {PLAN_V4}, where the cluster's Service IPs are"),
                "write 10.30.0.0 with the mask 255.255.0.0",
            );
        }
    }
    let network = fields.maybe(address(fields, "ProxySubnetworkIPv6", true));
    let prefix = fields.maybe(fields.number("ProxySubnetworkIPv6Prefix", 0, 128));
    if let Some(IpAddr::V6(network)) = network {
        let prefix = prefix.unwrap_or(16);
        let mask = u128::MAX
            .checked_shl(u32::try_from(128 - prefix).unwrap_or(0))
            .unwrap_or(0);
        if u128::from(network) & !mask != 0 {
            fields.complain(fields.wrong(
                "ProxySubnetworkIPv6Prefix",
                format!("/{prefix} leaves no room for the host bits of {network}"),
                format!(
                    "write ProxySubnetworkIPv6 {}, or a longer prefix",
                    Ipv6Addr::from(u128::from(network) & mask)
                ),
            ));
        } else if (u128::from(network) ^ u128::from(PLAN_V6)) & mask != 0 {
            fields.warn(
                "ProxySubnetworkIPv6",
                format!(
                    "{network}/{prefix} does not hold {PLAN_V6}, where the cluster's Service IPs are"
                ),
                "write fdff:: with the prefix 16",
            );
        }
    }
}

/// A mask of ones and then zeros, as dotted numbers or as a length.
fn mask(fields: &Fields) -> Result<Option<u32>, ConfigError> {
    const FIELD: &str = "ProxySubnetworkMask";
    let Some(text) = fields.text(FIELD)? else {
        return Ok(None);
    };
    let wrong = |problem: String| Err(fields.wrong(FIELD, problem, "write 255.255.0.0"));
    let Ok(mask) = text.parse::<Ipv4Addr>() else {
        return wrong(format!("`{text}` is not an IPv4 mask"));
    };
    let bits = u32::from(mask);
    if bits.leading_ones() + bits.trailing_zeros() < 32 {
        return wrong(format!("{mask} has ones behind zeros"));
    }
    Ok(Some(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TunConfig, ConfigErrors> {
        TunConfig::parse(Path::new("/etc/netmanager/tuncfg.json"), text)
    }

    #[test]
    fn both_generations_of_the_references_file_are_read() {
        let config = parse(
            r#"{"HostTunnelDeviceName":"goProxyTun","TunnelIP":"10.19.1.254","ProxySubnetwork":"10.30.0.0",
            "ProxySubnetworkMask":"255.255.0.0","TunnelPort":50103,"MTUSize":1450,"TunNetIPv6":"fdfe::1337",
            "ProxySubnetworkIPv6":"fc00::","ProxySubnetworkIPv6Prefix":7}"#,
        )
        .unwrap();
        assert_eq!(config.host_interface, "goProxyTun");
        let old = parse(
            r#"{"HostTUNDeviceName":"goProxyTun","TunNetIP":"10.19.1.254","TunnelPort":"50103","Mtusize":1450}"#,
        );
        assert_eq!(old.unwrap(), config);
        assert_eq!(parse("{}").unwrap(), TunConfig::default());
    }

    #[test]
    fn what_no_interface_or_mtu_can_be_is_refused() {
        for text in [
            r#"{"HostTunnelDeviceName":"sixteen-bytes-xx"}"#,
            r#"{"HostTunnelDeviceName":"a/b"}"#,
            r#"{"MTUSize":576}"#,
            r#"{"MTUSize":70000}"#,
            r#"{"TunnelPort":0}"#,
            r#"{"TunnelIP":"x"}"#,
            r#"{"TunNetIPv6":"10.0.0.1"}"#,
            r#"{"ProxySubnetworkMask":"255.0.255.0"}"#,
            r#"{"ProxySubnetworkMask":"wide"}"#,
            r#"{"ProxySubnetwork":"10.30.1.0","ProxySubnetworkMask":"255.255.0.0"}"#,
            r#"{"ProxySubnetworkIPv6":"fdff::1","ProxySubnetworkIPv6Prefix":16}"#,
            r#"{"ProxySubnetworkIPv6Prefix":129}"#,
            r#"{"MTUSize":true}"#,
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains("tuncfg.json: field "), "{message}");
        }
    }
}
