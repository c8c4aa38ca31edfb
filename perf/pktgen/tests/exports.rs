//! The shipped profiles are valid, and come out for other generators as they are meant.

// A test's own functions are tests too: clippy exempts only the marked ones.
#![allow(clippy::expect_used, clippy::panic)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

/// Stands in for TRex's library, and tells what a profile asks of it.
const TREX: &str = r#"
import sys, types, json
class Layer:
    def __init__(self, kind, length, fields): self.kind, self.length, self.fields, self.inner = kind, length, fields, []
    def __truediv__(self, other):
        if isinstance(other, str): other = Layer("payload", len(other), {})
        new = Layer(self.kind, self.length, self.fields); new.inner = self.inner + [other]; return new
    def __len__(self): return self.length + sum(len(layer) for layer in self.inner)
    def named(self): return {layer.kind: layer.fields for layer in [self] + self.inner}
def layer(kind, length): return lambda **fields: Layer(kind, length, fields)
lib, api = types.ModuleType("trex_stl_lib"), types.ModuleType("trex_stl_lib.api")
for kind, length in (("Ether", 14), ("IP", 20), ("IPv6", 40), ("UDP", 8), ("TCP", 20)): setattr(api, kind, layer(kind, length))
def plain(kind): return lambda *args, **fields: dict(fields, kind=kind, args=list(args))
for kind in ("STLVmFlowVar", "STLVmWrFlowVar", "STLVmFixChecksumHw", "STLScVmRaw", "STLStream", "STLTXCont"): setattr(api, kind, plain(kind))
api.STLPktBuilder = lambda pkt, vm: {"bytes": len(pkt), "layers": pkt.named(), "vm": vm}
api.CTRexVmInsFixHwCs = types.SimpleNamespace(L4_TYPE_UDP=11, L4_TYPE_TCP=13)
sys.modules["trex_stl_lib"], sys.modules["trex_stl_lib.api"] = lib, api
namespace = {}
exec(compile(sys.stdin.read(), "profile", "exec"), namespace)
print(json.dumps(namespace["register"]().get_streams()))
"#;

#[test]
fn trex_profiles_ask_for_the_same_traffic() {
    for (name, profile) in profiles() {
        let exported = write(&profile, Target::Trex);
        let mut python = Command::new("python3")
            .args(["-c", TREX])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut stdin = python.stdin.take().expect("piped");
        stdin.write_all(exported.text.as_bytes()).expect("it reads");
        drop(stdin);
        let output = python.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{name}: {}", exported.text);
        let streams: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
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
        for stream in &streams {
            let packet = &stream["packet"];
            let protocol = match profile.protocol {
                Kind::Udp => "UDP",
                Kind::TcpSyn | Kind::TcpFlow => "TCP",
            };
            assert!(packet["layers"][protocol].is_object(), "{name}");
            assert!(packet["bytes"].as_u64().expect("a size") + 4 <= u64::from(sizes.largest()));
            let fields = packet["vm"]["args"][0].as_array().expect("instructions");
            let field = |wanted: &str| {
                let found = fields
                    .iter()
                    .find(|field| field["name"] == wanted)
                    .expect("a field");
                (
                    found["min_value"].as_u64().expect("a number"),
                    found["max_value"].as_u64().expect("a number"),
                )
            };
            assert_eq!(
                field("sport"),
                (profile.source.ports.0.into(), profile.source.ports.1.into())
            );
            let (first, last) = field("source");
            assert_eq!(last - first + 1, u64::from(profile.source.count), "{name}");
        }
        match name.as_str() {
            "short-flows" => assert!(
                exported
                    .notes
                    .iter()
                    .any(|note| note.contains("sends the SYN of each"))
            ),
            "imix" => {
                let mut shares: Vec<f64> = pps
                    .iter()
                    .map(|rate| (rate / asked * 12.0).round())
                    .collect();
                shares.sort_by(f64::total_cmp);
                assert_eq!(shares, [1.0, 4.0, 7.0]);
            }
            "zipf-services" => {
                assert_eq!(streams.len(), 1000);
                assert!((pps[0] / pps[1] - 2.0).abs() < 1e-3, "Zipf");
                assert!(
                    exported
                        .notes
                        .iter()
                        .any(|note| note.contains("new-flows = 1000"))
                );
            }
            _ => {}
        }
        for note in &exported.notes {
            assert!(
                exported.text.contains(note.as_str()),
                "each note is in the file too"
            );
        }
    }
}

#[test]
fn pktgen_dpdk_scripts_say_the_ranges_and_what_is_missing() {
    for (name, profile) in profiles() {
        let exported = write(&profile, Target::PktgenDpdk);
        let text = &exported.text;
        assert_eq!(
            text.matches('(').count(),
            text.matches(')').count(),
            "{name}"
        );
        let side = if profile.is_v6() { "ip6" } else { "ip" };
        let (source, destination) = (profile.source.address, profile.destination.address);
        for line in [
            format!("pktgen.range.src_{side}(\"0\", \"start\", \"{source}\");"),
            format!("pktgen.range.dst_{side}(\"0\", \"min\", \"{destination}\");"),
            format!(
                "pktgen.range.dst_port(\"0\", \"max\", {});",
                profile.destination.ports.1
            ),
            format!("pktgen.delay({:.0});", profile.duration * 1000.0),
        ] {
            assert!(text.contains(&line), "{name}: {line} in\n{text}");
        }
        let says = |what: &str| exported.notes.iter().any(|note| note.contains(what));
        match name.as_str() {
            "zipf-services" => assert!(says("zipf = 1") && says("new-flows = 1000")),
            "imix" => assert!(says("no mix of sizes")),
            "syn-flood" => assert!(text.contains("\"tcp\"") && text.contains("SYN")),
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
