//! `netcfg.json`: who this node is, where its cluster is, and how the data plane runs.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use dataplane::HostPort;
use protocol::address_plan;

use super::dns::{self, DnsConfig};
use super::fields::Fields;
use super::uplink::{UplinkChoice, is_interface_name};
use super::vhost::{self, VhostConfig};
use super::{Complaints, ConfigError, ConfigErrors, File, Override, tls};

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
    /// The group that may use the unix socket, by name or number; `None` leaves it to the process's own.
    pub socket_group: Option<String>,
    /// Sockets of virtual machines.
    pub vhost: VhostConfig,
    /// Where the interface is served on TCP, too.
    pub api_listen: Option<SocketAddr>,
    /// What callers on TCP must show.
    pub api_token: Option<String>,
    /// How the log file is rotated.
    pub log: LogConfig,
}

/// How the log file is rotated, where the process's output goes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Bytes after which a new file begins.
    pub max_bytes: u64,
    /// Older files that are kept.
    pub files: u32,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            max_bytes: 50 << 20,
            files: 4,
        }
    }
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

/// The object `Dataplane`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataplaneConfig {
    /// How packets leave for other nodes.
    pub uplink: UplinkChoice,
    /// What the node's own interface is behind.
    pub host_port: HostPort,
    /// Worker lcores; `None` lets the machine decide.
    pub workers: Option<usize>,
    /// How an idle worker waits; `None` lets the machine decide.
    pub idle: Option<IdleMode>,
    /// How long an idle core may take to wake, in µs; `None` leaves it to the machine.
    pub cpu_latency: Option<u32>,
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

/// The file's text.
pub(super) fn read(file: &Path) -> Result<String, ConfigError> {
    super::text(
        file,
        "write it (config/netcfg.json of this project is a sample), or name another with --config",
    )
}

