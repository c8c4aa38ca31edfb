//! The peers: testpmd and Open vSwitch, on the same capture, on the same DPDK.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::plan;

/// How a program is told where memory is.
#[derive(Clone, Debug)]
pub enum PageMemory {
    /// A mounted hugetlbfs.
    Huge(PathBuf),
    /// Ordinary pages.
    Ordinary,
}

/// Ends a program when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap_or(0));
        if pid.as_raw() > 0 {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.0.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Packets a second that testpmd forwards (`mac`: it rewrites both MAC addresses and nothing else), from a capture to
/// nowhere, with a core for each capture.
///
/// # Errors
/// When it does not start or says no rate.
pub fn testpmd(
    captures: &[PathBuf],
    flows: u32,
    cpus: &[usize],
    memory: &PageMemory,
    seconds: u64,
) -> Result<f64> {
    // Pairs of ports, one forwarding core each; the main core only prints.
    let main = (0..).find(|cpu| !cpus.contains(cpu)).unwrap_or(0);
    let main = if main < perf::ways::cores() {
        main
    } else {
        cpus.first().copied().unwrap_or(0)
    };
    // A logical core for each, so that main and a worker may share a CPU.
    let mut lcores = vec![format!("0@{main}")];
    lcores.extend(cpus.iter().zip(1..).map(|(cpu, n)| format!("{n}@{cpu}")));
    let packets = (flows + 16_384) as usize * captures.len();
    let mut command = Command::new("dpdk-testpmd");
    command
        .args(["--lcores", &lcores.join(",")])
        .args(["--no-pci", "--no-telemetry"])
        .args(["--file-prefix", &format!("oakpeer{}", std::process::id())]);
    match memory {
        PageMemory::Huge(dir) => command.arg("--huge-dir").arg(dir),
        PageMemory::Ordinary => command.args([
            "--no-huge",
            "-m",
            &((packets * 4096) / (1 << 20) + 256).to_string(),
        ]),
    };
    for (capture, n) in captures.iter().zip(0..) {
        let replay = format!("net_pcap{n},rx_pcap={},infinite_rx=1", capture.display());
        command
            .args(["--vdev", &replay])
            .args(["--vdev", &format!("net_null{n},no-rx=1")]);
    }
    // Ports come in the order of their devices: all of one kind first, so pairs are named.
    command
        .args(["--", "--forward-mode=mac", "--burst=64", "--mbcache=512"])
        .arg(format!("--total-num-mbufs={packets}"))
        .arg(format!("--nb-cores={}", cpus.len()))
        .args([
            "--port-topology=paired",
            "--no-flush-rx",
            "--auto-start",
            "--stats-period=1",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = Running(command.spawn().context("dpdk-testpmd")?);
    let complaints = child.0.stderr.take().context("its complaints")?;
    let complaints = std::thread::spawn(move || {
        let lines = BufReader::new(complaints).lines().map_while(Result::ok);
        lines.last().unwrap_or_default()
    });
    let output = child.0.stdout.take().context("its output")?;
    let mut last = Vec::new();
    let mut rounds = 0;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line.contains("Port statistics") {
            rounds += 1;
            // The first two seconds warm up; each later round is a second's rate.
            if rounds > seconds + 2 {
                break;
            }
        }
        if rounds > 2
            && let Some((_, rest)) = line.split_once("Tx-pps:")
        {
            let rate: f64 = rest
                .split_whitespace()
                .next()
                .and_then(|number| number.parse().ok())
                .context("testpmd's rate")?;
            last.push(rate);
        }
    }
    drop(child);
    let complaint = complaints.join().unwrap_or_default();
    ensure!(
        rounds > 2,
        "dpdk-testpmd ended before it said a rate: {complaint}"
    );
    let rate = last.iter().sum::<f64>() / seconds as f64;
    ensure!(rate > 0.0, "dpdk-testpmd forwarded nothing");
    Ok(rate)
}

/// Whether Open vSwitch with DPDK is here.
#[must_use]
pub fn has_ovs() -> bool {
    Path::new("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk").exists()
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .env("OVS_RUNDIR", folder)
        .env("OVS_DBDIR", folder)
        .output()
        .with_context(|| format!("running {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !there() {
        if Instant::now() > deadline {
            bail!("{what} did not come");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Packets a second that Open vSwitch forwards from a capture to nowhere by `ct(commit,nat(dst=…))`, one rule for each
/// service and its ten instances, on one core.
///
/// # Errors
/// When one of its parts does not start.
pub fn ovs(
    folder: &Path,
    capture: &Path,
    cpu: usize,
    memory: &PageMemory,
    seconds: u64,
) -> Result<f64> {
    std::fs::create_dir_all(folder)?;
    let path = |name: &str| folder.join(name).display().to_string();
    let database = path("conf.db");
    run(
        folder,
        "ovsdb-tool",
        &[
            "create",
            &database,
            "/usr/share/openvswitch/vswitch.ovsschema",
        ],
    )?;
    let socket = format!("unix:{}", path("db.sock"));
    let spawn = |program: &str, arguments: &[&str]| -> Result<Running> {
        let child = Command::new(program)
            .args(arguments)
            .env("OVS_RUNDIR", folder)
            .env("OVS_DBDIR", folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        Ok(Running(child))
    };
    let listen = format!("--remote=p{socket}");
    let _database = spawn("ovsdb-server", &[&database, &listen])?;
    wait_for("ovsdb-server's socket", || folder.join("db.sock").exists())?;
    let set = |arguments: &[&str]| {
        let db = format!("--db={socket}");
        run(
            folder,
            "ovs-vsctl",
            &[&[db.as_str(), "--timeout=20"], arguments].concat(),
        )
    };
    let mask = format!("other_config:pmd-cpu-mask={:#x}", 1u64 << cpu);
    let prefix = format!("oakovs{}", std::process::id());
    let extra = match memory {
        PageMemory::Huge(dir) => format!(
            "--no-pci --file-prefix={prefix} --huge-dir={}",
            dir.display()
        ),
        PageMemory::Ordinary => format!("--no-pci --file-prefix={prefix} --no-huge -m 2048"),
    };
    set(&["--no-wait", "init"])?;
    set(&[
        "--no-wait",
        "set",
        "Open_vSwitch",
        ".",
        "other_config:dpdk-init=true",
        &mask,
        &format!("other_config:dpdk-extra=\"{extra}\""),
    ])?;
    let _switch = spawn(
        "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk",
        &[&socket, "--no-chdir"],
    )?;
    set(&[
        "add-br",
        "br0",
        "--",
        "set",
        "Bridge",
        "br0",
        "datapath_type=netdev",
    ])?;
    let devargs = format!(
        "options:dpdk-devargs=\"net_pcap0,rx_pcap={},infinite_rx=1\"",
        capture.display()
    );
    let mut rules = String::from("priority=1,actions=drop\n");
    for n in 0..plan::SERVICES {
        let to = plan::service(n).v4.context("a service's address")?;
        let first = plan::namespace(n * plan::INSTANCES)
            .v4
            .context("an address")?;
        let last = plan::namespace((n + 1) * plan::INSTANCES - 1)
            .v4
            .context("an address")?;
        rules.push_str(&format!(
            "priority=9,ip,in_port=1,nw_dst={to},actions=ct(commit,nat(dst={first}-{last})),output:2\n"
        ));
    }
    let file = path("rules");
    std::fs::write(&file, rules)?;
    set(&[
        "add-port",
        "br0",
        "away",
        "--",
        "set",
        "Interface",
        "away",
        "type=dpdk",
        "ofport_request=2",
        "options:dpdk-devargs=\"net_null0,no-rx=1\"",
    ])?;
    let bridge = format!("unix:{}", path("br0.mgmt"));
    run(folder, "ovs-ofctl", &["add-flows", &bridge, &file])?;
    set(&[
        "add-port",
        "br0",
        "replay",
        "--",
        "set",
        "Interface",
        "replay",
        "type=dpdk",
        "ofport_request=1",
        &devargs,
    ])?;
    // Its counters reach the database every few seconds; asked of the switch itself, they are of now.
    let now = || -> Result<u64> {
        let text = run(folder, "ovs-ofctl", &["dump-ports", &bridge, "2"])?;
        let rest = text.split_once("tx pkts=").context("its counters")?.1;
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        number.parse().context("tx pkts")
    };
    wait_for("Open vSwitch's first packet", || {
        now().is_ok_and(|n| n > 1_000_000)
    })?;
    let (begin, before) = (Instant::now(), now()?);
    std::thread::sleep(Duration::from_secs(seconds));
    let after = now()?;
    #[allow(clippy::cast_precision_loss)] // a rate
    Ok((after - before) as f64 / begin.elapsed().as_secs_f64())
}
