//! What runs inside the containers of the demo and the journeys.
//!
//! One program with two sides: `serve` is an instance (HTTP, UDP echo, bulk transfer), the others
//! are clients that count and time what they see and print it as one JSON object.
#![forbid(unsafe_code)]

mod bulk;
mod client;
mod connections;
mod crowd;
mod datagrams;
mod flood;
mod server;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// The traffic of the demo and the journeys.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// An instance: HTTP on port 80 (answers the instance's number), UDP echo on ports 7 and
    /// 65535, bulk transfer on TCP port 9000, HTTP on port 65535 too.
    Serve {
        /// The number to answer.
        #[arg(long)]
        instance: u32,
    },
    /// Holds a namespace and no port, until it is killed.
    Idle,
    /// Sends HTTP requests one after the other, a connection each.
    Get {
        /// Where to.
        #[arg(long)]
        target: SocketAddr,
        /// How many.
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// Milliseconds for each.
        #[arg(long, default_value_t = 5000)]
        timeout_ms: u64,
    },
    /// Sends HTTP requests, a connection each, until standard input ends. Prints a line per
    /// request: start and end in microseconds since 1970, then the instance or `failed: why`.
    Poll {
        /// Where to.
        #[arg(long)]
        target: SocketAddr,
        /// How many at a time.
        #[arg(long, default_value_t = 4)]
        connections: u32,
        /// Milliseconds for each.
        #[arg(long, default_value_t = 5000)]
        timeout_ms: u64,
    },
    /// Moves pseudo-random bytes over one TCP connection and compares the checksums.
    Transfer {
        /// Where to.
        #[arg(long)]
        target: SocketAddr,
        /// How many bytes.
        #[arg(long)]
        bytes: u64,
        /// From the server to here instead of from here to the server.
        #[arg(long)]
        download: bool,
    },
    /// Has datagrams of every size echoed and compares them.
    Echo {
        /// Where to.
        #[arg(long)]
        target: SocketAddr,
        /// The smallest size.
        #[arg(long, default_value_t = 0)]
        from: usize,
        /// The largest size.
        #[arg(long, default_value_t = 1400)]
        to: usize,
        /// The port to send from; 0 takes a free one.
        #[arg(long, default_value_t = 0)]
        source_port: u16,
    },
    /// Holds many connections at once; each says a word of its own and must hear it again.
    Crowd {
        /// Where to.
        #[arg(long)]
        target: SocketAddr,
        /// How many.
        #[arg(long, default_value_t = 100)]
        count: u16,
        /// The first one's source port, the others' follow; 0 takes free ones.
        #[arg(long, default_value_t = 0)]
        source_port: u16,
        /// Tells this client's words from others'.
        #[arg(long, default_value_t = 0)]
        name: u32,
        /// Beside each connection a datagram socket with the same addresses and ports.
        #[arg(long)]
        datagrams: bool,
        /// How often each says its word.
        #[arg(long, default_value_t = 2)]
        rounds: u32,
    },
    /// Streams a pattern over one TCP connection for a time; the server compares a part of it.
    Stream {
        /// Where to.
        #[arg(long)]
        target: SocketAddr,
        /// For how long.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// Times echoes of datagrams, one after the other.
    RoundTrips {
        /// Where to.
        #[arg(long)]
        target: SocketAddr,
        /// Bytes in each.
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// For how long.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Microseconds between an echo and the next question.
        #[arg(long, default_value_t = 500)]
        pause_us: u64,
    },
    /// Sends numbered datagrams as fast as it can.
    Blast {
        /// Where to.
        #[arg(long)]
        target: SocketAddr,
        /// Bytes in each.
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// For how long.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Datagrams a second; 0 for as many as go.
        #[arg(long, default_value_t = 0)]
        rate: u64,
        /// Datagrams handed over by one system call.
        #[arg(long, default_value_t = 64)]
        burst: usize,
        /// Tells this run from one before.
        #[arg(long, default_value_t = 0)]
        tag: u16,
        /// Sends in turn from the network namespace of each of these processes.
        #[arg(long, value_delimiter = ',')]
        inside: Vec<u32>,
        /// Sends in turn from so many ports, up to 1,024.
        #[arg(long, default_value_t = 1)]
        flows: u16,
    },
    /// Counts the numbered datagrams that arrive on a port from the first one on, and looks at each.
    Count {
        /// The port.
        #[arg(long)]
        port: u16,
        /// For how long.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// The run that is meant.
        #[arg(long, default_value_t = 0)]
        tag: u16,
        /// Bytes that may wait at the port; 0 for what the kernel thinks right.
        #[arg(long, default_value_t = 0)]
        buffer: usize,
    },
    /// Opens and closes TCP connections as fast as it can: an HTTP request over each.
    Connections {
        /// Where to.
        #[arg(long)]
        target: SocketAddr,
        /// How many at a time.
        #[arg(long, default_value_t = 8)]
        parallel: u16,
        /// For how long, at most.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Ends after so many; 0 for no limit.
        #[arg(long, default_value_t = 0)]
        count: u64,
    },
}

fn main() -> Result<()> {
    let report = match Arguments::parse().what {
        What::Serve { instance } => return server::serve(instance),
        What::Idle => loop {
            std::thread::park();
        },
        What::Get {
            target,
            count,
            timeout_ms,
        } => client::get(target, count, Duration::from_millis(timeout_ms)),
        What::Poll {
            target,
            connections,
            timeout_ms,
        } => {
            return client::poll(target, connections, Duration::from_millis(timeout_ms));
        }
        What::Transfer {
            target,
            bytes,
            download,
        } => bulk::transfer(target, bytes, download)?,
        What::Echo {
            target,
            from,
            to,
            source_port,
        } => datagrams::echo(target, from..=to, source_port)?,
        What::Crowd {
            target,
            count,
            source_port,
            name,
            datagrams,
            rounds,
        } => crowd::gather(crowd::Plan {
            target,
            count,
            source_port,
            name,
            datagrams,
            rounds,
        })?,
        What::Stream { target, seconds } => bulk::stream(target, time(seconds)?)?,
        What::RoundTrips {
            target,
            size,
            seconds,
            pause_us,
        } => {
            let pause = Duration::from_micros(pause_us);
            datagrams::round_trips(target, size, time(seconds)?, pause)?
        }
        What::Blast {
            target,
            size,
            seconds,
            rate,
            burst,
            tag,
            inside,
            flows,
        } => flood::blast(&flood::Blast {
            target,
            size,
            time: time(seconds)?,
            rate,
            burst,
            tag,
            inside,
            flows,
        })?,
        What::Count {
            port,
            seconds,
            tag,
            buffer,
        } => flood::count(port, time(seconds)?, tag, buffer)?,
        What::Connections {
            target,
            parallel,
            seconds,
            count,
        } => connections::open_and_close(target, parallel, time(seconds)?, count)?,
    };
    println!("{report}");
    Ok(())
}

fn time(seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).context("a time in seconds is wanted")
}
