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
                tap: tap.map(interface_name).transpose()?,
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
                    interface: interface_name(interface)?,
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

fn interface_name(name: &str) -> Result<String, String> {
    let bad = |c: char| matches!(c, '/' | ':' | '%' | ',') || c.is_whitespace();
    if name.is_empty() || name.len() > 15 || name.contains(bad) {
        return Err(format!("`{name}` is no name of an interface"));
    }
    Ok(name.to_owned())
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
        .map_err(|problem| fields.wrong("Uplink", problem, "auto and socket work everywhere"))?;
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
        assert_eq!(config.dataplane.uplink, UplinkChoice::Auto);
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
