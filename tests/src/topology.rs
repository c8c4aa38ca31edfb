//! The whole system on one machine, each part in a namespace of its own:
//!
//! ```text
//!             management network 198.51.100.0/24 (a bridge in the namespace "lan")
//!    redis .2    mosquitto .3    root .4    cluster .5    node1 .11    node2 .12 ...
//!                                                           |            |
//!             underlay 192.0.2.0/24, 2001:db8::/64          .1 -------- .2
//! ```
//!
//! Two nodes are joined by one cable, more by a bridge. A node's default route points into the
//! underlay, so that a Net Manager told `0.0.0.0` announces its underlay address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::container::Container;
use crate::http::Server;
use crate::namespace::{Namespace, Plug, cable};
use crate::node::{Node, UNDERLAY, Uplink};
use crate::orchestrator::{Orchestrator, Service};
use crate::process::Process;
use crate::run::Run;
use crate::services::{self, CLUSTER_PORT, Programs, ROOT_PORT, Seat};
use crate::underlay::{self, Underlay};

const MANAGEMENT: &str = "mgmt0";

/// One system at a time in a process: tests run in parallel, but they measure, and two cores are few.
static SERIAL: Mutex<()> = Mutex::new(());

/// What to lay.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many worker nodes.
    pub nodes: u8,
    /// How their tunnels leave.
    pub uplink: Uplink,
}

/// All that stands.
#[derive(Debug)]
pub struct Topology {
    /// Redis's place.
    pub redis: Seat,
    /// Mosquitto's place.
    pub broker: Seat,
    /// The root service manager's place.
    pub root: Seat,
    /// The cluster service manager's place.
    pub cluster: Seat,
    /// The worker nodes.
    pub nodes: Vec<Node>,
    /// The programs that run here.
    pub programs: Programs,
    /// The services and managers that were started.
    pub processes: Vec<Process>,
    /// The management network's bridge; the orchestrators call from here.
    pub lan: Namespace,
    jobs: u32,
    // Fields are dropped in order: this one takes all down, and then the next run may begin.
    run: Run,
    _serial: MutexGuard<'static, ()>,
}

/// A deployed instance: its node (by place in [`Topology::nodes`]), number and container.
#[derive(Debug)]
pub struct Deployed {
    /// Place of its node.
    pub node: usize,
    /// The replica's number.
    pub number: u32,
    /// Its process.
    pub container: Container,
}

impl Topology {
    /// Lays namespaces, cables and settings; starts nothing.
    ///
    /// # Errors
    /// Without root rights or programs, or when `ip` fails.
    pub fn lay(plan: Plan) -> Result<Topology> {
        Topology::lay_over(plan, Underlay::Direct)
    }

    /// [`Topology::lay`] over another underlay.
    ///
    /// # Errors
    /// Without root rights or programs, or when `ip` fails.
    pub fn lay_over(plan: Plan, underlay: Underlay) -> Result<Topology> {
        let serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
        let programs = Programs::find()?;
        let run = Run::new()?;
        let lan = Namespace::create(&run, "lan")?;
        lan.ip(&["link", "add", "name", MANAGEMENT, "type", "bridge"])?;
        lan.ip(&["link", "set", MANAGEMENT, "up"])?;
        lan.ip(&["address", "add", "198.51.100.1/24", "dev", MANAGEMENT])?;
        let seat = |role: &str, host: u8| -> Result<Seat> {
            let namespace = Namespace::create(&run, role)?;
            let address = Ipv4Addr::new(198, 51, 100, host);
            let far = format!("m-{role}");
            let end = Plug {
                namespace: &namespace,
                interface: MANAGEMENT,
            };
            cable(
                end,
                Plug {
                    namespace: &lan,
                    interface: &far,
                },
            )?;
            lan.ip(&["link", "set", &far, "master", MANAGEMENT])?;
            namespace.ip(&[
                "address",
                "add",
                &format!("{address}/24"),
                "dev",
                MANAGEMENT,
            ])?;
            Ok(Seat { namespace, address })
        };
        let redis = seat("redis", 2)?;
        let broker = seat("mosquitto", 3)?;
        let root = seat("root", 4)?;
        let cluster = seat("cluster", 5)?;
        let mut nodes = Vec::new();
        for number in 1..=plan.nodes {
            let id = format!("node{number}");
            let seat = seat(&id, 10 + number)?;
            let underlay = Ipv4Addr::new(192, 0, 2, number);
            nodes.push(Node::prepare(
                &run,
                &id,
                seat.namespace,
                underlay,
                plan.uplink,
                broker.address,
            )?);
        }
        let topology = Topology {
            redis,
            broker,
            root,
            cluster,
            nodes,
            programs,
            processes: Vec::new(),
            lan,
            jobs: 0,
            run,
            _serial: serial,
        };
        match underlay {
            Underlay::Direct => topology.lay_underlay()?,
            Underlay::Routed { mtu } => {
                underlay::lay_routed(&topology.run, &topology.nodes, mtu)?;
            }
        }
        topology.settle_nodes(plan)?;
        Ok(topology)
    }

