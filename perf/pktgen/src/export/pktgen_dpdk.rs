//! A Lua script for Pktgen-DPDK.
//!
//! Its ranges step together, each by itself, with every packet: they go round after as many packets as their lengths'
//! least common multiple. Packets are made before any is sent, one in each buffer of the port, and sent over and over.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Exported, Spread, head, last, notes};
use crate::frame::Kind;
use crate::pace::{Rate, WIRE};
use crate::profile::{Order, Profile, Sizes};

/// Buffers of a port in version 23.03, and so different packets at most.
const BUFFERS: u32 = 24_576;
/// The largest frame without jumbo frames.
const LARGEST: u32 = 1518;

/// The counts of ranges that step together.
fn spread(profile: &Profile) -> Spread {
    let whole = Spread::whole(profile);
    let destinations = whole.destinations.min(profile.flows);
    // A multiple of the destinations, so that both ranges go round at once.
    let ports = profile
        .flows
        .div_ceil(destinations)
        .saturating_mul(destinations);
    if profile.protocol == Kind::TcpFlow || ports > whole.source_ports {
        return whole;
    }
    Spread {
        destinations,
        source_ports: ports,
        sources: 1,
        destination_ports: 1,
    }
}

fn limits(profile: &Profile, spread: Spread) -> Vec<String> {
    let (flows, zipf) = (profile.flows, profile.destination.zipf);
    let mut notes = Vec::new();
    if zipf > 0.0 {
        notes.push(format!("Pktgen-DPDK's ranges are even (zipf = {zipf})"));
    }
    if profile.order == Order::Random {
        notes.push("Pktgen-DPDK's ranges go in order (order = random)".to_owned());
    }
    if profile.protocol == Kind::TcpFlow || flows > BUFFERS {
        notes.push(format!(
            "Pktgen-DPDK makes a packet for each buffer of the port and repeats them: {BUFFERS} flows and no more (flows = {flows})"
        ));
    } else if spread.source_ports != flows {
        notes.push(format!(
            "Pktgen-DPDK steps all ranges together with each packet: the flows are not the same {flows}"
        ));
    }
    if profile.protocol != Kind::Udp {
        notes.push(
            "Pktgen-DPDK has no TCP options: zeros or a pattern fill the SYN's frame as its data"
                .to_owned(),
        );
    }
    notes
}

pub(super) fn write(profile: &Profile) -> Exported {
    let mut notes = notes(profile, "Pktgen-DPDK");
    let spread = spread(profile);
    notes.extend(limits(profile, spread));
    let (least, most, even) = match profile.check() {
        Ok(Sizes::Cycle(sizes)) => {
            let least = sizes.iter().min().copied().unwrap_or(64);
            let most = sizes.iter().max().copied().unwrap_or(64);
            (least, most, least == most)
        }
        Ok(Sizes::Between(from, to)) => (from, to, true),
        Err(_) => (64, 64, true),
    };
    if !even {
        notes.push(format!(
            "Pktgen-DPDK has no mix of sizes: any from {least} to {most}"
        ));
    }
    if most > LARGEST {
        notes.push(format!(
            "Pktgen-DPDK sends frames above {LARGEST} bytes with its option -j only"
        ));
    }
    notes.push(
        "Pktgen-DPDK asks nobody for the next hop's MAC address: set next_hop in the script"
            .to_owned(),
    );
    let mean = u32::midpoint(least, most);
    let rate = match profile.rate.0 {
        Rate::Max => "pktgen.set(\"0\", \"rate\", 100);".to_owned(),
        rate => {
            let packets = rate.packets_per_second(mean.into());
            notes.push(format!(
                "Pktgen-DPDK's rate is a share of the link: set link_mbps in the script for {packets:.0} packets/s"
            ));
            let mbps = packets * f64::from(mean + WIRE) * 8.0 / 1e6;
            format!(
                "local link_mbps = 10000;\npktgen.set(\"0\", \"rate\", math.min(100, {mbps:.6} / link_mbps * 100));"
            )
        }
    };
    let mut text = head("--", profile, &notes);
    text.push_str(
        "package.path = package.path .. \";?.lua;test/?.lua;app/?.lua;\"\nrequire \"Pktgen\";\n\npktgen.stop(\"0\");\n",
    );
    // The rate is reckoned with the size of single packets, whatever ranges send.
    let _written = writeln!(text, "pktgen.set(\"0\", \"size\", {mean});\n{rate}");
    text.push_str("pktgen.set(\"0\", \"count\", 0);\n");
    // The family comes first: addresses and sizes are read as its own.
    let (family, protocol) = (
        if profile.is_v6() { "ipv6" } else { "ipv4" },
        match profile.protocol {
            Kind::Udp => "udp",
            Kind::TcpSyn | Kind::TcpFlow => "tcp",
        },
    );
    let _written = writeln!(text, "pktgen.range.set_type(\"0\", \"{family}\");");
    let _written = writeln!(text, "pktgen.range.ip_proto(\"0\", \"{protocol}\");");
    text.push_str("local next_hop = \"00:00:00:00:00:00\";\npktgen.range.dst_mac(\"0\", \"start\", next_hop);\n");
    text.push_str(&ranges(profile, spread, (least, most)));
    if profile.protocol != Kind::Udp {
        text.push_str(FLAGS);
    }
    let _written = writeln!(
        text,
        "pktgen.set_range(\"0\", \"on\");\npktgen.start(\"0\");\npktgen.delay({:.0});\npktgen.stop(\"0\");",
        profile.duration * 1000.0
    );
    Exported { text, notes }
}

