//! `GET /trace`: why packets go where they go, a JSON object per decision and line.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Query, State};
use axum::response::Response;
use dataplane::{
    BackendLine, CapturePort, Ends, Place, PortLine, Step, Target, Trace, TraceFilter, TraceRecord,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::App;
use super::capture::refused;
use super::show::failed;
use super::stream::{self, Sink};
use crate::forwarding::Forwarding;
use crate::node::Refusal;

/// What is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    src: Option<IpAddr>,
    dst: Option<IpAddr>,
    sport: Option<u16>,
    dport: Option<u16>,
    proto: Option<u8>,
    /// Packets, after which it ends.
    count: Option<usize>,
}

/// How long the last packets may take to come to their end: one that waits for a route is given up before.
const PATIENCE: Duration = Duration::from_secs(4);

pub(super) async fn trace(
    State(app): State<App>,
    Query(asked): Query<Asked>,
) -> Result<Response, Refusal> {
    let filter = TraceFilter {
        source: asked.src,
        destination: asked.dst,
        source_port: asked.sport,
        destination_port: asked.dport,
        protocol: asked.proto,
    };
    let forwarding = app.node.forwarding();
    let begin = move || forwarding.trace(filter).map(|trace| (trace, forwarding));
    let (trace, forwarding) = tokio::task::spawn_blocking(begin)
        .await
        .map_err(failed)?
        .map_err(refused)?;
    let count = asked.count.unwrap_or(usize::MAX);
    Ok(stream::answer(
        "application/x-ndjson",
        app.closing.clone(),
        move |sink| write(sink, trace, Names::new(forwarding), count),
    ))
}

fn write(sink: &Sink, mut trace: Trace, mut names: Names, count: usize) {
    let mut numbers: HashMap<u64, usize> = HashMap::new();
    let mut under_way: HashSet<u64> = HashSet::new();
    let (mut records, mut last, mut lost) = (Vec::new(), Instant::now(), 0);
    while sink.is_open() && !trace.is_over() {
        trace.read(&mut records);
        let mut piece = Vec::new();
        for record in records.drain(..) {
            let next = numbers.len() + 1;
            if next > count && !numbers.contains_key(&record.packet) {
                continue;
            }
            let number = *numbers.entry(record.packet).or_insert_with(|| {
                under_way.insert(record.packet);
                next
            });
            if is_end(&record.step) {
                under_way.remove(&record.packet);
            }
            last = Instant::now();
            piece.extend_from_slice(line(number, &record, &mut names).to_string().as_bytes());
            piece.push(b'\n');
        }
        if trace.lost() != lost {
            lost = trace.lost();
            let text = format!("{lost} steps were not noted: the reader was too slow");
            piece.extend_from_slice(json!({"lost": lost, "text": text}).to_string().as_bytes());
            piece.push(b'\n');
        }
        if piece.is_empty() {
            Sink::pause();
        } else if !sink.write(piece) {
            return;
        }
        if numbers.len() >= count && (under_way.is_empty() || last.elapsed() > PATIENCE) {
            return;
        }
    }
}

fn is_end(step: &Step) -> bool {
    matches!(step, Step::Sent { .. } | Step::Dropped(_) | Step::Joined)
}

/// What numbers stand for.
struct Names {
    forwarding: Arc<dyn Forwarding>,
    ports: HashMap<CapturePort, PortLine>,
    backends: HashMap<u32, BackendLine>,
}

impl Names {
    fn new(forwarding: Arc<dyn Forwarding>) -> Self {
        let mut names = Self {
            forwarding,
            ports: HashMap::new(),
            backends: HashMap::new(),
        };
        names.refresh();
        names
    }

    fn refresh(&mut self) {
        let ports = self.forwarding.ports().unwrap_or_default();
        self.ports = ports.into_iter().map(|line| (line.port, line)).collect();
        let backends = self.forwarding.backends().unwrap_or_default();
        self.backends = backends
            .into_iter()
            .map(|line| (line.backend, line))
            .collect();
    }

    fn port(&mut self, port: CapturePort) -> String {
        if !self.ports.contains_key(&port) {
            self.refresh();
        }
        self.ports
            .get(&port)
            .map_or_else(|| format!("{port:?}"), |line| line.name.clone())
    }

    fn backend(&mut self, backend: u32) -> Option<&BackendLine> {
        if !self.backends.contains_key(&backend) {
            self.refresh();
        }
        self.backends.get(&backend)
    }
}

fn protocol(number: u8) -> String {
    match number {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => format!("protocol {other}"),
    }
}

/// An address, with its port where the protocol has some.
fn end(at: SocketAddr, ports: bool) -> String {
    if ports {
        at.to_string()
    } else {
        at.ip().to_string()
    }
}

fn both(ends: &Ends) -> String {
    let ports = ends.source.port() != 0 || ends.destination.port() != 0;
    format!(
        "{} -> {}",
        end(ends.source, ports),
        end(ends.destination, ports)
    )
}

fn flags(flags: u8) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
    let set = names
        .iter()
        .enumerate()
        .filter(|(bit, _)| flags & (1 << bit) != 0)
        .map(|(_, name)| format!(" {name}"));
    set.collect()
}

fn put_ends(fields: &mut Map<String, Value>, ends: &Ends) {
    fields.insert("source".to_owned(), json!(ends.source.ip()));
    fields.insert("destination".to_owned(), json!(ends.destination.ip()));
    fields.insert("source_port".to_owned(), json!(ends.source.port()));
    fields.insert(
        "destination_port".to_owned(),
        json!(ends.destination.port()),
    );
    fields.insert("protocol".to_owned(), json!(ends.protocol));
}

