//! A data plane between real containers: network namespaces behind veth pairs, the kernel's own sockets and `ping`.
//!
//! EAL starts once in a process, so the node is a process of its own: this program again, inside the node's
//! namespace, told what to do line by line. That is also how it can be killed and started again. Needs root.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "live/containers.rs"]
mod containers;
#[path = "live/ethdevs.rs"]
mod ethdevs;
#[path = "live/host.rs"]
mod host;
#[path = "live/node.rs"]
mod node;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use containers::{Site, within};

const PATIENCE: Duration = Duration::from_secs(10);

/// One question by a socket of its own, through the service; who answered.
fn ask(service: &str) -> std::io::Result<String> {
    let any = if service.contains(':') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(any)?;
    // A connected socket takes answers from the address dialled alone.
    socket.connect((service, 7000))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"who is there?")?;
    let mut name = [0; 64];
    let length = socket.recv(&mut name)?;
    Ok(String::from_utf8_lossy(&name[..length]).into_owned())
}

fn connect(service: &str) -> TcpStream {
    let address = (service.parse::<std::net::IpAddr>().unwrap(), 7000).into();
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
    stream
}

/// Sends a line by a connection; who answered, if the line came back whole.
fn line(stream: &TcpStream, text: &str) -> String {
    (&*stream)
        .write_all(format!("{text}\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
        .trim_end()
        .strip_suffix(text)
        .unwrap()
        .trim()
        .to_owned()
}

/// Four megabytes come back whole from the server of this name.
fn echoes(mut stream: TcpStream, name: &str) {
    let sent: Vec<u8> = (0..4_000_000u32)
        .map(|n| (n % 251) as u8 + 1)
        .map(|b| if b == 10 { 11 } else { b })
        .collect();
    let writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (&writer).write_all(&[&sent[..], b"\n"].concat()).unwrap());
        let mut back = vec![0; name.len() + 1 + sent.len() + 1];
        stream.read_exact(&mut back).unwrap();
        assert!(back[name.len() + 1..back.len() - 1] == sent[..], "{name}");
    });
}

const SERVICES: [&str; 2] = ["10.30.0.10", "fdff:2000::10"];

fn containers_talk(workers: usize) {
    let site = Site::new(&format!("talk{workers}"));
    let mut node = site.start(workers);
    node.say("job 0 1");
    for target in [
        "10.30.0.10",
        "10.30.0.20",
        "fdff:2000::10",
        "fdff::20",
        "10.18.0.3",
        "fc00::3",
    ] {
        site.ping("c", target);
    }
    within(&site.container("c"), || {
        for service in SERVICES {
            let mut counts = [0, 0];
            for _ in 0..20 {
                counts[usize::from(ask(service).unwrap() == "e")] += 1;
            }
            assert_eq!(counts, [10, 10], "{service} takes turns");
            // Both ways large: offloads of the containers' kernels are on.
            let stream = connect(service);
            let name = line(&stream, "first");
            echoes(stream, &name);
        }
        // The answers of different workers' containers find their way too.
        assert_eq!(ask("10.30.0.20").unwrap(), "e");
        assert_eq!(ask("10.30.0.21").unwrap(), "f");
    });
    // The node's own processes are an instance too; the TAP spreads their flows over all workers.
    node.say("host");
    within(&site.container("node"), || {
        let mut counts = [0, 0];
        for _ in 0..20 {
            counts[usize::from(ask(SERVICES[0]).unwrap() == "e")] += 1;
        }
        assert_eq!(counts, [10, 10]);
        assert_eq!(ask("10.18.0.3").unwrap(), "e");
    });
    // A container goes, and its instance with it: everyone finds the other one.
    node.say("detach e");
    node.say("job 1");
    within(&site.container("c"), || {
        for service in SERVICES {
            assert!((0..6).all(|_| ask(service).unwrap() == "f"));
        }
    });
    node.say("attach e");
    node.say("job 0 1");
    within(&site.container("f"), || {
        let names: Vec<String> = (0..2).map(|_| ask(SERVICES[0]).unwrap()).collect();
        assert!(names.contains(&"e".to_owned()) && names.contains(&"f".to_owned()));
    });
    // A job that is forgotten is asked for again.
    node.say("forget");
    within(&site.container("c"), || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"x", (SERVICES[0], 7000)).unwrap();
    });
    node.expect("unresolved 10.30.0.10");
    assert_eq!(node.say("balance"), "0", "packets are unaccounted for");
}

#[test]
fn containers_talk_through_service_ips_with_one_worker() {
    containers_talk(1);
}

#[test]
fn containers_talk_through_service_ips_with_two_workers() {
    containers_talk(2);
}

#[test]
fn no_update_ever_leaves_a_moment_without_a_route() {
    let site = Site::new("churn");
    let mut node = site.start(2);
    node.say("job 0 1");
    within(&site.container("c"), || {
        let (done, asked) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            let (done, asked) = (&done, &asked);
            let space = site.container("c");
            let prober = scope.spawn(move || {
                within(&space, || {
                    while !done.load(Ordering::Relaxed) {
                        for service in SERVICES {
                            // A packet that is lost is not sent again: this fails then.
                            ask(service).unwrap();
                            asked.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            });
            node.say("churn 10000");
            // Until the prober, too, has seen enough of it.
            while asked.load(Ordering::Relaxed) < 500 && !prober.is_finished() {
                node.say("churn 500");
            }
            done.store(true, Ordering::Relaxed);
            prober.join().unwrap();
        });
    });
    assert_eq!(node.say("misses"), "0", "nothing was ever unresolved");
}

#[test]
fn a_packet_waits_for_the_route_that_it_asked_for() {
    let site = Site::new("wait");
    let mut node = site.start(1);
    let space = site.container("c");
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| within(&space, || ask(SERVICES[0]).unwrap()));
        // Whose Instance IP is the container's own? Then, where is the service?
        node.expect("unresolved 10.18.0.2");
        node.say("client");
        node.expect("unresolved 10.30.0.10");
        node.say("job 0");
        assert_eq!(asker.join().unwrap(), "e");
        // A refusal reaches who waits, too.
        let asker = scope.spawn(|| {
            within(&space, || {
                let nowhere = "10.30.0.99:7000".parse().unwrap();
                TcpStream::connect_timeout(&nowhere, PATIENCE).unwrap_err()
            })
        });
        node.expect("unresolved 10.30.0.99");
        node.say("nowhere 10.30.0.99");
        let error = asker.join().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable, "{error}");
    });
}

