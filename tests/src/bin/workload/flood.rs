//! Small datagrams as fast as they go, and what arrives of them.
//!
//! Each datagram says who sent it and its number, and the rest of it follows from that number: one that comes changed,
//! or where another was to come, is found out by the receiver, however fast they are.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt, sockopt,
};
use serde_json::{Value, json};

use crate::bulk::Source;
use crate::datagrams::open;

/// Datagrams handed over by one system call, at most.
const BURST: usize = 64;
/// Bytes of a datagram that say which it is: its number, then the tag of its run and its sender, big endian.
const LABEL: usize = 12;
/// The longest datagram.
const LONGEST: usize = 1400;
/// The rest of a datagram begins at one of so many places of the pattern.
const PLACES: u64 = 1024;
/// Senders that a receiver tells apart.
const SENDERS: usize = 1024;
/// Until so long after the first datagram nothing is counted: queues fill, flows are set up.
const WARM_UP: Duration = Duration::from_millis(300);

/// What to send.
pub struct Blast {
    /// Where to.
    pub target: SocketAddr,
    /// Bytes in each datagram.
    pub size: usize,
    /// For how long.
    pub time: Duration,
    /// Datagrams a second; 0 for as many as go.
    pub rate: u64,
    /// Datagrams handed over by one system call.
    pub burst: usize,
    /// Tells this run's datagrams from those of one before that are still under way.
    pub tag: u16,
    /// A sender in the network namespace of each of these processes; none for senders here.
    pub inside: Vec<u32>,
    /// Senders here, each a flow of its own.
    pub flows: u16,
}

/// Sends for a time, in bursts, from each sender in turn.
pub fn blast(plan: &Blast) -> Result<Value> {
    ensure!(
        (LABEL..=LONGEST).contains(&plan.size),
        "a datagram has {LABEL} to {LONGEST} bytes"
    );
    ensure!(
        (1..=BURST).contains(&plan.burst),
        "a burst has 1 to {BURST} datagrams"
    );
    let mut sockets = Vec::new();
    for &pid in &plan.inside {
        sockets.push(open_inside(pid, plan.target)?);
    }
    if sockets.is_empty() {
        ensure!(
            (1..=SENDERS).contains(&usize::from(plan.flows)),
            "there may be 1 to {SENDERS} flows"
        );
        for _ in 0..plan.flows {
            sockets.push(open(plan.target, 0)?);
        }
    }
    let pattern = pattern();
    let mut senders: Vec<(UdpSocket, u32, u64)> = sockets
        .into_iter()
        .zip(u32::from(plan.tag) << 16..)
        .map(|(socket, sender)| (socket, sender, 0))
        .collect();
    let mut buffers = [[0; LONGEST]; BURST];
    let nowhere: [Option<SockaddrStorage>; BURST] = [None; BURST];
    let mut headers = MultiHeaders::preallocate(BURST, None);
    let start = Instant::now();
    let mut sent = 0u64;
    'all: loop {
        for (socket, sender, number) in &mut senders {
            let elapsed = start.elapsed();
            if elapsed >= plan.time {
                break 'all;
            }
            if plan.rate > 0 {
                pace(start, sent, plan.rate);
            }
            for (buffer, at) in buffers[..plan.burst].iter_mut().zip(*number..) {
                fill(&mut buffer[..plan.size], *sender, at, &pattern);
            }
            let pieces: [[IoSlice<'_>; 1]; BURST] =
                std::array::from_fn(|n| [IoSlice::new(&buffers[n][..plan.size])]);
            let burst = sendmmsg(
                socket.as_raw_fd(),
                &mut headers,
                &pieces[..plan.burst],
                nowhere,
                [],
                MsgFlags::empty(),
            );
            match burst {
                Ok(messages) => {
                    let count = messages.count() as u64;
                    *number += count;
                    sent += count;
                }
                // The other side is not there yet, or the queue is full.
                Err(Errno::ECONNREFUSED | Errno::ENOBUFS) => {}
                Err(error) => return Err(error).context("sending"),
            }
        }
    }
    Ok(rate("sent", sent, start.elapsed()))
}

/// Sleeps until `sent` datagrams are no more than `rate` a second allows.
fn pace(start: Instant, sent: u64, rate: u64) {
    let due = Duration::from_nanos(sent.saturating_mul(1_000_000_000) / rate);
    if let Some(early) = due.checked_sub(start.elapsed()) {
        std::thread::sleep(early);
    }
}

/// A socket in the network namespace of a process. A socket stays where it was made, so a thread goes there for it.
fn open_inside(pid: u32, target: SocketAddr) -> Result<UdpSocket> {
    let inside = move || -> Result<UdpSocket> {
        let file = std::fs::File::open(format!("/proc/{pid}/ns/net"))
            .with_context(|| format!("there is no process {pid}"))?;
        setns(file, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
        open(target, 0)
    };
    std::thread::spawn(inside)
        .join()
        .map_err(|_| anyhow!("the thread inside panicked"))?
}

fn pattern() -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(PLACES).unwrap_or(0) + LONGEST.next_multiple_of(8)];
    Source::default().fill(&mut bytes);
    bytes
}

