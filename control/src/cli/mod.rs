//! The command line: `run` is the daemon, everything else asks it over its socket.

mod check;
mod client;
mod commands;
mod doctor;
mod follow;
mod logs;
mod overrides;
mod rates;
mod run;
mod screen;
mod status;
mod top;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Sources;
use overrides::Overrides;

/// The Net Manager of an Oakestra worker node: attaches containers to the data plane and keeps its routes true.
#[derive(Debug, Parser)]
#[command(name = "NetManager", version, about)]
pub struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    overrides: Overrides,
    #[command(subcommand)]
    command: Option<Command>,
}

impl Cli {
    /// Where settings come from, with what a command was given itself.
    fn sources(&self, given: &Overrides) -> Sources {
        Sources {
            config: self.options.config.clone(),
            tun_config: self.options.tun_config.clone(),
            overrides: given.over(&self.overrides),
        }
    }
}

/// Where things are; each flag has its environment variable.
#[derive(Clone, Debug, Args)]
struct Options {
    /// The node's settings
    #[arg(
        long,
        global = true,
        env = "NETMANAGER_CONFIG",
        default_value = "/etc/netmanager/netcfg.json"
    )]
    config: PathBuf,
    /// The tunnel's settings; a missing file means the defaults
    #[arg(
        long,
        global = true,
        env = "NETMANAGER_TUN_CONFIG",
        default_value = "/etc/netmanager/tuncfg.json"
    )]
    tun_config: PathBuf,
    /// The unix socket that the NodeEngine calls
    #[arg(
        long,
        global = true,
        env = "NETMANAGER_SOCKET",
        default_value = "/etc/netmanager/netmanager.sock"
    )]
    socket: PathBuf,
    /// Folder of the state file
    #[arg(
        long,
        global = true,
        env = "NETMANAGER_STATE_DIR",
        default_value = "/var/lib/netmanager"
    )]
    state_dir: PathBuf,
    /// The log file that `logs` shows
    #[arg(
        long,
        global = true,
        env = "NETMANAGER_LOG",
        default_value = "/var/log/oakestra/netmanager.log"
    )]
    log: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon (the default)
    Run {
        #[command(flatten)]
        overrides: Overrides,
        /// Check the configuration and leave
        #[arg(long)]
        check: bool,
    },
    /// Show the node, its cluster link, ports, cores, rates, drops and containers
    Status(Format),
    /// Show jobs: Service IPs with their policies, instances with where they live and what they bear
    Services(Format),
    /// Show the route table
    Routes(Format),
    /// Show live flows
    Flows {
        #[command(flatten)]
        format: Format,
        /// At most so many
        #[arg(long, default_value_t = 1000)]
        limit: usize,
        /// Only those of this client, dialled address or instance
        #[arg(long)]
        address: Option<std::net::IpAddr>,
        /// Only those from or to instances of this job
        #[arg(long)]
        job: Option<String>,
    },
    /// Watch workers, ports, containers and services live
    Top(top::Top),
    /// Look for what is wrong with this node, and say what to do
    ///
    /// Works in part while the daemon is down. The exit status is 1 if something fails.
    Doctor(Format),
    /// Take changed settings over without a restart; SIGHUP does the same
    Reload(Format),
    /// Copy packets from ports to a pcapng file, both directions, as they pass
    ///
    /// Every port is an interface of the file; what crosses a socket uplink is there without its outer header, with the
    /// other node beside it. A checksum that is left to the receiver's kernel or NIC looks wrong. One capture at a time.
    Capture(follow::Capture),
    /// Follow packets through the data plane: which flow, policy, backend, rewrite and port, or why not
    ///
    /// A packet is followed if it or its answer is what is asked for, before or after translation; an ICMP error, if it
    /// is about one. One trace at a time.
    Trace(follow::Trace),
    /// Show the log
    Logs(logs::Logs),
    /// Show the version
    Version(Format),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Remove what this Net Manager set up
    Down {
        /// Detach everything, give the subnetworks back and forget this node
        #[arg(long, required = true)]
        purge: bool,
    },
    /// Write a completion script for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man page
    #[command(hide = true)]
    Man,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check both files, and what wins over them; all that is wrong is said at once
    Check {
        #[command(flatten)]
        overrides: Overrides,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Clone, Copy, Debug, Args)]
struct Format {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// A failure that has been said already.
#[derive(Debug, thiserror::Error)]
#[error("")]
struct Said;

/// Runs the command line; answers the process's exit status.
#[must_use]
pub fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let none = Overrides::default();
    let outcome = match &cli.command {
        None => run::daemon(&cli.options, cli.sources(&none)),
        Some(Command::Run { overrides, check }) if *check => {
            check::run(&cli.sources(overrides), Format { json: false })
        }
        Some(Command::Run { overrides, .. }) => run::daemon(&cli.options, cli.sources(overrides)),
        Some(Command::Config(ConfigCommand::Check { overrides, format })) => {
            check::run(&cli.sources(overrides), *format)
        }
        Some(command) => commands::run(&cli.options, &cli.sources(&none), command),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        // Whoever read our output has read enough.
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) =>
        {
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            if error.downcast_ref::<Said>().is_none() {
                for line in error.to_string().lines() {
                    eprintln!("NetManager: {line}");
                }
            }
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
        let bare = Cli::parse_from(["NetManager"]);
        assert!(bare.command.is_none());
        assert_eq!(
            bare.options.socket,
            PathBuf::from("/etc/netmanager/netmanager.sock")
        );
        let placed = Cli::parse_from(["NetManager", "status", "--json", "--socket", "/x.sock"]);
        assert_eq!(placed.options.socket, PathBuf::from("/x.sock"));
        assert!(Cli::try_parse_from(["NetManager", "down"]).is_err());
        let given = |arguments: &[&str]| {
            let cli = Cli::parse_from([&["NetManager"], arguments].concat());
            let none = Overrides::default();
            let sources = match &cli.command {
                Some(Command::Run { overrides, .. }) => cli.sources(overrides),
                _ => cli.sources(&none),
            };
            let typed = |o: &crate::config::Override| o.is_flag();
            let shown = |o: &crate::config::Override| format!("{}={}", o.source(), o.value);
            sources
                .overrides
                .iter()
                .filter(|o| typed(o))
                .map(shown)
                .collect::<Vec<_>>()
        };
        assert_eq!(given(&["run", "--mtu", "1400"]), ["--mtu=1400"]);
        assert_eq!(
            given(&["--debug", "--mtu", "1300", "run", "--mtu", "1400"]),
            ["--debug=true", "--mtu=1400"]
        );
        assert_eq!(given(&["--debug=false"]), ["--debug=false"]);
    }
}
