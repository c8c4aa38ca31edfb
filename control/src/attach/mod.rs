//! Attaching a container to the data plane, step by step, each step with its way back.

pub mod namespace;
pub mod undo;
pub mod unikernel;
pub mod veth;
pub mod vhost;

use std::sync::Mutex;

use crate::firewall::FirewallError;
use crate::forwarding::CommandError;
use crate::netlink::NetlinkError;
use crate::state::StateError;

/// Why a container could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A netlink request failed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The network namespace could not be entered.
    #[error("entering the container's network namespace: {0}; did its process end?")]
    Namespace(std::io::Error),
    /// No such process.
    #[error(
        "process {0} does not exist; the task must be created (not started) before its network"
    )]
    NoProcess(i64),
    /// The process has no network namespace of its own.
    #[error(
        "process {0} shares the node's own network namespace; create the task with a network namespace of its own"
    )]
    HostNamespace(i64),
    /// An interface vanished while it was set up.
    #[error("the interface {0} vanished while it was set up; did the container end?")]
    Gone(String),
    /// nftables refused.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// The data plane refused.
    #[error(transparent)]
    Forwarding(#[from] CommandError),
    /// The state could not be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The node leaves.
    #[error("the Net Manager is stopping; deploy again once it runs")]
    Stopping,
    /// A published port is taken.
    #[error("{0}; choose another host port")]
    PortTaken(String),
    /// No address is free.
    #[error(
        "no free address: all {0} addresses of this node's subnetworks are in use and the cluster gave no further subnetwork ({1}); undeploy an instance, or look at the cluster service manager's log"
    )]
    NoAddress(usize, String),
    /// A virtual machine's socket could not be had.
    #[error("{0}")]
    Vhost(String),
    /// A command of iproute2 failed.
    #[error("{0}")]
    Command(String),
    /// A failure that a test asked for.
    #[error("injected failure at step {0}")]
    Injected(&'static str),
}

/// Where a test lets an attach fail. Without a test nothing ever fails here.
#[derive(Debug, Default)]
pub struct Fault(Mutex<Option<Armed>>);

#[derive(Clone, Copy, Debug)]
struct Armed {
    step: &'static str,
    kills: bool,
}

/// Every step at which [`Fault`] can strike, in order.
pub const STEPS: [&str; 9] = [
    "reserve",
    "veth",
    "address",
    "route",
    "shield",
    "up",
    "forwarding",
    "ports",
    "state",
];

/// The further steps of a unikernel's deploy.
pub const UNIKERNEL_STEPS: [&str; 2] = ["namespace", "furnish"];

/// The steps of the deploy of a machine behind a `vhost-user` socket, in order.
pub const MACHINE_STEPS: [&str; 5] = ["reserve", "forwarding", "socket", "ports", "state"];

impl Fault {
    /// The next attach fails at this step (or never again).
    pub fn set(&self, step: Option<&'static str>) {
        self.arm(step.map(|step| Armed { step, kills: false }));
    }

    /// The next attach ends at this step as if the process were killed there: nothing is taken back.
    pub fn kill_at(&self, step: &'static str) {
        self.arm(Some(Armed { step, kills: true }));
    }

    fn arm(&self, what: Option<Armed>) {
        if let Ok(mut armed) = self.0.lock() {
            *armed = what;
        }
    }

    fn armed(&self) -> Option<Armed> {
        self.0.lock().ok().and_then(|armed| *armed)
    }

    /// Fails if this is the step.
    pub(crate) fn at(&self, step: &'static str) -> Result<(), AttachError> {
        match self.armed() {
            Some(armed) if armed.step == step => Err(AttachError::Injected(step)),
            _ => Ok(()),
        }
    }

    /// Whether nobody is left to take anything back.
    pub(crate) fn kills(&self) -> bool {
        self.armed().is_some_and(|armed| armed.kills)
    }
}
