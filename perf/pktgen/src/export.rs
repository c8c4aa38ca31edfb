//! A profile in the words of other packet generators, so that their users measure the same.
//!
//! What the other cannot say is said in a comment at the head of the file, and told to the caller.

use std::fmt::Write as _;
use std::net::IpAddr;

use net::Address;

use crate::frame::{FCS, Kind};
use crate::pace::Rate;
use crate::profile::{Order, Profile, Sizes};

/// Another generator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Target {
    /// Pktgen-DPDK: a Lua script for its -f option.
    PktgenDpdk,
    /// TRex: a stateless (STL) profile in Python.
    Trex,
}

/// A file for another generator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exported {
    /// Its text.
    pub text: String,
    /// What it cannot say.
    pub notes: Vec<String>,
}

/// Writes a checked profile for `target`.
#[must_use]
pub fn write(profile: &Profile, target: Target) -> Exported {
    match target {
        Target::PktgenDpdk => pktgen_dpdk(profile),
        Target::Trex => trex(profile),
    }
}

fn last(address: IpAddr, count: u32) -> IpAddr {
    Address(Address::from(address).0 + u128::from(count.saturating_sub(1))).to_ip()
}

/// What neither can.
fn notes(profile: &Profile, name: &str) -> Vec<String> {
    let mut notes = vec![format!(
        "{name} does not stamp packets as pktgen does: loss per flow, reordering and latency are its own way's"
    )];
    if profile.new_flows > 0 {
        notes.push(format!(
            "{name} has no rate of new flows (new-flows = {})",
            profile.new_flows
        ));
    }
    if profile.protocol == Kind::TcpFlow {
        notes.push(format!(
            "{name} has no flows of several segments: it sends the SYN of each, and nothing closes them (tcp-flow)"
        ));
    }
    if profile.warm_up > 0.0 {
        notes.push(format!(
            "{name} counts from the first packet (warm-up = {} s): clear its statistics then",
            profile.warm_up
        ));
    }
    notes
}

fn head(comment: &str, profile: &Profile, notes: &[String]) -> String {
    let mut text = format!(
        "{comment} {}\n",
        profile.description.lines().next().unwrap_or("")
    );
    for note in notes {
        let _written = writeln!(text, "{comment} Not expressed: {note}");
    }
    text
}

