//! Ports: ethdevs, found or plugged in by their devargs, and their queues.
//!
//! DPDK lets any thread do anything to a port; its rules are in prose. Here: control calls take one lock;
//! a [`Port`] exists once per device; a queue is used through the one handle that exists of it, by `&mut`;
//! and while a queue's handle exists, its port can be neither stopped, configured nor removed.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dpdk_sys as sys;

use crate::burst::Burst;
use crate::devargs;
use crate::errno::Errno;
use crate::lease::Lease;
use crate::mempool::Mempool;

/// Queues in one direction that a [`Port`] can keep account of.
const MAX_QUEUES: u16 = 64;

/// How a port is set up.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Receive queues, at most 64.
    pub rx_queues: u16,
    /// Transmit queues, at most 64.
    pub tx_queues: u16,
    /// Descriptors per receive queue; brought into the device's limits.
    pub rx_desc: u16,
    /// Descriptors per transmit queue; brought into the device's limits.
    pub tx_desc: u16,
    /// Where received packets come from.
    pub pool: Mempool,
    /// Bytes of an IP packet.
    pub mtu: u16,
    /// Spread flows over the receive queues by hash, where there are several and the device can.
    pub rss: bool,
    /// Let the device finish checksums and cut segments as far as it can (see [`Port::finishes`]).
    pub offloads: bool,
    /// Let the device hand over TCP in pieces longer than the MTU, and packets with an unfinished checksum, as far as it
    /// does (see [`Mbuf::landed`](crate::Mbuf::landed)); for who looks for these marks.
    pub unfinished: bool,
}

impl PortConfig {
    /// One queue each way, 512 descriptors, MTU 1500, no RSS, no offloads.
    #[must_use]
    pub fn new(pool: Mempool) -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_desc: 512,
            tx_desc: 512,
            pool,
            mtu: 1500,
            rss: false,
            offloads: false,
            unfinished: false,
        }
    }
}

/// Counters of a port since it started, as its driver keeps them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets lost because no one polled in time.
    pub rx_missed: u64,
    /// Bad packets.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets lost because the pool was empty.
    pub rx_no_mbuf: u64,
}

/// Whether a port's link is up, and how fast.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Up.
    pub up: bool,
    /// Mbit/s; 0 = unknown.
    pub mbps: u32,
}

/// Why a port cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// No EAL.
    #[error("EAL is not running: call Eal::init first and keep the Eal")]
    NoEal,
    /// Text that C cannot take.
    #[error("devargs {0:?} hold a NUL character or no name: write driver0,key=value,...")]
    Devargs(String),
    /// The kernel interface is not there.
    #[error("interface {0:?} does not exist: check ip link")]
    NoSuchInterface(String),
    /// The device exists already.
    #[error("device {0:?} exists already: use Port::find, or another name")]
    Exists(String),
    /// No rights.
    #[error("device {0:?} needs root (or CAP_NET_ADMIN and CAP_NET_RAW)")]
    Permission(String),
    /// The driver refused.
    #[error(
        "cannot attach {0:?} ({1}): check the driver's name and arguments, that the dpdk package with its PMDs is installed, and DPDK's lines above"
    )]
    Attach(String, Errno),
    /// All of DPDK's ports are in use.
    #[error("no port is free for {0:?}: this DPDK is built for {max}; detach one", max = sys::dpdk_limit::DPDK_MAX_ETHPORTS)]
    NoFreePort(String),
    /// No such device.
    #[error("there is no port {0:?}: attach it, or name it in EalOptions")]
    NotFound(String),
    /// The device is in use.
    #[error("port {0:?} is in use already: one Port per device")]
    InUse(String),
    /// The configuration is beyond the device.
    #[error("port {name:?} takes at most {rx} receive and {tx} transmit queues")]
    Queues {
        /// The port.
        name: String,
        /// Receive queues.
        rx: u16,
        /// Transmit queues.
        tx: u16,
    },
    /// The MTU is beyond the device.
    #[error("port {name:?} takes an MTU of {min} to {max}")]
    Mtu {
        /// The port.
        name: String,
        /// Lowest.
        min: u16,
        /// Highest.
        max: u16,
    },
    /// Not in this state.
    #[error("port {0:?} must be stopped first")]
    Started(String),
    /// Not in this state.
    #[error("port {0:?} must be configured and started first")]
    NotStarted(String),
    /// Queue handles are out.
    #[error("port {0:?} has queues in use: drop their handles first")]
    QueuesInUse(String),
    /// No such queue, or someone has it.
    #[error("queue {1} of port {0:?} does not exist or is taken: a queue has one user at a time")]
    Queue(String, u16),
    /// The driver refused.
    #[error("port {0:?} cannot {1}: {2}")]
    Driver(String, &'static str, Errno),
}

