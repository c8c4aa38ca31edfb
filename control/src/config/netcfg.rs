//! `netcfg.json`: who this node is, where its cluster is, and how the data plane runs.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use protocol::address_plan;

use super::ConfigError;
use super::fields::Fields;

/// `netcfg.json`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// What other nodes send to; `None` is the address of the default route.
    pub public_address: Option<IpAddr>,
    /// What is announced beside it, host byte order.
    pub public_port: u16,
    /// The broker's host name or address; `None` is taken from `/register`.
    pub cluster_host: Option<String>,
    /// The broker's port, host byte order.
    pub cluster_port: u16,
    /// The interface whose address counts, where several have a default route.
    pub default_interface: Option<String>,
    /// More log lines.
    pub debug: bool,
    /// Asks for the address that an outside observer sees.
    pub public_ip_networking: bool,
    /// Certificates; with them the broker is reached by TLS only.
    pub tls: Option<TlsFiles>,
    /// Names of services.
    pub dns: DnsConfig,
    /// Whether queries of containers for those names are answered wherever they are sent to.
    pub dns_intercept: bool,
    /// The data plane's settings.
    pub dataplane: DataplaneConfig,
}

/// Files for MQTT by TLS, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The node's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signed the broker's certificate.
    pub authority: PathBuf,
}

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

/// The object `Dataplane`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataplaneConfig {
    /// How packets leave for other nodes.
    pub uplink: UplinkChoice,
    /// Worker lcores; `None` lets the machine decide.
    pub workers: Option<usize>,
    /// How an idle worker waits; `None` lets the machine decide.
    pub idle: Option<IdleMode>,
    /// Hugepages in MB; 0 never, `None` where there are any.
    pub hugepage_mb: Option<u32>,
    /// Flows that the table holds.
    pub flows: usize,
}

/// How an idle worker waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleMode {
    /// Polls without pause.
    Spin,
    /// Sleeps after empty polls.
    Backoff,
}

/// `Dataplane.Uplink`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UplinkChoice {
    /// UDP sockets; the kernel keeps the NIC.
    Socket,
    /// An ethdev port.
    Ethdev {
        /// DPDK device arguments; `{interface}` stands for the interface's name.
        devargs: String,
        /// The kernel interface whose addresses count; `None` is that of the default route.
        interface: Option<String>,
    },
}

impl UplinkChoice {
    /// Reads `socket`, `af_packet[:interface]`, `af_xdp[:interface]`, or DPDK device arguments with the kernel
    /// interface behind an `@`.
    ///
    /// # Errors
    /// The text is none of them; the error says what is missing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || text.eq_ignore_ascii_case("socket") {
            return Ok(Self::Socket);
        }
        let (kind, interface) = match text.split_once(':') {
            Some((kind, interface)) if kind.starts_with("af_") => {
                (kind, Some(interface.to_owned()))
            }
            _ => (text, None),
        };
        if kind == "af_packet" || kind == "af_xdp" {
            return Ok(Self::Ethdev {
                devargs: format!("net_{kind}0,iface={{interface}}"),
                interface,
            });
        }
        match text.split_once('@') {
            Some((devargs, interface)) if !devargs.is_empty() && !interface.is_empty() => {
                Ok(Self::Ethdev {
                    devargs: devargs.to_owned(),
                    interface: Some(interface.to_owned()),
                })
            }
            _ => Err(format!(
                "`{text}` is no uplink: write socket, af_packet, af_xdp, af_packet:<interface>, or <DPDK device arguments>@<interface that holds the addresses>"
            )),
        }
    }
}

impl NetConfig {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// The file is missing or a field is wrong; the error says what to do.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Read {
            file: file.to_owned(),
            source,
            remedy: "write it (config/netcfg.json of this project is a sample), or name another with --config",
        })?;
        Self::parse(file, &text)
    }

    /// Checks the text of the file.
    ///
    /// # Errors
    /// A field is wrong.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let fields = Fields::parse(file, text)?;
        let public_address = public_address(&fields)?;
        let cluster_host = fields.text("ClusterUrl")?.filter(|host| host != "0.0.0.0");
        if let Some(host) = &cluster_host
            && host.contains(['/', ' '])
        {
            return Err(fields.wrong(
                "ClusterUrl",
                format!("`{host}` is not a host name or address"),
                "write it without scheme and path; the port belongs in ClusterMqttPort",
            ));
        }
        Ok(Self {
            public_address,
            public_port: fields.port("NodePublicPort")?.unwrap_or(50_103),
            cluster_host,
            cluster_port: fields.port("ClusterMqttPort")?.unwrap_or(10_003),
            default_interface: fields.text("DefaultInterface")?,
            debug: fields.flag("Debug")?.unwrap_or(false),
            public_ip_networking: fields.flag("PublicIPNetworking")?.unwrap_or(false),
            tls: tls(&fields)?,
            dns: dns(&fields)?,
            dns_intercept: fields.flag("DnsIntercept")?.unwrap_or(false),
            dataplane: dataplane(&fields.object("Dataplane")?)?,
        })
    }
}