fn ranges(profile: &Profile, spread: Spread, (least, most): (u32, u32)) -> String {
    let (source, destination) = (&profile.source, &profile.destination);
    let mut text = String::new();
    let mut range = |what: &str, values: [String; 4]| {
        for (name, value) in ["start", "inc", "min", "max"].iter().zip(values) {
            let _written = writeln!(text, "pktgen.range.{what}(\"0\", \"{name}\", {value});");
        }
    };
    let quoted = |address: IpAddr| format!("\"{address}\"");
    for (what, first, count) in [
        ("src_ip", source.address, spread.sources),
        ("dst_ip", destination.address, spread.destinations),
    ] {
        let step = match (profile.is_v6(), count > 1) {
            (false, true) => "\"0.0.0.1\"",
            (false, false) => "\"0.0.0.0\"",
            (true, true) => "\"::1\"",
            (true, false) => "\"::\"",
        };
        let (from, to) = (quoted(first), quoted(last(first, count)));
        range(what, [from.clone(), step.to_owned(), from, to]);
    }
    for (what, first, count) in [
        ("src_port", source.ports.0, spread.source_ports),
        ("dst_port", destination.ports.0, spread.destination_ports),
    ] {
        let first = u32::from(first);
        let mut last = first + count - 1;
        // 23.03 counts ports in 16 bits, takes what comes after 65535 for too small, and stays at the last port.
        if count > 2 {
            last = last.min(65_534);
        }
        let step = u8::from(count > 1);
        range(
            what,
            [
                first.to_string(),
                step.to_string(),
                first.to_string(),
                last.to_string(),
            ],
        );
    }
    let step = u8::from(least != most);
    range(
        "pkt_size",
        [
            least.to_string(),
            step.to_string(),
            least.to_string(),
            most.to_string(),
        ],
    );
    text
}

/// Only the console sets the flags of ranges: up to 24.10.1 one at a time, from 24.10.3 on all at once. Each
/// refuses the other's words and goes on.
const FLAGS: &str = "-- Lua has no call for the flags of ranges: the console's commands, of older versions and of newer.
local path = os.tmpname();
local commands = io.open(path, \"w\");
commands:write(\"range 0 tcp flag clr all\\nrange 0 tcp flag set syn\\nrange 0 tcp flags syn\\n\");
commands:close();
pktgen.load(path);
os.remove(path);
";