/// Ports that have a [`Port`], by id; also the lock for all control calls.
static OPEN: Mutex<u64> = Mutex::new(0);
const _: () = assert!(sys::dpdk_limit::DPDK_MAX_ETHPORTS <= 64);

fn control() -> MutexGuard<'static, u64> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device that sends and receives frames.
///
/// Dropping it stops the device (and removes it, if it was attached) as soon as no queue is in use.
#[derive(Debug)]
pub struct Port {
    inner: Arc<Inner>,
    config: Option<Queues>,
    started: bool,
}

#[derive(Clone, Copy, Debug)]
struct Queues {
    rx: u16,
    tx: u16,
    granted: u32,
}

#[derive(Debug)]
struct Inner {
    id: u16,
    name: String,
    attached: bool,
    /// Closed and removed, so that the id may be another's now.
    gone: bool,
    rx_taken: AtomicU64,
    tx_taken: AtomicU64,
    _lease: Lease,
}

impl Port {
    /// Plugs a device in: `net_null0,size=64`, `net_af_packet0,iface=eth1`, `0000:01:00.0`.
    ///
    /// # Errors
    /// See [`PortError`].
    pub fn attach(devargs: &str) -> Result<Self, PortError> {
        let name = devargs::name(devargs);
        let text = CString::new(devargs).map_err(|_| PortError::Devargs(devargs.to_owned()))?;
        if name.is_empty() {
            return Err(PortError::Devargs(devargs.to_owned()));
        }
        if let Some(interface) = devargs::missing_interface(devargs) {
            return Err(PortError::NoSuchInterface(interface));
        }
        let lease = Lease::take().ok_or(PortError::NoEal)?;
        let mut open = control();
        if id_of(name).is_some() {
            return Err(PortError::Exists(name.to_owned()));
        }
        // SAFETY: EAL runs; the text outlives the call; control calls are serialised.
        let probed = Errno::check(unsafe { sys::rte_dev_probe(text.as_ptr()) });
        let id = match probed {
            Ok(_) => id_of(name).ok_or_else(|| PortError::NotFound(name.to_owned()))?,
            Err(Errno(libc::EEXIST)) => return Err(PortError::Exists(name.to_owned())),
            Err(Errno(libc::EPERM | libc::EACCES)) => {
                return Err(PortError::Permission(name.to_owned()));
            }
            Err(_) if all_used() => return Err(PortError::NoFreePort(name.to_owned())),
            Err(errno) => return Err(PortError::Attach(devargs.to_owned(), errno)),
        };
        Ok(Self::open(&mut open, id, name, true, lease))
    }

    /// Takes a device that exists already (named in [`EalOptions`](crate::EalOptions)).
    ///
    /// # Errors
    /// When there is none of that name, or it is in use.
    pub fn find(name: &str) -> Result<Self, PortError> {
        let lease = Lease::take().ok_or(PortError::NoEal)?;
        let mut open = control();
        let id = id_of(name).ok_or_else(|| PortError::NotFound(name.to_owned()))?;
        if *open & (1 << id) != 0 {
            return Err(PortError::InUse(name.to_owned()));
        }
        Ok(Self::open(&mut open, id, name, false, lease))
    }

