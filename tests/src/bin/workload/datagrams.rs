//! UDP: echoes of every size, and how many datagrams a second arrive.

use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use serde_json::{Value, json};

/// An echo that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// Datagrams handed over by one system call.
const BURST: usize = 64;

/// Sends each size once and waits for it to come back the same.
pub fn echo(target: SocketAddr, sizes: RangeInclusive<usize>, source_port: u16) -> Result<Value> {
    let socket = open(target, source_port)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut lost = Vec::new();
    let mut wrong = Vec::new();
    let mut answer = vec![0; 65536];
    for size in sizes.clone() {
        #[allow(clippy::cast_possible_truncation)]
        let question: Vec<u8> = (0..size).map(|at| (at * 7 + size) as u8).collect();
        socket
            .send(&question)
            .with_context(|| format!("sending {size} bytes"))?;
        match socket.recv(&mut answer) {
            Ok(count) if answer[..count] == question => {}
            Ok(_) => wrong.push(size),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                lost.push(size);
            }
            Err(error) => return Err(error).with_context(|| format!("the echo of {size} bytes")),
        }
        ensure!(lost.len() < 5, "five echoes are lost: {lost:?}");
    }
    Ok(json!({"sent": sizes.count(), "lost": lost, "wrong": wrong}))
}

/// Sends for a time, in bursts.
pub fn blast(target: SocketAddr, size: usize, time: Duration) -> Result<Value> {
    let socket = open(target, 0)?;
    let payload = vec![0x5a; size];
    let pieces = [[IoSlice::new(&payload)]; BURST];
    let nowhere: [Option<SockaddrStorage>; BURST] = [None; BURST];
    let mut headers = MultiHeaders::preallocate(BURST, None);
    let start = Instant::now();
    let mut sent = 0u64;
    while start.elapsed() < time {
        let burst = sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &pieces,
            nowhere,
            [],
            MsgFlags::empty(),
        );
        match burst {
            Ok(messages) => sent += messages.count() as u64,
            // The other side is not there yet, or the queue is full.
            Err(nix::errno::Errno::ECONNREFUSED | nix::errno::Errno::ENOBUFS) => {}
            Err(error) => return Err(error).context("sending"),
        }
    }
    Ok(rate("sent", sent, start.elapsed()))
}

/// Counts for a time that begins with the first datagram.
pub fn count(port: u16, time: Duration) -> Result<Value> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).context("opening the port")?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut bytes = vec![0; 65536];
    socket
        .recv(&mut bytes)
        .context("waiting for the first datagram")?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let start = Instant::now();
    let mut received = 1u64;
    while start.elapsed() < time {
        if socket.recv(&mut bytes).is_ok() {
            received += 1;
        }
    }
    Ok(rate("received", received, start.elapsed()))
}

fn open(target: SocketAddr, port: u16) -> Result<UdpSocket> {
    let any = match target.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, port)).context("opening a socket")?;
    socket
        .connect(target)
        .with_context(|| format!("no way to {target}"))?;
    Ok(socket)
}

fn rate(what: &str, count: u64, time: Duration) -> Value {
    #[allow(clippy::cast_precision_loss)]
    let per_second = count as f64 / time.as_secs_f64();
    json!({what: count, "seconds": time.as_secs_f64(), "per_second": per_second})
}
