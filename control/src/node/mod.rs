//! The node: what is attached, who it is to its cluster, and how both survive.
//!
//! Short facts live under one plain lock that is never held over an `await`; each instance has a turn of its own, so
//! deploys of different instances run side by side and nothing waits for the cluster.

mod dataplane_status;
mod deploy;
mod machine;
mod register;
mod stop;
mod watch;

pub use dataplane_status::{
    DataplaneStatus, DeviceView, PolicyView, PoolView, PortView, RoleView, ServiceView, WorkerView,
};
pub use deploy::Kind;
pub use machine::MachineView;
pub use stop::purge_without_daemon;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::mpsc;

use crate::attach::Fault;
use crate::attach::namespace::{Namespace, host_mounts, inode_of_process};
use crate::attach::{unikernel, vhost};
use crate::cluster_link::{ClusterLink, Command, LinkStatus, Sequence};
use crate::config::{NetConfig, TunConfig};
use crate::dns::{Dns, DnsStatus, Names};
use crate::firewall::{Firewall, Rules};
use crate::forwarding::{AccessKind, Attachment, Event, Forwarding};
use crate::host;
use crate::host_firewall;
use crate::instance;
use crate::netlink::{Link, Netlink};
use crate::state::{Container, Published, State, StateError, StateFile, boot_id};

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tells this Net Manager from others on the machine.
    pub instance: String,
    /// `netcfg.json`.
    pub net: NetConfig,
    /// `tuncfg.json`.
    pub tun: TunConfig,
    /// Folder of the state file.
    pub state_dir: PathBuf,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel could not be asked.
    #[error("netlink: {0}; the Net Manager needs CAP_NET_ADMIN")]
    Netlink(std::io::Error),
    /// The state could not be read.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A refused request: a status and a reason.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// HTTP status: 400 for what the caller got wrong, 500 for what failed here.
    pub status: u16,
    /// What is wrong and what to do.
    pub message: String,
}

impl Refusal {
    fn bad(message: impl Into<String>) -> Self {
        Self {
            status: 400,
            message: message.into(),
        }
    }

    fn failed(message: impl Into<String>) -> Self {
        Self {
            status: 500,
            message: message.into(),
        }
    }
}

/// An instance: job and number.
type Key = (String, u32);

struct Inner {
    state: State,
    /// The identity came by `/register` since this start, not from the state file.
    confirmed: bool,
    up: bool,
    endpoint: Option<IpAddr>,
    reserved: Vec<(Key, Published)>,
    /// What the machine's own firewall has against containers' traffic.
    host_firewall: Option<String>,
    /// Containers that were gone at the start; the cluster is told with every link until `/register` has settled which.
    ended_unseen: Vec<Container>,
}

/// The node.
pub struct Node {
    options: Options,
    forwarding: Arc<dyn Forwarding>,
    netlink: Arc<Netlink>,
    firewall: Arc<Firewall>,
    file: StateFile,
    /// Counts the changes of the state that are to be kept.
    changes: AtomicU64,
    /// How many of them are.
    saving: tokio::sync::Mutex<u64>,
    inner: Mutex<Inner>,
    link: Mutex<Option<Arc<ClusterLink>>>,
    names: Arc<Names>,
    dns: Option<Dns>,
    sequence: Arc<Sequence>,
    registering: tokio::sync::Mutex<()>,
    /// Held by who asks for a further subnetwork; when last none was given.
    growing: tokio::sync::Mutex<Option<Instant>>,
    configuring: tokio::sync::Mutex<()>,
    turns: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
    address_changed: tokio::sync::Notify,
    failed: tokio::sync::Notify,
    broken: AtomicBool,
    stopping: AtomicBool,
    started: Instant,
    uplink: std::sync::OnceLock<String>,
    /// Lets tests fail an attach at any step.
    pub fault: Arc<Fault>,
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

/// What `NetManager status` shows.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Version of this program.
    pub version: &'static str,
    /// Tells this Net Manager from others on the machine.
    pub instance: String,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Node id, once registered.
    pub client_id: Option<String>,
    /// Whether the node has its subnetwork and forwards.
    pub up: bool,
    /// The tunnel endpoint that is announced.
    pub public_address: Option<IpAddr>,
    /// Its port.
    pub public_port: u16,
    /// Subnetworks, as `IPv4/26 IPv6/120`.
    pub subnetworks: Vec<String>,
    /// Addresses that were handed out again before they had rested.
    pub reused_early: u64,
    /// How packets leave for other nodes, and why so.
    pub uplink: Option<String>,
    /// What the machine's own firewall has against containers' traffic, and the remedy.
    pub host_firewall: Option<String>,
    /// Addresses that were given back a short while ago and rest before they are given again.
    pub resting: usize,
    /// UDP port that the tunnel is bound to.
    pub tunnel_port: u16,
    /// The node's own interface into the overlay.
    pub host_interface: String,
    /// What that is behind: `tap` or `virtio_user`.
    pub host_port: &'static str,
    /// What containers may send, in bytes.
    pub mtu: u16,
    /// The link to the cluster.
    pub link: LinkStatus,
    /// Names of services; absent when they are not served.
    pub dns: Option<DnsStatus>,
    /// Attached containers.
    pub containers: Vec<ContainerStatus>,
    /// The data plane; absent when it does not answer.
    pub dataplane: Option<DataplaneStatus>,
}