impl NetConfig {
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

/// The settings by a file's text and what wins over it. They hold where there is no error among the complaints.
pub(super) fn examine(file: &Path, text: &str, overrides: &[Override]) -> (NetConfig, Complaints) {
    let parse = |text| Fields::parse(file, text, (File::Net, overrides));
    let mut unreadable = None;
    let fields = parse(text).or_else(|error| {
        unreadable = Some(error);
        parse("{}")
    });
    let config = fields.map(|fields| {
        let config = config(&fields);
        fields.look_for_unknown();
        (config, fields.complaints())
    });
    match config {
        Ok((config, mut complaints)) => {
            complaints.errors.extend(unreadable);
            (config, complaints)
        }
        Err(_) => (NetConfig::default(), Complaints::default()),
    }
}

fn config(fields: &Fields) -> NetConfig {
    let public_ip_networking = fields.or(fields.flag("PublicIPNetworking"), false);
    let public_address = fields.maybe(public_address(fields));
    if public_ip_networking && public_address.is_none() {
        fields.warn(
            "PublicIPNetworking",
            "it asks an outside service for this node's address, which this Net Manager does not do; the address of the default route is announced",
            "set NodePublicAddress",
        );
    }
    let dataplane_fields = fields.object_or_empty("Dataplane");
    let dataplane = dataplane(&dataplane_fields);
    dataplane_fields.look_for_unknown();
    let defaults = LogConfig::default();
    NetConfig {
        public_address,
        public_port: fields.or(fields.port("NodePublicPort"), 50_103),
        cluster_host: fields.maybe(cluster_host(fields)),
        cluster_port: fields.or(fields.port("ClusterMqttPort"), 10_003),
        default_interface: fields.maybe(interface_name(fields, "DefaultInterface")),
        debug: fields.or(fields.flag("Debug"), false),
        public_ip_networking,
        tls: fields.maybe(tls_files(fields)),
        dns: dns::read(fields),
        dns_intercept: fields.or(fields.flag("DnsIntercept"), false),
        dataplane,
        socket_group: fields.maybe(fields.text("SocketGroup")),
        vhost: vhost::read(fields),
        api_listen: fields.maybe(api_listen(fields)),
        api_token: fields.maybe(fields.text("ApiToken")),
        log: LogConfig {
            max_bytes: fields
                .maybe(fields.number("LogMaxMb", 1, 1 << 20))
                .map_or(defaults.max_bytes, |mb| mb << 20),
            files: fields
                .maybe(fields.number("LogFiles", 1, 100))
                .and_then(|files| u32::try_from(files).ok())
                .unwrap_or(defaults.files),
        },
    }
}

fn public_address(fields: &Fields) -> Result<Option<IpAddr>, ConfigError> {
    let Some(text) = fields.text("NodePublicAddress")? else {
        return Ok(None);
    };
    let remedy = "write this node's address as other nodes reach it, or 0.0.0.0 for that of the default route";
    let wrong = |problem: String| Err(fields.wrong("NodePublicAddress", problem, remedy));
    let Ok(address) = protocol::address::parse(&text) else {
        return wrong(format!("`{text}` is not an IP address"));
    };
    if address.is_unspecified() {
        return Ok(None);
    }
    if address_plan::is_semantic(address)
        || address_plan::is_namespace(address) && address.is_ipv4()
    {
        return wrong(format!(
            "{address} lies in a range that is given to containers"
        ));
    }
    if address.is_multicast() {
        return wrong(format!("{address} is a multicast address"));
    }
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if link_local {
        return wrong(format!("{address} cannot be reached from other links"));
    }
    Ok(Some(address))
}

/// A part of a name (RFC 1123, and underscores as container networks have them).
pub(super) fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// A host name (RFC 1123, and underscores as container networks have them) or an address.
fn cluster_host(fields: &Fields) -> Result<Option<String>, ConfigError> {
    let Some(text) = fields.text("ClusterUrl")? else {
        return Ok(None);
    };
    let wrong = |problem: &str, remedy: &str| {
        Err(fields.wrong("ClusterUrl", format!("`{text}` {problem}"), remedy))
    };
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(&text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return match address {
            address if address.is_unspecified() => Ok(None),
            address if address.is_multicast() => {
                wrong("is a multicast address", "write the broker's own address")
            }
            _ => Ok(Some(bare.to_owned())),
        };
    }
    if text.contains(['/', ' ']) {
        return wrong(
            "is not a host name or address",
            "write it without scheme and path; the port belongs in ClusterMqttPort",
        );
    }
    if text.contains(':') {
        return wrong(
            "is not a host name or address",
            "write the host alone; the port belongs in ClusterMqttPort",
        );
    }
    if text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return wrong(
            "is no IPv4 address",
            "write four numbers from 0 to 255, or a host name",
        );
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let name = text.strip_suffix('.').unwrap_or(&text);
    if name.len() > 253 || !name.split('.').all(label) {
        return wrong(
            "is no host name",
            "write letters, digits, `-` and `.`, or an address",
        );
    }
    Ok(Some(text))
}

/// The name of an interface, if one is named.
pub(super) fn interface_name(fields: &Fields, field: &str) -> Result<Option<String>, ConfigError> {
    let name = fields.text(field)?;
    match &name {
        Some(name) if !is_interface_name(name) => Err(fields.wrong(
            field,
            format!("`{name}` is no interface name"),
            "write 1 to 15 bytes without / : % and blanks",
        )),
        _ => Ok(name),
    }
}

fn api_listen(fields: &Fields) -> Result<Option<SocketAddr>, ConfigError> {
    let Some(text) = fields.text("ApiListen")? else {
        return Ok(None);
    };
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(Some(address)),
        _ => Err(fields.wrong(
            "ApiListen",
            format!("`{text}` is not an address with a port"),
            "write as in 127.0.0.1:10010 or [::1]:10010",
        )),
    }
}

