//! Commands that go on until they are ended: `capture` and `trace`. What the daemon writes is passed on as it comes;
//! Ctrl-C, a reader that has gone, or the daemon's end of the answer ends them.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Following, follow};
use super::{Format, Options};
use crate::pcapng::Counter;

/// How long what has passed already may take to get here once the command is ended.
const UNDER_WAY: Duration = Duration::from_millis(100);

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// What `capture` is asked for.
#[derive(Debug, Args)]
pub(super) struct Capture {
    /// One port: its name or interface index, "uplink" or "host"; all by default
    #[arg(long, short)]
    port: Option<String>,
    /// End after so many packets
    #[arg(long, short)]
    count: Option<u64>,
    /// Keep so many bytes of each packet; all of it by default
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..))]
    snaplen: Option<u32>,
    /// The file to write, "-" for standard output (the default, unless that is a terminal)
    #[arg(long, short)]
    write: Option<PathBuf>,
}

/// What `trace` is asked for.
#[derive(Debug, Args)]
pub(super) struct Trace {
    /// Source address
    #[arg(long)]
    src: Option<IpAddr>,
    /// Destination address, dialled or real
    #[arg(long)]
    dst: Option<IpAddr>,
    /// Source port, or an echo's identifier
    #[arg(long)]
    sport: Option<u16>,
    /// Destination port
    #[arg(long)]
    dport: Option<u16>,
    /// Protocol: tcp, udp, sctp, icmp, icmpv6, or its number
    #[arg(long, value_parser = protocol)]
    proto: Option<u8>,
    /// End after so many packets
    #[arg(long, short)]
    count: Option<u64>,
    #[command(flatten)]
    format: Format,
}

fn protocol(text: &str) -> Result<u8, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "icmpv6" => 58,
        "sctp" => 132,
        other => other.parse().map_err(|_| {
            "name tcp, udp, sctp, icmp or icmpv6, or give a number to 255".to_owned()
        })?,
    })
}

/// `path?key=value&…` of the values that are there.
pub(super) fn query(path: &str, pairs: &[(&str, Option<String>)]) -> String {
    let encode = |value: &str| {
        value
            .bytes()
            .map(|byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    char::from(byte).to_string()
                }
                other => format!("%{other:02X}"),
            })
            .collect::<String>()
    };
    let pairs: Vec<String> = pairs
        .iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", encode(value.as_deref()?))))
        .collect();
    format!("{path}?{}", pairs.join("&"))
}

fn text<T: ToString>(value: Option<&T>) -> Option<String> {
    value.map(T::to_string)
}

pub(super) fn capture(options: &Options, asked: &Capture) -> Outcome {
    let to_file = asked
        .write
        .as_deref()
        .filter(|path| *path != Path::new("-"));
    if asked.write.is_none() && std::io::stdout().is_terminal() {
        return Err("packets do not belong on a terminal: name a file with --write, or pipe into a reader, as in `NetManager capture | tshark -r -`".into());
    }
    let path = query(
        "/capture",
        &[
            ("port", asked.port.clone()),
            ("count", text(asked.count.as_ref())),
            ("snaplen", text(asked.snaplen.as_ref())),
        ],
    );
    run(async {
        let mut answer = follow(&options.socket, &path).await?;
        // The daemon has agreed: a file that exists is not lost to a mistyped port.
        let mut out: Box<dyn Write> = match to_file {
            Some(path) => Box::new(
                File::create(path)
                    .map_err(|error| format!("{}: {error}; name another file", path.display()))?,
            ),
            None => Box::new(std::io::stdout()),
        };
        eprintln!("capturing; end it with Ctrl-C");
        let mut counter = Counter::default();
        let copied = pass_on(&mut answer, |piece| {
            // Whole blocks only: the file is right whenever this ends.
            out.write_all(&counter.whole_blocks(piece))?;
            out.flush()
        })
        .await;
        eprintln!(
            "{} packets captured, {} not captured because this was too slow",
            counter.packets, counter.lost
        );
        copied
    })
}

pub(super) fn trace(options: &Options, asked: &Trace) -> Outcome {
    let path = query(
        "/trace",
        &[
            ("src", text(asked.src.as_ref())),
            ("dst", text(asked.dst.as_ref())),
            ("sport", text(asked.sport.as_ref())),
            ("dport", text(asked.dport.as_ref())),
            ("proto", text(asked.proto.as_ref())),
            ("count", text(asked.count.as_ref())),
        ],
    );
    let json = asked.format.json;
    run(async {
        let mut answer = follow(&options.socket, &path).await?;
        eprintln!("following; end it with Ctrl-C");
        let mut out = std::io::stdout();
        let mut held = Vec::new();
        pass_on(&mut answer, |piece| {
            held.extend_from_slice(piece);
            let end = held
                .iter()
                .rposition(|&b| b == b'\n')
                .map_or(0, |at| at + 1);
            for line in held
                .drain(..end)
                .collect::<Vec<u8>>()
                .split(|&b| b == b'\n')
            {
                if line.is_empty() {
                    continue;
                }
                if json {
                    out.write_all(line)?;
                    out.write_all(b"\n")?;
                } else if let Ok(step) = serde_json::from_slice(line) {
                    writeln!(out, "{}", shown(&step))?;
                }
            }
            out.flush()
        })
        .await
    })
}

/// A step for people: the packet's number, when, where, what.
fn shown(step: &Value) -> String {
    let words = |field: &str| step.get(field).and_then(Value::as_str).unwrap_or("");
    let Some(packet) = step.get("packet") else {
        return words("text").to_owned();
    };
    let at = step.get("at").and_then(Value::as_f64).unwrap_or(0.0);
    let label = match words("step") {
        "picked" | "routed" | "flow" | "restored" => "route",
        other => other,
    };
    format!(
        "#{packet:<4} {:012.6} worker {} {:<12} {}",
        at % 86_400.0,
        step.get("worker").unwrap_or(&Value::Null),
        label.replace('_', " "),
        words("text")
    )
}

fn run(work: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// Passes pieces on until the answer or someone's patience ends.
async fn pass_on(
    answer: &mut Following,
    mut to: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Outcome {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ended = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tokio::time::sleep(UNDER_WAY).await;
    };
    tokio::pin!(ended);
    loop {
        let piece = tokio::select! {
            piece = answer.next() => piece?,
            () = &mut ended => return Ok(()),
        };
        match piece {
            Some(piece) => to(&piece)?,
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded_and_protocols_have_names() {
        assert_eq!(
            query(
                "/trace",
                &[
                    ("src", Some("fc00::2".to_owned())),
                    ("dst", None),
                    ("port", Some("a b&c".to_owned()))
                ]
            ),
            "/trace?src=fc00%3A%3A2&port=a%20b%26c"
        );
        assert_eq!(protocol("TCP"), Ok(6));
        assert_eq!(protocol("89"), Ok(89));
        assert!(protocol("256").is_err() && protocol("tpc").is_err());
    }
}
