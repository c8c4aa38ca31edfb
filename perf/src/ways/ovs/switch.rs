//! One Open vSwitch: a database server and a switch daemon in a node's namespace, set up by the package's own tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use journeys::deadline::wait_for;
use journeys::namespace::Namespace;
use journeys::process::{Launch, Process};
use journeys::run::{Run, Stage};
use nix::sys::signal::Signal;

use super::super::laid::Worker;
use super::super::settings::{Settings, there};

/// The daemon with DPDK; the one in PATH may be the one without.
const DAEMON: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const TOOLS: [&str; 5] = [
    "ovsdb-tool",
    "ovsdb-server",
    "ovs-vsctl",
    "ovs-ofctl",
    "ovs-appctl",
];
/// Megabytes of a switch: its pool shrinks until it fits.
const MEMORY: &str = "512";
/// Containers' bridge, and the bridge that holds the tunnel's address.
const OVERLAY: &str = "overlay0";
const PHYSICAL: &str = "physical0";
/// What the tools wait for the daemon, in seconds.
const PATIENCE: &str = "--timeout=30";

/// Why there is no Open vSwitch with DPDK here.
pub fn missing() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = |tool: &str| std::env::split_paths(&path).any(|at| at.join(tool).is_file());
    let absent = |tool: &&&str| !in_path(tool);
    let tool = match TOOLS.iter().find(absent) {
        Some(&tool) => tool,
        None if Path::new(DAEMON).is_file() && Path::new(SCHEMA).is_file() => return None,
        None => DAEMON,
    };
    Some(format!(
        "{tool} is not installed (Debian's package openvswitch-switch-dpdk)"
    ))
}

/// A running one.
pub struct Switch {
    number: u8,
    namespace: Namespace,
    folder: PathBuf,
    daemon: Process,
    database: Process,
}

