//! Telling those who look at the page that something changed. One look at Redis serves them all,
//! and there is none while nobody looks.

use std::time::Duration;

use tokio::sync::watch;

use crate::store::Store;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// The store's pulse: a text that changes with what people see; `None` when this process stops.
#[derive(Debug)]
pub(crate) struct Live {
    pulse: watch::Sender<Option<String>>,
}

impl Live {
    pub(crate) fn new() -> Self {
        Self {
            pulse: watch::Sender::new(Some(String::new())),
        }
    }

    /// To wait for changes.
    pub(crate) fn listen(&self) -> watch::Receiver<Option<String>> {
        let mut receiver = self.pulse.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Ends every stream, so that a stopping process need not wait for those who look.
    pub(crate) fn stop(&self) {
        self.pulse.send_replace(None);
    }

    /// Looks, for ever.
    pub(crate) async fn run(&self, store: Store) {
        let mut clock = tokio::time::interval(LOOK);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            if self.pulse.receiver_count() == 0 {
                continue;
            }
            match store.pulse().await {
                Ok(pulse) => {
                    self.pulse.send_if_modified(|held| match held {
                        Some(held) if *held != pulse => {
                            *held = pulse;
                            true
                        }
                        _ => false,
                    });
                }
                Err(error) => tracing::debug!(%error, "no look at the store"),
            }
        }
    }
}
