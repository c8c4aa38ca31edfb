//! pktgen as the load of a way: both ends in one process, on the client's core, by packet sockets in the namespaces of the
//! client and the server. Its datagrams pass no UDP socket, so that the way is the limit and not a sender's system calls;
//! it knows them again behind any translation, and counts what was sent, so that nothing that was lost at the end is
//! missed.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use journeys::deadline::wait_for;
use journeys::namespace::Namespace;
use journeys::process::{Launch, Process};
use journeys::run::Stage;
use perf::ways::{Means, Way, report};
use serde_json::Value;

use crate::probe::{Counted, Load, Traffic, number};

/// Who sends datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Generator {
    /// Our packet generator, on packet sockets
    Pktgen,
    /// A program on UDP sockets
    Sockets,
}

impl Generator {
    /// As results name it.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Generator::Pktgen => "pktgen (packet sockets) and workload (UDP and TCP sockets)",
            Generator::Sockets => "workload (UDP and TCP sockets)",
        }
    }
}

/// No socket is bound to it; the packet socket reads before the kernel is kept from answering.
const PORT: u16 = 9003;
const LAST_PORT: u16 = 9102;
/// Of a whole frame with check sequence: a segment with a time stamp.
const SEGMENT: u16 = 14 + 20 + 40 + 4;
/// The same of a datagram of 64 bytes, as the programs on sockets send.
const SIZE: u16 = 14 + 20 + 8 + 64 + 4;
/// Before anything counts.
const WARM_UP: f64 = 0.2;
/// The rate that is as many as go: pktgen gives up what is late.
const MOST: u64 = 20_000_000;
/// What one worker for both ends sleeps when there is nothing to do, µs: nodes share its core.
const NAP: &str = "50";
/// What is waited for after the last packet, ms; and what lateness the generator makes up for, ms: as long as a scheduler
/// lets others run on its core.
const DRAIN: &str = "100";
const BUCKET: &str = "20";
/// Frames of the packet sockets' rings: 65 ms at 250,000 packets a second, which is longer than a scheduler makes the sink wait.
const RING: &str = "framecnt=16384,blocksz=65536";

impl Traffic {
    fn profile(self) -> &'static str {
        match self {
            Traffic::Datagrams => concat!(env!("CARGO_MANIFEST_DIR"), "/profiles/udp64.toml"),
            Traffic::ShortFlows => {
                concat!(env!("CARGO_MANIFEST_DIR"), "/profiles/short-flows.toml")
            }
        }
    }

    /// Destination ports: with those of the source, short flows come again after some millions.
    fn ports(self) -> String {
        match self {
            Traffic::Datagrams => PORT.to_string(),
            Traffic::ShortFlows => format!("{PORT}-{LAST_PORT}"),
        }
    }

    fn size(self) -> u16 {
        match self {
            Traffic::Datagrams => SIZE,
            Traffic::ShortFlows => SEGMENT,
        }
    }
}

/// Where a container's packets go.
struct Route {
    interface: String,
    own: IpAddr,
    next: Next,
}

/// Whom frames are for: as the kernel knows him, since some peers answer nobody's question, or who answers for an address.
enum Next {
    Mac(String),
    Address(IpAddr),
}

impl Route {
    fn to(target: IpAddr, from: &Namespace) -> Result<Route> {
        let told = from.ip(&["-json", "route", "get", &target.to_string()])?;
        let told: Value = serde_json::from_str(&told).context("what ip route get says")?;
        let field = |name: &str| told[0][name].as_str();
        let address = |name: &str| field(name).and_then(|text| text.parse().ok());
        let interface = field("dev").context("an interface")?.to_owned();
        let next = address("gateway").unwrap_or(target);
        let known = from.ip(&[
            "-json",
            "neighbour",
            "show",
            &next.to_string(),
            "dev",
            &interface,
        ])?;
        let known: Value = serde_json::from_str(&known).unwrap_or_default();
        Ok(Route {
            own: address("prefsrc").context("an address of the container's")?,
            next: match known[0]["lladdr"].as_str() {
                Some(mac) => Next::Mac(mac.to_owned()),
                None => Next::Address(next),
            },
            interface,
        })
    }
}

/// The interface that a server's address is on.
fn interface(server: &Namespace) -> Result<String> {
    let told = server.ip(&["-json", "-4", "address", "show", "scope", "global", "up"])?;
    let told: Value = serde_json::from_str(&told).context("what ip address says")?;
    let all = told.as_array().map_or(&[][..], Vec::as_slice);
    let mut names = all.iter().filter_map(|one| one["ifname"].as_str());
    let name = names.next_back().context("an interface with an address")?;
    Ok(name.to_owned())
}

fn path(namespace: &Namespace) -> Result<String> {
    match namespace {
        Namespace::Named(name) => Ok(format!("/run/netns/{name}")),
        Namespace::OfProcess(pid) => Ok(format!("/proc/{pid}/ns/net")),
        Namespace::Own | Namespace::Fresh => Ok("/proc/self/ns/net".into()),
    }
}

/// The server's kernel would answer each datagram that it has no socket for.
fn silence(server: &Namespace, interface: &str) -> Result<()> {
    let rules = format!(
        "add table netdev lab; \
         add chain netdev lab in {{ type filter hook ingress device \"{interface}\" priority 0; policy accept; }}; \
         flush chain netdev lab in; \
         add rule netdev lab in udp dport {PORT} drop; \
         add rule netdev lab in tcp dport {PORT}-{LAST_PORT} drop"
    );
    server.command("nft", &[&rules]).map(drop)
}

