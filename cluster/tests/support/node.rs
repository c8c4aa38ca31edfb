//! A node: what it says by MQTT and what it hears.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, LastWill, MqttOptions, Packet, QoS};
use serde_json::{Value, json};

use super::{DEADLINE, eventually};

/// A node with nothing behind it.
pub struct Node {
    pub id: String,
    client: AsyncClient,
    received: Arc<Mutex<Vec<(String, Value)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        // No DISCONNECT is sent: the broker publishes the will.
        self.task.abort();
    }
}

impl Node {
    pub async fn join(id: &str, broker: u16, will: bool) -> Self {
        Self::join_as(id, id, broker, will, rumqttc::Transport::Tcp).await
    }

    /// A client under a name of its own; it still hears and says what concerns node `id`.
    pub async fn join_as(
        client_id: &str,
        id: &str,
        broker: u16,
        will: bool,
        transport: rumqttc::Transport,
    ) -> Self {
        let mut options = MqttOptions::new(client_id, "127.0.0.1", broker);
        options.set_transport(transport);
        options.set_keep_alive(Duration::from_secs(5));
        options.set_max_packet_size(1 << 20, 1 << 20);
        if will {
            options.set_last_will(LastWill::new(
                format!("nodes/{id}/net/status"),
                r#"{"online":false}"#,
                QoS::AtLeastOnce,
                true,
            ));
        }
        let (client, mut events) = AsyncClient::new(options, 2048);
        let mut network = rumqttc::NetworkOptions::new();
        network.set_tcp_nodelay(true);
        events.set_network_options(network);
        let received = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&received);
        let (subscribed, wait) = tokio::sync::watch::channel(false);
        let (filters, again) = (id.to_owned(), client.clone());
        let task = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        for filter in [
                            format!("nodes/{filters}/net/subnetwork/result"),
                            format!("nodes/{filters}/net/tablequery/result"),
                            format!("nodes/{filters}/net/host/result"),
                            format!("nodes/{filters}/control/+"),
                            "jobs/+/updates_available".to_owned(),
                        ] {
                            again.try_subscribe(filter, QoS::AtLeastOnce).unwrap();
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        let _ = subscribed.send(true);
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let body = serde_json::from_slice(&publish.payload).unwrap();
                        sink.lock().unwrap().push((publish.topic, body));
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        eventually("the node's session", async || wait.borrow().then_some(())).await;
        Self {
            id: id.to_owned(),
            client,
            received,
            task,
        }
    }

    pub async fn subscribe(&self, filter: &str) {
        let qos = QoS::AtLeastOnce;
        self.client.subscribe(filter, qos).await.unwrap();
    }

    /// To any topic.
    pub async fn publish(&self, topic: &str, payload: &Value) {
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload.to_string())
            .await
            .unwrap();
    }

    pub async fn send_bytes(&self, topic: &str, payload: &[u8]) {
        let topic = format!("nodes/{}/{topic}", self.id);
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .await
            .unwrap();
    }

    pub async fn send(&self, topic: &str, payload: &Value) {
        self.send_bytes(topic, payload.to_string().as_bytes()).await;
    }

    pub async fn status(&self, online: bool) {
        let topic = format!("nodes/{}/net/status", self.id);
        let body = json!({"online": online}).to_string();
        self.client
            .publish(topic, QoS::AtLeastOnce, true, body)
            .await
            .unwrap();
    }

    pub fn forget(&self) {
        self.received.lock().unwrap().clear();
    }

    pub fn received(&self, topic: &str) -> Vec<Value> {
        let list = self.received.lock().unwrap();
        list.iter()
            .filter(|(at, _)| at.ends_with(topic))
            .map(|(_, body)| body.clone())
            .collect()
    }

    pub async fn receives(&self, topic: &str) -> Value {
        eventually(&format!("{} receives {topic}", self.id), async || {
            self.received(topic).last().cloned()
        })
        .await
    }

    /// Asks until it is answered, as nodes do; the answer to this question.
    pub async fn query(&self, name: &str, address: &str) -> Value {
        let asked = if name.is_empty() { address } else { name };
        let start = Instant::now();
        loop {
            self.forget();
            self.send(
                "net/tablequery/request",
                &json!({"sname": name, "sip": address}),
            )
            .await;
            let patience = Instant::now();
            while patience.elapsed() < Duration::from_secs(3) {
                let answers = self.received("net/tablequery/result");
                if let Some(answer) = answers
                    .into_iter()
                    .find(|answer| answer["query_key"] == asked)
                {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(start.elapsed() < DEADLINE, "no answer for {asked}");
        }
    }

    /// Asks until the answer is as it should be.
    pub async fn sees(&self, what: &str, name: &str, good: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let answer = self.query(name, "").await;
            if good(&answer) {
                return answer;
            }
            assert!(start.elapsed() < DEADLINE, "{what}: {answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn deployed(&self, job: &str, number: u32, last: u32) {
        self.send("net/service/deployed", &announcement(job, number, last))
            .await;
    }
}

pub fn announcement(job: &str, number: u32, last: u32) -> Value {
    json!({"appname": job, "status": "DEPLOYED", "instance_number": number,
        "nsip": format!("10.18.0.{last}"), "nsipv6": format!("fc00::{last}"),
        "host_port": "50103", "host_ip": "192.0.2.10"})
}

pub fn count(answer: &Value) -> usize {
    answer["instance_list"].as_array().unwrap().len()
}
