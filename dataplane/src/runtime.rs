//! Start and stop: memory, EAL, ports, threads, in that order, and back.

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use dpdk::{Eal, EalOptions, Memory, Mempool, Port, PortConfig, Ring};
use kernel_port::{AccessGroup, NicTap, Pools, TapPort, TunnelPort, Waiter, xdp};

use crate::access::{Access, changes};
use crate::api::{self, Config, Event, PortLine, StartError, Uplink as UplinkKind};
use crate::asleep::Asleep;
use crate::clock;
use crate::control::{Controller, Message, WorkerLink};
use crate::counters::Counters;
use crate::handle::Handle;
use crate::host;
use crate::mapping;
use crate::memory;
use crate::observe::capture::CapturePort;
use crate::pipeline::{Settings, catch};
use crate::tables::Tables;
use crate::uplink::{Beside, EthdevUplink, Uplink};
use crate::worker::{Neighbour, Worker};

/// Frames of each worker's mapped receive ring, 2 KB each.
const RING_FRAMES: u32 = 4096;
/// Packets that may wait in a worker's inbox for others' packets.
const INBOX: u32 = 1024;
/// Messages that may wait for the control thread.
const MESSAGES: usize = 4096;

/// A running data plane.
pub struct Dataplane {
    handle: Handle,
    stop: Arc<AtomicBool>,
    wakers: Vec<kernel_port::Waker>,
    workers: Vec<dpdk::Worker>,
    control: Option<JoinHandle<()>>,
    device: Option<Device>,
    host_device: Option<Port>,
    flows: Vec<PathBuf>,
    // Last: everything above lives in its memory.
    eal: Option<Eal>,
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    match std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)) {
        Ok(()) => u64::from_ne_bytes(bytes),
        // Without it the hash can be foreseen, which costs speed under attack and nothing else.
        Err(_) => clock::milliseconds() ^ u64::from(std::process::id()),
    }
}

/// The CPUs of the workers: as configured; else the last ones, one each, where there are enough to dedicate; else all
/// that the process may use, so that the scheduler can move a worker away from who wakes it.
fn worker_cpus(config: &Config) -> Result<Vec<Vec<usize>>, StartError> {
    if !config.worker_cpus.is_empty() {
        if config.worker_cpus.len() != config.workers {
            return Err(StartError::Config(format!(
                "{} workers and {} CPUs are configured; name one CPU for each worker",
                config.workers,
                config.worker_cpus.len()
            )));
        }
        return Ok(config.worker_cpus.iter().map(|&cpu| vec![cpu]).collect());
    }
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))
        .map(|set| {
            (0..nix::sched::CpuSet::count())
                .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
                .collect()
        })
        .unwrap_or_else(|_| vec![0]);
    let first = allowed.len().saturating_sub(config.workers);
    if allowed.len() >= 4 && first >= 1 {
        return Ok(allowed
            .into_iter()
            .skip(first)
            .map(|cpu| vec![cpu])
            .collect());
    }
    Ok(vec![allowed; config.workers])
}

fn pool(name: &str, count: u32, room: u16) -> Result<Mempool, StartError> {
    Mempool::create(name, count, 256, room, None).map_err(|e| StartError::Memory(e.to_string()))
}

/// An ethdev uplink's device, and what must stay as long as it is there.
struct Device {
    port: Arc<Port>,
    // Takes the program off the interface.
    _program: Option<xdp::Attached>,
    // Holds the tunnel port, so that the kernel answers nothing there.
    _reserved: Option<UdpSocket>,
}

/// The PCI device that the arguments name, as EAL must know it at its start: `0000:01:00.0` and what follows.
fn pci(uplink: &UplinkKind) -> Option<&str> {
    let UplinkKind::Ethdev { devargs, .. } = uplink else {
        return None;
    };
    let name = devargs.split(',').next()?;
    let address = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.');
    (name.contains(':') && name.chars().all(address)).then_some(devargs)
}

