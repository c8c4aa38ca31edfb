//! Settings: flags, each mirrored by an environment variable of the contract (section 2).

use std::net::IpAddr;
use std::time::Duration;

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

    /// Log as JSON, one object a line. What is logged is set by RUST_LOG (default: info).
    #[arg(long, env = "LOG_JSON")]
    pub(crate) log_json: bool,

    /// What to do instead of serving.
    #[command(subcommand)]
    pub(crate) command: Option<crate::moving::Command>,
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

fn seconds(text: &str) -> Result<Duration, String> {
    text.trim()
        .parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("`{text}` is not a number of seconds"))
}

impl Config {
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
