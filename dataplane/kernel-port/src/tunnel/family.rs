//! The socket of one address family: how it is opened, and how a queue of packets leaves by it.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dpdk::Burst;
use libc::c_int;

use super::{PathMtu, QUEUE, Reason, TunnelOptions, TunnelStats};
use crate::outbox::{Full, Label, Outbox};
use crate::syscall::{self, Name};
use crate::{KernelPortError, Sent};

/// Datagrams in one message (`UDP_MAX_SEGMENTS` of older kernels), and their bytes.
const GROUP: usize = 64;
const GROUP_BYTES: usize = 65_000;

/// Of so many groups, the first packet of one leaves alone.
const SAMPLE: u32 = 32;

/// ICMP errors taken in one go.
const ERRORS: usize = 64;

/// Further tries in one flush when the kernel has no room.
const RETRIES: usize = 4;

const BUFFER: c_int = 16 << 20;

/// The socket of one address family and what waits to leave by it.
pub(super) struct Family {
    pub(super) socket: OwnedFd,
    v6: bool,
    pub(super) segmentation: bool,
    pub(super) coalescing: bool,
    /// The kernel may hold an ICMP error for this socket.
    pub(super) doubtful: bool,
    sampling: Option<Sampling>,
    pub(super) queue: Burst<QUEUE>,
    pub(super) to: [Name; QUEUE],
    pub(super) tos: [u8; QUEUE],
    outbox: Outbox,
}

impl Family {
    /// A socket for each worker; none when no address is given or the host lacks the family.
    pub(super) fn open(
        workers: usize,
        address: Option<SocketAddr>,
        options: TunnelOptions,
    ) -> Result<Vec<Family>, KernelPortError> {
        let Some(mut address) = address else {
            return Ok(Vec::new());
        };
        if workers > 1 && address.port() != 0 {
            // With SO_REUSEPORT a second Net Manager would share the port and take half of the peers in
            // silence: so the port is bound once without it.
            drop(match Family::bind(address, false, options)? {
                Some(family) => family,
                None => return Ok(Vec::new()),
            });
        }
        let mut families = Vec::with_capacity(workers);
        for _ in 0..workers {
            let Some(family) = Family::bind(address, workers > 1, options)? else {
                return Ok(Vec::new());
            };
            if address.port() == 0 {
                address = syscall::local_address(family.socket.as_fd())
                    .map_err(|error| KernelPortError::io("asking for the tunnel port", error))?;
            }
            families.push(family);
        }
        Ok(families)
    }

    fn bind(
        address: SocketAddr,
        shared: bool,
        options: TunnelOptions,
    ) -> Result<Option<Family>, KernelPortError> {
        let v6 = address.is_ipv6();
        let domain = if v6 { libc::AF_INET6 } else { libc::AF_INET };
        let socket = match syscall::socket(domain, libc::SOCK_DGRAM) {
            Err(error) if v6 && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                return Ok(None);
            }
            other => other.map_err(|error| KernelPortError::io("opening a UDP socket", error))?,
        };
        let fd = socket.as_fd();
        Family::configure(fd, v6, shared, options)
            .map_err(|error| KernelPortError::io("preparing the tunnel socket", error))?;
        let on = |option| syscall::set_option(fd, libc::SOL_UDP, option, 1).is_ok();
        let coalescing = options.coalescing && on(libc::UDP_GRO);
        // Size 0 changes nothing; a kernel without the option refuses it.
        let segmentation = options.segmentation
            && syscall::set_option(fd, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        let unspecified = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        if let Err(error) = syscall::bind(fd, Name::of(address)) {
            return match error.raw_os_error() {
                Some(libc::EADDRNOTAVAIL) if unspecified => Ok(None),
                Some(libc::EADDRNOTAVAIL) => Err(KernelPortError::AddressMissing(address.ip())),
                Some(libc::EADDRINUSE) => Err(KernelPortError::PortTaken { address }),
                _ => Err(KernelPortError::io("binding the tunnel port", error)),
            };
        }
        Ok(Some(Family {
            socket,
            v6,
            segmentation,
            coalescing,
            doubtful: false,
            sampling: (!v6 && options.path_mtu == PathMtu::Learn).then(Sampling::default),
            queue: Burst::new(),
            to: [Name::EMPTY; QUEUE],
            tos: [0; QUEUE],
            outbox: Outbox::new(QUEUE),
        }))
    }

