//! The demo: the whole system brought up, used, and measured, step by step.
//!
//! Every step calls what the orchestrators and the NodeEngine call and fails unless what it
//! promises holds; the journeys run the same steps.

pub mod drain;
pub mod report;
pub mod traffic;
pub mod voice;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::node::Uplink;
use crate::orchestrator::{Service, Table};
use crate::topology::{Deployed, Plan, Topology};
use crate::watch::Watch;
use report::{Report, Step};
use voice::Voice;

/// The job of the instances.
pub const WEB: &str = "demo.test.web.default";

/// The demo while it runs.
#[derive(Debug)]
pub struct Demo {
    /// What stands.
    pub topology: Topology,
    watch: Option<Watch>,
    web: Option<Deployment>,
    client: Option<Deployed>,
    far: Option<Deployment>,
    near: Option<Deployment>,
}

/// A service, where it runs, and its containers.
#[derive(Debug)]
struct Deployment {
    service: Service,
    instances: Vec<Deployed>,
    table: Option<Table>,
}

impl Demo {
    /// Lays what two nodes need; starts nothing.
    ///
    /// # Errors
    /// Without root rights or programs, or when `ip` fails.
    pub fn lay(uplink: Uplink) -> Result<Demo> {
        let topology = Topology::lay(Plan { nodes: 2, uplink })?;
        Ok(Demo {
            topology,
            watch: None,
            web: None,
            client: None,
            far: None,
            near: None,
        })
    }

    /// Brings everything up: services, managers and both nodes.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn bring_up(&mut self, voice: &Voice) -> Result<()> {
        let topology = &mut self.topology;
        voice.progress("Redis and Mosquitto");
        topology.start_services()?;
        let (redis, broker) = (topology.redis.address, topology.broker.address);
        voice.detail(&format!("Redis at {redis}, Mosquitto at {broker}"));
        self.watch = Some(Watch::start(topology.run(), &topology.broker)?);
        voice.progress("root and cluster service managers");
        topology.start_managers()?;
        let (root, cluster) = (topology.root.address, topology.cluster.address);
        voice.detail(&format!(
            "root service manager at {root}, cluster service manager at {cluster}"
        ));
        voice.progress("two Net Managers");
        topology.start_nodes()?;
        for node in &topology.nodes {
            voice.detail(&format!("Net Manager of {} at {}", node.id, node.underlay));
        }
        Ok(())
    }

    /// Step 1: the cluster and both nodes; each node gets a subnetwork over MQTT.
    ///
    /// # Errors
    /// Unless all of it holds.
    pub fn register(&mut self, voice: &Voice) -> Result<()> {
        let orchestrator = self.topology.orchestrator();
        orchestrator.register_cluster(&self.topology.cluster)?;
        voice.detail(&format!(
            "the root knows cluster {}",
            orchestrator.cluster_id
        ));
        let mut subnetworks = Vec::new();
        let watch = self.watch.as_ref().context("nothing is up")?;
        for node in &self.topology.nodes {
            node.register()?.ok(&format!("registering {}", node.id))?;
            let topic = format!("nodes/{}/net/subnetwork/result", node.id);
            let what = format!("a subnetwork for {}", node.id);
            let answer = watch.wait(&what, Duration::from_secs(5), |message| {
                message.topic == topic
            })?;
            let text = |key: &str| answer.payload[key].as_str().map(str::to_owned);
            let four = text("address").context("a subnetwork without an address")?;
            let six = text("addressv6").context("a subnetwork without an IPv6 address")?;
            voice.detail(&format!("{} is up with {four}/26 and {six}/120", node.id));
            subnetworks.push(four);
        }
        ensure!(
            subnetworks[0] != subnetworks[1],
            "both nodes got the subnetwork {}",
            subnetworks[0]
        );
        Ok(())
    }

    /// Step 2: `web` with three instances over both nodes, a client on the first, and a receiver
    /// for iperf3 on each (it opens several connections, which must reach one instance).
    ///
    /// # Errors
    /// Unless all of it holds.
    pub fn deploy(&mut self, voice: &Voice) -> Result<()> {
        let topology = &mut self.topology;
        let mut deploy = |job: &str, nodes: &[usize]| -> Result<Deployment> {
            let (service, instances) = topology.deploy(job, nodes)?;
            for instance in &instances {
                let node = &topology.nodes[instance.node].id;
                let pid = instance.container.pid();
                voice.detail(&format!(
                    "{job} instance {} on {node}, pid {pid}",
                    instance.number
                ));
            }
            Ok(Deployment {
                service,
                instances,
                table: None,
            })
        };
        let mut web = deploy(WEB, &[0, 1, 1])?;
        let mut far = deploy("demo.test.far.default", &[1])?;
        let mut near = deploy("demo.test.near.default", &[0])?;
        let (service, client) = topology.deploy_client("demo.test.client.default", 0)?;
        let (node, pid) = (&topology.nodes[client.node].id, client.container.pid());
        voice.detail(&format!("the client on {node}, pid {pid}"));
        topology.wait_running(&[(&service, 1)])?;
        for deployment in [&mut web, &mut far, &mut near] {
            let expected = [(&deployment.service, deployment.instances.len())];
            deployment.table = topology.wait_running(&expected)?.pop();
        }
        let table = web.table()?;
        voice.detail(&format!(
            "web is {} and {}",
            table.service_ip, table.service_ip_v6
        ));
        for (instance, place) in web.instances.iter().zip(&table.instances) {
            let host = topology.nodes[instance.node].underlay;
            ensure!(
                place.number == instance.number && place.host == std::net::IpAddr::V4(host),
                "instance {} runs on {host}, but the root says {place:?}",
                instance.number
            );
        }
        self.client = Some(client);
        self.web = Some(web);
        self.far = Some(far);
        self.near = Some(near);
        Ok(())
    }

    /// Step 3: pings, 300 requests, iperf3.
    ///
    /// # Errors
    /// Unless all of it holds.
    pub fn traffic(&mut self, voice: &Voice, report: &mut Report) -> Result<()> {
        traffic::run(self, voice, report)
    }

    /// Step 4: an instance goes while requests run.
    ///
    /// # Errors
    /// Unless all of it holds.
    pub fn drain(&mut self, voice: &Voice, report: &mut Report) -> Result<()> {
        drain::run(self, voice, report)
    }
}

