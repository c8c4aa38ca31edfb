//! The daemon's life: settings, data plane, node, socket, signals.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};

use super::{Options, Overrides};
use crate::config::{IdleMode, NetConfig, TunConfig, UplinkChoice};
use crate::forwarding::{Event, Forwarding};
use crate::node::{Node, Options as NodeOptions};
use crate::state::StateFile;
use crate::{dataplane, http, instance, uplink};

type Outcome = Result<(), Box<dyn Error>>;

/// How long answers under way may take once the node ends.
const LAST_ANSWERS: std::time::Duration = std::time::Duration::from_secs(5);

/// Questions of the data plane that may wait; it repeats what is lost.
const EVENTS: usize = 4096;

fn settings(
    options: &Options,
    overrides: &Overrides,
) -> Result<(NetConfig, TunConfig, bool), Box<dyn Error>> {
    let mut net = NetConfig::load(&options.config)?;
    let (mut tun, present) = match TunConfig::load(&options.tun_config)? {
        Some(tun) => (tun, true),
        None => (TunConfig::default(), false),
    };
    if let Some(uplink) = &overrides.uplink {
        net.dataplane.uplink =
            UplinkChoice::parse(uplink).map_err(|problem| format!("--uplink: {problem}"))?;
    }
    if let Some(workers) = overrides.workers {
        net.dataplane.workers = Some(usize::from(workers));
    }
    match overrides.idle.as_deref() {
        Some("spin") => net.dataplane.idle = Some(IdleMode::Spin),
        Some(_) => net.dataplane.idle = Some(IdleMode::Backoff),
        None => {}
    }
    if overrides.hugepage_mb.is_some() {
        net.dataplane.hugepage_mb = overrides.hugepage_mb;
    }
    if let Some(flows) = overrides.flows {
        net.dataplane.flows = flows;
    }
    if overrides.cluster.is_some() {
        net.cluster_host.clone_from(&overrides.cluster);
    }
    if let Some(mtu) = overrides.mtu {
        tun.mtu = mtu;
    }
    Ok((net, tun, present))
}

fn start_log(debug: bool) {
    let level = if debug { "debug" } else { "info" };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new(format!(
            "{level},netlink_proto=warn,rumqttc=warn,hyper=warn"
        ))
    });
    let logger = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    if let Err(error) = logger.try_init() {
        eprintln!("NetManager: the log could not be started: {error}");
    }
}

/// Checks the configuration and says what follows from it.
pub(super) fn check(options: &Options, overrides: &Overrides) -> Outcome {
    let (net, tun, present) = settings(options, overrides)?;
    println!("{}: in order", options.config.display());
    if present {
        println!("{}: in order", options.tun_config.display());
    } else {
        println!(
            "{}: not there; the defaults hold",
            options.tun_config.display()
        );
    }
    println!(
        "broker {} port {}, tunnel on UDP port {} announced as {}, host interface {}, MTU {}",
        net.cluster_host.as_deref().unwrap_or("as /register says"),
        net.cluster_port,
        tun.tunnel_port,
        net.public_port,
        tun.host_interface,
        tun.mtu
    );
    Ok(())
}

/// Moving links, opening packet sockets and entering containers' namespaces takes these.
const CAPABILITIES: [(u32, &str); 3] = [
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (21, "CAP_SYS_ADMIN"),
];

/// Refuses before anything is touched, when later steps could not succeed.
fn may_start() -> Outcome {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let Some(effective) = effective else {
        return Ok(());
    };
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("run it as root: it lacks {}", missing.join(", ")).into())
}

