//! Rules in nftables, in two tables of our own: `inet oakestra_<instance>` for masquerading and published ports,
//! `netdev oakestra_<instance>` with one chain per container that drops the kernel's copy of what the container sends
//! (packet sockets see it before).
//!
//! The `inet` table is rendered whole from what is attached and replaced in one transaction, so ten restarts leave
//! what one does.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;

use crate::state::Published;

/// What `nft` refused.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// It could not be run.
    #[error("nft could not be run: {0}; install nftables")]
    Run(std::io::Error),
    /// It refused the rules.
    #[error("nftables refused the rules: {0}")]
    Refused(String),
}

/// What the `inet` table is rendered from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Our IPv4 subnetworks' first addresses.
    pub subnets_v4: Vec<Ipv4Addr>,
    /// Our IPv6 subnetworks' first addresses.
    pub subnets_v6: Vec<Ipv6Addr>,
    /// Gateway addresses whose port 53 is DNS, and nobody's to publish.
    pub names: Vec<IpAddr>,
    /// Published ports and where they lead.
    pub published: Vec<(Published, Option<Ipv4Addr>, Option<Ipv6Addr>)>,
}

/// The tables of one Net Manager.
pub struct Firewall {
    table: String,
    host_interface: String,
    waiting: Mutex<Vec<Transaction>>,
    turn: tokio::sync::Mutex<()>,
}

/// A change that waits for its turn, and who waits for its outcome.
struct Transaction {
    rules: String,
    done: oneshot::Sender<Result<(), FirewallError>>,
}

