//! A worker node: a namespace with an underlay interface, and a Net Manager in it with settings,
//! socket and state of its own. What is called here is what the NodeEngine calls (contract,
//! section 4).

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::container::Container;
use crate::deadline::wait_for;
use crate::http::{Answer, Server};
use crate::namespace::Namespace;
use crate::process::{Launch, Process};
use crate::run::{Run, Stage};
use crate::services::{BROKER_PORT, Programs, shipped};

/// The node's interface towards other nodes.
pub const UNDERLAY: &str = "underlay0";
/// The port that nodes tunnel to (contract, section 5).
pub const TUNNEL_PORT: u16 = 50103;

/// How a node's tunnel leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Uplink {
    /// UDP sockets of the kernel.
    #[default]
    Socket,
    /// An ethdev of DPDK's `af_packet` PMD on the underlay interface.
    AfPacket,
    /// An ethdev of DPDK's `af_xdp` PMD on the underlay interface, which the kernel goes on using.
    AfXdp,
    /// A NIC wholly in DPDK, with so many queues: the kernel gets nothing of the cable's end, and the underlay interface
    /// is the TAP.
    Whole(u8),
}

impl Uplink {
    /// As `--uplink` takes it.
    #[must_use]
    pub fn flag(self) -> String {
        match self {
            Uplink::Socket => "socket".into(),
            Uplink::AfPacket => "af_packet".into(),
            Uplink::AfXdp => "af_xdp".into(),
            Uplink::Whole(queues) => {
                format!("net_af_packet0,iface=wire0,qpairs={queues}@tap:{UNDERLAY}")
            }
        }
    }

    /// Whether the device knows no checksum or segmentation state, so that frames must come to it complete.
    #[must_use]
    pub fn takes_complete_frames(self) -> bool {
        matches!(self, Uplink::AfPacket | Uplink::Whole(_))
    }
}

/// One worker node.
#[derive(Debug)]
pub struct Node {
    /// The id it registers with.
    pub id: String,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its address on the underlay.
    pub underlay: Ipv4Addr,
    folder: PathBuf,
    uplink: Uplink,
    environment: Vec<(String, String)>,
    core: Option<usize>,
    process: Option<Process>,
}

