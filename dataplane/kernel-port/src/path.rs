//! What the kernel knows of the path to a host.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use crate::syscall;

/// The longest IP packet, in bytes, that reaches `host` in one piece as far as the kernel knows: by the route, its
/// interface, and what ICMP has said. Looked up from the calling thread's network namespace; nothing is sent.
///
/// # Errors
/// The kernel's: there is no route.
pub fn path_mtu(host: IpAddr) -> io::Result<u16> {
    let any: IpAddr = match host {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    // The discard port; connecting sends nothing.
    socket.connect(SocketAddr::new(host, 9))?;
    let mtu = syscall::path_mtu(socket.as_fd(), host.is_ipv6())?;
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}
