//! The access ports: all containers of a worker behind one packet socket.
//!
//! The socket is not bound to an interface; a filter on the interface index passes what our containers
//! send, so that attaching a container is a change of the filter and not another socket, ring and
//! descriptor. With several workers the sockets form a fan-out group whose program maps the index to the
//! worker that owns the container.
//!
//! Small frames are read from a mapped ring. A frame that does not fit carries `TP_STATUS_COPY` there, and
//! the whole of it waits in the socket's queue in the same order. A frame without that mark but longer
//! than what the ring kept of it was truncated, and is dropped.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use dpdk::{Burst, Mbuf};
use libc::c_int;

use crate::filter::{self, Instruction};
use crate::landing::{Landed, Landings};
use crate::outbox::{Full, Label, Outbox};
use crate::ring::Ring;
use crate::syscall::{self, Name};
use crate::vnet::{self, BadVnetHeader, VnetHeader};
use crate::{KernelPortError, Pools, Sent};

/// Workers of one group; the kernel's limit for a fan-out.
pub const MAX_WORKERS: usize = 256;

/// Frames that wait for [`AccessPort::flush`]; pushing one more flushes.
pub const QUEUE: usize = 128;

/// Interfaces that may refuse within one flush and are told apart.
const REFUSING: usize = 2 * QUEUE;

/// Further tries in one flush when the kernel has no room.
const RETRIES: usize = 4;

/// Bytes of kernel memory for large frames that wait, and for frames on their way out.
const BUFFER: c_int = 16 << 20;

/// What happened to frames. Every one that the ring gave is in exactly one of `received`, `truncated`,
/// `no_mbuf`, `vlan`, `bad_vnet_header`, `udp_fragment`, `out_of_step` and `foreign`; every one pushed in
/// exactly one of `sent` and the `tx_` counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AccessStats {
    /// Handed to the sink.
    pub received: u64,
    /// Longer than what was kept of them.
    pub truncated: u64,
    /// A mempool was empty.
    pub no_mbuf: u64,
    /// With a VLAN tag, which containers have no use for.
    pub vlan: u64,
    /// With a description that no [`dpdk::Offload`] can keep.
    pub bad_vnet_header: u64,
    /// UDP fragmentation offload, gone from the kernel since 4.14.
    pub udp_fragment: u64,
    /// The large frame that belongs to a mark in the ring did not come.
    pub out_of_step: u64,
    /// Sent by this host, or too short for an Ethernet header.
    pub foreign: u64,
    /// Taken by the kernel.
    pub sent: u64,
    /// The kernel had no room, also not after some tries.
    pub tx_would_block: u64,
    /// The interface is down, has no carrier, or is gone.
    pub tx_interface_down: u64,
    /// Larger than the interface's MTU.
    pub tx_too_big: u64,
    /// Offload or header that contradict themselves: a defect of the pipeline.
    pub tx_invalid: u64,
    /// Refused for another reason.
    pub tx_rejected: u64,
}

/// Control's side of the access sockets: which interfaces belong to whom.
pub struct AccessGroup {
    sockets: Vec<Arc<OwnedFd>>,
    interfaces: BTreeMap<u32, usize>,
    ring_drops: Vec<u64>,
}

impl AccessGroup {
    /// Opens a socket with a ring of at least `ring_frames` frames (2 KB each) for each worker, in the
    /// calling thread's network namespace. Nothing passes before [`AccessGroup::set_interfaces`].
    ///
    /// # Errors
    /// [`KernelPortError`]: missing capabilities, no memory for the ring, a mempool with too little room.
    pub fn open(
        workers: usize,
        ring_frames: u32,
        pools: &Pools,
    ) -> Result<(AccessGroup, Vec<AccessPort>), KernelPortError> {
        if workers == 0 || workers > MAX_WORKERS {
            return Err(KernelPortError::BadWorkerCount(workers));
        }
        let mut ports = Vec::with_capacity(workers);
        for _ in 0..workers {
            ports.push(AccessPort::open(ring_frames, pools)?);
        }
        let sockets: Vec<_> = ports.iter().map(|port| Arc::clone(&port.socket)).collect();
        if workers > 1 {
            join(&sockets)?;
        }
        let group = AccessGroup {
            ring_drops: vec![0; sockets.len()],
            sockets,
            interfaces: BTreeMap::new(),
        };
        Ok((group, ports))
    }

