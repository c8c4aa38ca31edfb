//! The system calls of these ports, each behind a signature that cannot be used wrongly.
//!
//! Addresses are built and parsed as bytes, so that no `sockaddr` is ever read through a cast.

#![allow(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "constants of the kernel's interface and lengths of fixed arrays"
)]

use std::ffi::{CString, c_int, c_ulong};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::filter::Instruction;

/// Bytes of the largest address used here, `sockaddr_in6`.
pub(crate) const NAME_LEN: usize = 28;

/// A socket address as the kernel reads it.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Name {
    bytes: [u8; NAME_LEN],
    len: u32,
}

impl Name {
    pub(crate) const EMPTY: Name = Name {
        bytes: [0; NAME_LEN],
        len: 0,
    };

    fn put(&mut self, bytes: &[u8]) {
        let at = self.len as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        // NAME_LEN bytes at most.
        self.len += bytes.len() as u32;
    }

    /// `sockaddr_ll`. `protocol` in network byte order, as in a frame.
    pub(crate) fn interface(protocol: [u8; 2], interface: u32) -> Name {
        let mut name = Name::EMPTY;
        name.put(&(libc::AF_PACKET as u16).to_ne_bytes());
        name.put(&protocol);
        name.put(&interface.to_ne_bytes());
        name.put(&[0; 12]);
        name
    }

    pub(crate) fn v4(address: SocketAddrV4) -> Name {
        let mut name = Name::EMPTY;
        name.put(&(libc::AF_INET as u16).to_ne_bytes());
        name.put(&address.port().to_be_bytes());
        name.put(&address.ip().octets());
        name.put(&[0; 8]);
        name
    }

    pub(crate) fn v6(address: SocketAddrV6) -> Name {
        let mut name = Name::EMPTY;
        name.put(&(libc::AF_INET6 as u16).to_ne_bytes());
        name.put(&address.port().to_be_bytes());
        name.put(&address.flowinfo().to_ne_bytes());
        name.put(&address.ip().octets());
        name.put(&address.scope_id().to_ne_bytes());
        name
    }

    pub(crate) fn of(address: SocketAddr) -> Name {
        match address {
            SocketAddr::V4(address) => Name::v4(address),
            SocketAddr::V6(address) => Name::v6(address),
        }
    }

    /// The Internet address that the kernel wrote here.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let b = &self.bytes;
        let port = u16::from_be_bytes([b[2], b[3]]);
        match c_int::from(u16::from_ne_bytes([b[0], b[1]])) {
            libc::AF_INET => {
                let ip = Ipv4Addr::new(b[4], b[5], b[6], b[7]);
                Some(SocketAddrV4::new(ip, port).into())
            }
            libc::AF_INET6 => {
                let mut ip = [0; 16];
                ip.copy_from_slice(&b[8..24]);
                let scope = u32::from_ne_bytes([b[24], b[25], b[26], b[27]]);
                Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into())
            }
            _ => None,
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.bytes.as_mut_ptr().cast()
    }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A non-blocking socket that children do not inherit.
