//! Deploys and undeploys.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use protocol::JobName;
use protocol::node_http::{Deploy, Deployed, Undeploy};
use protocol::port_mapping;

use super::{Key, Node, PATIENCE, Refusal, attachment};
use crate::attach::namespace::{Namespace, inode_of_process};
use crate::attach::undo::Undo;
use crate::attach::{AttachError, unikernel, veth, vhost};
use crate::cluster_link::Command;
use crate::firewall;
use crate::forwarding::Pair;
use crate::instance;
use crate::state::{Container, Published, now};

/// What is deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A container whose process exists.
    Container,
    /// A virtual machine behind a network namespace of our making.
    Unikernel,
}

/// Where an instance's port leads.
enum Way {
    /// Into the network namespace of a process.
    Process(i64),
    /// Into a network namespace of our making.
    Namespace,
    /// To a machine's socket; the process that is watched, or 0.
    Socket(i64),
}

/// How long a deploy waits for a node that comes back, and how often it looks.
const COMING_BACK: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);

/// How long a deploy waits for a further subnetwork while there are addresses that only rest, and how long after none
/// was given no other deploy does.
const BRIEFLY: Duration = Duration::from_secs(1);
const NOT_AGAIN: Duration = Duration::from_secs(30);

impl Node {
    /// `POST /container/deploy` and `/unikernel/deploy`. Goes on to its end even when the caller hangs up.
    ///
    /// # Errors
    /// 400 before registration and for a bad body, 500 with a reason when it failed; then nothing is left behind.
    pub async fn deploy(
        self: &Arc<Self>,
        request: Deploy,
        kind: Kind,
    ) -> Result<Deployed, Refusal> {
        if !self.is_up().await {
            return Err(Refusal::bad(
                "this node is not registered yet; call /register first",
            ));
        }
        let job: JobName = request
            .service_name
            .parse()
            .map_err(|error: protocol::job_name::JobNameError| Refusal::bad(error.to_string()))?;
        let ports: Vec<Published> = port_mapping::parse_list(&request.port_mappings)
            .map_err(|error| Refusal::bad(error.to_string()))?
            .into_iter()
            .map(Into::into)
            .collect();
        if let Some(port) = named_twice(&ports) {
            return Err(Refusal::bad(format!(
                "port {} is named twice in portMappings; a port of the node leads to one port of one container",
                shown(port)
            )));
        }
        let pid = request.pid;
        let way = match kind {
            Kind::Container if pid < 0 || pid == 0 && !request.vhost_user => {
                return Err(Refusal::bad(format!("pid {pid} is not a process")));
            }
            Kind::Container if request.vhost_user => Way::Socket(pid),
            Kind::Container => Way::Process(pid),
            Kind::Unikernel if request.vhost_user => Way::Socket(0),
            Kind::Unikernel => Way::Namespace,
        };
        let node = Arc::clone(self);
        let key: Key = (job.as_str().to_owned(), request.instance_number);
        let task = tokio::spawn(async move {
            let turn = node.turn(&key);
            let _turn = turn.lock().await;
            if node.stopping.load(Ordering::SeqCst) {
                return Err(AttachError::Stopping);
            }
            node.replace(key, way, ports).await
        });
        match task.await {
            Ok(Ok(container)) => Ok(Deployed {
                service_name: container.job.clone(),
                ns_address: container.v4,
                ns_address_v6: container.v6,
                vhost_user: self.machine_of(&container),
            }),
            Ok(Err(error)) => Err(Refusal::failed(error.to_string())),
            Err(error) => Err(Refusal::failed(format!("the deploy ended early: {error}"))),
        }
    }