impl Switch {
    /// Starts both processes of the node with this number (0 or 1); the switch has no bridge yet.
    ///
    /// # Errors
    /// When one does not come up: with what it said.
    pub fn start(run: &Run, settings: Settings, node: &Namespace, number: u8) -> Result<Switch> {
        let name = format!("ovs{}", number + 1);
        let folder = run.folder().join(&name);
        fs::create_dir_all(&folder).context("making the switch's folder")?;
        let at = |file: &str| folder.join(file).to_string_lossy().into_owned();
        Namespace::Own.command("ovsdb-tool", &["create", &at("conf.db"), SCHEMA])?;
        let launch = |what: &str, program: &str, stage: Stage| {
            let mut launch =
                Launch::new(&format!("{name}-{what}"), Path::new(program), node, stage);
            for place in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
                launch = launch.env(place, folder.to_string_lossy());
            }
            launch.args([
                format!("--unixctl={}", at(&format!("{what}.ctl"))),
                format!("--pidfile={}", at(&format!("{what}.pid"))),
            ])
        };
        let mut database = launch("database", "ovsdb-server", Stage::Manager)
            .args([at("conf.db"), format!("--remote=punix:{}", at("db.sock"))])
            .start(run)?;
        let socket = folder.join("db.sock");
        wait_for("the switch's database", Duration::from_secs(10), || {
            database.check_running()?;
            Ok(socket.exists().then_some(()))
        })?;
        let core = settings
            .cores
            .node(number.into())
            .unwrap_or((usize::from(number) + 1) % there());
        let db = format!("--db=unix:{}", at("db.sock"));
        Namespace::Own.command("ovs-vsctl", &[&db, PATIENCE, "--no-wait", "init"])?;
        Namespace::Own.command(
            "ovs-vsctl",
            &[
                &db,
                PATIENCE,
                "--no-wait",
                "set",
                "Open_vSwitch",
                ".",
                "other_config:dpdk-init=true",
                &format!("other_config:pmd-maxsleep={}", longest_sleep()),
                &format!("other_config:pmd-cpu-mask={:#x}", 1_u128 << core),
                // Without hugepages only the legacy memory works; its size has to be told.
                &format!(
                    "other_config:dpdk-extra=--no-huge --legacy-mem -m {MEMORY} --no-pci \
                     --no-telemetry --file-prefix={}-{name}",
                    run.id()
                ),
            ],
        )?;
        let daemon = launch("switch", DAEMON, Stage::Node)
            .on_core(settings.cores.node(number.into()))
            .args([format!("unix:{}", at("db.sock"))])
            .start(run)?;
        Ok(Switch {
            number,
            namespace: node.clone(),
            folder,
            daemon,
            database,
        })
    }

    /// What polls.
    pub fn worker(&self) -> Worker {
        Worker::of(&self.daemon)
    }

    /// Ends it without waiting.
    pub fn kill(&self) {
        for process in [&self.daemon, &self.database] {
            let _ = process.signal(Signal::SIGKILL);
        }
    }

    /// Makes the containers' bridge, which does only what its flows say.
    ///
    /// # Errors
    /// When the daemon does not do it.
    pub fn add_overlay(&mut self) -> Result<()> {
        self.vsctl(&[
            "add-br",
            OVERLAY,
            "--",
            "set",
            "bridge",
            OVERLAY,
            "datapath_type=netdev",
            "fail-mode=secure",
        ])
    }

    /// Gives a container's cable a port with this number.
    ///
    /// # Errors
    /// When the daemon does not do it.
    pub fn add_port(&mut self, interface: &str, number: u8, mtu: &str) -> Result<()> {
        self.add_device(OVERLAY, interface, &number.to_string(), mtu)
    }

    /// Makes the bridge that holds the tunnel's address, with the cable to the other node.
    ///
    /// # Errors
    /// When the daemon or `ip` does not do it.
    pub fn add_underlay(&mut self, interface: &str) -> Result<()> {
        let own = format!("other-config:hwaddr={}", mac(self.number));
        self.vsctl(&[
            "add-br",
            PHYSICAL,
            "--",
            "set",
            "bridge",
            PHYSICAL,
            "datapath_type=netdev",
            &own,
        ])?;
        self.add_device(PHYSICAL, interface, "1", "1500")?;
        let own = format!("{}/24", address(self.number));
        self.namespace
            .ip(&["address", "add", &own, "dev", PHYSICAL])?;
        self.namespace.ip(&["link", "set", PHYSICAL, "up"])?;
        let other = 1 - self.number;
        self.appctl(&["tnl/neigh/set", PHYSICAL, &address(other), &mac(other)])
    }

    /// Makes the VXLAN port with this number.
    ///
    /// # Errors
    /// When the daemon does not do it.
    pub fn add_tunnel(&mut self, number: u8) -> Result<()> {
        let remote = format!("options:remote_ip={}", address(1 - self.number));
        self.vsctl(&[
            "add-port",
            OVERLAY,
            "vxlan0",
            "--",
            "set",
            "Interface",
            "vxlan0",
            "type=vxlan",
            "options:key=7",
            &remote,
            &format!("ofport_request={number}"),
        ])?;
        self.check("vxlan0")
    }

    /// Sets the flows of the containers' bridge.
    ///
    /// # Errors
    /// When the daemon refuses one.
    pub fn set_flows(&self, flows: &[String]) -> Result<()> {
        let file = self.at("flows");
        fs::write(&file, flows.join("\n") + "\n").context("writing flows")?;
        let bridge = format!("unix:{}", self.at(&format!("{OVERLAY}.mgmt")));
        let arguments = ["-O", "OpenFlow13", PATIENCE, "add-flows", &bridge, &file];
        Namespace::Own.command("ovs-ofctl", &arguments).map(drop)
    }

    fn add_device(&mut self, bridge: &str, interface: &str, port: &str, mtu: &str) -> Result<()> {
        // Devices of one process need names of their own.
        let device = format!("net_af_packet_{interface}");
        self.vsctl(&[
            "add-port",
            bridge,
            interface_name(interface).as_str(),
            "--",
            "set",
            "Interface",
            interface_name(interface).as_str(),
            "type=dpdk",
            &format!("options:dpdk-devargs={device},iface={interface}"),
            &format!("ofport_request={port}"),
            &format!("mtu_request={mtu}"),
        ])?;
        self.check(&interface_name(interface))
    }

    /// The tools say nothing of a port that could not be opened; the database does.
    fn check(&self, interface: &str) -> Result<()> {
        let db = self.db();
        let error = ["get", "Interface", interface, "error"];
        let arguments = [&[&db, PATIENCE][..], &error].concat();
        let error = Namespace::Own.command("ovs-vsctl", &arguments)?;
        ensure!(error.trim() == "[]", "port {interface}: {}", error.trim());
        Ok(())
    }

    fn vsctl(&mut self, arguments: &[&str]) -> Result<()> {
        let db = self.db();
        let arguments = [&[&db, PATIENCE][..], arguments].concat();
        let outcome = Namespace::Own.command("ovs-vsctl", &arguments);
        // Its last words say more than that somebody waited for it.
        self.daemon.check_running()?;
        outcome.map(drop)
    }

    fn appctl(&self, arguments: &[&str]) -> Result<()> {
        let control = self.at("switch.ctl");
        let arguments = [&["-t", &control][..], arguments].concat();
        Namespace::Own.command("ovs-appctl", &arguments).map(drop)
    }

    fn db(&self) -> String {
        format!("--db=unix:{}", self.at("db.sock"))
    }

    fn at(&self, file: &str) -> String {
        self.folder.join(file).to_string_lossy().into_owned()
    }
}

/// How long a polling thread may sleep when there is little to do, in microseconds. With a core for each node and for
/// generator and sink it never does, as by default. With fewer, two threads that poll starve what they wait for: with 50
/// more datagrams arrive, and the slowest round trips are shorter by far.
fn longest_sleep() -> u8 {
    if there() < 4 { 50 } else { 0 }
}

/// A port must not be named as the kernel's interface that it reads.
fn interface_name(interface: &str) -> String {
    format!("dpdk-{interface}")
}

fn address(node: u8) -> String {
    format!("192.0.2.{}", node + 1)
}

fn mac(node: u8) -> String {
    format!("02:00:00:00:01:{:02x}", node + 1)
}
