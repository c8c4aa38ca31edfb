//! The floor: what a TUN device and a UDP socket carry with one system call per packet, translating as we do.
//!
//! A node's containers reach it by the kernel's routes: Service and Instance IPs lead into the TUN, containers' own
//! addresses to their bridge. One thread reads the TUN and sends, another receives and writes the TUN; neither gathers
//! packets. It is a peer for the benchmarks and knows only what its arguments say.

#![forbid(unsafe_code)]

mod translation;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result};
use clap::Parser;

use translation::{Instance, Onward, Table};

/// Room for the largest packet.
const ROOM: usize = 65_536;

/// Carries packets between containers, one by one.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The TUN device
    #[arg(long)]
    tun: String,
    /// Where other nodes send to
    #[arg(long)]
    listen: SocketAddr,
    /// A Service IP and its instance: SERVICE=INSTANCE
    #[arg(long = "service", value_parser = service)]
    services: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// An Instance IP, its container, and the node's address if that is another one: INSTANCE=CONTAINER[@ADDRESS:PORT]
    #[arg(long = "instance", value_parser = instance)]
    instances: Vec<(Ipv4Addr, Instance)>,
}

fn service(text: &str) -> Result<(Ipv4Addr, Ipv4Addr), String> {
    let wrong = |_| format!("SERVICE=INSTANCE is wanted, not {text:?}");
    let (service, instance) = text.split_once('=').ok_or(()).map_err(wrong)?;
    let address = |text: &str| text.parse().map_err(|_| ()).map_err(wrong);
    Ok((address(service)?, address(instance)?))
}

fn instance(text: &str) -> Result<(Ipv4Addr, Instance), String> {
    let wrong = |()| format!("INSTANCE=CONTAINER[@ADDRESS:PORT] is wanted, not {text:?}");
    let (name, rest) = text.split_once('=').ok_or(()).map_err(wrong)?;
    let (container, node) = match rest.split_once('@') {
        Some((container, node)) => (
            container,
            Some(node.parse().map_err(|_| ()).map_err(wrong)?),
        ),
        None => (rest, None),
    };
    let address = |text: &str| text.parse().map_err(|_| ()).map_err(wrong);
    let container = address(container)?;
    Ok((address(name)?, Instance { container, node }))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let tun = kernel_port::tun::open(&arguments.tun)?;
    let socket = UdpSocket::bind(arguments.listen)
        .with_context(|| format!("binding the tunnel port {}", arguments.listen))?;
    let table = Table::new(arguments.services, arguments.instances);
    std::thread::scope(|scope| {
        let outbound = scope.spawn(|| outbound(&tun, &socket, &table));
        let inbound = inbound(&tun, &socket, &table);
        // Neither ends but by a failure.
        inbound.and(outbound.join().unwrap_or(Ok(())))
    })
}

/// From the TUN to other nodes, and to other containers here.
fn outbound(mut tun: &File, socket: &UdpSocket, table: &Table) -> Result<()> {
    let mut room = vec![0; ROOM];
    loop {
        let length = tun.read(&mut room).context("reading the TUN")?;
        let packet = room.get_mut(..length).unwrap_or_default();
        // What cannot be sent now is lost, as on any cable.
        let _ = match table.leaving(packet) {
            Some(Onward::Here) => tun.write(packet),
            Some(Onward::To(node)) => socket.send_to(packet, node),
            None => continue,
        };
    }
}

/// From other nodes to the TUN.
fn inbound(mut tun: &File, socket: &UdpSocket, table: &Table) -> Result<()> {
    let mut room = vec![0; ROOM];
    loop {
        // An error here is a peer's ICMP.
        let Ok((length, _)) = socket.recv_from(&mut room) else {
            continue;
        };
        let packet = room.get_mut(..length).unwrap_or_default();
        if table.arriving(packet).is_some() {
            let _ = tun.write(packet);
        }
    }
}
