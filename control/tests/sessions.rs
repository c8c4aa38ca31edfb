//! How the connection to the broker is made: subscribed before anything is asked, and by TLS alone where TLS is
//! configured.
#![allow(clippy::unwrap_used)] // In a test an unwrap is an assertion, in its own functions too.

mod world;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use world::{Broker, Cluster, World, eventually, isolated, run, scratch};

/// One MQTT packet: its first byte and its body.
async fn packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let kind = stream.read_u8().await.unwrap();
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let byte = stream.read_u8().await.unwrap();
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (kind, body)
}

fn topic(body: &[u8]) -> String {
    let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
    String::from_utf8(body[2..2 + length].to_vec()).unwrap()
}

#[test]
fn nothing_is_asked_before_the_broker_has_confirmed_the_subscriptions() {
    isolated(async || {
        // A broker that takes its time.
        let listener = TcpListener::bind("127.0.0.1:10003").await.unwrap();
        let world = World::start().await;
        let node = world.node.clone();
        let registering = tokio::spawn(async move {
            let request = protocol::node_http::Register {
                client_id: "n1".to_owned(),
                cluster_address: String::new(),
            };
            node.register(request).await
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        assert_eq!(packet(&mut stream).await.0, 0x10, "CONNECT");
        stream.write_all(&[0x20, 2, 0, 0]).await.unwrap();
        let (kind, body) = packet(&mut stream).await;
        assert_eq!(kind, 0x82, "SUBSCRIBE");
        let text = String::from_utf8_lossy(&body).into_owned();
        for filter in [
            "nodes/n1/net/subnetwork/result",
            "nodes/n1/net/tablequery/result",
        ] {
            assert!(text.contains(filter), "{text}");
        }
        let early = tokio::time::timeout(Duration::from_millis(500), packet(&mut stream)).await;
        assert!(early.is_err(), "{early:?}");
        let confirmed = [0x90, 5, body[0], body[1], 1, 1, 1];
        stream.write_all(&confirmed).await.unwrap();
        loop {
            let (kind, body) = packet(&mut stream).await;
            assert_eq!(kind & 0xf0, 0x30, "PUBLISH");
            if topic(&body) == "nodes/n1/net/subnet" {
                break;
            }
        }
        let answer = br#"{"address":"10.18.0.0","addressv6":"fc00::"}"#;
        let name = b"nodes/n1/net/subnetwork/result";
        let mut publish = vec![
            0x30,
            u8::try_from(2 + name.len() + answer.len()).unwrap(),
            0,
        ];
        publish.push(u8::try_from(name.len()).unwrap());
        publish.extend(name);
        publish.extend(answer);
        stream.write_all(&publish).await.unwrap();
        registering.await.unwrap().unwrap();
        world.node.stop().await;
    });
}

/// Certificates of an authority of our own, for a broker at 127.0.0.1 and for a node.
fn certificates() -> PathBuf {
    let folder = scratch("certificates");
    let openssl = |arguments: &str| {
        let arguments = arguments.replace("DIR", folder.to_str().unwrap());
        run("openssl", &arguments.split(' ').collect::<Vec<_>>());
    };
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout DIR/ca.key -out DIR/ca.crt",
    );
    let names = "subjectAltName=IP:127.0.0.1\n";
    std::fs::write(folder.join("names"), names).unwrap();
    for who in ["broker", "node"] {
        openssl(&format!(
            "req -newkey rsa:2048 -nodes -subj /CN={who} -keyout DIR/{who}.key -out DIR/{who}.csr"
        ));
        openssl(&format!(
            "x509 -req -in DIR/{who}.csr -CA DIR/ca.crt -CAkey DIR/ca.key -CAcreateserial -days 2 -extfile DIR/names -out DIR/{who}.crt"
        ));
    }
    folder
}

fn settings(folder: &Path, port: u16) -> String {
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    json!({
        "ClusterUrl": "127.0.0.1", "ClusterMqttPort": port.to_string(),
        "MqttCert": file("node.crt"), "MqttKey": file("node.key"), "MqttCa": file("ca.crt"),
    })
    .to_string()
}

#[test]
fn with_tls_configured_not_one_byte_goes_in_the_clear() {
    isolated(async || {
        let folder = certificates();
        let listener = TcpListener::bind("127.0.0.1:10003").await.unwrap();
        let world = World::with(&settings(&folder, 10003), scratch("tls")).await;
        let node = world.node.clone();
        let registering = tokio::spawn(async move {
            let request = protocol::node_http::Register {
                client_id: "n1".to_owned(),
                cluster_address: String::new(),
            };
            node.register(request).await
        });
        for _ in 0..4 {
            let (mut stream, _) = listener.accept().await.unwrap();
            // A handshake (22), never a CONNECT (16): and no second try without, when the first is hung up on.
            assert_eq!(stream.read_u8().await.unwrap(), 22);
        }
        let error = registering.await.unwrap().unwrap_err();
        assert_eq!(error.status, 500, "{}", error.message);
        world.node.stop().await;
    });
}

#[test]
fn a_node_registers_by_mutual_tls() {
    isolated(async || {
        let folder = certificates();
        let own = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let _broker = Broker::with(&format!(
            "listener 8883 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\nuser root\n",
            own("ca.crt"),
            own("broker.crt"),
            own("broker.key")
        ))
        .await;
        let cluster = Cluster::start().await;
        let world = World::with(&settings(&folder, 8883), scratch("tls")).await;
        world.register("n1").await.unwrap();
        eventually("it is heard", async || {
            !cluster.heard("net/subnet").is_empty()
        })
        .await;
        world.node.purge().await;
    });
}
