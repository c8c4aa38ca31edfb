//! Where a run took place: a figure without its machine says nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The machine and what runs on it. What cannot be found out is said to be unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Threads of one core: more than one halve what a core is.
    pub threads_per_core: usize,
    /// NUMA nodes.
    pub numa_nodes: usize,
    /// What sets the clock, such as `performance`.
    pub governor: String,
    /// Cores that the scheduler leaves alone.
    pub isolated: String,
    /// Memory, MB.
    pub memory_mb: u64,
    /// Hugepages by size in kB.
    pub hugepages: BTreeMap<u64, u64>,
    /// A hypervisor, a container, or `none`.
    pub virtualisation: String,
    /// The kernel's release.
    pub kernel: String,
    /// DPDK's version.
    pub dpdk: String,
    /// The revision that was measured; with `-dirty` where files differ from it.
    pub revision: String,
    /// Whether this was measured with debug assertions: never compare such figures.
    pub debug: bool,
}

const UNKNOWN: &str = "unknown";

impl Machine {
    /// Looks around.
    #[must_use]
    pub fn here() -> Machine {
        let cpuinfo = read("/proc/cpuinfo");
        let cpu = cpuinfo
            .as_deref()
            .and_then(|text| field(text, "model name"));
        let meminfo = read("/proc/meminfo");
        let memory = meminfo.as_deref().and_then(|text| field(text, "MemTotal"));
        let memory = memory.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        Machine {
            cpu: cpu.unwrap_or(UNKNOWN).to_owned(),
            cores: perf::ways::cores(),
            threads_per_core: read("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
                .map_or(1, |list| cpus(list.trim())),
            numa_nodes: names("/sys/devices/system/node")
                .iter()
                .filter(|name| is_numbered(name, "node"))
                .count()
                .max(1),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").map_or_else(
                || "none here (the hypervisor's, or a fixed clock)".into(),
                |text| text.trim().to_owned(),
            ),
            isolated: read("/sys/devices/system/cpu/isolated")
                .map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty())
                .unwrap_or_else(|| "none".into()),
            memory_mb: memory.unwrap_or(0) / 1024,
            hugepages: hugepages(),
            virtualisation: said("systemd-detect-virt", &[]).unwrap_or_else(|| UNKNOWN.into()),
            kernel: read("/proc/sys/kernel/osrelease")
                .map_or_else(|| UNKNOWN.into(), |text| text.trim().to_owned()),
            dpdk: said("pkg-config", &["--modversion", "libdpdk"])
                .unwrap_or_else(|| UNKNOWN.into()),
            revision: revision(),
            debug: cfg!(debug_assertions),
        }
    }

    /// In one line.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "{} cores of {}, {} MB, kernel {}, DPDK {}, virtualisation: {}, governor: {}, isolated cores: {}, revision {}",
            self.cores,
            self.cpu,
            self.memory_mb,
            self.kernel,
            self.dpdk,
            self.virtualisation,
            self.governor,
            self.isolated,
            self.revision
        )
    }

    /// Which of the two cases this machine is.
    #[must_use]
    pub fn case(&self) -> &'static str {
        match crate::targets::has_ceiling(self) {
            true => "4 cores or more: testpmd is the ceiling",
            false => {
                "fewer than 4 cores: nodes, generator and sink share them, and testpmd is one more peer"
            }
        }
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.collect()
}

fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.parse::<u32>().is_ok())
}

/// The value behind `name:`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// How many a list such as `0-3,8` names.
fn cpus(list: &str) -> usize {
    let count = |part: &str| -> Option<usize> {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
        Some(to.checked_sub(from)? + 1)
    };
    list.split(',').filter_map(count).sum::<usize>().max(1)
}

fn hugepages() -> BTreeMap<u64, u64> {
    let folder = "/sys/kernel/mm/hugepages";
    let of = |name: String| {
        let size = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        let count = read(&format!("{folder}/{name}/nr_hugepages"))?;
        Some((size.parse().ok()?, count.trim().parse().ok()?))
    };
    names(folder).into_iter().filter_map(of).collect()
}

/// What a short command says; nothing when there is no such program, or it says nothing.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn revision() -> String {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = project.to_string_lossy();
    // The owner of the files may be another than root, who runs this.
    let safe = "safe.directory=*";
    let git = ["-c", safe, "-C", &project];
    let told = said(
        "git",
        &[
            &git[..],
            &["describe", "--always", "--dirty", "--exclude=*"],
        ]
        .concat(),
    );
    told.unwrap_or_else(|| UNKNOWN.into())
}

/// Now, UTC, as RFC 3339 writes it.
#[must_use]
pub fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    rfc3339(since.map_or(0, |since| since.as_secs()))
}

/// Seconds since 1970 as a date of the Gregorian calendar.
fn rfc3339(seconds: u64) -> String {
    let (mut days, rest) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!(
        "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z",
        days + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(rfc3339(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(rfc3339(1_795_737_600), "2026-11-27T00:00:00Z");
    }

    #[test]
    fn lists_of_cores_are_counted() {
        for (list, count) in [("0", 1), ("0,64", 2), ("0-3,8-9", 6), ("", 1)] {
            assert_eq!(cpus(list), count, "{list}");
        }
    }

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::here();
        assert!(machine.cores >= 1 && machine.memory_mb > 0, "{machine:?}");
        assert!(!machine.kernel.is_empty() && machine.kernel != UNKNOWN);
        assert!(machine.line().contains(&machine.kernel));
    }
}
