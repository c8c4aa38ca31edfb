//! The node's process: a data plane that does what it is told on standard input.

use std::collections::HashMap;
use std::io::BufRead;
use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane::{
    AccessKind, Attachment, Capture, CaptureOptions, CapturePort, Captured, Config, Count,
    Dataplane, Event, Handle, HostPort, Idle, InstanceRoute, JobRoutes, Pair, Policy,
    ServiceAddress, Stats, Subnet, Uplink,
};

fn pair(subnet: (u8, u16), v4: u8, v6: u16) -> Pair {
    let (third, first) = subnet;
    let v4 = Ipv4Addr::new(10, third, 0, v4);
    Pair::new(Some(v4), Some(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, v6)))
}

/// The namespace IPs of a container by its number: `c`, `e`, `f`.
fn namespace(n: u8) -> Pair {
    pair((18, 0xfc00), n + 2, u16::from(n) + 2)
}

fn number(name: &str) -> u8 {
    u8::try_from(
        super::containers::NAMES
            .iter()
            .position(|n| *n == name)
            .unwrap(),
    )
    .unwrap()
}

fn route(number: u32, container: u8, instance: Pair, service: bool) -> InstanceRoute {
    InstanceRoute {
        number,
        namespace: namespace(container),
        instance,
        services: if service {
            vec![ServiceAddress {
                policy: Policy::RoundRobin,
                addresses: Pair::new(
                    Some(Ipv4Addr::new(10, 30, 0, 10)),
                    Some(Ipv6Addr::new(0xfdff, 0x2000, 0, 0, 0, 0, 0, 0x10)),
                ),
            }]
        } else {
            Vec::new()
        },
        host: "192.0.2.1:50103".parse().unwrap(),
        weight: 1,
        draining: false,
        load: None,
    }
}

/// The service's job: instance 0 is `e`, 1 is `f`.
fn service(instances: &[u8]) -> JobRoutes {
    JobRoutes {
        job: "a.b.service.d".to_owned(),
        instances: instances
            .iter()
            .map(|&n| {
                let instance = pair((30, 0xfdff), 20 + n, 0x20 + u16::from(n));
                route(n.into(), n + 1, instance, true)
            })
            .collect(),
    }
}

fn client() -> JobRoutes {
    JobRoutes {
        job: "a.b.client.d".to_owned(),
        instances: vec![route(0, 0, pair((30, 0xfdff), 2, 2), false)],
    }
}

fn attach(handle: &Handle, name: &str, macs: &HashMap<String, [u8; 6]>) {
    let n = number(name);
    let interface = format!("port{name}");
    let ifindex = nix::net::if_::if_nametoindex(&interface[..]).unwrap();
    handle
        .attach(Attachment {
            port: AccessKind::Packet { ifindex, interface },
            mac: macs[name],
            namespace: namespace(n),
            job: "a.b.service.d".to_owned(),
            number: n.into(),
        })
        .unwrap();
}

/// A container or VM behind a device; `port N` or why not.
fn plug(handle: &Handle, n: u8, mac: [u8; 6], devargs: &str) -> String {
    let attached = handle.attach(Attachment {
        port: AccessKind::Ethdev {
            devargs: devargs.to_owned(),
        },
        mac,
        namespace: namespace(n),
        job: "a.b.service.d".to_owned(),
        number: n.into(),
    });
    match attached {
        Ok(port) => format!("port {port}"),
        Err(error) => error.to_string(),
    }
}

/// Attaches devices until one is refused; how many, and why.
fn fill(handle: &Handle) -> String {
    for n in 0.. {
        let answer = plug(handle, 3 + n, [2, 0, 0, 0, 0, n], &format!("net_ring{n}"));
        if !answer.starts_with("port ") {
            return format!("{n} {answer}");
        }
    }
    String::new()
}

/// Detaches all devices; how many there were.
fn drain(handle: &Handle) -> usize {
    let mut count = 0;
    for line in handle.ports().unwrap() {
        if let (CapturePort::Access(port), "ethdev") = (line.port, line.kind) {
            assert!(handle.detach(port).unwrap());
            count += 1;
        }
    }
    count
}

