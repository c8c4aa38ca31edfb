//! Unikernels: a virtual machine has no process namespace to attach to, so a network namespace is made for it, with a
//! bridge and a tap for the machine, and the instance's address is translated to the machine's (contract section 4).

use super::AttachError;
use super::namespace::Namespace;
use super::undo::Undo;
use crate::firewall;
use crate::forwarding::Pair;

/// Address of the machine behind the bridge.
const MACHINE: &str = "192.168.1.2";
/// Address of the bridge.
const BRIDGE: &str = "192.168.1.1/30";

/// The namespace's name.
pub fn namespace_name(job: &str, number: u32) -> String {
    format!("{job}.instance.{number}")
}

/// Whether this process sees the file system by a copy of the host's view, as a hardened unit or `ip netns exec` gives
/// it: what the host mounts is seen here, and nothing the other way.
fn host_has_own_view() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let view = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    root_follows(&mounts) && view("1").is_some_and(|host| Some(host) != view("self"))
}

/// Whether the root mount is a slave (proc(5), `mountinfo`).
fn root_follows(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(4);
        fields.next() == Some("/")
            && fields
                .take_while(|field| *field != "-")
                .any(|field| field.starts_with("master:"))
    })
}

async fn ip(arguments: &[&str]) -> Result<(), AttachError> {
    // A namespace's name is a mount, and the machine is started by someone in the host's view.
    let named_at_host = arguments.first() == Some(&"netns") && host_has_own_view();
    let mut command = tokio::process::Command::new(if named_at_host { "nsenter" } else { "ip" });
    if named_at_host {
        command.args(["--target", "1", "--mount", "--", "ip"]);
    }
    let output = command.args(arguments).output().await.map_err(|error| {
        AttachError::Command(format!("ip could not be run: {error}; install iproute2"))
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(AttachError::Command(format!(
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

/// Makes the namespace, anew if there is one of that name.
pub async fn make(name: &str, undo: &mut Undo) -> Result<Namespace, AttachError> {
    remove(name).await?;
    ip(&["netns", "add", name]).await?;
    let owned = name.to_owned();
    undo.push("remove the namespace", async move {
        remove(&owned).await.map_err(|error| error.to_string())
    });
    Namespace::named(name).map_err(AttachError::Namespace)
}

/// Puts bridge, tap and translation into the namespace.
pub async fn furnish(namespace: &Namespace, address: Pair, name: &str) -> Result<(), AttachError> {
    for arguments in [
        &["link", "add", "virbr0", "type", "bridge"][..],
        &["address", "add", BRIDGE, "dev", "virbr0"],
        &["link", "set", "virbr0", "up"],
        &["tuntap", "add", "dev", "tap0", "mode", "tap"],
        &["link", "set", "tap0", "master", "virbr0"],
        &["link", "set", "tap0", "up"],
    ] {
        let mut whole = vec!["-n", name];
        whole.extend_from_slice(arguments);
        ip(&whole).await?;
    }
    let Some(v4) = address.v4 else { return Ok(()) };
    let rules = format!(
        "table ip oakestra {{\n\
         chain prerouting {{ type nat hook prerouting priority -100; ip daddr {v4} dnat to {MACHINE}; }}\n\
         chain output {{ type nat hook output priority -100; ip daddr {v4} dnat to {MACHINE}; }}\n\
         chain postrouting {{ type nat hook postrouting priority 100; ip saddr {MACHINE} oifname != \"virbr0\" snat to {v4}; }}\n}}\n"
    );
    let runtime = tokio::runtime::Handle::current();
    namespace
        .run(move || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            Ok::<_, std::io::Error>(runtime.block_on(firewall::run(&rules)))
        })
        .await
        .and_then(|inner| inner)
        .map_err(AttachError::Namespace)??;
    Ok(())
}

/// Removes the namespace; one that is gone is no error.
pub async fn remove(name: &str) -> Result<(), AttachError> {
    if std::path::Path::new("/run/netns").join(name).exists() {
        ip(&["netns", "delete", name]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_that_follows_the_hosts_is_known() {
        let line = |optional: &str| {
            format!(
                "1 2 8:1 /tmp /tmp rw master:3 - ext4 /dev/a rw\n28 1 8:1 / / rw,relatime{optional} - ext4 /dev/a rw\n"
            )
        };
        assert!(root_follows(&line(" master:1")));
        assert!(root_follows(&line(" shared:40 master:1")));
        assert!(!root_follows(&line(" shared:1")));
        assert!(!root_follows(&line("")));
        assert!(!root_follows(""));
    }
}
