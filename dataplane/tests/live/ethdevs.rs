//! Access ports by DPDK: a VM behind `net_vhost`, a container behind `net_af_packet`, and more than there is room for.
//!
//! The VM is a process of this test with an EAL of its own: `net_virtio_user` is its NIC, and what comes there goes to a
//! `net_tap`, behind which the kernel of the namespace plays the guest.

use std::io::Read;
use std::net::UdpSocket;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use dpdk::{Burst, Eal, EalOptions, Memory, Mempool, Port, PortConfig};

use super::containers::{Site, ip, within};
use super::{PATIENCE, SERVICES, ask, connect, echoes, line};

const MAC: &str = "02:00:00:00:00:0f";

/// The VM `f`; gone with this value.
struct Machine(Child);

impl Machine {
    /// Boots it in the namespace of `f`, in place of the container there.
    fn boot(site: &Site, socket: &str) -> Machine {
        let space = site.container("f");
        let child = Command::new("ip")
            .args(["netns", "exec", &space])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "vm_process", "--nocapture"])
            .env("OAK_VM_SOCKET", socket)
            .env("OAK_VM_PREFIX", format!("{space}vm"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let machine = Machine(child);
        let deadline = std::time::Instant::now() + PATIENCE;
        while !within(&space, || {
            std::fs::read_to_string("/proc/thread-self/net/dev")
                .unwrap()
                .contains("eth0")
        }) {
            assert!(std::time::Instant::now() < deadline, "the VM does not boot");
            std::thread::yield_now();
        }
        for command in [
            "addr add 10.18.0.4/26 dev eth0",
            "addr add fc00::4/120 dev eth0 nodad",
            "link set eth0 mtu 1450 up",
            "route add default via 10.18.0.1",
            "-6 route add default via fc00::1",
        ] {
            ip(&format!("-n {space} {command}"));
        }
        machine
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The VM's process: between its NIC and its kernel until standard input ends.
pub fn vm() {
    let variable = |name| std::env::var(name).unwrap();
    let eal = Eal::init(EalOptions {
        file_prefix: variable("OAK_VM_PREFIX").to_lowercase(),
        memory: Memory::NoHuge { megabytes: 128 },
        ..EalOptions::default()
    })
    .unwrap();
    let pool = Mempool::create("vm", 8191, 0, 2048 + dpdk::HEADROOM, None).unwrap();
    let nic = format!("net_virtio_user0,path={}", variable("OAK_VM_SOCKET"));
    let kernel = format!("net_tap0,iface=eth0,mac={MAC}");
    let mut ports: Vec<Port> = [nic, kernel]
        .iter()
        .map(|devargs| {
            let mut port = Port::attach(devargs).unwrap();
            port.configure(&PortConfig::new(pool.clone())).unwrap();
            port.start().unwrap();
            let _ = port.set_promiscuous();
            port
        })
        .collect();
    let mut ends: Vec<_> = ports
        .iter()
        .map(|port| (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap()))
        .collect();
    static OVER: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        OVER.store(true, Ordering::Relaxed);
    });
    let [one, other] = &mut ends[..] else {
        panic!("two ports")
    };
    let mut burst = Burst::<32>::new();
    while !OVER.load(Ordering::Relaxed) {
        let mut moved = 0;
        for (from, to) in [(&mut one.0, &mut other.1), (&mut other.0, &mut one.1)] {
            moved += from.burst(&mut burst);
            while !burst.is_empty() && to.burst(&mut burst) > 0 {}
            burst.clear();
        }
        if moved == 0 {
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }
    drop(ends);
    ports.clear();
    drop((pool, eal));
}

fn number(answer: &str) -> &str {
    let number = answer.strip_prefix("port ");
    number.unwrap_or_else(|| panic!("not attached: {answer}"))
}

/// `f` answers by its Service IP, by both protocols and families, and dials like any other.
fn takes_part(site: &Site) {
    within(&site.container("c"), || {
        for service in SERVICES {
            assert!((0..10).all(|_| ask(service).unwrap() == "f"));
            let stream = connect(service);
            assert_eq!(line(&stream, "hello"), "f");
            // Segments of 64 KB, and checksums that are to be finished, on the way to it; pieces back.
            echoes(stream, "f");
        }
    });
    within(&site.container("f"), || {
        assert_eq!(ask("10.18.0.3").unwrap(), "e");
        let stream = connect("10.18.0.3");
        assert_eq!(line(&stream, "from f"), "e");
        echoes(stream, "e");
    });
    for target in ["10.18.0.4", "fc00::4"] {
        site.ping("c", target);
        site.ping(
            "f",
            if target.contains(':') {
                "fc00::3"
            } else {
                "10.18.0.3"
            },
        );
    }
}

/// Its queries go on while the port is unplugged; nothing is left unaccounted for, and it can be plugged in again.
fn goes_under_traffic(site: &Site, node: &mut super::containers::Node, devargs: &str, port: &str) {
    let (done, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for space in ["c", "f"] {
            let (done, asked) = (&done, &asked);
            let target = if space == "c" {
                "10.18.0.4:7000"
            } else {
                "10.18.0.3:7000"
            };
            let space = site.container(space);
            scope.spawn(move || {
                within(&space, || {
                    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                    while !done.load(Ordering::Relaxed) {
                        // Unreachable is an answer, too.
                        let _ = socket.send_to(&[7; 900], target);
                        asked.fetch_add(1, Ordering::Relaxed);
                        std::thread::yield_now();
                    }
                });
            });
        }
        let wait_for_more = || {
            let now = asked.load(Ordering::Relaxed);
            while asked.load(Ordering::Relaxed) < now + 200 {
                std::thread::yield_now();
            }
        };
        wait_for_more();
        assert_eq!(node.say(&format!("unplug {port}")), "true");
        wait_for_more();
        assert_eq!(node.say(&format!("unplug {port}")), "false");
        if devargs.starts_with("net_af_packet") {
            let again = node.say(&format!("plug f {devargs}"));
            assert_ne!(number(&again), port, "a number is not used again at once");
            wait_for_more();
            assert_eq!(node.say(&format!("unplug {}", number(&again))), "true");
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(node.say("balance"), "0", "packets are unaccounted for");
}

fn a_vm_takes_part(workers: usize) {
    let site = Site::new(&format!("vm{workers}"));
    ip(&format!("-n {} link del portf", site.container("node")));
    let mut node = site.start_with(workers, &["c", "e"]);
    node.say(&format!("mac f {MAC}"));
    let socket = site.path("vm.sock");
    let devargs = format!("net_vhost0,iface={socket}");
    assert!(
        node.say(&format!("plug f {devargs},tso=1"))
            .contains("leave tso=1 out")
    );
    // Someone listens there; then only the file is left of it.
    let listener = UnixListener::bind(&socket).unwrap();
    assert!(
        node.say(&format!("plug f {devargs}"))
            .contains("attached already")
    );
    drop(listener);
    let answer = node.say(&format!("plug f {devargs}"));
    let port = number(&answer).to_owned();
    node.say("job 1");
    let _machine = Machine::boot(&site, &socket);
    takes_part(&site);
    goes_under_traffic(&site, &mut node, &devargs, &port);
    within(&site.container("c"), || {
        assert_eq!(ask("10.18.0.3").unwrap(), "e", "the others stay");
    });
}

#[test]
fn a_vm_behind_vhost_user_takes_part_with_one_worker() {
    a_vm_takes_part(1);
}

#[test]
fn a_vm_behind_vhost_user_takes_part_with_two_workers() {
    a_vm_takes_part(2);
}

#[test]
fn a_kernel_interface_by_dpdk_is_an_access_port() {
    let site = Site::new("afp");
    // This driver hands over and takes finished frames only.
    let output = Command::new("ip")
        .args(["netns", "exec", &site.container("f")])
        .args(["ethtool", "-K", "eth0", "tx", "off"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut node = site.start_with(2, &["c", "e"]);
    site.tell_mac(&mut node, "f");
    let devargs = "net_af_packet0,iface=portf";
    let answer = node.say(&format!("plug f {devargs}"));
    let port = number(&answer).to_owned();
    node.say("job 1");
    node.say("see");
    takes_part(&site);
    // What passed there was seen, both ways, with the device's name.
    let seen = node.say("seen net_af_packet0");
    let (came, went) = seen.split_once(' ').unwrap();
    assert!(
        came.parse::<u64>().unwrap() > 20 && went.parse::<u64>().unwrap() > 20,
        "{seen}"
    );
    goes_under_traffic(&site, &mut node, devargs, &port);
}

#[test]
fn one_port_too_many_is_refused_and_the_others_live_on() {
    let site = Site::new("many");
    let mut node = site.start_with(1, &["c", "e"]);
    node.say("job 0");
    let answer = node.say("fill");
    let (count, error) = answer.split_once(' ').unwrap();
    assert_eq!(count, "32");
    assert!(
        error.contains("built for 32") && error.contains("veth"),
        "{error}"
    );
    within(&site.container("c"), || {
        assert_eq!(ask(SERVICES[0]).unwrap(), "e");
    });
    assert_eq!(node.say("drain"), "32");
    assert!(number(&node.say("plug f net_null0")).starts_with('2'));
    assert!(
        node.say("plug f net_null1").contains("attached already"),
        "its addresses are"
    );
}