fn open_uplinks(
    config: &Config,
    pools: &Pools,
) -> Result<(Vec<Uplink>, Option<Device>), StartError> {
    let v4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, config.tunnel_port);
    let v6 = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, config.tunnel_port, 0, 0);
    let UplinkKind::Ethdev {
        devargs,
        interface,
        beside,
    } = &config.uplink
    else {
        let uplinks = open_sockets(config, pools)?
            .into_iter()
            .map(|port| Uplink::Socket(Box::new(port)))
            .collect();
        return Ok((uplinks, None));
    };
    let failed = |e: &dyn std::fmt::Display| StartError::Uplink(e.to_string());
    // Whoever holds the port keeps the kernel from answering our datagrams with "port unreachable".
    let reserve = |address: SocketAddr| {
        UdpSocket::bind(address).map_err(|e| {
            StartError::Uplink(format!(
                "the tunnel port {} cannot be reserved ({e}); end the program that holds it, or set another TunnelPort",
                config.tunnel_port
            ))
        })
    };
    // A dual-stack socket holds both; a host without IPv6 has only the other.
    let reserved = match beside {
        api::Beside::Rest => None,
        _ => Some(reserve(v6.into()).or_else(|_| reserve(v4.into()))?),
    };
    let mut object = None;
    let mut port = match pci(&config.uplink) {
        // EAL has found it at its start, or not.
        Some(device) => {
            let name = device.split(',').next().unwrap_or(device);
            Port::find(name).map_err(|_| {
                StartError::Uplink(format!(
                    "DPDK does not find the NIC {name}, or has no driver for it; scripts/bind {name} gives it to DPDK, scripts/bind --status shows who has it"
                ))
            })?
        }
        None => {
            let mut devargs = devargs.clone();
            if *beside == api::Beside::Rest {
                let program = xdp::Program::for_port(config.tunnel_port).map_err(|e| failed(&e))?;
                devargs += &format!(",xdp_prog={}", program.path().display());
                object = Some(program);
            }
            Port::attach(&devargs).map_err(|e| failed(&e))?
        }
    };
    let queues = u16::try_from(config.workers).unwrap_or(u16::MAX);
    let settings = PortConfig {
        rx_queues: queues,
        tx_queues: queues,
        rss: queues > 1,
        ..PortConfig::new(pools.small.clone())
    };
    port.configure(&settings).map_err(|e| failed(&e))?;
    port.start().map_err(|e| failed(&e))?;
    if *beside == api::Beside::Tap
        && let Err(error) = port.set_all_multicast()
    {
        // Neighbour solicitations go to groups. Most virtual devices have no filter to open.
        tracing::debug!("{error}");
    }
    let program = object.and_then(|_| hold(interface));
    let mut uplinks = Vec::new();
    for (queue, beside) in (0..queues).zip(open_beside(config, *beside, &port, pools)?) {
        let queues = (
            port.rx_queue(queue).map_err(|e| failed(&e))?,
            port.tx_queue(queue).map_err(|e| failed(&e))?,
        );
        let small = pools.small.clone();
        let chains = port.takes_chains();
        let uplink = EthdevUplink::new(queues, chains, config.tunnel_port, small, beside);
        uplinks.push(Uplink::Ethdev(Box::new(uplink)));
    }
    let device = Device {
        port: Arc::new(port),
        _program: program,
        _reserved: reserved,
    };
    Ok((uplinks, Some(device)))
}

/// Has the interface's program go with this process.
fn hold(interface: &str) -> Option<xdp::Attached> {
    xdp::hold(interface)
        .inspect_err(|error| {
            tracing::warn!(
                interface,
                %error,
                "the XDP program stays attached if this process is killed (kernels before 5.9); the next start takes it off"
            );
        })
        .ok()
}

/// What is beside each worker's queues.
fn open_beside(
    config: &Config,
    beside: api::Beside,
    port: &Port,
    pools: &Pools,
) -> Result<Vec<Beside>, StartError> {
    Ok(match (beside, &config.uplink) {
        (api::Beside::Rest, _) => open_sockets(config, pools)?
            .into_iter()
            .map(|socket| Beside::Rest(Box::new(socket)))
            .collect(),
        (api::Beside::Tap, UplinkKind::Ethdev { interface, .. }) => {
            let nic = NicTap {
                name: interface,
                mac: port.mac().map_err(|e| StartError::Uplink(e.to_string()))?,
            };
            TapPort::open_nic(nic, config.workers, pools)?
                .into_iter()
                .map(|tap| Beside::Tap(Box::new(tap)))
                .collect()
        }
        _ => (0..config.workers).map(|_| Beside::Copies).collect(),
    })
}

fn open_sockets(config: &Config, pools: &Pools) -> Result<Vec<TunnelPort>, StartError> {
    let v4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, config.tunnel_port);
    let v6 = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, config.tunnel_port, 0, 0);
    Ok(TunnelPort::open(config.workers, Some(v4), Some(v6), pools)?)
}

