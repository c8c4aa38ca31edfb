//! Settings, files, kernel settings, memory, disks and the clock.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::statvfs::statvfs;

use super::{Patient, Report};
use crate::config::{Complaints, ConfigError, Sources, misfits};
use crate::cpu_latency;

/// Splits what a complaint says into what is wrong and what to do.
fn split(error: &ConfigError) -> (String, String) {
    let text = error.to_string();
    match text.rsplit_once("; ") {
        Some((problem, remedy)) => (problem.to_owned(), remedy.to_owned()),
        None => (text, "correct it".to_owned()),
    }
}

pub(super) fn config(
    patient: &Patient<'_>,
    sources: &Sources,
    complaints: &Complaints,
    report: &mut Report,
) {
    const CHECK: &str = "config";
    let interfaces = patient
        .links
        .iter()
        .filter_map(|link| Some((link.name.clone(), link.mtu?)))
        .collect();
    let default = patient.default_interface.as_deref();
    // That the MTU does not fit is said by the check of the underlay.
    let (_, doubtful) = misfits(sources, &patient.settings, &interfaces, default);
    for error in complaints.errors.iter().chain(&complaints.slips) {
        let (problem, remedy) = split(error);
        report.fail(CHECK, problem, remedy);
    }
    let doubtful = doubtful
        .iter()
        .filter(|doubt| !doubt.to_string().contains("MTUSize"));
    for warning in complaints.warnings.iter().chain(doubtful) {
        let (problem, remedy) = split(warning);
        report.warn(CHECK, problem, remedy);
    }
    if complaints.errors.is_empty() && complaints.slips.is_empty() {
        report.ok(CHECK, format!("{} is in order", sources.config.display()));
    }
}

fn mode(path: &Path) -> Option<u32> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    Some(mode & 0o777)
}

pub(super) fn files(patient: &Patient<'_>, report: &mut Report) {
    const CHECK: &str = "permissions";
    if !nix::unistd::geteuid().is_root() {
        report.warn(
            CHECK,
            "this is not run as root, so not everything can be seen",
            "run it as root (sudo)",
        );
    }
    let before = report.0.len();
    let net = &patient.settings.net;
    let mut secrets = Vec::new();
    if let Some(tls) = &net.tls {
        secrets.push(("the node's key", tls.key.as_path()));
    }
    if net.api_token.is_some() {
        secrets.push(("the token", patient.options.config.as_path()));
    }
    for (what, path) in secrets {
        if mode(path).is_some_and(|mode| mode & 0o077 != 0) {
            report.warn(
                CHECK,
                format!("others may read {what} in {}", path.display()),
                format!("chmod 600 {}", path.display()),
            );
        }
    }
    let config = patient.options.config.as_path();
    if mode(config).is_some_and(|mode| mode & 0o022 != 0) {
        report.warn(
            CHECK,
            format!("others may write {}", config.display()),
            format!("chmod 644 {}", config.display()),
        );
    }
    let socket = patient.options.socket.as_path();
    if patient.status.is_some() && mode(socket).is_some_and(|mode| mode & 0o007 != 0) {
        report.warn(
            CHECK,
            format!(
                "everybody may use {}, and so be root here",
                socket.display()
            ),
            format!("chmod 660 {}", socket.display()),
        );
    }
    let state = patient.options.state_dir.as_path();
    if state.exists() && nix::unistd::access(state, nix::unistd::AccessFlags::W_OK).is_err() {
        report.fail(
            CHECK,
            format!(
                "{} cannot be written: a restart would forget what is attached",
                state.display()
            ),
            "make it writable for the Net Manager (is the file system read-only?)",
        );
    }
    if report.0.len() == before {
        report.ok(CHECK, "of the settings, the socket and the state");
    }
}

fn setting(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
    Some(text.trim().to_owned())
}

/// Kernel settings that forwarding needs; the node sets them once it has its subnetwork.
pub(super) fn kernel(patient: &Patient<'_>, report: &mut Report) {
    const CHECK: &str = "kernel settings";
    if !patient.is_set_up() {
        return;
    }
    let host = &patient.settings.tun.host_interface;
    let before = report.0.len();
    for (name, what) in [
        (
            "ipv4/ip_forward",
            "containers reach nothing outside, and published ports are closed",
        ),
        ("ipv6/conf/all/forwarding", "the same over IPv6"),
    ] {
        if setting(name).is_some_and(|value| value == "0") {
            report.fail(
                CHECK,
                format!("{} is 0: {what}", name.replace('/', ".")),
                format!(
                    "sysctl -w net.{}=1 (and see who turned it off: /etc/sysctl.d)",
                    name.replace('/', ".")
                ),
            );
        }
    }
    if setting(&format!("ipv4/conf/{host}/rp_filter")).is_some_and(|value| value == "1") {
        report.warn(
            CHECK,
            format!("rp_filter of {host} is strict: answers that come another way are dropped"),
            format!("sysctl -w net.ipv4.conf.{host}.rp_filter=2"),
        );
    }
    if report.0.len() == before {
        report.ok(CHECK, "forwarding is on");
    }
}

