//! Containers on this node: their slots, and the host TAP's.

use std::net::IpAddr;

use dpdk::Port;
use net::address::Address;

use super::{Controller, Resting};
use crate::access::is_ethdev;
use crate::api::{AccessKind, Attachment, CommandError, Pair, PortLine, Subnet};
use crate::observe::capture::CapturePort;
use crate::tables::region::Location;
use crate::tables::routes::Route;
use crate::tables::slots::AccessSlot;

/// An attached container.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) attachment: Attachment,
    pub(super) slot: u32,
    pub(super) port: AccessSlot,
    /// The device, where it is one of DPDK.
    pub(super) device: Option<Port>,
}

impl Attached {
    /// What people call its port, and what kind of port it is.
    pub(super) fn name(&self) -> (String, &'static str) {
        match (&self.attachment.port, &self.device) {
            (AccessKind::Packet { interface, .. }, _) => (interface.clone(), "packet"),
            (AccessKind::Ethdev { .. }, Some(device)) => (device.name().to_owned(), "ethdev"),
            (AccessKind::Ethdev { devargs }, None) => (devargs.clone(), "ethdev"),
        }
    }
}

pub(super) fn v4_bits(pair: Pair) -> u32 {
    pair.v4.map_or(0, u32::from)
}

pub(super) fn v6_address(pair: Pair) -> Address {
    pair.v6.map_or(Address(0), |a| Address(u128::from(a)))
}

fn gateways(subnets: &[Subnet]) -> Vec<Address> {
    subnets
        .iter()
        .flat_map(|s| s.gateway.iter())
        .map(Address::from)
        .collect()
}

impl Controller {
    fn take_slot(&mut self) -> Result<u32, CommandError> {
        if let Some(slot) = self.free_slots.pop() {
            return Ok(slot);
        }
        let slot = self.next_slot;
        if slot as usize >= self.tables.slots.capacity() {
            return Err(CommandError::Full(format!(
                "this node has {} access ports, which is its limit; place the container on another node",
                self.tables.slots.capacity()
            )));
        }
        self.next_slot += 1;
        Ok(slot)
    }

    // What a container's numbers are kept under. A used one has rested: no worker counts for its former owner.
    fn take_number(&mut self) -> u16 {
        let number = self.free_numbers.pop().unwrap_or_else(|| {
            // There are no more than slots at one time, and fewer slots than a u16 counts.
            self.next_number = self.next_number.wrapping_add(1);
            self.next_number - 1
        });
        for worker in &self.workers {
            worker.counters.tally.clear_port(number);
        }
        self.tables.activity.clear(number);
        number
    }

    fn filter(&mut self) -> Result<(), CommandError> {
        let members: Vec<(u32, usize)> = self
            .attached
            .iter()
            .filter(|(number, _)| !is_ethdev(**number))
            .map(|(&ifindex, a)| (ifindex, usize::from(a.port.worker)))
            .collect();
        self.access
            .set_interfaces(&members)
            .map_err(|e| CommandError::Kernel(e.to_string()))
    }

    // The worker that has the container's flows of before a restart, else the one with the fewest containers.
    fn owner(&self, namespace: Pair) -> u16 {
        let before = namespace
            .iter()
            .find_map(|address| self.owners.get(&Address::from(address)));
        if let Some(&worker) = before {
            return worker;
        }
        let mut counts = vec![0usize; self.workers.len().max(1)];
        for attached in self.attached.values() {
            if let Some(count) = counts.get_mut(usize::from(attached.port.worker)) {
                *count += 1;
            }
        }
        let least = counts
            .iter()
            .enumerate()
            .min_by_key(|(_, count)| **count)
            .map_or(0, |(n, _)| n);
        u16::try_from(least).unwrap_or(0)
    }

