//! What people type: status, routes, flows, captures, traces, logs, version, down.

use std::error::Error;
use std::io::Write;
use std::os::unix::process::CommandExt;

use hyper::Method;
use serde_json::Value;

use super::client::{ClientError, ask};
use super::{Command, Format, Options, follow, run};
use crate::http::{FlowView, RouteView};

type Outcome = Result<(), Box<dyn Error>>;

/// A line on standard output. A reader that has gone (`| head`) ends the command, and is no failure (see `main`).
macro_rules! say {
    ($($text:tt)*) => {
        writeln!(std::io::stdout(), $($text)*)?
    };
}

pub(super) fn run(options: &Options, command: &Command) -> Outcome {
    match command {
        Command::Version(format) => version(*format),
        Command::Logs { lines, follow } => logs(options, *lines, *follow),
        Command::Status(format) => {
            let body = request(options, Method::GET, "/status")?;
            show(*format, &body, status)
        }
        Command::Routes(format) => {
            let body = request(options, Method::GET, "/routes")?;
            show(*format, &body, routes)
        }
        Command::Flows { format, limit } => {
            let body = request(options, Method::GET, &format!("/flows?limit={limit}"))?;
            show(*format, &body, flows)
        }
        Command::Capture(asked) => follow::capture(options, asked),
        Command::Trace(asked) => follow::trace(options, asked),
        Command::Down { .. } => match request(options, Method::POST, "/down") {
            Err(error) if matches!(*error, ClientError::Down(..)) => run::purge(options),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        },
        Command::Run(_) | Command::Config(_) => Ok(()),
    }
}

fn request(options: &Options, method: Method, path: &str) -> Result<String, Box<ClientError>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ClientError::Broken(error.to_string()))?;
    runtime
        .block_on(ask(&options.socket, method, path))
        .map_err(Box::new)
}

fn show(format: Format, body: &str, print: fn(&str) -> Outcome) -> Outcome {
    if format.json {
        say!("{body}");
        return Ok(());
    }
    print(body)
}

fn version(format: Format) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    if format.json {
        say!("{}", serde_json::json!({ "version": version }));
    } else {
        say!("NetManager {version}");
    }
    Ok(())
}

/// Becomes `tail` on the log file, or `journalctl` where there is none.
fn logs(options: &Options, lines: u32, follow: bool) -> Outcome {
    let lines = lines.to_string();
    let mut command = if options.log.exists() {
        let mut command = std::process::Command::new("tail");
        command.args(["-n", &lines]);
        if follow {
            command.arg("-F");
        }
        command.arg(&options.log);
        command
    } else {
        let mut command = std::process::Command::new("journalctl");
        command.args(["--no-pager", "-u", "netmanager.service", "-n", &lines]);
        if follow {
            command.arg("-f");
        }
        command
    };
    let program = command.get_program().to_string_lossy().into_owned();
    let error = command.exec();
    Err(format!(
        "{program}: {error}; there is no {} either",
        options.log.display()
    )
    .into())
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or("-")
}