    fn configure(
        fd: BorrowedFd<'_>,
        v6: bool,
        shared: bool,
        options: TunnelOptions,
    ) -> io::Result<()> {
        if shared {
            syscall::set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        for (forced, asked) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ] {
            if syscall::set_option(fd, libc::SOL_SOCKET, forced, BUFFER).is_err() {
                syscall::set_option(fd, libc::SOL_SOCKET, asked, BUFFER)?;
            }
        }
        let discovery = match options.path_mtu {
            PathMtu::Learn => (libc::IP_PMTUDISC_WANT, libc::IPV6_PMTUDISC_WANT),
            PathMtu::Fragment => (libc::IP_PMTUDISC_DONT, libc::IPV6_PMTUDISC_DONT),
            PathMtu::Discover => (libc::IP_PMTUDISC_DO, libc::IPV6_PMTUDISC_DO),
        };
        if options.path_mtu == PathMtu::Learn {
            let (level, option) = match v6 {
                true => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
                false => (libc::IPPROTO_IP, libc::IP_RECVERR),
            };
            syscall::set_option(fd, level, option, 1)?;
        }
        if v6 {
            let level = libc::IPPROTO_IPV6;
            syscall::set_option(fd, level, libc::IPV6_V6ONLY, 1)?;
            syscall::set_option(fd, level, libc::IPV6_RECVTCLASS, 1)?;
            syscall::set_option(fd, level, libc::IPV6_MTU_DISCOVER, discovery.1)
        } else {
            syscall::set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
            syscall::set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, discovery.0)
        }
    }

    /// Takes the ICMP errors that the kernel holds, and tells the hosts whose path carries less than was sent.
    #[cold]
    pub(super) fn errors(&mut self, sink: &mut impl FnMut(IpAddr)) {
        for _ in 0..ERRORS {
            match syscall::take_error(self.socket.as_fd()) {
                Some((Some(host), libc::EMSGSIZE)) => sink(host.ip().to_canonical()),
                Some(_) => {}
                None => {
                    self.doubtful = false;
                    return;
                }
            }
        }
    }

    pub(super) fn send(&mut self, stats: &mut TunnelStats, flushed: &mut Sent) {
        let mut progress = Progress {
            stats,
            flushed,
            segmentation: self.segmentation,
            tries: RETRIES,
        };
        let mut at = 0;
        while at < self.queue.len() {
            let filled = self.fill(at, &mut progress);
            at = self.send_outbox(&mut progress).unwrap_or(filled);
        }
        self.outbox.clear();
        self.queue.clear();
    }

    /// Puts packets into the outbox from `at` on, as many as it takes; the index of the first left.
    fn fill(&mut self, mut at: usize, progress: &mut Progress<'_>) -> usize {
        self.outbox.clear();
        while at < self.queue.len() {
            let size = self.queue[at].pkt_len();
            match self.outbox.packet(self.queue[at].segments()) {
                Ok(()) => {}
                Err(Full::Outbox) => return at,
                Err(Full::Message) => {
                    progress.dropped(1, |stats| &mut stats.tx_invalid);
                    at += 1;
                    continue;
                }
            }
            let mut packets = 1;
            let mut bytes = size;
            while progress.segmentation && packets < GROUP {
                let next = at + packets;
                let Some(mbuf) = self.queue.as_slice().get(next) else {
                    break;
                };
                let length = mbuf.pkt_len();
                if length > size
                    || bytes + length > GROUP_BYTES
                    || self.to[next] != self.to[at]
                    || self.tos[next] != self.tos[at]
                    || (packets == 1 && self.sampling.as_mut().is_some_and(Sampling::is_due))
                    || self.outbox.packet(mbuf.segments()).is_err()
                {
                    break;
                }
                packets += 1;
                bytes += length;
                if length < size {
                    break;
                }
            }
            let label = Label {
                tag: at,
                packets,
                segmented: false,
            };
            let tos = c_int::from(self.tos[at]).to_ne_bytes();
            let size = u16::try_from(size).unwrap_or(u16::MAX).to_ne_bytes();
            let class = if self.v6 {
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
            } else {
                (libc::IPPROTO_IP, libc::IP_TOS)
            };
            let control: [(c_int, c_int, &[u8]); 2] = [
                (class.0, class.1, &tos),
                (libc::SOL_UDP, libc::UDP_SEGMENT, &size),
            ];
            let used = if packets > 1 { 2 } else { 1 };
            self.outbox.finish(self.to[at], label, &control[..used]);
            at += packets;
        }
        at
    }

    /// Sends the outbox. When the kernel will not segment: the index of the packet from which on they are
    /// to be sent one by one.
    fn send_outbox(&mut self, progress: &mut Progress<'_>) -> Option<usize> {
        let mut first = 0;
        let mut retried = usize::MAX;
        while first < self.outbox.len() {
            // SAFETY: the outbox holds segments of mbufs in `queue`, which is cleared after it.
            #[allow(unsafe_code)]
            let sent = unsafe { self.outbox.send(self.socket.as_fd(), first) };
            let error = match sent {
                Ok(count) => {
                    for index in first..first + count {
                        progress.sent(self.outbox.label(index).packets);
                    }
                    first += count;
                    // Why it stopped here, it does not say.
                    self.doubtful |= first < self.outbox.len();
                    continue;
                }
                Err(error) => error.raw_os_error().unwrap_or(0),
            };
            let label = self.outbox.label(first);
            match error {
                libc::EAGAIN | libc::ENOBUFS | libc::EINTR if progress.tries > 0 => {
                    progress.tries -= 1;
                }
                libc::EAGAIN | libc::ENOBUFS | libc::EINTR => {
                    for index in first..self.outbox.len() {
                        let packets = self.outbox.label(index).packets;
                        progress.dropped(packets, |stats| &mut stats.tx_would_block);
                    }
                    return None;
                }
                // Maybe an ICMP error about an earlier datagram, reported in place of sending this one.
                _ if retried != first => {
                    self.doubtful = true;
                    retried = first;
                }
                libc::EMSGSIZE | libc::EIO | libc::EINVAL if label.packets > 1 => {
                    progress.segmentation = false;
                    progress.stats.segmentation_refused += 1;
                    return Some(label.tag);
                }
                libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::ENETDOWN
                | libc::EPERM
                | libc::EACCES => {
                    let host = self.outbox.name(first);
                    self.outbox.retain_from(first, |label, name| {
                        if *name == host {
                            progress.dropped(label.packets, |stats| &mut stats.tx_unreachable);
                        }
                        *name != host
                    });
                    // Another message has its place now.
                    retried = usize::MAX;
                }
                other => {
                    progress.dropped(
                        label.packets,
                        match other {
                            libc::EMSGSIZE => |stats| &mut stats.tx_too_big,
                            _ => |stats| &mut stats.tx_rejected,
                        },
                    );
                    first += 1;
                }
            }
        }
        None
    }
}

/// Over IPv4 the kernel sets DF on a datagram that fits, but not on a group of several, whose segments routers then
/// split without a word: a bulk transfer would never find out. So now and then one packet leaves alone, and asks.
#[derive(Default)]
struct Sampling(u32);

impl Sampling {
    fn is_due(&mut self) -> bool {
        let due = self.0.is_multiple_of(SAMPLE);
        self.0 = self.0.wrapping_add(1);
        due
    }
}

/// What a flush has come to so far.
struct Progress<'a> {
    stats: &'a mut TunnelStats,
    flushed: &'a mut Sent,
    segmentation: bool,
    tries: usize,
}

impl Progress<'_> {
    fn sent(&mut self, packets: usize) {
        self.stats.sent += packets as u64;
        self.stats.groups += u64::from(packets > 1);
        self.flushed.sent += packets;
    }

    fn dropped(&mut self, packets: usize, reason: Reason) {
        *reason(self.stats) += packets as u64;
        self.flushed.dropped += packets;
    }
}
