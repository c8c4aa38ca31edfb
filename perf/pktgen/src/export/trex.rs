//! A stateless (STL) profile for TRex, in Python.
//!
//! In turn: the variables of its field engine are a chain, each of which steps when the one before has gone round, so that
//! there are as many flows as their lengths multiplied. At random: each draws by itself, and all begin again after as many
//! packets as there are flows. A cache (`cache_size`) would repeat so many packets only.

use std::fmt::Write as _;

use super::{Exported, Spread, head, last, notes};
use crate::frame::{self, FCS, Kind};
use crate::profile::{Order, Profile, Sizes};

/// Streams that services become when they are unequal.
const STREAMS: u32 = 1000;

/// One address or some, and what goes there.
struct Service {
    first: u32,
    weight: f64,
    flows: u32,
    spread: Spread,
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A share of the flows is one to all of them.
fn services(profile: &Profile) -> Vec<Service> {
    let destination = &profile.destination;
    let spread = |flows, destinations| {
        // At random, any value may come; and flows that are used once go through all there are.
        if profile.order == Order::Random || profile.protocol == Kind::TcpFlow {
            Spread {
                destinations,
                ..Spread::whole(profile)
            }
        } else {
            Spread::of(profile, flows, destinations)
        }
    };
    if !weighted(profile) {
        return vec![Service {
            first: 0,
            weight: 1.0,
            flows: profile.flows,
            spread: spread(profile.flows, destination.count),
        }];
    }
    let weight = |n: u32| (f64::from(n) + 1.0).powf(-destination.zipf);
    let total: f64 = (0..destination.count).map(weight).sum();
    (0..destination.count)
        .map(|n| {
            let share = f64::from(profile.flows) * weight(n) / total;
            let flows = (share.round() as u32).clamp(1, profile.flows);
            Service {
                first: n,
                weight: weight(n),
                flows,
                spread: spread(flows, 1),
            }
        })
        .collect()
}

fn weighted(profile: &Profile) -> bool {
    profile.destination.zipf > 0.0 && profile.destination.count <= STREAMS
}

fn limits(profile: &Profile, services: &[Service]) -> Vec<String> {
    let (flows, destination) = (profile.flows, &profile.destination);
    let mut notes = vec![format!(
        "the duration is an option of TRex: start the profile with -d {}",
        profile.duration
    )];
    if destination.zipf > 0.0 && !weighted(profile) {
        notes.push(format!(
            "TRex's field engine is even, and {} services are too many for a stream each (zipf = {})",
            destination.count, destination.zipf
        ));
    }
    let sent: u64 = services.iter().map(|service| service.spread.flows()).sum();
    if profile.protocol == Kind::TcpFlow {
        notes.push(format!(
            "TRex begins again after {sent} flows (flows = {flows} at a time)"
        ));
    } else if profile.order == Order::Random {
        notes.push(format!(
            "TRex draws {flows} flows, of which some are the same, and repeats them in this order"
        ));
    } else if sent != u64::from(flows) {
        notes.push(format!("TRex sends {sent} flows (flows = {flows})"));
    }
    notes
}

pub(super) fn write(profile: &Profile) -> Exported {
    let mut notes = notes(profile, "TRex (stateless)");
    let services = services(profile);
    notes.extend(limits(profile, &services));
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
    let mut text = head("#", profile, &notes);
    text.push_str("import ipaddress\n\nfrom trex_stl_lib.api import *\n\n");
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
    text.push_str("SERVICES = [  # first address, weight, flows; how many: addresses, source ports, source addresses, ports\n");
    for service in &services {
        let Spread {
            destinations,
            source_ports,
            sources,
            destination_ports,
        } = service.spread;
        let _written = writeln!(
            text,
            "    (\"{}\", {:.6}, {}, ({destinations}, {source_ports}, {sources}, {destination_ports})),",
            last(profile.destination.address, service.first + 1),
            service.weight,
            service.flows,
        );
    }
    text.push_str("]\n\n\n");
    let bits = if profile.is_v6() { 64 } else { 32 };
    let _written = writeln!(
        text,
        "def low(address):  # what varies of it\n    return int(ipaddress.ip_address(address)) & (2 ** {bits} - 1)\n\n"
    );
    text.push_str(
        "class Profile(object):\n    def stream(self, size, pps, first, flows, counts):\n",
    );
    text.push_str(&packet(profile));
    text.push_str(&engine(profile));
    text.push_str(
        "        return STLStream(packet=STLPktBuilder(pkt=packet, vm=STLScVmRaw(vm)), mode=STLTXCont(pps=pps))\n\n",
    );
    text.push_str("    def get_streams(self, tunables=None, **kwargs):\n");
    text.push_str(
        "        sizes, weights = sum(w for _, w in SIZES), sum(service[1] for service in SERVICES)\n",
    );
    text.push_str("        return [\n            self.stream(size, RATE * share / sizes * weight / weights, first, flows, counts)\n");
    text.push_str("            for size, share in SIZES\n            for first, weight, flows, counts in SERVICES\n        ]\n\n\ndef register():\n    return Profile()\n");
    Exported { text, notes }
}

/// The packet before any field varies.
fn packet(profile: &Profile) -> String {
    let (source, destination) = (&profile.source, &profile.destination);
    let v6 = profile.is_v6();
    let ports = format!("sport={}, dport={}", source.ports.0, destination.ports.0);
    let largest = profile.check().map_or(64, |sizes| sizes.largest());
    let (length, l4, filling) = match profile.protocol {
        Kind::Udp => (
            "",
            format!("UDP({ports})"),
            format!("\"x\" * (size - {FCS} - len(base))"),
        ),
        Kind::TcpSyn | Kind::TcpFlow if largest == frame::syn_with_options(v6) => (
            "",
            format!(
                "TCP({ports}, flags=\"S\", options=[(\"MSS\", 1460), (\"SAckOK\", b\"\"), (\"Timestamp\", (0, 0)), (\"NOP\", None), (\"WScale\", 7)])"
            ),
            String::new(),
        ),
        // What fills the frame is not the segment's: its length is said, not counted.
        Kind::TcpSyn | Kind::TcpFlow => (
            if v6 { ", plen=20" } else { ", len=40" },
            format!("TCP({ports}, flags=\"S\")"),
            format!("\"\\0\" * (size - {FCS} - len(base))"),
        ),
    };
    let ip = if v6 { "IPv6" } else { "IP" };
    let mut text = format!(
        "        base = Ether() / {ip}(src=\"{}\", dst=first{length}) / {l4}\n",
        source.address
    );
    let _written = if filling.is_empty() {
        writeln!(text, "        packet = base")
    } else {
        writeln!(text, "        packet = base / ({filling})")
    };
    text
}

/// What varies, and the check sums after it.
fn engine(profile: &Profile) -> String {
    let (source, destination) = (&profile.source, &profile.destination);
    let (l3, address, from, to) = if profile.is_v6() {
        (40, 8, 30, 46)
    } else {
        (20, 4, 26, 30)
    };
    let (name, kind) = match profile.protocol {
        Kind::Udp => ("UDP", "L4_TYPE_UDP"),
        Kind::TcpSyn | Kind::TcpFlow => ("TCP", "L4_TYPE_TCP"),
    };
    let random = profile.order == Order::Random;
    let mut text = format!(
        "        fields = [field for field in zip(  # name, first value, bytes, place; how many\n            \
         (\"destination\", \"sport\", \"source\", \"dport\"),\n            \
         (low(first), {}, low(\"{}\"), {}),\n            \
         ({address}, 2, {address}, 2),\n            \
         ({to}, \"{name}.sport\", {from}, \"{name}.dport\"),\n            \
         counts,\n        ) if field[4] > 1]\n",
        source.ports.0, source.address, destination.ports.0
    );
    text.push_str(if random {
        // A variable must hold `limit`: those of ports are wider than what is written of them.
        "        vm = [
            STLVmFlowVarRepeatableRandom(name=name, size=max(4, width), limit=flows, seed=seed, min_value=value, max_value=value + count - 1)
            for seed, (name, value, width, _, count) in enumerate(fields, 1)
        ]
        vm += [
            STLVmWrFlowVar(fv_name=name, pkt_offset=place) if width > 2
            else STLVmWrMaskFlowVar(fv_name=name, pkt_offset=place, pkt_cast_size=2, mask=0xffff)
            for name, _, width, place, _ in fields
        ]
"
    } else {
        "        vm = [
            STLVmFlowVar(name=name, min_value=value, max_value=value + count - 1, size=width, op=\"inc\", next_var=following)
            for (name, value, width, _, count), following in zip(fields, [field[0] for field in fields[1:]] + [None])
        ]
        vm += [STLVmWrFlowVar(fv_name=name, pkt_offset=place) for name, _, _, place, _ in fields]
"
    });
    let _written = writeln!(
        text,
        "        vm.append(STLVmFixChecksumHw(l3_offset=14, l4_offset={}, l4_type=CTRexVmInsFixHwCs.{kind}))",
        14 + l3
    );
    text
}
