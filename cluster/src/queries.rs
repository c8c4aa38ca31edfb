//! Table queries: answered from the copy, else from the root, and never twice for one question.
//!
//! Many nodes ask for the same job at once (a new service, a restart). The first question that
//! needs the root makes one pull; the others wait for its outcome and are answered with it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::mqtt::{TableQuery, TableQueryResult};
use protocol::topic::NodeTopic;
use protocol::{JobName, address};

use crate::answer;
use crate::cluster::Cluster;
use crate::jobs::{self, PullError};
use crate::root_client::Key;
use crate::store::StoreError;

/// Questions that may wait for the root; more are dropped, and their nodes ask again.
const MOST_WAITING: usize = 20_000;

/// A question of a node.
#[derive(Debug, Clone)]
struct Question {
    node: String,
    query: TableQuery,
}

/// Questions that wait for one pull each.
#[derive(Debug, Default)]
pub struct Waiting {
    by_key: Mutex<HashMap<Key, Vec<Question>>>,
}

impl Waiting {
    /// Adds a question; true when it is the first of its key, whose asker has to pull.
    fn join(&self, key: &Key, question: Question) -> bool {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = by_key.get_mut(key) {
            if waiting.len() < MOST_WAITING {
                waiting.push(question);
            }
            return false;
        }
        if by_key.len() >= MOST_WAITING {
            return false;
        }
        by_key.insert(key.clone(), vec![question]);
        true
    }

    fn take(&self, key: &Key) -> Vec<Question> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        by_key.remove(key).unwrap_or_default()
    }
}

/// What a query asks by; `None` when that is neither a name nor an address.
fn key(query: &TableQuery) -> Option<Key> {
    if query.sname.is_empty() {
        address::parse(&query.sip).ok().map(Key::Address)
    } else {
        query.sname.parse::<JobName>().ok().map(Key::Name)
    }
}

fn asked(query: &TableQuery) -> &str {
    if query.sname.is_empty() {
        &query.sip
    } else {
        &query.sname
    }
}

/// Answers a query, now or (through a task of its own) when the root has answered.
///
/// # Errors
/// Redis is away.
pub async fn handle(
    cluster: &Arc<Cluster>,
    node: &str,
    query: TableQuery,
) -> Result<(), StoreError> {
    let Some(key) = key(&query) else {
        answer_unknown(cluster, node, &query).await;
        return Ok(());
    };
    if let Some(answer) = from_copy(cluster, node, &query, &key).await?.answer {
        publish(cluster, node, &answer).await;
        return Ok(());
    }
    let question = Question {
        node: node.to_owned(),
        query,
    };
    if cluster.waiting.join(&key, question) {
        let cluster = Arc::clone(cluster);
        tokio::spawn(async move { ask_the_root(&cluster, &key).await });
    }
    Ok(())
}

struct FromCopy {
    answer: Option<TableQueryResult>,
    was_interested: bool,
}

async fn from_copy(
    cluster: &Cluster,
    node: &str,
    query: &TableQuery,
    key: &Key,
) -> Result<FromCopy, StoreError> {
    let (name, ip): (&str, Option<IpAddr>) = match key {
        Key::Name(name) => (name.as_str(), None),
        Key::Address(ip) => ("", Some(*ip)),
    };
    let found = cluster.store.look_up(node, name, ip, query.seq).await?;
    // The index is a hint: an address may have moved on to another job since.
    let answer = found
        .held
        .filter(|held| ip.is_none_or(|ip| held.has(ip)))
        .map(|held| held.answer(asked(query)));
    Ok(FromCopy {
        answer,
        was_interested: found.was_interested,
    })
}

async fn ask_the_root(cluster: &Arc<Cluster>, key: &Key) {
    let pulled = jobs::pull(cluster, key, None).await;
    if let Err(error) = &pulled {
        tracing::debug!(%error, ?key, "table query not answered by the root");
    }
    for Question { node, query } in cluster.waiting.take(key) {
        match from_copy(cluster, &node, &query, key).await {
            Ok(FromCopy {
                answer: Some(answer),
                ..
            }) => publish(cluster, &node, &answer).await,
            // The root could not be asked, and the node may have a route in use: an empty answer
            // would take it away. It asks again.
            Ok(FromCopy {
                was_interested: true,
                ..
            }) if pulled.is_err() => {}
            Ok(_) if !matches!(pulled, Err(PullError::Store(_))) => {
                answer_unknown(cluster, &node, &query).await;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, node, "table query not answered"),
        }
    }
}

async fn answer_unknown(cluster: &Cluster, node: &str, query: &TableQuery) {
    let answer = answer::unknown(&query.sname, asked(query));
    publish(cluster, node, &answer).await;
}

async fn publish(cluster: &Cluster, node: &str, answer: &TableQueryResult) {
    let topic = NodeTopic::TableQueryResult.of(node);
    cluster.publisher.send_json(topic, answer).await;
}
