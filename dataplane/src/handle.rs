//! The control plane's way to the control thread.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use crate::api::{
    Answer as Reply, Attachment, BackendLine, CommandError, FlowLine, JobRoutes, Loads, NextHop,
    Pair, PeerLine, PortLine, RouteLine, Stats, Subnet,
};
use crate::control::{Command, Message};
use crate::observe::capture::{Capture, CaptureOptions};
use crate::observe::trace::{Trace, TraceFilter};
use crate::pipeline::GATEWAY_MAC;

/// Gives commands to a running data plane. Every call waits for its answer, which comes within milliseconds.
#[derive(Clone, Debug)]
pub struct Handle {
    control: SyncSender<Message>,
    host_interface: u32,
    /// The ports that are there for as long as the data plane is.
    fixed: Arc<[PortLine]>,
    /// Commands that have no answer yet.
    waiting: Arc<AtomicUsize>,
}

/// Counts an asker until it has its answer.
struct Asking<'a>(&'a AtomicUsize);

impl<'a> Asking<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Others have commands and workers have questions: the control thread must not be away for long.
const JOBS_PER_COMMAND: usize = 256;

type Answer<T> = Result<T, CommandError>;

impl Handle {
    pub(crate) fn new(
        control: SyncSender<Message>,
        host_interface: u32,
        fixed: Vec<PortLine>,
    ) -> Self {
        Self {
            control,
            host_interface,
            fixed: fixed.into(),
            waiting: Arc::default(),
        }
    }

    fn ask<T>(&self, command: impl FnOnce(SyncSender<Answer<T>>) -> Command) -> Answer<T> {
        let _asking = Asking::new(&self.waiting);
        let (reply, answer) = sync_channel(1);
        self.control
            .send(Message::Command(command(reply)))
            .map_err(|_| CommandError::Stopped)?;
        answer.recv().map_err(|_| CommandError::Stopped)?
    }

    /// The MAC address that containers know the gateway by; no interface of the host has it.
    #[must_use]
    pub fn gateway_mac(&self) -> [u8; 6] {
        GATEWAY_MAC.0
    }

    /// Interface index of the host TAP. The control plane gives it addresses and routes, and brings it up.
    #[must_use]
    pub fn host_interface_index(&self) -> u32 {
        self.host_interface
    }

