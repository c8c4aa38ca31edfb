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
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use manager_http::{Client, Guard};
use redis_link::{Link, Target};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use cluster::Cluster;
use config::Config;
use metrics::Metrics;
use root_client::RootClient;
use store::Store;

/// How long open requests may take after SIGTERM.
const GRACE: std::time::Duration = std::time::Duration::from_secs(5);

/// Why the manager cannot start or go on.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error("{setting}: {error}")]
    Url {
        setting: &'static str,
        error: redis_link::UrlError,
    },
    #[error("{setting}: cannot read {}: {error}", path.display())]
    File {
        setting: &'static str,
        path: PathBuf,
        error: std::io::Error,
    },
    #[error(transparent)]
    Tls(#[from] mqtt::TlsError),
    #[error(transparent)]
    TlsSettings(#[from] config::TlsSettings),
    #[error("cannot listen on port {port}: {error}; is another manager running? Set MY_PORT")]
    Listen { port: u16, error: std::io::Error },
    #[error("the HTTP server failed")]
    Serve,
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
    let redis = Link::new(own_redis(&config)?, &prefix);
    Ok(moving::run(command, &Store::new(redis, prefix)).await?)
}

fn own_redis(config: &Config) -> Result<Target, Fatal> {
    let authority = ("REDIS_CA_FILE", &config.redis_ca_file);
    target(("REDIS_URL", &config.redis_url), authority)
}

fn target(
    (setting, url): (&'static str, &str),
    (file_setting, file): (&'static str, &Option<PathBuf>),
) -> Result<Target, Fatal> {
    let target = Target::parse(url).map_err(|error| Fatal::Url { setting, error })?;
    let Some(path) = file.as_ref().filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(target);
    };
    let pem = std::fs::read(path).map_err(|error| Fatal::File {
        setting: file_setting,
        path: path.clone(),
        error,
    })?;
    target.with_authority(&pem).map_err(|error| Fatal::Url {
        setting: file_setting,
        error,
    })
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
    let redis = Link::with_greeting(own_redis(&config)?, &prefix, scripts::SETTLE.clone());
    let root_redis = match config
        .root_redis_url
        .as_deref()
        .filter(|url| !url.is_empty())
    {
        Some(url) => {
            let authority = ("ROOT_REDIS_CA_FILE", &config.root_redis_ca_file);
            let target = target(("ROOT_REDIS_URL", url), authority)?;
            Some(Link::new(target, "{oak:root}:"))
        }
        None => None,
    };
    let transport = mqtt::transport(&config)?;
    if matches!(transport, rumqttc::Transport::Tcp) {
        tracing::warn!(
            "MQTT without client certificates: whoever reaches the broker may speak for any node; set MQTT_CERT, and give the broker the rules that mosquitto-acl writes"
        );
    }
    let tls = config.tls()?;
    let guard = Guard::new(config.api_token.as_deref(), tls.server.is_some());
    guard.say();
    let metrics = Arc::new(Metrics::default());
    let root = RootClient::new(
        config.root_base(),
        config.caller(),
        config.id().to_owned(),
        Arc::clone(&metrics),
        Client::new(tls.client, &guard, root_client::ANSWER_TIMEOUT),
    );
    let port = config.my_port;
    let cluster = Arc::new(Cluster {
        store: Store::new(redis, prefix),
        root,
        publisher: mqtt::Publisher::new(Arc::clone(&metrics)),
        waiting: queries::Waiting::default(),
        requests: Arc::default(),
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
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let signals = signals()?;
    let mut server = tokio::spawn(manager_http::serve(
        listener,
        http::routes(Arc::clone(&cluster)),
        guard,
        cluster.config.limits,
        tls.server,
        Arc::clone(&cluster.requests),
        stopping,
    ));
    let mut background = tokio::spawn(background(Arc::clone(&cluster), transport, root_redis));
    tokio::select! {
        () = stopped(signals) => {
            let _ = stop.send(true);
            if tokio::time::timeout(GRACE, server).await.is_err() {
                tracing::warn!("some requests did not finish in time");
            }
            background.abort();
            tracing::info!("stopped");
            Ok(())
        }
        _ = &mut server => Err(Fatal::Serve),
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
