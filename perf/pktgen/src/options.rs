//! What pktgen is asked on its command line.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use net::ethernet::Mac;
use pktgen::export::Target;
use pktgen::frame::Kind;
use pktgen::profile::{Order, Profile, Size, Speed};

/// A packet generator on DPDK: flows, rates, latency, loss, and the highest rate that passes.
#[derive(Parser)]
#[command(name = "pktgen", version, args_override_self = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Sends a profile, and counts what arrives at --rx (or, with --reflect, comes back)
    Run(Both),
    /// Only receives what another pktgen sends by the same profile and seed
    Sink(SinkOnly),
    /// Searches the highest rate of a profile without loss, and with little (RFC 2544)
    Search(Searching),
    /// Writes a profile for another packet generator
    Export(Exporting),
}

/// What overrides the profile.
#[derive(Args)]
pub struct Traffic {
    /// A file, or the name of one in perf/profiles (udp64, imix, syn-flood, short-flows, zipf-services, many-flows, v6)
    pub profile: PathBuf,
    /// max, 200kpps, 1.5Mpps, 1Gbps (whole frames), 1Gbps-l1 (with preamble and gap)
    #[arg(long)]
    pub rate: Option<Speed>,
    /// Frame sizes with check sequence: 64, 64,594,1518, 64-1518, imix
    #[arg(long)]
    pub size: Option<Size>,
    /// udp, tcp-syn, or tcp-flow
    #[arg(long)]
    pub protocol: Option<Protocol>,
    /// Flows at a time
    #[arg(long)]
    pub flows: Option<u32>,
    /// Flows a second that give way to new ones
    #[arg(long)]
    pub new_flows: Option<u32>,
    /// Take any flow next, not one after another
    #[arg(long)]
    pub random: bool,
    /// First source address
    #[arg(long)]
    pub source: Option<IpAddr>,
    /// Source addresses
    #[arg(long)]
    pub source_count: Option<u32>,
    /// Source ports, FIRST-LAST or one
    #[arg(long, value_parser = port_range)]
    pub source_ports: Option<(u16, u16)>,
    /// First destination address
    #[arg(long)]
    pub destination: Option<IpAddr>,
    /// Destination addresses, each a service
    #[arg(long)]
    pub services: Option<u32>,
    /// Destination ports, FIRST-LAST or one
    #[arg(long, value_parser = port_range)]
    pub ports: Option<(u16, u16)>,
    /// How unequal services are: 0 equal, 1 as Zipf found
    #[arg(long)]
    pub zipf: Option<f64>,
    /// What random choices follow from; both ends need the same
    #[arg(long)]
    pub seed: Option<u64>,
    /// Seconds that count
    #[arg(long)]
    pub duration: Option<f64>,
    /// Seconds before anything counts
    #[arg(long)]
    pub warm_up: Option<f64>,
    /// Bytes of an IP packet that the path takes
    #[arg(long)]
    pub mtu: Option<u16>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Protocol {
    Udp,
    TcpSyn,
    TcpFlow,
}

/// DPDK and this process.
#[derive(Args)]
pub struct Machine {
    /// CPUs for one worker that does both ends, or for two (default: the first CPU, two where there
    /// are four or more; the last for a sink)
    #[arg(long, value_delimiter = ',')]
    pub cpus: Vec<usize>,
    /// Ordinary memory even where hugepages are free
    #[arg(long)]
    pub no_huge: bool,
    /// Megabytes of ordinary memory (default: what the ports need)
    #[arg(long)]
    pub memory: Option<u32>,
    /// Answer ARP and neighbour solicitations: at --rx for --address, at --tx for the profile's sources
    #[arg(long)]
    pub answer_arp: bool,
    /// Addresses that --rx answers for (default: the profile's destinations)
    #[arg(long, value_delimiter = ',')]
    pub address: Vec<IpAddr>,
    /// Check the checksum of every packet received
    #[arg(long)]
    pub verify: bool,
    /// Tells this run's packets from those of another with the same seed
    #[arg(long, default_value_t = 0)]
    pub run: u64,
    /// Microseconds that one worker for both ends sleeps when neither has anything to do, for a CPU that others need
    /// too; latencies then include it
    #[arg(long, default_value_t = 0)]
    pub nap: u64,
    /// Milliseconds to wait for packets under way
    #[arg(long, default_value_t = 200)]
    pub drain: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Out {
    /// Port to send by: net_af_packet0,iface=veth0 or net_null0 or 0000:01:00.0
    #[arg(long)]
    pub tx: String,
    /// Port to receive by
    #[arg(long, conflicts_with = "reflect")]
    pub rx: Option<String>,
    /// The network namespace of --tx: a name of `ip netns`, or a path
    #[arg(long, value_name = "NAMESPACE")]
    pub tx_netns: Option<PathBuf>,
    /// The one of --rx
    #[arg(long, value_name = "NAMESPACE", requires = "rx")]
    pub rx_netns: Option<PathBuf>,
    /// Receive by --tx what something outside sends back
    #[arg(long)]
    pub reflect: bool,
    /// Whose MAC address frames are for: it is asked for (default: --rx, or the only destination)
    #[arg(long)]
    pub gateway: Option<IpAddr>,
    /// The MAC address that frames are for
    #[arg(long, value_parser = mac_address, conflicts_with = "gateway")]
    pub gateway_mac: Option<Mac>,
    /// Milliseconds of the schedule that may be made up for when late; beyond, they are given up and counted
    #[arg(long, default_value_t = 10)]
    pub bucket: u64,
}

#[derive(Args)]
pub struct Both {
    #[command(flatten)]
    pub traffic: Traffic,
    #[command(flatten)]
    pub out: Out,
    #[command(flatten)]
    pub machine: Machine,
}

#[derive(Args)]
pub struct SinkOnly {
    #[command(flatten)]
    pub traffic: Traffic,
    /// Port to receive by
    #[arg(long)]
    pub rx: String,
    #[command(flatten)]
    pub machine: Machine,
}

#[derive(Args)]
pub struct Searching {
    #[command(flatten)]
    pub both: Both,
    /// Lowest rate of interest, packets a second
    #[arg(long, default_value_t = 1000.0)]
    pub min: f64,
    /// Highest rate; more than the generator can is no harm
    #[arg(long, default_value_t = 20e6)]
    pub max: f64,
    /// Shares of packets that may be lost: 0 finds the NDR, 0.005 the PDR
    #[arg(long, value_delimiter = ',', default_values_t = [0.005, 0.0])]
    pub loss: Vec<f64>,
    /// Seconds of a trial that counts
    #[arg(long, default_value_t = 1.0)]
    pub trial: f64,
    /// Trials that decide about a rate, by majority
    #[arg(long, default_value_t = 3)]
    pub trials: u32,
    /// How close the bounds must come
    #[arg(long, default_value_t = 0.01)]
    pub precision: f64,
    /// Trials at most
    #[arg(long, default_value_t = 200)]
    pub max_trials: u32,
}

#[derive(Args)]
pub struct Exporting {
    #[command(flatten)]
    pub traffic: Traffic,
    /// Which generator
    #[arg(long)]
    pub to: Target,
    /// Where to write it (default: standard output)
    #[arg(long)]
    pub output: Option<PathBuf>,
}

fn port_range(text: &str) -> Result<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let read = |text: &str| text.parse().context("ports are FIRST-LAST, or one number");
    Ok((read(first)?, read(last)?))
}

fn mac_address(text: &str) -> Result<Mac> {
    let mut mac = [0u8; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts
            .next()
            .context("a MAC address is six bytes, 02:00:00:00:00:01")?;
        *byte = u8::from_str_radix(part, 16)
            .context("a MAC address is hexadecimal, 02:00:00:00:00:01")?;
    }
    ensure!(
        parts.next().is_none(),
        "a MAC address is six bytes, 02:00:00:00:00:01"
    );
    Ok(Mac(mac))
}

impl Traffic {
    /// The profile with what overrides it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn profile(&self) -> Result<Profile> {
        let named = Path::new("perf/profiles")
            .join(&self.profile)
            .with_extension("toml");
        let path =
            if !self.profile.exists() && self.profile.components().count() == 1 && named.exists() {
                &named
            } else {
                &self.profile
            };
        let mut profile = Profile::read(path)?;
        fn set<T: Clone>(field: &mut T, value: Option<&T>) {
            if let Some(value) = value {
                field.clone_from(value);
            }
        }
        set(&mut profile.rate, self.rate.as_ref());
        set(&mut profile.size, self.size.as_ref());
        set(&mut profile.flows, self.flows.as_ref());
        set(&mut profile.new_flows, self.new_flows.as_ref());
        set(&mut profile.source.address, self.source.as_ref());
        set(&mut profile.source.count, self.source_count.as_ref());
        set(&mut profile.source.ports, self.source_ports.as_ref());
        set(&mut profile.destination.address, self.destination.as_ref());
        set(&mut profile.destination.count, self.services.as_ref());
        set(&mut profile.destination.ports, self.ports.as_ref());
        set(&mut profile.destination.zipf, self.zipf.as_ref());
        set(&mut profile.seed, self.seed.as_ref());
        set(&mut profile.duration, self.duration.as_ref());
        set(&mut profile.warm_up, self.warm_up.as_ref());
        set(&mut profile.mtu, self.mtu.as_ref());
        match self.protocol {
            Some(Protocol::Udp) => profile.protocol = Kind::Udp,
            Some(Protocol::TcpSyn) => profile.protocol = Kind::TcpSyn,
            Some(Protocol::TcpFlow) => profile.protocol = Kind::TcpFlow,
            None => {}
        }
        if self.random {
            profile.order = Order::Random;
        }
        Ok(profile)
    }
}
