//! Unikernels: a virtual machine has no process namespace to attach to, so a network namespace is made for it, with a
//! bridge and a tap for the machine, and the instance's address is translated to the machine's (contract section 4).

use std::os::fd::AsRawFd;
use std::path::Path;

use super::AttachError;
use super::namespace::{Namespace, host_mounts};
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

async fn ip(arguments: &[&str]) -> Result<(), AttachError> {
    run(tokio::process::Command::new("ip"), arguments).await
}

/// As [`ip`], with the host's mounts: the machine's emulator enters the namespace by its name.
async fn ip_of_host(arguments: &[&str]) -> Result<(), AttachError> {
    let Some(mounts) = host_mounts() else {
        return ip(arguments).await;
    };
    let mut command = tokio::process::Command::new("nsenter");
    let mounts = format!("/proc/{}/fd/{}", std::process::id(), mounts.as_raw_fd());
    command.arg(format!("--mount={mounts}")).args(["--", "ip"]);
    run(command, arguments).await
}

async fn run(mut command: tokio::process::Command, arguments: &[&str]) -> Result<(), AttachError> {
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
    let owned = name.to_owned();
    undo.push("remove the namespace", async move {
        remove(&owned).await.map_err(|error| error.to_string())
    });
    let made = ip_of_host(&["netns", "add", name]).await;
    if let (Ok(()), Ok(namespace)) = (&made, Namespace::named(name)) {
        return Ok(namespace);
    }
    if host_mounts().is_none() {
        made?;
        return Namespace::named(name).map_err(AttachError::Namespace);
    }
    let reason = made.err().map(|error| error.to_string());
    tracing::warn!(
        name,
        reason,
        "the namespace is seen by this Net Manager alone: it runs with mounts of its own and may not use the host's; let it keep CAP_SYS_ADMIN and CAP_SYS_PTRACE, or start it without mounts of its own"
    );
    let _ = ip_of_host(&["netns", "delete", name]).await;
    ip(&["netns", "add", name]).await?;
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
    if !Path::new("/run/netns").join(name).exists() {
        return Ok(());
    }
    // Where it is mounted for this process alone, the host has nothing to take away but the file.
    match ip_of_host(&["netns", "delete", name]).await {
        Err(_) if host_mounts().is_some() => ip(&["netns", "delete", name]).await,
        outcome => outcome,
    }
}