#[test]
fn a_killed_data_plane_finds_its_connections_again() {
    for workers in [1, 2] {
        let site = Site::new(&format!("kill{workers}"));
        let mut node = site.start(workers);
        node.say("job 0 1");
        let open = |space: &str, service| within(&site.container(space), || connect(service));
        let streams = [
            open("c", SERVICES[0]),
            open("c", SERVICES[1]),
            open("f", SERVICES[0]),
            open("e", SERVICES[1]),
        ];
        let names: Vec<String> = streams.iter().map(|s| line(s, "before")).collect();
        node.kill();
        // What is said meanwhile arrives later.
        for stream in &streams {
            (&*stream).write_all(b"meanwhile\n").unwrap();
        }
        let mut node = site.start_with(workers, &["f", "e", "c"]);
        node.say("job 0 1");
        for (stream, name) in streams.iter().zip(&names) {
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).unwrap();
            assert_eq!(answer, format!("{name} meanwhile\n"));
            assert_eq!(line(stream, "after"), *name);
        }
    }
}

/// The VM's process, started by the others.
#[test]
#[ignore = "the other tests start it"]
fn vm_process() {
    ethdevs::vm();
}

/// Blocks in a read; how long until the connection was reset.
fn reset_after(stream: &TcpStream) -> Duration {
    let begun = std::time::Instant::now();
    let error = (&*stream).read(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    begun.elapsed()
}

#[test]
fn a_client_that_only_waits_is_reset_when_its_instance_goes() {
    for workers in [1, 2] {
        let site = Site::new(&format!("orphan{workers}"));
        let mut node = site.start(workers);
        node.say("job 0 1");
        for (gone, stays, left) in [
            ("e", "f", "job 1"),
            ("f", "e", "job 0"),
            ("e", "f", "detach e"),
        ] {
            let open = |service| within(&site.container("c"), || connect(service));
            let mut streams: Vec<TcpStream> = SERVICES.iter().map(|s| open(s)).collect();
            streams.extend(SERVICES.iter().map(|s| open(s)));
            let names: Vec<String> = streams.iter().map(|s| line(s, "before")).collect();
            assert!(names.iter().any(|n| n == gone) && names.iter().any(|n| n == stays));
            node.say(left);
            for (stream, _) in streams.iter().zip(&names).filter(|(_, n)| *n == gone) {
                let time = reset_after(stream);
                assert!(time < Duration::from_secs(2), "{time:?}");
            }
            for (stream, name) in streams.iter().zip(&names).filter(|(_, n)| *n == stays) {
                assert_eq!(line(stream, "after"), *name, "the other's goes on");
            }
            drop(streams);
            if left.starts_with("detach") {
                node.say("attach e");
            }
            node.say("job 0 1");
        }
        assert_eq!(node.say("balance"), "0", "packets are unaccounted for");
    }
}

#[test]
fn every_packet_is_accounted_for_by_role_and_by_container() {
    for workers in [1, 2] {
        let site = Site::new(&format!("books{workers}"));
        let mut node = site.start(workers);
        node.say("job 0 1");
        within(&site.container("c"), || {
            for service in SERVICES {
                (0..20).for_each(|_| drop(ask(service).unwrap()));
                let mut stream = connect(service);
                line(&stream, "first");
                // Large ones, and an interface that refuses while they pass.
                let sent = [vec![7; 1_000_000], vec![10]].concat();
                let writer = stream.try_clone().unwrap();
                std::thread::scope(|scope| {
                    scope.spawn(|| (&writer).write_all(&sent).unwrap());
                    stream.read_exact(&mut vec![0; sent.len() + 2]).unwrap();
                });
                let socket = UdpSocket::bind(if service.contains(':') {
                    "[::]:0"
                } else {
                    "0.0.0.0:0"
                });
                let socket = socket.unwrap();
                // To nobody: what waits is given up, and what is nowhere is dropped.
                let nowhere = if service.contains(':') {
                    "fdff:2000::77"
                } else {
                    "10.30.0.77"
                };
                let _ = socket.send_to(b"x", (nowhere, 7000));
            }
        });
        site.link_down("e");
        within(&site.container("c"), || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..50 {
                socket.send_to(b"x", ("10.18.0.3", 7000)).unwrap();
            }
        });
        assert_eq!(node.say("balance"), "0", "packets are unaccounted for");
        let numbers = node.say("containers");
        let numbers: Vec<u64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
        assert_eq!((numbers[0], numbers[2]), (numbers[1], numbers[3]));
        assert!(
            numbers[4] > 0,
            "the kernel took frames for an interface that is down"
        );
    }
}

/// The node's process, started by the others.
#[test]
#[ignore = "the other tests start it"]
fn node_process() {
    node::run();
}