/// Packets that a port received, and was given to send, since `see`.
fn seen(handle: &Handle, capture: &mut Option<Capture>, name: &str) -> String {
    let lines = handle.ports().unwrap();
    let port = lines.iter().find(|line| line.name == name).unwrap().port;
    let mut packets = Vec::new();
    capture.take().unwrap().read(&mut packets);
    let count = |outgoing| {
        let of = |p: &&Captured| p.port == port && p.outgoing == outgoing;
        packets.iter().filter(of).count()
    };
    format!("{} {}", count(false), count(true))
}

fn packets(counts: &[dataplane::Count]) -> u64 {
    counts.iter().map(|c| c.packets).sum()
}

fn event(stats: &Stats, name: &str) -> u64 {
    let found = stats.events.iter().find(|c| c.name == name);
    found.map_or(0, |c| c.packets)
}

fn named(counts: &[Count], name: &str) -> u64 {
    counts
        .iter()
        .filter(|c| c.name == name)
        .map(|c| c.packets)
        .sum()
}

/// What does not add up: all packets, and each port's own books with the pipeline's.
fn unbalanced(stats: &Stats) -> String {
    let mut wrong = Vec::new();
    let came = packets(&stats.received) + packets(&stats.made);
    let went = packets(&stats.sent) + packets(&stats.drops) + packets(&stats.consumed);
    if came != went + stats.waiting {
        wrong.push(format!("{came} came, {went} went, {} wait", stats.waiting));
    }
    let mut refused = 0;
    for role in &stats.roles {
        for (theirs, ours) in [("received", &stats.received), ("sent", &stats.sent)] {
            let (theirs, ours) = (named(&role.counts, theirs), named(ours, role.role));
            if theirs != ours {
                wrong.push(format!("{}: {theirs}, not {ours}", role.role));
            }
        }
        let unsent = |c: &&Count| c.name.starts_with("tx_");
        refused += role
            .counts
            .iter()
            .filter(unsent)
            .map(|c| c.packets)
            .sum::<u64>();
    }
    if refused != named(&stats.drops, "port_refused") {
        wrong.push(format!("{refused} refused by ports"));
    }
    wrong.join("; ")
}

