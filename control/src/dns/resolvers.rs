//! The host's resolvers, as `resolv.conf` names them now (resolv.conf(5)): the file is looked at again when it has
//! changed, for it changes with every network that a machine joins.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Resolvers that are asked at most, as the C library does.
const MOST: usize = 3;
/// Between two looks at the file.
const LOOK: Duration = Duration::from_millis(500);
/// The port of DNS.
const PORT: u16 = 53;

/// Tells a file's content from an older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64, u64);

struct Read {
    looked: Instant,
    stamp: Option<Stamp>,
    servers: Vec<SocketAddr>,
}

/// Where queries for other zones go.
pub struct Resolvers {
    fixed: Vec<SocketAddr>,
    file: PathBuf,
    read: Mutex<Option<Read>>,
}

impl Resolvers {
    /// Those that are named here, or else those of a file.
    pub fn new(fixed: Vec<SocketAddr>, file: PathBuf) -> Self {
        Self {
            fixed,
            file,
            read: Mutex::new(None),
        }
    }

    /// The resolvers to ask, in their order.
    pub fn now(&self) -> Vec<SocketAddr> {
        if !self.fixed.is_empty() {
            return self.fixed.clone();
        }
        let mut slot = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = slot.as_mut() {
            if read.looked.elapsed() < LOOK {
                return read.servers.clone();
            }
            read.looked = Instant::now();
            if read.stamp == stamp(&self.file) {
                return read.servers.clone();
            }
        }
        let stamp = stamp(&self.file);
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let servers = parse(&text);
        tracing::info!(file = %self.file.display(), ?servers, "names of other zones are asked for at the host's resolvers");
        *slot = Some(Read {
            looked: Instant::now(),
            stamp,
            servers: servers.clone(),
        });
        servers
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let of = std::fs::metadata(file).ok()?;
    Some(Stamp(
        of.dev(),
        of.ino(),
        of.mtime(),
        of.mtime_nsec(),
        of.len(),
    ))
}

/// The lines `nameserver`; none of them means the machine's own.
fn parse(text: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = (words.next()? == "nameserver").then(|| words.next())??;
            Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, PORT))
        })
        .take(MOST)
        .collect();
    if servers.is_empty() {
        servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_as_the_c_library_does() {
        let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver 192.0.2.1\nnameserver  2001:db8::1 \n nameserver x\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let servers: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(
            servers,
            ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"]
        );
        assert_eq!(parse("")[0].to_string(), "127.0.0.1:53");
    }

    #[test]
    fn a_file_that_changes_is_read_again() {
        let file = std::env::temp_dir().join(format!("oak-resolv-{}", std::process::id()));
        std::fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
        let resolvers = Resolvers::new(Vec::new(), file.clone());
        assert_eq!(resolvers.now()[0].to_string(), "192.0.2.1:53");
        std::fs::write(&file, "nameserver 192.0.2.22\n").unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while resolvers.now()[0].to_string() != "192.0.2.22:53" {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        std::fs::remove_file(file).unwrap();
    }
}
