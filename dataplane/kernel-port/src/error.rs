//! Why a port could not be opened or changed, and what the operator can do about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Failures outside the packet path. On the packet path nothing fails: packets are counted by reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelPortError {
    /// The process lacks a capability.
    #[error("{what} needs root, or CAP_NET_ADMIN and CAP_NET_RAW in this network namespace")]
    NotPermitted {
        /// What was tried.
        what: &'static str,
    },
    /// Another process holds the address and port.
    #[error("UDP port {} on {} is taken: end the process that holds it (`ss -ulpn 'sport = :{}'`) or configure another tunnel port", .address.port(), .address.ip(), .address.port())]
    PortTaken {
        /// Where the tunnel port was to be bound.
        address: SocketAddr,
    },
    /// No interface of this namespace carries the address.
    #[error(
        "no interface here has the address {0}: correct the configured tunnel address, or bring its interface up first"
    )]
    AddressMissing(std::net::IpAddr),
    /// Neither IPv4 nor IPv6 was asked for, or the host has none of those asked for.
    #[error("no tunnel address is left to bind: give an IPv4 address, or enable IPv6 on this host")]
    NoTunnelAddress,
    /// Interface name unknown or unusable.
    #[error(
        "interface {0:?} does not exist in this network namespace: check its name with `ip link`"
    )]
    NoInterface(String),
    /// An interface name that the kernel would not take.
    #[error("{0:?} cannot name an interface: 1 to 15 bytes, without '/', ':', '%' or white space")]
    BadInterfaceName(String),
    /// The TAP name is in use.
    #[error(
        "interface {0:?} is taken: stop the process that holds it, or remove what is left with `ip link delete`"
    )]
    InterfaceTaken(String),
    /// `/dev/net/tun` is missing.
    #[error("/dev/net/tun is missing: `modprobe tun`, or pass the device into this container")]
    TunMissing,
    /// Zero, or more than the kernel's fan-out takes.
    #[error("{0} workers or queues asked for: between 1 and {max} are possible", max = crate::access::MAX_WORKERS)]
    BadWorkerCount(usize),
    /// More containers than one classic BPF program can tell apart.
    #[error(
        "{interfaces} interfaces need {instructions} filter instructions and the kernel takes 4096: attach fewer containers to this node"
    )]
    TooManyInterfaces {
        /// Interfaces asked for.
        interfaces: usize,
        /// What their filter would need.
        instructions: usize,
    },
    /// A worker that does not exist, or index 0.
    #[error(
        "interface {interface} for worker {worker}: the index must not be 0 and there are {workers} workers"
    )]
    BadInterface {
        /// Interface index.
        interface: u32,
        /// Worker asked for.
        worker: usize,
        /// Workers of the group.
        workers: usize,
    },
    /// The kernel's memory for socket options is used up.
    #[error(
        "the kernel has no room for a filter of {instructions} instructions: raise it with `sysctl -w net.core.optmem_max=1048576`"
    )]
    FilterMemory {
        /// Length of the program.
        instructions: usize,
    },
    /// A mempool cannot hold what arrives.
    #[error("the {pool} mempool's data room is {found} bytes and must be at least {needed}")]
    SmallDataRoom {
        /// `small` or `large`.
        pool: &'static str,
        /// Bytes it has.
        found: usize,
        /// Bytes it needs, headroom included.
        needed: usize,
    },
    /// Another process has the shared file.
    #[error(
        "{0:?} is in use by another process: one Net Manager at a time; give the second one another configuration or namespace"
    )]
    WordsInUse(PathBuf),
    /// Write-back would stall a worker.
    #[error("{0:?} lies on a disk: put it on tmpfs (/dev/shm) or hugetlbfs")]
    WordsOnDisk(PathBuf),
    /// Somebody else's file, or not a file.
    #[error("{0:?} is not a file of ours (other owner, or no regular file): remove it")]
    WordsForeign(PathBuf),
    /// The file system has not got the room.
    #[error(
        "no room for {bytes} bytes at {path:?}: enlarge the file system (`mount -o remount,size=`), reserve hugepages, or configure smaller tables"
    )]
    WordsNoRoom {
        /// The file.
        path: PathBuf,
        /// Bytes needed.
        bytes: usize,
    },
    /// Anything else, with what was tried.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl KernelPortError {
    /// The last system call's error, with missing capabilities told apart.
    pub(crate) fn io(what: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => KernelPortError::NotPermitted { what },
            _ => KernelPortError::Io { what, source },
        }
    }
}
