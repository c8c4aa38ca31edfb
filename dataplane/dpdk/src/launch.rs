//! Worker lcores: one closure at a time on each, launched from the main lcore's thread.
//!
//! A panic must not unwind into EAL's C loop. It ends the closure, and the worker can be used again.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};

use dpdk_sys as sys;

use crate::errno::Errno;

/// Why a closure was not launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No such worker.
    #[error("there is no worker {0}: EAL was started with {1}")]
    NoSuchWorker(usize, usize),
    /// Busy.
    #[error("worker {0} is still running: stop and join it first")]
    Busy(usize),
    /// EAL is on its way out.
    #[error("EAL has stopped: keep the Eal for as long as workers are needed")]
    Stopped,
    /// DPDK refused.
    #[error("DPDK cannot launch on worker {0}: {1}")]
    Dpdk(usize, Errno),
}

/// How a worker ended badly.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Its closure panicked.
    #[error("the worker panicked: {0}")]
    Panicked(String),
}

type Task = Box<dyn FnOnce() + Send>;
type Outcome = Result<(), WorkerError>;

#[derive(Default, Debug)]
struct Slot {
    progress: Mutex<Progress>,
    ended: Condvar,
}

#[derive(Default, Debug)]
struct Progress {
    finished: bool,
    outcome: Option<Outcome>,
}

impl Slot {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, outcome: Outcome) {
        let mut progress = self.progress();
        progress.finished = true;
        progress.outcome = Some(outcome);
        self.ended.notify_all();
    }
}

/// A launched closure. Dropping the handle lets it run on.
#[must_use = "a worker's panic shows in join only"]
#[derive(Debug)]
pub struct Worker {
    slot: Arc<Slot>,
}

impl Worker {
    /// Waits for the closure to end.
    ///
    /// # Errors
    /// [`WorkerError::Panicked`] with the panic's message.
    pub fn join(self) -> Result<(), WorkerError> {
        let progress = self.slot.progress();
        let mut progress = self
            .slot
            .ended
            .wait_while(progress, |progress| !progress.finished)
            .unwrap_or_else(PoisonError::into_inner);
        progress.outcome.take().unwrap_or(Ok(()))
    }

    /// Whether the closure has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.slot.progress().finished
    }
}

/// An order for the main lcore's thread: launch this on that lcore.
pub(crate) struct Command {
    lcore: u32,
    job: Box<Job>,
    reply: mpsc::Sender<Result<(), Errno>>,
}

struct Job {
    task: Task,
    slot: Arc<Slot>,
}

impl Command {
    /// Runs on the main lcore's thread, as DPDK demands.
    pub(crate) fn run(self) {
        let job = Box::into_raw(self.job);
        // The last closure has ended; waiting here covers the instant until EAL notes it.
        // SAFETY: the lcore exists, and `run_job` takes over the box that the pointer came from.
        let launched = unsafe {
            sys::rte_eal_wait_lcore(self.lcore);
            Errno::check(sys::rte_eal_remote_launch(
                Some(run_job),
                job.cast(),
                self.lcore,
            ))
            .map(drop)
        };
        if launched.is_err() {
            // SAFETY: not launched, so the box is still ours.
            drop(unsafe { Box::from_raw(job) });
        }
        // The asker may have gone; the worker runs all the same.
        let _heard = self.reply.send(launched);
    }
}

unsafe extern "C" fn run_job(job: *mut c_void) -> c_int {
    // SAFETY: the box of `Command::run`, handed over once.
    let Job { task, slot } = *unsafe { Box::from_raw(job.cast::<Job>()) };
    // Nothing that the closure broke half way is seen again: it owned what it touched.
    let outcome = panic::catch_unwind(AssertUnwindSafe(task)).map_err(|payload| {
        let text = message(payload.as_ref());
        // A payload may panic when dropped, too.
        if let Err(again) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(again);
        }
        WorkerError::Panicked(text)
    });
    slot.finish(outcome);
    0
}

fn message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// What each worker lcore is at, and the way to the main lcore.
pub(crate) struct Lcores {
    slots: Mutex<Vec<Option<Arc<Slot>>>>,
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    count: usize,
}

impl Lcores {
    pub(crate) fn new(count: usize, commands: mpsc::Sender<Command>) -> Self {
        Self {
            slots: Mutex::new(vec![None; count]),
            commands: Mutex::new(Some(commands)),
            count,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn launch(&self, worker: usize, task: Task) -> Result<Worker, LaunchError> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let current = slots
            .get_mut(worker)
            .ok_or(LaunchError::NoSuchWorker(worker, self.count))?;
        if current
            .as_ref()
            .is_some_and(|slot| !slot.progress().finished)
        {
            return Err(LaunchError::Busy(worker));
        }
        let slot = Arc::new(Slot::default());
        let lcore =
            u32::try_from(worker + 1).map_err(|_| LaunchError::NoSuchWorker(worker, self.count))?;
        let (reply, replied) = mpsc::channel();
        let command = Command {
            lcore,
            job: Box::new(Job {
                task,
                slot: Arc::clone(&slot),
            }),
            reply,
        };
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = commands.as_ref().ok_or(LaunchError::Stopped)?;
        sender.send(command).map_err(|_| LaunchError::Stopped)?;
        replied
            .recv()
            .map_err(|_| LaunchError::Stopped)?
            .map_err(|errno| LaunchError::Dpdk(worker, errno))?;
        *current = Some(Arc::clone(&slot));
        Ok(Worker { slot })
    }

    /// Ends the main lcore's thread after the orders that it has.
    pub(crate) fn close(&self) {
        self.commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}