/// The ports that are there from start to stop.
fn fixed_ports(config: &Config) -> Vec<PortLine> {
    let (uplink, kind) = match &config.uplink {
        UplinkKind::Socket => (format!("udp port {}", config.tunnel_port), "socket"),
        UplinkKind::Ethdev { interface, .. } => (interface.clone(), "ethdev"),
    };
    vec![
        PortLine {
            port: CapturePort::Uplink,
            name: uplink,
            kind,
        },
        PortLine {
            port: CapturePort::Host,
            name: config.host_interface.clone(),
            kind: config.host_port.kind(),
        },
    ]
}

impl Dataplane {
    /// Starts EAL, opens the ports and launches the threads. `events` is called on the control thread.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left behind.
    pub fn start(
        config: &Config,
        events: Box<dyn Fn(Event) + Send + Sync>,
    ) -> Result<Self, StartError> {
        if config.workers == 0 || config.workers > 64 {
            return Err(StartError::Config(format!(
                "{} workers; between 1 and 64 are possible",
                config.workers
            )));
        }
        let caught_zone = match &config.caught_zone {
            None => None,
            Some(name) => Some(catch::zone(name).ok_or_else(|| {
                StartError::Config(format!(
                    "`{name}` is no DNS zone: labels of 1 to 63 characters with dots between them"
                ))
            })?),
        };
        host::check(config)?;
        let prefix = format!("oakestra-{}", config.instance);
        Memory::reclaim(&prefix);
        let choice = memory::choose(config.hugepage_mb, config.workers, config.packets)?;
        tracing::info!("packet memory: {}", choice.text);
        let eal = Eal::init(EalOptions {
            file_prefix: prefix,
            workers: worker_cpus(config)?,
            memory: choice.memory.clone(),
            pci_allow: pci(&config.uplink).map(str::to_owned).into_iter().collect(),
            ..EalOptions::default()
        })?;
        let workers = u32::try_from(config.workers).unwrap_or(1);
        let pools = Pools {
            small: pool(
                "oak_small",
                config.packets.max(memory::SMALL_PER_WORKER) * workers - 1,
                memory::SMALL_ROOM,
            )?,
            large: pool(
                "oak_large",
                (memory::LARGE_PER_WORKER * workers - 1).max(memory::LARGE_AT_LEAST),
                memory::LARGE_ROOM,
            )?,
        };
        let (uplinks, device) = open_uplinks(config, &pools)?;
        let host = host::open(config, &pools)?;
        let (access_group, access_ports) = AccessGroup::open(config.workers, RING_FRAMES, &pools)?;
        // The mapping comes last of what can fail: until here an earlier process's flows are untouched.
        let tables = Arc::new(Tables::new(
            mapping::open(config, &choice.memory, seed())?,
            config.workers,
        ));
        let stop = Arc::new(AtomicBool::new(false));
        let (to_control, inbox) = sync_channel(MESSAGES);
        let mut waiters = Vec::new();
        let mut neighbours = Vec::new();
        let mut receivers = Vec::new();
        for n in 0..config.workers {
            let (ring, receiver) = Ring::inbox(&format!("oak_inbox_{n}"), INBOX)
                .map_err(|e| StartError::Memory(e.to_string()))?;
            let waiter = Waiter::new()?;
            neighbours.push(Neighbour {
                ring,
                waker: waiter.waker(),
                asleep: Asleep::new(),
            });
            receivers.push(receiver);
            waiters.push(waiter);
        }
        let (links, plugs): (Vec<_>, Vec<_>) = neighbours
            .iter()
            .map(|n| {
                let (changer, changes) = changes();
                let link = WorkerLink {
                    counters: Arc::new(Counters::new(config.instances)),
                    waker: n.waker.clone(),
                    changer,
                };
                (link, changes)
            })
            .unzip();
        let mut launched = Vec::new();
        let parts = access_ports
            .into_iter()
            .zip(uplinks)
            .zip(host.hosts)
            .zip(receivers)
            .zip(waiters)
            .zip(links.iter().zip(plugs));
        for (n, (((((access, uplink), host), inbox), waiter), (link, changes))) in parts.enumerate()
        {
            waiter.add(access.fd())?;
            for fd in host.fd().into_iter().chain(uplink.fds()) {
                waiter.add(fd)?;
            }
            let worker = Worker {
                settings: Settings {
                    worker: u16::try_from(n).unwrap_or(0),
                    mtu: config.mtu,
                },
                tables: Arc::clone(&tables),
                counters: Arc::clone(&link.counters),
                small: pools.small.clone(),
                idle: config.idle,
                access: Access::new(access, changes),
                uplink,
                host,
                inbox,
                neighbours: neighbours.clone(),
                control: to_control.clone(),
                waiter,
                caught_zone: caught_zone.clone(),
                stop: Arc::clone(&stop),
            };
            launched.push((n, worker));
        }
        let mut running = Vec::new();
        for (n, worker) in launched {
            let died = Died {
                control: to_control.clone(),
                stop: Arc::clone(&stop),
                worker: n,
            };
            let body = move || {
                let _died = died;
                worker.run();
            };
            match eal.launch(n, body) {
                Ok(handle) => running.push(handle),
                Err(error) => {
                    end(&stop, &neighbours, running);
                    return Err(StartError::Thread(error.to_string()));
                }
            }
        }
        let port = device.as_ref().map(|device| Arc::clone(&device.port));
        let named = vec![
            ("small", pools.small.clone()),
            ("large", pools.large.clone()),
        ];
        let mut controller = Controller::new(tables, access_group, links, events, choice.text)
            .with_ethdevs(pools.small.clone())
            .with_devices(named, port);
        if matches!(config.uplink, UplinkKind::Socket) {
            controller = controller.with_kernel_paths();
        } else {
            controller = controller.with_frames_from(config.tunnel_port);
        }
        let control = std::thread::Builder::new()
            .name("oak-control".to_owned())
            .spawn(move || controller.run(&inbox));
        let control = match control {
            Ok(control) => control,
            Err(error) => {
                end(&stop, &neighbours, running);
                return Err(StartError::Thread(error.to_string()));
            }
        };
        Ok(Self {
            handle: Handle::new(to_control, host.interface, fixed_ports(config)),
            stop,
            wakers: neighbours.into_iter().map(|n| n.waker).collect(),
            workers: running,
            control: Some(control),
            device,
            host_device: host.device,
            flows: mapping::places(&config.shared_dir, &config.instance),
            eal: Some(eal),
        })
    }

