//! A peer that is laid: its ways, and who works on them.
//!
//! A peer that polls takes a core from everybody else, so it is stopped outside of its own measurements.

use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use journeys::process::{Process, tail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::settings::Nodes;
use super::way::Way;
use crate::threads;

/// A peer in both topologies.
pub struct Laid {
    name: &'static str,
    /// On one node, and between two; or why there is none.
    lanes: [Result<Lane, String>; 2],
}

/// A way, and whose work it is.
pub struct Lane {
    /// From container to container.
    pub way: Way,
    workers: Vec<Worker>,
    polls: bool,
    /// Some programs end when their standard input does.
    #[allow(dead_code)]
    held: Vec<Process>,
}

/// A process that carries packets.
#[derive(Clone, Debug)]
pub struct Worker {
    name: String,
    pid: Pid,
    log: PathBuf,
}

/// While it lives, the peer works; it is the peer's way.
pub struct Awake<'a>(&'a Lane);

impl Laid {
    /// A peer with what it has on one node and between two.
    #[must_use]
    pub fn new(name: &'static str, lanes: [Result<Lane, String>; 2]) -> Laid {
        Laid { name, lanes }
    }

    /// One that this machine has not at all, and why.
    #[must_use]
    pub fn missing(name: &'static str, why: &str) -> Laid {
        Laid::new(name, [Err(why.to_owned()), Err(why.to_owned())])
    }

    /// As results name it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Why it has no way there; none if it has.
    #[must_use]
    pub fn absent(&self, nodes: Nodes) -> Option<&str> {
        self.lane(nodes).err()
    }

    /// The way and its workers, asleep or awake.
    ///
    /// # Errors
    /// Why there is none.
    pub fn lane(&self, nodes: Nodes) -> Result<&Lane, &str> {
        nodes.of(&self.lanes).as_ref().map_err(String::as_str)
    }

    /// Lets it work.
    ///
    /// # Errors
    /// When it is absent, or one of its processes has ended: with its last words.
    pub fn wake(&self, nodes: Nodes) -> Result<Awake<'_>> {
        match self.lane(nodes) {
            Ok(lane) => lane.wake(),
            Err(why) => bail!("{} is not here: {why}", self.name),
        }
    }
}

impl Lane {
    /// A way on which the kernel alone works.
    #[must_use]
    pub fn of_kernel(way: Way) -> Lane {
        Lane {
            way,
            workers: Vec::new(),
            polls: false,
            held: Vec::new(),
        }
    }

    /// A way of processes that wait while there is nothing to do, and are let alone.
    #[must_use]
    pub fn of_waiting(way: Way, processes: Vec<Process>) -> Lane {
        let mut lane = Lane::of_kernel(way);
        lane.workers = processes.iter().map(Worker::of).collect();
        lane.held = processes;
        lane
    }

    /// A way of processes that poll; they are stopped until it is woken.
    ///
    /// # Errors
    /// When one is gone.
    pub fn of_polling(way: Way, processes: Vec<Process>) -> Result<Lane> {
        let mut lane = Lane::of_waiting(way, processes);
        lane.polls = true;
        lane.signal(Signal::SIGSTOP)?;
        Ok(lane)
    }

    /// A way of processes that somebody else holds; those that poll are stopped until it is woken.
    ///
    /// # Errors
    /// When one is gone.
    pub fn of_others(way: Way, workers: Vec<Worker>, poll: bool) -> Result<Lane> {
        let mut lane = Lane::of_kernel(way);
        lane.workers = workers;
        lane.polls = poll;
        lane.signal(Signal::SIGSTOP)?;
        Ok(lane)
    }

    /// Lets it work.
    ///
    /// # Errors
    /// When one of its processes has ended: with its last words.
    pub fn wake(&self) -> Result<Awake<'_>> {
        self.signal(Signal::SIGCONT)?;
        for worker in &self.workers {
            worker.check_running()?;
        }
        Ok(Awake(self))
    }

    /// CPU time of its own processes so far, all threads together. What the kernel does for it in a softirq that hits
    /// somebody else is not in it; only the whole machine's busy time has that.
    ///
    /// # Errors
    /// When one has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.workers.iter().map(Worker::cpu_time).sum()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        if !self.polls {
            return Ok(());
        }
        for worker in &self.workers {
            kill(worker.pid, signal).with_context(|| format!("signalling {}", worker.name))?;
        }
        Ok(())
    }
}

impl Drop for Lane {
    /// A stopped one would not end by SIGTERM.
    fn drop(&mut self) {
        let _ = self.signal(Signal::SIGCONT);
    }
}

impl Worker {
    /// What a process is known by.
    #[must_use]
    pub fn of(process: &Process) -> Worker {
        Worker {
            name: process.name().to_owned(),
            // A process number fits.
            pid: Pid::from_raw(i32::try_from(process.pid()).unwrap_or(i32::MAX)),
            log: process.log().to_owned(),
        }
    }

    fn check_running(&self) -> Result<()> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        let ended = match &status {
            Ok(text) => text
                .lines()
                .any(|line| line.starts_with("State:") && line.contains(['Z', 'X'])),
            Err(_) => true,
        };
        if ended {
            bail!(
                "{} has ended: {}",
                self.name,
                tail(&self.log, 5).join(" | ")
            );
        }
        Ok(())
    }

    fn cpu_time(&self) -> Result<Duration> {
        self.check_running()?;
        let nanoseconds = threads::times(self.pid)?.into_values().sum();
        Ok(Duration::from_nanos(nanoseconds))
    }
}

impl Deref for Awake<'_> {
    type Target = Way;

    fn deref(&self) -> &Way {
        &self.0.way
    }
}

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        let _ = self.0.signal(Signal::SIGSTOP);
    }
}