impl Deployment {
    fn table(&self) -> Result<&Table> {
        self.table.as_ref().context("the service is not deployed")
    }
}

/// Runs all steps and takes everything down, or keeps it.
///
/// # Errors
/// When a step fails; by then all is told and taken down.
pub fn run(uplink: Uplink, keep: bool, voice: &Voice, report: &mut Report) -> Result<()> {
    let mut demo = Demo::lay(uplink)?;
    let result = steps(&mut demo, voice, report);
    if let Err(error) = result {
        crate::signals::let_it_finish();
        voice.logs(demo.topology.run().folder());
        if let Err(second) = step(voice, report, "tear down", |_| demo.topology.down()) {
            voice.detail(&format!("{second:#}"));
        }
        return Err(error);
    }
    voice.table(report);
    if keep {
        voice.kept(&demo.kept());
        return demo.topology.keep();
    }
    step(voice, report, "tear down", |_| demo.topology.down())
}

fn steps(demo: &mut Demo, voice: &Voice, report: &mut Report) -> Result<()> {
    step(voice, report, "bring up", |_| demo.bring_up(voice))?;
    step(voice, report, "register", |_| demo.register(voice))?;
    step(voice, report, "deploy", |_| demo.deploy(voice))?;
    step(voice, report, "traffic", |report| {
        demo.traffic(voice, report)
    })?;
    step(voice, report, "undeploy under load", |report| {
        demo.drain(voice, report)
    })
}

fn step<T>(
    voice: &Voice,
    report: &mut Report,
    name: &'static str,
    action: impl FnOnce(&mut Report) -> Result<T>,
) -> Result<T> {
    voice.begin(name);
    let start = Instant::now();
    let result = action(report).with_context(|| format!("step \"{name}\""));
    let took = start.elapsed();
    if result.is_err() {
        crate::signals::let_it_finish();
    }
    voice.end(result.as_ref().err(), took);
    report.steps.push(Step {
        name,
        ok: result.is_ok(),
        ms: took.as_millis(),
    });
    result
}

impl Demo {
    /// How to use what is kept, a line each.
    fn kept(&self) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        if let Some(client) = &self.client {
            lines.push((
                "enter the client",
                format!("nsenter --net -t {} bash", client.container.pid()),
            ));
        }
        if let Some(web) = &self.web {
            for instance in web
                .instances
                .iter()
                .filter(|instance| instance.number != drain::REMOVED)
            {
                let pid = instance.container.pid();
                lines.push((
                    "enter an instance of web",
                    format!("nsenter --net -t {pid} bash"),
                ));
            }
            if let Ok(table) = web.table() {
                lines.push((
                    "ask the service, from the client",
                    format!("curl http://{}/", table.service_ip),
                ));
            }
        }
        let program = self.topology.programs.path("NetManager");
        for node in &self.topology.nodes {
            if let Some(name) = node.namespace.name() {
                lines.push(("enter a node", format!("ip netns exec {name} bash")));
            }
            let socket = node.socket();
            lines.push((
                "see a node's routes (likewise: status, flows)",
                format!("{} --socket {} routes", program.display(), socket.display()),
            ));
        }
        let logs = self.topology.run().folder().join("logs");
        lines.push(("read the logs", format!("tail -f {}/*.log", logs.display())));
        lines.push(("tear down", "scripts/demo --down".into()));
        lines
    }
}