fn place(names: &mut Names, place: Place, fields: &mut Map<String, Value>) -> String {
    let (name, text) = match place {
        Place::Access(number) => {
            let name = names.port(CapturePort::Access(number));
            (name.clone(), name)
        }
        Place::Host => {
            let name = names.port(CapturePort::Host);
            (name.clone(), format!("the node itself ({name})"))
        }
        Place::Tunnel(peer) => {
            let shown = end(peer, peer.port() != 0);
            fields.insert("peer".to_owned(), json!(shown));
            (
                "uplink".to_owned(),
                format!("node {shown} through the tunnel"),
            )
        }
    };
    fields.insert("port".to_owned(), json!(name));
    text
}

fn backend(names: &mut Names, number: u32, fields: &mut Map<String, Value>) -> String {
    let Some(line) = names.backend(number) else {
        return format!("backend {number}, which is gone");
    };
    let addresses: Vec<String> = line.namespace.iter().map(|a| a.to_string()).collect();
    fields.insert(
        "backend".to_owned(),
        json!({
            "job": line.job,
            "instance": line.instance,
            "addresses": addresses,
            "via": line.via,
        }),
    );
    let place = match line.via.as_str() {
        "local" => "on this node".to_owned(),
        via => format!("on node {via}"),
    };
    format!(
        "{} instance {} ({}) {place}",
        line.job,
        line.instance,
        addresses.join(", ")
    )
}

/// One decision, in fields and in words.
fn line(number: usize, record: &TraceRecord, names: &mut Names) -> Value {
    let mut fields = Map::new();
    fields.insert("packet".to_owned(), json!(number));
    fields.insert("at".to_owned(), json!(record.at.as_secs_f64()));
    fields.insert("worker".to_owned(), json!(record.worker));
    let (step, text) = words(&record.step, names, &mut fields);
    fields.insert("step".to_owned(), json!(step));
    fields.insert("text".to_owned(), json!(text));
    Value::Object(fields)
}

fn words(
    step: &Step,
    names: &mut Names,
    fields: &mut Map<String, Value>,
) -> (&'static str, String) {
    match *step {
        Step::Arrived {
            from,
            ends,
            length,
            tcp_flags,
            fragment,
        } => {
            put_ends(fields, &ends);
            fields.insert("length".to_owned(), json!(length));
            fields.insert("tcp_flags".to_owned(), json!(tcp_flags));
            fields.insert("fragment".to_owned(), json!(fragment));
            let from = place(names, from, fields);
            let what = if fragment { ", a later fragment" } else { "" };
            let text = format!(
                "from {from}: {} {}{}, {length} bytes{what}",
                both(&ends),
                protocol(ends.protocol),
                flags(tcp_flags)
            );
            ("arrived", text)
        }
        Step::About(ends) => {
            put_ends(fields, &ends);
            let what = format!("an error about {} {}", both(&ends), protocol(ends.protocol));
            ("about", what)
        }
        Step::Flow { backend: number } => {
            let name = backend(names, number, fields);
            ("flow", format!("known flow to {name}"))
        }
        Step::Picked {
            policy,
            backend: number,
            turns,
        } => {
            fields.insert("policy".to_owned(), json!(policy.name()));
            fields.insert("turns".to_owned(), json!(turns));
            let name = backend(names, number, fields);
            let text = format!(
                "no flow yet: policy {} picks {name}, of {turns} turns",
                policy.name()
            );
            ("picked", text)
        }
        Step::Routed {
            target,
            backend: number,
        } => {
            let kind = match target {
                Target::Instance => "Instance IP",
                Target::Namespace => "namespace IP",
            };
            fields.insert("target".to_owned(), json!(kind));
            let name = backend(names, number, fields);
            ("routed", format!("the {kind} of {name}"))
        }
        Step::Restored { dialled } => {
            fields.insert("source".to_owned(), json!(dialled));
            let text = format!("an answer in a known flow: its source becomes {dialled}");
            ("restored", text)
        }
        Step::Rewritten(ends) => {
            put_ends(fields, &ends);
            ("rewritten", format!("translated to {}", both(&ends)))
        }
        Step::Waits { address } => {
            fields.insert("address".to_owned(), json!(address));
            let text = format!("waits: {address} is not known yet, the cluster is asked");
            ("waits", text)
        }
        Step::Resumed => ("resumed", "goes on: the address is known".to_owned()),
        Step::Held => (
            "held",
            "waits for the first fragment of its datagram".to_owned(),
        ),
        Step::HandedOver { worker } => {
            fields.insert("to_worker".to_owned(), json!(worker));
            let text = format!("handed to worker {worker}, which owns the container");
            ("handed_over", text)
        }
        Step::TakenOver => ("taken_over", "taken over from another worker".to_owned()),
        Step::Joined => ("joined", "became part of the packet before it".to_owned()),
        Step::Cut { pieces } => {
            fields.insert("pieces".to_owned(), json!(pieces));
            ("cut", format!("cut into {pieces} packets"))
        }
        Step::Sent { to } => {
            let to = place(names, to, fields);
            ("sent", format!("to {to}"))
        }
        Step::Answered { reset } => {
            fields.insert("reset".to_owned(), json!(reset));
            let how = if reset {
                "a TCP reset"
            } else {
                "an ICMP error"
            };
            ("answered", format!("its sender is told, by {how}"))
        }
        Step::Dropped(reason) => {
            fields.insert("reason".to_owned(), json!(reason));
            ("dropped", reason.replace('_', " "))
        }
    }
}
