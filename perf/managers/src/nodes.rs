//! Simulated nodes: what a thousand Net Managers do with the broker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use protocol::pacing::InFlight;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::mqtt::{self, Packet, Reader};

/// Nothing may take longer.
const PATIENCE: Duration = Duration::from_secs(180);

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

/// The questions of one node, asked at our own nodes' pace.
struct Questions {
    request: String,
    id: u16,
    waiting: Vec<String>,
    open: InFlight<String>,
    sent: u64,
    answered: u64,
}

impl Questions {
    fn message(&mut self, job: &str) -> Vec<u8> {
        self.sent += 1;
        self.id = self.id.checked_add(1).unwrap_or(1);
        let id = self.id;
        let question = format!(r#"{{"sname":"{job}","sip":"","seq":{id}}}"#);
        mqtt::publish(&self.request, id, question.as_bytes())
    }

    fn answered(&mut self, job: &str, now: Instant) {
        self.answered += u64::from(self.open.answered(&job.to_owned(), now));
    }

    /// Appends what is to be sent now.
    fn due(&mut self, now: Instant, out: &mut Vec<u8>) {
        for job in self.open.repeat(now, |_, _| false) {
            out.extend(self.message(&job));
        }
        while self.open.fresh(|_| true) < self.open.window() {
            let Some(job) = self.waiting.pop() else {
                break;
            };
            out.extend(self.message(&job));
            self.open.ask(job, now);
        }
    }
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
    let mut questions = Questions {
        request: format!("nodes/{node}/net/tablequery/request"),
        id: 0,
        waiting: jobs,
        open: InFlight::default(),
        sent: 0,
        answered: 0,
    };
    let mut out = Vec::new();
    questions.due(Instant::now(), &mut out);
    to.write_all(&out).await?;
    while let Some(due) = questions.open.next_due() {
        ensure!(
            start.elapsed() < PATIENCE,
            "{} queries of {node} stay unanswered",
            questions.open.len() + questions.waiting.len()
        );
        out.clear();
        let pause = due.saturating_duration_since(Instant::now());
        if let Ok(packet) = tokio::time::timeout(pause, reader.next()).await {
            let mut packet = Some(packet?);
            while let Some(now) = packet {
                if let Packet::Message { payload, id, .. } = now {
                    if let Some(id) = id {
                        out.extend(mqtt::acknowledge(id));
                    }
                    questions.answered(&answered_job(&payload)?, Instant::now());
                }
                packet = reader.ready()?;
            }
        }
        questions.due(Instant::now(), &mut out);
        to.write_all(&out).await?;
    }
    Ok((questions.sent, questions.answered))
}

/// An answer must have an instance: an empty one would hide a loss.
fn answered_job(payload: &[u8]) -> Result<String> {
    let answer: serde_json::Value = serde_json::from_slice(payload)?;
    if answer["instance_list"].as_array().is_none_or(Vec::is_empty) {
        bail!("an answer without an instance: {answer}");
    }
    Ok(answer["query_key"].as_str().unwrap_or_default().to_owned())
}
