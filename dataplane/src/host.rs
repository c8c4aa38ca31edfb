//! The host role: towards the node itself. Two kinds play it behind one face: our own TAP, and an ethdev that makes the
//! interface itself.
//!
//! With `net_virtio_user` on `/dev/vhost-net` a thread of the kernel's copies between the interface and rings in our
//! memory, so that a burst costs the worker no system call but at times a wake-up of that thread. Its terms are virtio's,
//! as the TAP's are: checksums stay unfinished and TCP in pieces of 64 KB, both ways.

use std::fs::OpenOptions;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;

use dpdk::{Burst, L4Checksum, Landed, Mbuf, Offload, Port, PortConfig, PortError, Segment};
use kernel_port::{Pools, TapPort, TapStats};
use net::ethernet;
use net::packet::{Headers, Protocol};

use crate::api::{Config, HostPort, StartError};
use crate::offload;
use crate::plugged::{Abilities, Flushed, Plugged};

/// vhost-net's device.
pub const VHOST_NET: &str = "/dev/vhost-net";
/// What goes on where it is missing.
const INSTEAD: &str = "or set HostPort of Dataplane to tap, which works everywhere";

/// Frames that one look takes.
const BURST: usize = 64;
/// Receive descriptors, and what the rings are made for: a small mbuf each, some thirty to a piece of 64 KB.
const RX_DESCRIPTORS: u16 = 1024;
/// Transmit descriptors. The driver keeps what it sent until their places are needed, large mbufs too: half of the
/// [pool](crate::memory) at most.
const TX_DESCRIPTORS: u16 = 256;
/// The longest MTU that is asked of a device; longer frames come in several mbufs all the same.
const MTU_MAX: u16 = 9000;
/// The shortest.
const MTU_MIN: u16 = 1500;

/// One worker's host port.
pub enum Host {
    /// One queue of our TAP.
    Tap(Box<TapPort>),
    /// One pair of queues of an ethdev.
    Ethdev(Box<EthdevHost>),
}

/// Queues of an ethdev that plays the host.
pub struct EthdevHost {
    port: Plugged,
    inbox: Burst<BURST>,
    mac: [u8; 6],
    stats: TapStats,
}

/// The host ports of all workers.
pub struct Opened {
    /// One for each worker.
    pub hosts: Vec<Host>,
    /// Index of the interface.
    pub interface: u32,
    /// The device, which must stay as long as its queues, if it is one of DPDK's.
    pub device: Option<Port>,
}

/// Whether `vhost-net` can be used here.
///
/// # Errors
/// What is missing, and what to do about it.
fn vhost_net() -> Result<(), String> {
    // The node of the device may be there without its module, which opening it brings in.
    match OpenOptions::new().read(true).write(true).open(VHOST_NET) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied) => Err(format!(
            "{VHOST_NET} cannot be opened ({error}): run as root, {INSTEAD}"
        )),
        Err(error) => Err(format!(
            "there is no vhost-net here ({VHOST_NET}: {error}): `modprobe vhost_net` (and pass the device into this container), {INSTEAD}"
        )),
    }
}

