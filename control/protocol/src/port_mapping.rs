//! `portMappings` of a container: `host[:container][/tcp|/udp]`, separated by `;`.

use std::fmt;
use std::str::FromStr;

/// The transport of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
}

/// One published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortMapping {
    /// Port on the node.
    pub host: u16,
    /// Port in the container; the same when the text names one only.
    pub container: u16,
    /// Transport.
    pub transport: Transport,
}

/// A mapping that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a port mapping: write host[:container][/tcp|/udp], ports 1 to 65535")]
pub struct BadMapping(pub String);

impl FromStr for PortMapping {
    type Err = BadMapping;

    fn from_str(text: &str) -> Result<Self, BadMapping> {
        let bad = || BadMapping(text.to_owned());
        let port = |text: &str| match text.trim().parse::<u16>() {
            Ok(port) if port != 0 => Ok(port),
            _ => Err(bad()),
        };
        let (ports, transport) = match text.trim().split_once('/') {
            None => (text.trim(), Transport::Tcp),
            Some((ports, "tcp" | "TCP")) => (ports, Transport::Tcp),
            Some((ports, "udp" | "UDP")) => (ports, Transport::Udp),
            Some(_) => return Err(bad()),
        };
        let (host, container) = match ports.split_once(':') {
            Some((host, container)) => (port(host)?, port(container)?),
            None => (port(ports)?, port(ports)?),
        };
        Ok(Self {
            host,
            container,
            transport,
        })
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        write!(out, "{}:{}/{transport}", self.host, self.container)
    }
}

/// Reads a whole `portMappings` text; empty entries are skipped.
///
/// # Errors
/// The first entry that cannot be read.
pub fn parse_list(text: &str) -> Result<Vec<PortMapping>, BadMapping> {
    text.split(';')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(str::parse)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_and_the_same_port_by_default() {
        let list = parse_list("8080:80/tcp;9000/udp;7000; ").unwrap();
        let text: Vec<String> = list.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["8080:80/tcp", "9000:9000/udp", "7000:7000/tcp"]);
        assert!(parse_list("").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for bad in [
            "0",
            "65536",
            "80:",
            ":80",
            "80/sctp",
            "a:b",
            "80:80:80",
            "80/tcp/udp",
        ] {
            assert!(parse_list(bad).is_err(), "{bad}");
        }
        assert!(parse_list("65535").is_ok());
    }
}
