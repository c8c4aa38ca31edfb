//! Rules in nftables, in two tables of our own: `inet oakestra_<instance>` for masquerading and published ports,
//! `netdev oakestra_<instance>` with one chain per container that drops the kernel's copy of what the container sends
//! (packet sockets see it before).
//!
//! The `inet` table is rendered whole from what is attached and replaced in one transaction, so ten restarts leave
//! what one does.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
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
        self.apply(self.render_shield(interface)).await
    }

    /// The same for many, in one transaction.
    pub async fn shield_all(&self, interfaces: &[String]) -> Result<(), FirewallError> {
        if interfaces.is_empty() {
            return Ok(());
        }
        let shields = interfaces.iter().map(|name| self.render_shield(name));
        self.apply(shields.collect()).await
    }

    fn render_shield(&self, interface: &str) -> String {
        let table = &self.table;
        format!(
            "add table netdev {table}\n\
             add chain netdev {table} {interface}\n\
             delete chain netdev {table} {interface}\n\
             add chain netdev {table} {interface} {{ type filter hook ingress device \"{interface}\" priority 0; policy drop; }}\n"
        )
    }

    /// Takes a shield back; one that is gone is no error.
    pub async fn unshield(&self, interface: &str) -> Result<(), FirewallError> {
        let table = &self.table;
        self.apply(format!(
            "add table netdev {table}\nadd chain netdev {table} {interface}\ndelete chain netdev {table} {interface}\n"
        ))
        .await
    }

    /// Takes back the shields of interfaces that are not these: a process that was killed may have left one, and newer
    /// kernels keep it when its interface goes.
    pub async fn keep_shields(&self, interfaces: &[String]) -> Result<(), FirewallError> {
        let table = &self.table;
        let output = tokio::process::Command::new("nft")
            .args(["--json", "list", "chains", "netdev"])
            .output()
            .await
            .map_err(FirewallError::Run)?;
        let mut rules = String::new();
        for name in chains(&output.stdout, table) {
            if !interfaces.contains(&name) {
                let _ = writeln!(rules, "delete chain netdev {table} {name}");
            }
        }
        if rules.is_empty() {
            return Ok(());
        }
        self.apply(rules).await
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
            "add table netdev {table}\nadd table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n\
             \x20 chain prerouting {{\n    type nat hook prerouting priority -100;\n{redirect}  }}\n\
             \x20 chain output {{\n    type nat hook output priority -100;\n{redirect}  }}\n\
             \x20 chain postrouting {{\n    type nat hook postrouting priority 100;\n{source}  }}\n}}\n"
        )
    }
}

/// The chains of one table in what `nft --json` lists.
fn chains(listing: &[u8], table: &str) -> Vec<String> {
    let listing: serde_json::Value = serde_json::from_slice(listing).unwrap_or_default();
    let objects = listing.get("nftables").and_then(|all| all.as_array());
    objects
        .into_iter()
        .flatten()
        .filter_map(|object| object.get("chain"))
        .filter(|chain| chain.get("table").and_then(|name| name.as_str()) == Some(table))
        .filter_map(|chain| Some(chain.get("name")?.as_str()?.to_owned()))
        .collect()
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

/// Whether a socket waits on a port, by the kernel's tables; those on addresses of our `own` are not counted.
/// Binding the port to see would take it from others for that moment, and for longer in a child that is being forked.
fn listens(port: Published, own: &[IpAddr]) -> bool {
    // A datagram socket without a peer is 07: a connection of another program's is no listener.
    let (tables, waiting) = match port.udp {
        true => (["udp", "udp6"], "07"),
        false => (["tcp", "tcp6"], "0A"),
    };
    let on_port = format!(":{:04X}", port.host);
    tables.iter().any(|table| {
        let Ok(file) = std::fs::File::open(format!("/proc/thread-self/net/{table}")) else {
            return false;
        };
        BufReader::new(file)
            .lines()
            .skip(1)
            .map_while(Result::ok)
            .filter_map(|line| {
                let mut words = line.split_whitespace().skip(1);
                Some((words.next()?.to_owned(), words.nth(1)?.to_owned()))
            })
            // The kernel lists those that listen before the connections, of which there may be very many.
            .take_while(|(_, state)| port.udp || state == waiting)
            .any(|(local, state)| {
                state == waiting
                    && local.ends_with(&on_port)
                    && !listener(&local).is_some_and(|address| own.contains(&address))
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
    // Only port 53 is looked up with our own names' addresses: whoever else listens on them takes the port.
    let own = if port.host == DNS { names } else { &[] };
    let transport = if port.udp { "udp" } else { "tcp" };
    listens(port, own).then(|| {
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
    fn chains_of_other_tables_are_not_ours() {
        let listing = br#"{"nftables":[{"metainfo":{"version":"1.0.6"}},
            {"chain":{"family":"netdev","table":"oakestra_a","name":"oak1","handle":1}},
            {"table":{"family":"netdev","name":"oakestra_a"}},
            {"chain":{"family":"netdev","table":"oakestra_b","name":"oak2","handle":2}}]}"#;
        assert_eq!(chains(listing, "oakestra_a"), ["oak1"]);
        assert!(chains(b"", "oakestra_a").is_empty());
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

    fn published(address: std::net::SocketAddr, udp: bool) -> Published {
        Published {
            host: address.port(),
            container: 80,
            udp,
        }
    }

    #[test]
    fn a_port_with_a_listener_is_refused_with_a_reason() {
        for address in ["0.0.0.0:0", "127.0.0.1:0", "[::]:0", "[::1]:0"] {
            let tcp = std::net::TcpListener::bind(address).unwrap();
            let port = published(tcp.local_addr().unwrap(), false);
            let reason = port_in_use(port, &[]).unwrap();
            assert!(reason.contains(&format!("{}/tcp", port.host)), "{reason}");
            let udp = std::net::UdpSocket::bind(address).unwrap();
            let port = published(udp.local_addr().unwrap(), true);
            let reason = port_in_use(port, &[]).unwrap();
            assert!(reason.contains(&format!("{}/udp", port.host)), "{reason}");
        }
    }

    #[test]
    fn a_port_is_free_when_its_listener_has_gone() {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = published(listener.local_addr().unwrap(), false);
        assert!(port_in_use(port, &[]).is_some());
        drop(listener);
        // A child that another test forks just now has the listener until it becomes its program.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while port_in_use(port, &[]).is_some() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(port_in_use(port, &[]), None);
    }

    #[test]
    fn a_connection_or_another_look_is_no_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let asker = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        asker.connect(server.local_addr().unwrap()).unwrap();
        let tcp = published(client.local_addr().unwrap(), false);
        let udp = published(asker.local_addr().unwrap(), true);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(move || {
                    for _ in 0..50 {
                        assert_eq!(port_in_use(tcp, &[]), None);
                        assert_eq!(port_in_use(udp, &[]), None);
                    }
                });
            }
        });
    }
}