    /// Attaches a container; the number of its port.
    pub(crate) fn attach(&mut self, attachment: Attachment) -> Result<u32, CommandError> {
        if let AccessKind::Packet { ifindex, interface } = &attachment.port
            && self.attached.contains_key(ifindex)
        {
            return Err(CommandError::Attached(format!("interface {interface}")));
        }
        let taken = attachment
            .namespace
            .iter()
            .find(|&a| matches!(self.tables.route(a.into()), Some(Route::Local(_))));
        if let Some(address) = taken {
            return Err(CommandError::Attached(address.to_string()));
        }
        let opened = match &attachment.port {
            AccessKind::Packet { .. } => None,
            AccessKind::Ethdev { devargs } => Some(self.open_ethdev(devargs)?),
        };
        let ifindex = match &attachment.port {
            AccessKind::Packet { ifindex, .. } => *ifindex,
            AccessKind::Ethdev { .. } => self.ethdev_number(),
        };
        let slot = self.take_slot()?;
        let instance = self.instance_ips(attachment.namespace);
        let port = AccessSlot {
            ifindex,
            worker: self.owner(attachment.namespace),
            number: self.take_number(),
            mac: attachment.mac,
            namespace_v4: v4_bits(attachment.namespace),
            namespace_v6: v6_address(attachment.namespace),
            instance_v4: v4_bits(instance),
            instance_v6: v6_address(instance),
        };
        self.tables.slots.fill(slot, &port);
        let namespace = attachment.namespace;
        let (device, queues) = opened.unzip();
        self.attached.insert(
            ifindex,
            Attached {
                attachment,
                slot,
                port,
                device,
            },
        );
        let published = self
            .publish_slot(ifindex, slot)
            .and_then(|()| self.place_again(namespace))
            .and_then(|()| match queues {
                None => self.filter(),
                Some(queues) => self.plug(ifindex, port.worker, queues),
            });
        if let Err(error) = published {
            let _ = self.detach(ifindex);
            return Err(error);
        }
        Ok(ifindex)
    }

    /// The access ports and their names.
    pub(super) fn port_lines(&self) -> Vec<PortLine> {
        let line = |(&number, attached): (&u32, &Attached)| {
            let (name, kind) = attached.name();
            PortLine {
                port: CapturePort::Access(number),
                name,
                kind,
            }
        };
        let mut lines: Vec<PortLine> = self.attached.iter().map(line).collect();
        lines.sort_by_key(|line| line.port);
        lines
    }

    // Makes a filled slot the one that workers find.
    fn publish_slot(&mut self, ifindex: u32, slot: u32) -> Result<(), CommandError> {
        let Some(namespace) = self.attached.get(&ifindex).map(|a| a.attachment.namespace) else {
            return Ok(());
        };
        self.tables
            .interfaces
            .set(
                &self.tables.arena,
                &mut self.allocator,
                Address(u128::from(ifindex)),
                u64::from(slot),
            )
            .map_err(|e| CommandError::Full(e.to_string()))?;
        for address in namespace.iter() {
            self.set_route(address.into(), Route::Local(slot))?;
            self.queries.settled(address.into());
        }
        self.relocate(namespace, Location::Local(slot));
        self.contested += 1;
        self.dirty = true;
        Ok(())
    }

    pub(crate) fn detach(&mut self, ifindex: u32) -> Result<bool, CommandError> {
        let Some(gone) = self.attached.remove(&ifindex) else {
            return Ok(false);
        };
        // The interface may be gone already; the filter is only told who is left.
        let filtered = match gone.device {
            None => self.filter(),
            Some(_) => Ok(()),
        };
        if let Some((_, cell)) = self
            .tables
            .interfaces
            .remove(&self.tables.arena, Address(u128::from(ifindex)))
        {
            self.retire(cell, 1);
        }
        for address in gone.attachment.namespace.iter() {
            if self.tables.route(address.into()) == Some(Route::Local(gone.slot)) {
                self.remove_route(address.into());
            }
        }
        self.contested += 1;
        let placed = self.place_again(gone.attachment.namespace);
        for address in gone.attachment.namespace.iter() {
            self.owners.remove(&address.into());
        }
        self.rest(Resting::Slot(gone.slot));
        if let Some(device) = gone.device {
            self.unplug(ifindex, gone.port.worker, device);
        }
        self.rest(Resting::Number(gone.port.number));
        self.dirty = true;
        filtered.and(placed).map(|()| true)
    }

