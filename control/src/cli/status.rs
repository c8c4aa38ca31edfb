//! `status`: a node on one screen.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::commands::{Outcome, numbers, request, say, text};
use super::rates::{Rates, Stream};
use super::screen::{Screen, Tone, ago, short};
use super::{Format, Options};

/// Between the two looks that rates are made of.
const APART: Duration = Duration::from_millis(500);

pub(super) fn run(options: &Options, format: Format) -> Outcome {
    let look = || -> Result<Value, Box<dyn std::error::Error>> {
        let body = request(options, hyper::Method::GET, "/status")?;
        Ok(serde_json::from_str(&body)?)
    };
    let (before, then) = (look()?, Instant::now());
    std::thread::sleep(APART);
    let mut status = look()?;
    let rates = Rates::between(&before, &status, then.elapsed().as_secs_f64());
    if format.json {
        status["rates"] = serde_json::to_value(&rates)?;
        say!("{status}");
        return Ok(());
    }
    let screen = Screen::new();
    node(&status, screen)?;
    link(&status["link"], screen)?;
    let dataplane = &status["dataplane"];
    if dataplane.is_null() {
        say!(
            "data plane   {}",
            screen.paint(Tone::Bad, "does not answer")
        );
    } else {
        data_plane(&status, &rates, screen)?;
    }
    containers(&status, &rates, screen)
}

fn node(status: &Value, screen: Screen) -> Outcome {
    say!("version      {}", text(status, "version"));
    say!("instance     {}", text(status, "instance"));
    let up = if status["up"] == true {
        screen.paint(Tone::Good, "yes")
    } else {
        screen.paint(Tone::Bad, "no")
    };
    let uptime = status["uptime_seconds"].as_u64().unwrap_or(0);
    say!("up           {up}, started {} ago", ago(uptime));
    say!("node id      {}", text(status, "client_id"));
    say!(
        "announced    {} port {}",
        text(status, "public_address"),
        status["public_port"]
    );
    say!(
        "ports        tunnel UDP {}, host interface {} ({}), MTU {}",
        status["tunnel_port"],
        text(status, "host_interface"),
        text(status, "host_port"),
        status["mtu"]
    );
    say!("uplink       {}", text(status, "uplink"));
    if let Some(problem) = status["host_firewall"].as_str() {
        say!("firewall     {}", screen.paint(Tone::Doubtful, problem));
    }
    for subnetwork in status["subnetworks"].as_array().into_iter().flatten() {
        say!("subnetwork   {}", subnetwork.as_str().unwrap_or("-"));
    }
    names(&status["dns"], screen)
}

/// Where services' names are answered, and where they cannot be.
fn names(dns: &Value, screen: Screen) -> Outcome {
    let texts = |field: &str| -> Vec<String> {
        let all = dns[field].as_array().into_iter().flatten();
        all.filter_map(|text| Some(text.as_str()?.to_owned()))
            .collect()
    };
    let listening = texts("listening");
    if !listening.is_empty() {
        say!("names        by DNS on {}", listening.join(" "));
    }
    for problem in texts("problems") {
        say!("names        {}", screen.paint(Tone::Doubtful, &problem));
    }
    Ok(())
}

fn link(link: &Value, screen: Screen) -> Outcome {
    let state = if link["connected"] == true {
        screen.paint(Tone::Good, "connected")
    } else {
        screen.paint(Tone::Bad, "down")
    };
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let since = link["since"].as_u64().map_or_else(String::new, |since| {
        format!(" since {}", ago(now.saturating_sub(since)))
    });
    say!(
        "cluster link {state}{since}, broker {}, {} connections",
        text(link, "broker"),
        link["connections"]
    );
    if let Some(error) = link["last_error"].as_str() {
        say!("             {}", screen.paint(Tone::Doubtful, error));
    }
    say!(
        "             {} jobs followed, {} queries under way, {} announcements unconfirmed, {} malformed messages",
        link["jobs"].as_array().map_or(0, Vec::len),
        link["queries"],
        link["unconfirmed"],
        link["malformed"]
    );
    Ok(())
}

fn stream(stream: Stream) -> String {
    let bits = stream
        .bits_per_second
        .map_or_else(String::new, |bits| format!(", {} bit/s", short(bits)));
    format!("{} packets/s{bits}", short(stream.packets_per_second))
}

