//! The cluster service manager: between the nodes of one cluster (MQTT) and the root (HTTP).
//!
//! Everything that must outlive a process lies in Redis (`keys`); a message of a node or a request
//! changes it in one atomic step (`scripts`), which also writes down what the others have to be
//! told (`work`). So any number of replicas may run, and each may die at any moment.
#![forbid(unsafe_code)]

mod answer;
mod cluster;
mod config;
mod docs;
mod feed;
mod http;
mod jobs;
mod keys;
mod liveness;
mod metrics;
mod moving;
mod mqtt;
mod queries;
mod root_client;
mod scripts;
mod store;
mod subnets;
mod work;

use std::net::{Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use redis_link::{Link, Target};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use cluster::Cluster;
use config::Config;
use metrics::Metrics;
use root_client::RootClient;
use store::Store;

/// Why the manager cannot start or go on.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error("{setting}: {error}")]
    Url {
        setting: &'static str,
        error: redis_link::UrlError,
    },
    #[error(transparent)]
    Tls(#[from] mqtt::TlsError),
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    #[error("cannot listen on port {port}: {error}; is another manager running? Set MY_PORT")]
    Listen { port: u16, error: std::io::Error },
    #[error("the HTTP server failed: {0}")]
    Serve(std::io::Error),
    #[error("cannot wait for signals: {0}")]
    Signal(std::io::Error),
    #[error(transparent)]
    Store(#[from] store::StoreError),
    #[error(transparent)]
    Moving(#[from] moving::MovingError),
}

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::parse();
    start_logging(config.log_json);
    match run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start_logging(json: bool) {
    let logs = tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr);
    if json {
        logs.json().init();
    } else {
        logs.init();
    }
}

async fn run(config: Config) -> Result<(), Fatal> {
    let Some(command) = config.command.clone() else {
        return serve(config).await;
    };
    let prefix = keys::prefix(&config.cluster_name);
    let redis = link("REDIS_URL", &config.redis_url, &prefix)?;
    Ok(moving::run(command, &Store::new(redis, prefix)).await?)
}

fn link(setting: &'static str, url: &str, slot_key: &str) -> Result<Link, Fatal> {
    let target = Target::parse(url).map_err(|error| Fatal::Url { setting, error })?;
    Ok(Link::new(target, slot_key))
}

/// A name that no other process has: replicas meet at the broker and in Redis.
fn replica() -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.as_nanos());
    format!("{:x}-{:x}", std::process::id(), now)
}

async fn serve(config: Config) -> Result<(), Fatal> {
    let prefix = keys::prefix(&config.cluster_name);
    let redis = link("REDIS_URL", &config.redis_url, &prefix)?;
    let root_redis = match config
        .root_redis_url
        .as_deref()
        .filter(|url| !url.is_empty())
    {
        Some(url) => Some(link("ROOT_REDIS_URL", url, "{oak:root}:")?),
        None => None,
    };
    let transport = mqtt::transport(&config)?;
    let metrics = Arc::new(Metrics::default());
    let root = RootClient::new(
        config.root_base(),
        config.caller(),
        config.id().to_owned(),
        Arc::clone(&metrics),
    )?;
    let port = config.my_port;
    let cluster = Arc::new(Cluster {
        store: Store::new(redis, prefix),
        root,
        publisher: mqtt::Publisher::new(Arc::clone(&metrics)),
        waiting: queries::Waiting::default(),
        metrics,
        replica: replica(),
        config,
    });

    let listener = listen(port)
        .await
        .map_err(|error| Fatal::Listen { port, error })?;
    tracing::info!(
        port,
        cluster = cluster.config.cluster_name,
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    let server = axum::serve(listener, http::routes(Arc::clone(&cluster)))
        .with_graceful_shutdown(stopped(signals()?));
    let mut background = tokio::spawn(background(Arc::clone(&cluster), transport, root_redis));
    tokio::select! {
        served = server => {
            background.abort();
            served.map_err(Fatal::Serve)?;
            tracing::info!("stopped");
            Ok(())
        }
        failed = &mut background => match failed {
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(())) | Err(_) => Ok(()),
        },
    }
}

/// On all IPv4 and IPv6 addresses; IPv4 alone where the host has no IPv6.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind(("0.0.0.0", port)).await
        }
        bound => bound,
    }
}

/// All that goes on beside HTTP; ends only when the store is not ours to use.
async fn background(
    cluster: Arc<Cluster>,
    transport: rumqttc::Transport,
    root_redis: Option<Link>,
) -> Result<(), store::StoreError> {
    cluster.store.open().await?;
    tracing::info!("Redis is ready");
    let session = Arc::new(mqtt::Session::default());
    tokio::join!(
        mqtt::run(Arc::clone(&cluster), Arc::clone(&session), transport),
        work::run(Arc::clone(&cluster)),
        liveness::run(Arc::clone(&cluster), session),
        feed::run(Arc::clone(&cluster), root_redis),
    );
    Ok(())
}

type Signals = (tokio::signal::unix::Signal, tokio::signal::unix::Signal);

fn signals() -> Result<Signals, Fatal> {
    let on = |kind| signal(kind).map_err(Fatal::Signal);
    Ok((on(SignalKind::terminate())?, on(SignalKind::interrupt())?))
}

async fn stopped((mut terminate, mut interrupt): Signals) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
}
