//! What people type, and what answers each of it.

use std::error::Error;
use std::io::Write;

use clap::CommandFactory;
use hyper::Method;
use serde_json::Value;

use super::client::{ClientError, ask};
use super::screen::{Screen, Tone, ago};
use super::{Command, Format, Options, doctor, follow, logs, run, status, top};
use crate::config::Sources;
use crate::http::{FlowView, JobView, RouteView};
use crate::reload::Reloaded;

pub(super) type Outcome = Result<(), Box<dyn Error>>;

/// A line on standard output. A reader that has gone (`| head`) ends the command, and is no failure (see `main`).
macro_rules! say {
    ($($text:tt)*) => {
        std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($text)*)))?
    };
}
pub(super) use say;

pub(super) fn run(options: &Options, sources: &Sources, command: &Command) -> Outcome {
    let get = |path: &str| request(options, Method::GET, path);
    match command {
        Command::Version(format) => version(*format),
        Command::Logs(asked) => logs::run(options, asked),
        Command::Status(format) => status::run(options, *format),
        Command::Routes(format) => show(*format, &get("/routes")?, routes),
        Command::Services(format) => show(*format, &get("/services")?, services),
        Command::Flows {
            format,
            limit,
            address,
            job,
        } => {
            let path = follow::query(
                "/flows",
                &[
                    ("limit", Some(limit.to_string())),
                    ("address", address.map(|address| address.to_string())),
                    ("job", job.clone()),
                ],
            );
            show(*format, &get(&path)?, flows)
        }
        Command::Top(asked) => top::run(options, asked),
        Command::Doctor(format) => doctor::run(options, sources, *format),
        Command::Reload(format) => reload(options, *format),
        Command::Capture(asked) => follow::capture(options, asked),
        Command::Trace(asked) => follow::trace(options, asked),
        Command::Down { .. } => match request(options, Method::POST, "/down") {
            Err(error) if matches!(*error, ClientError::Absent(_) | ClientError::Down(_)) => {
                run::purge(options, sources)
            }
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        },
        Command::Completions { shell } => {
            let mut command = super::Cli::command();
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut command, "NetManager", &mut script);
            std::io::stdout().write_all(&script)?;
            Ok(())
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(super::Cli::command()).render(&mut page)?;
            std::io::stdout().write_all(&page)?;
            Ok(())
        }
        Command::Run { .. } | Command::Config(_) => Ok(()),
    }
}

pub(super) fn request(
    options: &Options,
    method: Method,
    path: &str,
) -> Result<String, Box<ClientError>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ClientError::Broken(error.to_string()))?;
    runtime
        .block_on(ask(&options.socket, method, path))
        .map_err(Box::new)
}

fn show(format: Format, body: &str, print: fn(&str, Screen) -> Outcome) -> Outcome {
    if format.json {
        say!("{body}");
        return Ok(());
    }
    print(body, Screen::new())
}

fn version(format: Format) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    if format.json {
        say!(
            "{}",
            serde_json::json!({
                "version": version,
                "architecture": std::env::consts::ARCH,
                "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
            })
        );
    } else {
        say!("NetManager {version}");
    }
    Ok(())
}

pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or("-")
}

