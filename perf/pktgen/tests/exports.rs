//! The shipped profiles are valid, and come out for other generators as they are meant.

// A test's own functions are tests too: clippy exempts only the marked ones.
#![allow(clippy::expect_used, clippy::panic)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use net::Address;
use pktgen::export::{Target, write};
use pktgen::frame::Kind;
use pktgen::profile::Profile;
use serde_json::Value;

fn profiles() -> Vec<(String, Profile)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiles");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let name = |path: &Path| {
        path.file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned()
    };
    paths
        .iter()
        .map(|path| (name(path), Profile::read(path).expect("a profile")))
        .collect()
}

#[test]
fn shipped_profiles_are_valid() {
    let profiles = profiles();
    let names: Vec<&str> = profiles.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "imix",
            "many-flows",
            "short-flows",
            "syn-flood",
            "udp64",
            "v6",
            "zipf-services"
        ]
    );
    for (name, profile) in &profiles {
        profile
            .check()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!profile.description.is_empty(), "{name}");
    }
    let many = profiles
        .iter()
        .find(|(name, _)| name == "many-flows")
        .expect("there");
    assert_eq!(many.1.flows, 1_000_000);
}

/// Stands in for TRex's library: refuses what TRex 3.08 refuses, and tells what a profile asks of it. Its field engine goes
/// on until it begins again, and says after how many packets.
const TREX: &str = r#"
import sys, types, json
class Layer:
    def __init__(self, kind, length, fields): self.kind, self.length, self.fields, self.inner = kind, length, fields, []
    def __truediv__(self, other):
        if isinstance(other, str): other = Layer("payload", len(other), {})
        new = Layer(self.kind, self.length, self.fields); new.inner = self.inner + [other]; return new
    def __len__(self): return self.length + sum(len(layer) for layer in self.inner)
    def named(self): return {layer.kind: dict(layer.fields, options=len(layer.fields.get("options", []))) for layer in [self] + self.inner}
def layer(kind, length): return lambda **fields: Layer(kind, length + (20 if "options" in fields else 0), fields)
lib, api = types.ModuleType("trex_stl_lib"), types.ModuleType("trex_stl_lib.api")
for kind, length in (("Ether", 14), ("IP", 20), ("IPv6", 40), ("UDP", 8), ("TCP", 20)): setattr(api, kind, layer(kind, length))
def plain(kind): return lambda *args, **fields: dict(fields, kind=kind, args=list(args))
for kind in ("STLVmWrFlowVar", "STLVmWrMaskFlowVar", "STLVmFixChecksumHw", "STLScVmRaw", "STLStream", "STLTXCont"): setattr(api, kind, plain(kind))
def turn(name, min_value, max_value, size, op, next_var):
    assert op == "inc" and min_value < max_value < 256 ** size
    return {"kind": "turn", "name": name, "min": min_value, "max": max_value, "next": next_var, "size": size}
def draw(name, size, limit, seed, min_value, max_value):
    assert min_value < max_value < 256 ** size and limit < 256 ** size
    return {"kind": "draw", "name": name, "min": min_value, "max": max_value, "limit": limit, "size": size}
api.STLVmFlowVar, api.STLVmFlowVarRepeatableRandom = turn, draw
def period(vm):
    turns = {field["name"]: field for field in vm if field["kind"] == "turn"}
    following = [field["next"] for field in turns.values()]
    assert all(name is None or name in turns for name in following) and len(set(following)) == len(following) or not turns
    values, packets = {name: 0 for name in turns}, 0
    while True:
        packets += 1
        for name in set(turns) - set(following):
            while name is not None:
                values[name] = (values[name] + 1) % (turns[name]["max"] - turns[name]["min"] + 1)
                name = turns[name]["next"] if values[name] == 0 else None
        if not any(values.values()): return packets
def packet(pkt, vm):
    assert "cache_size" not in vm, "a cache repeats so many packets only"
    written = {field["fv_name"]: field for field in vm["args"][0] if field["kind"].startswith("STLVmWr")}
    fields = {field["name"]: dict(field, place=written[field["name"]]["pkt_offset"], bytes=written[field["name"]].get("pkt_cast_size", field["size"]))
              for field in vm["args"][0] if field["kind"] in ("turn", "draw")}
    return {"bytes": len(pkt), "layers": pkt.named(), "fields": fields, "period": period(vm["args"][0])}
