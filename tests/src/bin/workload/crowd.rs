//! Many connections at once. Each says a word that no other says, and must hear it again, with the number of the
//! instance that heard it: who gets another's answer, or an answer of another instance, is found out.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use serde_json::{Value, json};

/// The server's port, TCP and UDP.
pub const PORT: u16 = 9001;
/// A word, and with the instance's number an answer.
const WORD: usize = 8;
const ANSWER: usize = WORD + 4;
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections are opened by so many threads.
const OPENERS: usize = 8;

fn allow_many_files() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("allowing as many open files as may be")
}

/// Serves all connections in one thread, as long as they last.
pub fn serve(instance: u32) -> Result<()> {
    allow_many_files()?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).context("listening")?;
    let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).context("opening a port")?;
    listener.set_nonblocking(true)?;
    datagrams.set_nonblocking(true)?;
    let mut streams: Vec<TcpStream> = Vec::new();
    let mut bytes = [0; 64];
    loop {
        let mut waiting = vec![
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(datagrams.as_fd(), PollFlags::POLLIN),
        ];
        waiting.extend(
            streams
                .iter()
                .map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)),
        );
        poll(&mut waiting, PollTimeout::NONE).context("waiting")?;
        let ready: Vec<bool> = waiting.iter().map(|fd| fd.any() == Some(true)).collect();
        let mut ready = ready.into_iter().skip(2);
        // One word at a time: a client waits for its answer.
        streams.retain_mut(|stream| {
            if ready.next() != Some(true) {
                return true;
            }
            match stream.read(&mut bytes) {
                Ok(WORD) => stream.write_all(&answer(&bytes[..WORD], instance)).is_ok(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => true,
                _ => false,
            }
        });
        while let Ok((count, from)) = datagrams.recv_from(&mut bytes) {
            // One that cannot be answered is lost, as datagrams are.
            let _ = datagrams.send_to(&answer(&bytes[..count.min(WORD)], instance), from);
        }
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            streams.push(stream);
        }
    }
}

fn answer(word: &[u8], instance: u32) -> Vec<u8> {
    [word, &instance.to_be_bytes()].concat()
}

/// What a crowd does.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Where to.
    pub target: SocketAddr,
    /// Connections.
    pub count: u16,
    /// The first one's source port, the others' follow; 0 takes free ones.
    pub source_port: u16,
    /// Tells this client's words from others'.
    pub name: u32,
    /// Beside each connection a datagram socket with the same addresses and ports.
    pub datagrams: bool,
    /// How often each says its word.
    pub rounds: u32,
}

struct Member {
    stream: TcpStream,
    datagrams: Option<UdpSocket>,
    word: [u8; WORD],
    by: Option<u32>,
    datagrams_by: Option<u32>,
}

/// Opens all connections, then lets them speak, all before any listens.
pub fn gather(plan: Plan) -> Result<Value> {
    allow_many_files()?;
    let numbers: Vec<u16> = (0..plan.count).collect();
    let mut members = std::thread::scope(|scope| {
        let openers: Vec<_> = numbers
            .chunks(numbers.len().div_ceil(OPENERS).max(1))
            .map(|part| {
                scope.spawn(move || {
                    part.iter()
                        .map(|&n| open(&plan, n))
                        .collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        openers
            .into_iter()
            .map(|opener| {
                opener
                    .join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("an opener panicked")))
            })
            .collect::<Result<Vec<_>>>()
    })?
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    for _ in 0..plan.rounds {
        for member in &mut members {
            member
                .stream
                .write_all(&member.word)
                .context("saying a word")?;
        }
        for member in &mut members {
            let mut heard = [0; ANSWER];
            member
                .stream
                .read_exact(&mut heard)
                .context("hearing a word")?;
            judge(member.word, &heard, &mut member.by)?;
            // A burst of datagrams may be more than a queue holds; one after the other is not.
            if let Some(socket) = &member.datagrams {
                let count = exchange(socket, member.word, &mut heard)?;
                judge(member.word, &heard[..count], &mut member.datagrams_by)?;
            }
        }
    }
    let mut per_instance = BTreeMap::<u32, u32>::new();
    for member in &members {
        for by in [member.by, member.datagrams_by].into_iter().flatten() {
            *per_instance.entry(by).or_default() += 1;
        }
    }
    Ok(json!({"connections": members.len(), "per_instance": per_instance}))
}

// Datagrams may be lost, but on a machine that is only busy not five times in a row.
fn exchange(socket: &UdpSocket, word: [u8; WORD], heard: &mut [u8; ANSWER]) -> Result<usize> {
    for _ in 0..5 {
        socket.send(&word).context("sending a word")?;
        match socket.recv(heard) {
            Ok(count) => return Ok(count),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("receiving a word"),
        }
    }
    anyhow::bail!("a datagram was lost five times")
}

fn judge(word: [u8; WORD], heard: &[u8], by: &mut Option<u32>) -> Result<()> {
    let (echo, number) = heard.split_at(WORD.min(heard.len()));
    ensure!(
        echo == word,
        "said {word:?} and heard {heard:?}: another's answer"
    );
    let number = u32::from_be_bytes(number.try_into().context("a short answer")?);
    ensure!(
        by.is_none_or(|before| before == number),
        "a connection went from instance {by:?} to {number}"
    );
    *by = Some(number);
    Ok(())
}

fn open(plan: &Plan, n: u16) -> Result<Member> {
    let port = match plan.source_port {
        0 => 0,
        first => first + n,
    };
    let any = match plan.target.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let stream = connected(SocketAddr::new(any, port), plan.target)
        .with_context(|| format!("connection {n} from port {port}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let datagrams = if plan.datagrams {
        let socket = UdpSocket::bind(stream.local_addr()?).context("opening a port")?;
        socket.connect(plan.target)?;
        socket.set_read_timeout(Some(Duration::from_secs(4)))?;
        Some(socket)
    } else {
        None
    };
    let mut word = [0; WORD];
    word[..4].copy_from_slice(&plan.name.to_be_bytes());
    word[4..].copy_from_slice(&u32::from(n).to_be_bytes());
    Ok(Member {
        stream,
        datagrams,
        word,
        by: None,
        datagrams_by: None,
    })
}

// The standard library chooses the source port by itself.
fn connected(from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    if from.port() == 0 {
        return TcpStream::connect_timeout(&to, PATIENCE).context("connecting");
    }
    let family = if from.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&fd),
        &SockaddrStorage::from(from),
    )
    .context("taking the port")?;
    connect(
        std::os::fd::AsRawFd::as_raw_fd(&fd),
        &SockaddrStorage::from(to),
    )
    .context("connecting")?;
    Ok(TcpStream::from(fd))
}