    fn open(open: &mut u64, id: u16, name: &str, attached: bool, lease: Lease) -> Self {
        *open |= 1 << id;
        let inner = Inner {
            id,
            name: name.to_owned(),
            attached,
            gone: false,
            rx_taken: AtomicU64::new(0),
            tx_taken: AtomicU64::new(0),
            _lease: lease,
        };
        Self {
            inner: Arc::new(inner),
            config: None,
            started: false,
        }
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Sets the device and all its queues up, from scratch.
    ///
    /// # Errors
    /// When it is started, or cannot have it so.
    pub fn configure(&mut self, config: &PortConfig) -> Result<(), PortError> {
        if self.started {
            return Err(PortError::Started(self.inner.name.clone()));
        }
        let _open = control();
        let info = self.info()?;
        let (rx, tx) = (
            info.max_rx_queues.min(MAX_QUEUES),
            info.max_tx_queues.min(MAX_QUEUES),
        );
        if config.rx_queues > rx || config.tx_queues > tx {
            return Err(PortError::Queues {
                name: self.inner.name.clone(),
                rx,
                tx,
            });
        }
        if !(info.min_mtu..=info.max_mtu).contains(&config.mtu) {
            return Err(PortError::Mtu {
                name: self.inner.name.clone(),
                min: info.min_mtu,
                max: info.max_mtu,
            });
        }
        self.config = None;
        let mut ask = 0;
        if config.offloads {
            ask |= sys::dpdk_ask::DPDK_ASK_SEND;
        }
        if config.unfinished {
            ask |= sys::dpdk_ask::DPDK_ASK_RECEIVE;
        }
        let mut granted = 0;
        // SAFETY: the port is ours and stopped, the pool lives as long as EAL, control calls are serialised.
        let rc = unsafe {
            sys::dpdk_port_configure(
                self.inner.id,
                config.rx_queues,
                config.tx_queues,
                config.rx_desc,
                config.tx_desc,
                config.mtu,
                config.rss.into(),
                ask,
                config.pool.raw(),
                &raw mut granted,
            )
        };
        self.inner.check("be configured so", rc)?;
        self.config = Some(Queues {
            rx: config.rx_queues,
            tx: config.tx_queues,
            granted,
        });
        Ok(())
    }

    /// Starts the device.
    ///
    /// # Errors
    /// When it is not configured, or the driver cannot.
    pub fn start(&mut self) -> Result<(), PortError> {
        if self.config.is_none() {
            return Err(PortError::NotStarted(self.inner.name.clone()));
        }
        if self.started {
            return Err(PortError::Started(self.inner.name.clone()));
        }
        let _open = control();
        // SAFETY: the port is ours and configured; control calls are serialised.
        let rc = unsafe { sys::rte_eth_dev_start(self.inner.id) };
        self.inner.check("start", rc)?;
        self.started = true;
        Ok(())
    }

    /// Stops the device; its queues' handles must have been dropped.
    ///
    /// # Errors
    /// When it is not started, a queue is in use, or the driver cannot.
    pub fn stop(&mut self) -> Result<(), PortError> {
        if !self.started {
            return Err(PortError::NotStarted(self.inner.name.clone()));
        }
        if self.inner.queues_in_use() {
            return Err(PortError::QueuesInUse(self.inner.name.clone()));
        }
        let _open = control();
        // SAFETY: the port is ours and no queue handle exists; control calls are serialised.
        let rc = unsafe { sys::rte_eth_dev_stop(self.inner.id) };
        self.inner.check("stop", rc)?;
        self.started = false;
        Ok(())
    }

    /// Stops the device and unplugs it, wherever it came from.
    ///
    /// # Errors
    /// When a queue is in use: an attached device then goes with the last of its queue handles. Or when
    /// the driver cannot.
    pub fn detach(mut self) -> Result<(), PortError> {
        let name = self.inner.name.clone();
        let Some(inner) = Arc::get_mut(&mut self.inner) else {
            return Err(PortError::QueuesInUse(name));
        };
        inner.shut(true)
    }

    /// The one handle of receive queue `queue`; dropped, it can be had again.
    ///
    /// # Errors
    /// When the port is not started, or there is no such queue, or it is taken.
    pub fn rx_queue(&self, queue: u16) -> Result<RxQueue, PortError> {
        let count = self.running()?.rx;
        self.take(&self.inner.rx_taken, queue, count)?;
        Ok(RxQueue {
            port: self.inner.id,
            queue,
            inner: Arc::clone(&self.inner),
        })
    }

    /// The one handle of transmit queue `queue`; dropped, it can be had again.
    ///
    /// # Errors
    /// When the port is not started, or there is no such queue, or it is taken.
    pub fn tx_queue(&self, queue: u16) -> Result<TxQueue, PortError> {
        let count = self.running()?.tx;
        self.take(&self.inner.tx_taken, queue, count)?;
        Ok(TxQueue {
            port: self.inner.id,
            queue,
            inner: Arc::clone(&self.inner),
        })
    }

    fn running(&self) -> Result<Queues, PortError> {
        self.config
            .filter(|_| self.started)
            .ok_or_else(|| PortError::NotStarted(self.inner.name.clone()))
    }

    fn take(&self, taken: &AtomicU64, queue: u16, count: u16) -> Result<(), PortError> {
        if queue < count && taken.fetch_or(1 << queue, Ordering::AcqRel) & (1 << queue) == 0 {
            return Ok(());
        }
        Err(PortError::Queue(self.inner.name.clone(), queue))
    }

    /// Whether the device, as configured, finishes these by itself: TCP and UDP checksums, and cutting TCP.
    #[must_use]
    pub fn finishes(&self) -> (bool, bool) {
        (
            self.granted(sys::dpdk_grant::DPDK_FINISHES_CHECKSUMS),
            self.granted(sys::dpdk_grant::DPDK_CUTS_TCP),
        )
    }

    /// Whether the device, as configured, takes packets of several segments.
    #[must_use]
    pub fn takes_chains(&self) -> bool {
        self.granted(sys::dpdk_grant::DPDK_TAKES_CHAINS)
    }

    fn granted(&self, what: u32) -> bool {
        self.config.is_some_and(|config| config.granted & what != 0)
    }

    /// The device's MAC address.
    ///
    /// # Errors
    /// When the driver has none.
    pub fn mac(&self) -> Result<[u8; 6], PortError> {
        let _open = control();
        let mut mac = MaybeUninit::<sys::rte_ether_addr>::zeroed();
        // SAFETY: the port exists, and there is room for the result.
        self.inner.check("tell its MAC", unsafe {
            sys::rte_eth_macaddr_get(self.inner.id, mac.as_mut_ptr())
        })?;
        // SAFETY: zeroed, then filled.
        Ok(unsafe { mac.assume_init() }.addr_bytes)
    }

    /// The driver's counters.
    ///
    /// # Errors
    /// When the driver keeps none.
    pub fn stats(&self) -> Result<PortStats, PortError> {
        let _open = control();
        let mut stats = MaybeUninit::<sys::rte_eth_stats>::zeroed();
        // SAFETY: the port exists, and there is room for the result.
        self.inner.check("tell its counters", unsafe {
            sys::rte_eth_stats_get(self.inner.id, stats.as_mut_ptr())
        })?;
        // SAFETY: zeroed, then filled; any bits are valid.
        let stats = unsafe { stats.assume_init() };
        Ok(PortStats {
            rx_packets: stats.ipackets,
            tx_packets: stats.opackets,
            rx_bytes: stats.ibytes,
            tx_bytes: stats.obytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            tx_errors: stats.oerrors,
            rx_no_mbuf: stats.rx_nombuf,
        })
    }

    /// Whether the link is up, without waiting for it.
    ///
    /// # Errors
    /// When the driver cannot tell.
    pub fn link(&self) -> Result<Link, PortError> {
        let _open = control();
        let (mut up, mut mbps) = (0, 0);
        // SAFETY: the port exists, and there is room for the results.
        let rc = unsafe { sys::dpdk_port_link(self.inner.id, &raw mut up, &raw mut mbps) };
        self.inner.check("tell its link", rc)?;
        Ok(Link { up: up != 0, mbps })
    }

    /// Receives frames for any MAC address.
    ///
    /// # Errors
    /// When the driver cannot.
    pub fn set_promiscuous(&mut self) -> Result<(), PortError> {
        let _open = control();
        // SAFETY: the port exists; control calls are serialised.
        self.inner
            .check("become promiscuous", unsafe {
                sys::rte_eth_promiscuous_enable(self.inner.id)
            })
            .map(drop)
    }

    /// Receives frames for any group.
    ///
    /// # Errors
    /// When the driver cannot.
    pub fn set_all_multicast(&mut self) -> Result<(), PortError> {
        let _open = control();
        // SAFETY: the port exists; control calls are serialised.
        self.inner
            .check("receive all multicast", unsafe {
                sys::rte_eth_allmulticast_enable(self.inner.id)
            })
            .map(drop)
    }

    /// The kernel interface behind the device, if the driver has one; 0 is none.
    ///
    /// # Errors
    /// When the driver cannot tell.
    pub fn if_index(&self) -> Result<u32, PortError> {
        let _open = control();
        Ok(self.info()?.if_index)
    }

    /// The driver's name (`net_null`).
    ///
    /// # Errors
    /// When the driver cannot tell.
    pub fn driver(&self) -> Result<String, PortError> {
        let _open = control();
        let info = self.info()?;
        // SAFETY: the shim terminates the name within its array.
        Ok(unsafe { CStr::from_ptr(info.driver.as_ptr()) }
            .to_string_lossy()
            .into_owned())
    }

    fn info(&self) -> Result<sys::dpdk_port_info, PortError> {
        self.inner.info()
    }
}

impl Inner {
    fn check(&self, what: &'static str, rc: i32) -> Result<i32, PortError> {
        Errno::check(rc).map_err(|errno| PortError::Driver(self.name.clone(), what, errno))
    }