api.STLPktBuilder = packet
api.CTRexVmInsFixHwCs = types.SimpleNamespace(L4_TYPE_UDP=11, L4_TYPE_TCP=13)
sys.modules["trex_stl_lib"], sys.modules["trex_stl_lib.api"] = lib, api
namespace = {}
exec(compile(sys.stdin.read(), "profile", "exec"), namespace)
print(json.dumps(namespace["register"]().get_streams()))
"#;

fn streams(name: &str, text: &str) -> Vec<Value> {
    let mut python = Command::new("python3")
        .args(["-c", TREX])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut stdin = python.stdin.take().expect("piped");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let output = python.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{name}: {text}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

/// First value, count, place and bytes of a field of TRex's field engine, if it varies.
fn varies(packet: &Value, name: &str) -> Option<(u64, u64, Value, u64)> {
    let field = packet["fields"].get(name)?;
    let (first, last) = (number(&field["min"]), number(&field["max"]));
    let place = field["place"].clone();
    Some((first, last - first + 1, place, number(&field["bytes"])))
}

#[test]
fn trex_profiles_ask_for_the_same_traffic() {
    for (name, profile) in profiles() {
        let exported = write(&profile, Target::Trex);
        let streams = streams(&name, &exported.text);
        let pps: Vec<f64> = streams
            .iter()
            .map(|stream| stream["mode"]["pps"].as_f64().expect("a rate"))
            .collect();
        let sizes = profile.check().expect("valid");
        let asked = profile.rate.0.packets_per_second(sizes.mean());
        assert!(
            (pps.iter().sum::<f64>() / asked - 1.0).abs() < 1e-4,
            "{name}: {pps:?} of {asked}"
        );
        let protocol = match profile.protocol {
            Kind::Udp => "UDP",
            Kind::TcpSyn | Kind::TcpFlow => "TCP",
        };
        let (ip, width, from) = if profile.is_v6() {
            ("IPv6", 8, 30)
        } else {
            ("IP", 4, 26)
        };
        let low = if profile.is_v6() {
            u64::MAX
        } else {
            0xffff_ffff
        };
        #[allow(clippy::cast_possible_truncation)] // The low half.
        let low = |address| Address::from(address).0 as u64 & low;
        for stream in &streams {
            let packet = &stream["packet"];
            let base = &packet["layers"];
            assert_eq!(
                base[ip]["src"].as_str(),
                Some(profile.source.address.to_string().as_str())
            );
            assert_eq!(base[protocol]["sport"], profile.source.ports.0, "{name}");
            assert_eq!(base[protocol]["dport"], profile.destination.ports.0);
            if let Some((first, count, place, bytes)) = varies(packet, "sport") {
                assert_eq!(first, u64::from(profile.source.ports.0));
                assert!(first + count - 1 <= profile.source.ports.1.into(), "{name}");
                assert_eq!((place, bytes), (format!("{protocol}.sport").into(), 2));
            }
            if let Some((first, count, place, bytes)) = varies(packet, "source") {
                assert_eq!(first, low(profile.source.address));
                assert!(count <= profile.source.count.into(), "{name}");
                assert_eq!((place, bytes), (from.into(), width));
            }
            if let Some((first, count, place, bytes)) = varies(packet, "destination") {
                assert_eq!(first, low(profile.destination.address));
                assert_eq!(count, u64::from(profile.destination.count), "{name}");
                assert_eq!((place, bytes), ((from + width).into(), width));
            }
        }
        let bytes = |n: usize| number(&streams[n]["packet"]["bytes"]) + 4;
        let periods: u64 = streams
            .iter()
            .map(|stream| number(&stream["packet"]["period"]))
            .sum();
        let says = |what: &str| exported.notes.iter().any(|note| note.contains(what));
        match name.as_str() {
            "udp64" | "v6" => assert_eq!((periods, bytes(0)), (1024, sizes.largest().into())),
            "short-flows" => {
                assert_eq!((periods, bytes(0)), (64_512, 78));
                assert_eq!(streams[0]["packet"]["layers"]["TCP"]["options"], 5);
                assert!(says("SYNs only") && says("again after 64512 flows"));
            }
            "imix" => {
                let shares: Vec<f64> = pps
                    .iter()
                    .map(|rate| (rate / asked * 12.0).round())
                    .collect();
                assert_eq!(shares, [7.0, 4.0, 1.0]);
                assert_eq!([bytes(0), bytes(1), bytes(2)], [64, 594, 1518]);
                assert_eq!(periods, 3 * 1024, "each size in each flow");
            }
            "zipf-services" => {
                assert_eq!((streams.len(), periods), (1000, 10_000));
                assert!((pps[0] / pps[1] - 2.0).abs() < 1e-3, "Zipf");
                assert_eq!(streams[0]["packet"]["period"], 1336);
                assert!(says("new-flows = 1000"));
            }
            "many-flows" | "syn-flood" => {
                let fields = streams[0]["packet"]["fields"].as_object().expect("fields");
                let drawn = |field: &Value| number(&field["limit"]) == 1_000_000;
                assert!(fields.values().all(drawn), "all begin again at once");
                let varied: Vec<&str> = fields.keys().map(String::as_str).collect();
                if name == "many-flows" {
                    assert_eq!(varied, ["destination", "dport", "sport"]);
                } else {
                    assert_eq!(varied, ["source", "sport"]);
                }
            }
            _ => panic!("{name} is looked at by nobody"),
        }
        for note in &exported.notes {
            assert!(
                exported.text.contains(note.as_str()),
                "each note is in the file too"
            );
        }
    }
}

fn parsed(text: &str) -> Profile {
    let profile = Profile::parse(text, Path::new("test")).expect("a profile");
    profile.check().expect("valid");
    profile
}

#[test]
fn trex_has_as_many_flows_when_source_ports_do_not_suffice() {
    let profile = parsed(
        "protocol = \"udp\"\nflows = 12\nrate = \"1kpps\"\nsize = 84\n[source]\naddress = \"fd00::ffff:ffff\"\n\
         count = 2\nports = [7, 8]\n[destination]\naddress = \"fd00::2\"\ncount = 3\nports = [9, 11]",
    );
    let exported = write(&profile, Target::Trex);
    let packet = &streams("ports", &exported.text)[0]["packet"];
    assert_eq!(packet["period"], 12, "{packet}");
    let count = |name| varies(packet, name).map(|(_, count, ..)| count);
    assert_eq!(
        ["destination", "sport", "source", "dport"].map(count),
        [Some(3), Some(2), Some(2), None]
    );
    assert!(!exported.notes.iter().any(|note| note.contains("flows")));
}

#[test]
fn a_short_syn_of_trex_carries_no_data() {
    let profile = parsed(
        "protocol = \"tcp-syn\"\nflows = 1\nrate = \"1kpps\"\nsize = 64\n[source]\naddress = \"10.0.0.1\"\n\
         [destination]\naddress = \"10.0.0.2\"\nports = [80, 80]",
    );
    let packet = &streams("syn", &write(&profile, Target::Trex).text)[0]["packet"];
    assert_eq!(
        (number(&packet["bytes"]), number(&packet["period"])),
        (60, 1)
    );
    assert_eq!(
        packet["layers"]["IP"]["len"], 40,
        "what fills the frame is outside"
    );
    assert_eq!(packet["layers"]["TCP"]["flags"], "S");
}

/// What a script calls, in its order, without its comments.
fn calls(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.starts_with("--"))
        .collect()
}