/// One attached container.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerStatus {
    /// The job.
    pub job: String,
    /// Number of the instance.
    pub instance: u32,
    /// Namespace IPs.
    pub addresses: String,
    /// Host end of the veth pair, or DPDK's name of the device.
    pub interface: String,
    /// Process.
    pub pid: i32,
    /// Published ports, as `host:container/transport`.
    pub ports: Vec<String>,
    /// The port of a virtual machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost_user: Option<MachineView>,
}

impl Node {
    /// Starts the node: reads its state, takes over what still stands, and serves the data plane's questions.
    ///
    /// # Errors
    /// The kernel or the state file cannot be used.
    pub async fn start(
        options: Options,
        forwarding: Arc<dyn Forwarding>,
        events: mpsc::Receiver<Event>,
    ) -> Result<Arc<Self>, StartError> {
        // Found while whoever started this process still lives.
        let _ = host_mounts();
        let netlink = Arc::new(Netlink::open().map_err(StartError::Netlink)?);
        let file = StateFile::open(&options.state_dir, &options.instance)?;
        let mut state = file.load()?;
        let boot = boot_id();
        let namespace = dataplane::namespace_cookie();
        if state.boot_id == boot && state.namespace != namespace {
            tracing::info!(
                "the state file is that of a network namespace that is gone; it is not used"
            );
            state = State::default();
        }
        state.namespace = namespace;
        let earlier: Vec<Container> = if state.boot_id == boot {
            Vec::new()
        } else {
            state.sysctls.clear();
            state.ledger.keep_only(&[], crate::state::now());
            std::mem::take(&mut state.containers)
        };
        state.boot_id = boot;
        let names = Arc::new(Names::default());
        let (dns, lookups) = match options.net.dns.enabled {
            true => Some(Dns::new(&options.net.dns, Arc::clone(&names))).unzip(),
            false => (None, None),
        };
        let node = Arc::new(Self {
            firewall: Arc::new(Firewall::new(
                &options.instance,
                &options.tun.host_interface,
            )),
            sequence: Arc::new(Sequence::starting_after(state.seq)),
            options,
            forwarding,
            netlink,
            file,
            changes: AtomicU64::new(0),
            saving: tokio::sync::Mutex::new(0),
            inner: Mutex::new(Inner {
                state,
                confirmed: false,
                up: false,
                endpoint: None,
                reserved: Vec::new(),
                host_firewall: None,
                ended_unseen: Vec::new(),
            }),
            link: Mutex::new(None),
            names,
            dns,
            registering: tokio::sync::Mutex::new(()),
            growing: tokio::sync::Mutex::new(None),
            configuring: tokio::sync::Mutex::new(()),
            turns: Mutex::new(HashMap::new()),
            address_changed: tokio::sync::Notify::new(),
            failed: tokio::sync::Notify::new(),
            broken: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            started: Instant::now(),
            uplink: std::sync::OnceLock::new(),
            fault: Arc::new(Fault::default()),
            tasks: Mutex::new(Vec::new()),
        });
        let ended = node.take_over(earlier).await;
        node.inner().ended_unseen = ended;
        node.watch(events);
        if let Some(lookups) = lookups {
            node.serve_lookups(lookups);
        }
        node.resume();
        Ok(node)
    }

