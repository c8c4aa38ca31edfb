//! Instances that are virtual machines behind a `vhost-user` socket: no network namespace and no interface of the
//! kernel, so that what they must know goes back to the caller, and their end is their process's, if one was named.

use std::path::PathBuf;
use std::sync::Arc;

use protocol::node_http::VhostUser;
use serde::Serialize;

use super::{Key, Node, attachment};
use crate::attach::namespace::inode_of_process;
use crate::attach::undo::Undo;
use crate::attach::{AttachError, vhost};
use crate::forwarding::Stats;
use crate::instance;
use crate::state::{Container, Published};

/// A virtual machine's port, for people.
#[derive(Clone, Debug, Serialize)]
pub struct MachineView {
    /// The socket.
    pub socket: PathBuf,
    /// The MAC address that its device must have.
    pub mac: String,
    /// Whether an emulator is connected; absent where the data plane does not answer.
    pub connected: Option<bool>,
}

fn shown(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl MachineView {
    /// Of a container, if it is one behind a socket.
    pub(super) fn of(container: &Container, stats: Option<&Stats>) -> Option<Self> {
        let device = |stats: &Stats| {
            let mut devices = stats.devices.iter();
            let found = devices.find(|device| device.device == container.interface)?;
            Some(found.up)
        };
        Some(Self {
            socket: container.socket.clone()?,
            mac: shown(container.mac),
            connected: stats.and_then(device),
        })
    }
}

impl Node {
    /// Makes an instance's port; all or nothing by `undo`.
    pub(super) async fn attach_machine(
        self: &Arc<Self>,
        key: &Key,
        pid: i64,
        ports: Vec<Published>,
        undo: &mut Undo,
    ) -> Result<Container, AttachError> {
        self.reserve_ports(key, &ports, undo)?;
        let address = self.reserve_address(undo).await?;
        self.fault.at("reserve")?;
        let (id, config) = (&self.options.instance, &self.options.net.vhost);
        let socket = vhost::path(&config.folder, id, &key.0, key.1);
        vhost::clear(&socket).await?;
        let left = socket.clone();
        undo.push("remove the socket", async move {
            vhost::remove(&left).map_err(|error| error.to_string())
        });
        let pid = i32::try_from(pid).unwrap_or_default();
        let mut container = Container {
            job: key.0.clone(),
            number: key.1,
            pid,
            netns: watched(pid)?,
            ifindex: 0,
            interface: vhost::device(id, &key.0, key.1),
            mac: instance::machine_mac(id, &key.0, key.1),
            v4: address.v4,
            v6: address.v6,
            reserved_v6: address.v6,
            ports,
            made_namespace: None,
            socket: Some(socket.clone()),
        };
        let attachment = attachment(&container);
        let port = self
            .forward(move |forwarding| forwarding.attach(attachment))
            .await?;
        container.ifindex = port;
        self.undo_forwarding(port, undo);
        self.fault.at("forwarding")?;
        vhost::give(&socket, config)?;
        self.fault.at("socket")?;
        self.enter(key, &container, undo).await?;
        Ok(container)
    }

    /// Makes the port of a machine that an earlier run attached, by the same socket.
    pub(super) async fn attach_machine_again(&self, container: &Container) -> Result<(), String> {
        let Some(socket) = &container.socket else {
            return Ok(());
        };
        vhost::clear(socket)
            .await
            .map_err(|error| error.to_string())?;
        let attachment = attachment(container);
        let port = self
            .forward(move |forwarding| forwarding.attach(attachment))
            .await
            .map_err(|error| error.to_string())?;
        if let Err(error) = vhost::give(socket, &self.options.net.vhost) {
            // It runs, and an emulator of root's still gets there.
            tracing::warn!(job = container.job, instance = container.number, %error, "its socket could not be given to its group");
        }
        let mut inner = self.inner();
        inner.state.ledger.claim(container.reserved());
        let mut all = inner.state.containers.iter_mut();
        if let Some(kept) =
            all.find(|other| other.job == container.job && other.number == container.number)
        {
            kept.ifindex = port;
        }
        Ok(())
    }

    /// What the caller must tell a machine.
    pub(super) fn machine_of(&self, container: &Container) -> Option<VhostUser> {
        let socket = container.socket.as_ref()?;
        let address = container.reserved();
        let gateway = self
            .inner()
            .state
            .ledger
            .gateway_of(address)
            .unwrap_or_default();
        Some(VhostUser {
            socket: socket.to_string_lossy().into_owned(),
            mac: shown(container.mac),
            prefix: 26,
            gateway: gateway.v4,
            prefix_v6: 120,
            gateway_v6: gateway.v6,
            mtu: self.options.tun.mtu,
        })
    }
}

/// What tells a process from a later one of the same number: its network namespace; 0 where none is watched.
fn watched(pid: i32) -> Result<u64, AttachError> {
    match pid {
        0 => Ok(0),
        pid => inode_of_process(pid).ok_or(AttachError::NoProcess(i64::from(pid))),
    }
}