fn tls_files(fields: &Fields) -> Result<Option<TlsFiles>, ConfigError> {
    let (certificate, key) = (fields.text("MqttCert")?, fields.text("MqttKey")?);
    let authority = fields.text("MqttCa")?.map(PathBuf::from);
    let (certificate, key) = match (certificate, key) {
        (None, None) if authority.is_some() => {
            return Err(fields.wrong(
                "MqttCa",
                "it says whom to trust, but without MqttCert and MqttKey there is no TLS",
                "name all three, or empty it",
            ));
        }
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
    let files = TlsFiles {
        authority: authority.unwrap_or_else(|| certificate.with_file_name("ca.crt")),
        certificate,
        key,
    };
    for (field, problem, remedy) in tls::check(&files) {
        fields.complain(fields.wrong(field, problem, remedy));
    }
    Ok(Some(files))
}

fn uplink(fields: &Fields) -> Result<Option<UplinkChoice>, ConfigError> {
    let text = fields.text("Uplink")?;
    UplinkChoice::parse(&text.unwrap_or_default())
        .map(Some)
        .map_err(|problem| fields.wrong("Uplink", problem, "auto and socket work everywhere"))
}

fn host_port(fields: &Fields) -> Result<Option<HostPort>, ConfigError> {
    match fields.text("HostPort")?.as_deref() {
        None => Ok(None),
        Some("tap") => Ok(Some(HostPort::Tap)),
        Some("virtio_user") => Ok(Some(HostPort::VirtioUser)),
        Some(other) => Err(fields.wrong(
            "HostPort",
            format!("`{other}` is not known"),
            "write tap, or virtio_user where the machine has vhost-net",
        )),
    }
}

fn idle(fields: &Fields) -> Result<Option<IdleMode>, ConfigError> {
    match fields.text("Idle")?.as_deref() {
        None => Ok(None),
        Some("spin") => Ok(Some(IdleMode::Spin)),
        Some("backoff") => Ok(Some(IdleMode::Backoff)),
        Some(other) => Err(fields.wrong(
            "Idle",
            format!("`{other}` is not known"),
            "write spin or backoff",
        )),
    }
}

fn dataplane(fields: &Fields) -> DataplaneConfig {
    let small = |number: u64| usize::try_from(number).ok();
    DataplaneConfig {
        uplink: fields.or(uplink(fields), UplinkChoice::Auto),
        host_port: fields.or(host_port(fields), HostPort::Tap),
        workers: fields
            .maybe(fields.number("Workers", 1, 64))
            .and_then(small),
        idle: fields.maybe(idle(fields)),
        cpu_latency: fields
            .maybe(fields.number("CpuLatency", 0, 1_000_000))
            .and_then(|limit| u32::try_from(limit).ok()),
        hugepage_mb: fields
            .maybe(fields.number("HugepageMb", 0, 1 << 20))
            .and_then(|mb| u32::try_from(mb).ok()),
        flows: fields
            .maybe(fields.number("Flows", 1024, 1 << 28))
            .and_then(small)
            .unwrap_or(FLOWS),
    }
}

/// Flows that the table holds where nothing is said.
const FLOWS: usize = 1 << 18;

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            public_address: None,
            public_port: 50_103,
            cluster_host: None,
            cluster_port: 10_003,
            default_interface: None,
            debug: false,
            public_ip_networking: false,
            tls: None,
            dns: DnsConfig::default(),
            dns_intercept: false,
            dataplane: DataplaneConfig {
                uplink: UplinkChoice::Auto,
                host_port: HostPort::Tap,
                workers: None,
                idle: None,
                cpu_latency: None,
                hugepage_mb: None,
                flows: FLOWS,
            },
            socket_group: None,
            vhost: VhostConfig::default(),
            api_listen: None,
            api_token: None,
            log: LogConfig::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NetConfig, ConfigErrors> {
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
        assert_eq!(config.dataplane.host_port, HostPort::Tap);
    }

    #[test]
    fn ports_are_numbers_or_text_and_keys_know_no_case() {
        let config = parse(r#"{"nodepublicport":50200,"CLUSTERMQTTPORT":"1883","Dataplane":{"Workers":"2","Idle":"spin","hostport":"virtio_user","Flows":4096}}"#).unwrap();
        assert_eq!((config.public_port, config.cluster_port), (50_200, 1_883));
        assert_eq!(config.dataplane.workers, Some(2));
        assert_eq!(config.dataplane.host_port, HostPort::VirtioUser);
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
            (r#"{"Dataplane":{"HostPort":"tun"}}"#, "Dataplane.HostPort"),
            (r#"{"Dataplane":7}"#, "Dataplane"),
            (r#"{"VhostFolder":"run/vhost"}"#, "VhostFolder"),
            (r#"{"VhostFolder":"/run/a,b"}"#, "VhostFolder"),
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
    fn all_that_is_wrong_is_said_at_once() {
        let errors = parse(
            r#"{"NodePublicPort":0,"ClusterUrl":"a:1","Dataplane":{"Idle":"x","Flows":1,"Workers":true},"Debug":7,"MqttCa":"/a"}"#,
        )
        .unwrap_err();
        assert_eq!(errors.0.len(), 7, "{errors}");
        assert_eq!(errors.to_string().lines().count(), 7);
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        let host = |text: &str| {
            parse(&serde_json::json!({ "ClusterUrl": text }).to_string()).map(|c| c.cluster_host)
        };
        for (good, read) in [
            ("broker.example.org", Some("broker.example.org")),
            ("cluster_mqtt", Some("cluster_mqtt")),
            ("192.0.2.1", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("0.0.0.0", None),
            ("::", None),
            ("", None),
        ] {
            assert_eq!(host(good).unwrap().as_deref(), read, "{good}");
        }
        for bad in [
            "mqtt://x",
            "x:1883",
            "192.0.2.1:1883",
            "192.0.2.256",
            "a..b",
            "a b",
            "-?-",
            "224.0.0.1",
        ] {
            let message = host(bad).unwrap_err().to_string();
            assert!(message.contains("ClusterUrl"), "{message}");
        }
    }

    #[test]
    fn unknown_fields_are_slips_or_left_alone_with_a_warning() {
        let (_, found) = examine(
            Path::new("netcfg.json"),
            r#"{"ClusterUrls":"x","Entirely":1,"Dataplane":{"Upling":"socket"}}"#,
            &[],
        );
        assert!(found.errors.is_empty());
        let slips: Vec<String> = found.slips.iter().map(ToString::to_string).collect();
        assert_eq!(slips.len(), 2, "{slips:?}");
        assert!(slips.iter().any(|s| s.contains("did you mean ClusterUrl?")));
        assert!(
            slips
                .iter()
                .any(|s| s.contains("Dataplane.Upling: ") && s.contains("Dataplane.Uplink?"))
        );
        assert_eq!(found.warnings.len(), 1);
        assert!(found.warnings[0].to_string().contains("Entirely"));
        let (_, twice) = examine(Path::new("n"), r#"{"Debug":true,"debug":false}"#, &[]);
        assert_eq!(twice.errors.len(), 1);
    }

    #[test]
    fn every_field_has_a_flag_and_a_variable_that_win() {
        use super::super::SETTINGS;
        let of = |field: &str| SETTINGS.iter().find(|s| s.field == field).unwrap();
        let given = [
            Override::by_flag(of("NodePublicPort"), "7".to_owned()),
            Override::by_environment(of("Dataplane.Flows"), "2048".to_owned()),
            Override::by_flag(of("Debug"), "true".to_owned()),
        ];
        let (config, found) = examine(Path::new("n"), r#"{"NodePublicPort":"x"}"#, &given);
        assert!(found.errors.is_empty(), "{:?}", found.errors);
        assert_eq!((config.public_port, config.dataplane.flows), (7, 2048));
        assert!(config.debug);
        // A wrong one is named by where it came from, not by a file that is in order.
        let given = [Override::by_environment(
            of("Dataplane.Workers"),
            "no".to_owned(),
        )];
        let (_, found) = examine(Path::new("n"), "{}", &given);
        let message = found.errors[0].to_string();
        assert!(message.starts_with("NETMANAGER_WORKERS "), "{message}");
        // Each field, by a value of the wrong kind: a field that its reader does not ask for would be left alone.
        for setting in SETTINGS {
            let mut value = serde_json::json!([1]);
            for part in setting.field.rsplit('.') {
                value = serde_json::json!({ part: value });
            }
            let path = Path::new("f");
            let found = match setting.file {
                File::Net => examine(path, &value.to_string(), &[]).1,
                File::Tun => super::super::tuncfg::examine(path, &value.to_string(), &[]).1,
            };
            let named = format!("field {}: ", setting.field);
            assert!(
                found.errors.iter().any(|e| e.to_string().contains(&named)),
                "{}: {found:?}",
                setting.field
            );
        }
    }

    #[test]
    fn the_key_must_be_the_certificates() {
        let folder = std::env::temp_dir().join(format!("oak-tls-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let at = |name: &str| folder.join(name).to_string_lossy().into_owned();
        for name in ["a", "b"] {
            let (key, crt) = (at(&format!("{name}.key")), at(&format!("{name}.crt")));
            let subject = format!("/CN={name}");
            let output = std::process::Command::new("openssl")
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
                .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
                .args(["-subj", &subject, "-keyout", &key, "-out", &crt])
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        let with = |cert: &str, key: &str, ca: &str| {
            let text =
                serde_json::json!({"MqttCert": at(cert), "MqttKey": at(key), "MqttCa": at(ca)});
            parse(&text.to_string())
                .map(|config| config.tls.is_some())
                .map_err(|errors| errors.to_string())
        };
        assert_eq!(with("a.crt", "a.key", "b.crt"), Ok(true));
        assert!(
            with("a.crt", "b.key", "a.crt")
                .unwrap_err()
                .contains("is not the key of")
        );
        assert!(
            with("a.key", "a.key", "a.crt")
                .unwrap_err()
                .contains("no certificate")
        );
        assert!(
            with("a.crt", "a.crt", "a.crt")
                .unwrap_err()
                .contains("no key")
        );
        let all = with("no.crt", "no.key", "no.ca").unwrap_err();
        assert_eq!(all.lines().count(), 3, "{all}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