/// Rates in lines, for `status` and for `top` in a pipe.
pub(super) fn rate_lines(rates: &Rates) -> Vec<String> {
    let cores = rates.cores.iter().map(|core| {
        format!(
            "core         worker {}: {:.0} % busy, {} flows",
            core.worker,
            core.busy * 100.0,
            core.flows
        )
    });
    let roles = rates.roles.iter().map(|(role, streams)| {
        format!(
            "rate         {role}: in {}; out {}",
            stream(streams.received),
            stream(streams.sent)
        )
    });
    let containers = rates.containers.iter().map(|c| {
        format!(
            "rate         {} instance {}: from {}; to {}",
            c.job,
            c.instance,
            stream(c.from),
            stream(c.to)
        )
    });
    let services = rates.services.iter().map(|s| {
        format!(
            "rate         {} by {}: {} new flows/s, {} packets/s, {} live",
            s.job,
            s.policy,
            short(s.flows_per_second),
            short(s.packets_per_second),
            s.live
        )
    });
    let drops = rates
        .drops
        .iter()
        .map(|(reason, rate)| format!("rate         dropped {reason}: {} packets/s", short(*rate)));
    cores
        .chain(roles)
        .chain(containers)
        .chain(services)
        .chain(drops)
        .collect()
}

fn data_plane(status: &Value, rates: &Rates, screen: Screen) -> Outcome {
    let dataplane = &status["dataplane"];
    say!(
        "data plane   {} workers, {} of {} flows, {} packets waiting, memory: {}",
        dataplane["workers"],
        dataplane["flows"],
        dataplane["flow_capacity"],
        dataplane["waiting"],
        text(dataplane, "memory")
    );
    let brief = Rates {
        containers: Vec::new(),
        services: Vec::new(),
        ..rates.clone()
    };
    for line in rate_lines(&brief) {
        say!("{line}");
    }
    for (label, field) in [
        ("received", "received"),
        ("made", "made"),
        ("sent", "sent"),
        ("dropped", "drops"),
        ("consumed", "consumed"),
        ("events", "events"),
    ] {
        let counts = numbers(&dataplane[field]);
        let shown = if field == "drops" && counts != "none" {
            screen.paint(Tone::Doubtful, &counts)
        } else {
            counts
        };
        say!("{label:<12} {shown}");
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
    for device in dataplane["devices"].as_array().into_iter().flatten() {
        let mut counts = device.clone();
        if let Some(counts) = counts.as_object_mut() {
            counts.retain(|_, value| value.is_u64());
        }
        say!(
            "device       {} ({}): {}",
            text(device, "device"),
            text(device, "role"),
            numbers(&counts)
        );
    }
    Ok(())
}

fn containers(status: &Value, rates: &Rates, screen: Screen) -> Outcome {
    let counted = &status["dataplane"]["containers"];
    let attached = status["containers"].as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> = attached
        .map(|container| {
            let interface = text(container, "interface");
            let mut ports: Vec<&str> = Vec::new();
            let published = container["ports"].as_array().into_iter().flatten();
            ports.extend(published.filter_map(Value::as_str));
            let totals = counted.as_array().into_iter().flatten();
            let total = totals
                .into_iter()
                .find(|port| text(port, "interface") == interface)
                .cloned()
                .unwrap_or_default();
            let rate = rates.containers.iter().find(|c| c.interface == interface);
            let per_second = |of: fn(&super::rates::Container) -> Stream| {
                rate.map_or_else(|| "-".to_owned(), |c| short(of(c).packets_per_second))
            };
            let sum = |field: &str| total[field].as_u64().unwrap_or(0).to_string();
            vec![
                text(container, "job").to_owned(),
                container["instance"].to_string(),
                text(container, "addresses").to_owned(),
                interface.to_owned(),
                container["pid"].to_string(),
                sum("packets_in"),
                per_second(|c| c.from),
                sum("packets_out"),
                per_second(|c| c.to),
                sum("refused"),
                ports.join(" "),
            ]
        })
        .collect();
    if rows.is_empty() {
        say!("containers   none");
        return Ok(());
    }
    let head = [
        "container",
        "instance",
        "addresses",
        "interface",
        "pid",
        "from",
        "/s",
        "to",
        "/s",
        "refused",
        "published",
    ];
    for line in screen.table(&head, &rows) {
        say!("{line}");
    }
    let attached = status["containers"].as_array().into_iter().flatten();
    for container in attached.filter(|container| !container["vhost_user"].is_null()) {
        let machine = &container["vhost_user"];
        let state = match machine["connected"].as_bool() {
            Some(true) => screen.paint(Tone::Good, "connected"),
            Some(false) => screen.paint(Tone::Doubtful, "nothing connected"),
            None => "-".to_owned(),
        };
        say!(
            "vhost-user   {} instance {}: {state}, MAC {}, socket {}",
            text(container, "job"),
            container["instance"],
            text(machine, "mac"),
            text(machine, "socket")
        );
    }
    Ok(())
}
