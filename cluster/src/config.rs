//! Settings: the environment of the contract's section 3, each with a flag of the same name.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use manager_http::{Identity, Limits};
use rustls::{ClientConfig, ServerConfig};

/// The cluster service manager of Oakestra Net: it stands between the nodes of one cluster (MQTT)
/// and the root service manager (HTTP).
#[derive(Debug, Clone, Parser)]
#[command(name = "cluster-service-manager", version)]
pub struct Config {
    /// Port of the HTTP interface, on all IPv4 and IPv6 addresses.
    #[arg(long, env = "MY_PORT", default_value = "10110", value_parser = or_default::<u16>("10110"))]
    pub my_port: u16,
    /// Name of the cluster: names it to the root and its keys in Redis.
    #[arg(long, env = "CLUSTER_NAME", default_value = "cluster", value_parser = or_default::<String>("cluster"), global = true)]
    pub cluster_name: String,
    /// Id of the cluster at the root, where it is known; the name otherwise.
    #[arg(long, env = "CLUSTER_ID")]
    pub cluster_id: Option<String>,
    /// Address by which the root reaches this manager.
    #[arg(long, env = "CLUSTER_ADDRESS")]
    pub cluster_address: Option<String>,
    /// MQTT broker's host.
    #[arg(long, env = "MQTT_BROKER_URL", default_value = "127.0.0.1", value_parser = or_default::<String>("127.0.0.1"))]
    pub mqtt_broker_url: String,
    /// MQTT broker's port.
    #[arg(long, env = "MQTT_BROKER_PORT", default_value = "10003", value_parser = or_default::<u16>("10003"))]
    pub mqtt_broker_port: u16,
    /// Folder with ca.crt, cluster_net.crt and cluster_net.key; with it, MQTT is TLS only.
    #[arg(long, env = "MQTT_CERT")]
    pub mqtt_cert: Option<String>,
    /// Password of cluster_net.key.
    #[arg(long, env = "CLUSTER_SERVICE_KEYFILE_PASSWORD", hide_env_values = true)]
    pub cluster_service_keyfile_password: Option<String>,
    /// Root service manager's host.
    #[arg(long, env = "ROOT_SERVICE_MANAGER_URL", default_value = "127.0.0.1", value_parser = or_default::<String>("127.0.0.1"))]
    pub root_service_manager_url: String,
    /// Root service manager's port.
    #[arg(long, env = "ROOT_SERVICE_MANAGER_PORT", default_value = "10099", value_parser = or_default::<u16>("10099"))]
    pub root_service_manager_port: u16,
    /// The root is called by TLS.
    #[arg(
        long,
        env = "ROOT_SERVICE_MANAGER_USE_TLS",
        default_value = "false",
        num_args = 0..=1,
        default_missing_value = "true",
        value_parser = switch
    )]
    pub root_service_manager_use_tls: bool,
    /// Authority of the root's certificate, PEM.
    #[arg(long, env = "ROOT_CA_FILE")]
    pub root_ca_file: Option<PathBuf>,
    /// Certificate of this manager, PEM: shown to the root, and to callers where it serves by TLS.
    #[arg(long, env = "CLUSTER_CERT_FILE")]
    pub cluster_cert_file: Option<PathBuf>,
    /// Key of that certificate, PEM.
    #[arg(long, env = "CLUSTER_KEY_FILE")]
    pub cluster_key_file: Option<PathBuf>,
    /// Password of that key, where it is encrypted.
    #[arg(long, env = "CLUSTER_KEYFILE_PASSWORD", hide_env_values = true)]
    pub cluster_keyfile_password: Option<String>,
    /// Serve by TLS alone; callers of /api/net/ have to show a certificate of ROOT_CA_FILE.
    #[arg(
        long,
        env = "CLUSTER_SERVICE_MANAGER_USE_TLS",
        default_value = "false",
        num_args = 0..=1,
        default_missing_value = "true",
        value_parser = switch
    )]
    pub cluster_service_manager_use_tls: bool,
    /// Bearer token that callers of /api/net/ have to show, and that the root is shown.
    #[arg(long, env = "API_TOKEN", hide_env_values = true)]
    pub api_token: Option<String>,
    /// System manager's host (accepted for upstream's compose files; not contacted).
    #[arg(long, env = "SYSTEM_MANAGER_URL")]
    pub system_manager_url: Option<String>,
    /// System manager's port (accepted for upstream's compose files; not contacted).
    #[arg(long, env = "SYSTEM_MANAGER_PORT")]
    pub system_manager_port: Option<String>,
    /// This manager's Redis.
    #[arg(
        long,
        env = "REDIS_URL",
        default_value = "redis://127.0.0.1:6379",
        value_parser = or_default::<String>("redis://127.0.0.1:6379"),
        hide_env_values = true,
        global = true
    )]
    pub redis_url: String,
    /// The root's Redis, to hear of changes at once; HTTP notifications and polling without it.
    #[arg(long, env = "ROOT_REDIS_URL", hide_env_values = true)]
    pub root_redis_url: Option<String>,
    /// Authority of this manager's Redis server's certificate, PEM, for rediss://; the system's without it.
    #[arg(long, env = "REDIS_CA_FILE", global = true)]
    pub redis_ca_file: Option<PathBuf>,
    /// Authority of the root's Redis server's certificate, PEM, for rediss://; the system's without it.
    #[arg(long, env = "ROOT_REDIS_CA_FILE")]
    pub root_redis_ca_file: Option<PathBuf>,
    /// Seconds between two questions for the root's changes.
    #[arg(long, env = "CHANGES_POLL_SECONDS", default_value = "3", value_parser = seconds("3"))]
    pub changes_poll: Duration,
    /// Seconds that a given-back subnetwork rests, where the root does not take it back.
    #[arg(long, env = "ADDRESS_REST_SECONDS", default_value = "60", value_parser = seconds("60"))]
    pub address_rest: Duration,
    /// Seconds without a sign of life after which a node without `net/status` has vanished.
    #[arg(long, env = "NODE_SILENCE_SECONDS", default_value = "60", value_parser = seconds("60"))]
    pub node_silence: Duration,
    /// Seconds that a node may be offline before its instances are withdrawn.
    #[arg(long, env = "NODE_GRACE_SECONDS", default_value = "10", value_parser = seconds("10"))]
    pub node_grace: Duration,
    /// Seconds after which a withdrawn node's subnetworks are given back.
    #[arg(long, env = "NODE_FORGET_SECONDS", default_value = "86400", value_parser = seconds("86400"))]
    pub node_forget: Duration,
    /// Log as JSON, one object a line. What is logged is set by RUST_LOG (default: info).
    #[arg(long, env = "LOG_JSON", default_value = "false", num_args = 0..=1, default_missing_value = "true", value_parser = switch)]
    pub log_json: bool,
    /// What one caller may take.
    #[command(flatten)]
    pub limits: Limits,
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<crate::moving::Command>,
}

