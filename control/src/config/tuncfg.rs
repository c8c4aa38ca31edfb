//! `tuncfg.json`: the host interface and the tunnel. A missing file means the defaults.

use std::path::Path;

use super::ConfigError;
use super::fields::Fields;

/// `tuncfg.json`, checked. The reference's `TunnelIP`, `ProxySubnetwork…` and `TunNetIPv6` describe a device that
/// this Net Manager does not have: they are checked to be addresses and then left alone.
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
    /// Reads and checks the file; `None` when there is none.
    ///
    /// # Errors
    /// The file cannot be read, or a field is wrong.
    pub fn load(file: &Path) -> Result<Option<Self>, ConfigError> {
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(file, &text).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ConfigError::Read {
                file: file.to_owned(),
                source,
                remedy: "make it readable, or name another with --tun-config",
            }),
        }
    }

    /// Checks the text of the file.
    ///
    /// # Errors
    /// A field is wrong.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let fields = Fields::parse(file, text)?;
        let defaults = Self::default();
        let host_interface = fields
            .text("HostTunnelDeviceName")?
            .or(fields.text("HostTUNDeviceName")?)
            .unwrap_or(defaults.host_interface);
        if host_interface.len() > 15
            || host_interface.contains(['/', ' ', '%', ':'])
            || host_interface.starts_with('.')
        {
            return Err(fields.wrong(
                "HostTunnelDeviceName",
                format!("`{host_interface}` is no interface name"),
                "write 1 to 15 bytes without / : % and blanks",
            ));
        }
        for field in [
            "TunnelIP",
            "ProxySubnetwork",
            "TunNetIPv6",
            "ProxySubnetworkIPv6",
        ] {
            if let Some(text) = fields.text(field)?
                && protocol::address::parse(&text).is_err()
            {
                return Err(fields.wrong(
                    field,
                    format!("`{text}` is not an IP address"),
                    "correct it or leave it out",
                ));
            }
        }
        fields.text("ProxySubnetworkMask")?;
        fields.number("ProxySubnetworkIPv6Prefix", 0, 128)?;
        let mtu = fields.number("MTUSize", 1280, 65_000)?;
        Ok(Self {
            host_interface,
            tunnel_port: fields.port("TunnelPort")?.unwrap_or(defaults.tunnel_port),
            mtu: mtu
                .and_then(|mtu| u16::try_from(mtu).ok())
                .unwrap_or(defaults.mtu),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TunConfig, ConfigError> {
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
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains("tuncfg.json: field "), "{message}");
        }
    }
}
