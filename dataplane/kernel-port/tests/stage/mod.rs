//! Network namespaces of a test's own, and waiting for what must come.

#![allow(dead_code)]

pub mod memory;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A network namespace, gone with this value.
pub struct Namespace(pub String);

impl Namespace {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace(format!("kport-{}-{number}", std::process::id()));
        ip(&["netns", "add", &namespace.0]);
        // Router solicitations and the like would mix with what the tests send.
        namespace.run(|| {
            for scope in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
                std::fs::write(path, "1").unwrap();
            }
        });
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.0], arguments].concat());
    }

    /// Runs `work` on a thread inside. Sockets that it opens belong to the namespace wherever they go.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
                // SAFETY: no memory is passed; the thread is this closure's own.
                let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "{}", std::io::Error::last_os_error());
                work()
            });
            inside.join().unwrap()
        })
    }

    pub fn interface(&self, name: &str) -> u32 {
        self.run(|| {
            let name = std::ffi::CString::new(name).unwrap();
            // SAFETY: a C string is passed.
            unsafe { libc::if_nametoindex(name.as_ptr()) }
        })
    }

    /// Packets that the interface has received.
    pub fn received(&self, interface: &str) -> u64 {
        let table = self.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        let prefix = format!("{interface}:");
        let line = table
            .lines()
            .find_map(|line| line.trim().strip_prefix(&prefix));
        line.unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {errors}");
}

/// Repeats `attempt` until it is true; fails after 20 s.
pub fn until(what: &str, mut attempt: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !attempt() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::yield_now();
    }
}

/// A generator that needs no seed from outside: the same numbers every time.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// All bytes of a packet.
pub fn bytes(mbuf: &dpdk::Mbuf) -> Vec<u8> {
    mbuf.segments().flatten().copied().collect()
}
