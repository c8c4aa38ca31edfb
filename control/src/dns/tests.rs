//! Queries as bytes in, answers as bytes out, with a cluster and a resolver that the test plays.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use protocol::mqtt::TableQueryResult;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;

const ASKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 18, 0, 2));
const JOB: &str = "video.prod.web.default";

fn subnet() -> Subnet {
    Subnet {
        v4: Some("10.18.0.0".parse().unwrap()),
        v6: Some("fc00::".parse().unwrap()),
        gateway: Pair::new(
            Some("10.18.0.1".parse().unwrap()),
            Some("fc00::1".parse().unwrap()),
        ),
    }
}

fn table(job: &str) -> TableQueryResult {
    let instance = |number: u32| {
        serde_json::json!({"instance_number": number, "instance_ip": format!("10.30.0.{}", number + 2),
            "instance_ip_v6": format!("fdff::{}", number + 2), "cluster_id": "c", "service_ip": [
                {"IpType": "RR", "Address": "10.30.0.1", "Address_v6": "fdff:2000::1"},
                {"IpType": "Closest", "Address": "", "Address_v6": "fdff:1000::1"},
                {"IpType": "instance_ip", "Address": format!("10.30.0.{}", number + 2), "Address_v6": format!("fdff::{}", number + 2)}]})
    };
    serde_json::from_value(serde_json::json!({"app_name": job, "query_key": job,
        "instance_list": [instance(0), instance(1)]}))
    .unwrap()
}

struct World {
    dns: Dns,
    names: Arc<Names>,
    lookups: mpsc::Receiver<Lookup>,
}

fn world(resolvers: Vec<SocketAddr>) -> World {
    let config = DnsConfig {
        enabled: true,
        zone: "oak".to_owned(),
        resolvers,
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
    };
    let names = Arc::new(Names::default());
    let (dns, lookups) = Dns::new(&config, Arc::clone(&names));
    dns.service.set_subnets(vec![subnet()]);
    World {
        dns,
        names,
        lookups,
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

impl World {
    async fn send(&self, query: &Message, transport: Transport) -> Option<Message> {
        let bytes = query.to_vec().unwrap();
        let answer = self.dns.service.answer(&bytes, ASKER, transport).await?;
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.id, query.metadata.id);
        assert_eq!(
            answer.queries, query.queries,
            "the question in its own spelling"
        );
        Some(answer)
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        let answer = self.send(&query(name, kind), Transport::Udp).await;
        answer.unwrap()
    }

    async fn addresses(&self, name: &str, kind: RecordType) -> Vec<String> {
        let answer = self.ask(name, kind).await;
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::NoError,
            "{name}"
        );
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        let mut found: Vec<String> = answer
            .answers
            .iter()
            .map(|record| {
                assert!((1..=10).contains(&record.ttl));
                match &record.data {
                    RData::A(a) => a.to_string(),
                    RData::AAAA(aaaa) => aaaa.to_string(),
                    other => other.to_string(),
                }
            })
            .collect();
        found.sort();
        found
    }

    /// Plays the cluster: answers each lookup by `known`.
    fn play(mut self, known: impl Fn(&str) -> Option<TableQueryResult> + Send + 'static) -> Self {
        let (_, nobody) = mpsc::channel(1);
        let mut lookups = std::mem::replace(&mut self.lookups, nobody);
        let names = Arc::clone(&self.names);
        tokio::spawn(async move {
            while let Some(Lookup { key, done }) = lookups.recv().await {
                match known(&key) {
                    Some(table) => names.learn(&table),
                    None => names.mark_absent(&key),
                }
                let _ = done.send(());
            }
        });
        self
    }
}

#[tokio::test]
async fn every_kind_of_name_leads_to_its_addresses() {
    let world = world(Vec::new());
    world.names.learn(&table(JOB));
    let (a, aaaa) = (RecordType::A, RecordType::AAAA);
    assert_eq!(
        world
            .addresses("any.rr.web.default.video.prod.oak.", a)
            .await,
        ["10.30.0.1"]
    );
    assert_eq!(
        world
            .addresses("aNy.RR.Web.default.VIDEO.prod.Oak.", aaaa)
            .await,
        ["fdff:2000::1"]
    );
    assert_eq!(
        world
            .addresses("any.closest.web.default.video.prod.oak.", aaaa)
            .await,
        ["fdff:1000::1"]
    );
    assert_eq!(
        world
            .addresses("1.instance.web.default.video.prod.oak.", a)
            .await,
        ["10.30.0.3"]
    );
    assert_eq!(
        world
            .addresses("any.instance.web.default.video.prod.oak.", a)
            .await,
        ["10.30.0.2", "10.30.0.3"]
    );
    assert_eq!(world.addresses("ns.oak.", a).await, ["10.18.0.1"]);
    let any = world
        .addresses("any.rr.web.default.video.prod.oak.", RecordType::ANY)
        .await;
    assert_eq!(any, ["10.30.0.1", "fdff:2000::1"]);
    let pointer = world
        .addresses("1.0.30.10.in-addr.arpa.", RecordType::PTR)
        .await;
    assert_eq!(pointer, ["any.rr.web.default.video.prod.oak."]);
}