    /// From now on these interfaces' frames pass, each to its worker, and no others'. Frames that passed
    /// before may still wait in the ports.
    ///
    /// # Errors
    /// [`KernelPortError`]; then what was set before still holds.
    pub fn set_interfaces(&mut self, interfaces: &[(u32, usize)]) -> Result<(), KernelPortError> {
        for &(interface, worker) in interfaces {
            if interface == 0 || worker >= self.sockets.len() {
                return Err(KernelPortError::BadInterface {
                    interface,
                    worker,
                    workers: self.sockets.len(),
                });
            }
        }
        let wanted: BTreeMap<u32, usize> = interfaces.iter().copied().collect();
        if let Err(error) = self.apply(&wanted) {
            // Shorter or already granted programs: what fails here has no better remedy than the error.
            let before = std::mem::take(&mut self.interfaces);
            let restored = self.apply(&before);
            self.interfaces = before;
            return restored.and(Err(error));
        }
        self.interfaces = wanted;
        Ok(())
    }

    /// The fan-out first: until a worker's own filter follows, nothing new passes, so that no frame
    /// reaches a worker that does not own its container.
    fn apply(&self, interfaces: &BTreeMap<u32, usize>) -> Result<(), KernelPortError> {
        if self.sockets.len() > 1 {
            let workers: Vec<_> = interfaces
                .iter()
                .filter_map(|(&interface, &worker)| Some((interface, u32::try_from(worker).ok()?)))
                .collect();
            let program = filter::by_interface(&workers)?;
            attach(
                self.sockets[0].as_fd(),
                libc::SOL_PACKET,
                libc::PACKET_FANOUT_DATA,
                &program,
            )?;
        }
        for (index, socket) in self.sockets.iter().enumerate() {
            let own: Vec<_> = interfaces
                .iter()
                .filter(|&(_, &worker)| worker == index)
                .map(|(&interface, _)| (interface, filter::WHOLE_FRAME))
                .collect();
            let program = filter::by_interface(&own)?;
            attach(
                socket.as_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                &program,
            )?;
        }
        Ok(())
    }

    /// Frames that the kernel dropped because a worker's ring was full, by worker. A system call per
    /// worker.
    pub fn ring_drops(&mut self) -> &[u64] {
        for (socket, drops) in self.sockets.iter().zip(&mut self.ring_drops) {
            // `struct tpacket_stats`: packets, drops; reading clears both.
            let read =
                syscall::option::<2>(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS);
            if let Ok([_, new]) = read {
                *drops += u64::from(new);
            }
        }
        &self.ring_drops
    }
}

fn attach(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    program: &[Instruction],
) -> Result<(), KernelPortError> {
    syscall::set_program(fd, level, name, program).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOMEM | libc::ENOBUFS) => KernelPortError::FilterMemory {
            instructions: program.len(),
        },
        _ => KernelPortError::io("attaching a packet filter", error),
    })
}

/// Makes the sockets a fan-out group of their own. They must not be bound anew afterwards: a member that
/// rejoins goes to the end, and the program's answers would mean other workers.
fn join(sockets: &[Arc<OwnedFd>]) -> Result<(), KernelPortError> {
    let failed = |error| KernelPortError::io("joining a PACKET_FANOUT group", error);
    let mut unique = libc::PACKET_FANOUT_FLAG_UNIQUEID;
    let mut id = 0;
    for socket in sockets {
        let argument = id | ((libc::PACKET_FANOUT_CBPF | unique) << 16);
        set(socket.as_fd(), libc::PACKET_FANOUT, argument.cast_signed()).map_err(failed)?;
        if unique != 0 {
            let [granted] = syscall::option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT)
                .map_err(failed)?;
            id = granted & 0xffff;
            unique = 0;
        }
    }
    attach(
        sockets[0].as_fd(),
        libc::SOL_PACKET,
        libc::PACKET_FANOUT_DATA,
        &filter::NOTHING,
    )
}

