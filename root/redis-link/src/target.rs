//! `REDIS_URL`: which servers, how to find the one that counts, and with what credentials.

use std::sync::Arc;

use redis::{Client, RedisError, TlsCertificates};

use crate::UrlError;

/// How the server is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Single,
    Sentinel { service: String },
    Cluster,
}

/// A parsed `REDIS_URL`. Its `Display` leaves the credentials out.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    pub(crate) kind: Kind,
    pub(crate) hosts: Vec<(String, u16)>,
    pub(crate) tls: bool,
    /// `user:password@`, percent-encoded as it came, or empty.
    pub(crate) userinfo: String,
    pub(crate) database: u32,
    /// The `#insecure` fragment of the `redis` crate, or empty.
    fragment: String,
    /// The authority of the servers' certificates, PEM; the system's ones without it.
    authority: Option<Arc<[u8]>>,
}

impl Target {
    /// Reads `redis://`, `rediss://`, `redis-sentinel://h1:p,h2:p/db?service=name` or
    /// `redis-cluster://h1:p,h2:p`.
    ///
    /// ```
    /// let target = redis_link::Target::parse("redis-sentinel://a:1,b/2?service=main")?;
    /// assert_eq!(target.to_string(), "redis-sentinel://a:1,b:26379/2?service=main");
    /// # Ok::<(), redis_link::UrlError>(())
    /// ```
    ///
    /// # Errors
    /// Says which part of the URL is wrong; never quotes the credentials.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = url
            .trim()
            .split_once("://")
            .ok_or_else(|| UrlError::Scheme(String::new()))?;
        let (tls, flavour) = match scheme {
            "redis" => (false, ""),
            "rediss" => (true, ""),
            "redis-sentinel" => (false, "sentinel"),
            "rediss-sentinel" => (true, "sentinel"),
            "redis-cluster" => (false, "cluster"),
            "rediss-cluster" => (true, "cluster"),
            other => return Err(UrlError::Scheme(other.to_owned())),
        };
        let (rest, fragment) = match rest.split_once('#') {
            Some((rest, fragment)) => (rest, format!("#{fragment}")),
            None => (rest, String::new()),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (userinfo, hosts) = match authority.rsplit_once('@') {
            Some((userinfo, hosts)) => (format!("{userinfo}@"), hosts),
            None => (String::new(), authority),
        };
        let default_port = if flavour == "sentinel" { 26379 } else { 6379 };
        let hosts = hosts
            .split(',')
            .map(|host| parse_host(host, default_port))
            .collect::<Result<Vec<_>, _>>()?;
        let database = match path.trim_end_matches('/') {
            "" => 0,
            text => text
                .parse()
                .map_err(|_| UrlError::Database(text.to_owned()))?,
        };
        let kind = match flavour {
            "sentinel" => Kind::Sentinel {
                service: query
                    .split('&')
                    .find_map(|pair| pair.strip_prefix("service="))
                    .filter(|name| !name.is_empty())
                    .ok_or(UrlError::Service)?
                    .to_owned(),
            },
            "cluster" if database != 0 => return Err(UrlError::ClusterDatabase(database)),
            "cluster" => Kind::Cluster,
            _ if hosts.len() > 1 => return Err(UrlError::Host(authority_of(&hosts))),
            _ => Kind::Single,
        };
        let target = Self {
            kind,
            hosts,
            tls,
            userinfo,
            database,
            fragment,
            authority: None,
        };
        for (host, port) in &target.hosts {
            // The client's own parser has the last word on hosts and credentials.
            redis::Client::open(target.url_of(host, *port, true)).map_err(|error| {
                UrlError::Malformed(error.detail().unwrap_or("not a URL").to_owned())
            })?;
        }
        Ok(target)
    }

