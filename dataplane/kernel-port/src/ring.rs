//! The mapped receive ring of a packet socket (`PACKET_RX_RING`, `TPACKET_V2`).
//!
//! A small frame costs no system call: the kernel copies it here and sets its status word; we copy it
//! into an mbuf and give the slot back. Version 2, because version 3 hands over blocks, after a timeout
//! when traffic is low.

#![allow(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "constants of the kernel's interface and lengths of fixed arrays"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::syscall;
use crate::vnet;

/// Bytes of a slot: a frame of 1500 bytes fits with everything that precedes it.
const FRAME: usize = 2048;
/// Frames of a block. 64 KB is an allocation that a fragmented host still grants.
const BLOCK_FRAMES: u32 = 32;
/// Where `sockaddr_ll` lies: behind `tpacket2_hdr`, aligned to 16.
const ADDRESS: usize = size_of::<libc::tpacket2_hdr>().next_multiple_of(16);

pub(crate) struct Ring {
    memory: NonNull<u8>,
    frames: usize,
    head: usize,
    // The mapping holds the socket's ring; the socket must not be closed before it.
    _socket: Arc<OwnedFd>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and only this value reads it.
unsafe impl Send for Ring {}

/// A frame in the ring, of which the kernel will change nothing until it is given back.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) status: u32,
    /// Bytes that the frame had on the wire.
    pub(crate) length: usize,
    /// The bytes kept of it, from its Ethernet header on.
    pub(crate) bytes: &'a [u8],
    pub(crate) header: vnet::VnetHeader,
    pub(crate) interface: u32,
    /// `PACKET_OUTGOING` and so on.
    pub(crate) kind: u8,
}

impl Ring {
    /// Maps a ring of at least `frames` frames. The socket must not be bound to a protocol yet.
    pub(crate) fn map(socket: &Arc<OwnedFd>, frames: u32) -> io::Result<Ring> {
        let blocks = frames.clamp(1, 1 << 20).div_ceil(BLOCK_FRAMES);
        let frames = blocks * BLOCK_FRAMES;
        syscall::set_option(
            socket.as_fd(),
            libc::SOL_PACKET,
            libc::PACKET_RX_RING,
            libc::tpacket_req {
                tp_block_size: BLOCK_FRAMES * FRAME as u32,
                tp_block_nr: blocks,
                tp_frame_size: FRAME as u32,
                tp_frame_nr: frames,
            },
        )?;
        let frames = frames as usize;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe {
            libc::mmap(
                null_mut(),
                frames * FRAME,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Ring {
            memory: NonNull::new(memory.cast()).ok_or(io::ErrorKind::InvalidData)?,
            frames,
            head: 0,
            _socket: Arc::clone(socket),
        })
    }

    fn slot(&self, ahead: usize) -> *mut u8 {
        let index = (self.head + ahead) % self.frames;
        // SAFETY: `index` is below `frames`, so the slot lies inside the mapping.
        unsafe { self.memory.as_ptr().add(index * FRAME) }
    }

    fn status_word(&self, ahead: usize) -> &AtomicU32 {
        // SAFETY: the status word is the first of a slot, aligned to the slot; the kernel and we
        // access it atomically and by no other way.
        unsafe { AtomicU32::from_ptr(self.slot(ahead).cast()) }
    }

    /// The status of the frame `ahead` places behind the head, when it is ours to read.
    pub(crate) fn status(&self, ahead: usize) -> Option<u32> {
        if ahead >= self.frames {
            return None;
        }
        let status = self.status_word(ahead).load(Ordering::Acquire);
        (status & libc::TP_STATUS_USER != 0).then_some(status)
    }

    /// The frame at the head, if there is one.
    pub(crate) fn front(&self) -> Option<Frame<'_>> {
        let status = self.status(0)?;
        // SAFETY: the status word was read with Acquire and gives the slot to us until `release`,
        // which needs `&mut self`; the kernel wrote all of it before.
        let slot = unsafe { std::slice::from_raw_parts(self.slot(0).cast_const(), FRAME) };
        let word =
            |at: usize| u32::from_ne_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([slot[at], slot[at + 1]]);
        let mac = usize::from(half(12));
        let bytes = slot
            .get(mac..)
            .map_or(&[][..], |rest| &rest[..rest.len().min(word(8) as usize)]);
        let mut header = [0; vnet::LEN];
        if let Some(before) = mac.checked_sub(vnet::LEN).and_then(|at| slot.get(at..mac)) {
            header.copy_from_slice(before);
        }
        Some(Frame {
            status,
            length: word(4) as usize,
            bytes,
            header: vnet::VnetHeader::from_bytes(header),
            interface: word(ADDRESS + 4),
            kind: slot[ADDRESS + 10],
        })
    }

    /// Gives the frame at the head back to the kernel.
    pub(crate) fn release(&mut self) {
        self.status_word(0)
            .store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.head = (self.head + 1) % self.frames;
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length and nothing borrows from it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.frames * FRAME) };
    }
}