fn public_address(fields: &Fields) -> Result<Option<IpAddr>, ConfigError> {
    let Some(text) = fields.text("NodePublicAddress")? else {
        return Ok(None);
    };
    let remedy = "write this node's address as other nodes reach it, or 0.0.0.0 for that of the default route";
    let Ok(address) = protocol::address::parse(&text) else {
        return Err(fields.wrong(
            "NodePublicAddress",
            format!("`{text}` is not an IP address"),
            remedy,
        ));
    };
    if address.is_unspecified() {
        return Ok(None);
    }
    if address_plan::is_semantic(address)
        || address_plan::is_namespace(address) && address.is_ipv4()
    {
        return Err(fields.wrong(
            "NodePublicAddress",
            format!("{address} lies in a range that is given to containers"),
            remedy,
        ));
    }
    if address.is_multicast() {
        return Err(fields.wrong(
            "NodePublicAddress",
            format!("{address} is a multicast address"),
            remedy,
        ));
    }
    Ok(Some(address))
}

fn dns(fields: &Fields) -> Result<DnsConfig, ConfigError> {
    let zone = fields.text("DnsZone")?.unwrap_or_else(|| "oak".to_owned());
    let zone = zone.trim_matches('.').to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    // The rest of a name takes up to 150 of its 253 characters.
    if zone.len() > 100 || !zone.split('.').all(is_label) {
        return Err(fields.wrong(
            "DnsZone",
            format!("`{zone}` is not a zone's name of at most 100 characters"),
            "write one such as oak or services.example.org",
        ));
    }
    let mut resolvers = Vec::new();
    for text in fields
        .text("DnsResolvers")?
        .unwrap_or_default()
        .split([',', ' ', ';'])
    {
        if text.is_empty() {
            continue;
        }
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
    Ok(DnsConfig {
        enabled: fields.flag("Dns")?.unwrap_or(true),
        zone,
        resolvers,
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
    })
}

fn tls(fields: &Fields) -> Result<Option<TlsFiles>, ConfigError> {
    let (certificate, key) = (fields.text("MqttCert")?, fields.text("MqttKey")?);
    let authority = fields.text("MqttCa")?.map(PathBuf::from);
    let (certificate, key) = match (certificate, key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (PathBuf::from(certificate), PathBuf::from(key)),
        (Some(_), None) => {
            return Err(fields.wrong(
                "MqttKey",
                "missing beside MqttCert",
                "name the key file, or empty both",
            ));
        }
        (None, Some(_)) => {
            return Err(fields.wrong(
                "MqttCert",
                "missing beside MqttKey",
                "name the certificate file, or empty both",
            ));
        }
    };
    let authority = authority.unwrap_or_else(|| certificate.with_file_name("ca.crt"));
    for (field, path) in [
        ("MqttCert", &certificate),
        ("MqttKey", &key),
        ("MqttCa", &authority),
    ] {
        if let Err(error) = std::fs::metadata(path) {
            return Err(fields.wrong(
                field,
                format!("{}: {error}", path.display()),
                "name a PEM file that the Net Manager can read (MqttCa is ca.crt beside MqttCert where it is not set)",
            ));
        }
    }
    Ok(Some(TlsFiles {
        certificate,
        key,
        authority,
    }))
}

fn dataplane(fields: &Fields) -> Result<DataplaneConfig, ConfigError> {
    let uplink = UplinkChoice::parse(&fields.text("Uplink")?.unwrap_or_default())
        .map_err(|problem| fields.wrong("Uplink", problem, "socket works everywhere"))?;
    let idle = match fields.text("Idle")?.as_deref() {
        None => None,
        Some("spin") => Some(IdleMode::Spin),
        Some("backoff") => Some(IdleMode::Backoff),
        Some(other) => {
            return Err(fields.wrong(
                "Idle",
                format!("`{other}` is not known"),
                "write spin or backoff",
            ));
        }
    };
    let small = |number: u64| usize::try_from(number).ok();
    Ok(DataplaneConfig {
        uplink,
        workers: fields.number("Workers", 1, 64)?.and_then(small),
        idle,
        hugepage_mb: fields
            .number("HugepageMb", 0, 1 << 20)?
            .and_then(|mb| u32::try_from(mb).ok()),
        flows: fields
            .number("Flows", 1024, 1 << 28)?
            .and_then(small)
            .unwrap_or(1 << 18),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NetConfig, ConfigError> {
        NetConfig::parse(Path::new("/etc/netmanager/netcfg.json"), text)
    }

    #[test]
    fn the_references_file_is_read_with_its_defaults() {
        let config = parse(
            r#"{"NodePublicAddress":"0.0.0.0","NodePublicPort":"50103","ClusterUrl":"0.0.0.0","ClusterMqttPort":"10003",
            "DefaultInterface":"","Debug":false,"PublicIPNetworking":false,"MqttCert":"","MqttKey":"","Later":1}"#,
        )
        .unwrap();
        assert_eq!(config, parse("{}").unwrap());
        assert_eq!((config.public_port, config.cluster_port), (50_103, 10_003));
        assert_eq!((config.public_address, config.cluster_host), (None, None));
        assert_eq!(config.dataplane.uplink, UplinkChoice::Socket);
    }

    #[test]
    fn ports_are_numbers_or_text_and_keys_know_no_case() {
        let config = parse(r#"{"nodepublicport":50200,"CLUSTERMQTTPORT":"1883","Dataplane":{"Workers":"2","Idle":"spin","Flows":4096}}"#).unwrap();
        assert_eq!((config.public_port, config.cluster_port), (50_200, 1_883));
        assert_eq!(config.dataplane.workers, Some(2));
        assert_eq!(config.dataplane.idle, Some(IdleMode::Spin));
        assert_eq!(config.dataplane.flows, 4096);
    }

    #[test]
    fn each_complaint_names_file_field_and_remedy() {
        for (text, field) in [
            (r#"{"NodePublicPort":"0"}"#, "NodePublicPort"),
            (r#"{"NodePublicPort":65536}"#, "NodePublicPort"),
            (r#"{"ClusterMqttPort":"x"}"#, "ClusterMqttPort"),
            (
                r#"{"NodePublicAddress":"10.19.1.254"}"#,
                "NodePublicAddress",
            ),
            (r#"{"NodePublicAddress":"10.30.0.1"}"#, "NodePublicAddress"),
            (r#"{"NodePublicAddress":"here"}"#, "NodePublicAddress"),
            (r#"{"ClusterUrl":"http://x"}"#, "ClusterUrl"),
            (r#"{"MqttCert":"/a"}"#, "MqttKey"),
            (
                r#"{"MqttCert":"/does/not/exist","MqttKey":"/a"}"#,
                "MqttCert",
            ),
            (r#"{"Debug":"perhaps"}"#, "Debug"),
            (r#"{"DnsZone":"a..b"}"#, "DnsZone"),
            (r#"{"DnsZone":"oak!"}"#, "DnsZone"),
            (r#"{"DnsResolvers":"192.0.2.1, dns"}"#, "DnsResolvers"),
            (r#"{"Dataplane":{"Uplink":"tin can"}}"#, "Dataplane.Uplink"),
            (r#"{"Dataplane":{"Idle":"never"}}"#, "Dataplane.Idle"),
            (r#"{"Dataplane":7}"#, "Dataplane"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(
                message.starts_with("/etc/netmanager/netcfg.json: "),
                "{message}"
            );
            assert!(message.contains(&format!("field {field}: ")), "{message}");
            assert!(message.contains("; "), "{message}");
        }
        assert!(
            parse("{,}")
                .unwrap_err()
                .to_string()
                .contains("not a JSON object")
        );
        assert!(parse("[]").is_err());
    }

    #[test]
    fn the_zone_and_its_resolvers_are_read() {
        let config = parse(
            r#"{"DnsZone":"Services.Example.org.","DnsResolvers":"192.0.2.1, [2001:db8::1]:5353;2001:db8::2"}"#,
        )
        .unwrap();
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
        let silent = parse(r#"{"Dns":false}"#).unwrap().dns;
        assert!(!silent.enabled && silent.zone == "oak" && silent.resolvers.is_empty());
    }

    #[test]
    fn uplinks_are_read_in_every_form() {
        let ethdev = |devargs: &str, interface: Option<&str>| UplinkChoice::Ethdev {
            devargs: devargs.to_owned(),
            interface: interface.map(str::to_owned),
        };
        assert_eq!(
            UplinkChoice::parse("af_packet"),
            Ok(ethdev("net_af_packet0,iface={interface}", None))
        );
        assert_eq!(
            UplinkChoice::parse("af_xdp:eth1"),
            Ok(ethdev("net_af_xdp0,iface={interface}", Some("eth1")))
        );
        assert_eq!(
            UplinkChoice::parse("0000:00:05.0@eth0"),
            Ok(ethdev("0000:00:05.0", Some("eth0")))
        );
        assert!(UplinkChoice::parse("0000:00:05.0").is_err());
    }
}
