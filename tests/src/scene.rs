//! A client on the first node and a service beside it and away: the scene of most journeys.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::container::Container;
use crate::measure::{BULK_PORT, Observer};
use crate::node::{Node, Uplink};
use crate::orchestrator::{Service, Table};
use crate::topology::{Deployed, Plan, Topology};

/// A client on the first node, and a service with one instance on each of some nodes.
#[derive(Debug)]
pub struct Scene {
    /// The client.
    pub client: Container,
    /// The service, by name.
    pub service: Service,
    /// Its containers.
    pub instances: Vec<Deployed>,
    /// Its addresses.
    pub table: Table,
    /// Last: it takes all down.
    pub topology: Topology,
}

impl Scene {
    /// Two nodes; instances on `nodes`.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn new(uplink: Uplink, nodes: &[usize]) -> Result<Scene> {
        Scene::with(uplink, nodes, |_| Ok(()))
    }

    /// [`Scene::new`], with the nodes changed by `prepare` before they start.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn with(
        uplink: Uplink,
        nodes: &[usize],
        prepare: impl Fn(&mut [Node]) -> Result<()>,
    ) -> Result<Scene> {
        let mut topology = Topology::registered_with(Plan { nodes: 2, uplink }, prepare)?;
        let (web, instances) = topology.deploy("trial.test.web.default", nodes)?;
        let (own, client) = topology.deploy_client("trial.test.client.default", 0)?;
        let mut tables = topology.wait_running(&[(&web, instances.len()), (&own, 1)])?;
        Ok(Scene {
            client: client.container,
            service: web,
            instances,
            table: tables.remove(0),
            topology,
        })
    }

    /// The client, to measure from.
    pub fn observer(&mut self) -> Observer<'_> {
        Observer {
            container: &mut self.client,
            run: self.topology.run(),
            programs: &self.topology.programs,
        }
    }

    /// So many bytes each way over TCP, every byte compared.
    ///
    /// # Errors
    /// When one is wrong or missing.
    pub fn transfer(&mut self, to: IpAddr, bytes: u64) -> Result<()> {
        let target = SocketAddr::new(to, BULK_PORT).to_string();
        let count = bytes.to_string();
        for flags in [&[][..], &["--download"]] {
            let arguments = [&["--target", &target, "--bytes", &count], flags].concat();
            let report = self.observer().workload("transfer", &arguments, 120)?;
            ensure!(report["bytes"] == bytes, "{report}");
        }
        Ok(())
    }

    /// Datagrams of every size from nothing to 1400 bytes (or as `more` says) come back as they were sent.
    ///
    /// # Errors
    /// When one is wrong or missing.
    pub fn echo(&mut self, to: IpAddr, port: u16, more: &[&str]) -> Result<()> {
        let target = SocketAddr::new(to, port).to_string();
        let arguments = [&["--target", &target], more].concat();
        let report = self.observer().workload("echo", &arguments, 120)?;
        let none = |what: &str| report[what].as_array().is_some_and(Vec::is_empty);
        ensure!(none("lost") && none("wrong"), "{report}");
        Ok(())
    }

    /// Many connections at once, each with a word of its own (`workload crowd`).
    ///
    /// # Errors
    /// When one fails, or gets another's word.
    pub fn crowd(&mut self, to: IpAddr, more: &[&str]) -> Result<Value> {
        crowd(&mut self.observer(), to, more)
    }
}

/// The port of the instances' server for many connections, TCP and UDP.
pub const CROWD_PORT: u16 = 9001;

/// Many connections at once from a container, each with a word of its own (`workload crowd`).
///
/// # Errors
/// When one fails, or gets another's word.
pub fn crowd(observer: &mut Observer<'_>, to: IpAddr, more: &[&str]) -> Result<Value> {
    let target = SocketAddr::new(to, CROWD_PORT).to_string();
    observer.workload("crowd", &[&["--target", &target], more].concat(), 120)
}
