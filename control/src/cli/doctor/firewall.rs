//! Rules: our own tables, and others' that stand in the way.

use serde_json::Value;

use super::{Patient, Report};

const CHECK: &str = "firewall";

/// The whole rule set, as nft lists it.
async fn ruleset() -> Result<Vec<Value>, String> {
    let output = tokio::process::Command::new("nft")
        .args(["-j", "list", "ruleset"])
        .output()
        .await
        .map_err(|error| format!("nft could not be run: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let listed: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    Ok(listed["nftables"].as_array().cloned().unwrap_or_default())
}

pub(super) async fn look(patient: &Patient<'_>, report: &mut Report) {
    let rules = match ruleset().await {
        Ok(rules) => rules,
        Err(problem) => {
            report.fail(
                CHECK,
                format!("the rules cannot be listed: {problem}"),
                "install nftables, and run this as root",
            );
            return;
        }
    };
    ours(patient, &rules, report);
    let host = &patient.settings.tun.host_interface;
    let port = patient.settings.tun.tunnel_port;
    blocked_forwarding(&rules, host, report);
    legacy(host, report).await;
    blocked_input(&rules, port, report);
}

/// Our own tables (see `firewall` of this crate).
fn ours(patient: &Patient<'_>, rules: &[Value], report: &mut Report) {
    if !patient.is_set_up() {
        return;
    }
    let again = "systemctl restart netmanager puts it back; containers and their flows stay (does something run `nft flush ruleset`?)";
    let table = format!("oakestra_{}", patient.instance.replace('-', "_"));
    let has_chain = |family: &str, chain: &str| {
        rules.iter().any(|item| {
            let item = &item["chain"];
            item["family"] == family && item["table"] == table.as_str() && item["name"] == chain
        })
    };
    let lacking: Vec<&str> = ["prerouting", "output", "postrouting"]
        .into_iter()
        .filter(|chain| !has_chain("inet", chain))
        .collect();
    if !lacking.is_empty() {
        report.fail(
            CHECK,
            format!(
                "our table inet {table} is gone or lacks {}: no masquerading, no published ports",
                lacking.join(", ")
            ),
            again,
        );
        return;
    }
    let bare: Vec<&str> = patient
        .list("containers")
        // What a machine behind a socket sends, the kernel never sees.
        .filter(|container| container["vhost_user"].is_null())
        .filter_map(|container| container["interface"].as_str())
        .filter(|interface| !has_chain("netdev", interface))
        .collect();
    if bare.is_empty() {
        report.ok(CHECK, format!("our table {table} stands"));
    } else {
        report.fail(
            CHECK,
            format!("table netdev {table} has no chain for {}: the kernel sees what these containers send", bare.join(", ")),
            again,
        );
    }
}

/// Whether a rule matches everything and ends it.
fn refuses_all(rule: &Value) -> bool {
    let parts: Vec<&Value> = rule["expr"].as_array().into_iter().flatten().collect();
    let ends = |part: &&Value| part.get("drop").is_some() || part.get("reject").is_some();
    parts.iter().any(ends) && !parts.iter().any(|part| part.get("match").is_some())
}

/// Chains at a hook that refuse what no rule of theirs accepts: family, table, chain.
fn refusing<'a>(
    rules: &'a [Value],
    hook: &'a str,
) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
    rules.iter().filter_map(move |item| {
        let chain = &item["chain"];
        if chain["hook"] != hook || chain["type"] != "filter" {
            return None;
        }
        let place = (
            chain["family"].as_str()?,
            chain["table"].as_str()?,
            chain["name"].as_str()?,
        );
        let last = rules
            .iter()
            .filter_map(|item| item.get("rule"))
            .rfind(|rule| is_in(rule, place.0, place.1) && rule["chain"] == place.2);
        let refuses = chain["policy"] == "drop" || last.is_some_and(refuses_all);
        refuses.then_some(place)
    })
}

fn is_in(rule: &Value, family: &str, table: &str) -> bool {
    rule["family"] == family && rule["table"] == table
}