/// Neighbours that somebody wrote down by hand.
fn written_down(namespace: &Namespace) -> Result<Vec<[String; 3]>> {
    let told = namespace.ip(&["-json", "neighbour", "show", "nud", "permanent"])?;
    let told: Value = serde_json::from_str(&told).unwrap_or_default();
    let text = |one: &Value, field: &str| one[field].as_str().map(str::to_owned);
    let all = told.as_array().map_or(&[][..], Vec::as_slice).iter();
    let all =
        all.filter_map(|one| Some([text(one, "dst")?, text(one, "lladdr")?, text(one, "dev")?]));
    Ok(all.collect())
}

fn write_down(namespace: &Namespace, neighbours: &[[String; 3]]) -> Result<()> {
    for [address, mac, interface] in neighbours {
        let words = ["neighbour", "replace", address, "lladdr", mac];
        let words = [&words[..], &["dev", interface, "nud", "permanent"]].concat();
        namespace.ip(&words)?;
    }
    Ok(())
}

fn received(server: &Namespace, interface: &str) -> Result<u64> {
    let told = server.ip(&["-json", "-stats", "link", "show", "dev", interface])?;
    let told: Value = serde_json::from_str(&told).context("what ip link says")?;
    let packets = &told[0]["stats64"]["rx"]["packets"];
    packets.as_u64().context("received packets")
}

/// Starts a load; answers when it passes.
///
/// # Errors
/// When pktgen cannot be started, or nothing passes.
pub fn begin(way: &Way, means: Means<'_>, load: &Load, run: u16) -> Result<Process> {
    let Route {
        interface: from,
        own,
        next,
    } = Route::to(way.target, &way.client)?;
    let to = interface(&way.server)?;
    silence(&way.server, &to)?;
    let before = received(&way.server, &to)?;
    let rate = match load.rate {
        0 => MOST,
        rate => rate,
    };
    let program = means.programs.built("pktgen")?;
    let name = format!("{}-pktgen", way.name);
    let mut launch = Launch::new(&name, &program, &Namespace::Own, Stage::Workload)
        .args(["run", load.traffic.profile(), "--json", "--no-huge"])
        .args(match next {
            Next::Mac(mac) => ["--gateway-mac".to_owned(), mac],
            Next::Address(address) => ["--gateway".to_owned(), address.to_string()],
        })
        .args(["--tx", &format!("net_af_packet0,iface={from},{RING}")])
        .args(["--tx-netns", &path(&way.client)?])
        .args(["--rx", &format!("net_af_packet1,iface={to},{RING}")])
        .args(["--rx-netns", &path(&way.server)?])
        .args(["--source", &own.to_string()])
        .args(["--destination", &way.target.to_string()])
        .args(["--ports", &load.traffic.ports()])
        .args(["--size", &load.traffic.size().to_string()])
        .args(["--flows", &load.flows.to_string()])
        .args(["--rate", &format!("{rate}pps")])
        .args(["--warm-up", &WARM_UP.to_string()])
        .args(["--duration", &load.seconds.to_string()])
        .args(["--run", &run.to_string()])
        .args(["--nap", NAP, "--drain", DRAIN, "--bucket", BUCKET]);
    if let Some(core) = way.cores[0] {
        launch = launch.args(["--cpus", &core.to_string()]);
    }
    // DPDK writes an interface's own MAC address again, and the kernel forgets all neighbours behind it.
    let both = [&way.client, &way.server];
    let neighbours = both.map(written_down);
    let mut process = launch.start(means.run)?;
    let passes = wait_for("the first datagrams", Duration::from_secs(10), || {
        process.check_running()?;
        Ok((received(&way.server, &to)? > before + 10).then_some(()))
    });
    for (namespace, neighbours) in both.into_iter().zip(neighbours) {
        write_down(namespace, &neighbours?)?;
    }
    passes.map(|()| process)
}

/// Waits for its end.
///
/// # Errors
/// When nothing arrived, or not in order.
pub fn end(process: Process, seconds: f64) -> Result<Counted> {
    counted(&report(process, seconds)?)
}

fn counted(told: &Value) -> Result<Counted> {
    let all = Counted {
        received: number(&told["received"], "received")?,
        lost: number(&told["lost"], "packets")?,
        seconds: number(told, "seconds")?,
    };
    ensure!(all.received > 0.0, "nothing arrived");
    let disordered = number(&told["received"], "reordered")?;
    let twice = number(&told["received"], "duplicates")?;
    ensure!(
        disordered <= all.received / 100.0 && twice == 0.0,
        "out of order, or twice: {told}"
    );
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_came_out_of_order_or_twice_is_no_rate() {
        let told = |reordered: u64, duplicates: u64, received: u64| {
            counted(&json!({
                "seconds": 2.0, "lost": {"packets": 100, "ratio": 0.1},
                "received": {"received": received, "reordered": reordered, "duplicates": duplicates},
            }))
        };
        let good = told(9, 0, 900).unwrap();
        assert_eq!(good.offered_per_second(), 500.0);
        assert_eq!(good.loss(), 0.1);
        for (reordered, duplicates, received) in [(10, 0, 900), (0, 1, 900), (0, 0, 0)] {
            assert!(told(reordered, duplicates, received).is_err());
        }
    }
}