/// What follows the label of datagram `number`.
fn rest(pattern: &[u8], number: u64, length: usize) -> &[u8] {
    let at = usize::try_from(number % PLACES).unwrap_or(0);
    &pattern[at..at + length]
}

fn fill(datagram: &mut [u8], sender: u32, number: u64, pattern: &[u8]) {
    let (label, body) = datagram.split_at_mut(LABEL);
    label[..8].copy_from_slice(&number.to_be_bytes());
    label[8..].copy_from_slice(&sender.to_be_bytes());
    body.copy_from_slice(rest(pattern, number, body.len()));
}

/// What a receiver has seen.
#[derive(Clone)]
struct Tally {
    tag: u16,
    pattern: Vec<u8>,
    /// The number that each sender's next datagram has, if none is lost.
    next: Vec<u64>,
    /// Of each sender.
    heard: Vec<u64>,
    received: u64,
    wrong: u64,
    /// Behind one that was sent later, or a second time.
    late: u64,
}

impl Tally {
    fn new(tag: u16) -> Tally {
        Tally {
            tag,
            pattern: pattern(),
            next: vec![0; SENDERS],
            heard: vec![0; SENDERS],
            received: 0,
            wrong: 0,
            late: 0,
        }
    }

    /// Datagrams before the last of each sender's that came, and behind the last that had come then, that did not come.
    fn lost_since(&self, before: &Tally) -> u64 {
        let passed: u64 = self
            .next
            .iter()
            .zip(&before.next)
            // A sender that is first heard now has lost nothing that this can tell.
            .filter(|(_, then)| **then > 0)
            .map(|(now, then)| now - then)
            .sum();
        let heard: u64 = self
            .heard
            .iter()
            .zip(&before.heard)
            .zip(&before.next)
            .filter(|(_, then)| **then > 0)
            .map(|((now, then), _)| now - then)
            .sum();
        passed.saturating_sub(heard)
    }

    /// Whether it is of another run.
    fn is_old(&self, datagram: &[u8]) -> bool {
        datagram.len() >= LABEL && datagram[8..10] != self.tag.to_be_bytes()
    }

    fn see(&mut self, datagram: &[u8]) {
        if self.is_old(datagram) {
            return;
        }
        self.received += 1;
        let parts = datagram.split_first_chunk::<8>();
        let parts = parts.and_then(|(number, rest)| {
            let (sender, body) = rest.split_first_chunk::<4>()?;
            let sender = usize::from(u16::from_be_bytes([sender[2], sender[3]]));
            Some((u64::from_be_bytes(*number), sender, body))
        });
        let Some((number, sender, body)) = parts.filter(|(_, sender, _)| *sender < SENDERS) else {
            self.wrong += 1;
            return;
        };
        if body.len() > LONGEST || body != rest(&self.pattern, number, body.len()) {
            self.wrong += 1;
            return;
        }
        self.heard[sender] += 1;
        if number < self.next[sender] {
            self.late += 1;
        } else {
            self.next[sender] = number + 1;
        }
    }
}

