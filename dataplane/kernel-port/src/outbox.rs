//! Messages on their way out: the arrays that `sendmmsg` reads, allocated once and filled for each burst.

#![allow(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "constants of the kernel's interface and lengths of fixed arrays"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;

use crate::syscall::Name;
use crate::vnet;

/// Parts that the kernel takes in one message (`UIO_MAXIOV`).
const PARTS_OF_MESSAGE: usize = 1024;

/// Bytes for control messages: traffic class and segment size, 24 each.
const CONTROL: usize = 48;

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// Why a message could not be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Full {
    /// The outbox: send it first.
    Outbox,
    /// The message itself: no outbox takes it.
    Message,
}

/// What belongs to a message besides its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Label {
    /// The interface it leaves by, or the index of its first packet.
    pub(crate) tag: usize,
    /// Packets in it.
    pub(crate) packets: usize,
    /// Whether it is a frame that whoever sends it must cut into segments.
    pub(crate) segmented: bool,
}

pub(crate) struct Outbox {
    messages: Box<[libc::mmsghdr]>,
    labels: Box<[Label]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    headers: Box<[[u8; vnet::LEN]]>,
    parts: Box<[libc::iovec]>,
    used_messages: usize,
    used_parts: usize,
    /// Where the parts of the message being written begin.
    first_part: usize,
}

// SAFETY: the pointers inside point into the boxes of this value, which move with it, and to bytes
// that whoever calls `send` vouches for.
unsafe impl Send for Outbox {}

