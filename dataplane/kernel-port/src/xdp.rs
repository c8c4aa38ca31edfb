//! The XDP program of an AF_XDP uplink on an interface that the kernel shares: the tunnel's datagrams come to us, all
//! else stays the kernel's (`xdp/tunnel.c`).
//!
//! The af_xdp PMD of DPDK 22.11 loads a program that it is given as a file, and attaches it so that it outlives the
//! process: after a crash the tunnel's datagrams would go to a socket that nobody reads. So once it is attached, it is
//! attached anew by a link (kernel 5.9), which the kernel takes off with the process, however that ends.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use crate::syscall;

/// The name that the kernel shows for the program (`ip link show`).
pub const PROGRAM: &str = "oak_tunnel";

static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tunnel.bpf.o"));
/// What stands before the port, see `xdp/tunnel.c`.
const MARK: &[u8; 14] = b"oakestra-port\0";

/// The program for one tunnel port, as a file that only this process has.
#[derive(Debug)]
pub struct Program {
    file: OwnedFd,
}

impl Program {
    /// For the tunnel port, host byte order.
    ///
    /// # Errors
    /// No memory for the file.
    pub fn for_port(port: u16) -> io::Result<Program> {
        let bytes = with_port(OBJECT, port).ok_or(io::ErrorKind::InvalidData)?;
        let file = syscall::memory_file(PROGRAM)?;
        let mut file = fs::File::from(file);
        file.write_all(&bytes)?;
        Ok(Program { file: file.into() })
    }

    /// Where this process finds the file, as long as this value lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

fn with_port(object: &[u8], port: u16) -> Option<Vec<u8>> {
    let at = object.windows(MARK.len()).position(|bytes| bytes == MARK)? + MARK.len();
    let mut bytes = object.to_vec();
    bytes
        .get_mut(at..at + 2)?
        .copy_from_slice(&port.to_be_bytes());
    Some(bytes)
}

/// An attached program that goes with this value, and with the process.
#[derive(Debug)]
pub struct Attached {
    _link: OwnedFd,
}

/// Attaches the one XDP program that this process has loaded to its interface anew, by a link.
///
/// # Errors
/// There is not one program; or the kernel has no such links, and then the program is attached as before.
pub fn hold(interface: &str) -> io::Result<Attached> {
    let index = syscall::interface_index(interface).ok_or(io::ErrorKind::NotFound)?;
    let program = loaded()?;
    syscall::set_xdp(index, None)?;
    syscall::link_xdp(index, program.as_fd())
        .map(|link| Attached { _link: link })
        .inspect_err(|_| {
            // As the PMD had it.
            let _ = syscall::set_xdp(index, Some(program.as_fd()));
        })
}

/// A copy of the descriptor of the only XDP program here: libbpf keeps it to itself.
fn loaded() -> io::Result<OwnedFd> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fdinfo")?.flatten() {
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that is closed meanwhile is not it.
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        if is_xdp_program(&info) {
            found.push(number);
        }
    }
    match found[..] {
        [number] => syscall::duplicate(number),
        _ => Err(io::Error::other(format!(
            "{} XDP programs are loaded where one should be",
            found.len()
        ))),
    }
}

/// `BPF_PROG_TYPE_XDP` is 6.
fn is_xdp_program(info: &str) -> bool {
    info.lines().any(|line| {
        line.strip_prefix("prog_type:")
            .is_some_and(|kind| kind.trim() == "6")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_in_the_program_that_is_loaded() {
        let program = Program::for_port(50_103).unwrap();
        let bytes = fs::read(program.path()).unwrap();
        assert_eq!(bytes.len(), OBJECT.len());
        let changed: Vec<u8> = bytes
            .iter()
            .zip(OBJECT)
            .filter(|(now, before)| now != before)
            .map(|(now, _)| *now)
            .collect();
        assert_eq!(changed, 50_103_u16.to_be_bytes());
        assert!(with_port(b"another object", 1).is_none());
    }

    #[test]
    fn programs_are_told_apart() {
        assert!(is_xdp_program("pos:\t0\nprog_type:\t6\nprog_jited:\t1\n"));
        assert!(!is_xdp_program("pos:\t0\nprog_type:\t61\n"));
        assert!(!is_xdp_program("pos:\t0\n"));
    }
}