/// Whether a rule of the table accepts something that names `word` (an interface or a port).
fn accepts(rules: &[Value], family: &str, table: &str, word: &Value) -> bool {
    fn names(value: &Value, word: &Value) -> bool {
        match value {
            Value::Array(list) => list.iter().any(|value| names(value, word)),
            Value::Object(map) => map.values().any(|value| names(value, word)),
            other => other == word,
        }
    }
    rules
        .iter()
        .filter_map(|item| item.get("rule"))
        .any(|rule| {
            let parts = rule["expr"].as_array();
            is_in(rule, family, table)
                && parts.is_some_and(|parts| parts.iter().any(|part| part.get("accept").is_some()))
                && names(&rule["expr"], word)
        })
}

fn blocked_forwarding(rules: &[Value], host: &str, report: &mut Report) {
    let mut free = true;
    for (family, table, chain) in refusing(rules, "forward") {
        if accepts(rules, family, table, &Value::from(host)) {
            continue;
        }
        free = false;
        let docker = rules.iter().any(|item| {
            let other = &item["chain"];
            other["family"] == family && other["table"] == table && other["name"] == "DOCKER-USER"
        });
        let remedy = match (family, table) {
            ("ip" | "ip6", "filter") => {
                let program = if family == "ip" {
                    "iptables"
                } else {
                    "ip6tables"
                };
                let chain = if docker { "DOCKER-USER" } else { chain };
                format!(
                    "{program} -I {chain} -i {host} -j ACCEPT; {program} -I {chain} -o {host} -j ACCEPT"
                )
            }
            _ => format!(
                "nft insert rule {family} {table} {chain} iifname {host} accept; nft insert rule {family} {table} {chain} oifname {host} accept"
            ),
        };
        let who = if docker { " (Docker's)" } else { "" };
        report.fail(
            "forwarding",
            format!("chain {chain} of table {family} {table}{who} drops what it does not know: containers reach nothing outside, and published ports are closed"),
            remedy,
        );
    }
    if free {
        report.ok("forwarding", "no chain of nftables stops it");
    }
}

/// The older kernel interface, which nft does not list.
async fn legacy(host: &str, report: &mut Report) {
    let loaded =
        std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    if !loaded.lines().any(|table| table == "filter") {
        return;
    }
    let listed = tokio::process::Command::new("iptables-legacy")
        .args(["-S", "FORWARD"])
        .output()
        .await;
    let Ok(listed) = listed else {
        return;
    };
    let rules = String::from_utf8_lossy(&listed.stdout);
    let accepted = rules
        .lines()
        .any(|rule| rule.contains(&format!(" {host} ")) && rule.contains("ACCEPT"));
    if rules.contains("-P FORWARD DROP") && !accepted {
        report.fail(
            "forwarding",
            "chain FORWARD of iptables (legacy) drops what it does not know",
            format!("iptables-legacy -I FORWARD -i {host} -j ACCEPT; iptables-legacy -I FORWARD -o {host} -j ACCEPT"),
        );
    }
}

fn blocked_input(rules: &[Value], port: u16, report: &mut Report) {
    for (family, table, chain) in refusing(rules, "input") {
        if !accepts(rules, family, table, &Value::from(port)) {
            report.warn(
                CHECK,
                format!("chain {chain} of table {family} {table} drops what it does not know, and no rule of it names UDP {port}: other nodes may not reach this one"),
                format!("accept it, as in: nft insert rule {family} {table} {chain} udp dport {port} accept"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_chain_refuses_by_policy_or_by_its_last_rule_unless_it_accepts_us() {
        let chain = |policy: &str| json!({"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "type": "filter", "hook": "forward", "policy": policy}});
        let rule = |expr: Value| json!({"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "expr": expr}});
        let oak =
            json!({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "oak0"}});
        let found = |rules: &[Value]| {
            let mut report = Report::default();
            blocked_forwarding(rules, "oak0", &mut report);
            report
                .0
                .iter()
                .any(|f| f.status == super::super::Health::Fail)
        };
        assert!(found(&[chain("drop")]));
        assert!(!found(&[chain("accept")]));
        assert!(found(&[chain("accept"), rule(json!([{"reject": null}]))]));
        assert!(!found(&[
            chain("accept"),
            rule(json!([oak, {"drop": null}]))
        ]));
        assert!(!found(&[
            chain("drop"),
            rule(json!([oak, {"accept": null}]))
        ]));
    }
}
