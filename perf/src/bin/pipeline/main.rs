//! The real pipeline on DPDK devices, beside testpmd and Open vSwitch on the same capture in the same run.
//!
//! A `net_pcap` device replays a capture for ever, a `net_null` device swallows what is sent; between them the data plane
//! runs as on a node, on one core. Each measurement is a process of its own; peers take turns, and medians of the pairs
//! are reported: machines like the one this runs on are shared and noisy.

#![forbid(unsafe_code)]

mod ours;
mod peers;
mod plan;
mod sample;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use serde::Serialize;

use ours::Measured;
use peers::PageMemory;
use perf::Spread;
use plan::Frames;

/// Packets per second and cycles per packet of the pipeline on real devices.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Cases to run: out-v4, out-v6, in-v4, in-v6, new-v4, two-workers, churn
    #[arg(long, value_delimiter = ',', default_values_t = CASES.map(str::to_owned))]
    cases: Vec<String>,
    /// Numbers of flows for out and in
    #[arg(long, value_delimiter = ',', default_values_t = [1u32, 1024, 65_536, 1_048_576])]
    flows: Vec<u32>,
    /// Measurements of each case, interleaved with the peers'
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// How long each of ours takes, in milliseconds
    #[arg(long, default_value_t = 2000)]
    milliseconds: u64,
    /// Leave Open vSwitch out
    #[arg(long)]
    no_ovs: bool,
    /// Ours alone, as for a profile
    #[arg(long)]
    alone: bool,
    /// Print JSON, whatever standard output is
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Part {
    /// One measurement, in this process (what the whole run starts)
    #[command(hide = true)]
    One(ours::Job),
}

const CASES: [&str; 7] = [
    "out-v4",
    "out-v6",
    "in-v4",
    "in-v6",
    "new-v4",
    "two-workers",
    "churn",
];

#[derive(Serialize)]
struct Row {
    case: String,
    flows: u32,
    workers: usize,
    pps: f64,
    cycles_per_packet: f64,
    testpmd_mac_pps: f64,
    ovs_ct_pps: Option<f64>,
    /// Ours by testpmd's, pair by pair.
    ratio: Spread,
    /// Ours by Open vSwitch's, pair by pair.
    ovs_ratio: Option<Spread>,
    flows_per_second: f64,
    lost: u64,
    updates_per_second: f64,
    /// Memory that an instance takes, where many were loaded.
    bytes_per_instance: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    memory: String,
    flow_bytes: usize,
    rows: Vec<Row>,
}

/// Hugepages for this run, given back at its end.
struct Pages {
    before: Option<String>,
    dir: Option<PathBuf>,
}

const NR: &str = "/proc/sys/vm/nr_hugepages";

impl Pages {
    /// Mounts a hugetlbfs that only this process and its children see, and reserves pages for it.
    fn reserve(folder: &Path, megabytes: u64) -> Result<Self> {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .context("a private mount namespace")?;
        let before = std::fs::read_to_string(NR)?.trim().to_owned();
        let pages = megabytes.div_ceil(2);
        let wanted = before.parse::<u64>().unwrap_or(0) + pages;
        let mut granted = 0;
        for _ in 0..3 {
            std::fs::write(NR, wanted.to_string())?;
            granted = std::fs::read_to_string(NR)?.trim().parse()?;
            if granted >= wanted {
                break;
            }
            // Free memory may lie in pieces that are too small.
            let _ = std::fs::write("/proc/sys/vm/compact_memory", "1");
        }
        if granted < wanted {
            std::fs::write(NR, &before)?;
            return Ok(Self {
                before: None,
                dir: None,
            });
        }
        let dir = folder.join("huge");
        std::fs::create_dir_all(&dir)?;
        mount(
            Some("hugetlbfs"),
            &dir,
            Some("hugetlbfs"),
            MsFlags::empty(),
            Some("pagesize=2M"),
        )
        .context("mounting a hugetlbfs")?;
        Ok(Self {
            before: Some(before),
            dir: Some(dir),
        })
    }

    fn memory(&self) -> PageMemory {
        self.dir
            .clone()
            .map_or(PageMemory::Ordinary, PageMemory::Huge)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            let _ = nix::mount::umount(dir);
        }
        if let Some(before) = &self.before {
            let _ = std::fs::write(NR, before);
        }
    }
}