/// Compose files pass what is not set as empty text: then the default counts.
fn or_default<T>(default: &'static str) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    move |text| {
        let text = text.trim();
        let text = if text.is_empty() { default } else { text };
        text.parse().map_err(|error: T::Err| error.to_string())
    }
}

/// On or off, as compose files write it; empty is off.
fn switch(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "" | "0" | "false" | "no" | "off" => Ok(false),
        "1" | "true" | "yes" | "on" => Ok(true),
        other => Err(format!("`{other}` is neither true nor false")),
    }
}

/// TLS in both directions, as far as it is set.
#[derive(Debug, Default)]
pub struct Tls {
    /// For serving; then a caller's certificate lets it in.
    pub server: Option<Arc<ServerConfig>>,
    /// For calling the root.
    pub client: Option<Arc<ClientConfig>>,
}

/// Why the settings do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum TlsSettings {
    /// A setting needs another one.
    #[error("{0} needs {1}")]
    Needs(&'static str, &'static str),
    /// A file cannot be used.
    #[error(transparent)]
    Files(#[from] manager_http::TlsError),
}

fn seconds(default: &'static str) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    let number = or_default::<f64>(default);
    move |text| {
        number(text)
            .ok()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or_else(|| format!("`{text}` is not a number of seconds"))
    }
}