#[tokio::test]
async fn no_such_name_and_no_such_record_are_told_apart_and_may_be_kept_for_seconds() {
    let world = world(Vec::new()).play(|_| None);
    world.names.learn(&table(JOB));
    for (name, kind, code) in [
        (
            "any.closest.web.default.video.prod.oak.",
            RecordType::A,
            ResponseCode::NoError,
        ),
        (
            "any.rr.web.default.video.prod.oak.",
            RecordType::MX,
            ResponseCode::NoError,
        ),
        (
            "rr.web.default.video.prod.oak.",
            RecordType::A,
            ResponseCode::NoError,
        ),
        ("video.prod.oak.", RecordType::A, ResponseCode::NoError),
        ("oak.", RecordType::A, ResponseCode::NoError),
        (
            "any.underutilized.web.default.video.prod.oak.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        (
            "7.instance.web.default.video.prod.oak.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        (
            "0.rr.web.default.video.prod.oak.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        (
            "any.rr.other.default.video.prod.oak.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        ("www.oak.", RecordType::A, ResponseCode::NXDomain),
        (
            "9.9.30.10.in-addr.arpa.",
            RecordType::PTR,
            ResponseCode::NXDomain,
        ),
    ] {
        let answer = world.ask(name, kind).await;
        assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
        assert!(
            answer.answers.is_empty() && answer.authorities.len() == 1,
            "{name}"
        );
        let authority = &answer.authorities[0];
        assert!(authority.name.zone_of(&answer.queries[0].name), "{name}");
        let RData::SOA(soa) = &authority.data else {
            panic!("{authority}");
        };
        assert!((1..=10).contains(&soa.minimum) && authority.ttl == soa.minimum);
    }
    let apex = world.ask("oak.", RecordType::SOA).await;
    assert_eq!(apex.answers[0].record_type(), RecordType::SOA);
    assert_eq!(world.addresses("oak.", RecordType::NS).await, ["ns.oak."]);
}

#[tokio::test]
async fn a_name_that_is_not_known_here_is_asked_for_once_and_nobody_else_waits() {
    let World {
        dns,
        names,
        mut lookups,
    } = world(Vec::new());
    names.learn(&table(JOB));
    let world = Arc::new(World {
        dns,
        names,
        lookups: mpsc::channel(1).1,
    });
    let asking = Arc::clone(&world);
    let slow = tokio::spawn(async move {
        let name = "any.rr.other.default.video.prod.oak.";
        asking.addresses(name, RecordType::A).await
    });
    let Lookup { key, done } = lookups.recv().await.unwrap();
    assert_eq!(key, "video.prod.other.default");
    assert_eq!(
        world
            .addresses("any.rr.web.default.video.prod.oak.", RecordType::A)
            .await,
        ["10.30.0.1"]
    );
    world.names.learn(&table("video.prod.other.default"));
    done.send(()).unwrap();
    assert_eq!(slow.await.unwrap(), ["10.30.0.1"]);
    assert!(lookups.try_recv().is_err());
}

#[tokio::test]
async fn a_cluster_that_says_nothing_costs_the_asker_its_patience_and_no_more() {
    let mut world = world(Vec::new());
    let since = Instant::now();
    let answer = world
        .ask("any.rr.other.default.video.prod.oak.", RecordType::A)
        .await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(since.elapsed() < Duration::from_secs(5));
    // Where nobody asks the cluster, that is known at once.
    world.lookups.close();
    let since = Instant::now();
    let answer = world
        .ask("any.rr.third.default.video.prod.oak.", RecordType::A)
        .await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(since.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_name_in_other_letters_is_asked_for_as_spelled_and_then_in_small_ones() {
    let world = world(Vec::new()).play(|key| (key == JOB).then(|| table(JOB)));
    let found = world.addresses("any.rr.WEB.Default.video.prod.oak.", RecordType::A);
    assert_eq!(found.await, ["10.30.0.1"]);
}

#[tokio::test]
async fn what_is_no_proper_query_gets_the_code_that_says_so_or_nothing() {
    let world = world(Vec::new());
    world.names.learn(&table(JOB));
    let name = "any.rr.web.default.video.prod.oak.";
    let code = async |message: &Message| {
        world
            .send(message, Transport::Udp)
            .await
            .map(|answer| answer.metadata.response_code)
    };
    let mut update = query(name, RecordType::A);
    update.metadata.op_code = OpCode::Update;
    let bytes = update.to_vec().unwrap();
    let answer = world
        .dns
        .service
        .answer(&bytes, ASKER, Transport::Udp)
        .await
        .unwrap();
    assert_eq!(
        Message::from_vec(&answer).unwrap().metadata.response_code,
        ResponseCode::NotImp
    );
    assert_eq!(
        code(&query(name, RecordType::AXFR)).await,
        Some(ResponseCode::Refused)
    );
    assert_eq!(
        code(&query("example.org.", RecordType::AXFR)).await,
        Some(ResponseCode::Refused)
    );
    let mut chaos = query(name, RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos).await, Some(ResponseCode::Refused));
    let mut newer = query(name, RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    assert_eq!(code(&newer).await.map(u16::from), Some(16), "BADVERS");
    let response = query(name, RecordType::A).into_response().to_vec().unwrap();
    assert_eq!(
        world
            .dns
            .service
            .answer(&response, ASKER, Transport::Udp)
            .await,
        None
    );
    // Any beginning of a query, and any byte of it changed, is answered or not, and ends nothing.
    let whole = query(name, RecordType::A).to_vec().unwrap();
    for cut in 0..whole.len() {
        let answer = world
            .dns
            .service
            .answer(&whole[..cut], ASKER, Transport::Udp)
            .await;
        assert_eq!(answer.is_some(), cut >= 12, "{cut}");
    }
}

#[tokio::test]
async fn edns_is_answered_by_edns_alone() {
    let world = world(Vec::new());
    world.names.learn(&table(JOB));
    let name = "any.rr.web.default.video.prod.oak.";
    assert_eq!(world.ask(name, RecordType::A).await.edns, None);
    let mut message = query(name, RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    let answer = world.send(&message, Transport::Udp).await.unwrap();
    assert!(answer.edns.unwrap().max_payload() >= 1232);
}

#[tokio::test]
async fn names_of_the_longest_job_fit_a_datagram() {
    let world = world(Vec::new());
    let part = |letter: &str| letter.repeat(30);
    let job = [part("a"), part("b"), part("c"), part("d")].join(".");
    let mut result = table(&job);
    for number in 2..40 {
        let mut entry = result.instance_list[0].clone();
        entry.instance.instance_number = number;
        result.instance_list.push(entry);
    }
    world.names.learn(&result);
    let name = format!(
        "any.instance.{}.{}.{}.{}.oak.",
        part("c"),
        part("d"),
        part("a"),
        part("b")
    );
    let answer = world.ask(&name, RecordType::ANY).await;
    assert!(!answer.metadata.truncation && answer.answers.len() == 8);
}

/// One port by both transports: the kernel chooses it for UDP, and somebody may have it for TCP.
async fn both_transports() -> (UdpSocket, TcpListener, SocketAddr) {
    let mut tried = Vec::new();
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let place = udp.local_addr().unwrap();
        match TcpListener::bind(place).await {
            Ok(tcp) => return (udp, tcp, place),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse),
        }
        // Kept, so that the kernel chooses another.
        tried.push(udp);
        assert!(tried.len() < 100, "no port is free by both transports");
    }
}

#[tokio::test]
async fn other_names_go_to_the_first_resolver_that_answers_by_the_same_transport() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (udp, tcp, place) = both_transports().await;
    let world = world(vec![silent.local_addr().unwrap(), place]);
    let reply = |bytes: &[u8], code: ResponseCode| {
        let query = Message::from_vec(bytes).unwrap();
        assert_ne!(query.metadata.id, 4711, "a number of its own");
        let mut response = query.into_response();
        response.metadata.response_code = code;
        response.to_vec().unwrap()
    };
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            // A stranger's guess comes first.
            let mut forged = reply(&buffer[..length], ResponseCode::NoError);
            forged[0] ^= 0x55;
            udp.send_to(&forged, from).await.unwrap();
            let answer = reply(&buffer[..length], ResponseCode::NXDomain);
            udp.send_to(&answer, from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        let (mut stream, _) = tcp.accept().await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await.unwrap();
        let answer = reply(&query, ResponseCode::YXDomain);
        stream.write_all(&wire::framed(&answer)).await.unwrap();
    });
    let since = Instant::now();
    let answer = world.ask("www.example.org.", RecordType::TXT).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert!(since.elapsed() < Duration::from_millis(4500));
    drop(silent);
    let answer = world
        .send(&query("www.example.org.", RecordType::A), Transport::Tcp)
        .await;
    assert_eq!(
        answer.unwrap().metadata.response_code,
        ResponseCode::YXDomain
    );
    let counts = world.dns.status().queries;
    assert_eq!(counts["forwarded"], 2);
}

#[tokio::test]
async fn resolvers_that_do_not_answer_end_in_a_failure_in_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let world = world(vec![silent.local_addr().unwrap()]);
    let since = Instant::now();
    let answer = world.ask("www.example.org.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(
        since.elapsed() < Duration::from_secs(5),
        "{:?}",
        since.elapsed()
    );
    // Nobody there at all is known at once.
    drop(silent);
    let since = Instant::now();
    let answer = world.ask("www.example.org.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(
        since.elapsed() < Duration::from_secs(2),
        "{:?}",
        since.elapsed()
    );
}

#[test]
fn only_this_nodes_containers_and_the_node_may_ask() {
    let world = world(Vec::new());
    for (asker, may) in [
        ("10.18.0.1", true),
        ("10.18.0.63", true),
        ("fc00::2", true),
        ("127.0.0.1", true),
        ("10.18.0.64", false),
        ("fc00::102", false),
        ("192.0.2.1", false),
    ] {
        assert_eq!(
            world.dns.service.may_ask(asker.parse().unwrap()),
            may,
            "{asker}"
        );
    }
}
