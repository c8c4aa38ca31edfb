//! Which nodes have vanished.
//!
//! A node's will says so at once. For a node without `net/status` its NodeEngine's periodic
//! `information` has to stop. Silence proves nothing while we ourselves hear nothing, and when more
//! than half of the nodes are missing it is more likely the network or the broker: then none is
//! withdrawn, and an alarm is raised.
//!
//! A will is lost with a broker that is killed. So a node that says it is online and runs something has to
//! say something once in our session with the broker: it does when it connects, and every minute.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::mqtt::Session;
use crate::store::Lives;

const TICK: Duration = Duration::from_millis(500);
/// Longer than a tick, so that the same replica goes on.
const LEASE: Duration = Duration::from_secs(3);

/// A node that vanished, with what that was judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Vanished {
    node: String,
    status: String,
    seen: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Judgement {
    vanished: Vec<Vanished>,
    alarm: bool,
}

/// Judges all nodes at one moment. `heard` is how long messages have been coming in without a pause;
/// a node that said neither status nor `information` counts as known for `forget` after its last word.
fn judge(
    lives: &Lives,
    heard: Duration,
    silence: Duration,
    grace: Duration,
    forget: Duration,
) -> Judgement {
    let milliseconds = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let (heard, silence, grace, forget) = (
        milliseconds(heard),
        milliseconds(silence),
        milliseconds(grace),
        milliseconds(forget),
    );
    let mut known = 0_usize;
    let mut missing = 0_usize;
    let mut vanished = Vec::new();
    let is_departed = |node: &String| lives.departed.contains(node);
    for (node, status) in &lives.status {
        if is_departed(node) {
            continue;
        }
        known += 1;
        let Some((online, since)) = status.split_once(' ') else {
            continue;
        };
        if online == "1" {
            let sign = lives.signs.get(node).and_then(|sign| sign.parse().ok());
            let quiet_for = lives.now.saturating_sub(sign.unwrap_or(0));
            if lives.busy.contains(node) && heard >= 2 * silence && quiet_for > heard {
                missing += 1;
                vanished.push(Vanished {
                    node: node.clone(),
                    status: status.clone(),
                    seen: String::new(),
                });
            }
            continue;
        }
        missing += 1;
        let offline_for = lives.now.saturating_sub(since.parse().unwrap_or(lives.now));
        // It must have had the time to come back while we listened.
        if offline_for.min(heard) >= grace {
            vanished.push(Vanished {
                node: node.clone(),
                status: status.clone(),
                seen: String::new(),
            });
        }
    }
    for (node, seen) in &lives.seen {
        if lives.status.contains_key(node) || is_departed(node) {
            continue;
        }
        known += 1;
        let silent_for = lives.now.saturating_sub(seen.parse().unwrap_or(lives.now));
        if silent_for.min(heard) >= silence {
            missing += 1;
            vanished.push(Vanished {
                node: node.clone(),
                status: String::new(),
                seen: seen.clone(),
            });
        }
    }
    // The others never expire, so they are never missing. That one is gone for good only its silence says.
    for (node, sign) in &lives.signs {
        let is_judged = lives.status.contains_key(node) || lives.seen.contains_key(node);
        let silent_for = lives.now.saturating_sub(sign.parse().unwrap_or(0));
        if !is_judged && !is_departed(node) && silent_for < forget {
            known += 1;
        }
    }
    let alarm = missing * 2 > known;
    if alarm {
        vanished.clear();
    }
    Judgement { vanished, alarm }
}

/// Withdrawn nodes that have been away for longer than `limit`, with their status.
fn long_gone(lives: &Lives, limit: Duration) -> Vec<(String, String)> {
    let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    lives
        .departed
        .iter()
        .filter_map(|node| {
            let status = lives.status.get(node).cloned().unwrap_or_default();
            let since = match status.split_once(' ') {
                // By its own word it is online still: what counts is when it said something last.
                Some(("1", _)) => lives.signs.get(node)?.as_str(),
                Some((_, since)) => since,
                None => lives.seen.get(node)?.as_str(),
            };
            let away = lives.now.saturating_sub(since.parse().ok()?);
            (away >= limit).then(|| (node.clone(), status))
        })
        .collect()
}