impl Config {
    /// Reads the certificates.
    ///
    /// # Errors
    /// See [`TlsSettings`].
    pub fn tls(&self) -> Result<Tls, TlsSettings> {
        let named = |setting, path: &Option<PathBuf>| {
            let path = path.clone().filter(|path| !path.as_os_str().is_empty());
            path.map(|path| (setting, path))
        };
        let root = named("ROOT_CA_FILE", &self.root_ca_file);
        let certificate = named("CLUSTER_CERT_FILE", &self.cluster_cert_file);
        let key = named("CLUSTER_KEY_FILE", &self.cluster_key_file);
        let own = match (&certificate, &key) {
            (Some(certificate), Some(key)) => Some(Identity {
                certificate: (certificate.0, &certificate.1),
                key: (key.0, &key.1),
                password: (
                    "CLUSTER_KEYFILE_PASSWORD",
                    self.cluster_keyfile_password.as_deref(),
                ),
            }),
            (None, None) => None,
            _ => {
                return Err(TlsSettings::Needs(
                    "CLUSTER_CERT_FILE",
                    "CLUSTER_KEY_FILE, and the other way round",
                ));
            }
        };
        let root = root.as_ref().map(|root| (root.0, &*root.1));
        let needs = |setting, other| TlsSettings::Needs(setting, other);
        let mut tls = Tls::default();
        if self.root_service_manager_use_tls {
            let root = root.ok_or_else(|| needs("ROOT_SERVICE_MANAGER_USE_TLS", "ROOT_CA_FILE"))?;
            tls.client = Some(manager_http::client_config(root, own.as_ref())?);
        }
        if self.cluster_service_manager_use_tls {
            let serving = "CLUSTER_SERVICE_MANAGER_USE_TLS";
            let own = own
                .as_ref()
                .ok_or_else(|| needs(serving, "CLUSTER_CERT_FILE and CLUSTER_KEY_FILE"))?;
            let root = root.ok_or_else(|| needs(serving, "ROOT_CA_FILE"))?;
            tls.server = Some(manager_http::server_config(own, Some(root))?);
        }
        Ok(tls)
    }

    /// Base of the root's URLs, without a slash at the end.
    pub fn root_base(&self) -> String {
        let host = self.root_service_manager_url.trim_end_matches('/');
        let plain = if self.root_service_manager_use_tls {
            "https"
        } else {
            "http"
        };
        let (scheme, host) = host.split_once("://").unwrap_or((plain, host));
        let port = self.root_service_manager_port;
        if host.contains(':') && !host.starts_with('[') {
            format!("{scheme}://[{host}]:{port}")
        } else {
            format!("{scheme}://{host}:{port}")
        }
    }

    /// How this cluster names itself to the root.
    pub fn caller(&self) -> protocol::root_http::CallerQuery {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        protocol::root_http::CallerQuery {
            cluster_id: given(&self.cluster_id),
            cluster_name: Some(self.cluster_name.clone()).filter(|name| !name.is_empty()),
            cluster_address: given(&self.cluster_address).map(|address| {
                match address.parse::<std::net::Ipv6Addr>() {
                    Ok(v6) => format!("[{v6}]:{}", self.my_port),
                    Err(_) => format!("{address}:{}", self.my_port),
                }
            }),
        }
    }

    /// The cluster's id as far as it is known here.
    pub fn id(&self) -> &str {
        self.cluster_id
            .as_deref()
            .filter(|id| !id.is_empty())
            .unwrap_or(&self.cluster_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Config {
        Config::try_parse_from(std::iter::once("csm").chain(arguments.iter().copied())).unwrap()
    }

    #[test]
    fn the_root_may_be_a_name_an_address_or_a_url() {
        for (given, base) in [
            ("root", "http://root:10099"),
            ("::1", "http://[::1]:10099"),
            ("http://root/", "http://root:10099"),
        ] {
            assert_eq!(
                read(&["--root-service-manager-url", given]).root_base(),
                base
            );
        }
    }

    #[test]
    fn a_cluster_names_itself_with_address_and_port() {
        let config = read(&["--cluster-name", "c1", "--cluster-address", "fd00::1"]);
        let caller = config.caller();
        assert_eq!(caller.cluster_address.as_deref(), Some("[fd00::1]:10110"));
        assert_eq!(caller.cluster_name.as_deref(), Some("c1"));
        assert_eq!(caller.cluster_id, None);
        assert_eq!(config.id(), "c1");
    }

    #[test]
    fn an_empty_setting_is_none() {
        let config = read(&[
            "--my-port",
            "",
            "--mqtt-broker-port",
            "",
            "--redis-url",
            " ",
            "--cluster-name",
            "",
            "--node-grace",
            "",
            "--cluster-address",
            "",
            "--mqtt-cert",
            "",
            "--root-redis-url",
            "",
        ]);
        assert_eq!((config.my_port, config.mqtt_broker_port), (10110, 10003));
        assert_eq!(config.redis_url, "redis://127.0.0.1:6379");
        assert_eq!(config.node_grace, Duration::from_secs(10));
        assert_eq!(config.caller().cluster_address, None);
        assert_eq!(config.id(), "cluster");
    }

    #[test]
    fn malformed_settings_are_refused() {
        assert!(Config::try_parse_from(["csm", "--changes-poll", "soon"]).is_err());
        assert!(Config::try_parse_from(["csm", "--changes-poll", "-1"]).is_err());
        assert!(Config::try_parse_from(["csm", "--my-port", "65536"]).is_err());
    }
}