    /// Whether an instance should be on this node and is not: a namespace IP of our own subnetworks with nothing
    /// attached there. A manager that has not heard of its end names it still, and its host is this node: what we sent
    /// there would come back to us.
    pub(super) fn is_absent(&self, namespace: Pair) -> bool {
        let in_subnet = |subnet: &Subnet, address: IpAddr| match address {
            IpAddr::V4(v4) => subnet
                .v4
                .is_some_and(|base| u32::from(v4) >> 6 == u32::from(base) >> 6),
            IpAddr::V6(v6) => subnet
                .v6
                .is_some_and(|base| u128::from(v6) >> 8 == u128::from(base) >> 8),
        };
        self.local_slot(namespace).is_none()
            && namespace
                .iter()
                .any(|address| self.subnets.iter().any(|s| in_subnet(s, address)))
    }

    /// Gives a local container the Instance IPs that a job's routes name for it.
    pub(super) fn learn_instance(
        &mut self,
        namespace: Pair,
        instance: Pair,
    ) -> Result<(), CommandError> {
        let same = |other: Pair| other.iter().any(|a| namespace.iter().any(|b| a == b));
        if self.subnets.first().is_some_and(|s| same(s.gateway)) {
            return self.set_host_instance(instance);
        }
        let Some(ifindex) = self
            .attached
            .iter()
            .find(|(_, a)| same(a.attachment.namespace))
            .map(|(&i, _)| i)
        else {
            return Ok(());
        };
        let (v4, v6) = (v4_bits(instance), v6_address(instance));
        let Some(port) = self.attached.get(&ifindex).map(|a| a.port) else {
            return Ok(());
        };
        if port.instance_v4 == v4 && port.instance_v6 == v6 {
            return Ok(());
        }
        let slot = self.take_slot()?;
        let port = AccessSlot {
            instance_v4: v4,
            instance_v6: v6,
            ..port
        };
        self.tables.slots.fill(slot, &port);
        let old = self.attached.get_mut(&ifindex).map(|a| {
            a.port = port;
            std::mem::replace(&mut a.slot, slot)
        });
        self.publish_slot(ifindex, slot)?;
        if let Some(old) = old {
            self.rest(Resting::Slot(old));
        }
        Ok(())
    }

    /// Where a namespace address is attached on this node.
    pub(super) fn local_slot(&self, namespace: Pair) -> Option<u32> {
        namespace
            .iter()
            .find_map(|address| match self.tables.route(address.into()) {
                Some(Route::Local(slot)) => Some(slot),
                _ => None,
            })
    }

    pub(crate) fn set_subnets(&mut self, subnets: Vec<Subnet>) -> Result<(), CommandError> {
        let gateway = subnets.first().map(|s| s.gateway).unwrap_or_default();
        let instance = self
            .host_slot
            .map_or((0, Address(0)), |p| (p.instance_v4, p.instance_v6));
        let old = gateways(&self.subnets);
        let new = gateways(&subnets);
        self.subnets = subnets;
        self.contested += 1;
        self.publish_host(AccessSlot {
            ifindex: 0,
            worker: 0,
            number: 0,
            mac: [0; 6],
            namespace_v4: v4_bits(gateway),
            namespace_v6: v6_address(gateway),
            instance_v4: instance.0,
            instance_v6: instance.1,
        })?;
        for address in old.iter().filter(|a| !new.contains(a)) {
            self.remove_route(*address);
        }
        Ok(())
    }

    pub(crate) fn set_host_instance(&mut self, instance: Pair) -> Result<(), CommandError> {
        match self.host_slot {
            Some(port) => self.publish_host(AccessSlot {
                instance_v4: v4_bits(instance),
                instance_v6: v6_address(instance),
                ..port
            }),
            None => Err(CommandError::Kernel(
                "the node has no subnetwork yet; set that first".to_owned(),
            )),
        }
    }

    fn publish_host(&mut self, port: AccessSlot) -> Result<(), CommandError> {
        let slot = self.take_slot()?;
        self.tables.slots.fill(slot, &port);
        let old = self.host_slot.is_some().then(|| self.tables.host_slot());
        self.tables.set_host_slot(slot);
        self.host_slot = Some(port);
        for address in gateways(&self.subnets) {
            self.set_route(address, Route::Local(slot))?;
        }
        if let Some(gateway) = self.subnets.first().map(|s| s.gateway) {
            self.relocate(gateway, Location::Local(slot));
        }
        if let Some(old) = old {
            self.rest(Resting::Slot(old));
        }
        self.contested += 1;
        self.dirty = true;
        Ok(())
    }
}