fn pktgen_dpdk(profile: &Profile) -> Exported {
    let mut notes = notes(profile, "Pktgen-DPDK");
    let (source, destination) = (&profile.source, &profile.destination);
    if destination.zipf > 0.0 {
        notes.push(format!(
            "Pktgen-DPDK's ranges are even (zipf = {})",
            destination.zipf
        ));
    }
    if profile.order == Order::Random {
        notes.push("Pktgen-DPDK's ranges go in order (order = random)".to_owned());
    }
    notes.push(format!(
        "Pktgen-DPDK steps all ranges together with each packet: the flows are not the same {}",
        profile.flows
    ));
    let sizes = profile.check().ok();
    let (least, most, even) = match &sizes {
        Some(Sizes::Cycle(sizes)) => {
            let (least, most) = (sizes.iter().min(), sizes.iter().max());
            (
                least.copied().unwrap_or(64),
                most.copied().unwrap_or(64),
                sizes.len() == 1,
            )
        }
        Some(Sizes::Between(from, to)) => (*from, *to, true),
        None => (64, 64, true),
    };
    if !even {
        notes.push(format!(
            "Pktgen-DPDK has no mix of sizes: any from {least} to {most}"
        ));
    }
    let seconds = profile.duration;
    let rate = match profile.rate.0 {
        Rate::Max => "pktgen.set(\"0\", \"rate\", 100);".to_owned(),
        rate => {
            let mean = sizes.as_ref().map_or(64.0, Sizes::mean);
            notes.push(format!(
                "Pktgen-DPDK's rate is a share of the link: set link_mbps in the script for {:.0} packets/s",
                rate.packets_per_second(mean)
            ));
            let mbps =
                rate.packets_per_second(mean) * (mean + f64::from(crate::pace::WIRE)) * 8.0 / 1e6;
            format!(
                "local link_mbps = 10000;\npktgen.set(\"0\", \"rate\", math.min(100, {mbps:.3} / link_mbps * 100));"
            )
        }
    };
    let protocol = match profile.protocol {
        Kind::Udp => "udp",
        Kind::TcpSyn | Kind::TcpFlow => "tcp",
    };
    let family = if profile.is_v6() { "ipv6" } else { "ipv4" };
    let mut text = head("--", profile, &notes);
    text.push_str(
        "package.path = package.path .. \";?.lua;test/?.lua;app/?.lua;\"\nrequire \"Pktgen\";\n\n",
    );
    text.push_str("pktgen.stop(\"0\");\n");
    let _written = writeln!(text, "pktgen.set_proto(\"0\", \"{protocol}\");");
    let _written = writeln!(text, "pktgen.set_type(\"0\", \"{family}\");");
    let _written = writeln!(text, "{rate}");
    text.push_str("pktgen.set(\"0\", \"count\", 0);\n");
    let address = if profile.is_v6() { "ip6" } else { "ip" };
    let mut range = |what: &str, side: &str, values: [String; 4]| {
        for (name, value) in ["start", "inc", "min", "max"].iter().zip(values) {
            let _written = if side.is_empty() {
                writeln!(text, "pktgen.range.{what}(\"0\", \"{name}\", {value});")
            } else {
                writeln!(text, "pktgen.range.{what}(\"0\", \"{name}\", \"{value}\");")
            };
        }
    };
    let step = |count: u32| {
        let one = if profile.is_v6() { "::1" } else { "0.0.0.1" };
        let none = if profile.is_v6() { "::" } else { "0.0.0.0" };
        if count > 1 {
            one.to_owned()
        } else {
            none.to_owned()
        }
    };
    for (side, first, count) in [
        ("src", source.address, source.count),
        ("dst", destination.address, destination.count),
    ] {
        range(
            &format!("{side}_{address}"),
            side,
            [
                first.to_string(),
                step(count),
                first.to_string(),
                last(first, count).to_string(),
            ],
        );
    }
    for (side, (first, last)) in [("src", source.ports), ("dst", destination.ports)] {
        let step = u8::from(first != last).to_string();
        range(
            &format!("{side}_port"),
            "",
            [first.to_string(), step, first.to_string(), last.to_string()],
        );
    }
    let step = u8::from(least != most).to_string();
    range(
        "pkt_size",
        "",
        [least.to_string(), step, least.to_string(), most.to_string()],
    );
    if profile.protocol != Kind::Udp {
        text.push_str("pktgen.range.tcp_flags(\"0\", \"set\", \"SYN\");\n");
    }
    text.push_str("pktgen.set_range(\"0\", \"on\");\n");
    let _written = writeln!(
        text,
        "pktgen.start(\"0\");\npktgen.delay({:.0});\npktgen.stop(\"0\");",
        seconds * 1000.0
    );
    Exported { text, notes }
}

