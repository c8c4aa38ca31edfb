//! Pub/sub on a connection of its own.
//!
//! Redis pub/sub is at most once, and a subscriber whose server vanished sees only silence. So a
//! heartbeat runs on the same connection, and after every (re)subscription the consumer is told
//! that messages may be missing before it.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::find::{self, CONNECT_TIMEOUT};
use crate::{LinkError, Target};

/// Between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Without an answer for this long the server is given up.
const SILENCE: Duration = Duration::from_secs(3);
/// A reason that stays the same is logged this often.
const REPEAT: Duration = Duration::from_secs(60);
/// Messages that wait for the consumer; beyond, the connection is read no further.
const BACKLOG: usize = 1024;

/// What a subscriber is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Now subscribed, for the first time or again: whatever was published until now may have
    /// been missed. Read the truth.
    Gap,
    /// One message.
    Message {
        /// Its channel.
        channel: String,
        /// Its bytes.
        payload: Vec<u8>,
    },
}

/// A live subscription. It ends when dropped.
#[derive(Debug)]
pub struct Subscription {
    events: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
}

impl Subscription {
    pub(crate) fn start(target: Target, slot_key: String, channels: Vec<String>) -> Self {
        let (to, events) = mpsc::channel(BACKLOG);
        let task = tokio::spawn(run(target, slot_key, channels, to));
        Self { events, task }
    }

    /// The next event. Reconnecting goes on inside; this never ends and is cancel-safe.
    pub async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(target: Target, slot_key: String, channels: Vec<String>, to: mpsc::Sender<Event>) {
    let mut pause = Duration::from_millis(100);
    let mut said: Option<(String, Instant)> = None;
    loop {
        let mut subscribed = false;
        match listen(&target, &slot_key, &channels, &to, &mut subscribed).await {
            Ok(()) => return,
            Err(error) => {
                let text = error.to_string();
                // The same reason, try after try, is one piece of news.
                let news = said
                    .as_ref()
                    .is_none_or(|(before, at)| *before != text || at.elapsed() >= REPEAT);
                if subscribed || news {
                    tracing::warn!(%error, ?channels, "not subscribed; looking for Redis again");
                    said = Some((text, Instant::now()));
                }
            }
        }
        if subscribed {
            pause = Duration::from_millis(100);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// Listens until the connection fails (an error) or nobody consumes any more.
async fn listen(
    target: &Target,
    slot_key: &str,
    channels: &[String],
    to: &mpsc::Sender<Event>,
    subscribed: &mut bool,
) -> Result<(), LinkError> {
    let found = find::find(target, slot_key).await?;
    let silent = || LinkError::Timeout {
        at: found.at.clone(),
        after: SILENCE,
    };
    let pubsub = tokio::time::timeout(CONNECT_TIMEOUT, found.client.get_async_pubsub())
        .await
        .map_err(|_| silent())?
        .map_err(|error| find::unreachable(&error, &found.at))?;
    let (mut sink, mut messages) = pubsub.split();
    tokio::time::timeout(SILENCE, sink.subscribe(channels))
        .await
        .map_err(|_| silent())?
        .map_err(LinkError::Command)?;
    *subscribed = true;
    if to.send(Event::Gap).await.is_err() {
        return Ok(());
    }
    // Heartbeats run beside the messages: a slow consumer is not a dead server.
    let heartbeats = async {
        let mut clock = tokio::time::interval(HEARTBEAT);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            match tokio::time::timeout(SILENCE, sink.ping::<redis::Value>()).await {
                Err(_) => return silent(),
                // An answer is an answer, even "you may not".
                Ok(Err(error)) if find::is_lost(&error) => {
                    return LinkError::Broken {
                        at: found.at.clone(),
                        reason: error.to_string(),
                    };
                }
                Ok(_) => {}
            }
        }
    };
    let forward = async {
        while let Some(message) = messages.next().await {
            let event = Event::Message {
                channel: message.get_channel_name().to_owned(),
                payload: message.get_payload_bytes().to_vec(),
            };
            if to.send(event).await.is_err() {
                return Ok(());
            }
        }
        Err(LinkError::Broken {
            at: found.at.clone(),
            reason: "closed by the server".to_owned(),
        })
    };
    tokio::select! {
        error = heartbeats => Err(error),
        end = forward => end,
        () = to.closed() => Ok(()),
    }
}