fn command(
    handle: &Handle,
    macs: &mut HashMap<String, [u8; 6]>,
    capture: &mut Option<Capture>,
    words: &[&str],
) -> String {
    match words {
        ["plug", name, devargs] => {
            let mac = macs.get(*name).copied().unwrap_or([2, 0, 0, 0, 0, 9]);
            return plug(handle, number(name), mac, devargs);
        }
        ["unplug", port] => return handle.detach(port.parse().unwrap()).unwrap().to_string(),
        ["fill"] => return fill(handle),
        ["drain"] => return drain(handle).to_string(),
        ["see"] => {
            let options = CaptureOptions {
                port: None,
                snaplen: 64,
            };
            *capture = Some(handle.capture(options).unwrap());
        }
        ["seen", name] => return seen(handle, capture, name),
        ["mac", name, mac] => {
            let bytes: Vec<u8> = mac
                .split(':')
                .map(|b| u8::from_str_radix(b, 16).unwrap())
                .collect();
            macs.insert((*name).to_owned(), bytes.try_into().unwrap());
        }
        ["attach", name] => attach(handle, name, macs),
        ["detach", name] => {
            let ifindex = nix::net::if_::if_nametoindex(&format!("port{name}")[..]).unwrap();
            assert!(handle.detach(ifindex).unwrap());
        }
        ["job", numbers @ ..] => {
            let numbers: Vec<u8> = numbers.iter().map(|n| n.parse().unwrap()).collect();
            let answers = handle.set_jobs(vec![client(), service(&numbers)]);
            assert_eq!(answers, [Ok(()), Ok(())]);
        }
        ["containers"] => {
            let stats = handle.stats().unwrap();
            let sum = |of: fn(&dataplane::PortCounts) -> u64| {
                stats.containers.iter().map(of).sum::<u64>().to_string()
            };
            let unknown = named(&stats.drops, "unknown_port");
            return [
                sum(|c| c.packets_in),
                (named(&stats.received, "access") - unknown).to_string(),
                sum(|c| c.packets_out - c.refused),
                named(&stats.sent, "access").to_string(),
                sum(|c| c.refused),
            ]
            .join(" ");
        }
        ["client"] => handle.set_job(client()).unwrap(),
        ["churn", times] => {
            for n in 0..times.parse::<u32>().unwrap() {
                let mut routes = service(match n % 3 {
                    0 => &[0],
                    1 => &[1, 0],
                    _ => &[0, 1],
                });
                for instance in &mut routes.instances {
                    instance.weight = (n % 7) as u8 + 1;
                }
                handle.set_job(routes).unwrap();
                handle.set_job(client()).unwrap();
            }
            handle.set_job(service(&[0, 1])).unwrap();
        }
        ["host"] => {
            let mut own = route(0, 0, pair((30, 0xfdff), 40, 0x40), false);
            own.namespace = pair((18, 0xfc00), 1, 1);
            let job = "cluster.nodes.one.host".to_owned();
            let instances = vec![own];
            handle.set_job(JobRoutes { job, instances }).unwrap();
        }
        ["forget"] => handle.forget_job("a.b.service.d").unwrap(),
        ["nowhere", address] => handle.set_unresolvable(address.parse().unwrap()).unwrap(),
        ["misses"] => return event(&handle.stats().unwrap(), "misses").to_string(),
        ["balance"] => {
            // Bursts under way come to an end: packets that wait are all that may be left, and none waits for ever.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            loop {
                let stats = handle.stats().unwrap();
                assert!(packets(&stats.received) > 0 && packets(&stats.sent) > 0);
                let wrong = unbalanced(&stats);
                if (stats.waiting == 0 && wrong.is_empty()) || std::time::Instant::now() > deadline
                {
                    return format!("{} {wrong}", stats.waiting).trim().to_owned();
                }
                std::thread::yield_now();
            }
        }
        other => panic!("{other:?}"),
    }
    String::new()
}

pub fn run() {
    let variable = |name| std::env::var(name).unwrap();
    let config = Config {
        instance: variable("OAK_INSTANCE"),
        workers: variable("OAK_WORKERS").parse().unwrap(),
        worker_cpus: Vec::new(),
        idle: Idle::Backoff,
        uplink: Uplink::Socket,
        tunnel_port: 50103,
        host_interface: "oak0".to_owned(),
        host_port: match variable("OAK_HOST_PORT") {
            word if word == "tap" => HostPort::Tap,
            word if word == "virtio_user" => HostPort::VirtioUser,
            devargs => HostPort::Ethdev { devargs },
        },
        mtu: 1450,
        packets: dataplane::PACKETS_PER_WORKER,
        instances: dataplane::INSTANCES,
        caught_zone: std::env::var("OAK_CAUGHT_ZONE").ok(),
        flows: 4096,
        hugepage_mb: Some(0),
        namespace: dataplane::namespace_cookie(),
        shared_dir: variable("OAK_SHARED").into(),
    };
    let listener = |event| {
        if let Event::Unresolved(address) = event {
            println!("\n> unresolved {address}");
        }
    };
    let dataplane = match Dataplane::start(&config, Box::new(listener)) {
        Ok(dataplane) => dataplane,
        Err(error) => return println!("\n> refused {error}"),
    };
    let handle = dataplane.handle();
    let gateway = pair((18, 0xfc00), 1, 1);
    handle
        .set_subnets(vec![Subnet {
            v4: Some(Ipv4Addr::new(10, 18, 0, 0)),
            v6: Some("fc00::".parse().unwrap()),
            gateway,
        }])
        .unwrap();
    println!("\n> ready");
    let mut macs = HashMap::new();
    let mut capture = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        if words == ["stop"] {
            break;
        }
        let answer = command(&handle, &mut macs, &mut capture, &words);
        println!("\n> done {answer}");
    }
    dataplane.stop();
}