/// The numbers of an object that are not zero, by name.
pub(super) fn numbers(counts: &Value) -> String {
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

fn routes(body: &str, screen: Screen) -> Outcome {
    let routes = serde_json::from_str::<Vec<RouteView>>(body)?;
    let rows: Vec<Vec<String>> = routes
        .iter()
        .map(|route| {
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
            let counts = route.counts.map_or_else(String::new, |counts| {
                format!(
                    "{} flows opened, {} live, {} packets, {} refused",
                    counts.opened, counts.live, counts.packets, counts.refused
                )
            });
            vec![
                route.address.to_string(),
                route.kind.clone(),
                route.job.clone(),
                backends.join(", "),
                counts,
            ]
        })
        .collect();
    let head = ["address", "kind", "job", "leads to", "since it is known"];
    print_table(&head, &rows, screen)
}

fn flows(body: &str, screen: Screen) -> Outcome {
    let protocol = |number: u8| match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        other => other.to_string(),
    };
    let dash = || "-".to_owned();
    let rows: Vec<Vec<String>> = serde_json::from_str::<Vec<FlowView>>(body)?
        .into_iter()
        .map(|flow| {
            vec![
                protocol(flow.protocol),
                flow.client.to_string(),
                flow.service.to_string(),
                flow.backend
                    .map_or_else(dash, |backend| backend.to_string()),
                flow.job.unwrap_or_else(dash),
                flow.instance.map_or_else(dash, |number| number.to_string()),
                format!("{:.0} s", flow.expires_in_seconds),
            ]
        })
        .collect();
    let head = [
        "protocol",
        "client",
        "dialled",
        "by",
        "job",
        "instance",
        "expires in",
    ];
    print_table(&head, &rows, screen)
}

fn print_table(head: &[&str], rows: &[Vec<String>], screen: Screen) -> Outcome {
    if rows.is_empty() {
        say!("none");
        return Ok(());
    }
    for line in screen.table(head, rows) {
        say!("{line}");
    }
    Ok(())
}

fn services(body: &str, screen: Screen) -> Outcome {
    let jobs = serde_json::from_str::<Vec<JobView>>(body)?;
    if jobs.is_empty() {
        say!(
            "no job is known here: one is once a container of it runs here, or one of ours dials it"
        );
    }
    for job in jobs {
        let idle = job
            .idle_seconds
            .map_or_else(String::new, |idle| format!("  last used {} ago", ago(idle)));
        say!("{}{}", screen.paint(Tone::Head, &job.job), idle);
        for service in &job.services {
            let addresses: Vec<String> =
                service.addresses.iter().map(ToString::to_string).collect();
            say!(
                "  {:<14} {}  {} flows opened, {} live, {} packets, {} refused",
                service.policy,
                addresses.join(" "),
                service.opened,
                service.live,
                service.packets,
                service.refused
            );
        }
        let rows: Vec<Vec<String>> = job
            .instances
            .iter()
            .map(|instance| {
                let addresses: Vec<String> =
                    instance.addresses.iter().map(ToString::to_string).collect();
                let place = if instance.local { "here" } else { "remote" };
                let state = if instance.draining { "draining" } else { "" };
                vec![
                    format!("  instance {}", instance.instance),
                    addresses.join(" "),
                    place.to_owned(),
                    instance.via.clone(),
                    instance.weight.to_string(),
                    instance.load.to_string(),
                    instance.live.to_string(),
                    instance
                        .idle_seconds
                        .map_or_else(|| "never".to_owned(), |idle| format!("{} ago", ago(idle))),
                    state.to_owned(),
                ]
            })
            .collect();
        let head = [
            "  ",
            "addresses",
            "place",
            "via",
            "weight",
            "load",
            "live flows",
            "last used",
            "",
        ];
        if rows.is_empty() {
            say!("  no running instance");
        } else {
            for line in screen.table(&head, &rows) {
                say!("{line}");
            }
        }
    }
    Ok(())
}

fn reload(options: &Options, format: Format) -> Outcome {
    let body = request(options, Method::POST, "/reload")?;
    if format.json {
        say!("{body}");
        return Ok(());
    }
    let report: Reloaded = serde_json::from_str(&body)?;
    match report.changed.as_slice() {
        [] => say!("nothing to take over"),
        fields => say!("taken over: {}", fields.join(", ")),
    }
    if !report.restart.is_empty() {
        say!(
            "after a restart (systemctl restart netmanager; containers and their flows stay): {}",
            report.restart.join(", ")
        );
    }
    for remark in report.remarks {
        eprintln!("NetManager: {remark}");
    }
    Ok(())
}