pub(crate) fn socket(domain: c_int, kind: c_int) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::socket(domain, kind, 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Marks structures that the kernel may read as they are.
pub(crate) trait Plain: Copy {}
impl Plain for c_int {}
impl Plain for libc::tpacket_req {}

pub(crate) fn set_option<T: Plain>(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: T,
) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` lives through the call and `length` is its size.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    check(result).map(drop)
}

/// Hands a program to an option that takes a `struct sock_fprog`.
pub(crate) fn set_program(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    program: &[Instruction],
) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: `Instruction` is laid out as `sock_filter`; the kernel reads `len` of them and no more.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const program).cast(),
            length,
        )
    };
    check(result).map(drop)
}

/// Reads an option made of 32-bit words; the words past its end are 0.
pub(crate) fn option<const N: usize>(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
) -> io::Result<[u32; N]> {
    let mut words = [0_u32; N];
    let mut length = size_of::<[u32; N]>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `words`, which takes any bits.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            words.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    check(result).map(|_| words)
}

pub(crate) fn bind(fd: BorrowedFd<'_>, mut name: Name) -> io::Result<()> {
    let length = name.len();
    // SAFETY: `name` holds `length` bytes.
    let result = unsafe { libc::bind(fd.as_raw_fd(), name.as_mut_ptr().cast(), length) };
    check(result).map(drop)
}

/// The Internet address that a socket is bound to.
pub(crate) fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let mut name = Name::EMPTY;
    let mut length = NAME_LEN as libc::socklen_t;
    // SAFETY: `name` has room for `length` bytes.
    let result =
        unsafe { libc::getsockname(fd.as_raw_fd(), name.as_mut_ptr().cast(), &raw mut length) };
    check(result)?;
    name.address()
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Takes the oldest error from a socket's error queue (`IP_RECVERR`): where the datagram went that it is about, and
/// its number.
pub(crate) fn take_error(fd: BorrowedFd<'_>) -> Option<(Option<SocketAddr>, c_int)> {
    #[repr(C, align(8))]
    struct Control([u8; 128]);
    let mut name = Name::EMPTY;
    let mut control = Control([0; 128]);
    // SAFETY: a header of zeros is valid: null pointers with lengths of 0.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = name.as_mut_ptr();
    message.msg_namelen = NAME_LEN as libc::socklen_t;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: name and control have room for what their lengths say; of the datagram nothing is wanted.
    let result = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) };
    if result < 0 {
        return None;
    }
    let filled = message.msg_controllen.min(control.0.len());
    Some((name.address(), reported(&control.0[..filled]).unwrap_or(0)))
}

/// The error number in the control messages of an error queue's entry: `ee_errno`, the first word of a
/// `struct sock_extended_err`.
fn reported(mut bytes: &[u8]) -> Option<c_int> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let word = |bytes: &[u8]| bytes.first_chunk().map(|b| c_int::from_ne_bytes(*b));
    loop {
        let header = bytes.first_chunk::<HEADER>()?;
        let mut length = [0; size_of::<usize>()];
        length.copy_from_slice(&header[..size_of::<usize>()]);
        let length = usize::from_ne_bytes(length);
        let data = bytes.get(HEADER..length)?;
        match (word(&header[8..])?, word(&header[12..])?) {
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                return word(data);
            }
            _ => bytes = bytes.get(length.next_multiple_of(8)..)?,
        }
    }
}

/// What the kernel knows of the path that a connected socket's packets take: the longest IP packet in one piece.
pub(crate) fn path_mtu(fd: BorrowedFd<'_>, v6: bool) -> io::Result<u32> {
    let (level, name) = match v6 {
        true => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
        false => (libc::IPPROTO_IP, libc::IP_MTU),
    };
    option::<1>(fd, level, name).map(|[mtu]| mtu)
}

/// Throws away the packet that waits first. False when none waits.
pub(crate) fn discard(fd: BorrowedFd<'_>) -> bool {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    let mut byte = 0_u8;
    // SAFETY: room for one byte is passed, and its length.
    let result = unsafe { libc::recv(fd.as_raw_fd(), (&raw mut byte).cast(), 1, flags) };
    result >= 0
}

/// A TAP queue, or a TUN, of the interface `name`; also what the kernel made of its flags.
pub(crate) fn attach_tap(fd: BorrowedFd<'_>, name: &str, flags: c_int) -> io::Result<()> {
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_flags = i16::from_ne_bytes((flags as u16).to_ne_bytes());
    // SAFETY: the kernel reads and writes one `ifreq`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) }).map(drop)
}

/// An ioctl whose argument is a number.
pub(crate) fn set_number(fd: BorrowedFd<'_>, request: TapNumber) -> io::Result<()> {
    match request {
        TapNumber::Offload(offload) => {
            // SAFETY: the argument is no pointer.
            check(unsafe {
                libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, c_ulong::from(offload))
            })
        }
        TapNumber::Persistent => {
            // SAFETY: the argument is no pointer.
            check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST, c_ulong::from(1_u32)) })
        }
        TapNumber::HeaderLen => {
            let len = crate::vnet::LEN as c_int;
            // SAFETY: the kernel reads one int.
            check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })
        }
    }
    .map(drop)
}

/// TAP settings that are numbers.
#[derive(Clone, Copy)]
pub(crate) enum TapNumber {
    Offload(u32),
    HeaderLen,
    /// It stays when its queues are closed.
    Persistent,
}

/// The Ethernet address of the TAP behind a descriptor.
pub(crate) fn tap_mac(fd: BorrowedFd<'_>, name: &str) -> io::Result<[u8; 6]> {
    let mut request = interface_request(name)?;
    // SAFETY: the kernel reads and writes one `ifreq`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) })?;
    // SAFETY: SIOCGIFHWADDR wrote `ifru_hwaddr`; all of the union was initialised before.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    let mut mac = [0; 6];
    for (byte, &from) in mac.iter_mut().zip(&address.sa_data) {
        *byte = from.to_ne_bytes()[0];
    }
    Ok(mac)
}

fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an `ifreq` of zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

/// Gives the TAP of that name an Ethernet address.
pub(crate) fn set_tap_mac(fd: BorrowedFd<'_>, name: &str, mac: [u8; 6]) -> io::Result<()> {
    let mut request = interface_request(name)?;
    // SAFETY: an address of zeros is valid.
    let mut address: libc::sockaddr = unsafe { std::mem::zeroed() };
    address.sa_family = libc::ARPHRD_ETHER;
    for (to, from) in address.sa_data.iter_mut().zip(mac) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_hwaddr = address;
    // SAFETY: the kernel reads one `ifreq`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFHWADDR, &raw const request) }).map(drop)
}

/// A file in memory.
pub(crate) fn memory_file(name: &str) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    // SAFETY: `name` is a C string.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Another descriptor of the same file.
pub(crate) fn duplicate(number: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; a number that is not open is an error.
    let fd = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches an XDP program to an interface so that it stays, or takes it off (rtnetlink(7), `IFLA_XDP`).
pub(crate) fn set_xdp(interface: u32, program: Option<BorrowedFd<'_>>) -> io::Result<()> {
    const IFLA_XDP: u16 = 43 | libc::NLA_F_NESTED as u16;
    const IFLA_XDP_FD: u16 = 1;
    const LEN: u32 = 16 + 16 + 4 + 8;
    let mut message = Vec::new();
    for word in [LEN, u32::from(libc::RTM_SETLINK) | (0x5 << 16), 1, 0] {
        message.extend(word.to_ne_bytes());
    }
    for word in [0, interface, 0, 0] {
        message.extend(word.to_ne_bytes());
    }
    for (length, kind) in [(12_u16, IFLA_XDP), (8, IFLA_XDP_FD)] {
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
    }
    message.extend(program.map_or(-1, |fd| fd.as_raw_fd()).to_ne_bytes());
    // SAFETY: no memory is passed.
    let fd = check(unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_ROUTE,
        )
    })?;
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut answer = [0_u8; 512];
    // SAFETY: each buffer is passed with its length.
    let got = unsafe {
        let sent = libc::send(
            socket.as_raw_fd(),
            message.as_ptr().cast(),
            message.len(),
            0,
        );
        check(sent as c_int)?;
        check(libc::recv(
            socket.as_raw_fd(),
            answer.as_mut_ptr().cast(),
            answer.len(),
            0,
        ) as c_int)?
    };
    // An acknowledgement: a header, and an error number, negative.
    let error = answer.get(16..20).and_then(|bytes| bytes.first_chunk());
    match error.map(|bytes| c_int::from_ne_bytes(*bytes)) {
        Some(0) if got >= 20 => Ok(()),
        Some(error) if got >= 20 => Err(io::Error::from_raw_os_error(-error)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Attaches an XDP program to an interface for as long as the answer is open (bpf(2), `BPF_LINK_CREATE`).
pub(crate) fn link_xdp(interface: u32, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: c_int = 28;
    const BPF_XDP: u32 = 37;
    let program = u32::try_from(program.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let attributes = [program, interface, BPF_XDP, 0];
    // SAFETY: the kernel reads as many bytes as are said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_CREATE,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    let fd = check(c_int::try_from(result).unwrap_or(-1))?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The index of an interface in the calling thread's network namespace.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: `name` is a C string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

pub(crate) fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn event() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds to an eventfd. Fails only when it is signalled 2^64 times already.
pub(crate) fn event_put(fd: BorrowedFd<'_>) {
    let one = 1_u64;
    // SAFETY: 8 bytes are passed, and their number.
    unsafe { libc::write(fd.as_raw_fd(), (&raw const one).cast(), 8) };
}

/// Sets an eventfd back.
pub(crate) fn event_take(fd: BorrowedFd<'_>) {
    let mut count = 0_u64;
    // SAFETY: room for 8 bytes is passed, and their number.
    unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast(), 8) };
}

/// `waker` marks the descriptor that [`epoll_wait`] reports apart.
pub(crate) fn epoll_add(epoll: BorrowedFd<'_>, fd: BorrowedFd<'_>, waker: bool) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        u64: u64::from(waker),
    };
    // SAFETY: the kernel reads one event.
    let result = unsafe {
        libc::epoll_ctl(
            epoll.as_raw_fd(),
            libc::EPOLL_CTL_ADD,
            fd.as_raw_fd(),
            &raw mut event,
        )
    };
    check(result).map(drop)
}

pub(crate) fn epoll_remove(epoll: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the event is not read.
    let result = unsafe {
        libc::epoll_ctl(
            epoll.as_raw_fd(),
            libc::EPOLL_CTL_DEL,
            fd.as_raw_fd(),
            std::ptr::null_mut(),
        )
    };
    check(result).map(drop)
}

pub(crate) fn epoll_wait(
    epoll: BorrowedFd<'_>,
    timeout: Option<Duration>,
) -> io::Result<crate::Woken> {
    const EVENTS: usize = 16;
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    let result =
        wait_precisely(epoll, &mut events, timeout).or_else(|error| match error.raw_os_error() {
            Some(libc::ENOSYS) => wait_coarsely(epoll, &mut events, timeout),
            _ => Err(error),
        });
    let count = match result {
        Ok(count) => usize::try_from(count).unwrap_or(0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
        Err(error) => return Err(error),
    };
    let mut woken = crate::Woken::default();
    for event in &events[..count.min(EVENTS)] {
        if { event.u64 } == 1 {
            woken.woken = true;
        } else {
            woken.ready = true;
        }
    }
    Ok(woken)
}

fn wait_precisely(
    epoll: BorrowedFd<'_>,
    events: &mut [libc::epoll_event],
    timeout: Option<Duration>,
) -> io::Result<c_int> {
    let limit = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the events and their number belong together, `limit` is null or a time; no signal mask.
    let result = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll.as_raw_fd(),
            events.as_mut_ptr(),
            events.len() as c_int,
            limit,
            std::ptr::null::<libc::sigset_t>(),
            0_usize,
        )
    };
    check(c_int::try_from(result).unwrap_or(-1))
}

/// For kernels before 5.11: rounded up, so that a short wait does not become a busy loop.
fn wait_coarsely(
    epoll: BorrowedFd<'_>,
    events: &mut [libc::epoll_event],
    timeout: Option<Duration>,
) -> io::Result<c_int> {
    let milliseconds = timeout.map_or(-1, |timeout| {
        let rounded = timeout.as_nanos().div_ceil(1_000_000);
        c_int::try_from(rounded).unwrap_or(c_int::MAX)
    });
    // SAFETY: the events and their number belong together.
    check(unsafe {
        libc::epoll_wait(
            epoll.as_raw_fd(),
            events.as_mut_ptr(),
            events.len() as c_int,
            milliseconds,
        )
    })
}