/// Megabytes of hugepages: reserved, and free.
fn hugepages() -> (u64, u64) {
    let mut sums = (0, 0);
    for folder in std::fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = folder.file_name().to_string_lossy().into_owned();
        let size = name
            .strip_prefix("hugepages-")
            .and_then(|rest| rest.strip_suffix("kB"))
            .and_then(|size| size.parse::<u64>().ok());
        let read = |file: &str| {
            std::fs::read_to_string(folder.path().join(file))
                .ok()
                .and_then(|text| text.trim().parse::<u64>().ok())
                .unwrap_or(0)
        };
        if let Some(size) = size {
            sums.0 += (size * read("nr_hugepages")) >> 10;
            sums.1 += (size * read("free_hugepages")) >> 10;
        }
    }
    sums
}

pub(super) fn resources(patient: &Patient<'_>, report: &mut Report) {
    let (reserved, free) = hugepages();
    let memory = patient
        .status
        .as_ref()
        .and_then(|status| status["dataplane"]["memory"].as_str())
        .filter(|memory| !memory.is_empty());
    match (memory, patient.settings.net.dataplane.hugepage_mb) {
        (Some(memory), _) if memory.starts_with("no-huge") && reserved > 0 => report.warn(
            "hugepages",
            format!("{reserved} MB are reserved, and not used: {memory}"),
            "reserve more with scripts/hugepages and restart, or give these back",
        ),
        (Some(memory), _) => report.ok("hugepages", memory),
        (None, Some(wanted)) if u64::from(wanted) > free => report.fail(
            "hugepages",
            format!("HugepageMb asks for {wanted} MB, and {free} MB are free"),
            "reserve them with scripts/hugepages, or set HugepageMb to 0",
        ),
        (None, _) => report.ok("hugepages", format!("{free} MB of {reserved} MB are free")),
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = patient
        .status
        .as_ref()
        .and_then(|status| usize::try_from(status["dataplane"]["workers"].as_u64()?).ok())
        .or(patient.settings.net.dataplane.workers)
        .unwrap_or(1);
    if workers >= cores && cores > 1 {
        report.warn(
            "cores",
            format!("{workers} workers on {cores} cores leave none for the rest"),
            "set Dataplane.Workers to less, or Dataplane.Idle to backoff",
        );
    } else {
        report.ok("cores", format!("{workers} workers, {cores} cores"));
    }
    for (what, path) in [
        ("state", patient.options.state_dir.as_path()),
        ("log", patient.options.log.as_path()),
    ] {
        room(what, path, report);
    }
}

/// Megabytes below which writing is about to fail, and below which it is time to look.
const NO_ROOM: u64 = 16;
const LITTLE_ROOM: u64 = 256;

fn room(what: &str, path: &Path, report: &mut Report) {
    let Some(there) = path.ancestors().find(|path| path.exists()) else {
        return;
    };
    let Ok(disk) = statvfs(there) else {
        return;
    };
    let megabytes = (disk.blocks_available() * disk.fragment_size()) >> 20;
    let finding = format!(
        "{megabytes} MB are left for the {what} at {}",
        there.display()
    );
    let remedy = "make room, or move it (--state-dir, --log)";
    match megabytes {
        0..NO_ROOM => report.fail("disk", finding, remedy),
        NO_ROOM..LITTLE_ROOM => report.warn("disk", finding, remedy),
        _ => report.ok("disk", finding),
    }
}

/// Whether the clock is kept. Certificates go by it, and so does the order of this node's messages over restarts.
pub(super) fn clock(report: &mut Report) {
    const CHECK: &str = "clock";
    // Seconds of Unix time before which this program did not exist.
    const BUILT_AFTER: u64 = 1_735_689_600;
    if crate::state::now() < BUILT_AFTER {
        return report.fail(
            CHECK,
            "it is years behind: certificates fail, and the cluster takes this node's messages for old ones",
            "set it, and keep it by NTP: timedatectl set-ntp true",
        );
    }
    let kept = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .output()
        .ok()
        .filter(|output| output.status.success());
    match kept.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()) {
        Some(answer) if answer == "yes" => report.ok(CHECK, "kept by NTP"),
        Some(answer) if answer == "no" => report.warn(
            CHECK,
            "the kernel says that nobody keeps it",
            "timedatectl set-ntp true, or install chrony",
        ),
        _ => report.ok(
            CHECK,
            "plausible (who keeps it is not known: no timedatectl)",
        ),
    }
}

/// Whether idle cores keep to the limit that is asked for.
pub(super) fn wake_ups(patient: &Patient<'_>, report: &mut Report) {
    const CHECK: &str = "wake-ups";
    const REMEDY: &str = "leave Dataplane.CpuLatency out";
    let Some(limit) = patient.settings.net.dataplane.cpu_latency else {
        return;
    };
    if !cpu_latency::has_driver() {
        let finding = format!(
            "Dataplane.CpuLatency has no effect: {}",
            cpu_latency::WITHOUT_DRIVER
        );
        let remedy = format!("load one (KVM: haltpoll), or {REMEDY}");
        return report.warn(CHECK, finding, remedy);
    }
    match cpu_latency::kept() {
        Err(error) => report.warn(
            CHECK,
            format!("the limit of Dataplane.CpuLatency cannot be read: {error}"),
            REMEDY,
        ),
        Ok(kept) if kept > limit && patient.status.is_some() => report.warn(
            CHECK,
            format!("the running node does not hold the {limit} us of Dataplane.CpuLatency"),
            "NetManager reload",
        ),
        Ok(kept) => report.ok(CHECK, format!("an idle core may take {kept} us to wake")),
    }
}