/// It receives nothing: it is bound to no protocol.
fn cutting_socket() -> io::Result<OwnedFd> {
    let socket = syscall::socket(libc::AF_PACKET, libc::SOCK_RAW)?;
    set(socket.as_fd(), libc::PACKET_VNET_HDR, 1)?;
    syscall::set_option(
        socket.as_fd(),
        libc::SOL_SOCKET,
        libc::SO_SNDBUFFORCE,
        BUFFER,
    )?;
    Ok(socket)
}

fn set(fd: BorrowedFd<'_>, option: c_int, value: c_int) -> io::Result<()> {
    syscall::set_option(fd, libc::SOL_PACKET, option, value)
}

/// One worker's access port.
pub struct AccessPort {
    // Before the socket: the mapping goes first.
    ring: Ring,
    socket: Arc<OwnedFd>,
    /// For frames that an interface cannot take as they are: without PACKET_QDISC_BYPASS the kernel cuts them itself.
    cutting: OwnedFd,
    landings: Landings,
    /// Large frames received and not yet matched with their marks: `next_large..landed`.
    next_large: usize,
    landed: usize,
    queue: Burst<QUEUE>,
    interfaces: [u32; QUEUE],
    outbox: Outbox,
    stats: AccessStats,
    flushed: Sent,
    /// Frames not sent since somebody asked, by interface.
    refused: Vec<(u32, usize)>,
}

