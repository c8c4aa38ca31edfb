//! The key space in Redis: every key of one cluster begins with `{oak:cluster:<name>}:`.
//!
//! The braces put all keys into one slot, so that a script may touch any of them on a Redis
//! Cluster. Everything that must change together changes in one script (`scripts/*.lua`); nothing
//! lives in a process's memory that another replica, or the same one after a restart, would miss.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `schema` | string | version of this table |
//! | `server` | string | run id of the server that held the store last: another one is looked at before it is used |
//! | `ticket` | counter | orders everything below: what has the higher ticket came later |
//! | `jobs` | set | names of jobs that this cluster has to do with |
//! | `job:<job>` | hash | the root's copy: `copy` (JSON), `ticket` (taken before the root was asked), `id`, `epoch`, `revision`, `numbers` (`,0,1,`), `addresses` (JSON list); `told`: epoch and revision of the copy that nodes were told of last |
//! | `local:<job>` | hash | instance number → what its node announced: `node, nsip, nsip6, host, port, ticket, reported?, gone?` |
//! | `load:<job>` | hash | instance number → live flows |
//! | `addresses` | hash | Service or Instance IP (canonical text) → job; a hint, checked against the copy |
//! | `namespaces:local` | hash | namespace IP → job, from announcements; a hint too |
//! | `interest:<job>` | set | nodes that asked for the job and did not take it back |
//! | `node:interests:<node>` | set | the same from the node's side |
//! | `node:instances:<node>` | set | `<job>/<number>` of live announcements |
//! | `node:subnets:<node>` | list | `<v4> <v6>` in the order they were given |
//! | `subnets:owner` | hash | v4, and v6 → node |
//! | `subnets:free` | sorted set | `<v4> <v6>`, score = when its rest ends (ms); only under a root that takes nothing back |
//! | `seq:<node>` | hash | subject → last `seq` and when; expires |
//! | `status` | hash | node → `1`/`0` and since when (ms), from `net/status` |
//! | `seen` | sorted set | node → last `information` (ms) |
//! | `signs` | sorted set | node → its last message of any kind (ms), to within seconds |
//! | `departed` | set | nodes whose instances were withdrawn because they vanished |
//! | `away:<node>` | hash | `<job>/<number>` → record that was withdrawn because the node vanished; comes back with it |
//! | `host:<node>` | string | last answer of the root for the node's own processes |
//! | `tasks` | hash | task → ticket and payload: what is owed to root and nodes |
//! | `tasks:due`, `tasks:lease`, `tasks:attempts` | sorted set, hashes | when it is due, who works on it until when, failed attempts |
//! | `forgotten` | hash | job → ticket after the root dropped our interest in it |
//! | `feed` | hash | `epoch`, `revision` up to which the root's changes were followed |
//! | `lease:<work>` | string | the replica that does a work of which one is enough |
//!
//! Invariants:
//! - A copy is replaced only by one of a higher revision of the same epoch, or, without revisions
//!   or in another epoch, by one that was asked for later (`ticket`).
//! - `node` is in `interest:<job>` if and only if `job` is in `node:interests:<node>`.
//! - A record in `local:<job>` overrides the copy until the root was told (`reported`) and a copy
//!   was pulled after that. A `gone` record stays until then, so that an old copy cannot bring the
//!   instance back.
//! - `<v4> <v6>` is in one node's list, or in `subnets:free`, or owed back to the root; never twice.
//! - Whatever changes the state also puts what is owed because of it into `tasks`, in the same script.

/// Version of the key space.
pub const SCHEMA: &str = "1";

/// The prefix of every key of one cluster.
pub fn prefix(cluster_name: &str) -> String {
    format!("{{oak:cluster:{cluster_name}}}:")
}

/// Names of tasks.
pub mod task {
    use protocol::JobName;

    /// Pull the job from the root again; the payload is what to announce after.
    pub fn refresh(job: &JobName) -> String {
        format!("refresh:{job}")
    }

    /// What a task is about.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Task {
        /// Tell nodes that a job changed; the payload is how.
        Announce(JobName),
        /// Tell the root where an instance lives, or that it is gone; the payload is the job's id.
        Report(JobName, u32),
        /// Pull a job from the root.
        Refresh(JobName),
        /// Take back our interest at the root.
        Forget(JobName),
        /// Give back the instance that stood for a node's own processes; the payload is the root's answer.
        HostBack(String),
        /// Give a subnetwork back to the root; the payload is `<v4> <v6>`.
        GiveBack(String),
    }

    /// Reads a task's name; `None` when no version of ours wrote it.
    pub fn parse(text: &str) -> Option<Task> {
        let (kind, about) = text.split_once(':')?;
        Some(match kind {
            "announce" => Task::Announce(about.parse().ok()?),
            "refresh" => Task::Refresh(about.parse().ok()?),
            "forget" => Task::Forget(about.parse().ok()?),
            "giveback" => Task::GiveBack(about.to_owned()),
            "hostback" => Task::HostBack(about.to_owned()),
            "report" => {
                let (job, number) = about.rsplit_once('/')?;
                Task::Report(job.parse().ok()?, number.parse().ok()?)
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::task::{Task, parse, refresh};

    #[test]
    fn task_names_are_read_as_written() {
        let job: protocol::JobName = "a.b.c.d".parse().unwrap();
        assert_eq!(parse(&refresh(&job)), Some(Task::Refresh(job.clone())));
        assert_eq!(parse("report:a.b.c.d/7"), Some(Task::Report(job, 7)));
        assert_eq!(
            parse("giveback:10.18.0.0"),
            Some(Task::GiveBack("10.18.0.0".into()))
        );
        assert_eq!(parse("report:a.b.c.d"), None);
        assert_eq!(parse("dance:a.b.c.d"), None);
    }

    #[test]
    fn all_keys_of_a_cluster_share_one_slot() {
        assert_eq!(super::prefix("c1"), "{oak:cluster:c1}:");
    }
}
