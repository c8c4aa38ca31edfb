//! Writes Mosquitto's access rules: each certificate may use its own node's topics and no other's.
//!
//! With `use_identity_as_username true` the broker knows a client by its certificate's common name. A
//! worker's Net Manager and NodeEngine share one certificate, so both find their topics under
//! `nodes/<id>/`; the cluster service manager and the cluster orchestrator may share one as well.
//! The broker reads the file at its start and on SIGHUP.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use protocol::topic::{NodeTopic, is_valid_node_id, updates_available};

/// Writes the acl_file of Mosquitto (with use_identity_as_username true).
#[derive(Debug, Parser)]
#[command(name = "mosquitto-acl", version)]
struct Options {
    /// A worker: its certificate's common name, and its id (the client id of /register).
    #[arg(long = "node", value_name = "NAME=ID")]
    nodes: Vec<String>,
    /// More of them from a file, one NAME=ID a line; # begins a comment.
    #[arg(long, value_name = "FILE")]
    nodes_file: Option<PathBuf>,
    /// Also lets a certificate whose name is a node's id use that node's topics.
    #[arg(long)]
    name_is_id: bool,
    /// Certificate of the cluster service manager.
    #[arg(long, value_name = "NAME", default_value = "cluster_net")]
    manager: String,
    /// Certificate of the cluster orchestrator, where it is not the manager's.
    #[arg(long, value_name = "NAME")]
    orchestrator: Option<String>,
    /// Where to; standard output by default.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("`{0}` is not NAME=ID, a certificate's common name and a node's id")]
    Pair(String),
    #[error("`{0}` cannot be the name of a certificate here: empty, or with a control character")]
    Name(String),
    #[error("the certificate `{0}` is named for a manager and for a node")]
    Both(String),
    #[error("cannot use {}: {error}", path.display())]
    File {
        path: PathBuf,
        error: std::io::Error,
    },
}

/// What the cluster orchestrator hears of the NodeEngines, and tells them.
const ENGINE_TELLS: [&str; 3] = ["information", "job", "jobs/resources"];
const ENGINE_IS_TOLD: &str = "control/#";

fn main() -> ExitCode {
    let options = Options::parse();
    match rules(&options).and_then(|text| write(options.output.as_deref(), &text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            // Standard error closed: the exit code says it.
            let _ = writeln!(std::io::stderr(), "mosquitto-acl: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn name(text: &str) -> Result<String, Fault> {
    let text = text.trim();
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(Fault::Name(text.to_owned()));
    }
    Ok(text.to_owned())
}

fn pair(text: &str) -> Result<(String, String), Fault> {
    let (common_name, id) = text
        .split_once('=')
        .ok_or_else(|| Fault::Pair(text.to_owned()))?;
    let id = id.trim();
    // White space would end the topic, and Mosquitto's own placeholders begin with a percent sign.
    if !is_valid_node_id(id) || id.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Fault::Pair(text.to_owned()));
    }
    Ok((name(common_name)?, id.to_owned()))
}

fn rules(options: &Options) -> Result<String, Fault> {
    let mut listed = options.nodes.clone();
    if let Some(path) = &options.nodes_file {
        let text = std::fs::read_to_string(path).map_err(|error| Fault::File {
            path: path.clone(),
            error,
        })?;
        let lines = text.lines().map(str::trim);
        listed.extend(
            lines
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
                .map(str::to_owned),
        );
    }
    let manager = name(&options.manager)?;
    let orchestrator = match &options.orchestrator {
        Some(text) => name(text)?,
        None => manager.clone(),
    };
    // One certificate may belong to several nodes (a worker that was registered again).
    let mut nodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in &listed {
        let (common_name, id) = pair(text)?;
        if common_name == manager || common_name == orchestrator {
            return Err(Fault::Both(common_name));
        }
        nodes.entry(common_name).or_default().push(id);
    }

    let every_job = updates_available("+");
    let mut out =
        String::from("# Written by mosquitto-acl; needs use_identity_as_username true.\n");
    let mut line = |text: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{text}");
    };
    line(&format!("\nuser {manager}"));
    for topic in NodeTopic::FROM_NODE {
        line(&format!("topic read {}", topic.of_every_node()));
    }
    for topic in NodeTopic::TO_NODE {
        line(&format!("topic write {}", topic.of_every_node()));
    }
    line(&format!("topic write {every_job}"));
    if orchestrator != manager {
        line(&format!("\nuser {orchestrator}"));
    }
    for suffix in ENGINE_TELLS {
        line(&format!("topic read nodes/+/{suffix}"));
    }
    line(&format!("topic write nodes/+/{ENGINE_IS_TOLD}"));
    for (common_name, mut ids) in nodes {
        line(&format!("\nuser {common_name}"));
        ids.sort();
        ids.dedup();
        for id in ids {
            line(&format!("topic readwrite nodes/{id}/#"));
        }
        line(&format!("topic read {every_job}"));
    }
    if options.name_is_id {
        line("\npattern readwrite nodes/%u/#");
        line(&format!("pattern read {every_job}"));
    }
    Ok(out)
}

/// The broker never sees half a file.
fn write(to: Option<&Path>, text: &str) -> Result<(), Fault> {
    let Some(path) = to else {
        return std::io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| Fault::File {
                path: "standard output".into(),
                error,
            });
    };
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, text)
        .and_then(|()| std::fs::rename(&part, path))
        .map_err(|error| Fault::File {
            path: path.to_owned(),
            error,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(arguments: &[&str]) -> Result<String, Fault> {
        rules(&Options::parse_from(
            std::iter::once("mosquitto-acl").chain(arguments.iter().copied()),
        ))
    }

    #[test]
    fn a_node_gets_its_own_topics_and_hears_of_jobs() {
        let text = made(&["--node", "worker one=n1", "--node", "worker one=n2"]).unwrap();
        assert!(text.ends_with(
            "\nuser worker one\ntopic readwrite nodes/n1/#\ntopic readwrite nodes/n2/#\ntopic read jobs/+/updates_available\n"
        ));
        assert_eq!(text.matches("\nuser ").count(), 2);
        let apart = made(&["--orchestrator", "cluster"]).unwrap();
        assert!(apart.contains("\nuser cluster\ntopic read nodes/+/information\n"));
        assert!(!apart.contains("pattern"));
        assert!(
            made(&["--name-is-id"])
                .unwrap()
                .contains("\npattern readwrite nodes/%u/#\n")
        );
    }

    #[test]
    fn what_would_open_more_than_a_node_is_refused() {
        for bad in [
            "w",
            "w=",
            "=n1",
            "w=+",
            "w=#",
            "w=a/b",
            "w=a b",
            "w=a\ntopic #",
            "cluster_net=n1",
        ] {
            assert!(made(&["--node", bad]).is_err(), "{bad:?}");
        }
    }
}