/// As version 23.03.0 has carried it out.
#[test]
fn a_pktgen_dpdk_script_is_as_it_ran() {
    let profile = parsed(
        "protocol = \"tcp-syn\"\nflows = 1200\nrate = \"100kpps\"\nsize = 98\nduration = 2.5\n[source]\n\
         address = \"fd00::1\"\ncount = 9\n[destination]\naddress = \"fd00:30::1\"\ncount = 1000\nports = [80, 80]",
    );
    let exported = write(&profile, Target::PktgenDpdk);
    let expected = r#"package.path = package.path .. ";?.lua;test/?.lua;app/?.lua;"
require "Pktgen";

pktgen.stop("0");
pktgen.set("0", "size", 98);
local link_mbps = 10000;
pktgen.set("0", "rate", math.min(100, 94.400000 / link_mbps * 100));
pktgen.set("0", "count", 0);
pktgen.range.set_type("0", "ipv6");
pktgen.range.ip_proto("0", "tcp");
local next_hop = "00:00:00:00:00:00";
pktgen.range.dst_mac("0", "start", next_hop);
pktgen.range.src_ip("0", "start", "fd00::1");
pktgen.range.src_ip("0", "inc", "::");
pktgen.range.src_ip("0", "min", "fd00::1");
pktgen.range.src_ip("0", "max", "fd00::1");
pktgen.range.dst_ip("0", "start", "fd00:30::1");
pktgen.range.dst_ip("0", "inc", "::1");
pktgen.range.dst_ip("0", "min", "fd00:30::1");
pktgen.range.dst_ip("0", "max", "fd00:30::3e8");
pktgen.range.src_port("0", "start", 1024);
pktgen.range.src_port("0", "inc", 1);
pktgen.range.src_port("0", "min", 1024);
pktgen.range.src_port("0", "max", 3023);
pktgen.range.dst_port("0", "start", 80);
pktgen.range.dst_port("0", "inc", 0);
pktgen.range.dst_port("0", "min", 80);
pktgen.range.dst_port("0", "max", 80);
pktgen.range.pkt_size("0", "start", 98);
pktgen.range.pkt_size("0", "inc", 0);
pktgen.range.pkt_size("0", "min", 98);
pktgen.range.pkt_size("0", "max", 98);
local path = os.tmpname();
local commands = io.open(path, "w");
commands:write("range 0 tcp flag clr all\nrange 0 tcp flag set syn\nrange 0 tcp flags syn\n");
commands:close();
pktgen.load(path);
os.remove(path);
pktgen.set_range("0", "on");
pktgen.start("0");
pktgen.delay(2500);
pktgen.stop("0");"#;
    assert_eq!(calls(&exported.text), expected.lines().collect::<Vec<_>>());
    // 2000 source ports, so that they go round with the addresses.
    let same = exported
        .notes
        .iter()
        .any(|note| note.contains("not the same 1200"));
    assert!(same, "{:?}", exported.notes);
}

