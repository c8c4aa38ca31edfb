//! Publishing, with or without waiting for the broker's acknowledgement.
//!
//! rumqttc does not say which publish an acknowledgement belongs to. But publishes leave in the
//! order in which they were queued, and each is reported with its packet id when it leaves; so
//! the n-th queued is the n-th reported, within one session.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rumqttc::{AsyncClient, QoS};
use serde::Serialize;
use tokio::sync::oneshot;

use super::answers::{self, Answers};
use crate::metrics::Metrics;

/// An acknowledgement must be here by then.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(5);

/// Why a publish is not known to have reached the broker.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No session.
    #[error("there is no session with the MQTT broker")]
    NoSession,
    /// The session ended, or the broker is slow.
    #[error("the MQTT broker did not acknowledge it")]
    Unacknowledged,
    /// A message of ours that is no JSON.
    #[error("the message cannot be written: {0}")]
    Unwritable(#[from] serde_json::Error),
}

/// Publishes into the session of the moment.
#[derive(Debug)]
pub struct Publisher {
    current: tokio::sync::Mutex<Option<Current>>,
    /// Sessions for answers.
    pub(super) answers: Vec<Answers>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Current {
    client: AsyncClient,
    ledger: Arc<Ledger>,
}

/// Publishes of one session between queue and acknowledgement.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<LedgerState>,
}

#[derive(Debug, Default)]
struct LedgerState {
    queued: VecDeque<Option<oneshot::Sender<()>>>,
    sent: HashMap<u16, oneshot::Sender<()>>,
}

impl Ledger {
    fn queue(&self, done: Option<oneshot::Sender<()>>) {
        self.lock().queued.push_back(done);
    }

    /// The next queued publish left with this packet id.
    pub fn left(&self, packet_id: u16) {
        let mut state = self.lock();
        if let Some(Some(done)) = state.queued.pop_front() {
            state.sent.insert(packet_id, done);
        }
    }

    /// The broker acknowledged a packet id.
    pub fn acknowledged(&self, packet_id: u16) {
        if let Some(done) = self.lock().sent.remove(&packet_id) {
            // Nobody waits any more: fine.
            let _ = done.send(());
        }
    }

    /// The session ended: nothing that is outstanding will be acknowledged.
    pub fn close(&self) {
        *self.lock() = LedgerState::default();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LedgerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publisher {
    /// A publisher without a session.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            current: tokio::sync::Mutex::new(None),
            answers: (0..answers::SESSIONS).map(|_| Answers::default()).collect(),
            metrics,
        }
    }

    /// Takes a session, or with `None` has none.
    pub async fn attach(&self, session: Option<(AsyncClient, Arc<Ledger>)>) {
        *self.current.lock().await = session.map(|(client, ledger)| Current { client, ledger });
    }

    /// Publishes an answer. Without a session it is dropped: its node asks again.
    pub async fn send_json<T: Serialize>(&self, topic: String, message: &T) {
        if let Err(error) = self.answer(topic, message).await {
            self.metrics.mqtt_undelivered_total.add();
            tracing::debug!(%error, "answer dropped");
        }
    }

    async fn answer<T: Serialize>(&self, topic: String, message: &T) -> Result<(), PublishError> {
        let payload = serde_json::to_vec(message)?;
        let payload = match self.answers.get(answers::choose(&topic)) {
            Some(answers) => match answers.publish(&topic, payload).await {
                Ok(()) => return Ok(()),
                Err(payload) => payload,
            },
            None => payload,
        };
        self.queue(topic, payload, None).await
    }

    /// Publishes, and waits until the broker has it.
    ///
    /// # Errors
    /// See [`PublishError`]; the broker may have it all the same.
    pub async fn send_confirmed<T: Serialize>(
        &self,
        topic: String,
        message: &T,
    ) -> Result<(), PublishError> {
        let (done, acknowledged) = oneshot::channel();
        self.queue(topic, serde_json::to_vec(message)?, Some(done))
            .await?;
        match tokio::time::timeout(ACKNOWLEDGED_WITHIN, acknowledged).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(PublishError::Unacknowledged),
        }
    }

    async fn queue(
        &self,
        topic: String,
        payload: Vec<u8>,
        done: Option<oneshot::Sender<()>>,
    ) -> Result<(), PublishError> {
        // Held until queued, so that the ledger has the queue's order.
        let current = self.current.lock().await;
        let Some(current) = current.as_ref() else {
            return Err(PublishError::NoSession);
        };
        current.ledger.queue(done);
        current
            .client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .await
            .map_err(|_| PublishError::NoSession)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_acknowledgement_finds_its_publish() {
        let ledger = Ledger::default();
        let (first, first_done) = oneshot::channel();
        let (second, mut second_done) = oneshot::channel();
        ledger.queue(Some(first));
        ledger.queue(None);
        ledger.queue(Some(second));
        for packet_id in [7, 8, 9] {
            ledger.left(packet_id);
        }
        ledger.acknowledged(8);
        ledger.acknowledged(7);
        first_done.await.unwrap();
        assert!(second_done.try_recv().is_err());
        ledger.close();
        assert!(second_done.await.is_err());
    }

    #[tokio::test]
    async fn without_a_session_nothing_is_confirmed() {
        let publisher = Publisher::new(Arc::default());
        let error = publisher
            .send_confirmed("t".into(), &serde_json::json!({}))
            .await
            .unwrap_err();
        assert!(matches!(error, PublishError::NoSession));
    }
}
