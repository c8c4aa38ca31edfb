//! The daemon's life: settings, data plane, node, socket, signals.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};

use super::Options;
use crate::config::{LogConfig, NetConfig, Settings, Sources};
use crate::cpu_latency::CpuLatency;
use crate::forwarding::{Event, Forwarding};
use crate::log::Log;
use crate::node::{Node, Options as NodeOptions};
use crate::reload::{Reload, Token};
use crate::state::StateFile;
use crate::{dataplane, http, instance, socket, uplink};

type Outcome = Result<(), Box<dyn Error>>;

/// How long answers under way may take once the node ends.
const LAST_ANSWERS: std::time::Duration = std::time::Duration::from_secs(5);

/// Questions of the data plane that may wait; it repeats what is lost.
const EVENTS: usize = 4096;

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

pub(super) fn daemon(options: &Options, sources: Sources) -> Outcome {
    may_start()?;
    let (settings, doubts) = sources.load()?;
    let log = Arc::new(Log::start(
        &options.log,
        settings.net.debug,
        settings.net.log,
    ));
    if !settings.tun_present {
        tracing::info!(file = %options.tun_config.display(), "no such file; the defaults hold");
    }
    for doubt in doubts {
        tracing::warn!("{doubt}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(options, sources, settings, log))
}

/// Reads the settings again, and goes on in a new log file if ours was moved, as often as SIGHUP comes.
async fn follow_hangups(reload: Arc<Reload>, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        reload.reopen_log();
        let again = Arc::clone(&reload);
        match tokio::task::spawn_blocking(move || again.reload()).await {
            Ok(Ok(report)) => {
                tracing::info!(changed = ?report.changed, after_a_restart = ?report.restart, "settings read again");
            }
            Ok(Err(errors)) => {
                for error in errors.0 {
                    tracing::error!("{error}; nothing has changed");
                }
            }
            Err(error) => tracing::error!(%error, "settings could not be read again"),
        }
    }
}

/// Serves the interface on TCP as well, where that is asked for.
async fn serve_tcp(
    net: &NetConfig,
    token: &Token,
    router: axum::Router,
    mut closing: watch::Receiver<bool>,
) -> Outcome {
    let Some(address) = net.api_listen else {
        return Ok(());
    };
    let listener = http::listen_on(address).await?;
    match &net.api_token {
        Some(_) => tracing::info!(%address, "serving on TCP, with a token"),
        None if address.ip().is_loopback() => {
            tracing::info!(%address, "serving on TCP, to every user of this machine");
        }
        None => tracing::warn!(
            %address,
            "serving on TCP without authentication: whoever reaches this port may deploy here; set ApiToken, or listen on 127.0.0.1"
        ),
    }
    let router = http::guarded(router, Arc::clone(token));
    tokio::spawn(async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(async move {
                let _ = closing.wait_for(|closing| *closing).await;
            })
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "TCP is not served any more");
        }
    });
    Ok(())
}

async fn serve(options: &Options, sources: Sources, settings: Settings, log: Arc<Log>) -> Outcome {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangups = signal(SignalKind::hangup())?;
    let instance = instance::id(&options.config);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        instance,
        "Net Manager starts"
    );
    // The socket first: two Net Managers on one path must not both touch the machine.
    let listener = socket::listen(&options.socket).await?;
    let _socket_file = Unlink(options.socket.clone());
    if let Some(group) = &settings.net.socket_group
        && let Err(error) = socket::give_to_group(&options.socket, Some(group))
    {
        tracing::warn!(%error, "only the owner may use the socket");
    }
    let token = Token::default();
    token
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .clone_from(&settings.net.api_token);
    let reload = Arc::new(Reload::new(
        sources,
        settings.clone(),
        log,
        options.socket.clone(),
        Arc::clone(&token),
        CpuLatency::hold(settings.net.dataplane.cpu_latency)?,
    ));
    tokio::spawn(follow_hangups(Arc::clone(&reload), hangups));
    let (net, tun) = (settings.net.clone(), settings.tun.clone());
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
    let node_options = NodeOptions {
        instance,
        net: net.clone(),
        tun,
        state_dir: options.state_dir.clone(),
    };
    let node = Node::start(node_options, forwarding, inbox).await?;
    node.note_uplink(&chosen.reason);
    let purged = Arc::new(Notify::new());
    let (close, closing) = watch::channel(false);
    let mut closed = closing.clone();
    let router = http::router(Arc::clone(&node), Arc::clone(&purged), closing.clone())
        .merge(http::reload_router(reload));
    serve_tcp(&net, &token, router.clone(), closing).await?;
    let server = axum::serve(listener, router);
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
        uplink::remove(&net, &folder).await;
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
pub(super) fn purge(options: &Options, sources: &Sources) -> Outcome {
    // Not to the daemon's file: whoever asks wants to read it.
    let _log = Log::start(std::path::Path::new(""), false, LogConfig::default());
    let (Settings { net, tun, .. }, _) = sources.load()?;
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