/// A folder that goes with the run.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A case, with everything that is replayed for it.
struct Case {
    name: String,
    flows: u32,
    workers: usize,
    job: ours::Job,
    ovs: bool,
}

fn case(name: &str, flows: u32, folder: &Path, milliseconds: u64) -> Result<Case> {
    let frames = match name {
        "out-v4" | "new-v4" | "two-workers" | "churn" => Frames::Out { v6: false },
        "out-v6" => Frames::Out { v6: true },
        "in-v4" => Frames::In { v6: false },
        "in-v6" => Frames::In { v6: true },
        other => bail!("there is no case {other}; there are {}", CASES.join(", ")),
    };
    let cpus = perf::ways::cores();
    let workers = if name == "two-workers" { 2 } else { 1 };
    let mut captures = Vec::new();
    for worker in 0..workers {
        let path = folder.join(format!("{frames:?}-{flows}-{worker}.pcap").replace(' ', ""));
        if !path.exists() {
            plan::write_capture(&path, frames, u32::try_from(worker)?, flows)?;
        }
        captures.push(path);
    }
    let inward = matches!(frames, Frames::In { .. });
    let churn = name == "churn";
    Ok(Case {
        name: name.to_owned(),
        flows,
        workers,
        ovs: name == "out-v4" && flows <= 65_536,
        job: ours::Job {
            captures,
            inward,
            flows,
            // New flows only: a table that has forgotten a flow when its turn comes again.
            table: match name {
                "new-v4" => 262_144,
                _ => (2 * flows as usize * workers).max(262_144),
            },
            updates: if churn { 100_000 } else { 0 },
            instances: if churn { 1_000_000 } else { 0 },
            cpus: (cpus.saturating_sub(workers)..cpus).collect(),
            milliseconds,
        },
    })
}

fn ours(job: &ours::Job) -> Result<Measured> {
    let text = |values: Vec<String>| values.join(",");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("one").arg("--captures");
    command.arg(text(
        job.captures
            .iter()
            .map(|p| p.display().to_string())
            .collect(),
    ));
    if job.inward {
        command.arg("--inward");
    }
    command.args([
        "--cpus",
        &text(job.cpus.iter().map(ToString::to_string).collect()),
    ]);
    for (flag, value) in [
        ("--flows", u64::from(job.flows)),
        ("--table", job.table as u64),
        ("--updates", u64::from(job.updates)),
        ("--instances", u64::from(job.instances)),
        ("--milliseconds", job.milliseconds),
    ] {
        command.args([flag, &value.to_string()]);
    }
    let output = command.output().context("starting a measurement")?;
    ensure!(
        output.status.success(),
        "a measurement failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().context("a measurement said nothing")?;
    serde_json::from_str(line).context("a measurement's result")
}

fn measure(case: &Case, arguments: &Arguments, folder: &Path, memory: &PageMemory) -> Result<Row> {
    let seconds = arguments.milliseconds.div_ceil(1000).max(1);
    let (mut mine, mut theirs, mut switch) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..arguments.pairs {
        say(
            arguments,
            &format!(
                "{} {} flows, {} of {}",
                case.name,
                case.flows,
                pair + 1,
                arguments.pairs
            ),
        );
        mine.push(ours(&case.job)?);
        if arguments.alone {
            continue;
        }
        theirs.push(peers::testpmd(
            &case.job.captures,
            case.flows,
            &case.job.cpus,
            memory,
            seconds,
        )?);
        if case.ovs && !arguments.no_ovs && peers::has_ovs() {
            let capture = case.job.captures.first().context("a capture")?;
            let cpu = case.job.cpus.first().copied().context("a CPU")?;
            let at = folder.join(format!("ovs{pair}-{}", case.flows));
            switch.push(peers::ovs(&at, capture, cpu, memory, seconds)?);
        }
    }
    let pps = |m: &Measured| m.pps;
    #[allow(clippy::cast_precision_loss)] // hundreds
    let bytes = |m: &Measured| m.bytes_per_instance as f64;
    let ratios = |others: &[f64]| {
        let pairs = mine.iter().zip(others).map(|(m, other)| m.pps / other);
        Spread::of(pairs.collect())
    };
    let middle = |values: Vec<f64>| Spread::of(values).median;
    Ok(Row {
        case: case.name.clone(),
        flows: case.flows,
        workers: case.workers,
        pps: middle(mine.iter().map(pps).collect()),
        cycles_per_packet: middle(mine.iter().map(|m| m.cycles_per_packet).collect()),
        testpmd_mac_pps: middle(theirs.clone()),
        ovs_ct_pps: (!switch.is_empty()).then(|| middle(switch.clone())),
        ratio: ratios(&theirs),
        ovs_ratio: (!switch.is_empty()).then(|| ratios(&switch)),
        flows_per_second: middle(mine.iter().map(|m| m.flows_per_second).collect()),
        lost: mine.iter().map(|m| m.lost).sum(),
        updates_per_second: middle(mine.iter().map(|m| m.updates_per_second).collect()),
        bytes_per_instance: Some(middle(mine.iter().map(bytes).collect())).filter(|b| *b > 0.0),
    })
}

/// Progress, for a person who waits.
fn say(arguments: &Arguments, text: &str) {
    if !arguments.json && std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
        let _ = std::io::stderr().flush();
    }
}