    /// The same servers, which must show a certificate of this authority (PEM) where they are reached by TLS.
    ///
    /// # Errors
    /// The text holds no certificate.
    pub fn with_authority(mut self, pem: &[u8]) -> Result<Self, UrlError> {
        use rustls::pki_types::{CertificateDer, pem::PemObject as _};
        let unusable = |reason: &dyn std::fmt::Display| UrlError::Authority(reason.to_string());
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| unusable(&error))?;
            roots.add(certificate).map_err(|error| unusable(&error))?;
        }
        if roots.is_empty() {
            return Err(unusable(&"it holds no certificate"));
        }
        self.authority = Some(pem.into());
        Ok(self)
    }

    /// Whether the servers are reached by TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether it is one server, found without asking others.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.kind == Kind::Single
    }

    /// A client for the URL of one of the servers.
    pub(crate) fn client(&self, url: String) -> Result<Client, RedisError> {
        match &self.authority {
            Some(pem) if self.tls => {
                let certificates = TlsCertificates {
                    client_tls: None,
                    root_cert: Some(pem.to_vec()),
                };
                Client::build_with_tls(url, certificates)
            }
            _ => Client::open(url),
        }
    }

    /// The URL of one server.
    pub(crate) fn url_of(&self, host: &str, port: u16, with_credentials: bool) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let userinfo = if with_credentials { &self.userinfo } else { "" };
        let host = bracketed(host);
        format!(
            "{scheme}://{userinfo}{host}:{port}/{}{}",
            self.database, self.fragment
        )
    }

    /// The URL of a Sentinel: database 0 there.
    pub(crate) fn sentinel_url(&self, host: &str, port: u16, with_credentials: bool) -> String {
        Self {
            database: 0,
            ..self.clone()
        }
        .url_of(host, port, with_credentials)
    }

    pub(crate) fn hosts_text(&self) -> String {
        authority_of(&self.hosts)
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

fn authority_of(hosts: &[(String, u16)]) -> String {
    let texts: Vec<String> = hosts
        .iter()
        .map(|(host, port)| format!("{}:{port}", bracketed(host)))
        .collect();
    texts.join(",")
}

fn parse_host(text: &str, default_port: u16) -> Result<(String, u16), UrlError> {
    let bad = || UrlError::Host(text.to_owned());
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(bad)?;
        (host, port.strip_prefix(':'))
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() {
        return Err(bad());
    }
    let port = match port {
        Some(port) => port.parse().map_err(|_| bad())?,
        None => default_port,
    };
    Ok((host.to_owned(), port))
}

impl std::fmt::Display for Target {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = if self.tls { "s" } else { "" };
        let hosts = self.hosts_text();
        let database = self.database;
        match &self.kind {
            Kind::Single => write!(out, "redis{s}://{hosts}/{database}"),
            Kind::Sentinel { service } => write!(
                out,
                "redis{s}-sentinel://{hosts}/{database}?service={service}"
            ),
            Kind::Cluster => write!(out, "redis{s}-cluster://{hosts}"),
        }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Target({self})")
    }
}

impl std::str::FromStr for Target {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_contract_is_read() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379/0"),
            ("redis://[::1]:7000/3", "redis://[::1]:7000/3"),
            ("rediss://u:p@db", "rediss://db:6379/0"),
            (
                "redis-sentinel://h1:1,h2:2/4?service=main",
                "redis-sentinel://h1:1,h2:2/4?service=main",
            ),
            (
                "redis-cluster://h1:1,[::1]:2",
                "redis-cluster://h1:1,[::1]:2",
            ),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!(target.to_string(), shown, "{url}");
        }
        let target = Target::parse("rediss://u:p%40@db:1/2").unwrap();
        assert_eq!(target.url_of("x", 9, true), "rediss://u:p%40@x:9/2");
        assert!(!format!("{target:?}").contains("p%40"));
    }

    #[test]
    fn what_names_no_redis_is_refused_with_a_reason() {
        assert!(matches!(Target::parse("http://x"), Err(UrlError::Scheme(s)) if s == "http"));
        assert!(matches!(Target::parse("x"), Err(UrlError::Scheme(_))));
        for pem in [
            "",
            "text",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            let target = Target::parse("rediss://h").unwrap();
            let refused = target.with_authority(pem.as_bytes());
            assert!(matches!(refused, Err(UrlError::Authority(_))), "{pem}");
        }
        assert!(matches!(Target::parse("redis://"), Err(UrlError::Host(_))));
        assert!(matches!(
            Target::parse("redis://h:x"),
            Err(UrlError::Host(_))
        ));
        assert!(matches!(
            Target::parse("redis://a,b"),
            Err(UrlError::Host(_))
        ));
        assert!(matches!(
            Target::parse("redis://h/x"),
            Err(UrlError::Database(_))
        ));
        assert_eq!(
            Target::parse("redis-sentinel://h/0"),
            Err(UrlError::Service)
        );
        assert_eq!(
            Target::parse("redis-cluster://h/1"),
            Err(UrlError::ClusterDatabase(1))
        );
    }
}
