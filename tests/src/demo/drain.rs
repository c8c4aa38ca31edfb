//! Step 4: an instance is undeployed while requests run, a connection each.
//!
//! The order is the orchestrators': the root forgets the instance, the nodes are told, then the
//! container is killed and the NodeEngine says so. No request that begins after the client's node
//! was told may reach the instance or fail.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::voice::Voice;
use super::{Demo, report::Report};
use crate::deadline::wait_for;
use crate::measure::Observer;
use crate::process::Process;

/// The instance that goes: it is on the other node.
pub const REMOVED: u32 = 1;
const CONNECTIONS: u32 = 4;
/// From the broker's hands into the route table, on a machine whose cores are all taken.
const GRACE_US: u128 = 250_000;
const LIMIT: Duration = Duration::from_secs(15);

/// One request of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    start_us: u128,
    /// Who answered, or why nobody did.
    answer: Result<u32, String>,
}

pub(super) fn run(demo: &mut Demo, voice: &Voice, report: &mut Report) -> Result<()> {
    let topology = &demo.topology;
    let client = demo.client.as_mut().context("there is no client")?;
    let web = demo.web.as_mut().context("web is not deployed")?;
    let service_ip = web.table()?.service_ip;
    let job = web.service.job.clone();
    let removed = web
        .instances
        .iter_mut()
        .find(|instance| instance.number == REMOVED);
    let removed = removed.context("the instance is not deployed")?;
    let mut observer = Observer {
        container: &mut client.container,
        run: topology.run(),
        programs: &topology.programs,
    };
    let mut poll = observer.poll(service_ip, CONNECTIONS)?;
    wait_for("answers of the instance", LIMIT, || {
        poll.check_running()?;
        let answers = requests(&poll)?;
        let count = answers
            .iter()
            .filter(|request| request.answer == Ok(REMOVED))
            .count();
        Ok((count >= 50).then_some(()))
    })?;

    voice.progress("undeploying an instance");
    let before = now_us();
    topology
        .orchestrator()
        .undeploy_instance(&web.service, REMOVED)?;
    let topic = format!(
        "nodes/{}/net/tablequery/result",
        topology.nodes[client.node].id
    );
    let watch = demo.watch.as_ref().context("nothing is up")?;
    let told = watch.wait("the client's node to be told", LIMIT, |message| {
        let list = message.payload["instance_list"].as_array();
        message.time_us > before
            && message.topic == topic
            && message.payload["app_name"] == job
            && list.is_some_and(|list| list.iter().all(|one| one["instance_number"] != REMOVED))
    })?;
    voice.detail(&format!(
        "instance {REMOVED} undeployed; the client's node was told after {} ms",
        (told.time_us - before) / 1000
    ));
    wait_requests(&mut poll, told.time_us + GRACE_US)?;

    removed.container.kill()?;
    let killed = now_us();
    topology.nodes[removed.node]
        .undeploy(&job, REMOVED)?
        .ok("undeploying the container")?;
    wait_requests(&mut poll, killed)?;
    drop(poll.stdin());
    poll.finish(Duration::from_secs(10))?;

    let all = requests(&poll)?;
    for request in all.iter().filter(|request| request.answer.is_err()) {
        let before = i128::try_from(told.time_us)? - i128::try_from(request.start_us)?;
        let reason = request.answer.as_ref().err().map_or("", String::as_str);
        voice.detail(&format!(
            "a request of {} ms before that: {reason}",
            before / 1000
        ));
    }
    let failed = all.iter().filter(|request| request.answer.is_err()).count();
    report.drained_failures = failed as u64;
    judge(&all, told.time_us + GRACE_US)?;
    voice.detail(&format!(
        "{} requests meanwhile, {failed} failed",
        all.len()
    ));
    Ok(())
}

/// Waits until a good number of requests began after a time.
fn wait_requests(poll: &mut Process, after: u128) -> Result<()> {
    wait_for("further requests", LIMIT, || {
        poll.check_running()?;
        let count = requests(poll)?
            .iter()
            .filter(|request| request.start_us > after)
            .count();
        Ok((count >= 200).then_some(()))
    })
}

/// What must hold for all requests, where `settled` is when the client's node had the update.
fn judge(all: &[Request], settled: u128) -> Result<()> {
    let late = || all.iter().filter(|request| request.start_us > settled);
    let reached = late()
        .filter(|request| request.answer == Ok(REMOVED))
        .count();
    ensure!(
        reached == 0,
        "{reached} requests reached the instance after the update"
    );
    if let Some(failure) = late().find_map(|request| request.answer.as_ref().err()) {
        anyhow::bail!("a request that began after the update failed: {failure}");
    }
    let failed = all
        .iter()
        .filter_map(|request| request.answer.as_ref().err());
    let count = failed.clone().count();
    ensure!(
        count <= CONNECTIONS as usize,
        "{count} requests failed, but only {CONNECTIONS} can have been in flight; the first: {}",
        failed.clone().next().map_or("", String::as_str)
    );
    Ok(())
}

fn requests(poll: &Process) -> Result<Vec<Request>> {
    Ok(poll.output()?.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Request> {
    let mut words = line.splitn(3, ' ');
    let start_us = words.next()?.parse().ok()?;
    words.next()?;
    let outcome = words.next()?;
    let answer = match outcome.strip_prefix("failed: ") {
        Some(reason) => Err(reason.to_owned()),
        None => Ok(outcome.parse().ok()?),
    };
    Some(Request { start_us, answer })
}

fn now_us() -> u128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_micros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_in_flight_may_fail() {
        let at = |start_us, answer| Request { start_us, answer };
        let failed = || Err("refused".to_owned());
        assert!(judge(&[at(1, Ok(REMOVED)), at(2, failed()), at(9, Ok(0))], 5).is_ok());
        assert!(judge(&[at(9, Ok(REMOVED))], 5).is_err());
        assert!(judge(&[at(9, failed())], 5).is_err());
        let many: Vec<_> = (0..5).map(|start| at(start, failed())).collect();
        assert!(judge(&many, 5).is_err());
    }

    #[test]
    fn the_requesters_lines_are_read() {
        assert_eq!(
            parse("10 20 2"),
            Some(Request {
                start_us: 10,
                answer: Ok(2)
            })
        );
        let failed = Request {
            start_us: 10,
            answer: Err("reading: reset".into()),
        };
        assert_eq!(parse("10 20 failed: reading: reset"), Some(failed));
        assert_eq!(parse("10 2"), None);
    }
}