impl Outbox {
    pub(crate) fn new(messages: usize) -> Self {
        // SAFETY: message headers and iovecs of zeros are valid: null pointers with lengths of 0.
        let (message, part) = unsafe {
            (
                std::mem::zeroed::<libc::mmsghdr>(),
                std::mem::zeroed::<libc::iovec>(),
            )
        };
        let label = Label {
            tag: 0,
            packets: 0,
            segmented: false,
        };
        Outbox {
            messages: vec![message; messages].into(),
            labels: vec![label; messages].into(),
            names: vec![Name::EMPTY; messages].into(),
            controls: vec![Control([0; CONTROL]); messages].into(),
            headers: vec![[0; vnet::LEN]; messages].into(),
            parts: vec![part; 2 * PARTS_OF_MESSAGE].into(),
            used_messages: 0,
            used_parts: 0,
            first_part: 0,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.used_messages = 0;
        self.used_parts = 0;
        self.first_part = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.used_messages
    }

    pub(crate) fn label(&self, index: usize) -> Label {
        self.labels[index]
    }

    /// Writes `virtio_net_hdr` as the first part of the next message.
    pub(crate) fn header(&mut self, header: vnet::VnetHeader) -> Result<(), Full> {
        let slot = self
            .headers
            .get_mut(self.used_messages)
            .ok_or(Full::Outbox)?;
        *slot = header.to_bytes();
        let (pointer, length) = (slot.as_mut_ptr(), slot.len());
        self.part(pointer, length)
    }

    /// Adds segments to the next message. On failure that message stays as it was before the call.
    ///
    /// Only their addresses are kept: see [`Outbox::send`].
    pub(crate) fn packet<'a>(
        &mut self,
        segments: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Full> {
        let before = self.used_parts;
        for segment in segments.filter(|segment| !segment.is_empty()) {
            if let Err(full) = self.part(segment.as_ptr().cast_mut(), segment.len()) {
                self.used_parts = before;
                return Err(full);
            }
        }
        Ok(())
    }

    fn part(&mut self, pointer: *mut u8, length: usize) -> Result<(), Full> {
        if self.used_messages == self.messages.len() {
            return Err(Full::Outbox);
        }
        if self.used_parts - self.first_part == PARTS_OF_MESSAGE {
            return Err(Full::Message);
        }
        let part = self.parts.get_mut(self.used_parts).ok_or(Full::Outbox)?;
        part.iov_base = pointer.cast();
        part.iov_len = length;
        self.used_parts += 1;
        Ok(())
    }

    /// Forgets what was added since the last finished message.
    pub(crate) fn abandon(&mut self) {
        self.used_parts = self.first_part;
    }

    /// Ends the message. `control` is a list of (level, type, value bytes), of at most 4 bytes each.
    pub(crate) fn finish(&mut self, name: Name, label: Label, control: &[(i32, i32, &[u8])]) {
        let index = self.used_messages;
        self.names[index] = name;
        self.labels[index] = label;
        let bytes = &mut self.controls[index].0;
        let mut used = 0;
        for (level, kind, value) in control {
            let header = &mut bytes[used..used + 24];
            header.fill(0);
            header[..8].copy_from_slice(&(16 + value.len()).to_ne_bytes());
            header[8..12].copy_from_slice(&level.to_ne_bytes());
            header[12..16].copy_from_slice(&kind.to_ne_bytes());
            header[16..16 + value.len()].copy_from_slice(value);
            used += 24;
        }
        let message = &mut self.messages[index].msg_hdr;
        message.msg_name = self.names[index].as_mut_ptr();
        message.msg_namelen = name.len();
        message.msg_iov = &raw mut self.parts[self.first_part];
        message.msg_iovlen = self.used_parts - self.first_part;
        message.msg_control = if used == 0 {
            null_mut()
        } else {
            bytes.as_mut_ptr().cast()
        };
        message.msg_controllen = used;
        self.used_messages += 1;
        self.first_part = self.used_parts;
    }

    /// Keeps of the messages from `first` on those that `keep` wants, in order.
    pub(crate) fn retain_from(&mut self, first: usize, mut keep: impl FnMut(Label, &Name) -> bool) {
        let mut to = first;
        for from in first..self.used_messages {
            if keep(self.labels[from], &self.names[from]) {
                // Names and controls stay where they are, and the headers point there. A name that
                // a later message moves down to would change place: swap, so that no slot is lost.
                self.messages.swap(to, from);
                self.labels.swap(to, from);
                if to != from {
                    self.names.swap(to, from);
                    let name = self.names[to].as_mut_ptr();
                    self.messages[to].msg_hdr.msg_name = name;
                }
                to += 1;
            }
        }
        self.used_messages = to;
    }

    /// The address of message `index`.
    pub(crate) fn name(&self, index: usize) -> Name {
        self.names[index]
    }

    /// Sends the messages from `first` on by one `sendmmsg`; how many the kernel took. An error is the
    /// first one's.
    ///
    /// # Safety
    /// The bytes of every segment added since [`Outbox::clear`] must still be there.
    pub(crate) unsafe fn send(&mut self, fd: BorrowedFd<'_>, first: usize) -> io::Result<usize> {
        let messages = &mut self.messages[first..self.used_messages];
        // SAFETY: names, controls, headers and parts belong to this value; the caller vouches for
        // what the parts point to. The kernel only reads it.
        let sent = unsafe {
            libc::sendmmsg(
                fd.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Sends message `index` alone.
    ///
    /// # Safety
    /// As for [`Outbox::send`].
    pub(crate) unsafe fn send_one(&mut self, fd: BorrowedFd<'_>, index: usize) -> io::Result<()> {
        let message = &raw const self.messages[..self.used_messages][index].msg_hdr;
        // SAFETY: as in `send`.
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), message, libc::MSG_DONTWAIT) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Writes message `index` to a TAP queue.
    ///
    /// # Safety
    /// As for [`Outbox::send`].
    pub(crate) unsafe fn write(&mut self, fd: BorrowedFd<'_>, index: usize) -> io::Result<()> {
        let message = &self.messages[..self.used_messages][index].msg_hdr;
        let parts = message.msg_iovlen as libc::c_int;
        // SAFETY: as in `send`.
        let written = unsafe { libc::writev(fd.as_raw_fd(), message.msg_iov, parts) };
        if written < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
