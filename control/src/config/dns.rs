//! `Dns`, `DnsZone` and `DnsResolvers`: which names are answered, and where all others are asked for.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::ConfigError;
use super::fields::Fields;
use super::netcfg::is_label;

/// `Dns`, `DnsZone` and `DnsResolvers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// Whether names are served at all.
    pub enabled: bool,
    /// The zone of services' names, without dots at its ends.
    pub zone: String,
    /// Where other names are asked for; none leaves it to the file.
    pub resolvers: Vec<SocketAddr>,
    /// The file that names the host's resolvers.
    pub resolv_conf: PathBuf,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            zone: "oak".to_owned(),
            resolvers: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }
}

/// Reads them.
pub(super) fn read(fields: &Fields) -> DnsConfig {
    let defaults = DnsConfig::default();
    DnsConfig {
        enabled: fields.or(fields.flag("Dns"), defaults.enabled),
        zone: fields.maybe(zone(fields)).unwrap_or(defaults.zone),
        resolvers: fields.maybe(resolvers(fields)).unwrap_or_default(),
        resolv_conf: defaults.resolv_conf,
    }
}

fn zone(fields: &Fields) -> Result<Option<String>, ConfigError> {
    let Some(text) = fields.text("DnsZone")? else {
        return Ok(None);
    };
    let zone = text.trim_matches('.').to_ascii_lowercase();
    // The rest of a name takes up to 150 of its 253 characters.
    if zone.len() > 100 || !zone.split('.').all(is_label) {
        return Err(fields.wrong(
            "DnsZone",
            format!("`{text}` is not a zone's name of at most 100 characters"),
            "write one such as oak or services.example.org",
        ));
    }
    Ok(Some(zone))
}

fn resolvers(fields: &Fields) -> Result<Option<Vec<SocketAddr>>, ConfigError> {
    let text = fields.text("DnsResolvers")?.unwrap_or_default();
    let named = text.split([',', ' ', ';']).filter(|text| !text.is_empty());
    let mut resolvers = Vec::new();
    for text in named {
        let alone = text
            .trim_matches(['[', ']'])
            .parse()
            .map(|ip| SocketAddr::new(ip, 53));
        let Ok(resolver) = text.parse().or(alone) else {
            return Err(fields.wrong(
                "DnsResolvers",
                format!("`{text}` is not a resolver's address"),
                "write addresses with a comma between them, each with :port where it is not 53, or leave it empty for those of /etc/resolv.conf",
            ));
        };
        resolvers.push(resolver);
    }
    Ok(Some(resolvers))
}

#[cfg(test)]
mod tests {
    use super::super::NetConfig;
    use std::path::Path;

    fn parse(text: &str) -> NetConfig {
        NetConfig::parse(Path::new("netcfg.json"), text).unwrap()
    }

    #[test]
    fn the_zone_and_its_resolvers_are_read() {
        let config = parse(
            r#"{"DnsZone":"Services.Example.org.","DnsResolvers":"192.0.2.1, [2001:db8::1]:5353;2001:db8::2"}"#,
        );
        assert_eq!(config.dns.zone, "services.example.org");
        let resolvers: Vec<String> = config
            .dns
            .resolvers
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            resolvers,
            ["192.0.2.1:53", "[2001:db8::1]:5353", "[2001:db8::2]:53"]
        );
        let silent = parse(r#"{"Dns":false}"#).dns;
        assert!(!silent.enabled && silent.zone == "oak" && silent.resolvers.is_empty());
    }
}
