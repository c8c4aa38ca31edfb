//! UDP echoes: of every size, and how long they take.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// An echo that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(2);

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

/// Round trips of datagrams of `size` bytes for a time, one after the other, with a pause between: each echo must be what
/// was sent.
pub fn round_trips(
    target: SocketAddr,
    size: usize,
    time: Duration,
    pause: Duration,
) -> Result<Value> {
    ensure!(size >= 8, "a numbered datagram has 8 bytes at least");
    let socket = open(target, 0)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut times = Vec::new();
    let (mut lost, mut number) = (0u64, 0u64);
    let mut question = vec![0x5a; size];
    let mut answer = vec![0; size + 1];
    let start = Instant::now();
    while start.elapsed() < time {
        std::thread::sleep(pause);
        question[..8].copy_from_slice(&number.to_be_bytes());
        number += 1;
        let sent = Instant::now();
        socket.send(&question).context("sending")?;
        loop {
            match socket.recv(&mut answer) {
                Ok(count) if answer[..count] == question => {
                    times.push(sent.elapsed());
                    break;
                }
                // One that was given up comes after all.
                Ok(count)
                    if count == size
                        && answer[8..count] == question[8..]
                        && answer[..8] < question[..8] => {}
                Ok(_) => anyhow::bail!("an echo is not what was sent"),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    lost += 1;
                    break;
                }
                Err(error) => return Err(error).context("receiving an echo"),
            }
        }
    }
    times.sort_unstable();
    let at = |percent: usize| {
        let place = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(place).map(|time| time.as_nanos() as f64 / 1000.0)
    };
    let most = times.last().map(|time| time.as_nanos() as f64 / 1000.0);
    Ok(
        json!({"answered": times.len(), "lost": lost, "p50_us": at(50), "p90_us": at(90), "p99_us": at(99),
        "max_us": most}),
    )
}

/// A datagram socket to `target` from `port`; 0 takes a free one.
pub fn open(target: SocketAddr, port: u16) -> Result<UdpSocket> {
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
