//! Namespaces: the node's, and three containers on veth pairs, `e` and `f` with servers inside.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

pub const NAMES: [&str; 3] = ["c", "e", "f"];

/// Runs `work` on a thread inside a namespace.
pub fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            enter(namespace);
            work()
        });
        match inside.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
}

pub fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
}

/// A node and its containers; gone with this value.
pub struct Site {
    name: String,
    shared: PathBuf,
    /// `tap`, `virtio_user`, or the arguments of a device.
    host_port: &'static str,
}

impl Site {
    pub fn new(name: &str) -> Site {
        Site::with_host_port(name, "tap")
    }

    pub fn with_host_port(name: &str, host_port: &'static str) -> Site {
        let site = Site {
            host_port,
            name: format!("oakdp{}{name}", std::process::id()),
            shared: PathBuf::from(format!("/dev/shm/oakdp{}{name}", std::process::id())),
        };
        std::fs::create_dir_all(&site.shared).unwrap();
        for space in ["node", "c", "e", "f"] {
            let space = site.container(space);
            ip(&format!("netns add {space}"));
            ip(&format!("-n {space} link set lo up"));
        }
        let node = site.container("node");
        for (n, name) in NAMES.iter().enumerate() {
            let (space, last) = (site.container(name), n + 2);
            ip(&format!(
                "link add port{name} netns {node} type veth peer name eth0 netns {space}"
            ));
            ip(&format!("-n {node} link set port{name} up"));
            ip(&format!("-n {space} addr add 10.18.0.{last}/26 dev eth0"));
            ip(&format!(
                "-n {space} addr add fc00::{last}/120 dev eth0 nodad"
            ));
            ip(&format!("-n {space} link set eth0 mtu 1450 up"));
            ip(&format!("-n {space} route add default via 10.18.0.1"));
            ip(&format!("-n {space} -6 route add default via fc00::1"));
        }
        // The kernel's copy of every frame ends here, or it would answer for the gateway, too (design section 3).
        let rule = "add table netdev t; add chain netdev t in { type filter hook ingress devices = \
                    { portc, porte, portf } priority 0; policy drop; }";
        let output = Command::new("ip")
            .args(["netns", "exec", &node, "nft", rule])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        for name in ["e", "f"] {
            within(&site.container(name), || serve(name));
        }
        site
    }

    pub fn container(&self, name: &str) -> String {
        format!("{}{name}", self.name)
    }

    /// The node's end of a container's veth pair goes down.
    pub fn link_down(&self, name: &str) {
        ip(&format!(
            "-n {} link set port{name} down",
            self.container("node")
        ));
    }

    pub fn ping(&self, from: &str, target: &str) {
        // Two tries: the first of all may wait for a neighbour.
        let output = Command::new("ip")
            .args(["netns", "exec", &self.container(from)])
            .args(["ping", "-c", "3", "-i", "0.1", "-W", "5", target])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(" 0% packet loss"), "ping {target}: {text}");
        assert!(
            text.contains(&format!("from {target}")),
            "ping {target}: {text}"
        );
    }

    pub fn start(&self, workers: usize) -> Node {
        self.start_with(workers, &NAMES)
    }

    /// A node's process, which has begun to start.
    pub fn spawn(&self, workers: usize) -> Node {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.container("node")])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "node_process", "--nocapture"])
            .env("OAK_INSTANCE", self.name.to_lowercase())
            .env("OAK_WORKERS", workers.to_string())
            .env("OAK_SHARED", &self.shared)
            .env("OAK_HOST_PORT", self.host_port)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, heard) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        Node {
            input: child.stdin.take().unwrap(),
            child,
            heard,
            kept: Vec::new(),
        }
    }

    /// A node's process; the containers are attached in this order.
    pub fn start_with(&self, workers: usize, order: &[&str]) -> Node {
        let mut node = self.spawn(workers);
        if let Some(refused) = node.ready_or_refused() {
            panic!("{refused}");
        }
        for name in order {
            self.tell_mac(&mut node, name);
            node.say(&format!("attach {name}"));
        }
        let space = self.container("node");
        ip(&format!("-n {space} addr add 10.18.0.1/32 dev oak0"));
        ip(&format!("-n {space} link set oak0 up"));
        for range in ["10.18.0.0/15", "10.30.0.0/16"] {
            ip(&format!(
                "-n {space} route replace {range} dev oak0 src 10.18.0.1"
            ));
        }
        node
    }

    /// Tells the node a container's MAC address.
    pub fn tell_mac(&self, node: &mut Node, name: &str) {
        let mac = within(&self.container(name), || {
            let output = Command::new("ip")
                .args(["-o", "link", "show", "eth0"])
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.split("link/ether ").nth(1).unwrap()[..17].to_owned()
        });
        node.say(&format!("mac {name} {mac}"));
    }

    /// A file of this site.
    pub fn path(&self, name: &str) -> String {
        self.shared.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for space in ["node", "c", "e", "f"] {
            let _ = Command::new("ip")
                .args(["netns", "del", &self.container(space)])
                .status();
        }
        let _ = std::fs::remove_dir_all(&self.shared);
    }
}

/// Servers that say their name before what they were told, on UDP and TCP port 7000.
pub fn serve(name: &'static str) {
    let udp = UdpSocket::bind("[::]:7000").unwrap();
    let tcp = TcpListener::bind("[::]:7000").unwrap();
    std::thread::spawn(move || {
        let mut question = [0; 2000];
        while let Ok((_, from)) = udp.recv_from(&mut question) {
            let _ = udp.send_to(name.as_bytes(), from);
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(&stream);
                let mut line = Vec::new();
                while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    let answer = [name.as_bytes(), b" ", &line].concat();
                    if (&stream).write_all(&answer).is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
    });
}

/// The node's process.
pub struct Node {
    child: Child,
    input: ChildStdin,
    heard: Receiver<String>,
    kept: Vec<String>,
}

impl Node {
    fn hear(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        if let Some(at) = self.kept.iter().position(|line| wanted(line)) {
            return self.kept.remove(at);
        }
        loop {
            let line = self.heard.recv_timeout(Duration::from_secs(60));
            let line = line.unwrap_or_else(|e| panic!("the node says nothing more: {e}"));
            let Some(line) = line.strip_prefix("> ").map(str::to_owned) else {
                continue;
            };
            if wanted(&line) {
                return line;
            }
            self.kept.push(line);
        }
    }

    /// Waits until the data plane has started; why it has not, else.
    pub fn ready_or_refused(&mut self) -> Option<String> {
        let said = self.hear(|heard| heard == "ready" || heard.starts_with("refused "));
        said.strip_prefix("refused ").map(str::to_owned)
    }

    /// Waits until the node says this.
    pub fn expect(&mut self, line: &str) {
        self.hear(|heard| heard == line);
    }

    /// Has the node do something; what it answers.
    pub fn say(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").unwrap();
        let answer = self.hear(|heard| heard.starts_with("done"));
        answer["done".len()..].trim().to_owned()
    }

    /// Kills the process as an operator in despair would (it is `ip netns exec`, which became the program itself).
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "stop");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) {
            if std::time::Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                assert!(std::thread::panicking(), "the data plane does not stop");
                return;
            }
            std::thread::yield_now();
        }
    }
}
