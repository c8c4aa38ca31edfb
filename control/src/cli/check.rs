//! `config check`: everything that is wrong with the settings, before a start finds out.

use std::collections::HashMap;
use std::io::Write;

use serde_json::json;

use super::commands::Outcome;
use super::{Format, Said};
use crate::config::{ConfigError, Settings, Sources, misfits};
use crate::host;
use crate::netlink::Netlink;

/// What the machine's interfaces say to the settings; nothing where they cannot be seen.
fn machine(sources: &Sources, settings: &Settings) -> (Vec<ConfigError>, Vec<ConfigError>) {
    let look = async {
        let netlink = Netlink::open().ok()?;
        let links = netlink.links().await.ok()?;
        let interfaces: HashMap<String, u32> = links
            .into_iter()
            .filter_map(|link| Some((link.name, link.mtu?)))
            .collect();
        let interface = host::default_interface(&netlink).await.ok().flatten();
        Some((interfaces, interface))
    };
    let seen = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()
        .and_then(|runtime| runtime.block_on(look));
    match seen {
        Some((interfaces, interface)) => {
            misfits(sources, settings, &interfaces, interface.as_deref())
        }
        None => (Vec::new(), Vec::new()),
    }
}

/// Checks both files and what wins over them.
pub(super) fn run(sources: &Sources, format: Format) -> Outcome {
    let (settings, mut complaints) = sources.read();
    let (errors, warnings) = machine(sources, &settings);
    complaints.errors.append(&mut complaints.slips);
    complaints.errors.extend(errors);
    complaints.warnings.extend(warnings);
    let in_order = complaints.errors.is_empty();
    let mut out = std::io::stdout();
    if format.json {
        let list = |complaints: &[ConfigError]| -> Vec<_> {
            complaints.iter().map(ConfigError::json).collect()
        };
        let overrides: Vec<_> = sources
            .overrides
            .iter()
            .map(|given| json!({"field": given.setting.field, "given": given.source()}))
            .collect();
        let report = json!({
            "ok": in_order,
            "files": [
                {"file": sources.config, "present": sources.config.exists()},
                {"file": sources.tun_config, "present": settings.tun_present},
            ],
            "overrides": overrides,
            "errors": list(&complaints.errors),
            "warnings": list(&complaints.warnings),
        });
        writeln!(out, "{report:#}")?;
        return if in_order { Ok(()) } else { Err(Said.into()) };
    }
    for warning in &complaints.warnings {
        eprintln!("NetManager: warning: {warning}");
    }
    if !in_order {
        for error in &complaints.errors {
            eprintln!("NetManager: {error}");
        }
        return Err(Said.into());
    }
    writeln!(out, "{}: in order", sources.config.display())?;
    if settings.tun_present {
        writeln!(out, "{}: in order", sources.tun_config.display())?;
    } else {
        writeln!(
            out,
            "{}: not there; the defaults hold",
            sources.tun_config.display()
        )?;
    }
    for given in &sources.overrides {
        let field = given.setting.field;
        writeln!(out, "{field} by {}", given.source())?;
    }
    let Settings { net, tun, .. } = settings;
    writeln!(
        out,
        "broker {} port {}, tunnel on UDP port {} announced as {}, host interface {}, MTU {}",
        net.cluster_host.as_deref().unwrap_or("as /register says"),
        net.cluster_port,
        tun.tunnel_port,
        net.public_port,
        tun.host_interface,
        tun.mtu
    )?;
    Ok(())
}