    /// For commands; clone it freely.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The Ethernet address of the uplink's device, if it is one of DPDK's.
    #[must_use]
    pub fn uplink_mac(&self) -> Option<[u8; 6]> {
        self.device.as_ref()?.port.mac().ok()
    }

    /// Stops the workers, closes the ports and ends EAL. Flows stay in their mapping for the next process.
    pub fn stop(self) {
        drop(self);
    }

    /// As `stop`, for a node without containers: there are no flows to keep, and the mapping is removed.
    pub fn remove(self) {
        let flows = self.flows.clone();
        drop(self);
        if let Err((path, error)) = mapping::remove(&flows) {
            tracing::warn!(path = %path.display(), "the flow mapping could not be removed: {error}");
        }
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for waker in &self.wakers {
            waker.wake();
        }
        for worker in self.workers.drain(..) {
            if let Err(error) = worker.join() {
                tracing::error!("a worker ended badly: {error}");
            }
        }
        self.handle.stop();
        if let Some(control) = self.control.take()
            && control.join().is_err()
        {
            tracing::error!("the control thread ended badly");
        }
        // The control thread, which told of the device, has ended.
        if let Some(Device { port, .. }) = self.device.take()
            && let Some(port) = Arc::into_inner(port)
            && let Err(error) = port.detach()
        {
            tracing::warn!("the uplink could not be detached: {error}");
        }
        if let Some(port) = self.host_device.take()
            && let Err(error) = port.detach()
        {
            tracing::warn!("the host port could not be detached: {error}");
        }
        drop(self.eal.take());
    }
}

/// Ends the workers of a start that failed.
fn end(stop: &AtomicBool, neighbours: &[Neighbour], running: Vec<dpdk::Worker>) {
    stop.store(true, Ordering::Relaxed);
    for neighbour in neighbours {
        neighbour.waker.wake();
    }
    for worker in running {
        // The start's own error is the one to report.
        let _ = worker.join();
    }
}

/// Tells the control thread when a worker ends without having been told to, be it by a panic.
struct Died {
    control: SyncSender<Message>,
    stop: Arc<AtomicBool>,
    worker: usize,
}

impl Drop for Died {
    fn drop(&mut self) {
        if !self.stop.load(Ordering::Relaxed) {
            let _ = self.control.try_send(Message::WorkerEnded(format!(
                "worker {} has ended",
                self.worker
            )));
        }
    }
}
