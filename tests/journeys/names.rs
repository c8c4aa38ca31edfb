//! Names of services by DNS: on the gateway address, on their way to any other server, and all other names by the
//! resolvers that containers or their host use.
#![allow(clippy::unwrap_used, clippy::panic)] // In a test both are assertions, in its own functions too.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use journeys::container::Container;
use journeys::deadline::wait_until;
use journeys::namespace::Namespace;
use journeys::node::Uplink;
use journeys::scene::Scene;
use journeys::topology::Topology;

const PATIENCE: Duration = Duration::from_secs(30);
/// A public resolver's address, as containers have it in a file that nobody can change.
const PUBLIC: [&str; 2] = ["8.8.8.8", "2001:4860:4860::8888"];
/// What the resolver there answers to everything.
const THEIRS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
const OURS: &str = "any.rr.web.default.trial.test.oak";

/// A resolver of the outside world, which knows one address for all names. It ends with the value.
struct Resolver {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// The answer to any query of one question.
fn theirs(query: &[u8]) -> Vec<u8> {
    let name = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap();
    let mut answer = query[..name + 5].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(THEIRS.octets());
    answer
}

impl Resolver {
    fn start(namespace: &Namespace) -> Resolver {
        let (stop, asked) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let mut threads = Vec::new();
        for address in PUBLIC {
            let place = SocketAddr::new(address.parse().unwrap(), 53);
            let (udp, tcp) = namespace
                .enter(|| {
                    (
                        UdpSocket::bind(place).unwrap(),
                        TcpListener::bind(place).unwrap(),
                    )
                })
                .unwrap();
            let blink = Duration::from_millis(50);
            udp.set_read_timeout(Some(blink)).unwrap();
            tcp.set_nonblocking(true).unwrap();
            let (ending, noting) = (Arc::clone(&stop), Arc::clone(&asked));
            threads.push(std::thread::spawn(move || {
                let mut query = [0; 1500];
                while !ending.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = udp.recv_from(&mut query) {
                        noting.store(true, Ordering::Relaxed);
                        let _ = udp.send_to(&theirs(&query[..length]), from);
                    }
                }
            }));
            let ending = Arc::clone(&stop);
            threads.push(std::thread::spawn(move || {
                while !ending.load(Ordering::Relaxed) {
                    let Ok((mut stream, _)) = tcp.accept() else {
                        std::thread::sleep(blink);
                        continue;
                    };
                    stream.set_nonblocking(false).unwrap();
                    let mut length = [0; 2];
                    if stream.read_exact(&mut length).is_ok() {
                        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                        stream.read_exact(&mut query).unwrap();
                        let answer = theirs(&query);
                        let length = u16::try_from(answer.len()).unwrap();
                        stream.write_all(&length.to_be_bytes()).unwrap();
                        stream.write_all(&answer).unwrap();
                    }
                }
            }));
        }
        Resolver {
            stop,
            asked,
            threads,
        }
    }