impl Node {
    /// Writes the node's settings; nothing runs yet.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn prepare(
        run: &Run,
        id: &str,
        namespace: Namespace,
        underlay: Ipv4Addr,
        uplink: Uplink,
        broker: Ipv4Addr,
    ) -> Result<Node> {
        let folder = run.folder().join(id);
        fs::create_dir_all(folder.join("state")).context("making a node's folder")?;
        let settings = json!({
            "NodePublicAddress": "0.0.0.0",
            "NodePublicPort": TUNNEL_PORT.to_string(),
            "ClusterUrl": broker.to_string(),
            "ClusterMqttPort": BROKER_PORT.to_string(),
            "DefaultInterface": UNDERLAY,
        });
        fs::write(folder.join("netcfg.json"), settings.to_string())
            .context("writing netcfg.json")?;
        fs::copy(shipped("tuncfg.json"), folder.join("tuncfg.json"))
            .context("copying tuncfg.json")?;
        Ok(Node {
            id: id.to_owned(),
            namespace,
            underlay,
            folder,
            uplink,
            environment: Vec::new(),
            core: None,
            process: None,
        })
    }

    /// Takes the cable's end away from the kernel, as binding a NIC to vfio does: it becomes `wire0`, without an address,
    /// and no frame that arrives gets past it.
    ///
    /// # Errors
    /// When `ip` or `nft` fails.
    pub fn give_to_dpdk(&self) -> Result<()> {
        let inside = &self.namespace;
        inside.ip(&["link", "set", UNDERLAY, "down"])?;
        inside.ip(&["address", "flush", "dev", UNDERLAY])?;
        inside.ip(&["link", "set", UNDERLAY, "name", "wire0"])?;
        inside.sysctl("ipv6/conf/wire0/disable_ipv6", "1")?;
        inside.ip(&["link", "set", "wire0", "up"])?;
        inside.command("nft", &["add", "table", "netdev", "wire"])?;
        let hook = "{ type filter hook ingress device wire0 priority 0; policy drop; }";
        let chain = ["add", "chain", "netdev", "wire", "arriving", hook];
        inside.command("nft", &chain).map(drop)
    }

    /// Gives the TAP of a NIC that is wholly in DPDK the addresses that the underlay interface had, as DHCP or the
    /// host's configuration would.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn furnish(&self) -> Result<()> {
        let inside = &self.namespace;
        let [.., number] = self.underlay.octets();
        for own in [
            format!("{}/24", self.underlay),
            format!("2001:db8::{number}/64"),
        ] {
            inside.ip(&["address", "replace", &own, "dev", UNDERLAY, "nodad"])?;
        }
        inside.ip(&["route", "replace", "default", "dev", UNDERLAY])?;
        Ok(())
    }

    /// [`Node::furnish`], once the Net Manager has made the TAP.
    ///
    /// # Errors
    /// When it does not.
    pub fn furnish_when_there(&mut self) -> Result<()> {
        wait_for("the NIC's TAP", Duration::from_secs(30), || {
            self.process()?.check_running()?;
            self.furnish().map(Some)
        })
    }

    /// How its tunnel leaves.
    #[must_use]
    pub fn uplink(&self) -> Uplink {
        self.uplink
    }

    /// Changes the settings by `change` before the next start.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn configure(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let file = self.folder.join("netcfg.json");
        let mut settings = serde_json::from_str(&fs::read_to_string(&file)?)?;
        change(&mut settings);
        fs::write(&file, settings.to_string()).context("writing netcfg.json")
    }

    /// Adds a variable to the Net Manager's environment at its next start.
    pub fn set_env(&mut self, key: &str, value: &str) {
        self.environment.push((key.to_owned(), value.to_owned()));
    }

    /// Lets the Net Manager use one core only from its next start on; with none, all.
    pub fn set_core(&mut self, core: Option<usize>) {
        self.core = core;
    }

    /// Starts the Net Manager.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, run: &Run, programs: &Programs) -> Result<()> {
        let mut launch = Launch::new(
            &self.id,
            &programs.path("NetManager"),
            &self.namespace,
            Stage::Node,
        )
        .on_core(self.core)
        .args(self.flags())
        .args(["run", "--uplink"])
        .args([self.uplink.flag()]);
        for (key, value) in &self.environment {
            launch = launch.env(key, value);
        }
        self.process = Some(launch.start(run)?);
        Ok(())
    }

    /// The flags that say which Net Manager is meant.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let path = |name: &str| self.folder.join(name).to_string_lossy().into_owned();
        vec![
            "--config".into(),
            path("netcfg.json"),
            "--tun-config".into(),
            path("tuncfg.json"),
            "--socket".into(),
            path("netmanager.sock"),
            "--state-dir".into(),
            path("state"),
        ]
    }

    /// Waits until the Net Manager listens on its socket.
    ///
    /// # Errors
    /// When it ends or does not come up.
    pub fn wait_listening(&mut self) -> Result<()> {
        let what = format!("the Net Manager of {}", self.id);
        let socket = self.socket();
        wait_for(&what, Duration::from_secs(20), || {
            self.process()?.check_running()?;
            let stream = std::os::unix::net::UnixStream::connect(&socket);
            stream
                .map(Some)
                .with_context(|| format!("connecting to {}", socket.display()))
        })
        .map(drop)
    }

    /// The Net Manager's process.
    ///
    /// # Errors
    /// When it was not started.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process
            .as_mut()
            .context("this node's Net Manager was not started")
    }

    /// The Net Manager's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("netmanager.sock")
    }

    /// The Net Manager's settings, state and socket.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The Net Manager's HTTP interface.
    #[must_use]
    pub fn server(&self) -> Server {
        Server::Unix(self.socket())
    }

    /// `POST /register`.
    ///
    /// # Errors
    /// Without an answer in time.
    pub fn register(&self) -> Result<Answer> {
        self.server().post(
            "/register",
            &json!({"client_id": self.id, "cluster_address": ""}),
        )
    }

    /// `POST /container/deploy`.
    ///
    /// # Errors
    /// Without an answer in time.
    pub fn deploy(&self, job: &str, instance: u32, container: &Container) -> Result<Answer> {
        self.server().post(
            "/container/deploy",
            &json!({
                "pid": container.pid(),
                "serviceName": job,
                "instanceNumber": instance,
                "portMappings": "",
            }),
        )
    }

    /// `POST /container/undeploy`.
    ///
    /// # Errors
    /// Without an answer in time.
    pub fn undeploy(&self, job: &str, instance: u32) -> Result<Answer> {
        let body = json!({"pid": -1, "serviceName": job, "instanceNumber": instance});
        self.server().post("/container/undeploy", &body)
    }
}