/// The arguments of a `virtio_user` device with an interface of this name.
fn virtio_user(interface: &str, queues: usize) -> String {
    // Local, and by chance as a TAP's own: without one, the driver complains.
    let [_, a, b, c, d, e, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    format!(
        "net_virtio_user_host,path={VHOST_NET},iface={interface},mac=02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x},queues={queues},queue_size={RX_DESCRIPTORS}"
    )
}

/// Looks whether the host port can be had, before anything is begun.
///
/// # Errors
/// [`StartError::Host`].
pub fn check(config: &Config) -> Result<(), StartError> {
    if config.host_port != HostPort::VirtioUser {
        return Ok(());
    }
    let interface = &config.host_interface;
    // DPDK takes the name apart at commas and reads brackets, quotes and backslashes in a way of its own.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+@".contains(&byte);
    if interface.is_empty() || interface.len() > 15 || !interface.bytes().all(plain) {
        return Err(StartError::Host(format!(
            "{interface:?} cannot name the interface of a virtio_user device: 1 to 15 letters, digits and . _ - + @"
        )));
    }
    vhost_net().map_err(StartError::Host)
}

/// Opens the host port of each worker.
///
/// # Errors
/// See [`StartError`].
pub fn open(config: &Config, pools: &Pools) -> Result<Opened, StartError> {
    let name = &config.host_interface;
    let devargs = match &config.host_port {
        HostPort::Tap => {
            let taps = TapPort::open(name, config.workers, pools)?;
            return Ok(Opened {
                interface: taps.first().map_or(0, TapPort::ifindex),
                hosts: taps
                    .into_iter()
                    .map(|tap| Host::Tap(Box::new(tap)))
                    .collect(),
                device: None,
            });
        }
        HostPort::VirtioUser => virtio_user(name, config.workers),
        HostPort::Ethdev { devargs } => devargs.clone(),
    };
    let failed = |e: &dyn std::fmt::Display| StartError::Host(e.to_string());
    let index = || nix::net::if_::if_nametoindex(name.as_str());
    let mut port = Port::attach(&devargs).map_err(|error| match error {
        PortError::Attach(..) if config.host_port == HostPort::VirtioUser && index().is_ok() => {
            StartError::Host(format!(
                "the interface {name:?} is taken: stop the process that holds it, or remove what is left with `ip link delete`"
            ))
        }
        PortError::Attach(devargs, errno) if config.host_port == HostPort::VirtioUser => {
            StartError::Host(format!(
                "device {devargs:?} ({errno}): DPDK has no virtio driver here, or it refused; install librte-net-virtio23 and look at DPDK's lines in the log, {INSTEAD}"
            ))
        }
        other => failed(&other),
    })?;
    // Other drivers mean other things by these marks.
    let virtio = port.driver().map_err(|e| failed(&e))? == "net_virtio_user";
    let queues = u16::try_from(config.workers).unwrap_or(u16::MAX);
    let mtu = config.mtu.clamp(MTU_MIN, MTU_MAX);
    port.configure(&PortConfig {
        rx_queues: queues,
        tx_queues: queues,
        rx_desc: RX_DESCRIPTORS,
        tx_desc: TX_DESCRIPTORS,
        mtu,
        offloads: virtio,
        unfinished: virtio,
        ..PortConfig::new(pools.small.clone())
    })
    .map_err(|e| failed(&e))?;
    port.start().map_err(|e| failed(&e))?;
    let mac = port.mac().map_err(|e| failed(&e))?;
    let abilities = Abilities {
        takes_chains: port.takes_chains(),
        takes_unfinished: port.finishes() == (true, true) && virtio,
        mtu: if virtio { u16::MAX } else { mtu },
    };
    let mut hosts = Vec::new();
    for queue in 0..queues {
        let queues = (
            port.rx_queue(queue).map_err(|e| failed(&e))?,
            port.tx_queue(queue).map_err(|e| failed(&e))?,
        );
        hosts.push(Host::Ethdev(Box::new(EthdevHost {
            port: Plugged::new(0, queues, abilities, pools.small.clone()),
            inbox: Burst::new(),
            mac,
            stats: TapStats::default(),
        })));
    }
    let interface = index()
        .map_err(|error| failed(&format!("the device made no interface {name:?} ({error})")))?;
    Ok(Opened {
        hosts,
        interface,
        device: Some(port),
    })
}

impl Host {
    /// Hands at most `limit` frames that have arrived, with their [`Offload`] set, to `sink`. How many these were.
    pub fn receive(&mut self, limit: usize, sink: &mut impl FnMut(Mbuf)) -> usize {
        match self {
            Host::Tap(tap) => tap.receive(limit, sink),
            Host::Ethdev(host) => host.receive(sink),
        }
    }

    /// Queues a frame, from its Ethernet header on.
    pub fn push(&mut self, frame: Mbuf) {
        match self {
            Host::Tap(tap) => tap.push(frame),
            Host::Ethdev(host) => host.port.push(frame),
        }
    }

    /// Sends what is queued. What became of all frames pushed since the flush before.
    pub fn flush(&mut self) -> Flushed {
        match self {
            Host::Tap(tap) => Flushed {
                sent: tap.flush(),
                pieces: 0,
            },
            Host::Ethdev(host) => {
                let flushed = host.port.flush();
                host.stats.sent += flushed.sent.sent as u64;
                host.stats.tx_would_block += flushed.sent.dropped as u64;
                flushed
            }
        }
    }

    /// The interface's Ethernet address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        match self {
            Host::Tap(tap) => tap.mac(),
            Host::Ethdev(host) => host.mac,
        }
    }

    /// The descriptor to wait for; `None` for a port that must be asked.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Host::Tap(tap) => Some(tap.fd()),
            Host::Ethdev(_) => None,
        }
    }

    /// Counters since the port was opened; what an ethdev refuses it had no room for.
    #[must_use]
    pub fn stats(&self) -> TapStats {
        match self {
            Host::Tap(tap) => tap.stats(),
            Host::Ethdev(host) => host.stats,
        }
    }
}

impl EthdevHost {
    fn receive(&mut self, sink: &mut impl FnMut(Mbuf)) -> usize {
        self.port.receive(&mut self.inbox);
        let mut delivered = 0;
        for mut frame in self.inbox.drain() {
            if describe(&mut frame) {
                delivered += 1;
                sink(frame);
            } else {
                self.stats.bad_vnet_header += 1;
            }
        }
        self.stats.received += delivered as u64;
        delivered
    }
}

/// Says what is left to do of a frame in our own words; false if they have none for it.
fn describe(frame: &mut Mbuf) -> bool {
    let Some(landed) = frame.landed() else {
        return true;
    };
    let headers = frame
        .data()
        .get(ethernet::HEADER_LEN..)
        .and_then(|l3| Headers::parse(l3, frame.pkt_len() - ethernet::HEADER_LEN).ok());
    let Some(headers) = headers else {
        return false;
    };
    let offload = match (landed, headers.protocol) {
        (Landed::Joined(mss), Protocol::TCP) if mss > 0 => {
            offload::joined(&headers, usize::from(mss))
        }
        (Landed::Partial, Protocol::TCP | Protocol::UDP) => Offload {
            checksum: match headers.protocol {
                Protocol::TCP => L4Checksum::PartialTcp,
                _ => L4Checksum::PartialUdp,
            },
            segment: Segment::None,
            ..offload::joined(&headers, 0)
        },
        _ => return false,
    };
    frame.set_offload(offload);
    true
}
