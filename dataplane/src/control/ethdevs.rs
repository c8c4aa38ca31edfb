//! Ethdev access ports: plugged in for a container or VM, and out with it.
//!
//! The owning worker alone polls a port's queues, and a port must not be closed while it does: so the queues travel to
//! the worker, and come back before the port goes. A worker that has ended has let go of them already, and one that
//! does not answer does not hold up the control thread: the port then goes with its last queue.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use dpdk::{Port, PortConfig, PortError, RxQueue, TxQueue};

use super::Controller;
use crate::access::{Change, ETHDEV};
use crate::api::CommandError;
use crate::plugged::{Abilities, Plugged};

/// How long a worker may take to give a port back. A round takes microseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// Descriptors of a queue: with 32 ports, still a fraction of the pool.
const DESCRIPTORS: u16 = 256;
/// The MTU of an access port: containers and VMs have less.
const MTU: u16 = 1500;

/// A started port's one pair of queues.
pub(super) type Queues = ((RxQueue, TxQueue), Abilities);

fn refused(error: PortError) -> CommandError {
    match error {
        PortError::NoFreePort(_) => CommandError::Full(format!(
            "{error}; attach the container by a veth pair (its number has no such limit), or place it on another node"
        )),
        PortError::Exists(name) | PortError::InUse(name) => {
            CommandError::Attached(format!("device {name}"))
        }
        PortError::Attach(devargs, errno) if devargs.starts_with("net_vhost") => {
            CommandError::Kernel(format!(
                "device {devargs:?} ({errno}): DPDK has no vhost-user driver here, or it refused; install librte-net-vhost23, restart, and look at DPDK's lines in the log"
            ))
        }
        other => CommandError::Kernel(other.to_string()),
    }
}

/// Removes the socket file that a killed process left where `net_vhost` is about to listen: the driver would refuse it.
fn clear_socket(devargs: &str) -> Result<(), CommandError> {
    let pairs = || devargs.split(',').skip(1);
    let listens = devargs.starts_with("net_vhost") && !pairs().any(|pair| pair == "client=1");
    let Some(path) = pairs()
        .find_map(|pair| pair.strip_prefix("iface="))
        .filter(|_| listens)
    else {
        return Ok(());
    };
    match UnixStream::connect(path) {
        Ok(_) => Err(CommandError::Attached(format!("the socket {path}"))),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .map_err(|error| {
                CommandError::Kernel(format!("{path}: {error}; remove it, or name another"))
            }),
        // Nothing is there; or whatever the driver says about it.
        Err(_) => Ok(()),
    }
}

impl Controller {
    /// A number that no port of now has.
    pub(super) fn ethdev_number(&mut self) -> u32 {
        loop {
            let number = ETHDEV | (self.next_ethdev & !ETHDEV);
            self.next_ethdev = self.next_ethdev.wrapping_add(1);
            if !self.attached.contains_key(&number) {
                return number;
            }
        }
    }

    pub(super) fn open_ethdev(&self, devargs: &str) -> Result<(Port, Queues), CommandError> {
        let Some(small) = &self.small else {
            return Err(CommandError::Kernel(
                "this data plane has no workers that could poll a device".to_owned(),
            ));
        };
        // Segments would come without the marks that tell them from ordinary frames.
        if devargs.starts_with("net_vhost") && devargs.split(',').any(|pair| pair == "tso=1") {
            return Err(CommandError::Kernel(format!(
                "device {devargs:?}: segmentation offload is not supported on access ports; leave tso=1 out"
            )));
        }
        clear_socket(devargs)?;
        let mut port = Port::attach(devargs).map_err(refused)?;
        port.configure(&PortConfig {
            rx_desc: DESCRIPTORS,
            tx_desc: DESCRIPTORS,
            mtu: MTU,
            ..PortConfig::new(small.clone())
        })
        .map_err(refused)?;
        port.start().map_err(refused)?;
        // Frames for the gateway are for no MAC address that the device has; most virtual devices do not care.
        let _ = port.set_promiscuous();
        let queues = (
            port.rx_queue(0).map_err(refused)?,
            port.tx_queue(0).map_err(refused)?,
        );
        let abilities = Abilities {
            takes_chains: port.takes_chains(),
            // An emulator that a guest is behind may take it otherwise than the kernel does.
            takes_unfinished: false,
            mtu: MTU,
        };
        Ok((port, (queues, abilities)))
    }

    /// Has the owner poll the port from now on.
    pub(super) fn plug(
        &self,
        number: u32,
        worker: u16,
        (queues, abilities): Queues,
    ) -> Result<(), CommandError> {
        let (Some(link), Some(small)) = (self.workers.get(usize::from(worker)), &self.small) else {
            return Err(CommandError::Stopped);
        };
        let plugged = Plugged::new(number, queues, abilities, small.clone());
        if !link.changer.tell(Change::Plug(Box::new(plugged))) {
            return Err(CommandError::Stopped);
        }
        link.waker.wake();
        Ok(())
    }

    /// Takes the queues back and closes the port.
    pub(super) fn unplug(&self, number: u32, worker: u16, device: Port) {
        let name = device.name().to_owned();
        let (reply, answer) = sync_channel(1);
        if let Some(link) = self.workers.get(usize::from(worker))
            && link.changer.tell(Change::Unplug(number, reply))
        {
            link.waker.wake();
            match answer.recv_timeout(PATIENCE) {
                Ok(queues) => drop(queues),
                Err(RecvTimeoutError::Timeout) => tracing::warn!(
                    port = name,
                    "a worker does not give the port back; it is closed when it does"
                ),
                // The worker has ended, and its queues with it.
                Err(RecvTimeoutError::Disconnected) => {}
            }
        }
        match device.detach() {
            // The port goes with its last queue.
            Ok(()) | Err(PortError::QueuesInUse(_)) => {}
            Err(error) => tracing::warn!("an access port could not be closed: {error}"),
        }
    }
}
