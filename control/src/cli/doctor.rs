//! `doctor`: what is wrong with a live node, and what to do about it.
//!
//! It looks for itself (files, kernel settings, interfaces, rules, the broker's port) and asks the daemon for what only
//! that knows. So it has something to say while the daemon is down, which is when it is needed most.

mod cluster;
mod firewall;
mod machine;
mod network;
mod plane;

use std::collections::HashMap;
use std::net::IpAddr;

use hyper::Method;
use serde::Serialize;
use serde_json::{Value, json};

use super::client::ask;
use super::commands::{Outcome, say};
use super::screen::{Screen, Tone};
use super::{Format, Options, Said};
use crate::config::{Settings, Sources};
use crate::netlink::{Link, Netlink};
use crate::{host, instance};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    status: Health,
    finding: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// All findings, as they come.
#[derive(Debug, Default)]
struct Report(Vec<Finding>);

impl Report {
    fn ok(&mut self, check: &'static str, finding: impl Into<String>) {
        self.0.push(Finding {
            check,
            status: Health::Ok,
            finding: finding.into(),
            remedy: None,
        });
    }

    fn warn(&mut self, check: &'static str, finding: impl Into<String>, remedy: impl Into<String>) {
        self.push(check, Health::Warn, finding, remedy);
    }

    fn fail(&mut self, check: &'static str, finding: impl Into<String>, remedy: impl Into<String>) {
        self.push(check, Health::Fail, finding, remedy);
    }

    fn push(
        &mut self,
        check: &'static str,
        status: Health,
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Finding {
            check,
            status,
            finding: finding.into(),
            remedy: Some(remedy.into()),
        });
    }
}

/// What the checks go by.
struct Patient<'a> {
    options: &'a Options,
    settings: Settings,
    instance: String,
    /// The daemon's answer to `/status`; none while it is down.
    status: Option<Value>,
    /// A later one.
    later: Option<Value>,
    /// Its answer to `/peers`.
    peers: Vec<Value>,
    links: Vec<Link>,
    /// Global addresses of the links, by their index.
    addresses: HashMap<u32, Vec<IpAddr>>,
    /// Name of the interface of the default route.
    default_interface: Option<String>,
}

impl Patient<'_> {
    fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// What runs counts, should flags of the daemon's own have won over the files.
    fn believe_daemon(&mut self) {
        let Some(status) = &self.status else {
            return;
        };
        let tun = &mut self.settings.tun;
        let number = |field: &str| u16::try_from(status[field].as_u64()?).ok();
        tun.tunnel_port = number("tunnel_port").unwrap_or(tun.tunnel_port);
        tun.mtu = number("mtu").unwrap_or(tun.mtu);
        if let Some(name) = status["host_interface"].as_str() {
            name.clone_into(&mut tun.host_interface);
        }
    }

    /// Whether the node has its subnetwork, and with it rules and kernel settings.
    fn is_set_up(&self) -> bool {
        let subnetworks = self
            .status
            .as_ref()
            .and_then(|s| s["subnetworks"].as_array());
        subnetworks.is_some_and(|subnetworks| !subnetworks.is_empty())
    }

    fn list(&self, field: &str) -> impl Iterator<Item = &Value> {
        let list = self.status.as_ref().and_then(|s| s[field].as_array());
        list.into_iter().flatten()
    }
}

async fn examine(options: &Options, sources: &Sources, report: &mut Report) {
    let (settings, complaints) = sources.read();
    let body = ask(&options.socket, Method::GET, "/status").await;
    let mut patient = Patient {
        options,
        settings,
        instance: instance::id(&options.config),
        status: None,
        later: None,
        peers: Vec::new(),
        links: Vec::new(),
        addresses: HashMap::new(),
        default_interface: None,
    };
    match body {
        Ok(body) => {
            patient.status = serde_json::from_str(&body).ok();
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            let again = ask(&options.socket, Method::GET, "/status").await;
            patient.later = again.ok().and_then(|body| serde_json::from_str(&body).ok());
            let peers = ask(&options.socket, Method::GET, "/peers").await;
            patient.peers = peers
                .ok()
                .and_then(|body| serde_json::from_str(&body).ok())
                .unwrap_or_default();
            report.ok("daemon", "it answers");
        }
        Err(error) => {
            let text = error.to_string();
            let (finding, remedy) = text.split_once("; ").unwrap_or((&text, "start it"));
            report.fail("daemon", finding, remedy);
        }
    }
    patient.believe_daemon();
    if let Some(instance) = patient.status.as_ref().and_then(|s| s["instance"].as_str()) {
        instance.clone_into(&mut patient.instance);
    }
    if let Ok(netlink) = Netlink::open() {
        patient.links = netlink.links().await.unwrap_or_default();
        for link in &patient.links {
            let found = netlink
                .global_addresses(link.index)
                .await
                .unwrap_or_default();
            let found = found.into_iter().map(|(address, _)| address).collect();
            patient.addresses.insert(link.index, found);
        }
        patient.default_interface = host::default_interface(&netlink).await.ok().flatten();
    }
    machine::config(&patient, sources, &complaints, report);
    machine::files(&patient, report);
    cluster::look(&patient, report).await;
    network::look(&patient, report);
    firewall::look(&patient, report).await;
    machine::kernel(&patient, report);
    machine::resources(&patient, report);
    machine::clock(report);
    machine::wake_ups(&patient, report);
    plane::look(&patient, report);
}

pub(super) fn run(options: &Options, sources: &Sources, format: Format) -> Outcome {
    let mut report = Report::default();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(examine(options, sources, &mut report));
    let findings = report.0;
    let count = |status| findings.iter().filter(|f| f.status == status).count();
    let (failed, doubtful) = (count(Health::Fail), count(Health::Warn));
    if format.json {
        say!(
            "{:#}",
            json!({"ok": failed == 0, "failed": failed, "warnings": doubtful, "findings": findings})
        );
    } else {
        let screen = Screen::new();
        for finding in &findings {
            let (word, tone) = match finding.status {
                Health::Ok => ("ok  ", Tone::Good),
                Health::Warn => ("warn", Tone::Doubtful),
                Health::Fail => ("FAIL", Tone::Bad),
            };
            say!(
                "{}  {:<16} {}",
                screen.paint(tone, word),
                finding.check,
                finding.finding
            );
            if let Some(remedy) = &finding.remedy {
                say!(
                    "{:<23}{}",
                    "",
                    screen.paint(Tone::Head, &format!("-> {remedy}"))
                );
            }
        }
        say!(
            "{} looked at, {failed} failed, {doubtful} doubtful",
            findings.len()
        );
    }
    if failed > 0 { Err(Said.into()) } else { Ok(()) }
}
