//! The listening socket: IPv6 and IPv4 on one, or IPv4 alone where the host has no IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Listens on an address; `::` is every one, of both families.
///
/// # Errors
/// The port is taken, or the address is not ours; the error says which.
pub(crate) fn listen(address: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    match bind(SocketAddr::new(address, port)) {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Err(error).with_context(|| format!("port {port} is taken; choose another with MY_PORT"))
        }
        Err(error) if address == Ipv6Addr::UNSPECIFIED => {
            tracing::info!(%error, "no IPv6 here; listening on IPv4 alone");
            bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
                .with_context(|| format!("cannot listen on port {port} (MY_PORT)"))
        }
        Err(error) => Err(error).with_context(|| {
            format!("cannot listen on {address} port {port} (MY_ADDRESS, MY_PORT)")
        }),
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
