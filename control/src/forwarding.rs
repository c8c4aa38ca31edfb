//! What the Net Manager needs of the data plane, as a trait: the journeys of this crate run against a recording one,
//! the node against the real one.

pub use dataplane::DriverCounts;
pub use dataplane::api::{
    AccessKind, Answer, Attachment, BackendLine, CommandError, Count, DeviceCounts, Event,
    FlowLine, InstanceLoad, InstanceRoute, JOB_UNUSED, JobRoutes, Loads, NextHop, Pair, PeerLine,
    Policy, PolicyCounts, PoolCounts, PortCounts, PortLine, Query, RoleCounts, RouteLine,
    ServiceAddress, ServiceCounts, Stats, Subnet, WorkerCounts,
};
pub use dataplane::{Capture, CaptureOptions, Trace, TraceFilter};

use std::net::IpAddr;
use std::time::Duration;

/// Commands of the data plane. All may block for some milliseconds; each method does what `dataplane::Handle`'s of
/// the same name does.
pub trait Forwarding: Send + Sync + 'static {
    /// The MAC address that containers see behind their gateway; no host interface has it.
    fn gateway_mac(&self) -> [u8; 6];
    /// Interface index of the host interface.
    fn host_interface_index(&self) -> u32;
    /// Replaces the subnetworks of this node.
    ///
    /// # Errors
    /// The data plane has stopped.
    fn set_subnets(&self, subnets: Vec<Subnet>) -> Result<(), CommandError>;
    /// The Instance IPs of the node's own processes.
    ///
    /// # Errors
    /// The data plane has stopped.
    fn set_host_instance(&self, instance: Pair) -> Result<(), CommandError>;
    /// Takes a container's port over; its number, for a veth end the interface index.
    ///
    /// # Errors
    /// No room, attached already, or the kernel refused.
    fn attach(&self, attachment: Attachment) -> Result<u32, CommandError>;
    /// Lets go of a port; false when it was not attached.
    ///
    /// # Errors
    /// The data plane has stopped.
    fn detach(&self, port: u32) -> Result<bool, CommandError>;
    /// Replaces all that is known of some jobs; an answer for each, an error when there is no room or the data plane
    /// has stopped.
    fn set_jobs(&self, jobs: Vec<JobRoutes>) -> Vec<Result<(), CommandError>>;
    /// Forgets a job.
    ///
    /// # Errors
    /// The data plane has stopped.
    fn forget_job(&self, job: &str) -> Result<(), CommandError>;
    /// Says that nobody knows an address.
    ///
    /// # Errors
    /// The data plane has stopped.
    fn set_unresolvable(&self, address: IpAddr) -> Result<(), CommandError>;
    /// Says how frames reach a host.
    ///
    /// # Errors
    /// The data plane has stopped.
    fn set_next_hop(&self, host: IpAddr, hop: NextHop) -> Result<(), CommandError>;
    /// Counters.
    ///
    /// # Errors
    /// The data plane has stopped.
    fn stats(&self) -> Result<Stats, CommandError>;
    /// The route table.
    ///
    /// # Errors
    /// The data plane has stopped.
    fn routes(&self) -> Result<Vec<RouteLine>, CommandError>;
    /// Live flows, `limit` at most.
    ///
    /// # Errors
    /// The data plane has stopped.
    fn flows(&self, limit: usize) -> Result<Vec<FlowLine>, CommandError>;
    /// Time since a packet last used each job's routes.
    ///
    /// # Errors
    /// The data plane has stopped.
    fn job_idle(&self) -> Result<Vec<(String, Duration)>, CommandError>;
    /// The ports and their names.
    ///
    /// # Errors
    /// The data plane has stopped.
    fn ports(&self) -> Result<Vec<PortLine>, CommandError>;
    /// The backends that routes lead to.
    ///
    /// # Errors
    /// The data plane has stopped.
    fn backends(&self) -> Result<Vec<BackendLine>, CommandError>;
    /// The other nodes that instances are said to run on.
    ///
    /// # Errors
    /// The data plane has stopped.
    fn peers(&self) -> Result<Vec<PeerLine>, CommandError> {
        Ok(Vec::new())
    }
    /// Begins to copy packets.
    ///
    /// # Errors
    /// Someone else captures, or the data plane has stopped.
    fn capture(&self, options: CaptureOptions) -> Result<Capture, CommandError>;
    /// Begins to follow packets.
    ///
    /// # Errors
    /// Someone else traces, or the data plane has stopped.
    fn trace(&self, filter: TraceFilter) -> Result<Trace, CommandError>;
    /// Loads of this node's instances, and the jobs whose loads this node needs.
    ///
    /// # Errors
    /// The data plane has stopped.
    fn loads(&self) -> Result<Loads, CommandError>;
    /// Sends a container the answer to a query that was caught. Does not block; what finds no room is lost.
    fn answer(&self, answer: Answer);
}