fn print(report: &Report) {
    let (bold, plain) = if std::io::stdout().is_terminal() {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    };
    println!(
        "memory: {}; a flow takes {} bytes",
        report.memory, report.flow_bytes
    );
    println!(
        "{bold}{:<12} {:>9} {:>8} {:>8} {:>9} {:>22} {:>9} {:>22}{plain}",
        "case", "flows", "Mpkt/s", "cycles", "testpmd", "ours/testpmd", "ovs", "ours/ovs"
    );
    let spread = |s: &Spread| format!("{:.2} ({:.2} to {:.2})", s.median, s.least, s.most);
    for row in &report.rows {
        println!(
            "{:<12} {:>9} {:>8.2} {:>8.1} {:>9.2} {:>22} {:>9} {:>22}",
            row.case,
            row.flows,
            row.pps / 1e6,
            row.cycles_per_packet,
            row.testpmd_mac_pps / 1e6,
            spread(&row.ratio),
            row.ovs_ct_pps
                .map_or_else(|| "-".to_owned(), |pps| format!("{:.2}", pps / 1e6)),
            row.ovs_ratio
                .as_ref()
                .map_or_else(|| "-".to_owned(), spread),
        );
        if row.flows_per_second > 1000.0 {
            println!(
                "{:>22} {:.2} M flows opened a second",
                "",
                row.flows_per_second / 1e6
            );
        }
        if row.updates_per_second > 0.0 {
            println!(
                "{:>22} {:.0} route updates a second, {} packets lost",
                "", row.updates_per_second, row.lost
            );
        }
        if let Some(bytes) = row.bytes_per_instance {
            println!("{:>22} an instance takes {bytes:.0} bytes", "");
        }
    }
}

/// The numbers of flows that a case is run with.
fn flows_of(name: &str, asked: &[u32]) -> Vec<u32> {
    match name {
        "new-v4" => vec![1 << 20],
        "two-workers" | "churn" => vec![65_536],
        _ => asked.to_vec(),
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Part::One(job)) = &arguments.part {
        let measured = ours::run(job)?;
        println!("{}", serde_json::to_string(&measured)?);
        return Ok(());
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "devices, hugepages and namespaces need root rights: run this as root"
    );
    ensure!(arguments.pairs > 0, "--pairs must be at least 1");
    let folder = Folder(std::env::temp_dir().join(format!("oakestra-perf-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0)?;
    let most = arguments
        .cases
        .iter()
        .flat_map(|name| flows_of(name, &arguments.flows))
        .max()
        .unwrap_or(1);
    // Mbufs of the largest case, 2.6 KB each, for two peers in turn, their tables, and a margin.
    let pages = Pages::reserve(&folder.0, u64::from(most) * 27 / 10_000 + 1024)?;
    let memory = pages.memory();
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for name in &arguments.cases {
        for flows in flows_of(name, &arguments.flows) {
            let case = case(name, flows, &folder.0, arguments.milliseconds)?;
            match measure(&case, &arguments, &folder.0, &memory) {
                Ok(row) => rows.push(row),
                Err(error) => failed.push(format!("{name} with {flows} flows: {error:#}")),
            }
        }
    }
    say(&arguments, "");
    let report = Report {
        memory: match memory {
            PageMemory::Huge(_) => "hugepages of 2 MB".to_owned(),
            PageMemory::Ordinary => "ordinary pages".to_owned(),
        },
        flow_bytes: dataplane::tables::region::SLOT_WORDS * 8 * 2,
        rows,
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}
