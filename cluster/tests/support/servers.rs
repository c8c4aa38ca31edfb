//! Real servers, and what they need.

use std::path::Path;
use std::process::Command;

pub use servers::{Folder, Process};

pub fn free_port() -> u16 {
    servers::free_port().unwrap()
}

pub fn folder() -> Folder {
    Folder::new("cluster").unwrap()
}

pub fn redis(port: u16, folder: &Path) -> Process {
    servers::redis(port, folder, &[]).unwrap()
}

pub fn mosquitto(port: u16, folder: &Path) -> Process {
    let settings = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\nlog_dest none\n"
    );
    servers::mosquitto(port, folder, &settings).unwrap()
}

/// What redis-cli says to words with a space between, without the line's end.
pub fn cli(port: u16, words: &str) -> String {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .args(words.split(' '))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// `ca.crt`, and certificate (`.crt`) and key of the broker, the manager (`cluster_net`) and others; the key as it is
/// (`.plain`), and encrypted with the password `secret` (`.key`).
pub fn certificates(folder: &Path, others: &[&str]) {
    let ext = folder.join("ext");
    std::fs::write(&ext, "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        folder,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=ca -keyout ca.key -out ca.crt",
    );
    for name in ["broker", "cluster_net"].iter().chain(others) {
        openssl(
            folder,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.plain -out {name}.csr"
            ),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -extfile ext -out {name}.crt"
            ),
        );
        openssl(
            folder,
            &format!("pkcs8 -topk8 -in {name}.plain -passout pass:secret -out {name}.key"),
        );
    }
}
