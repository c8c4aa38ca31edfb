//! Simulated nodes: what a thousand Net Managers do with the broker.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::mqtt::{self, Packet, Reader};

/// First pause before an unanswered query is repeated, then doubling: as our own nodes do it.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Nothing may take longer.
const PATIENCE: Duration = Duration::from_secs(180);

fn jittered(duration: Duration) -> Duration {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    let share = f64::from(u32::try_from(bits).unwrap_or_default()) / f64::from(u32::MAX);
    duration.mul_f64(0.75 + 0.5 * share)
}

/// Nodes that listen to one job's changes.
pub struct Listeners {
    heard: mpsc::UnboundedReceiver<Instant>,
    count: usize,
    _tasks: JoinSet<Result<()>>,
}

impl Listeners {
    /// Connects `count` nodes to a topic.
    pub async fn connect(port: u16, count: usize, topic: &str) -> Result<Self> {
        let (hear, heard) = mpsc::unbounded_channel();
        let (up, mut ups) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let (hear, up, topic) = (hear.clone(), up.clone(), topic.to_owned());
            tasks.spawn(async move {
                let (mut reader, mut to) =
                    Reader::open(port, &format!("listener{number}"), &topic).await?;
                let _ = up.send(());
                loop {
                    if let Packet::Message { id, .. } = reader.next().await? {
                        let _ = hear.send(Instant::now());
                        if let Some(id) = id {
                            to.write_all(&mqtt::acknowledge(id)).await?;
                        }
                    }
                }
            });
        }
        for _ in 0..count {
            tokio::time::timeout(PATIENCE, ups.recv())
                .await?
                .context("nodes cannot connect")?;
        }
        Ok(Self {
            heard,
            count,
            _tasks: tasks,
        })
    }

    /// Times from `since` until each node heard one message.
    pub async fn all(&mut self, since: Instant) -> Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(self.count);
        while times.len() < self.count {
            let heard = tokio::time::timeout(Duration::from_secs(20), self.heard.recv())
                .await
                .with_context(|| format!("{} of {} nodes heard it", times.len(), self.count))?
                .context("the nodes are gone")?;
            times.push(heard.saturating_duration_since(since));
        }
        Ok(times)
    }

    /// Waits until nothing comes any more.
    pub async fn quiet(&mut self, pause: Duration) {
        while tokio::time::timeout(pause, self.heard.recv()).await.is_ok() {}
    }
}

/// What a restart of all nodes gave.
pub struct Restart {
    /// From the start until the last query was answered.
    pub seconds: f64,
    /// Queries sent, repetitions included.
    pub sent: u64,
    /// Queries answered.
    pub answered: u64,
}

/// Starts `count` nodes at once; each asks for its jobs and repeats what is not answered.
pub async fn restart(port: u16, count: u32, jobs: impl Fn(u32) -> Vec<String>) -> Result<Restart> {
    let mut tasks = JoinSet::new();
    // The kernel's queue of new connections is shorter than a thousand.
    let connecting = Arc::new(Semaphore::new(128));
    let start = Instant::now();
    for number in 0..count {
        let (jobs, connecting) = (jobs(number), Arc::clone(&connecting));
        tasks.spawn(async move { ask(port, number, jobs, &connecting).await });
    }
    let mut outcome = Restart {
        seconds: 0.0,
        sent: 0,
        answered: 0,
    };
    while let Some(node) = tasks.join_next().await {
        let (sent, answered) = node??;
        outcome.sent += sent;
        outcome.answered += answered;
    }
    outcome.seconds = start.elapsed().as_secs_f64();
    Ok(outcome)
}

struct Asked {
    due: Instant,
    tries: u32,
}

async fn ask(
    port: u16,
    number: u32,
    jobs: Vec<String>,
    connecting: &Semaphore,
) -> Result<(u64, u64)> {
    let start = Instant::now();
    let node = format!("restarted{number}");
    let permit = connecting.acquire().await?;
    let topic = format!("nodes/{node}/net/tablequery/result");
    let (mut reader, mut to) = Reader::open(port, &node, &topic).await?;
    drop(permit);
    let request = format!("nodes/{node}/net/tablequery/request");
    let mut id = 0u16;
    let mut question = |job: &str| {
        id = id.checked_add(1).unwrap_or(1);
        mqtt::publish(
            &request,
            id,
            format!(r#"{{"sname":"{job}","sip":"","seq":{id}}}"#).as_bytes(),
        )
    };
    let mut open: HashMap<String, Asked> = HashMap::new();
    let mut out = Vec::new();
    let (mut sent, mut answered) = (0, 0);
    for job in jobs {
        out.extend(question(&job));
        sent += 1;
        let due = Instant::now() + jittered(FIRST_WAIT);
        open.insert(job, Asked { due, tries: 1 });
    }
    to.write_all(&out).await?;
    while !open.is_empty() {
        ensure!(
            start.elapsed() < PATIENCE,
            "{} queries of {node} stay unanswered",
            open.len()
        );
        let due = open.values().map(|asked| asked.due).min();
        let pause = due.map_or(FIRST_WAIT, |due| {
            due.saturating_duration_since(Instant::now())
        });
        out.clear();
        match tokio::time::timeout(pause, reader.next()).await {
            Ok(packet) => {
                let mut packet = Some(packet?);
                while let Some(now) = packet {
                    if let Packet::Message { payload, id, .. } = now {
                        if let Some(id) = id {
                            out.extend(mqtt::acknowledge(id));
                        }
                        if open.remove(&answered_job(&payload)?).is_some() {
                            answered += 1;
                        }
                    }
                    packet = reader.ready()?;
                }
            }
            Err(_) => {
                let now = Instant::now();
                for (job, asked) in open.iter_mut().filter(|(_, asked)| asked.due <= now) {
                    out.extend(question(job));
                    sent += 1;
                    asked.tries += 1;
                    let wait = FIRST_WAIT * (1 << asked.tries.min(6));
                    asked.due = now + jittered(wait.min(LONGEST_WAIT));
                }
            }
        }
        to.write_all(&out).await?;
    }
    Ok((sent, answered))
}

/// An answer must have an instance: an empty one would hide a loss.
fn answered_job(payload: &[u8]) -> Result<String> {
    let answer: serde_json::Value = serde_json::from_slice(payload)?;
    if answer["instance_list"].as_array().is_none_or(Vec::is_empty) {
        bail!("an answer without an instance: {answer}");
    }
    Ok(answer["query_key"].as_str().unwrap_or_default().to_owned())
}
