//! Where packets land: a small and a large mbuf for each that may arrive by one system call.
//!
//! The scatter `[virtio_net_hdr][small][large]` puts headers into a small mbuf whatever comes, and costs
//! a large one only when a packet needs it: unused mbufs stay for the next call.

#![allow(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "constants of the kernel's interface and lengths of fixed arrays"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;

use dpdk::Mbuf;

use crate::syscall::{NAME_LEN, Name};
use crate::{KernelPortError, Pools, vnet};

/// Packets by one system call. Each may be 64 KB long, so that more would cost memory, not gain time.
pub(crate) const LANDINGS: usize = 16;

/// Of long packets, as many by one system call as a core's second-level cache holds beside everything else: what has
/// been copied here is read again at once, for its checksums and to send it on, and from there it is read fastest.
pub(crate) const LONG_LANDINGS: usize = 4;

const HEADROOM: usize = dpdk::HEADROOM as usize;

/// Bytes for control messages of one packet: traffic class and GRO size, 24 each.
const CONTROL: usize = 64;

/// What a call brought.
pub(crate) enum Landed {
    /// This many packets, from index 0.
    Packets(usize),
    /// Nothing waits.
    Nothing,
    /// The small or the large mempool is empty; what waits still waits.
    NoMbuf,
    /// The kernel refused. What it had is gone, if it had something.
    Failed,
}

#[derive(Default)]
struct Landing {
    small: Option<Mbuf>,
    large: Option<Mbuf>,
    small_room: usize,
    /// Its message points at its mbufs, and nothing was received into it.
    ready: bool,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// What the control messages of a datagram say.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Details {
    /// Traffic class or type of service, with ECN.
    pub(crate) tos: u8,
    /// Bytes of each datagram when the kernel put several together.
    pub(crate) coalesced: Option<usize>,
}

pub(crate) struct Landings {
    pools: Pools,
    slots: [Landing; LANDINGS],
    messages: Box<[libc::mmsghdr; LANDINGS]>,
    scatters: Box<[[libc::iovec; 3]; LANDINGS]>,
    names: Box<[Name; LANDINGS]>,
    controls: Box<[Control; LANDINGS]>,
    headers: Box<[[u8; vnet::LEN]; LANDINGS]>,
}

// SAFETY: the pointers inside point into the boxes and mbufs of this value, which move with it.
unsafe impl Send for Landings {}

impl Landings {
    pub(crate) fn new(pools: &Pools) -> Result<Self, KernelPortError> {
        let small = pools.small.data_room();
        let large = pools.large.data_room();
        if small < 2048 + HEADROOM {
            return Err(KernelPortError::SmallDataRoom {
                pool: "small",
                found: small,
                needed: 2048 + HEADROOM,
            });
        }
        if large + small < 65535 + vnet::ETHERNET + 2 * HEADROOM {
            return Err(KernelPortError::SmallDataRoom {
                pool: "large",
                found: large,
                needed: 65535,
            });
        }
        // SAFETY: message headers and iovecs of zeros are valid: null pointers with lengths of 0.
        let (message, scatter) = unsafe {
            (
                std::mem::zeroed::<libc::mmsghdr>(),
                std::mem::zeroed::<libc::iovec>(),
            )
        };
        Ok(Landings {
            pools: pools.clone(),
            slots: std::array::from_fn(|_| Landing::default()),
            messages: Box::new([message; LANDINGS]),
            scatters: Box::new([[scatter; 3]; LANDINGS]),
            names: Box::new([Name::EMPTY; LANDINGS]),
            controls: Box::new([Control([0; CONTROL]); LANDINGS]),
            headers: Box::new([[0; vnet::LEN]; LANDINGS]),
        })
    }

    pub(crate) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Gets mbufs for the first `wanted` places; how many have them.
    fn prepare(&mut self, wanted: usize, with_header: bool) -> usize {
        for (index, slot) in self.slots.iter_mut().enumerate().take(wanted) {
            // Where nothing came, everything is as it was: each port asks in one way only.
            if slot.ready {
                continue;
            }
            if slot.small.is_none() {
                slot.small = self.pools.small.alloc();
            }
            if slot.large.is_none() {
                slot.large = self.pools.large.alloc();
            }
            let (Some(small), Some(large)) = (&mut slot.small, &mut slot.large) else {
                return index;
            };
            let (small, large) = (small.spare_mut(), large.spare_mut());
            slot.small_room = small.len();
            let scatter = &mut self.scatters[index];
            let header = &mut self.headers[index];
            scatter[0].iov_base = header.as_mut_ptr().cast();
            scatter[0].iov_len = header.len();
            scatter[1].iov_base = small.as_mut_ptr().cast();
            scatter[1].iov_len = small.len();
            scatter[2].iov_base = large.as_mut_ptr().cast();
            scatter[2].iov_len = large.len();
            let first = if with_header { 0 } else { 1 };
            let message = &mut self.messages[index].msg_hdr;
            message.msg_iov = (&raw mut scatter[first]).cast();
            message.msg_iovlen = 3 - first;
            message.msg_flags = 0;
            if with_header {
                message.msg_name = null_mut();
                message.msg_namelen = 0;
                message.msg_control = null_mut();
                message.msg_controllen = 0;
            } else {
                message.msg_name = self.names[index].as_mut_ptr();
                message.msg_namelen = NAME_LEN as u32;
                message.msg_control = self.controls[index].0.as_mut_ptr().cast();
                message.msg_controllen = CONTROL;
            }
            slot.ready = true;
        }
        wanted
    }

