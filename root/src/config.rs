//! Settings: flags, each mirrored by an environment variable of the contract (section 2).

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use manager_http::{Identity, Limits};
use redis_link::Target;
use rustls::{ClientConfig, ServerConfig};

const REDIS_URL: &str = "redis://127.0.0.1:6379";

/// Root service manager of Oakestra Net.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "root-service-manager", version, about)]
pub(crate) struct Config {
    /// Port to listen on.
    #[arg(long, env = "MY_PORT", default_value = "10099", value_parser = or_default::<u16>("10099"))]
    pub(crate) port: u16,

    /// Address to listen on; by default every IPv6 and IPv4 address.
    #[arg(long, env = "MY_ADDRESS", default_value = "::", value_parser = or_default::<IpAddr>("::"))]
    pub(crate) address: IpAddr,

    /// The root's own Redis: redis://, rediss://, redis-sentinel://h1:p,h2:p/db?service=name or
    /// redis-cluster://h1:p,h2:p.
    #[arg(
        long,
        env = "REDIS_URL",
        default_value = REDIS_URL,
        value_parser = or_default::<String>(REDIS_URL),
        hide_env_values = true,
        global = true
    )]
    pub(crate) redis_url: String,

    /// Authority of the Redis server's certificate, PEM, for rediss://; the system's without it.
    #[arg(long, env = "REDIS_CA_FILE", global = true)]
    pub(crate) redis_ca_file: Option<PathBuf>,

    /// Host of the JWT generator, whose key signs the tokens for netinfo.
    #[arg(long, env = "JWT_GENERATOR_URL", default_value = "localhost")]
    pub(crate) jwt_generator_url: String,

    /// Port of the JWT generator.
    #[arg(
        long,
        env = "JWT_GENERATOR_PORT",
        default_value = "10011",
        value_parser = or_default::<u16>("10011")
    )]
    pub(crate) jwt_generator_port: u16,

    /// Host of the system manager (accepted for compatibility; nothing is sent there).
    #[arg(long, env = "SYSTEM_MANAGER_URL")]
    pub(crate) system_manager_url: Option<String>,

    /// Port of the system manager (accepted for compatibility).
    #[arg(long, env = "SYSTEM_MANAGER_PORT")]
    pub(crate) system_manager_port: Option<String>,

    /// Seconds that a given-back address or subnetwork rests before it is handed out again.
    #[arg(long, env = "ADDRESS_REST_SECONDS", default_value = "60", value_parser = seconds)]
    pub(crate) address_rest: Duration,

    /// Seconds without any sign of life after which an unreachable cluster loses its interests.
    #[arg(long, env = "CLUSTER_EXPIRY_SECONDS", default_value = "86400", value_parser = seconds)]
    pub(crate) cluster_expiry: Duration,

    /// Bearer token that callers of /api/net/ have to show, and that clusters are shown.
    #[arg(long, env = "API_TOKEN", hide_env_values = true)]
    pub(crate) api_token: Option<String>,

    /// Certificate of this manager, PEM; with it, it serves by TLS alone.
    #[arg(long, env = "ROOT_CERT_FILE")]
    pub(crate) root_cert_file: Option<PathBuf>,

    /// Key of that certificate, PEM.
    #[arg(long, env = "ROOT_KEY_FILE")]
    pub(crate) root_key_file: Option<PathBuf>,

    /// Password of that key, where it is encrypted.
    #[arg(long, env = "ROOT_KEYFILE_PASSWORD", hide_env_values = true)]
    pub(crate) root_keyfile_password: Option<String>,

    /// Authority of the clusters' certificates, PEM; with it, a caller of /api/net/ has to show one.
    #[arg(long, env = "CLUSTER_CA_FILE")]
    pub(crate) cluster_ca_file: Option<PathBuf>,

    /// Clusters are notified by TLS.
    #[arg(
        long,
        env = "CLUSTER_SERVICE_MANAGER_USE_TLS",
        default_value = "false",
        num_args = 0..=1,
        default_missing_value = "true",
        value_parser = switch
    )]
    pub(crate) cluster_service_manager_use_tls: bool,

    #[command(flatten)]
    pub(crate) limits: Limits,

    /// Log as JSON, one object a line. What is logged is set by RUST_LOG (default: info).
    #[arg(long, env = "LOG_JSON", default_value = "false", num_args = 0..=1, default_missing_value = "true", value_parser = switch)]
    pub(crate) log_json: bool,

    /// What to do instead of serving.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do instead of serving.
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Moving(crate::moving::Command),
    ClusterAccess(crate::access::ClusterAccess),
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