    /// The subnetworks that this node owns now; the first one's gateway signs ICMP errors.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn set_subnets(&self, subnets: Vec<Subnet>) -> Answer<()> {
        self.ask(|reply| Command::Subnets(subnets, reply))
    }

    /// The Instance IPs of the node's own processes (contract section 3, `net/host`).
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn set_host_instance(&self, instance: Pair) -> Answer<()> {
        self.ask(|reply| Command::HostInstance(instance, reply))
    }

    /// Takes a container's packets from now on; the number of its port, by which it is detached: the interface index,
    /// or for an ethdev a number that no interface has.
    ///
    /// # Errors
    /// See [`CommandError`]; nothing is attached then.
    pub fn attach(&self, attachment: Attachment) -> Answer<u32> {
        self.ask(|reply| Command::Attach(Box::new(attachment), reply))
    }

    /// Lets a container go; false when it was not attached. An ethdev is unplugged.
    ///
    /// # Errors
    /// See [`CommandError`]; the container is detached all the same.
    pub fn detach(&self, port: u32) -> Answer<bool> {
        self.ask(|reply| Command::Detach(port, reply))
    }

    /// All ports and their names.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn ports(&self) -> Answer<Vec<PortLine>> {
        let mut ports = self.ask(Command::Ports)?;
        ports.extend(self.fixed.iter().cloned());
        Ok(ports)
    }

    /// Begins to copy packets, as ports receive and are given them. Off again when the answer is dropped.
    ///
    /// # Errors
    /// [`CommandError::Busy`] while another capture is under way.
    pub fn capture(&self, options: CaptureOptions) -> Answer<Capture> {
        let capture = self.ask(|reply| Command::Capture(options, reply))?;
        capture.settle();
        Ok(capture)
    }

    /// Begins to follow packets through the pipeline. Off again when the answer is dropped.
    ///
    /// # Errors
    /// [`CommandError::Busy`] while another trace is under way.
    pub fn trace(&self, filter: TraceFilter) -> Answer<Trace> {
        let trace = self.ask(|reply| Command::Trace(filter, reply))?;
        trace.settle();
        Ok(trace)
    }

    /// The backends that routes lead to.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn backends(&self) -> Answer<Vec<BackendLine>> {
        self.ask(Command::Backends)
    }

    /// Replaces what is known of a job.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn set_job(&self, routes: JobRoutes) -> Answer<()> {
        self.ask(|reply| Command::SetJob(routes, reply))
    }

    /// Replaces what is known of several jobs, at the cost of fewer commands and fewer looks at the tables than one by
    /// one; an answer for each, in their order. Each job changes in one step, but not all at the same moment.
    pub fn set_jobs(&self, routes: Vec<JobRoutes>) -> Vec<Answer<()>> {
        let mut answers = Vec::with_capacity(routes.len());
        let mut routes = routes.into_iter();
        loop {
            let some: Vec<JobRoutes> = routes.by_ref().take(JOBS_PER_COMMAND).collect();
            if some.is_empty() {
                return answers;
            }
            let count = some.len();
            match self.ask(|reply| Command::SetJobs(some, reply)) {
                Ok(some) => answers.extend(some),
                Err(error) => answers.extend(std::iter::repeat_n(Err(error), count)),
            }
        }
    }

    /// Forgets a job: its addresses are unknown again.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn forget_job(&self, job: &str) -> Answer<()> {
        self.ask(|reply| Command::ForgetJob(job.to_owned(), reply))
    }

    /// Nothing is at this address: packets for it are answered so for some seconds.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn set_unresolvable(&self, address: IpAddr) -> Answer<()> {
        self.ask(|reply| Command::Unresolvable(address, reply))
    }

    /// How frames for a host begin their way (ethdev uplinks).
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn set_next_hop(&self, host: IpAddr, hop: NextHop) -> Answer<()> {
        self.ask(|reply| Command::NextHop(host, hop, reply))
    }

    /// Counters and sizes now.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn stats(&self) -> Answer<Stats> {
        let mut stats = self.ask(Command::Stats)?;
        stats.commands_waiting = self.waiting.load(Ordering::Relaxed);
        Ok(stats)
    }

    /// The other nodes that instances are said to run on.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn peers(&self) -> Answer<Vec<PeerLine>> {
        self.ask(Command::Peers)
    }

    /// The route table.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn routes(&self) -> Answer<Vec<RouteLine>> {
        self.ask(Command::Routes)
    }

    /// Live flows, `limit` at most.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn flows(&self, limit: usize) -> Answer<Vec<FlowLine>> {
        self.ask(|reply| Command::Flows(limit, reply))
    }

    /// For each job, the time since a packet last used its routes, or since it became known.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn job_idle(&self) -> Answer<Vec<(String, Duration)>> {
        self.ask(Command::JobIdle)
    }

    /// What this node's instances serve, and the jobs whose instances' loads this node needs fresh.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn loads(&self) -> Answer<Loads> {
        self.ask(Command::Loads)
    }

    /// Sends a container the answer to a query that was caught. One that finds no room, or no container any more, is
    /// lost like a packet.
    pub fn answer(&self, answer: Reply) {
        let _ = self
            .control
            .try_send(Message::Command(Command::Answer(Box::new(answer))));
    }

    pub(crate) fn stop(&self) {
        let _ = self.ask(Command::Stop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(count: usize) -> Vec<JobRoutes> {
        let job = |n| JobRoutes {
            job: format!("a.b.job{n}.d"),
            instances: Vec::new(),
        };
        (0..count).map(job).collect()
    }

    #[test]
    fn many_jobs_go_in_few_commands_and_each_has_its_answer() {
        let (control, inbox) = sync_channel(1);
        let handle = Handle::new(control, 0, Vec::new());
        let thread = std::thread::spawn(move || {
            let mut commands = 0;
            while let Ok(Message::Command(Command::SetJobs(jobs, reply))) = inbox.recv() {
                commands += 1;
                let refused = |job: JobRoutes| Err(CommandError::Full(job.job));
                reply
                    .send(Ok(jobs.into_iter().map(refused).collect()))
                    .unwrap();
            }
            commands
        });
        let count = 2 * JOBS_PER_COMMAND + 7;
        let answers = handle.set_jobs(jobs(count));
        let full = jobs(count)
            .into_iter()
            .map(|j| Err(CommandError::Full(j.job)));
        assert_eq!(answers, full.collect::<Vec<_>>());
        assert!(handle.set_jobs(Vec::new()).is_empty());
        drop(handle);
        assert_eq!(thread.join().unwrap(), 3);
    }

    #[test]
    fn no_job_is_left_without_an_answer_when_the_data_plane_has_stopped() {
        let (control, inbox) = sync_channel(1);
        drop(inbox);
        let handle = Handle::new(control, 0, Vec::new());
        let count = JOBS_PER_COMMAND + 1;
        let answers = handle.set_jobs(jobs(count));
        assert_eq!(answers, vec![Err(CommandError::Stopped); count]);
    }
}
