//! A cluster that answers at once, so that what is measured is the node and the broker: as much MQTT 3.1.1 as that takes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// An instance, as a table query shows it.
#[derive(Clone)]
pub struct Place {
    pub namespace_ip: String,
    pub instance_ip: String,
    pub host_ip: String,
}

fn text(into: &mut Vec<u8>, text: &str) {
    into.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
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

/// A session with the broker.
pub struct Session(TcpStream);

impl Session {
    /// Connects with a clean session and without keep-alive.
    pub fn open(stream: TcpStream, id: &str) -> Result<Self> {
        stream.set_nodelay(true)?;
        let mut body = Vec::new();
        text(&mut body, "MQTT");
        body.extend([4, 2, 0, 0]);
        text(&mut body, id);
        let mut session = Self(stream);
        session.0.write_all(&packet(0x10, &body))?;
        ensure!(session.read()?.0 == 0x20, "the broker refused the session");
        Ok(session)
    }

    /// Round trips of MQTT's own ping.
    pub fn pings(&mut self, count: usize) -> Result<Vec<Duration>> {
        (0..count)
            .map(|_| {
                let asked = Instant::now();
                self.0.write_all(&packet(0xc0, &[]))?;
                self.read()?;
                Ok(asked.elapsed())
            })
            .collect()
    }

    fn read(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut byte = [0];
        self.0.read_exact(&mut byte)?;
        let kind = byte[0];
        let (mut length, mut shift) = (0, 0);
        loop {
            self.0.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((kind, body))
    }

    /// Subscribes to the table queries of all nodes; from then on none is missed.
    pub fn listen(&mut self) -> Result<()> {
        let mut body = vec![0, 1];
        text(&mut body, "nodes/+/net/tablequery/request");
        body.push(0);
        self.0.write_all(&packet(0x82, &body))?;
        ensure!(self.read()?.0 == 0x90, "the broker does not subscribe");
        Ok(())
    }

    /// Answers table queries until the connection ends: `caller` for its own Instance IP, `server` under any other
    /// address, as the only instance of a job of that address: its own Instance IP is what it answers by, so each job
    /// takes it from the one before.
    pub fn answer(mut self, caller: &Place, server: &Place) -> Result<()> {
        loop {
            let (kind, body) = self.read()?;
            if kind & 0xf0 != 0x30 {
                continue;
            }
            let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
            let topic = std::str::from_utf8(&body[2..2 + length])?;
            let node = topic.split('/').nth(1).context("a topic without a node")?;
            let query: Value = serde_json::from_slice(&body[2 + length..])?;
            let (sip, sname) = (query["sip"].as_str(), query["sname"].as_str());
            let asked = sip
                .filter(|sip| !sip.is_empty())
                .or(sname)
                .unwrap_or_default();
            let Some(table) = table(asked, caller, server) else {
                continue;
            };
            let mut body = Vec::new();
            text(&mut body, &format!("nodes/{node}/net/tablequery/result"));
            body.extend(table.to_string().as_bytes());
            self.0.write_all(&packet(0x30, &body))?;
        }
    }
}

fn table(asked: &str, caller: &Place, server: &Place) -> Option<Value> {
    let name: String = asked.chars().filter(char::is_ascii_digit).collect();
    let own = asked == caller.instance_ip;
    let (place, service) = match asked.strip_prefix("10.30.") {
        _ if own => (caller, "10.30.250.250"),
        Some(_) => (server, asked),
        None => return None,
    };
    Some(
        json!({"app_name": format!("perf.test.known{name}.default"), "query_key": asked, "instance_list": [{
        "instance_number": 0, "namespace_ip": place.namespace_ip, "namespace_ip_v6": "",
        "host_ip": place.host_ip, "host_port": 50103,
        "service_ip": [
            {"IpType": "RR", "Address": service, "Address_v6": ""},
            {"IpType": "instance_ip", "Address": place.instance_ip, "Address_v6": ""}]}]}),
    )
}