/// What is not set comes as an empty path, too.
fn given(path: &Option<PathBuf>) -> Option<&Path> {
    path.as_deref().filter(|path| !path.as_os_str().is_empty())
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.trim()
        .parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("`{text}` is not a number of seconds"))
}

/// TLS in both directions, as far as it is set.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    /// For serving.
    pub(crate) server: Option<Arc<ServerConfig>>,
    /// For notifying clusters.
    pub(crate) client: Option<Arc<ClientConfig>>,
    /// A caller's certificate lets it in.
    pub(crate) certificate: bool,
}

impl Config {
    /// Reads the certificates.
    ///
    /// # Errors
    /// A file cannot be used, or one is missing that another needs; the error names the setting.
    pub(crate) fn tls(&self) -> anyhow::Result<Tls> {
        let named = |setting, path| given(path).map(|path| (setting, path));
        let clusters = named("CLUSTER_CA_FILE", &self.cluster_ca_file);
        let own = match (
            named("ROOT_CERT_FILE", &self.root_cert_file),
            named("ROOT_KEY_FILE", &self.root_key_file),
        ) {
            (Some(certificate), Some(key)) => Some(Identity {
                certificate,
                key,
                password: (
                    "ROOT_KEYFILE_PASSWORD",
                    self.root_keyfile_password.as_deref(),
                ),
            }),
            (None, None) => None,
            _ => anyhow::bail!("ROOT_CERT_FILE and ROOT_KEY_FILE need each other"),
        };
        let server = match &own {
            Some(own) => Some(manager_http::server_config(own, clusters)?),
            None => None,
        };
        let client = match (self.cluster_service_manager_use_tls, clusters) {
            (false, _) => None,
            (true, Some(clusters)) => Some(manager_http::client_config(clusters, own.as_ref())?),
            (true, None) => {
                anyhow::bail!("CLUSTER_SERVICE_MANAGER_USE_TLS needs CLUSTER_CA_FILE")
            }
        };
        anyhow::ensure!(
            server.is_some() || client.is_some() || clusters.is_none(),
            "CLUSTER_CA_FILE needs ROOT_CERT_FILE and ROOT_KEY_FILE"
        );
        Ok(Tls {
            certificate: server.is_some() && clusters.is_some(),
            server,
            client,
        })
    }

    /// The root's Redis.
    ///
    /// # Errors
    /// URL or authority cannot be used; the error names the setting.
    pub(crate) fn redis(&self) -> anyhow::Result<Target> {
        let target =
            Target::parse(&self.redis_url).context("REDIS_URL (--redis-url) cannot be used")?;
        let Some(path) = given(&self.redis_ca_file) else {
            return Ok(target);
        };
        let what = || format!("REDIS_CA_FILE: {} cannot be used", path.display());
        let pem = std::fs::read(path).with_context(what)?;
        target.with_authority(&pem).with_context(what)
    }

    /// Where the JWT generator gives its public key.
    pub(crate) fn jwt_key_url(&self) -> String {
        let host = self.jwt_generator_url.trim().trim_end_matches('/');
        let host = if host.is_empty() { "localhost" } else { host };
        let (scheme, host) = host.split_once("://").unwrap_or(("http", host));
        let port = self.jwt_generator_port;
        if host.contains(':') && !host.starts_with('[') {
            format!("{scheme}://[{host}]:{port}/key")
        } else {
            format!("{scheme}://{host}:{port}/key")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser as _};

    #[test]
    fn an_empty_setting_is_none() {
        let config = Config::parse_from([
            "root",
            "--port",
            "",
            "--redis-url",
            " ",
            "--jwt-generator-port",
            "",
            "--address",
            "",
        ]);
        assert_eq!((config.port, config.jwt_generator_port), (10099, 10011));
        assert_eq!(config.redis_url, REDIS_URL);
        assert!(config.address.is_unspecified());
        assert!(Config::try_parse_from(["root", "--port", "x"]).is_err());
    }

    #[test]
    fn flags_are_consistent_and_the_key_url_takes_any_host() {
        Config::command().debug_assert();
        let url = |host| {
            Config::parse_from([
                "root",
                "--jwt-generator-url",
                host,
                "--jwt-generator-port",
                "1",
            ])
            .jwt_key_url()
        };
        assert_eq!(url("jwt"), "http://jwt:1/key");
        assert_eq!(url("http://jwt/"), "http://jwt:1/key");
        assert_eq!(url("::1"), "http://[::1]:1/key");
        assert_eq!(url(""), "http://localhost:1/key");
    }
}
