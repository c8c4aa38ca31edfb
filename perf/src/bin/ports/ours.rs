//! This project as a user runs it: managers, two nodes with the release `NetManager` (`packet` access ports, `socket`
//! uplink), and containers that were deployed through the contract's interfaces. Their offloads are as the kernel sets
//! them: on.

use std::time::Duration;

use anyhow::{Context, Result};
use journeys::container::Container;
use journeys::node::Uplink;
use journeys::orchestrator::{Service, Table};
use journeys::topology::{Deployed, Plan, Topology};

use crate::way::{Means, Way};

/// The whole system.
pub struct Ours {
    /// To the instance on the client's node, and to the one on the other node.
    pub ways: [Way; 2],
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
    /// Starts all of it; `idle` as the Net Manager's `--idle`.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn up(idle: &str) -> Result<Ours> {
        let plan = Plan {
            nodes: 2,
            uplink: Uplink::Socket,
        };
        let mut topology = Topology::registered_with(plan, |nodes| {
            for node in nodes {
                node.set_env("NETMANAGER_IDLE", idle);
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
        let way = |name: &str, client: &Deployed, n: usize| -> Result<Way> {
            let server: &Deployed = servers.get(n).context("a server")?;
            Ok(Way {
                name: name.into(),
                client: client.container.namespace(),
                server: server.container.namespace(),
                target: targets.get(n).copied().context("an address")?,
            })
        };
        Ok(Ours {
            ways: [way("ours-one", &client, 0)?, way("ours-two", &client, 1)?],
            aside: way("ours-aside", &other, 2)?,
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

    /// CPU time of the first node's Net Manager so far, all threads together.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu_time(&mut self) -> Result<Duration> {
        let node = self.topology.nodes.first_mut().context("a node")?;
        let process = node.process()?;
        process.check_running()?;
        let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid()))?;
        let mut nanoseconds = 0;
        for task in tasks {
            // A thread that has just ended had little.
            let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else {
                continue;
            };
            let first = text.split_whitespace().next().context("schedstat")?;
            nanoseconds += first.parse::<u64>().context("schedstat's first number")?;
        }
        Ok(Duration::from_nanos(nanoseconds))
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
