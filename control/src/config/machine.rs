//! What the machine has to say to settings that are right in themselves.

use std::collections::HashMap;
use std::path::Path;

use super::{ConfigError, Settings, Sources, TunConfig, UplinkChoice};

/// Outer headers of a tunnelled packet, in bytes: IPv4 and UDP, IPv6 and UDP.
const AROUND_V4: u32 = 28;
const AROUND_V6: u32 = 48;

/// What containers may send where the way to other nodes carries `mtu` bytes: over IPv4 and over IPv6.
#[must_use]
pub const fn carried(mtu: u32) -> (u32, u32) {
    (mtu.saturating_sub(AROUND_V4), mtu.saturating_sub(AROUND_V6))
}

/// Compares settings with the machine's interfaces and their MTUs; `interface` is that of the default route, if there is
/// one. Answers what cannot work, and what is doubtful.
#[must_use]
pub fn misfits(
    sources: &Sources,
    settings: &Settings,
    interfaces: &HashMap<String, u32>,
    interface: Option<&str>,
) -> (Vec<ConfigError>, Vec<ConfigError>) {
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    let named = match &settings.net.dataplane.uplink {
        UplinkChoice::Interface {
            interface: Some(name),
            ..
        }
        | UplinkChoice::Device {
            interface: name,
            tap: false,
            ..
        } => Some(("Dataplane.Uplink", name.as_str())),
        _ => settings
            .net
            .default_interface
            .as_deref()
            .map(|name| ("DefaultInterface", name)),
    };
    if let Some((field, name)) = named
        && !interfaces.contains_key(name)
    {
        warnings.push(sources.complaint(
            field,
            &sources.config,
            format!("this machine has no interface {name} now"),
            "name one that `ip link` shows, unless it will come later".to_owned(),
        ));
    }
    if let Some(group) = &settings.net.socket_group
        && group.parse::<u32>().is_err()
        && !matches!(nix::unistd::Group::from_name(group), Ok(Some(_)))
    {
        warnings.push(sources.complaint(
            "SocketGroup",
            &sources.config,
            format!("there is no group `{group}`, so only root may use the socket"),
            format!("create it (groupadd {group}), or name another"),
        ));
    }
    let Some(interface) = named.map(|(_, name)| name).or(interface) else {
        return (errors, warnings);
    };
    if let Some(&underlay) = interfaces.get(interface) {
        let (v4, v6) = carried(underlay);
        let mtu = u32::from(settings.tun.mtu);
        if mtu > v4 {
            // The contract's own value works everywhere, if not well.
            let list = if settings.tun.mtu == TunConfig::default().mtu {
                &mut warnings
            } else {
                &mut errors
            };
            list.push(sources.complaint(
                "MTUSize",
                &sources.tun_config,
                format!("{mtu} bytes and the tunnel's headers do not fit the {underlay} bytes that {interface} carries"),
                format!("write {v4} at most ({v6} where nodes reach each other over IPv6), or raise the MTU of {interface}"),
            ));
        }
    }
    (errors, warnings)
}

impl Sources {
    /// A complaint about a field, wherever its value came from.
    fn complaint(&self, field: &str, file: &Path, problem: String, remedy: String) -> ConfigError {
        let given = self.overrides.iter().find(|g| g.setting.field == field);
        match given {
            Some(given) => ConfigError::Given {
                given: given.source(),
                field: field.to_owned(),
                problem,
                remedy,
            },
            None => ConfigError::Field {
                file: file.to_owned(),
                field: field.to_owned(),
                problem,
                remedy,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NetConfig;

    #[test]
    fn an_mtu_that_was_chosen_must_fit_the_interface() {
        let sources = Sources {
            config: "netcfg.json".into(),
            tun_config: "tuncfg.json".into(),
            overrides: Vec::new(),
        };
        let interfaces = HashMap::from([("eth0".to_owned(), 1400)]);
        let found = |mtu, interface: Option<&str>| {
            let settings = Settings {
                net: NetConfig {
                    default_interface: interface.map(str::to_owned),
                    ..NetConfig::default()
                },
                tun: TunConfig {
                    mtu,
                    ..TunConfig::default()
                },
                tun_present: true,
            };
            let (errors, warnings) = misfits(&sources, &settings, &interfaces, Some("eth0"));
            (errors.len(), warnings.len())
        };
        assert_eq!(found(1372, None), (0, 0));
        assert_eq!(found(1373, None), (1, 0));
        assert_eq!(found(1450, None), (0, 1));
        // One that is not there says nothing about MTUs.
        assert_eq!(found(1373, Some("eth9")), (0, 1));
    }
}