    /// Notes how packets leave for other nodes, for whoever asks.
    pub fn note_uplink(&self, reason: &str) {
        let _ = self.uplink.set(reason.to_owned());
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> Option<Arc<ClusterLink>> {
        self.link
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn tell_link(&self, command: Command) {
        if let Some(link) = self.link() {
            link.tell(command);
        }
    }

    fn keep_task(&self, task: tokio::task::JoinHandle<()>) {
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(task);
    }

    fn turn(&self, key: &Key) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(key.clone()).or_default())
    }

    /// Runs a command of the data plane where it may block.
    async fn forward<T: Send + 'static>(
        &self,
        command: impl FnOnce(&dyn Forwarding) -> Result<T, crate::forwarding::CommandError>
        + Send
        + 'static,
    ) -> Result<T, crate::forwarding::CommandError> {
        let forwarding = Arc::clone(&self.forwarding);
        tokio::task::spawn_blocking(move || command(forwarding.as_ref()))
            .await
            .unwrap_or(Err(crate::forwarding::CommandError::Stopped))
    }

    async fn save(&self) -> Result<(), StateError> {
        let change = self.changes.fetch_add(1, Ordering::SeqCst) + 1;
        let mut saved = self.saving.lock().await;
        if *saved >= change {
            return Ok(());
        }
        // Whoever waited meanwhile is served by this one write: fifty deploys at once do not wait for fifty.
        let included = self.changes.load(Ordering::SeqCst);
        let state = {
            let link = self.link().map(|link| link.status());
            let mut inner = self.inner();
            inner.state.seq = self.sequence.latest();
            if let Some(link) = link {
                inner.state.interests = link.jobs;
                inner.state.departures = link.departures;
            }
            inner.state.clone()
        };
        let file = self.file.clone();
        let outcome = tokio::task::spawn_blocking(move || file.save(&state))
            .await
            .unwrap_or(Ok(()));
        if outcome.is_ok() {
            *saved = included;
        }
        outcome
    }

    async fn save_or_log(&self) {
        if let Err(error) = self.save().await {
            tracing::error!(%error, "the state could not be kept; a restart would forget the latest change");
        }
    }

    /// The addresses whose port 53 is ours.
    fn served_names(&self, inner: &Inner) -> Vec<IpAddr> {
        let subnets = inner.state.ledger.for_forwarding();
        match self.dns {
            Some(_) => subnets.iter().flat_map(|s| s.gateway.iter()).collect(),
            None => Vec::new(),
        }
    }

    fn rules(&self) -> Rules {
        let inner = self.inner();
        let subnets = inner.state.ledger.subnets();
        Rules {
            subnets_v4: subnets.iter().filter_map(|held| held.v4).collect(),
            subnets_v6: subnets.iter().filter_map(|held| held.v6).collect(),
            names: self.served_names(&inner),
            published: inner
                .state
                .containers
                .iter()
                .flat_map(|container| {
                    container
                        .ports
                        .iter()
                        .map(|port| (*port, container.v4, container.v6))
                })
                .collect(),
        }
    }

    /// Makes the host interface, the rules and the data plane match the ledger.
    async fn apply_subnets(&self) -> Result<(), String> {
        let _turn = self.configuring.lock().await;
        let subnets = self.inner().state.ledger.for_forwarding();
        let told = subnets.clone();
        self.forward(move |forwarding| forwarding.set_subnets(told))
            .await
            .map_err(|error| error.to_string())?;
        let uplink = host::default_interface(&self.netlink).await.ok().flatten();
        let changed = host::apply_settings(&self.options.tun.host_interface, uplink.as_deref());
        self.inner().state.sysctls.extend(changed);
        let interface = self.forwarding.host_interface_index();
        host::configure(&self.netlink, interface, self.options.tun.mtu, &subnets)
            .await
            .map_err(|error| {
                format!(
                    "host interface {}: {error}",
                    self.options.tun.host_interface
                )
            })?;
        self.firewall
            .set_rules(&self.rules())
            .await
            .map_err(|error| error.to_string())?;
        self.open_host_firewall().await;
        if let Some(first) = subnets.first() {
            self.tell_link(Command::Gateway(first.gateway));
        }
        if let Some(dns) = &self.dns {
            dns.set_subnets(subnets);
        }
        Ok(())
    }

    /// Whether there is a host interface with addresses of ours.
    fn is_configured(&self) -> bool {
        !self.inner().state.ledger.subnets().is_empty()
    }

    /// Clears what the machine's own firewall has against containers' traffic, or says it.
    async fn open_host_firewall(&self) {
        let closed = host_firewall::open(&self.options.tun.host_interface).await;
        let before = std::mem::replace(&mut self.inner().host_firewall, closed.clone());
        if let Some(reason) = closed.filter(|reason| before.as_ref() != Some(reason)) {
            tracing::warn!("{reason}");
        }
    }

    /// Takes over what an earlier run left standing. Answers the containers that are gone.
    async fn take_over(self: &Arc<Self>, mut gone: Vec<Container>) -> Vec<Container> {
        let has_subnets = !self.inner().state.ledger.subnets().is_empty();
        if has_subnets && let Err(error) = self.apply_subnets().await {
            tracing::error!(%error, "the subnetworks of the last run could not be set up again");
        }
        let containers = {
            let mut inner = self.inner();
            let containers = inner.state.containers.clone();
            let known: Vec<_> = containers.iter().map(Container::reserved).collect();
            inner.state.ledger.keep_only(&known, crate::state::now());
            containers
        };
        let links = self.netlink.links().await.unwrap_or_default();
        let stands =
            |container: &Container| is_plugged(container, &links) && still_lives(container);
        let (alive, dead): (Vec<_>, Vec<_>) = containers.into_iter().partition(stands);
        // All in one transaction: a program's run for each would take seconds where there are hundreds.
        let wired = alive.iter().filter(|one| one.socket.is_none());
        let interfaces: Vec<String> = wired.map(|one| one.interface.clone()).collect();
        let shielded = self.firewall.shield_all(&interfaces).await.is_ok();
        let dead = dead.into_iter().map(|container| (container, false));
        for (container, alive) in alive.into_iter().map(|one| (one, true)).chain(dead) {
            let outcome = if alive {
                self.attach_again(&container, shielded).await
            } else {
                Err("it ended meanwhile".to_owned())
            };
            match outcome {
                Ok(()) => tracing::info!(
                    job = container.job,
                    instance = container.number,
                    "container taken over"
                ),
                Err(reason) => {
                    tracing::warn!(job = container.job, instance = container.number, %reason, "container of the last run is gone");
                    self.release(&container).await;
                    gone.push(container);
                }
            }
        }
        self.sweep().await;
        self.save_or_log().await;
        gone
    }

    async fn attach_again(&self, container: &Container, shielded: bool) -> Result<(), String> {
        if container.socket.is_some() {
            return self.attach_machine_again(container).await;
        }
        if !shielded {
            // Which of them is to blame shows one by one.
            self.firewall
                .shield(&container.interface)
                .await
                .map_err(|error| error.to_string())?;
        }
        let attachment = attachment(container);
        self.forward(move |forwarding| forwarding.attach(attachment))
            .await
            .map_err(|error| error.to_string())?;
        self.inner().state.ledger.claim(container.reserved());
        Ok(())
    }

    /// Removes what an interrupted deploy left behind: host ends, sockets, and namespaces made for unikernels.
    async fn sweep(&self) {
        let made = std::mem::take(&mut self.inner().state.making);
        for name in made {
            tracing::info!(
                namespace = name,
                "removing what an interrupted deploy left behind"
            );
            if let Err(error) = unikernel::remove(&name).await {
                tracing::warn!(%error, "it could not be removed");
            }
        }
        let prefix = instance::interface_prefix(&self.options.instance);
        let containers = self.inner().state.containers.clone();
        let known: Vec<String> = containers
            .iter()
            .map(|container| container.interface.clone())
            .collect();
        self.sweep_sockets(&containers);
        for link in self.netlink.links().await.unwrap_or_default() {
            if link.name.starts_with(&prefix) && !known.contains(&link.name) {
                tracing::info!(
                    interface = link.name,
                    "removing what an interrupted deploy left behind"
                );
                if let Err(error) = self.netlink.delete_link(link.index).await {
                    tracing::warn!(%error, "it could not be removed");
                }
            }
        }
        if let Err(error) = self.firewall.keep_shields(&known).await {
            tracing::warn!(%error, "rules of interfaces that are gone could not be removed");
        }
    }

    fn sweep_sockets(&self, containers: &[Container]) {
        let sockets = containers.iter().filter_map(|one| one.socket.as_deref());
        let used: Vec<&std::path::Path> = sockets.collect();
        let folder = &self.options.net.vhost.folder;
        vhost::sweep(folder, &self.options.instance, &used);
    }

    /// What people want to know.
    pub async fn status(&self) -> Status {
        let link = self.link().map(|link| link.status()).unwrap_or_default();
        let dataplane = self.forward(Forwarding::stats).await.ok();
        let inner = self.inner();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            instance: self.options.instance.clone(),
            uptime_seconds: self.started.elapsed().as_secs(),
            client_id: inner
                .state
                .identity
                .as_ref()
                .map(|identity| identity.client_id.clone()),
            up: inner.up,
            public_address: inner.endpoint,
            public_port: self.options.net.public_port,
            subnetworks: inner
                .state
                .ledger
                .subnets()
                .iter()
                .map(|held| {
                    let v4 = held.v4.map(|net| format!("{net}/26"));
                    let v6 = held.v6.map(|net| format!("{net}/120"));
                    [v4, v6].into_iter().flatten().collect::<Vec<_>>().join(" ")
                })
                .collect(),
            reused_early: inner.state.ledger.reused_early,
            uplink: self.uplink.get().cloned(),
            host_firewall: inner.host_firewall.clone(),
            resting: inner.state.ledger.resting(crate::state::now()),
            tunnel_port: self.options.tun.tunnel_port,
            host_interface: self.options.tun.host_interface.clone(),
            host_port: self.options.net.dataplane.host_port.kind(),
            mtu: self.options.tun.mtu,
            link,
            dns: self.dns.as_ref().map(Dns::status),
            containers: inner
                .state
                .containers
                .iter()
                .map(|container| ContainerStatus {
                    job: container.job.clone(),
                    instance: container.number,
                    addresses: host::show(container.namespace()),
                    interface: container.interface.clone(),
                    pid: container.pid,
                    ports: container
                        .ports
                        .iter()
                        .map(|port| {
                            format!(
                                "{}:{}/{}",
                                port.host,
                                port.container,
                                if port.udp { "udp" } else { "tcp" }
                            )
                        })
                        .collect(),
                    vhost_user: MachineView::of(container, dataplane.as_ref()),
                })
                .collect(),
            dataplane: dataplane.map(Into::into),
        }
    }

    /// The data plane, for what only it knows.
    #[must_use]
    pub fn forwarding(&self) -> Arc<dyn Forwarding> {
        Arc::clone(&self.forwarding)
    }

    /// Ends when the data plane can no longer be trusted and the process should start anew.
    pub async fn failed(&self) {
        self.failed.notified().await;
    }

    /// Whether that has happened.
    #[must_use]
    pub fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

