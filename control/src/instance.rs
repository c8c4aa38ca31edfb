//! Names that tell this Net Manager, its interfaces and its tables from others on the machine.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// FNV-1a: short, stable across versions, and good enough to tell names apart.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|part| part.iter().chain(&[0xff])) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

/// The id of a Net Manager: from its network namespace and its configuration's path. `[0-9a-f]{8}`.
#[must_use]
pub fn id(config: &Path) -> String {
    let namespace =
        std::fs::metadata("/proc/thread-self/ns/net").map_or(0, |metadata| metadata.ino());
    let path = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let hash = hash(&[
        &namespace.to_be_bytes(),
        path.as_os_str().as_encoded_bytes(),
    ]);
    format!("{:08x}", hash >> 32)
}

/// What the host ends of one Net Manager begin with; seven bytes.
pub fn interface_prefix(instance: &str) -> String {
    format!("oak{:04x}", hash(&[instance.as_bytes()]) >> 48)
}

/// The name of an instance's host end; fifteen bytes, the most that the kernel takes.
pub fn interface_name(instance: &str, job: &str, number: u32) -> String {
    let hash = hash(&[job.as_bytes(), &number.to_be_bytes()]);
    format!("{}{:08x}", interface_prefix(instance), hash >> 32)
}

/// The MAC address of an instance's virtual machine: its own for as long as it is deployed here, also over a restart.
/// Locally administered and of no interface that the kernel or this program gives one to (those begin with `02`).
pub fn machine_mac(instance: &str, job: &str, number: u32) -> [u8; 6] {
    let hash = hash(&[instance.as_bytes(), job.as_bytes(), &number.to_be_bytes()]);
    let [a, b, c, d, e, ..] = hash.to_be_bytes();
    [0x06, a, b, c, d, e]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        let name = interface_name("abcd", "a.b.c.d", 0);
        assert_eq!(name.len(), 15);
        assert!(name.starts_with(&interface_prefix("abcd")));
        assert_ne!(name, interface_name("abcd", "a.b.c.d", 1));
        assert_ne!(name, interface_name("abce", "a.b.c.d", 0));
        let mac = machine_mac("abcd", "a.b.c.d", 0);
        assert_eq!(mac[0] & 3, 2, "unicast, locally administered");
        assert_ne!(mac, machine_mac("abcd", "a.b.c.d", 1));
        assert_ne!(id(Path::new("/a")), id(Path::new("/b")));
        assert_eq!(id(Path::new("/a")), id(Path::new("/a")));
    }
}