impl AccessPort {
    fn open(ring_frames: u32, pools: &Pools) -> Result<AccessPort, KernelPortError> {
        // Protocol 0: the socket gets nothing until it is bound to one, when its filter is there.
        let socket = syscall::socket(libc::AF_PACKET, libc::SOCK_RAW)
            .map_err(|error| KernelPortError::io("opening a packet socket", error))?;
        let socket = Arc::new(socket);
        let fd = socket.as_fd();
        let failed = |what| move |error| KernelPortError::io(what, error);
        attach(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            &filter::NOTHING,
        )?;
        set(fd, libc::PACKET_VERSION, 1).map_err(failed("asking for TPACKET_V2"))?;
        set(fd, libc::PACKET_VNET_HDR, 1).map_err(failed("asking for PACKET_VNET_HDR"))?;
        set(fd, libc::PACKET_COPY_THRESH, 1).map_err(failed("asking for PACKET_COPY_THRESH"))?;
        // From 4.20 on. Before, what the host sends is told apart by its packet type.
        let _ = set(fd, libc::PACKET_IGNORE_OUTGOING, 1);
        set(fd, libc::PACKET_QDISC_BYPASS, 1).map_err(failed("asking for PACKET_QDISC_BYPASS"))?;
        for buffer in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
            syscall::set_option(fd, libc::SOL_SOCKET, buffer, BUFFER)
                .map_err(failed("sizing the buffers of a packet socket"))?;
        }
        let cutting = cutting_socket().map_err(failed("opening a packet socket to send by"))?;
        let ring = Ring::map(&socket, ring_frames)
            .map_err(failed("mapping the receive ring of a packet socket"))?;
        let [_, _, high, low] = libc::ETH_P_ALL.to_be_bytes();
        syscall::bind(fd, Name::interface([high, low], 0))
            .map_err(failed("binding a packet socket"))?;
        Ok(AccessPort {
            ring,
            landings: Landings::new(pools)?,
            next_large: 0,
            landed: 0,
            queue: Burst::new(),
            interfaces: [0; QUEUE],
            outbox: Outbox::new(QUEUE),
            stats: AccessStats::default(),
            flushed: Sent::default(),
            refused: Vec::with_capacity(REFUSING),
            socket,
            cutting,
        })
    }

    /// Hands at most `limit` waiting frames to `sink`, in the order of their arrival: from the Ethernet
    /// header on, with their [`dpdk::Offload`] set, and the index of the interface that they came by. How
    /// many these were.
    pub fn receive(&mut self, limit: usize, sink: &mut impl FnMut(Mbuf, u32)) -> usize {
        let mut delivered = 0;
        // Dropped frames count for the limit too: a call has a bounded length.
        for seen in 0..limit {
            let Some(frame) = self.ring.front() else {
                // Nothing is marked any more, so whatever is left belongs to marks that are gone.
                self.next_large = self.landed;
                break;
            };
            let interface = frame.interface;
            let outcome = if frame.status & libc::TP_STATUS_COPY != 0 {
                self.large(limit - seen)
            } else {
                self.small()
            };
            self.ring.release();
            match outcome {
                Ok(mbuf) => {
                    self.stats.received += 1;
                    delivered += 1;
                    sink(mbuf, interface);
                }
                Err(reason) => *reason(&mut self.stats) += 1,
            }
        }
        delivered
    }

    /// The frame at the ring's head, which fits.
    fn small(&mut self) -> Result<Mbuf, Reason> {
        let Some(frame) = self.ring.front() else {
            return Err(|stats| &mut stats.out_of_step);
        };
        if frame.bytes.len() < frame.length {
            return Err(|stats| &mut stats.truncated);
        }
        accept(frame.status, frame.kind, frame.length)?;
        let offload = frame
            .header
            .offload(frame.length, |at| frame.bytes.get(at).copied())
            .map_err(reason)?;
        let mut mbuf = self
            .landings
            .pools()
            .small
            .alloc()
            .ok_or::<Reason>(|stats| &mut stats.no_mbuf)?;
        if !mbuf.extend_from_slice(frame.bytes) {
            return Err(|stats| &mut stats.truncated);
        }
        mbuf.set_offload(offload);
        Ok(mbuf)
    }

    /// The whole of the frame that is marked at the ring's head.
    fn large(&mut self, limit: usize) -> Result<Mbuf, Reason> {
        if self.next_large == self.landed {
            // Marks in sight mean frames in the queue: as many come by one call.
            let marked = (0..limit.min(crate::landing::LANDINGS))
                .take_while(|&ahead| {
                    self.ring
                        .status(ahead)
                        .is_some_and(|status| status & libc::TP_STATUS_COPY != 0)
                })
                .count();
            self.next_large = 0;
            self.landed = 0;
            match self.landings.receive(self.socket.as_fd(), marked, true) {
                Landed::Packets(count) => self.landed = count,
                Landed::NoMbuf => {
                    syscall::discard(self.socket.as_fd());
                    return Err(|stats| &mut stats.no_mbuf);
                }
                Landed::Nothing | Landed::Failed => return Err(|stats| &mut stats.out_of_step),
            }
        }
        let Some(frame) = self.ring.front() else {
            return Err(|stats| &mut stats.out_of_step);
        };
        let index = self.next_large;
        let length = self.landings.length(index).saturating_sub(vnet::LEN);
        let truncated = self.landings.truncated(index);
        let header = self.landings.header(index);
        let start = self.landings.start(index, length.min(COMPARED));
        if !frame.bytes.starts_with(start) || (length != frame.length && !truncated) {
            // A later mark's frame: it stays for that one.
            return Err(|stats| &mut stats.out_of_step);
        }
        let (status, kind) = (frame.status, frame.kind);
        self.next_large += 1;
        if truncated {
            return Err(|stats| &mut stats.truncated);
        }
        accept(status, kind, length)?;
        let mut mbuf = self
            .landings
            .take(index, length)
            .ok_or::<Reason>(|stats| &mut stats.no_mbuf)?;
        let offload = offload_of(header, &mbuf).map_err(reason)?;
        mbuf.set_offload(offload);
        Ok(mbuf)
    }

    /// Queues a frame, from its Ethernet header on, for an interface. Flushes when the queue is full.
    pub fn push(&mut self, mbuf: Mbuf, interface: u32) {
        if self.queue.is_full() {
            self.send_queue();
        }
        self.interfaces[self.queue.len()] = interface;
        if self.queue.push(mbuf).is_err() {
            self.refuse(interface, 1);
            self.drop_packets(1, |stats| &mut stats.tx_would_block);
        }
    }

    /// Sends what is queued by one system call, or a few when interfaces refuse. What became of all
    /// frames pushed since the previous flush.
    pub fn flush(&mut self) -> Sent {
        self.send_queue();
        std::mem::take(&mut self.flushed)
    }

    fn send_queue(&mut self) {
        let mut at = 0;
        while at < self.queue.len() {
            at = self.fill(at);
            self.send_outbox();
        }
        self.outbox.clear();
        self.queue.clear();
    }

    /// Puts frames into the outbox from `at` on, as many as it takes; the index of the first left.
    fn fill(&mut self, mut at: usize) -> usize {
        self.outbox.clear();
        while at < self.queue.len() {
            let mbuf = &self.queue[at];
            let interface = self.interfaces[at];
            let protocol = byte_at(mbuf, 12).zip(byte_at(mbuf, 13));
            let header = header_for(mbuf);
            let (Some(protocol), Ok(header)) = (protocol, header) else {
                self.refuse(interface, 1);
                self.drop_packets(1, |stats| &mut stats.tx_invalid);
                at += 1;
                continue;
            };
            let added = self
                .outbox
                .header(header)
                .and_then(|()| self.outbox.packet(mbuf.segments()));
            match added {
                Ok(()) => {
                    let name = Name::interface(protocol.into(), interface);
                    let label = Label {
                        tag: interface as usize,
                        packets: 1,
                        segmented: mbuf.offload().segment != dpdk::Segment::None,
                    };
                    self.outbox.finish(name, label, &[]);
                }
                Err(full) => {
                    self.outbox.abandon();
                    if full == Full::Outbox {
                        return at;
                    }
                    self.refuse(interface, 1);
                    self.drop_packets(1, |stats| &mut stats.tx_invalid);
                }
            }
            at += 1;
        }
        at
    }

    fn send_outbox(&mut self) {
        let mut tries = RETRIES;
        let mut first = 0;
        while first < self.outbox.len() {
            // SAFETY: the outbox holds segments of mbufs in `queue`, which is cleared after it.
            #[allow(unsafe_code)]
            let sent = unsafe { self.outbox.send(self.socket.as_fd(), first) };
            let error = match sent {
                Ok(count) => {
                    self.stats.sent += count as u64;
                    self.flushed.sent += count;
                    first += count;
                    continue;
                }
                Err(error) => error.raw_os_error(),
            };
            // Too large for an interface without segmentation offload, or it has no carrier.
            if error == Some(libc::ENOBUFS) && self.outbox.label(first).segmented {
                // SAFETY: as above.
                #[allow(unsafe_code)]
                let sent = unsafe { self.outbox.send_one(self.cutting.as_fd(), first) };
                if sent.is_ok() {
                    self.stats.sent += 1;
                    self.flushed.sent += 1;
                    first += 1;
                    continue;
                }
            }
            match error {
                Some(libc::EAGAIN | libc::EINTR) if tries > 0 => tries -= 1,
                Some(libc::EAGAIN | libc::EINTR) => {
                    let left = self.outbox.len() - first;
                    for index in first..self.outbox.len() {
                        self.refuse_label(index, 1);
                    }
                    self.drop_packets(left, |stats| &mut stats.tx_would_block);
                    return;
                }
                Some(libc::ENXIO | libc::ENODEV | libc::ENETDOWN) => {
                    let gone = self.outbox.label(first).tag;
                    let before = self.outbox.len();
                    self.outbox.retain_from(first, |label, _| label.tag != gone);
                    let dropped = before - self.outbox.len();
                    self.refuse(u32::try_from(gone).unwrap_or(0), dropped);
                    self.drop_packets(dropped, |stats| &mut stats.tx_interface_down);
                }
                other => {
                    self.refuse_label(first, 1);
                    self.drop_packets(
                        1,
                        match other {
                            // No carrier: the container's end is down.
                            Some(libc::ENOBUFS) => |stats| &mut stats.tx_interface_down,
                            Some(libc::EMSGSIZE) => |stats| &mut stats.tx_too_big,
                            Some(libc::EINVAL) => |stats| &mut stats.tx_invalid,
                            _ => |stats| &mut stats.tx_rejected,
                        },
                    );
                    first += 1;
                }
            }
        }
    }

    /// Notes whose frame was not sent. Where more interfaces refuse at once than are told apart, the rest is in the
    /// port's own numbers alone.
    #[cold]
    fn refuse(&mut self, interface: u32, frames: usize) {
        if let Some((_, count)) = self
            .refused
            .iter_mut()
            .find(|(other, _)| *other == interface)
        {
            *count += frames;
        } else if self.refused.len() < REFUSING {
            self.refused.push((interface, frames));
        }
    }

    #[cold]
    fn refuse_label(&mut self, index: usize, frames: usize) {
        let interface = self.outbox.label(index).tag;
        self.refuse(u32::try_from(interface).unwrap_or(0), frames);
    }

    /// Hands out how many frames to which interfaces were not sent since the call before.
    pub fn take_refused(&mut self, sink: impl FnMut((u32, usize))) {
        self.refused.drain(..).for_each(sink);
    }

    fn drop_packets(&mut self, count: usize, reason: Reason) {
        *reason(&mut self.stats) += count as u64;
        self.flushed.dropped += count;
    }

    /// The descriptor to wait for.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Counters since the port was opened.
    #[must_use]
    pub fn stats(&self) -> AccessStats {
        self.stats
    }
}