    fn queues_in_use(&self) -> bool {
        self.rx_taken.load(Ordering::Acquire) | self.tx_taken.load(Ordering::Acquire) != 0
    }

    fn info(&self) -> Result<sys::dpdk_port_info, PortError> {
        let mut info = MaybeUninit::<sys::dpdk_port_info>::zeroed();
        // SAFETY: the port exists, and there is room for the result.
        self.check("describe itself", unsafe {
            sys::dpdk_port_info(self.id, info.as_mut_ptr())
        })?;
        // SAFETY: zeroed, then filled; any bits are valid.
        Ok(unsafe { info.assume_init() })
    }

    /// Stops the device, and removes it if asked. Nobody may have a queue.
    fn shut(&mut self, remove: bool) -> Result<(), PortError> {
        let mut open = control();
        if self.gone {
            return Ok(());
        }
        // SAFETY: the port is ours, and no queue handle exists; stopping twice is no error.
        let stopped = unsafe { sys::rte_eth_dev_stop(self.id) };
        if remove {
            let device = self.info()?.device;
            // SAFETY: as above; the device outlives the port that it carries, and nothing uses it later.
            let (closed, removed) =
                unsafe { (sys::rte_eth_dev_close(self.id), sys::rte_dev_remove(device)) };
            *open &= !(1 << self.id);
            self.gone = true;
            self.check("be closed", closed)?;
            return self.check("be removed", removed).map(drop);
        }
        *open &= !(1 << self.id);
        self.check("stop", stopped).map(drop)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Not open any more after `detach`, and no one is left to hear of an error.
        let _result = self.shut(self.attached);
    }
}

/// The port of that name.
fn id_of(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let mut id = 0;
    // SAFETY: a terminated name and room for the result.
    (unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) } == 0).then_some(id)
}

