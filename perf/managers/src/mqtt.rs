//! As much MQTT 3.1.1 as a simulated node speaks: connect, subscribe, publish at QoS 1. A full
//! client a thousand times over would take the cores that the managers need.

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A packet from the broker.
#[derive(Debug)]
pub enum Packet {
    /// The session stands.
    Connected,
    /// The subscription stands.
    Subscribed,
    /// A message, with its packet id at QoS 1.
    Message { payload: Vec<u8>, id: Option<u16> },
    /// A publish of ours arrived.
    Acknowledged,
    /// Anything else.
    Other,
}

fn text(into: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    into.extend(length.to_be_bytes());
    into.extend(text.as_bytes());
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    let mut length = body.len();
    loop {
        let byte = u8::try_from(length % 128).unwrap_or_default();
        length /= 128;
        out.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

/// CONNECT with a clean session, without keep-alive.
pub fn connect(client_id: &str) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, "MQTT");
    body.extend([4, 2, 0, 0]);
    text(&mut body, client_id);
    packet(0x10, &body)
}

/// SUBSCRIBE to one topic at QoS 1.
pub fn subscribe(topic: &str) -> Vec<u8> {
    let mut body = vec![0, 1];
    text(&mut body, topic);
    body.push(1);
    packet(0x82, &body)
}

/// PUBLISH at QoS 1.
pub fn publish(topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, topic);
    body.extend(id.to_be_bytes());
    body.extend(payload);
    packet(0x32, &body)
}

/// PUBACK.
pub fn acknowledge(id: u16) -> Vec<u8> {
    packet(0x40, &id.to_be_bytes())
}

/// Reads packets off a connection.
pub struct Reader {
    from: OwnedReadHalf,
    buffer: Vec<u8>,
}

impl Reader {
    /// Connects, and waits until the session stands and the topic is subscribed.
    pub async fn open(port: u16, client_id: &str, topic: &str) -> Result<(Self, OwnedWriteHalf)> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.set_nodelay(true)?;
        let (from, mut to) = socket.into_split();
        let mut reader = Self {
            from,
            buffer: Vec::new(),
        };
        to.write_all(&connect(client_id)).await?;
        while !matches!(reader.next().await?, Packet::Connected) {}
        to.write_all(&subscribe(topic)).await?;
        while !matches!(reader.next().await?, Packet::Subscribed) {}
        Ok((reader, to))
    }

    /// The next packet. May be dropped while it waits.
    pub async fn next(&mut self) -> Result<Packet> {
        loop {
            if let Some((packet, length)) = parse(&self.buffer)? {
                self.buffer.drain(..length);
                return Ok(packet);
            }
            ensure!(
                self.from.read_buf(&mut self.buffer).await? > 0,
                "the broker closed the connection"
            );
        }
    }

    /// A packet that is there already.
    pub fn ready(&mut self) -> Result<Option<Packet>> {
        let Some((packet, length)) = parse(&self.buffer)? else {
            return Ok(None);
        };
        self.buffer.drain(..length);
        Ok(Some(packet))
    }
}

fn parse(buffer: &[u8]) -> Result<Option<(Packet, usize)>> {
    let Some((&kind, rest)) = buffer.split_first() else {
        return Ok(None);
    };
    let mut length = 0;
    let mut header = 1;
    for (at, byte) in rest.iter().enumerate() {
        ensure!(at < 4, "no MQTT");
        length |= usize::from(byte & 0x7f) << (7 * at);
        header += 1;
        if byte & 0x80 == 0 {
            let Some(body) = buffer.get(header..header + length) else {
                return Ok(None);
            };
            return Ok(Some((read(kind, body)?, header + length)));
        }
    }
    Ok(None)
}

fn read(kind: u8, body: &[u8]) -> Result<Packet> {
    Ok(match kind >> 4 {
        2 => {
            ensure!(body.get(1) == Some(&0), "the broker refused the session");
            Packet::Connected
        }
        9 => Packet::Subscribed,
        4 => Packet::Acknowledged,
        3 => {
            let [first, second, rest @ ..] = body else {
                bail!("a short PUBLISH");
            };
            let length = usize::from(u16::from_be_bytes([*first, *second]));
            let (_topic, rest) = rest.split_at_checked(length).context("a short PUBLISH")?;
            let (id, payload) = match (kind & 6, rest) {
                (0, rest) => (None, rest),
                (_, [high, low, rest @ ..]) => (Some(u16::from_be_bytes([*high, *low])), rest),
                _ => bail!("a short PUBLISH"),
            };
            Packet::Message {
                payload: payload.to_vec(),
                id,
            }
        }
        _ => Packet::Other,
    })
}
