//! The single writer without its thread: for whoever drives the tables and a pipeline step by step.
//!
//! Fuzz targets and benches must be able to say when a change happens, and must need neither ports nor the rights to
//! open them. What changes the tables here is the control thread's own code; only the kernel is not told.

use std::net::IpAddr;
use std::sync::Arc;

use kernel_port::{KernelPortError, Waiter};

use crate::api::{Attachment, CommandError, JobRoutes, Pair, Subnet};
use crate::control::{Controller, Interfaces, WorkerLink};
use crate::counters::Counters;
use crate::tables::Tables;

/// The kernel, which is not there.
struct NoKernel;

impl Interfaces for NoKernel {
    fn set_interfaces(&mut self, _: &[(u32, usize)]) -> Result<(), KernelPortError> {
        Ok(())
    }

    fn drops(&mut self) -> u64 {
        0
    }
}

/// The writer of some tables. Each change is visible to pipelines when its method returns.
pub struct Writer {
    controller: Controller,
    _waiter: Waiter,
}

impl Writer {
    /// For tables with a worker for each of the counters. Only one writer may exist for the tables.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new(tables: Arc<Tables>, counters: &[Arc<Counters>]) -> Result<Self, KernelPortError> {
        let waiter = Waiter::new()?;
        let links = counters
            .iter()
            .map(|counters| WorkerLink {
                counters: Arc::clone(counters),
                waker: waiter.waker(),
                changer: crate::access::changes().0,
            })
            .collect();
        let controller = Controller::new(tables, NoKernel, links, Box::new(|_| {}), String::new());
        Ok(Self {
            controller,
            _waiter: waiter,
        })
    }

    /// What changes the tables.
    #[cfg(test)]
    pub(crate) fn controller(&mut self) -> &mut Controller {
        &mut self.controller
    }

    fn then_publish<T>(&mut self, done: T) -> T {
        self.controller.publish_probed();
        self.controller.publish();
        self.controller.reclaim();
        done
    }

    /// The node's subnetworks and with them the gateway addresses.
    ///
    /// # Errors
    /// When a table is full.
    pub fn set_subnets(&mut self, subnets: Vec<Subnet>) -> Result<(), CommandError> {
        let done = self.controller.set_subnets(subnets);
        self.then_publish(done)
    }

    /// The Instance IPs of the node's own processes.
    ///
    /// # Errors
    /// When the node has no subnetwork.
    pub fn set_host_instance(&mut self, instance: Pair) -> Result<(), CommandError> {
        let done = self.controller.set_host_instance(instance);
        self.then_publish(done)
    }

    /// A container appears.
    ///
    /// # Errors
    /// When its interface or an address of it is attached already, or a table is full.
    pub fn attach(&mut self, attachment: Attachment) -> Result<(), CommandError> {
        let done = self.controller.attach(attachment).map(drop);
        self.then_publish(done)
    }

    /// A container goes; false when there was none.
    ///
    /// # Errors
    /// None without a kernel.
    pub fn detach(&mut self, ifindex: u32) -> Result<bool, CommandError> {
        let done = self.controller.detach(ifindex);
        self.then_publish(done)
    }

    /// Replaces what is known of a job.
    ///
    /// # Errors
    /// When a table is full.
    pub fn set_job(&mut self, routes: JobRoutes) -> Result<(), CommandError> {
        let done = self.controller.set_job(routes);
        self.then_publish(done)
    }

    /// Forgets a job.
    pub fn forget_job(&mut self, job: &str) {
        self.controller.forget_job(job);
        self.then_publish(());
    }

    /// Nothing is behind this address.
    ///
    /// # Errors
    /// When a table is full.
    pub fn unresolvable(&mut self, address: IpAddr) -> Result<(), CommandError> {
        let done = self.controller.unresolvable(address.into());
        self.then_publish(done)
    }
}
