//! The root service manager: hands out addresses, answers table queries, tells clusters what
//! changed (contract section 2).
//!
//! Redis holds everything ([`keys`]), each operation is one script ([`store`]), HTTP is a thin
//! layer over it ([`routes`]), and what clusters must hear leaves a queue in the background
//! ([`notify`]), so that a request never waits for a cluster.
#![forbid(unsafe_code)]

mod access;
mod config;
mod feed;
mod jwt;
mod keys;
mod listen;
mod live;
mod metrics;
mod moving;
mod notify;
mod routes;
mod store;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use manager_http::{Guard, Requests};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Command, Config};
use crate::store::{Store, StoreError};

/// How long open requests may take after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    start_logging(config.log_json);
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the tokio runtime cannot start")?
        .block_on(run(config))
}

fn start_logging(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr);
    if json {
        logs.json().init();
    } else {
        logs.init();
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let target = config.redis()?;
    let link = match config.command {
        // Nobody serves meanwhile.
        Some(_) => redis_link::Link::new(target, keys::SLOT_KEY),
        None => redis_link::Link::with_greeting(target, keys::SLOT_KEY, store::settle()),
    };
    let store = Store::new(link.clone(), config.address_rest);
    match config.command {
        Some(Command::Moving(command)) => return moving::run(command, &store).await,
        Some(Command::ClusterAccess(command)) => return command.run(&link).await,
        None => {}
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), redis = %link.target(), "root service manager starts");
    let metrics = Arc::new(metrics::Metrics::default());
    let tls = config.tls()?;
    let guard = Guard::new(config.api_token.as_deref(), tls.certificate);
    guard.say();
    let notifier = notify::Notifier::new(store.clone(), Arc::clone(&metrics), tls.client, &guard);
    let jwt = jwt::Verifier::new(config.jwt_key_url())
        .context("the HTTP client for the JWT key cannot start")?;

    // Services start in any order: listen at once, answer 503 until the others are there.
    let listener = listen::listen(config.address, config.port)?;
    tracing::info!(address = %listener.local_addr().context("no local address")?, "listening");

    let prepared = tokio::spawn(prepare(link, store.clone()));
    let live = Arc::new(live::Live::new());
    let background = [
        tokio::spawn({
            let (live, store) = (Arc::clone(&live), store.clone());
            async move { live.run(store).await }
        }),
        tokio::spawn(Arc::clone(&jwt).fetch_until_known()),
        tokio::spawn(Arc::clone(&notifier).watch_due()),
        tokio::spawn(feed::heartbeats(store.clone())),
        tokio::spawn(feed::expire(store.clone(), config.cluster_expiry)),
    ];

    let requests = Arc::new(Requests::default());
    let state = routes::AppState {
        requests: Arc::clone(&requests),
        store,
        notifier: Arc::clone(&notifier),
        jwt,
        metrics,
        live: Arc::clone(&live),
        seen: Arc::default(),
    };
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut server = tokio::spawn(manager_http::serve(
        listener,
        routes::router(state),
        guard,
        config.limits,
        tls.server,
        requests,
        stopped,
    ));

    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be watched")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be watched")?;
    let mut prepared = prepared;
    let mut preparing = true;
    let outcome = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            ended = &mut server => break ended.context("the HTTP server failed"),
            made = &mut prepared, if preparing => {
                preparing = false;
                match made.context("preparing the store failed") {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => break Err(anyhow::Error::new(error)),
                    Err(error) => break Err(error),
                }
            }
        }
    };
    tracing::info!("stopping");
    let _ = stop.send(true);
    live.stop();
    if !server.is_finished() && tokio::time::timeout(GRACE, &mut server).await.is_err() {
        tracing::warn!("some requests did not finish in time");
    }
    for task in background {
        task.abort();
    }
    notifier.leave().await;
    outcome
}

/// Waits for Redis and makes or checks the store. Only a store of another version is final.
async fn prepare(link: redis_link::Link, store: Store) -> Result<(), StoreError> {
    loop {
        link.ready().await;
        match store.prepare().await {
            Ok(()) => return Ok(()),
            Err(error @ StoreError::Schema { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the store cannot be prepared yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}