/// Watches over the nodes, for ever.
pub async fn run(cluster: Arc<Cluster>, session: Arc<Session>) {
    let mut alarmed = false;
    loop {
        tokio::time::sleep(TICK).await;
        let Some(heard) = session.up_for() else {
            continue;
        };
        let store = &cluster.store;
        match store.lease("liveness", &cluster.replica, LEASE).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(_) => {
                // What nodes say meanwhile is not noted either.
                session.disturbed();
                continue;
            }
        }
        let lives = match store.lives().await {
            Ok(lives) => lives,
            Err(error) => {
                session.disturbed();
                tracing::debug!(%error, "cannot look after the nodes");
                continue;
            }
        };
        let config = &cluster.config;
        let judgement = judge(
            &lives,
            heard,
            config.node_silence,
            config.node_grace,
            config.node_forget,
        );
        cluster
            .metrics
            .mass_vanish_alarm
            .set(u64::from(judgement.alarm));
        if judgement.alarm != alarmed {
            alarmed = judgement.alarm;
            if alarmed {
                tracing::error!(
                    "more than half of the nodes vanished at once; none is withdrawn. Check the broker and the network between it and the nodes"
                );
            } else {
                tracing::info!("most nodes are back");
            }
        }
        for (node, status) in long_gone(&lives, config.node_forget) {
            match store.forget_node(&node, &status).await {
                Ok(true) => tracing::warn!(node, "node forgotten; its subnetworks are given back"),
                Ok(false) => {}
                Err(error) => tracing::debug!(node, %error, "node not forgotten yet"),
            }
        }
        for gone in judgement.vanished {
            match store.depart(&gone.node, &gone.status, &gone.seen).await {
                Ok(Some(instances)) => {
                    cluster.metrics.nodes_withdrawn_total.add();
                    tracing::warn!(node = gone.node, instances, "node vanished; withdrawn");
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(node = gone.node, %error, "node not withdrawn yet"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const GRACE: Duration = Duration::from_secs(20);
    const DAY: Duration = Duration::from_secs(86_400);

    fn lives(status: &[(&str, &str)], seen: &[(&str, &str)]) -> Lives {
        let map = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(node, value)| ((*node).to_owned(), (*value).to_owned()))
                .collect()
        };
        Lives {
            now: 1_000_000,
            status: map(status),
            seen: map(seen),
            departed: Vec::new(),
            signs: BTreeMap::new(),
            busy: Vec::new(),
        }
    }

    fn names(judgement: &Judgement) -> Vec<&str> {
        judgement
            .vanished
            .iter()
            .map(|gone| gone.node.as_str())
            .collect()
    }

    #[test]
    fn a_will_counts_after_the_grace() {
        let three = lives(&[("a", "0 970000"), ("b", "1 0"), ("c", "0 990000")], &[]);
        assert!(
            judge(&three, MINUTE, MINUTE, GRACE, DAY).alarm,
            "two of three"
        );
        let four = lives(
            &[
                ("a", "0 970000"),
                ("b", "1 0"),
                ("c", "0 990000"),
                ("d", "1 0"),
            ],
            &[],
        );
        let judgement = judge(&four, MINUTE, MINUTE, GRACE, DAY);
        assert!(!judgement.alarm);
        assert_eq!(names(&judgement), ["a"]);
    }

    #[test]
    fn silence_counts_only_while_we_hear() {
        let two = lives(&[], &[("a", "900000"), ("b", "999000")]);
        assert_eq!(names(&judge(&two, 2 * MINUTE, MINUTE, GRACE, DAY)), ["a"]);
        assert!(names(&judge(&two, GRACE, MINUTE, GRACE, DAY)).is_empty());
    }

    #[test]
    fn a_node_with_a_status_never_expires_by_silence_and_one_with_neither_never() {
        let nodes = lives(&[("a", "1 0"), ("b", "1 0")], &[("a", "1")]);
        assert!(
            judge(&nodes, 10 * MINUTE, MINUTE, GRACE, DAY)
                .vanished
                .is_empty()
        );
        assert_eq!(
            judge(&Lives::default(), MINUTE, MINUTE, GRACE, DAY),
            Judgement::default()
        );
    }

    #[test]
    fn a_busy_node_has_to_say_something_in_our_session() {
        let mut nodes = lives(&[("a", "1 0"), ("b", "1 0"), ("c", "1 0")], &[]);
        nodes.busy = vec!["a".into(), "b".into()];
        nodes.signs = [("a", "700000"), ("b", "900000"), ("c", "1")]
            .map(|(node, at)| (node.to_owned(), at.to_owned()))
            .into();
        let heard = Duration::from_secs(200);
        assert_eq!(names(&judge(&nodes, heard, MINUTE, GRACE, DAY)), ["a"]);
        assert!(
            judge(&nodes, MINUTE, MINUTE, GRACE, DAY)
                .vanished
                .is_empty()
        );
        let longer = Duration::from_secs(400);
        assert!(
            judge(&nodes, longer, MINUTE, GRACE, DAY)
                .vanished
                .is_empty()
        );
    }

    #[test]
    fn more_than_half_at_once_raises_an_alarm_instead() {
        let nodes = lives(&[], &[("a", "1"), ("b", "1"), ("c", "999999")]);
        let judgement = judge(&nodes, 100 * MINUTE, MINUTE, GRACE, DAY);
        assert!(judgement.alarm && judgement.vanished.is_empty());
    }

    #[test]
    fn only_withdrawn_nodes_are_forgotten_and_only_after_long() {
        let mut nodes = lives(&[("a", "0 1000"), ("b", "0 1000")], &[("c", "1000")]);
        nodes.departed = vec!["a".into(), "c".into()];
        let gone = long_gone(&nodes, MINUTE);
        assert_eq!(
            gone,
            [("a".into(), "0 1000".into()), ("c".into(), String::new())]
        );
        assert!(long_gone(&nodes, 60 * MINUTE).is_empty());
    }

    #[test]
    fn nodes_that_were_withdrawn_count_no_more() {
        let mut nodes = lives(
            &[("a", "0 0"), ("b", "0 0"), ("c", "1 0"), ("d", "1 0")],
            &[],
        );
        nodes.departed = vec!["a".into()];
        let judgement = judge(&nodes, MINUTE, MINUTE, GRACE, DAY);
        assert_eq!(names(&judgement), ["b"]);
    }

    #[test]
    fn nodes_that_only_speak_otherwise_are_known_until_they_are_long_silent() {
        let mut nodes = lives(&[("a", "0 0")], &[]);
        assert!(
            judge(&nodes, MINUTE, MINUTE, GRACE, DAY).alarm,
            "the only one"
        );
        let signs = |at: &[(&str, &str)]| {
            at.iter()
                .map(|(node, at)| ((*node).to_owned(), (*at).to_owned()))
                .collect()
        };
        nodes.signs = signs(&[("a", "900000"), ("b", "990000")]);
        let judgement = judge(&nodes, MINUTE, MINUTE, GRACE, MINUTE);
        assert_eq!(names(&judgement), ["a"], "one of two");
        // Half an hour of silence: not missing, and known for as long as it is not forgotten.
        nodes.now = 3_000_000;
        let judgement = judge(&nodes, MINUTE, MINUTE, GRACE, DAY);
        assert_eq!(names(&judgement), ["a"]);
        assert!(judge(&nodes, MINUTE, MINUTE, GRACE, MINUTE).alarm);
        // Counted once: with a status, by silence, or withdrawn already.
        let mut nodes = lives(&[("a", "0 0"), ("b", "0 0")], &[("c", "1")]);
        nodes.signs = signs(&[("a", "999999"), ("b", "999999"), ("c", "999999")]);
        assert!(judge(&nodes, 2 * MINUTE, MINUTE, GRACE, DAY).alarm);
        let mut nodes = lives(&[("a", "0 0"), ("b", "0 0")], &[]);
        nodes.signs = signs(&[("b", "999999")]);
        nodes.departed = vec!["b".into()];
        assert!(judge(&nodes, MINUTE, MINUTE, GRACE, DAY).alarm);
    }
}