fn all_used() -> bool {
    let valid = |id: u16| {
        // SAFETY: a look into a table; control calls are serialised.
        unsafe { sys::rte_eth_dev_is_valid_port(id) != 0 }
    };
    (0..sys::dpdk_limit::DPDK_MAX_ETHPORTS).all(|id| u16::try_from(id).is_ok_and(valid))
}

/// The receiving end of one queue.
#[derive(Debug)]
pub struct RxQueue {
    port: u16,
    queue: u16,
    inner: Arc<Inner>,
}

impl RxQueue {
    /// Adds received frames to the burst, as many as there are and fit.
    #[inline]
    pub fn burst<const N: usize>(&mut self, into: &mut Burst<N>) -> usize {
        #[allow(clippy::cast_possible_truncation)] // Limited.
        let room = into.room().min(usize::from(u16::MAX)) as u16;
        // SAFETY: the only handle of this queue, by `&mut`; the port runs as long as it exists; there is room.
        let got =
            usize::from(unsafe { sys::dpdk_rx_burst(self.port, self.queue, into.spare(), room) });
        // SAFETY: the driver filled `got` slots with packets that are ours now.
        unsafe { into.grow(got) };
        got
    }
}

impl Drop for RxQueue {
    fn drop(&mut self) {
        self.inner
            .rx_taken
            .fetch_and(!(1 << self.queue), Ordering::AcqRel);
    }
}

/// The sending end of one queue.
#[derive(Debug)]
pub struct TxQueue {
    port: u16,
    queue: u16,
    inner: Arc<Inner>,
}

impl TxQueue {
    /// Sends from the front of the burst, as many as the device takes; the rest stays.
    #[inline]
    pub fn burst<const N: usize>(&mut self, from: &mut Burst<N>) -> usize {
        #[allow(clippy::cast_possible_truncation)] // Limited.
        let len = from.len().min(usize::from(u16::MAX)) as u16;
        // SAFETY: the only handle of this queue, by `&mut`; the port runs as long as it exists; the
        // packets are initialised.
        let sent =
            usize::from(unsafe { sys::dpdk_tx_burst(self.port, self.queue, from.raw(), len) });
        // SAFETY: the driver owns the first `sent` now.
        unsafe { from.forget_front(sent) };
        sent
    }

    /// Checks and completes the offload requests as the device wants them (after [`set_frame`]), for as many packets from the
    /// front as are in order. A device with [`PortConfig::offloads`] needs it before [`TxQueue::burst`].
    ///
    /// [`set_frame`]: crate::Mbuf::set_frame
    #[inline]
    pub fn prepare<const N: usize>(&mut self, packets: &mut Burst<N>) -> usize {
        #[allow(clippy::cast_possible_truncation)] // Limited.
        let len = packets.len().min(usize::from(u16::MAX)) as u16;
        // SAFETY: as in `burst`; the packets stay ours.
        usize::from(unsafe { sys::dpdk_tx_prepare(self.port, self.queue, packets.raw(), len) })
    }
}

impl Drop for TxQueue {
    fn drop(&mut self) {
        self.inner
            .tx_taken
            .fetch_and(!(1 << self.queue), Ordering::AcqRel);
    }
}