/// Bytes by which a large frame is told to be the one that the ring marks.
const COMPARED: usize = 64;

type Reason = fn(&mut AccessStats) -> &mut u64;

fn reason(bad: BadVnetHeader) -> Reason {
    match bad {
        BadVnetHeader::UdpFragment => |stats| &mut stats.udp_fragment,
        BadVnetHeader::Checksum | BadVnetHeader::Segmentation => |stats| &mut stats.bad_vnet_header,
    }
}

fn accept(status: u32, kind: u8, length: usize) -> Result<(), Reason> {
    if status & libc::TP_STATUS_VLAN_VALID != 0 {
        return Err(|stats| &mut stats.vlan);
    }
    if kind == libc::PACKET_OUTGOING || length < vnet::ETHERNET {
        return Err(|stats| &mut stats.foreign);
    }
    Ok(())
}

/// The byte at an offset of a chain.
pub(crate) fn byte_at(mbuf: &Mbuf, at: usize) -> Option<u8> {
    if let Some(&byte) = mbuf.data().get(at) {
        return Some(byte);
    }
    let mut byte = [0];
    mbuf.copy_out(at, &mut byte).then_some(byte[0])
}

/// What `header` says of the frame in `mbuf`.
pub(crate) fn offload_of(header: VnetHeader, mbuf: &Mbuf) -> Result<dpdk::Offload, BadVnetHeader> {
    header.offload(mbuf.pkt_len(), |at| byte_at(mbuf, at))
}

/// The header of the frame in `mbuf`.
pub(crate) fn header_for(mbuf: &Mbuf) -> Result<VnetHeader, vnet::BadOffload> {
    VnetHeader::of(mbuf.offload(), mbuf.pkt_len(), |at| byte_at(mbuf, at))
}