impl Firewall {
    pub fn new(instance: &str, host_interface: &str) -> Self {
        Self {
            table: format!("oakestra_{}", instance.replace('-', "_")),
            host_interface: host_interface.to_owned(),
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// Applies a change. Those that come while another is at work go together in one run: fifty deploys at once would
    /// else wait for fifty processes in a row.
    async fn apply(&self, rules: String) -> Result<(), FirewallError> {
        let (done, outcome) = oneshot::channel();
        self.waiting().push(Transaction { rules, done });
        {
            let _turn = self.turn.lock().await;
            let together = std::mem::take(&mut *self.waiting());
            let rules: String = together.iter().map(|one| one.rules.as_str()).collect();
            let all = match together.len() {
                0 | 1 => false,
                _ => run(&rules).await.is_ok(),
            };
            for one in together {
                // Of several that failed together, who is to blame shows one by one.
                let outcome = if all { Ok(()) } else { run(&one.rules).await };
                let _ = one.done.send(outcome);
            }
        }
        outcome.await.unwrap_or_else(|_| {
            Err(FirewallError::Run(std::io::Error::other(
                "the run that it was part of was given up",
            )))
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Transaction>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the `inet` table.
    pub async fn set_rules(&self, rules: &Rules) -> Result<(), FirewallError> {
        self.apply(self.render(rules)).await
    }

    /// Drops the kernel's copy of what arrives on a host end.
    pub async fn shield(&self, interface: &str) -> Result<(), FirewallError> {
        let table = &self.table;
        self.apply(format!(
            "add table netdev {table}\n\
             add chain netdev {table} {interface}\n\
             delete chain netdev {table} {interface}\n\
             add chain netdev {table} {interface} {{ type filter hook ingress device \"{interface}\" priority 0; policy drop; }}\n"
        ))
        .await
    }

    /// Takes a shield back; one that is gone is no error.
    pub async fn unshield(&self, interface: &str) -> Result<(), FirewallError> {
        let table = &self.table;
        self.apply(format!(
            "add table netdev {table}\nadd chain netdev {table} {interface}\ndelete chain netdev {table} {interface}\n"
        ))
        .await
    }

    /// Removes both tables.
    pub async fn clear(&self) -> Result<(), FirewallError> {
        let table = &self.table;
        self.apply(format!(
            "add table netdev {table}\ndelete table netdev {table}\nadd table inet {table}\ndelete table inet {table}\n"
        ))
        .await
    }

    fn render(&self, rules: &Rules) -> String {
        let (table, host) = (&self.table, &self.host_interface);
        let mut redirect = String::new();
        let but = |port: &Published, v4: bool| -> String {
            let names = rules.names.iter().filter(|name| name.is_ipv4() == v4);
            let names: Vec<String> = names.map(ToString::to_string).collect();
            match names.is_empty() || port.host != DNS {
                true => String::new(),
                false => format!(
                    " {} daddr != {{ {} }}",
                    if v4 { "ip" } else { "ip6" },
                    names.join(", ")
                ),
            }
        };
        for (port, v4, v6) in &rules.published {
            let transport = if port.udp { "udp" } else { "tcp" };
            let (from, to) = (port.host, port.container);
            if let Some(v4) = v4 {
                let _ = writeln!(
                    redirect,
                    "    meta nfproto ipv4 fib daddr type local{} {transport} dport {from} dnat ip to {v4}:{to}",
                    but(port, true)
                );
            }
            if let Some(v6) = v6 {
                let _ = writeln!(
                    redirect,
                    "    meta nfproto ipv6 fib daddr type local{} {transport} dport {from} dnat ip6 to [{v6}]:{to}",
                    but(port, false)
                );
            }
        }
        let set = |prefixes: Vec<String>| prefixes.join(", ");
        let v4 = set(rules
            .subnets_v4
            .iter()
            .map(|net| format!("{net}/26"))
            .collect());
        let v6 = set(rules
            .subnets_v6
            .iter()
            .map(|net| format!("{net}/120"))
            .collect());
        let mut source = String::new();
        for (family, subnets) in [("ip", v4), ("ip6", v6)] {
            if !subnets.is_empty() {
                let _ = writeln!(
                    source,
                    "    oifname != {{ \"lo\", \"{host}\" }} {family} saddr {{ {subnets} }} masquerade"
                );
                // A container that dials its own node's published port: the answer must come back this way.
                let _ = writeln!(
                    source,
                    "    oifname \"{host}\" ct status dnat {family} saddr {{ {subnets} }} masquerade"
                );
            }
        }
        let _ = writeln!(
            source,
            "    oifname \"{host}\" ip saddr 127.0.0.0/8 masquerade"
        );
        format!(
            "add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n\
             \x20 chain prerouting {{\n    type nat hook prerouting priority -100;\n{redirect}  }}\n\
             \x20 chain output {{\n    type nat hook output priority -100;\n{redirect}  }}\n\
             \x20 chain postrouting {{\n    type nat hook postrouting priority 100;\n{source}  }}\n}}\n"
        )
    }
}

/// Hands one transaction to `nft`, in the calling thread's network namespace.
pub async fn run(rules: &str) -> Result<(), FirewallError> {
    let mut child = tokio::process::Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(FirewallError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(rules.as_bytes())
            .await
            .map_err(FirewallError::Run)?;
    }
    let output = child.wait_with_output().await.map_err(FirewallError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    Err(FirewallError::Refused(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

/// The port of DNS.
const DNS: u16 = 53;

/// Whether anybody but ourselves listens on port 53, by the kernel's tables: our own sockets lie beside a published one.
fn others_serve_names(udp: bool, own: &[IpAddr]) -> bool {
    let tables: &[&str] = match udp {
        true => &["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"],
        false => &["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"],
    };
    tables.iter().any(|table| {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, state) = (words.next().unwrap_or_default(), words.nth(1));
            // A connection of another program's to a resolver is no listener: 07 is a datagram socket without one.
            if !local.ends_with(":0035") || state != Some(if udp { "07" } else { "0A" }) {
                return false;
            }
            !listener(local).is_some_and(|address| own.contains(&address))
        })
    })
}

/// The address in the kernel's notation: words of 32 bits, each in the machine's byte order.
fn listener(local: &str) -> Option<IpAddr> {
    let (hex, _) = local.split_once(':')?;
    let mut bytes = Vec::new();
    for word in hex.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes.as_slice()).ok().map(Into::into)
}

/// Why a port cannot be published: a program on this node listens there. DNS of our own on `names` is none.
pub fn port_in_use(port: Published, names: &[IpAddr]) -> Option<String> {
    if port.host == DNS && !names.is_empty() && !others_serve_names(port.udp, names) {
        return None;
    }
    let listening = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ]
    .into_iter()
    .filter_map(|address| {
        let outcome = if port.udp {
            std::net::UdpSocket::bind((address, port.host)).map(drop)
        } else {
            std::net::TcpListener::bind((address, port.host)).map(drop)
        };
        outcome.err()
    })
    .any(|error| error.kind() == std::io::ErrorKind::AddrInUse);
    let transport = if port.udp { "udp" } else { "tcp" };
    listening.then(|| {
        format!(
            "port {}/{transport} is in use by a program on this node",
            port.host
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            subnets_v4: vec![Ipv4Addr::new(10, 18, 0, 0), Ipv4Addr::new(10, 18, 0, 64)],
            subnets_v6: vec!["fc00::".parse().unwrap()],
            names: vec!["10.18.0.1".parse().unwrap(), "fc00::1".parse().unwrap()],
            published: vec![(
                Published {
                    host: 8080,
                    container: 80,
                    udp: false,
                },
                Some(Ipv4Addr::new(10, 18, 0, 2)),
                Some("fc00::2".parse().unwrap()),
            )],
        }
    }

    #[test]
    fn published_ports_match_the_nodes_own_addresses_only() {
        let text = Firewall::new("abc", "oak0").render(&rules());
        for line in text
            .lines()
            .filter(|line| line.contains("dnat") && line.contains("dport"))
        {
            assert!(line.contains("fib daddr type local"), "{line}");
        }
        assert!(text.contains("tcp dport 8080 dnat ip to 10.18.0.2:80"));
        assert!(text.contains("tcp dport 8080 dnat ip6 to [fc00::2]:80"));
        assert!(text.contains(
            "oifname != { \"lo\", \"oak0\" } ip saddr { 10.18.0.0/26, 10.18.0.64/26 } masquerade"
        ));
    }

    #[test]
    fn a_published_port_53_leaves_the_gateways_own_alone() {
        let mut rules = rules();
        rules.published[0].0.host = 53;
        let text = Firewall::new("abc", "oak0").render(&rules);
        assert!(text.contains("fib daddr type local ip daddr != { 10.18.0.1 } tcp dport 53 dnat"));
        assert!(text.contains("fib daddr type local ip6 daddr != { fc00::1 } tcp dport 53 dnat"));
    }

    #[test]
    fn the_kernels_notation_of_addresses_is_read() {
        let v4 = format!("{:08X}:0035", u32::from_ne_bytes([10, 18, 0, 1]));
        assert_eq!(listener(&v4), Some("10.18.0.1".parse().unwrap()));
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let v6 = word([0xfc, 0, 0, 0]) + &word([0; 4]) + &word([0; 4]) + &word([0, 0, 0, 1]);
        assert_eq!(
            listener(&format!("{v6}:0035")),
            Some("fc00::1".parse().unwrap())
        );
        assert_eq!(listener("x:0035"), None);
    }

    #[test]
    fn a_port_with_a_listener_is_refused_with_a_reason() {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let host = listener.local_addr().unwrap().port();
        let port = Published {
            host,
            container: 80,
            udp: false,
        };
        assert!(
            port_in_use(port, &[])
                .unwrap()
                .contains(&format!("{host}/tcp"))
        );
        drop(listener);
        assert_eq!(port_in_use(port, &[]), None);
    }
}