/// Whether a container's veth pair is there; a machine's port is the data plane's alone.
fn is_plugged(container: &Container, links: &[Link]) -> bool {
    container.socket.is_some()
        || links
            .iter()
            .any(|link| link.index == container.ifindex && link.name == container.interface)
}

/// Whether a container's process still has the namespace that was attached.
fn still_lives(container: &Container) -> bool {
    if container.socket.is_some() && container.pid == 0 {
        // Nobody said which process it is.
        return true;
    }
    match &container.made_namespace {
        Some(name) => {
            Namespace::named(name).is_ok_and(|namespace| namespace.inode() == container.netns)
        }
        None => inode_of_process(container.pid) == Some(container.netns),
    }
}

fn attachment(container: &Container) -> Attachment {
    Attachment {
        port: match &container.socket {
            Some(socket) => AccessKind::Ethdev {
                devargs: vhost::devargs(&container.interface, socket),
            },
            None => AccessKind::Packet {
                ifindex: container.ifindex,
                interface: container.interface.clone(),
            },
        },
        mac: container.mac,
        namespace: container.namespace(),
        job: container.job.clone(),
        number: container.number,
    }
}

/// How long a caller of `/register` and of a deploy that needs a further subnetwork waits: its own limit is 10 s.
const PATIENCE: Duration = Duration::from_millis(7_500);