fn status(body: &str) -> Outcome {
    let status: Value = serde_json::from_str(body)?;
    let link = &status["link"];
    let connected = link["connected"] == true;
    say!("version      {}", text(&status, "version"));
    say!("instance     {}", text(&status, "instance"));
    say!(
        "up           {}",
        if status["up"] == true { "yes" } else { "no" }
    );
    say!("node id      {}", text(&status, "client_id"));
    say!(
        "announced    {} port {}",
        text(&status, "public_address"),
        status["public_port"]
    );
    for subnetwork in status["subnetworks"].as_array().into_iter().flatten() {
        say!("subnetwork   {}", subnetwork.as_str().unwrap_or("-"));
    }
    say!("uplink       {}", text(&status, "uplink"));
    say!(
        "cluster link {}",
        if connected { "connected" } else { "down" }
    );
    if let Some(error) = link["last_error"].as_str() {
        say!("             {error}");
    }
    say!(
        "             {} jobs followed, {} queries under way, {} announcements unconfirmed, {} malformed messages",
        link["jobs"].as_array().map_or(0, Vec::len),
        link["queries"],
        link["unconfirmed"],
        link["malformed"]
    );
    let dataplane = &status["dataplane"];
    if dataplane.is_null() {
        say!("data plane   does not answer");
    } else {
        say!(
            "data plane   {} workers, {} of {} flows, {} packets waiting, memory: {}",
            dataplane["workers"],
            dataplane["flows"],
            dataplane["flow_capacity"],
            dataplane["waiting"],
            text(dataplane, "memory")
        );
        packets(dataplane)?;
    }
    for container in status["containers"].as_array().into_iter().flatten() {
        let ports: Vec<&str> = container["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        say!(
            "container    {} instance {}  {}  {}  pid {}  {}",
            text(container, "job"),
            container["instance"],
            text(container, "addresses"),
            text(container, "interface"),
            container["pid"],
            ports.join(" ")
        );
        let interface = text(container, "interface");
        let counted = dataplane["containers"].as_array().into_iter().flatten();
        for port in counted.filter(|port| text(port, "interface") == interface) {
            say!(
                "             {} packets ({} bytes) from it, {} packets ({} bytes) to it, {} of these refused",
                port["packets_in"],
                port["bytes_in"],
                port["packets_out"],
                port["bytes_out"],
                port["refused"]
            );
        }
    }
    Ok(())
}

/// The numbers of an object that are not zero, by name.
fn numbers(counts: &Value) -> String {
    let mut list: Vec<String> = counts
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, count)| count.as_u64().is_some_and(|count| count > 0))
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    list.sort_unstable();
    if list.is_empty() {
        list.push("none".to_owned());
    }
    list.join(", ")
}

/// What came of all packets, by policies and ports.
fn packets(dataplane: &Value) -> Outcome {
    for (label, field) in [
        ("received", "received"),
        ("made", "made"),
        ("sent", "sent"),
        ("dropped", "drops"),
        ("consumed", "consumed"),
        ("events", "events"),
    ] {
        say!("{label:<12} {}", numbers(&dataplane[field]));
    }
    for policy in dataplane["policies"].as_array().into_iter().flatten() {
        if policy["picks"] != 0 || policy["refusals"] != 0 {
            say!(
                "policy       {}: {} picks, {} refusals",
                text(policy, "policy"),
                policy["picks"],
                policy["refusals"]
            );
        }
    }
    for port in dataplane["ports"].as_array().into_iter().flatten() {
        say!(
            "port         {}: {}",
            text(port, "role"),
            numbers(&port["counts"])
        );
    }
    Ok(())
}

fn routes(body: &str) -> Outcome {
    for route in serde_json::from_str::<Vec<RouteView>>(body)? {
        let backends: Vec<String> = route
            .backends
            .iter()
            .map(|backend| {
                format!(
                    "#{} {} via {}",
                    backend.instance, backend.address, backend.via
                )
            })
            .collect();
        say!(
            "{:<40} {:<12} {}  ->  {}",
            route.address,
            route.kind,
            route.job,
            backends.join(", ")
        );
        if let Some(counts) = route.counts {
            say!(
                "{:<40} {} flows opened, {} live, {} packets, {} refused",
                "",
                counts.opened,
                counts.live,
                counts.packets,
                counts.refused
            );
        }
    }
    Ok(())
}

fn flows(body: &str) -> Outcome {
    for flow in serde_json::from_str::<Vec<FlowView>>(body)? {
        let backend = flow
            .backend
            .map_or_else(|| "-".to_owned(), |backend| backend.to_string());
        say!(
            "{:<4} {} -> {} by {}  expires in {:.0} s",
            flow.protocol,
            flow.client,
            flow.service,
            backend,
            flow.expires_in_seconds
        );
    }
    Ok(())
}
