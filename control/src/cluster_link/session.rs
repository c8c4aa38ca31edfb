//! The connection to the broker: made again and again, each time from nothing.
//!
//! What must arrive is confirmed by its effect (see `announce` and `queries`), so a new connection starts with a clean
//! session and an empty outbox, and those who have something to say say it again.

use std::time::Duration;

use protocol::mqtt::{NodeStatus, SubnetMethod, SubnetRequest};
use protocol::pacing::jittered;
use protocol::topic::NodeTopic;
use rumqttc::{
    AsyncClient, Event, EventLoop, LastWill, MqttOptions, Packet, QoS, SubscribeFilter,
    TlsConfiguration, Transport,
};
use tokio::sync::{Notify, mpsc};

use crate::config::TlsFiles;

const KEEP_ALIVE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Requests that may wait for the socket.
const OUTBOX: usize = 4096;

/// Where the broker is and who we are to it.
#[derive(Clone, Debug)]
pub struct Broker {
    pub client_id: String,
    pub host: String,
    pub port: u16,
    pub tls: Option<TlsFiles>,
}

/// What happens on the connection.
pub enum SessionEvent {
    /// Connected, and our own topics are subscribed.
    Up(AsyncClient),
    /// The connection ended or could not be made.
    Down(String),
    /// A message came.
    Message { topic: String, payload: Vec<u8> },
}

fn options(broker: &Broker) -> Result<MqttOptions, String> {
    let mut options = MqttOptions::new(&broker.client_id, &broker.host, broker.port);
    options.set_keep_alive(KEEP_ALIVE);
    options.set_clean_session(true);
    options.set_max_packet_size(16 << 20, 16 << 20);
    options.set_inflight(256);
    let will =
        serde_json::to_vec(&NodeStatus { online: false }).map_err(|error| error.to_string())?;
    options.set_last_will(LastWill::new(
        NodeTopic::Status.of(&broker.client_id),
        will,
        QoS::AtLeastOnce,
        true,
    ));
    if let Some(files) = &broker.tls {
        // Several TLS libraries may be linked in; which one serves is decided here, once.
        let _ =
            rumqttc::tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default();
        let read = |path: &std::path::Path| {
            std::fs::read(path)
                .map_err(|error| format!("{}: {error}; MQTT by TLS needs it", path.display()))
        };
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Simple {
            ca: read(&files.authority)?,
            alpn: None,
            client_auth: Some((read(&files.certificate)?, read(&files.key)?)),
        }));
    }
    Ok(options)
}

/// Messages are small and each is waited for by someone: none may wait for the acknowledgement of the one before it,
/// which the broker's kernel puts off for 40 ms (RFC 1122 section 4.2.3.2).
fn tune(eventloop: &mut EventLoop) {
    eventloop.network_options.set_connection_timeout(5);
    eventloop.network_options.set_tcp_nodelay(true);
}

/// Keeps a connection until nobody listens any more. `renew` asks for a new one at once: one whose local address has
/// left this host would only be missed after the keep-alive.
pub async fn keep(
    broker: Broker,
    events: mpsc::Sender<SessionEvent>,
    renew: std::sync::Arc<Notify>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let reason = match options(&broker) {
            Ok(options) => {
                let (client, mut eventloop) = AsyncClient::new(options, OUTBOX);
                tune(&mut eventloop);
                let ended = tokio::select! {
                    ended = serve(&broker, client.clone(), &mut eventloop, &events, &mut pause) => ended,
                    () = renew.notified() => {
                        part(&client, &mut eventloop).await;
                        pause = FIRST_PAUSE;
                        Some("this node's address has changed".to_owned())
                    }
                };
                match ended {
                    Some(reason) => reason,
                    None => return,
                }
            }
            Err(reason) => reason,
        };
        if events.send(SessionEvent::Down(reason)).await.is_err() {
            return;
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Takes leave where there is still a way to the broker, so that it does not speak our will.
async fn part(client: &AsyncClient, eventloop: &mut EventLoop) {
    if client.try_disconnect().is_err() {
        return;
    }
    let until_closed = async { while eventloop.poll().await.is_ok() {} };
    let _ = tokio::time::timeout(Duration::from_millis(300), until_closed).await;
}

/// Serves one connection; answers why it ended, or `None` when nobody listens any more.
async fn serve(
    broker: &Broker,
    client: AsyncClient,
    eventloop: &mut EventLoop,
    events: &mpsc::Sender<SessionEvent>,
    pause: &mut Duration,
) -> Option<String> {
    let mut subscribed = false;
    loop {
        match eventloop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                let filters = NodeTopic::TO_NODE.map(|topic| {
                    SubscribeFilter::new(topic.of(&broker.client_id), QoS::AtLeastOnce)
                });
                if let Err(error) = client.try_subscribe_many(filters) {
                    return Some(error.to_string());
                }
            }
            Ok(Event::Incoming(Packet::SubAck(_))) if !subscribed => {
                subscribed = true;
                *pause = FIRST_PAUSE;
                events.send(SessionEvent::Up(client.clone())).await.ok()?;
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let message = SessionEvent::Message {
                    topic: publish.topic,
                    payload: publish.payload.to_vec(),
                };
                events.send(message).await.ok()?;
            }
            Ok(Event::Incoming(Packet::Disconnect)) => {
                return Some("the broker ended the connection".to_owned());
            }
            Ok(_) => {}
            Err(error) => {
                return Some(format!("broker {}:{}: {error}", broker.host, broker.port));
            }
        }
        if events.is_closed() {
            return None;
        }
    }
}

/// Gives all subnetworks of some node ids back, over a connection of its own.
pub async fn give_back(broker: &Broker, owners: &[String]) -> Result<(), String> {
    let (client, mut eventloop) = AsyncClient::new(options(broker)?, OUTBOX);
    tune(&mut eventloop);
    for owner in owners {
        let request = SubnetRequest {
            method: SubnetMethod::Delete,
            have: None,
            address: None,
            seq: None,
        };
        let payload = serde_json::to_vec(&request).map_err(|error| error.to_string())?;
        client
            .try_publish(
                NodeTopic::Subnet.of(owner),
                QoS::AtLeastOnce,
                false,
                payload,
            )
            .map_err(|error| error.to_string())?;
    }
    let mut acknowledged = 0;
    let serve = async {
        while acknowledged < owners.len() {
            match eventloop.poll().await {
                Ok(Event::Incoming(Packet::PubAck(_))) => acknowledged += 1,
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(8), serve)
        .await
        .unwrap_or_else(|_| Err("the broker did not answer in time".to_owned()))
}