    /// Lays and starts everything, and waits until all parts listen.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn up(plan: Plan) -> Result<Topology> {
        let mut topology = Topology::lay(plan)?;
        topology.start()?;
        Ok(topology)
    }

    /// Starts everything that is laid, and waits until all parts listen.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn start(&mut self) -> Result<()> {
        self.start_services()?;
        self.start_managers()?;
        self.start_nodes()
    }

    /// [`Topology::up`], with the cluster and all nodes registered.
    ///
    /// # Errors
    /// When a part does not come up or a registration fails.
    pub fn registered(plan: Plan) -> Result<Topology> {
        Topology::registered_with(plan, |_| Ok(()))
    }

    /// [`Topology::registered`], with the nodes changed by `prepare` before they start.
    ///
    /// # Errors
    /// When `prepare` fails, a part does not come up or a registration fails.
    pub fn registered_with(
        plan: Plan,
        prepare: impl Fn(&mut [Node]) -> Result<()>,
    ) -> Result<Topology> {
        let mut topology = Topology::lay(plan)?;
        prepare(&mut topology.nodes)?;
        topology.start_services()?;
        topology.start_managers()?;
        topology.start_nodes()?;
        topology.register()?;
        Ok(topology)
    }

    /// Registers the cluster and all nodes.
    ///
    /// # Errors
    /// When a registration fails.
    pub fn register(&self) -> Result<()> {
        self.orchestrator().register_cluster(&self.cluster)?;
        for node in &self.nodes {
            node.register()?.ok(&format!("registering {}", node.id))?;
        }
        Ok(())
    }

    fn lay_underlay(&self) -> Result<()> {
        if let [one, other] = &self.nodes[..] {
            cable(
                Plug {
                    namespace: &one.namespace,
                    interface: UNDERLAY,
                },
                Plug {
                    namespace: &other.namespace,
                    interface: UNDERLAY,
                },
            )?;
        } else {
            self.lan
                .ip(&["link", "add", "name", UNDERLAY, "type", "bridge"])?;
            self.lan.ip(&["link", "set", UNDERLAY, "up"])?;
            for node in &self.nodes {
                let far = format!("u-{}", node.id);
                cable(
                    Plug {
                        namespace: &node.namespace,
                        interface: UNDERLAY,
                    },
                    Plug {
                        namespace: &self.lan,
                        interface: &far,
                    },
                )?;
                self.lan.ip(&["link", "set", &far, "master", UNDERLAY])?;
            }
        }
        for (number, node) in (1..).zip(&self.nodes) {
            let inside = &node.namespace;
            inside.ip(&[
                "address",
                "add",
                &format!("{}/24", node.underlay),
                "dev",
                UNDERLAY,
            ])?;
            let six = format!("2001:db8::{number}/64");
            inside.ip(&["address", "add", &six, "dev", UNDERLAY, "nodad"])?;
            inside.ip(&["route", "add", "default", "dev", UNDERLAY])?;
        }
        Ok(())
    }

    fn settle_nodes(&self, plan: Plan) -> Result<()> {
        for node in &self.nodes {
            let inside = &node.namespace;
            // As docker leaves it on every node that runs containers.
            inside.sysctl("ipv4/ip_forward", "1")?;
            if plan.uplink.takes_complete_frames() {
                // The PMD knows no checksum or segmentation state.
                inside.command(
                    "ethtool",
                    &[
                        "-K", UNDERLAY, "tx", "off", "rx", "off", "tso", "off", "gso", "off",
                        "gro", "off",
                    ],
                )?;
            }
            if matches!(plan.uplink, Uplink::Whole(_)) {
                node.give_to_dpdk()?;
            }
        }
        Ok(())
    }

    /// Starts Redis and Mosquitto.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start_services(&mut self) -> Result<()> {
        self.processes
            .push(services::start_redis(&self.run, &self.redis)?);
        self.processes
            .push(services::start_broker(&self.run, &self.broker)?);
        Ok(())
    }

    /// Starts both service managers and waits until they are ready.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start_managers(&mut self) -> Result<()> {
        let seats = (&self.redis, &self.broker, &self.root);
        let mut root = services::start_root(&self.run, &self.programs, &self.root, &self.redis)?;
        let mut cluster = services::start_cluster(&self.run, &self.programs, &self.cluster, seats)?;
        let orchestrator = self.orchestrator();
        services::wait_ready(&mut root, &orchestrator.root)?;
        services::wait_ready(&mut cluster, &orchestrator.cluster)?;
        self.processes.push(root);
        self.processes.push(cluster);
        Ok(())
    }

    /// Starts all nodes and waits until they listen.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start_nodes(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.start(&self.run, &self.programs)?;
        }
        for node in &mut self.nodes {
            node.wait_listening()?;
            if matches!(node.uplink(), Uplink::Whole(_)) {
                node.furnish_when_there()?;
            }
        }
        self.run.note_leftovers();
        Ok(())
    }

    /// Starts one node's Net Manager again and waits until it listens.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart_node(&mut self, node: usize) -> Result<()> {
        self.nodes[node].start(&self.run, &self.programs)?;
        self.nodes[node].wait_listening()
    }

    /// The orchestrators' side of the managers.
    #[must_use]
    pub fn orchestrator(&self) -> Orchestrator {
        let server = |seat: &Seat, port| {
            Server::Tcp(
                self.lan.clone(),
                SocketAddr::new(IpAddr::V4(seat.address), port),
            )
        };
        Orchestrator {
            root: server(&self.root, ROOT_PORT),
            cluster: server(&self.cluster, CLUSTER_PORT),
            cluster_id: "64b0c0ffee64b0c0ffee0001".into(),
        }
    }

    /// Deploys a service with an instance on each of the named nodes (by place), the way the
    /// orchestrators and the NodeEngine do.
    ///
    /// # Errors
    /// When a call fails.
    pub fn deploy(&mut self, job: &str, nodes: &[usize]) -> Result<(Service, Vec<Deployed>)> {
        self.jobs += 1;
        let orchestrator = self.orchestrator();
        let service = orchestrator.deploy_service(&format!("64b0c0ffee{:014x}", self.jobs), job)?;
        let mut deployed = Vec::new();
        for (number, &node) in (0..).zip(nodes) {
            deployed.push(self.deploy_instance(&service, number, node)?);
        }
        Ok((service, deployed))
    }

    /// Deploys a service whose only instance holds no port: a client.
    ///
    /// # Errors
    /// When a call fails.
    pub fn deploy_client(&mut self, job: &str, node: usize) -> Result<(Service, Deployed)> {
        let (service, _none) = self.deploy(job, &[])?;
        let container = Container::idle(&self.run, &self.programs, "client")?;
        let client = self.place(&service, 0, node, container)?;
        Ok((service, client))
    }

    /// Deploys one instance.
    ///
    /// # Errors
    /// When a call fails.
    pub fn deploy_instance(&self, service: &Service, number: u32, node: usize) -> Result<Deployed> {
        let name = service.job.split('.').nth(2).unwrap_or("job");
        let container = Container::start(&self.run, &self.programs, name, number)?;
        self.place(service, number, node, container)
    }

    fn place(
        &self,
        service: &Service,
        number: u32,
        node: usize,
        container: Container,
    ) -> Result<Deployed> {
        self.orchestrator().deploy_instance(service, number)?;
        self.nodes[node]
            .deploy(&service.job, number, &container)?
            .ok(&format!(
                "deploying the container of {} {number}",
                service.job
            ))?;
        Ok(Deployed {
            node,
            number,
            container,
        })
    }

    /// The run that takes it all down.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Takes all down, as dropping does, but tells what went wrong.
    ///
    /// # Errors
    /// When something could not be removed.
    pub fn down(self) -> Result<()> {
        self.run.note_leftovers();
        self.run.close()
    }

    /// Leaves everything standing.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub fn keep(self) -> Result<()> {
        self.run.keep()
    }

    /// Waits until every one of the services runs at the root with so many instances.
    ///
    /// # Errors
    /// When it does not come to that in time.
    pub fn wait_running(
        &self,
        services: &[(&Service, usize)],
    ) -> Result<Vec<crate::orchestrator::Table>> {
        let orchestrator = self.orchestrator();
        services
            .iter()
            .map(|(service, count)| {
                orchestrator.wait_running(service, *count, Duration::from_secs(15))
            })
            .collect::<Result<_>>()
            .context("the nodes' reports did not reach the root")
    }
}