    /// Receives up to `wanted` packets (at most [`LANDINGS`]) by one `recvmmsg`: with
    /// `virtio_net_hdr` in front, or with address and control messages.
    pub(crate) fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        wanted: usize,
        with_header: bool,
    ) -> Landed {
        let ready = self.prepare(wanted.min(LANDINGS), with_header);
        if ready == 0 {
            return Landed::NoMbuf;
        }
        // SAFETY: the first `ready` messages were just pointed at memory that this value owns and
        // nobody else uses: headers, names, controls, and the rooms of mbufs in `slots`.
        let received = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.messages.as_mut_ptr(),
                ready as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                null_mut(),
            )
        };
        match usize::try_from(received) {
            Ok(0) => Landed::Nothing,
            Ok(count) => {
                self.used(count);
                Landed::Packets(count)
            }
            Err(_) => self.failure(),
        }
    }

    /// The first `count` messages must be prepared anew.
    fn used(&mut self, count: usize) {
        for slot in self.slots.iter_mut().take(count) {
            slot.ready = false;
        }
    }

    fn failure(&mut self) -> Landed {
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN) => Landed::Nothing,
            _ => {
                self.used(1);
                Landed::Failed
            }
        }
    }

    /// Reads one packet of a TAP queue, with `virtio_net_hdr` in front.
    pub(crate) fn read(&mut self, fd: BorrowedFd<'_>) -> Landed {
        if self.prepare(1, true) == 0 {
            return Landed::NoMbuf;
        }
        // SAFETY: as in `receive`, for the first place.
        let read = unsafe { libc::readv(fd.as_raw_fd(), self.scatters[0].as_ptr(), 3) };
        match u32::try_from(read) {
            Ok(length) => {
                self.used(1);
                self.messages[0].msg_len = length;
                self.messages[0].msg_hdr.msg_flags = 0;
                Landed::Packets(1)
            }
            Err(_) => self.failure(),
        }
    }

    /// Bytes of packet `index`, `virtio_net_hdr` included where there is one.
    pub(crate) fn length(&self, index: usize) -> usize {
        self.messages[index].msg_len as usize
    }

    /// Whether packet `index` was longer than both mbufs.
    pub(crate) fn truncated(&self, index: usize) -> bool {
        self.messages[index].msg_hdr.msg_flags & libc::MSG_TRUNC != 0
    }

    /// The sender of packet `index`.
    pub(crate) fn sender(&self, index: usize) -> Option<std::net::SocketAddr> {
        self.names[index].address()
    }

    /// The `virtio_net_hdr` of packet `index`.
    pub(crate) fn header(&self, index: usize) -> vnet::VnetHeader {
        vnet::VnetHeader::from_bytes(self.headers[index])
    }

    /// The first bytes of packet `index`, which was received and not yet taken.
    pub(crate) fn start(&mut self, index: usize, length: usize) -> &[u8] {
        match &mut self.slots[index].small {
            Some(small) => {
                let room = small.spare_mut();
                let length = length.min(room.len());
                &room[..length]
            }
            None => &[],
        }
    }

    /// Packet `index` of `length` bytes as an mbuf chain. `None` if it was taken already.
    pub(crate) fn take(&mut self, index: usize, length: usize) -> Option<Mbuf> {
        let slot = &mut self.slots[index];
        let mut small = slot.small.take()?;
        let first = length.min(slot.small_room);
        if !small.set_len(first) {
            return None;
        }
        if length > first {
            let mut large = slot.large.take()?;
            if !large.set_len(length - first) || small.push_segment(large).is_err() {
                return None;
            }
        }
        Some(small)
    }

    /// What came with datagram `index`.
    pub(crate) fn details(&self, index: usize) -> Details {
        let message = &self.messages[index].msg_hdr;
        let length = message.msg_controllen.min(CONTROL);
        parse_control(&self.controls[index].0[..length])
    }
}

/// Walks `struct cmsghdr`s: a length of 8 bytes (header included), level and type of 4, the data, and
/// padding to 8.
fn parse_control(mut bytes: &[u8]) -> Details {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let word = |bytes: &[u8]| bytes.first_chunk().map(|b| i32::from_ne_bytes(*b));
    let mut details = Details::default();
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let mut length = [0; 8];
        length.copy_from_slice(&header[..8]);
        let length = usize::from_ne_bytes(length);
        let Some(data) = bytes.get(HEADER..length) else {
            break;
        };
        match (word(&header[8..]), word(&header[12..])) {
            (Some(libc::SOL_UDP), Some(libc::UDP_GRO)) => {
                details.coalesced = word(data).and_then(|size| usize::try_from(size).ok());
            }
            (Some(libc::IPPROTO_IP), Some(libc::IP_TOS)) => {
                details.tos = data.first().copied().unwrap_or(0);
            }
            (Some(libc::IPPROTO_IPV6), Some(libc::IPV6_TCLASS)) => {
                details.tos = word(data).map_or(0, |class| class.to_le_bytes()[0]);
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(8)..).unwrap_or(&[]);
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn control_messages_are_read_in_any_order() {
        let gro = message(17, 104, &1400_i32.to_ne_bytes());
        let tos = message(0, 1, &[0xb9]);
        let class = message(41, 67, &0x2e_i32.to_ne_bytes());
        let other = message(1, 40, &[1, 2, 3, 4]);
        let expected = Details {
            tos: 0xb9,
            coalesced: Some(1400),
        };
        let first = [gro.clone(), tos.clone()].concat();
        assert_eq!(parse_control(&first), expected);
        assert_eq!(parse_control(&[tos, other, gro].concat()), expected);
        assert_eq!(parse_control(&class).tos, 0x2e);
        assert_eq!(parse_control(&[]), Details::default());
    }

    #[test]
    fn damaged_control_messages_end_the_walk() {
        for length in [0_usize, 15, 16, 17, 200, usize::MAX, usize::MAX - 3] {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend([0; 24]);
            assert_eq!(parse_control(&bytes), Details::default());
        }
    }
}
