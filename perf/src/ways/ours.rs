//! This project as a user runs it: managers, two nodes with the `NetManager` of this build (`packet` access ports), and
//! containers that were deployed through the contract's interfaces. With offloads the uplink is `socket`, the default;
//! without them it is an ethdev on the underlay interface by the `af_packet` PMD, which knows none.

use anyhow::{Context, Result};
use journeys::container::Container;
use journeys::node::Uplink;
use journeys::orchestrator::{Service, Table};
use journeys::topology::{Deployed, Plan, Topology};
use serde_json::Value;

use super::kernel::INSIDE;
use super::laid::{Laid, Lane, Worker};
use super::plain::plain;
use super::settings::{Idle, Nodes, Offloads, Settings};
use super::way::{Means, Way};

/// As results name it.
pub const NAME: &str = "ours";

/// The whole system.
pub struct Ours {
    /// To the instance on the client's node, and to the one on the other node.
    ways: [Way; 2],
    /// A client and an instance on the second node.
    pub aside: Way,
    client: Deployed,
    #[allow(dead_code)] // their processes are the run's; these are their handles
    servers: Vec<Deployed>,
    crowd: Vec<Container>,
    // Last: it takes all down.
    topology: Topology,
}

impl Ours {
    /// Starts all of it.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn up(settings: Settings) -> Result<Ours> {
        let plan = Plan {
            nodes: 2,
            uplink: match settings.offloads {
                Offloads::On => Uplink::Socket,
                Offloads::Off => Uplink::AfPacket,
            },
        };
        let mut topology = Topology::registered_with(plan, |nodes| {
            for (number, node) in nodes.iter_mut().enumerate() {
                node.set_env("NETMANAGER_IDLE", settings.idle.flag());
                if let Some(limit) = settings.cpu_latency {
                    node.set_env("NETMANAGER_CPU_LATENCY", &limit.to_string());
                }
                node.set_core(settings.cores.node(number));
            }
            Ok(())
        })?;
        let (_, client) = topology.deploy_client("ports.test.client.default", 0)?;
        let (_, other) = topology.deploy_client("ports.test.other.default", 1)?;
        let mut servers = Vec::new();
        let mut targets = Vec::new();
        for (job, node) in [("near", 0), ("far", 1), ("aside", 1)] {
            let job = format!("ports.test.{job}.default");
            let (service, mut instances) = topology.deploy(&job, &[node])?;
            targets.push(running(&topology, &service)?.service_ip);
            servers.append(&mut instances);
        }
        if settings.offloads == Offloads::Off {
            for deployed in servers.iter().chain([&client, &other]) {
                plain(&deployed.container.namespace(), INSIDE)?;
            }
            for node in &topology.nodes {
                // The node's ends of the containers' cables: it cuts what it has joined.
                let links = node.namespace.ip(&["-j", "link", "show", "type", "veth"])?;
                let links: Vec<Value> = serde_json::from_str(&links).context("ip's list")?;
                for name in links.iter().filter_map(|link| link["ifname"].as_str()) {
                    plain(&node.namespace, name)?;
                }
            }
        }
        let way = |nodes: Nodes, name: &str, client: &Deployed, n: usize| -> Result<Way> {
            let server: &Deployed = servers.get(n).context("a server")?;
            Ok(Way {
                name: name.into(),
                client: client.container.namespace(),
                server: server.container.namespace(),
                target: targets.get(n).copied().context("an address")?,
                cores: settings.cores.workload(nodes),
            })
        };
        Ok(Ours {
            ways: [
                way(Nodes::One, "ours-one", &client, 0)?,
                way(Nodes::Two, "ours-two", &client, 1)?,
            ],
            aside: way(Nodes::One, "ours-aside", &other, 2)?,
            client,
            servers,
            crowd: Vec::new(),
            topology,
        })
    }

    /// What owns the processes.
    pub fn means(&self) -> Means<'_> {
        Means {
            run: self.topology.run(),
            programs: &self.topology.programs,
        }
    }

    /// All that stands.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// All that stands, to deploy more.
    pub fn topology_mut(&mut self) -> &mut Topology {
        &mut self.topology
    }

    /// The client's process.
    pub fn client(&self) -> u32 {
        self.client.container.pid()
    }

    /// Deploys so many further clients on the first node, and says how far it is.
    ///
    /// # Errors
    /// When a deployment fails.
    pub fn gather(&mut self, count: usize, mut progress: impl FnMut(usize)) -> Result<()> {
        while self.crowd.len() < count {
            progress(self.crowd.len());
            let job = format!("ports.test.crowd{}.default", self.crowd.len());
            let (_, client) = self.topology.deploy_client(&job, 0)?;
            self.crowd.push(client.container);
        }
        Ok(())
    }

    /// The processes of the further clients.
    pub fn crowd(&self) -> Vec<u32> {
        self.crowd.iter().map(Container::pid).collect()
    }

    /// Its ways; nodes that poll are stopped until one of them is woken.
    ///
    /// # Errors
    /// When a Net Manager has ended.
    pub fn laid(&mut self, settings: Settings) -> Result<Laid> {
        let mut workers = Vec::new();
        for node in &mut self.topology.nodes {
            workers.push(Worker::of(node.process()?));
        }
        let lane = |way: &Way, workers: &[Worker]| {
            Lane::of_others(way.clone(), workers.to_vec(), settings.idle == Idle::Spin)
        };
        let first = workers.get(..1).context("a node")?;
        let [one, two] = &self.ways;
        Ok(Laid::new(
            NAME,
            [Ok(lane(one, first)?), Ok(lane(two, &workers)?)],
        ))
    }

    /// Takes all down and says what could not be removed.
    ///
    /// # Errors
    /// When something could not be removed.
    pub fn down(self) -> Result<()> {
        self.topology.down()
    }
}

fn running(topology: &Topology, service: &Service) -> Result<Table> {
    topology
        .wait_running(&[(service, 1)])?
        .pop()
        .context("a table")
}
