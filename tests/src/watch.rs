//! What the broker passes on, with the time: the moment when a node was told of a change.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::deadline::wait_for;
use crate::process::{Launch, Process};
use crate::run::{Run, Stage};
use crate::services::{BROKER_PORT, Seat};

/// A subscriber beside the broker; it only listens.
#[derive(Debug)]
pub struct Watch {
    process: Process,
}

/// One MQTT message.
#[derive(Debug, Clone)]
pub struct Message {
    /// When it passed, microseconds since 1970.
    pub time_us: u128,
    /// Its topic.
    pub topic: String,
    /// Its payload; null when that is no JSON.
    pub payload: Value,
}

impl Watch {
    /// Subscribes to every topic and waits until that is in force.
    ///
    /// # Errors
    /// When the broker does not take the subscription.
    pub fn start(run: &Run, broker: &Seat) -> Result<Watch> {
        let marker = format!("watch/{}", run.id());
        let address = broker.address.to_string();
        let port = BROKER_PORT.to_string();
        let process = Launch::new(
            "watch",
            Path::new("mosquitto_sub"),
            &broker.namespace,
            Stage::Manager,
        )
        .args([
            "-h", &address, "-p", &port, "-q", "1", "-F", "%U %t %p", "-t", "#",
        ])
        .start(run)?;
        let mut watch = Watch { process };
        wait_for("the MQTT subscription", Duration::from_secs(5), || {
            watch.process.check_running()?;
            let publish = ["-h", &address, "-p", &port, "-t", &marker, "-m", "{}"];
            broker.namespace.command("mosquitto_pub", &publish)?;
            Ok(watch
                .messages()?
                .iter()
                .any(|message| message.topic == marker)
                .then_some(()))
        })?;
        Ok(watch)
    }

    /// What passed so far.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn messages(&self) -> Result<Vec<Message>> {
        Ok(self.process.output()?.lines().filter_map(parse).collect())
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn wait(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Message) -> bool,
    ) -> Result<Message> {
        wait_for(what, limit, || {
            Ok(self.messages()?.into_iter().find(|message| wanted(message)))
        })
        .context("the broker did not pass it on")
    }
}

fn parse(line: &str) -> Option<Message> {
    let mut words = line.splitn(3, ' ');
    let (seconds, fraction) = words.next()?.split_once('.')?;
    let micros = format!("{fraction:0<6}");
    Some(Message {
        time_us: seconds.parse::<u128>().ok()? * 1_000_000
            + micros.get(..6)?.parse::<u128>().ok()?,
        topic: words.next()?.to_owned(),
        payload: words
            .next()
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_time_topic_and_payload() {
        let message =
            parse("1700000000.123456789 jobs/a.b.c.d/updates_available {\"type\": \"X\"}").unwrap();
        assert_eq!(message.time_us, 1_700_000_000_123_456);
        assert_eq!(message.topic, "jobs/a.b.c.d/updates_available");
        assert_eq!(message.payload["type"], "X");
        assert!(parse("half").is_none());
    }
}
