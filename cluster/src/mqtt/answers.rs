//! Sessions that only publish answers to nodes.
//!
//! Mosquitto reads one packet of each connection in turn. When a thousand nodes ask at once, the
//! answers of a single connection come out of that a thousand times slower than the questions go
//! in; so they leave through several. A node's answers stay in order: it always has the same one.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rumqttc::{AsyncClient, Event, Packet, QoS, Transport};

use super::session;
use crate::cluster::Cluster;

/// Connections for answers.
pub(super) const SESSIONS: usize = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// One of these sessions.
#[derive(Debug, Default)]
pub struct Answers {
    /// While the session stands.
    client: Mutex<Option<AsyncClient>>,
}

/// Which of them a topic uses.
pub(super) fn choose(topic: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    topic.hash(&mut hasher);
    usize::try_from(hasher.finish() % SESSIONS as u64).unwrap_or_default()
}

impl Answers {
    fn set(&self, client: Option<AsyncClient>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    /// Publishes; waits while the session has much to do. Gives the payload back without a
    /// session.
    pub(super) async fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<(), Vec<u8>> {
        let client = self
            .client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(client) = client else {
            return Err(payload);
        };
        // A session that ends takes what it had along: the node asks again.
        let _ = client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .await;
        Ok(())
    }

    /// Keeps the session, for ever. The listening session tells of an absent broker.
    pub(super) async fn run(&self, cluster: &Cluster, number: usize, transport: &Transport) {
        let mut pause = FIRST_PAUSE;
        loop {
            let options = session::options(cluster, &format!("-answers{number}"), transport);
            let (client, mut events) = session::client(options);
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        self.set(Some(client.clone()));
                        pause = FIRST_PAUSE;
                    }
                    Ok(Event::Incoming(Packet::Disconnect)) => break,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(number, %error, "no session for answers");
                        break;
                    }
                }
            }
            self.set(None);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_one_node_share_a_session_and_nodes_spread_over_all() {
        let mut used = std::collections::HashSet::new();
        for node in 0..200 {
            let topic = format!("nodes/{node}/net/tablequery/result");
            assert_eq!(choose(&topic), choose(&topic));
            used.insert(choose(&topic));
        }
        assert_eq!(used.len(), SESSIONS);
    }

    #[tokio::test]
    async fn without_a_session_the_payload_comes_back() {
        let answers = Answers::default();
        assert_eq!(answers.publish("t", vec![1]).await, Err(vec![1]));
    }
}