#[test]
fn pktgen_dpdk_scripts_say_the_ranges_and_what_is_missing() {
    for (name, profile) in profiles() {
        let exported = write(&profile, Target::PktgenDpdk);
        let text = &exported.text;
        let (source, destination) = (profile.source.address, profile.destination.address);
        // Port 65535 is one that 23.03 would never leave again.
        let last = match name.as_str() {
            "udp64" | "imix" | "v6" => 2047,
            "zipf-services" => 11_023,
            _ => 65_534,
        };
        let (mean, share) = match name.as_str() {
            "udp64" | "many-flows" | "zipf-services" => (64, "134.400000"),
            "imix" => (791, "512.642225"),
            "v6" => (84, "166.400000"),
            _ => (78, "78.400000"),
        };
        let family = if profile.is_v6() { "ipv6" } else { "ipv4" };
        let protocol = if profile.protocol == Kind::Udp {
            "udp"
        } else {
            "tcp"
        };
        for line in [
            format!("pktgen.set(\"0\", \"size\", {mean});"),
            format!("pktgen.set(\"0\", \"rate\", math.min(100, {share} / link_mbps * 100));"),
            format!("pktgen.range.set_type(\"0\", \"{family}\");"),
            format!("pktgen.range.ip_proto(\"0\", \"{protocol}\");"),
            format!("pktgen.range.src_ip(\"0\", \"start\", \"{source}\");"),
            format!("pktgen.range.dst_ip(\"0\", \"min\", \"{destination}\");"),
            format!("pktgen.range.src_port(\"0\", \"max\", {last});"),
            format!(
                "pktgen.range.dst_port(\"0\", \"max\", {});",
                profile.destination.ports.1
            ),
            format!("pktgen.delay({:.0});", profile.duration * 1000.0),
        ] {
            assert!(
                calls(text).contains(&line.as_str()),
                "{name}: {line} in\n{text}"
            );
        }
        assert_eq!(text.contains("tcp flag"), protocol == "tcp", "{name}");
        let says = |what: &str| exported.notes.iter().any(|note| note.contains(what));
        assert!(says("set next_hop"));
        match name.as_str() {
            "zipf-services" => assert!(says("zipf = 1") && says("new-flows = 1000")),
            "imix" => assert!(says("no mix of sizes") && says("for 79014 packets/s")),
            "syn-flood" => assert!(says("no TCP options") && says("24576 flows and no more")),
            "many-flows" => assert!(says("24576 flows and no more")),
            "udp64" | "v6" => assert!(!says("flows ")),
            _ => {}
        }
        assert!(
            exported
                .notes
                .iter()
                .all(|note| text.contains(note.as_str()))
        );
    }
}
