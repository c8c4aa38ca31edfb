//! The command line: `run` is the daemon, everything else asks it over its socket.

mod client;
mod commands;
mod follow;
mod run;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The Net Manager of an Oakestra worker node: attaches containers to the data plane and keeps its routes true.
#[derive(Debug, Parser)]
#[command(name = "NetManager", version, about)]
pub struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
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

/// Settings that win over the files.
#[derive(Clone, Debug, Default, Args)]
struct Overrides {
    /// How packets leave for other nodes: auto, socket, af_packet[:IFACE], af_xdp[:IFACE], vfio:PCI, virtio:PCI, or
    /// DEVARGS@IFACE
    #[arg(long, env = "NETMANAGER_UPLINK")]
    uplink: Option<String>,
    /// Worker lcores
    #[arg(long, env = "NETMANAGER_WORKERS", value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: Option<u8>,
    /// How an idle worker waits
    #[arg(long, env = "NETMANAGER_IDLE", value_parser = ["spin", "backoff"])]
    idle: Option<String>,
    /// Megabytes of hugepages; 0 for none
    #[arg(long, env = "NETMANAGER_HUGEPAGE_MB")]
    hugepage_mb: Option<u32>,
    /// Flows that the table holds
    #[arg(long, env = "NETMANAGER_FLOWS")]
    flows: Option<usize>,
    /// The broker's host, instead of ClusterUrl
    #[arg(long, env = "NETMANAGER_CLUSTER")]
    cluster: Option<String>,
    /// MTU of containers, instead of MTUSize
    #[arg(long, env = "TUN_MTU_SIZE", value_parser = clap::value_parser!(u16).range(1280..=65000))]
    mtu: Option<u16>,
    /// Check the configuration and leave
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon (the default)
    Run(Overrides),
    /// Show the node, its link and its containers
    Status(Format),
    /// Show the route table
    Routes(Format),
    /// Show live flows
    Flows {
        #[command(flatten)]
        format: Format,
        /// At most so many
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
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
    Logs {
        /// The last so many lines
        #[arg(long, short = 'n', default_value_t = 100)]
        lines: u32,
        /// Go on as it grows
        #[arg(long, short)]
        follow: bool,
    },
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
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check both files
    Check,
}

#[derive(Clone, Copy, Debug, Args)]
struct Format {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command line; answers the process's exit status.
#[must_use]
pub fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => {
            // A bare start takes its settings from the environment as well.
            let environment = Run::parse_from(["NetManager"]);
            run::daemon(&cli.options, &environment.overrides)
        }
        Some(Command::Run(overrides)) => run::daemon(&cli.options, &overrides),
        Some(Command::Config(ConfigCommand::Check)) => {
            run::check(&cli.options, &Overrides::default())
        }
        Some(command) => commands::run(&cli.options, &command),
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
            eprintln!("NetManager: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[derive(Debug, Parser)]
struct Run {
    #[command(flatten)]
    overrides: Overrides,
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
        assert!(Cli::try_parse_from(["NetManager", "run", "--mtu", "100"]).is_err());
    }
}