fn trex(profile: &Profile) -> Exported {
    let mut notes = notes(profile, "TRex (stateless)");
    notes.push(format!(
        "the duration is an option of TRex: start the profile with -d {}",
        profile.duration
    ));
    notes.push(format!(
        "TRex steps all fields together with each packet: the flows are not the same {}",
        profile.flows
    ));
    let (source, destination) = (&profile.source, &profile.destination);
    let weighted = destination.zipf > 0.0 && destination.count <= STREAMS;
    if destination.zipf > 0.0 && !weighted {
        notes.push(format!(
            "TRex's field engine is even, and {} services are too many for a stream each (zipf = {})",
            destination.count, destination.zipf
        ));
    }
    let sizes = match profile.check() {
        Ok(Sizes::Cycle(sizes)) => sizes.into_vec(),
        Ok(Sizes::Between(from, to)) => {
            notes.push(format!(
                "the range of sizes {from} to {to} is sent as its ends and middle"
            ));
            vec![from, u32::midpoint(from, to), to]
        }
        Err(_) => vec![64],
    };
    let order = if profile.order == Order::Random {
        "random"
    } else {
        "inc"
    };
    let count = f64::from(u32::try_from(sizes.len()).unwrap_or(1));
    let mean = sizes.iter().copied().map(f64::from).sum::<f64>() / count;
    let total = profile.rate.0.packets_per_second(mean);
    let rate = if total.is_finite() {
        format!("{total:.3}")
    } else {
        notes.push("the rate is max: start the profile with -m 100%".to_owned());
        "1.0".to_owned()
    };
    let mut distinct: Vec<(u32, u32)> = Vec::new();
    for size in &sizes {
        match distinct.iter_mut().find(|(known, _)| known == size) {
            Some((_, times)) => *times += 1,
            None => distinct.push((*size, 1)),
        }
    }
    let v6 = profile.is_v6();
    if v6 && (source.count > 1 || destination.count > 1) {
        notes.push("of IPv6 addresses only the last 32 bits vary".to_owned());
    }
    let mut text = head("#", profile, &notes);
    text.push_str("from trex_stl_lib.api import *\n\n");
    let _written = writeln!(text, "RATE = {rate}  # packets/s, of all streams together");
    let list: Vec<String> = distinct
        .iter()
        .map(|(size, times)| format!("({size}, {times})"))
        .collect();
    let _written = writeln!(
        text,
        "SIZES = [{}]  # frame with check sequence, weight",
        list.join(", ")
    );
    let ip = if v6 { "IPv6" } else { "IP" };
    let l4 = match profile.protocol {
        Kind::Udp => "UDP(sport=1024, dport=1)",
        Kind::TcpSyn | Kind::TcpFlow => "TCP(sport=1024, dport=1, flags=\"S\")",
    };
    let l4_name = if profile.protocol == Kind::Udp {
        "UDP"
    } else {
        "TCP"
    };
    let services: Vec<String> = if weighted {
        (0..destination.count)
            .map(|n| {
                let weight = (f64::from(n) + 1.0).powf(-destination.zipf);
                format!(
                    "    (\"{}\", 1, {weight:.6}),",
                    last(destination.address, n + 1)
                )
            })
            .collect()
    } else {
        vec![format!(
            "    (\"{}\", {}, 1.0),",
            destination.address, destination.count
        )]
    };
    let _written = writeln!(
        text,
        "SERVICES = [  # first address, how many, weight\n{}\n]\n",
        services.join("\n")
    );
    let field = |name: &str, op: &str, first: &str, last: &str, size: u8, offset: &str| {
        format!(
            "            STLVmFlowVar(name=\"{name}\", min_value={first}, max_value={last}, size={size}, op=\"{op}\"),\n            \
             STLVmWrFlowVar(fv_name=\"{name}\", pkt_offset={offset}),\n"
        )
    };
    text.push_str("def low(address, more):\n    import ipaddress\n    return (int(ipaddress.ip_address(address)) + more) & 0xffffffff\n\n\n");
    text.push_str("class Profile(object):\n    def stream(self, size, first, count, pps):\n");
    let _written = writeln!(
        text,
        "        base = Ether() / {ip}(src=\"{}\", dst=first) / {l4}",
        source.address
    );
    match profile.protocol {
        Kind::Udp => {
            let _written = writeln!(
                text,
                "        packet = base / (\"x\" * max(0, size - {FCS} - len(base)))"
            );
        }
        Kind::TcpSyn | Kind::TcpFlow => {
            text.push_str("        packet = base / (\"\\0\" * max(0, 60 - len(base)))\n");
        }
    }
    text.push_str("        vm = STLScVmRaw([\n");
    let (from, to) = if v6 { (34, 50) } else { (26, 30) };
    let (s, d) = (source.ports, destination.ports);
    text.push_str(&field(
        "source",
        order,
        &format!("low(\"{}\", 0)", source.address),
        &format!("low(\"{}\", {})", source.address, source.count - 1),
        4,
        &from.to_string(),
    ));
    text.push_str(&field(
        "destination",
        order,
        "low(first, 0)",
        "low(first, count - 1)",
        4,
        &to.to_string(),
    ));
    text.push_str(&field(
        "sport",
        order,
        &s.0.to_string(),
        &s.1.to_string(),
        2,
        &format!("\"{l4_name}.sport\""),
    ));
    text.push_str(&field(
        "dport",
        order,
        &d.0.to_string(),
        &d.1.to_string(),
        2,
        &format!("\"{l4_name}.dport\""),
    ));
    let l3 = if v6 { 40 } else { 20 };
    let kind = match profile.protocol {
        Kind::Udp => "CTRexVmInsFixHwCs.L4_TYPE_UDP",
        Kind::TcpSyn | Kind::TcpFlow => "CTRexVmInsFixHwCs.L4_TYPE_TCP",
    };
    let _written = writeln!(
        text,
        "            STLVmFixChecksumHw(l3_offset=14, l4_offset={}, l4_type={kind}),",
        14 + l3
    );
    text.push_str("        ], cache_size=255)\n        return STLStream(packet=STLPktBuilder(pkt=packet, vm=vm), mode=STLTXCont(pps=pps))\n\n");
    text.push_str("    def get_streams(self, tunables=None, **kwargs):\n");
    text.push_str(
        "        sizes, weights = sum(w for _, w in SIZES), sum(w for _, _, w in SERVICES)\n",
    );
    text.push_str("        return [\n            self.stream(size, first, count, RATE * share / sizes * weight / weights)\n");
    text.push_str("            for size, share in SIZES\n            for first, count, weight in SERVICES\n        ]\n\n\ndef register():\n    return Profile()\n");
    Exported { text, notes }
}

/// Streams that services become when they are unequal.
const STREAMS: u32 = 1000;
