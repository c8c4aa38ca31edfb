//! Brings the whole system up on this machine, uses it, and says what happened.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use journeys::demo::report::Report;
use journeys::demo::voice::Voice;
use journeys::node::Uplink;

/// The whole system on one machine: root and cluster service managers, Redis, Mosquitto and two
/// worker nodes, each in a network namespace of its own, and traffic through a Service IP.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
struct Arguments {
    /// How the nodes reach each other.
    #[arg(long, value_enum, default_value = "socket")]
    uplink: UplinkName,
    /// One JSON object on standard output, everything else on standard error.
    #[arg(long)]
    json: bool,
    /// Leave everything up and say how to use it and tear it down.
    #[arg(long)]
    keep: bool,
    /// Tear down what --keep left, and do nothing else.
    #[arg(long, conflicts_with_all = ["keep", "json"])]
    down: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum UplinkName {
    /// UDP sockets of the kernel.
    #[value(name = "socket")]
    Socket,
    /// An ethdev of DPDK's af_packet driver.
    #[value(name = "af_packet")]
    AfPacket,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.down {
        return down();
    }
    let uplink = match arguments.uplink {
        UplinkName::Socket => Uplink::Socket,
        UplinkName::AfPacket => Uplink::AfPacket,
    };
    let voice = Voice::new(arguments.json);
    let mut report = Report::default();
    let result = journeys::demo::run(uplink, arguments.keep, &voice, &mut report);
    if arguments.json {
        println!("{}", report.json(result.is_ok()));
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn down() -> ExitCode {
    match journeys::run::destroy_kept() {
        Ok(0) => println!("nothing was kept"),
        Ok(count) => println!("torn down: {count}"),
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