    /// Whether anybody has asked by datagram since the last time.
    fn was_asked(&self) -> bool {
        self.asked.swap(false, Ordering::Relaxed)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Two nodes; the second one stands for the outside world, too.
fn scene(intercept: bool) -> (Scene, Resolver) {
    let scene = Scene::with(Uplink::Socket, &[1, 0], |nodes| {
        let [first, second] = nodes else { panic!() };
        first.configure(|settings| {
            settings["DnsIntercept"] = intercept.into();
            settings["DnsResolvers"] = PUBLIC[0].into();
        })?;
        let (near, far) = (&first.namespace, &second.namespace);
        let six = |node: u8| format!("2001:db8::{node}");
        for address in PUBLIC {
            far.ip(&["address", "add", address, "dev", "lo"])?;
            let via = if address.contains(':') {
                six(2)
            } else {
                second.underlay.to_string()
            };
            near.ip(&["route", "add", address, "via", &via])?;
        }
        Ok(())
    });
    let scene = scene.unwrap();
    let resolver = Resolver::start(&scene.topology.nodes[1].namespace);
    (scene, resolver)
}

/// What `dig` says, shortly.
fn dig(inside: &Namespace, server: &str, more: &[&str]) -> String {
    let server = format!("@{server}");
    let mut words = vec!["+short", "+tries=1", "+time=6", &server];
    words.extend(more);
    inside.command("dig", &words).unwrap().trim().to_owned()
}

/// The code in the header of the answer, and whether it has a start of authority.
fn code(inside: &Namespace, server: &str, name: &str) -> (String, bool) {
    let server = format!("@{server}");
    let text = inside
        .command("dig", &["+tries=1", "+time=6", &server, name])
        .unwrap();
    let (_, rest) = text.split_once("status: ").unwrap();
    let (code, _) = rest.split_once(',').unwrap();
    (code.to_owned(), text.contains("SOA"))
}

/// What a command says in the container where `resolv.conf` names this server.
fn with_resolver(client: &Container, topology: &Topology, server: &str, command: &str) -> String {
    let file = topology.run().folder().join("resolv.conf");
    std::fs::write(&file, format!("nameserver {server}\n")).unwrap();
    let script = format!(
        "mount --make-rprivate / && mount --bind {} /etc/resolv.conf && {command}",
        file.display()
    );
    let arguments = ["--mount", "sh", "-c", &script];
    client.namespace().command("unshare", &arguments).unwrap()
}

/// What the C library finds.
fn library(client: &Container, topology: &Topology, server: &str, name: &str) -> String {
    let command = format!("getent -s dns ahostsv4 {name}");
    let text = with_resolver(client, topology, server, &command);
    text.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn names_of_services_and_all_others_are_found_at_the_gateway() {
    let (scene, _resolver) = scene(false);
    let inside = scene.client.namespace();
    let (v4, v6) = (
        scene.table.service_ip.to_string(),
        scene.table.service_ip_v6.to_string(),
    );
    for server in ["10.18.0.1", "fc00::1"] {
        for tcp in ["+notcp", "+tcp"] {
            assert_eq!(dig(&inside, server, &[tcp, OURS, "A"]), v4);
            assert_eq!(
                dig(&inside, server, &[tcp, &OURS.to_uppercase(), "AAAA"]),
                v6
            );
            assert_eq!(
                dig(&inside, server, &[tcp, "www.example.org", "A"]),
                THEIRS.to_string()
            );
        }
        for place in &scene.table.instances {
            let name = format!("{}.instance.web.default.trial.test.oak", place.number);
            assert_eq!(
                dig(&inside, server, &[&name, "A"]),
                place.instance_ip.to_string()
            );
        }
        assert_eq!(dig(&inside, server, &["-x", &v4]), format!("{OURS}."));
        for (name, expected) in [
            ("any.rr.nobody.default.trial.test.oak", "NXDOMAIN"),
            ("9.instance.web.default.trial.test.oak", "NXDOMAIN"),
            ("rr.web.default.trial.test.oak", "NOERROR"),
        ] {
            assert_eq!(
                code(&inside, server, name),
                (expected.to_owned(), true),
                "{name}"
            );
        }
    }
    assert_eq!(
        library(&scene.client, &scene.topology, "10.18.0.1", OURS),
        v4
    );
    let page = format!("curl --silent --show-error --max-time 10 http://{OURS}/");
    let page = with_resolver(&scene.client, &scene.topology, "10.18.0.1", &page);
    assert!(!page.is_empty(), "the name leads to the service");
    // The node itself may ask; another node, or the world, may not.
    let [first, second] = scene.topology.nodes.as_slice() else {
        panic!()
    };
    assert_eq!(dig(&first.namespace, "10.18.0.1", &[OURS, "A"]), v4);
    second
        .namespace
        .ip(&[
            "route",
            "replace",
            "10.18.0.1/32",
            "via",
            &first.underlay.to_string(),
        ])
        .unwrap();
    let server = "@10.18.0.1";
    let refused = second
        .namespace
        .command("dig", &["+tries=1", "+time=1", server, OURS]);
    assert!(refused.is_err(), "{refused:?}");
    let status = first.server().get("/status").unwrap().json().unwrap();
    assert_eq!(status["dns"]["zone"], "oak");
    assert_eq!(status["dns"]["listening"].as_array().unwrap().len(), 2);
    assert!(status["dns"]["queries"]["records"].as_u64().unwrap() > 5);
    assert!(status["dns"]["queries"]["stranger"].as_u64().unwrap() > 0);
    // Without an option nothing is caught.
    assert_eq!(dig(&inside, PUBLIC[0], &[OURS, "A"]), THEIRS.to_string());
}

#[test]
fn with_interception_any_server_knows_services_and_is_asked_for_all_other_names() {
    let (scene, resolver) = scene(true);
    let inside = scene.client.namespace();
    let (v4, v6) = (
        scene.table.service_ip.to_string(),
        scene.table.service_ip_v6.to_string(),
    );
    // Nobody need be there: the last two are a documentation address and the service itself.
    for server in [PUBLIC[0], PUBLIC[1], "192.0.2.53", &v4, "10.18.0.1"] {
        resolver.was_asked();
        assert_eq!(dig(&inside, server, &["+notcp", OURS, "A"]), v4, "{server}");
        assert_eq!(
            dig(&inside, server, &["+notcp", OURS, "AAAA"]),
            v6,
            "{server}"
        );
        let unknown = code(&inside, server, "any.rr.nobody.default.trial.test.oak");
        assert_eq!(unknown, ("NXDOMAIN".to_owned(), true), "{server}");
        assert!(!resolver.was_asked(), "{server}");
    }
    for server in PUBLIC {
        for tcp in ["+notcp", "+tcp"] {
            assert_eq!(
                dig(&inside, server, &[tcp, "www.example.org", "A"]),
                THEIRS.to_string()
            );
        }
        assert_eq!(library(&scene.client, &scene.topology, server, OURS), v4);
        assert_eq!(
            library(&scene.client, &scene.topology, server, "www.example.org"),
            THEIRS.to_string()
        );
    }
    // Each packet is accounted for.
    let status = scene.topology.nodes[0]
        .server()
        .get("/status")
        .unwrap()
        .json()
        .unwrap();
    let caught = status["dataplane"]["consumed"]["caught_queries"]
        .as_u64()
        .unwrap();
    assert!(caught >= 15, "{status}");
}

#[test]
fn a_taken_port_is_named_with_its_remedy_and_served_once_it_is_free() {
    let taken = std::sync::Mutex::new(None);
    let scene = Scene::with(Uplink::Socket, &[0], |nodes| {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 53);
        let socket = nodes[0].namespace.enter(|| UdpSocket::bind(any))??;
        *taken.lock().unwrap() = Some(socket);
        Ok(())
    })
    .unwrap();
    let node = &scene.topology.nodes[0];
    let dns = || node.server().get("/status").unwrap().json().unwrap()["dns"].clone();
    let told = dns();
    let problem = told["problems"][0].as_str().unwrap();
    assert!(
        problem.contains("10.18.0.1:53") && problem.contains("\"Dns\": false"),
        "{told}"
    );
    drop(taken.lock().unwrap().take());
    wait_until("DNS on the freed port", PATIENCE, || {
        dns()["listening"].as_array().unwrap().len() == 2
    })
    .unwrap();
    let inside = scene.client.namespace();
    assert_eq!(
        dig(&inside, "10.18.0.1", &[OURS, "A"]),
        scene.table.service_ip.to_string()
    );
}