pub(super) fn daemon(options: &Options, overrides: &Overrides) -> Outcome {
    if overrides.check {
        return check(options, overrides);
    }
    may_start()?;
    let (net, tun, present) = settings(options, overrides)?;
    start_log(net.debug);
    if !present {
        tracing::info!(file = %options.tun_config.display(), "no such file; the defaults hold");
    }
    if net.public_ip_networking && net.public_address.is_none() {
        tracing::warn!(
            "PublicIPNetworking asks an outside service for this node's address, which this Net Manager does not do: set NodePublicAddress; until then the address of the default route is announced"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(options, net, tun))
}

async fn serve(options: &Options, net: NetConfig, tun: TunConfig) -> Outcome {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let instance = instance::id(&options.config);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        instance,
        "Net Manager starts"
    );
    // The socket first: two Net Managers on one path must not both touch the machine.
    let listener = http::listen(&options.socket).await?;
    let _socket_file = Unlink(options.socket.clone());
    // Before the data plane takes the flows over that belong to it.
    StateFile::open(&options.state_dir, &instance)?.check()?;
    let folder = uplink::folder(&options.config);
    let (config, chosen) = dataplane::config(&instance, &net, &tun, &folder).await?;
    tracing::info!("uplink: {}", chosen.reason);
    let (events, inbox) = mpsc::channel::<Event>(EVENTS);
    let plane = tokio::task::spawn_blocking(move || {
        ::dataplane::Dataplane::start(
            &config,
            Box::new(move |event| {
                // A full channel loses a question, and the data plane asks again.
                let _ = events.try_send(event);
            }),
        )
    })
    .await??;
    uplink::furnish(&chosen, plane.uplink_mac()).await?;
    let forwarding: Arc<dyn Forwarding> = Arc::new(plane.handle());
    let settings = net.clone();
    let node_options = NodeOptions {
        instance,
        net,
        tun,
        state_dir: options.state_dir.clone(),
    };
    let node = Node::start(node_options, forwarding, inbox).await?;
    node.note_uplink(&chosen.reason);
    let purged = Arc::new(Notify::new());
    let (close, closing) = watch::channel(false);
    let mut closed = closing.clone();
    let server = axum::serve(
        listener,
        http::router(Arc::clone(&node), Arc::clone(&purged), closing),
    );
    let was_purged = Arc::new(AtomicBool::new(false));
    let removed = Arc::clone(&was_purged);
    let ended = Notify::new();
    let server = server.with_graceful_shutdown({
        let ended = Arc::new(ended);
        let waiting = Arc::clone(&ended);
        let outcome = Ending {
            node: Arc::clone(&node),
            ended,
        };
        let signals = async move {
            tokio::select! {
                _ = terminate.recv() => outcome.stop(true).await,
                _ = interrupt.recv() => outcome.stop(true).await,
                () = purged.notified() => {
                    removed.store(true, Ordering::Relaxed);
                    outcome.ended.notify_one();
                }
                () = outcome.node.failed() => outcome.stop(false).await,
            }
        };
        tokio::spawn(signals);
        async move {
            waiting.notified().await;
            let _ = close.send(true);
        }
    });
    let failed = Arc::clone(&node);
    // An asker that does not read its answer must not keep the node from ending.
    let overdue = async {
        let _ = closed.wait_for(|closing| *closing).await;
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    let served = tokio::select! {
        served = server => served,
        () = overdue => Ok(()),
    };
    let keep = failed.has_containers() || failed.broken();
    tokio::task::spawn_blocking(move || if keep { plane.stop() } else { plane.remove() }).await?;
    if was_purged.load(Ordering::Relaxed) {
        uplink::remove(&settings, &folder).await;
    }
    served?;
    if failed.broken() {
        return Err("a worker of the data plane ended; the log says why".into());
    }
    Ok(())
}

/// Removes the socket file, however the daemon ends.
struct Unlink(std::path::PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(%error, "the socket file could not be removed");
        }
    }
}

struct Ending {
    node: Arc<Node>,
    ended: Arc<Notify>,
}

impl Ending {
    async fn stop(&self, graceful: bool) {
        if graceful {
            self.node.stop().await;
        }
        self.ended.notify_one();
    }
}

/// `down --purge` while no daemon runs: the same, without a data plane.
pub(super) fn purge(options: &Options) -> Outcome {
    start_log(false);
    let (net, tun, _) = settings(options, &Overrides::default())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let instance = instance::id(&options.config);
    let node_options = NodeOptions {
        instance,
        net,
        tun,
        state_dir: options.state_dir.clone(),
    };
    let settings = node_options.net.clone();
    runtime.block_on(async {
        crate::node::purge_without_daemon(node_options).await?;
        uplink::remove(&settings, &uplink::folder(&options.config)).await;
        Ok(())
    })
}
