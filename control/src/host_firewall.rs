//! The machine's own firewall, where it drops what is forwarded: Docker sets `iptables -P FORWARD DROP` on every host that
//! it runs on, and no rule in a table of ours can accept what a chain of another table drops. Docker leaves a chain for
//! others, `DOCKER-USER`; there, what comes from and goes to the host interface is accepted. Where the policy is another's
//! (ufw, firewalld), it stays, and is said.

use tokio::process::Command;

/// The programs, one for each address family.
const PROGRAMS: [&str; 2] = ["iptables", "ip6tables"];

async fn succeeds(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .arg("--wait")
        .args(arguments)
        .output()
        .await
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn rules(interface: &str) -> [[&str; 4]; 2] {
    [
        ["-i", interface, "-j", "ACCEPT"],
        ["-o", interface, "-j", "ACCEPT"],
    ]
}

fn rule<'a>(command: &'a str, rule: [&'a str; 4]) -> Vec<&'a str> {
    [&[command, "DOCKER-USER"][..], &rule[..]].concat()
}

/// Lets through what is forwarded from and to the host interface. Answers what is in the way and cannot be cleared.
pub async fn open(interface: &str) -> Option<String> {
    let mut closed = Vec::new();
    for program in PROGRAMS {
        let Some(listing) = succeeds(program, &["-S", "FORWARD"]).await else {
            continue;
        };
        if !drops(&listing) {
            continue;
        }
        if succeeds(program, &["-S", "DOCKER-USER"]).await.is_none() {
            if !accepts(&listing, interface) {
                closed.push(program);
            }
            continue;
        }
        for accept in rules(interface) {
            if succeeds(program, &rule("-C", accept)).await.is_some() {
                continue;
            }
            if succeeds(program, &rule("-I", accept)).await.is_some() {
                tracing::info!(
                    program,
                    interface,
                    "Docker's firewall drops what is forwarded; accepted in its chain DOCKER-USER for this node's containers"
                );
            } else {
                closed.push(program);
            }
        }
    }
    closed.dedup();
    let remedies: Vec<String> = closed
        .iter()
        .flat_map(|program| {
            ["-i", "-o"].map(|way| format!("{program} -I FORWARD {way} {interface} -j ACCEPT"))
        })
        .collect();
    (!remedies.is_empty()).then(|| {
        format!(
            "this machine's firewall drops what it forwards, so containers reach nothing outside and published ports nobody; allow it: {}",
            remedies.join("; ")
        )
    })
}

/// Takes back what [`open`] added.
pub async fn close(interface: &str) {
    for program in PROGRAMS {
        if succeeds(program, &["-S", "DOCKER-USER"]).await.is_none() {
            continue;
        }
        for accept in rules(interface) {
            while succeeds(program, &rule("-D", accept)).await.is_some() {}
        }
    }
}

/// Whether a chain's listing begins with a policy that drops.
fn drops(listing: &str) -> bool {
    listing.lines().any(|line| line.trim() == "-P FORWARD DROP")
}

/// Whether someone has accepted both directions already.
fn accepts(listing: &str, interface: &str) -> bool {
    ["-i", "-o"].iter().all(|way| {
        let wanted = format!("-A FORWARD {way} {interface} -j ACCEPT");
        listing.lines().any(|line| line.trim() == wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_off_the_listing() {
        let docker = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n";
        assert!(drops(docker));
        assert!(!drops("-P FORWARD ACCEPT\n-A FORWARD -j DROP\n"));
        assert!(!accepts(docker, "oak0"));
        let by_hand =
            "-P FORWARD DROP\n-A FORWARD -i oak0 -j ACCEPT\n-A FORWARD -o oak0 -j ACCEPT\n";
        assert!(accepts(by_hand, "oak0") && !accepts(by_hand, "oak1"));
    }
}
