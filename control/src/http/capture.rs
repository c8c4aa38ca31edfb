//! `GET /capture`: packets as pcapng, as they pass.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::response::Response;
use dataplane::{Capture, CaptureOptions, CapturePort, PortLine, SNAPLEN_MAX};
use serde::Deserialize;

use super::App;
use super::show::failed;
use super::stream::{self, Sink};
use crate::forwarding::{CommandError, Forwarding};
use crate::node::Refusal;
use crate::pcapng::Writer;

/// What is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    /// A port's name or number, `uplink` or `host`.
    port: Option<String>,
    /// Packets, after which it ends.
    count: Option<u64>,
    /// Bytes kept of each.
    snaplen: Option<u32>,
}

/// A refusal of the data plane, with the status that says whose turn it is.
pub(super) fn refused(error: CommandError) -> Refusal {
    match error {
        CommandError::Busy(message) => Refusal {
            status: 409,
            message,
        },
        other => failed(other),
    }
}

/// The port that a name means.
pub(super) fn find(ports: &[PortLine], name: &str) -> Result<CapturePort, Refusal> {
    let number = name.parse().ok().map(CapturePort::Access);
    let means = |line: &&PortLine| match line.port {
        CapturePort::Uplink if name == "uplink" => true,
        CapturePort::Host if name == "host" => true,
        port => line.name == name || Some(port) == number,
    };
    ports
        .iter()
        .find(means)
        .map(|line| line.port)
        .ok_or_else(|| {
            let names: Vec<&str> = ports.iter().map(|line| line.name.as_str()).collect();
            Refusal {
                status: 404,
                message: format!(
                    "there is no port {name:?}; these are there: {}, and by role uplink and host",
                    names.join(", ")
                ),
            }
        })
}

pub(super) async fn capture(
    State(app): State<App>,
    Query(asked): Query<Asked>,
) -> Result<Response, Refusal> {
    let forwarding = app.node.forwarding();
    let snaplen = asked.snaplen.unwrap_or(SNAPLEN_MAX).clamp(1, SNAPLEN_MAX);
    let begin = move || {
        let ports = forwarding.ports().map_err(failed)?;
        let port = match asked.port.as_deref() {
            Some(name) => Some(find(&ports, name)?),
            None => None,
        };
        let options = CaptureOptions { port, snaplen };
        let capture = forwarding.capture(options).map_err(refused)?;
        let mut writer = Writer::new(snaplen);
        for line in &ports {
            if port.is_none_or(|port| port == line.port) {
                writer.interface(line);
            }
        }
        Ok((capture, writer, forwarding))
    };
    let (capture, writer, forwarding) =
        tokio::task::spawn_blocking(begin).await.map_err(failed)??;
    let count = asked.count.unwrap_or(u64::MAX);
    Ok(stream::answer(
        "application/x-pcapng",
        app.closing.clone(),
        move |sink| write(sink, capture, writer, &forwarding, count),
    ))
}

fn write(
    sink: &Sink,
    mut capture: Capture,
    mut writer: Writer,
    forwarding: &Arc<dyn Forwarding>,
    count: u64,
) {
    let (mut left, mut told) = (count, 0);
    let mut packets = Vec::new();
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    };
    writer.lost(now(), 0);
    while left > 0 && sink.is_open() && !capture.is_over() {
        capture.read(&mut packets);
        for packet in packets.drain(..) {
            if left == 0 {
                break;
            }
            // A port that was attached meanwhile.
            if !writer.knows(packet.port) {
                for line in forwarding.ports().unwrap_or_default() {
                    if line.port == packet.port {
                        writer.interface(&line);
                    }
                }
            }
            if writer.knows(packet.port) {
                writer.packet(&packet);
                left -= 1;
            }
        }
        let lost = capture.lost();
        if lost != told {
            told = lost;
            writer.lost(now(), lost);
        }
        let piece = writer.take();
        if piece.is_empty() {
            Sink::pause();
        } else if !sink.write(piece) {
            return;
        }
    }
    writer.lost(now(), capture.lost());
    sink.write(writer.take());
}