    /// Whether containers can be attached. A node that comes back to where it was registered, after a restart, is there
    /// within a moment; its caller need not know of the restart.
    async fn is_up(&self) -> bool {
        let until = Instant::now() + COMING_BACK;
        loop {
            let returning = {
                let inner = self.inner();
                if inner.up {
                    return true;
                }
                inner.state.identity.is_some()
            };
            if !returning || Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn replace(
        self: &Arc<Self>,
        key: Key,
        way: Way,
        ports: Vec<Published>,
    ) -> Result<Container, AttachError> {
        // Opened before anything is touched: a deploy that cannot be leaves the instance that runs alone.
        let process = match way {
            Way::Process(pid) => Some(open_process(pid)?),
            Way::Socket(pid) if pid > 0 && !exists(pid) => return Err(AttachError::NoProcess(pid)),
            Way::Socket(_) | Way::Namespace => None,
        };
        let existing = self.find(&key);
        if let Some(existing) = &existing {
            tracing::info!(
                job = key.0,
                instance = key.1,
                "deployed again: replacing what runs"
            );
            self.release(existing).await;
        }
        let mut undo = Undo::default();
        let outcome = match way {
            Way::Process(pid) => {
                self.attach(&key, pid, process, None, ports, &mut undo)
                    .await
            }
            Way::Namespace => {
                let made = Some(unikernel::namespace_name(&key.0, key.1));
                self.attach(&key, 0, None, made, ports, &mut undo).await
            }
            Way::Socket(pid) => self.attach_machine(&key, pid, ports, &mut undo).await,
        };
        match outcome {
            Ok(container) => {
                tracing::info!(job = key.0, instance = key.1, addresses = %crate::host::show(container.namespace()), interface = container.interface, "attached");
                self.tell_link(Command::Arrive(key.0, key.1, container.namespace()));
                Ok(container)
            }
            Err(error) if self.fault.kills() => Err(error),
            Err(error) => {
                tracing::error!(job = key.0, instance = key.1, %error, "deploy failed; taking it back");
                undo.run().await;
                self.save_or_log().await;
                // What ran was announced, and is gone.
                if let Some(existing) = existing {
                    self.tell_link(Command::Leave(key.0, key.1, existing.namespace()));
                }
                Err(error)
            }
        }
    }

    async fn attach(
        self: &Arc<Self>,
        key: &Key,
        pid: i64,
        process: Option<Namespace>,
        made: Option<String>,
        ports: Vec<Published>,
        undo: &mut Undo,
    ) -> Result<Container, AttachError> {
        self.reserve_ports(key, &ports, undo)?;
        let address = self.reserve_address(undo).await?;
        self.fault.at("reserve")?;
        let namespace = match (&made, process) {
            (Some(name), _) => {
                self.note_making(name, undo).await?;
                let namespace = unikernel::make(name, undo).await?;
                self.fault.at("namespace")?;
                namespace
            }
            (None, Some(namespace)) => namespace,
            (None, None) => return Err(AttachError::NoProcess(pid)),
        };
        let gateway = self
            .inner()
            .state
            .ledger
            .gateway_of(address)
            .unwrap_or_default();
        let interface = instance::interface_name(&self.options.instance, &key.0, key.1);
        let plan = veth::Plan {
            host_end: &interface,
            mtu: self.options.tun.mtu,
            address,
            gateway,
            gateway_mac: self.forwarding.gateway_mac(),
        };
        let cable = veth::lay(&self.netlink, &namespace, &plan, &self.fault, undo).await?;
        // Two things that wait for the kernel, and for a program, side by side. Both are waited for: what only one of
        // them had done could not be taken back while the other is at work.
        let (configured, shielded) = tokio::join!(
            cable.configure(&self.fault),
            self.firewall.shield(&interface)
        );
        if shielded.is_ok() {
            let (firewall, name) = (Arc::clone(&self.firewall), interface.clone());
            undo.push("take the shield away", async move {
                firewall
                    .unshield(&name)
                    .await
                    .map_err(|error| error.to_string())
            });
        }
        let v6 = configured?;
        shielded?;
        self.fault.at("shield")?;
        let wired = cable.set_up(&self.netlink, v6, &self.fault).await?;
        if made.is_some() {
            unikernel::furnish(&namespace, address, made.as_deref().unwrap_or_default()).await?;
            self.fault.at("furnish")?;
        }
        let container = Container {
            job: key.0.clone(),
            number: key.1,
            pid: i32::try_from(pid).unwrap_or_default(),
            netns: namespace.inode(),
            ifindex: wired.host_index,
            interface: interface.clone(),
            mac: wired.mac,
            v4: address.v4,
            v6: address.v6.filter(|_| wired.v6),
            reserved_v6: address.v6,
            ports,
            made_namespace: made,
            socket: None,
        };
        let attachment = attachment(&container);
        self.forward(move |forwarding| forwarding.attach(attachment))
            .await?;
        self.undo_forwarding(container.ifindex, undo);
        self.fault.at("forwarding")?;
        self.enter(key, &container, undo).await?;
        Ok(container)
    }

    pub(super) fn undo_forwarding(self: &Arc<Self>, port: u32, undo: &mut Undo) {
        let node = Arc::clone(self);
        undo.push("detach from the data plane", async move {
            node.forward(move |forwarding| forwarding.detach(port))
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        });
    }

    /// The last of an attach: books, rules and the state file know the container.
    pub(super) async fn enter(
        self: &Arc<Self>,
        key: &Key,
        container: &Container,
        undo: &mut Undo,
    ) -> Result<(), AttachError> {
        self.publish(key, container, undo).await?;
        self.save().await?;
        self.fault.at("state")?;
        self.inner().reserved.retain(|(owner, _)| owner != key);
        Ok(())
    }

    /// Enters the container into the books and its ports into the rules.
    async fn publish(
        self: &Arc<Self>,
        key: &Key,
        container: &Container,
        undo: &mut Undo,
    ) -> Result<(), AttachError> {
        let published = !container.ports.is_empty();
        if published {
            let node = Arc::clone(self);
            undo.push("take the published ports back", async move {
                node.refresh_rules()
                    .await
                    .map_err(|error| error.to_string())
            });
        }
        {
            let mut inner = self.inner();
            inner.state.containers.push(container.clone());
            if let Some(made) = &container.made_namespace {
                inner.state.making.retain(|name| name != made);
            }
        }
        let (node, key) = (Arc::clone(self), key.clone());
        undo.push("forget the container", async move {
            node.forget(&key);
            Ok(())
        });
        if published {
            self.refresh_rules().await?;
        }
        self.fault.at("ports")?;
        Ok(())
    }

    /// Writes down which namespace is about to be made: nothing about it would tell that it was ours, if this process
    /// were killed before the deploy is over.
    async fn note_making(self: &Arc<Self>, name: &str, undo: &mut Undo) -> Result<(), AttachError> {
        self.inner().state.making.push(name.to_owned());
        let (node, name) = (Arc::clone(self), name.to_owned());
        undo.push("forget the namespace that was being made", async move {
            node.inner().state.making.retain(|other| *other != name);
            Ok(())
        });
        self.save().await?;
        Ok(())
    }

    async fn refresh_rules(&self) -> Result<(), firewall::FirewallError> {
        let _turn = self.configuring.lock().await;
        self.firewall.set_rules(&self.rules()).await
    }

    fn find(&self, key: &Key) -> Option<Container> {
        self.inner()
            .state
            .containers
            .iter()
            .find(|container| container.job == key.0 && container.number == key.1)
            .cloned()
    }

    fn forget(&self, key: &Key) {
        self.inner()
            .state
            .containers
            .retain(|container| container.job != key.0 || container.number != key.1);
    }

    pub(super) fn reserve_ports(
        self: &Arc<Self>,
        key: &Key,
        ports: &[Published],
        undo: &mut Undo,
    ) -> Result<(), AttachError> {
        if ports.is_empty() {
            return Ok(());
        }
        let mut inner = self.inner();
        let names = self.served_names(&inner);
        for port in ports {
            let same = |other: &Published| same_host_port(port, other);
            let holder = inner
                .state
                .containers
                .iter()
                .find(|container| container.ports.iter().any(same))
                .map(|container| format!("{} instance {}", container.job, container.number))
                .or_else(|| {
                    let reserved = inner.reserved.iter().find(|(_, other)| same(other));
                    reserved.map(|((job, number), _)| format!("{job} instance {number}"))
                });
            if let Some(holder) = holder {
                return Err(AttachError::PortTaken(format!(
                    "port {} is published by {holder}",
                    shown(port)
                )));
            }
            if let Some(reason) = firewall::port_in_use(*port, &names) {
                return Err(AttachError::PortTaken(reason));
            }
        }
        inner
            .reserved
            .extend(ports.iter().map(|port| (key.clone(), *port)));
        drop(inner);
        let (node, key) = (Arc::clone(self), key.clone());
        undo.push("let go of the ports", async move {
            node.inner().reserved.retain(|(owner, _)| *owner != key);
            Ok(())
        });
        Ok(())
    }

    pub(super) async fn reserve_address(
        self: &Arc<Self>,
        undo: &mut Undo,
    ) -> Result<Pair, AttachError> {
        let address = self.find_address().await?;
        let node = Arc::clone(self);
        undo.push("put the address back", async move {
            node.inner().state.ledger.untake(address);
            Ok(())
        });
        Ok(address)
    }

    async fn find_address(self: &Arc<Self>) -> Result<Pair, AttachError> {
        let owner = self
            .inner()
            .state
            .identity
            .as_ref()
            .map(|identity| identity.client_id.clone())
            .unwrap_or_default();
        if let Some(address) = self.inner().state.ledger.take(&owner, now()) {
            return Ok(address);
        }
        // The caller has a limit of its own, whoever else waits before it. Where an address could be had, although it
        // has not rested, a cluster that gives no subnetwork must not hold up every deploy.
        let rests = self.inner().state.ledger.has_resting(&owner);
        let until = Instant::now() + if rests { BRIEFLY } else { PATIENCE };
        let mut reason = "it may hold no more".to_owned();
        if let Ok(mut refused) = tokio::time::timeout_at(until.into(), self.growing.lock()).await {
            if let Some(address) = self.inner().state.ledger.take(&owner, now()) {
                return Ok(address);
            }
            let lately = refused.is_some_and(|refused| refused.elapsed() < NOT_AGAIN);
            if self.inner().state.ledger.may_grow(&owner) && !(rests && lately) {
                match self.grow(&owner, until).await {
                    Ok(()) => *refused = None,
                    Err(problem) => {
                        *refused = Some(Instant::now());
                        reason = problem;
                    }
                }
            }
        }
        let mut inner = self.inner();
        let ledger = &mut inner.state.ledger;
        ledger
            .take(&owner, now())
            .or_else(|| ledger.take_resting(&owner))
            .ok_or_else(|| AttachError::NoAddress(ledger.subnets().len() * 61, reason))
    }

    /// Asks for a further subnetwork.
    async fn grow(self: &Arc<Self>, owner: &str, until: Instant) -> Result<(), String> {
        let link = self.link().ok_or("no link to the cluster")?;
        let have = self.inner().state.ledger.have(owner);
        let result = link
            .subnet(Some(have), until.saturating_duration_since(Instant::now()))
            .await
            .ok_or("the cluster service manager did not answer in time")?;
        self.inner()
            .state
            .ledger
            .take_in(result.address, result.addressv6, owner);
        self.apply_subnets().await?;
        self.save_or_log().await;
        Ok(())
    }

    /// `POST /container/undeploy` and its siblings. An instance that is not here is gone already.
    ///
    /// # Errors
    /// 400 for a bad job name.
    pub async fn undeploy(self: &Arc<Self>, request: Undeploy) -> Result<(), Refusal> {
        let job: JobName = request
            .service_name
            .parse()
            .map_err(|error: protocol::job_name::JobNameError| Refusal::bad(error.to_string()))?;
        let key: Key = (job.as_str().to_owned(), request.instance_number);
        let node = Arc::clone(self);
        let task = tokio::spawn(async move { node.detach(&key, None).await });
        task.await
            .map_err(|error| Refusal::failed(format!("the undeploy ended early: {error}")))
    }

    /// Detaches an instance and tells the cluster; with `only`, just that attachment of it.
    pub(super) async fn detach(self: &Arc<Self>, key: &Key, only: Option<u32>) {
        let turn = self.turn(key);
        let _turn = turn.lock().await;
        let Some(container) = self.find(key) else {
            return;
        };
        if only.is_some_and(|ifindex| ifindex != container.ifindex) {
            return;
        }
        if only.is_some() {
            tracing::info!(
                job = key.0,
                instance = key.1,
                "its network namespace is gone"
            );
        }
        self.release(&container).await;
        tracing::info!(job = key.0, instance = key.1, "detached");
        self.tell_link(Command::Leave(key.0.clone(), key.1, container.namespace()));
        self.give_back_surplus().await;
    }

    /// Takes a container off this node. What fails is logged, and the rest still happens.
    pub(super) async fn release(&self, container: &Container) {
        let complain = |what: &str, error: &dyn std::fmt::Display| {
            tracing::warn!(job = container.job, instance = container.number, %error, "{what}");
        };
        let ifindex = container.ifindex;
        if let Err(error) = self
            .forward(move |forwarding| forwarding.detach(ifindex))
            .await
        {
            complain("the data plane did not let go", &error);
        }
        match &container.socket {
            Some(socket) => {
                if let Err(error) = vhost::remove(socket) {
                    complain("its socket could not be removed", &error);
                }
            }
            None => self.unplug(container, &complain).await,
        }
        {
            let mut inner = self.inner();
            inner.state.ledger.free(container.reserved(), now());
        }
        self.forget(&(container.job.clone(), container.number));
        if !container.ports.is_empty()
            && let Err(error) = self.refresh_rules().await
        {
            complain("its published ports could not be taken back", &error);
        }
        self.save_or_log().await;
    }

    /// Removes a container's veth pair and what was made for it.
    async fn unplug(
        &self,
        container: &Container,
        complain: &(impl Fn(&str, &dyn std::fmt::Display) + Sync),
    ) {
        let unplug = async {
            match self.netlink.link(&container.interface).await? {
                Some(link) => self.netlink.delete_link(link.index).await,
                None => Ok(()),
            }
        };
        let (unshielded, unplugged) =
            tokio::join!(self.firewall.unshield(&container.interface), unplug);
        if let Err(error) = unshielded {
            complain("its rule could not be removed", &error);
        }
        if let Err(error) = unplugged {
            complain("its interface could not be removed", &error);
        }
        if let Some(name) = &container.made_namespace
            && let Err(error) = unikernel::remove(name).await
        {
            complain("its namespace could not be removed", &error);
        }
    }
}

fn same_host_port(one: &Published, other: &Published) -> bool {
    one.host == other.host && one.udp == other.udp
}

fn named_twice(ports: &[Published]) -> Option<&Published> {
    let earlier = |index: usize| ports.iter().take(index);
    ports.iter().enumerate().find_map(|(index, port)| {
        earlier(index)
            .any(|other| same_host_port(port, other))
            .then_some(port)
    })
}

fn shown(port: &Published) -> String {
    format!("{}/{}", port.host, if port.udp { "udp" } else { "tcp" })
}

fn exists(pid: i64) -> bool {
    i32::try_from(pid).is_ok_and(|pid| inode_of_process(pid).is_some())
}

fn open_process(pid: i64) -> Result<Namespace, AttachError> {
    let number = i32::try_from(pid).map_err(|_| AttachError::NoProcess(pid))?;
    let namespace = Namespace::of_process(number).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => AttachError::NoProcess(pid),
        _ => AttachError::Namespace(error),
    })?;
    let own = Namespace::current().map_err(AttachError::Namespace)?;
    if own.inode() == namespace.inode() {
        return Err(AttachError::HostNamespace(pid));
    }
    Ok(namespace)
}