/// Counts for a time that begins a little after the first datagram, and looks at each. The socket's buffer holds `buffer`
/// bytes, with what the kernel adds to each datagram; 0 leaves it as it is.
pub fn count(port: u16, time: Duration, tag: u16, buffer: usize) -> Result<Value> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).context("opening the port")?;
    if buffer > 0 {
        // The kernel doubles it for what it adds.
        setsockopt(&socket, sockopt::RcvBufForce, &(buffer / 2))
            .context("enlarging the socket's buffer (as root)")?;
    }
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut tally = Tally::new(tag);
    let mut first = [0; LONGEST];
    loop {
        let length = socket
            .recv(&mut first)
            .context("waiting for the first datagram")?;
        if !tally.is_old(&first[..length]) {
            break;
        }
    }
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut buffers = [[0; LONGEST]; BURST];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BURST, None);
    let mut start = Instant::now();
    let mut before = None;
    loop {
        let now = start.elapsed();
        match before {
            None if now >= WARM_UP => {
                before = Some(tally.clone());
                start = Instant::now();
            }
            Some(_) if now >= time => break,
            _ => {}
        }
        let mut pieces = buffers
            .each_mut()
            .map(|buffer| [IoSliceMut::new(&mut buffer[..])]);
        let messages = recvmmsg(
            socket.as_raw_fd(),
            &mut headers,
            pieces.iter_mut(),
            MsgFlags::MSG_WAITFORONE,
            None,
        );
        let mut lengths = [0; BURST];
        let mut count = 0;
        match messages {
            Ok(messages) => {
                for (message, length) in messages.zip(&mut lengths) {
                    *length = message.bytes;
                    count += 1;
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error).context("receiving"),
        }
        for (buffer, &length) in buffers.iter().zip(&lengths[..count]) {
            tally.see(&buffer[..length]);
        }
    }
    let before = before.unwrap_or_else(|| Tally::new(tag));
    let received = tally.received - before.received;
    let mut report = rate("received", received, start.elapsed());
    report["lost"] = tally.lost_since(&before).into();
    report["wrong"] = tally.wrong.into();
    report["late"] = tally.late.into();
    report["senders"] = tally.next.iter().filter(|&&next| next > 0).count().into();
    Ok(report)
}

fn rate(what: &str, count: u64, time: Duration) -> Value {
    #[allow(clippy::cast_precision_loss)]
    let per_second = count as f64 / time.as_secs_f64();
    json!({what: count, "seconds": time.as_secs_f64(), "per_second": per_second})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_between_two_looks_is_lost() {
        let pattern = pattern();
        let mut tally = Tally::new(5);
        let see = |tally: &mut Tally, sender: u32, numbers: &[u64]| {
            let mut datagram = [0; 64];
            for &number in numbers {
                fill(&mut datagram, 5 << 16 | sender, number, &pattern);
                tally.see(&datagram);
            }
        };
        // What is lost in front of the first look does not count.
        see(&mut tally, 0, &[0, 9]);
        see(&mut tally, 1, &[4]);
        let before = tally.clone();
        see(&mut tally, 0, &[10, 11, 14, 13]);
        see(&mut tally, 1, &[5, 6]);
        see(&mut tally, 2, &[100]);
        assert_eq!(tally.lost_since(&before), 1, "the number 12");
        assert_eq!(before.lost_since(&before), 0);
    }

    #[test]
    fn a_changed_a_foreign_and_a_late_datagram_are_found() {
        let mut tally = Tally::new(5);
        let mut datagram = [0; 64];
        let pattern = pattern();
        for number in [0, 1, 5, 7] {
            fill(&mut datagram, 5 << 16 | 3, number, &pattern);
            tally.see(&datagram);
        }
        assert_eq!((tally.received, tally.wrong, tally.late), (4, 0, 0));
        fill(&mut datagram, 5 << 16 | 3, 6, &pattern);
        tally.see(&datagram);
        tally.see(&datagram[..63]);
        assert_eq!((tally.wrong, tally.late), (0, 2));
        let received = tally.received;
        fill(&mut datagram, 4 << 16 | 3, 900, &pattern);
        tally.see(&datagram);
        assert_eq!(tally.received, received, "one of another run");
        fill(&mut datagram, 5 << 16 | 3, 7, &pattern);
        datagram[63] ^= 1;
        tally.see(&datagram);
        tally.see(b"something");
        fill(&mut datagram, 5 << 16 | 3, 8, &pattern);
        datagram[7] ^= 4;
        tally.see(&datagram);
        assert_eq!((tally.received, tally.wrong, tally.late), (9, 3, 2));
    }
}
