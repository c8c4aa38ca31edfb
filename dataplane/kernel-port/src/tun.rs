//! A plain TUN: whole IP packets, one by each system call, complete and of one MTU at most.
//!
//! No port of the data plane: it is what there is without our ports, and what the benchmarks' floor stands on.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;

use libc::c_int;

use crate::{KernelPortError, syscall};

/// Attaches to the TUN `name` in the calling thread's network namespace, or makes it; one that was not made before with
/// `ip tuntap` goes with the file. Reading waits.
///
/// # Errors
/// [`KernelPortError`]: a bad or taken name, no `/dev/net/tun`, missing capabilities.
pub fn open(name: &str) -> Result<File, KernelPortError> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(KernelPortError::BadInterfaceName(name.to_owned()));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => KernelPortError::TunMissing,
            _ => KernelPortError::io("opening /dev/net/tun", error),
        })?;
    let flags: c_int = libc::IFF_TUN | libc::IFF_NO_PI;
    syscall::attach_tap(file.as_fd(), name, flags).map_err(|error| match error.raw_os_error() {
        // EINVAL: the name belongs to an interface of another kind.
        Some(libc::EBUSY | libc::EINVAL | libc::EEXIST) => {
            KernelPortError::InterfaceTaken(name.to_owned())
        }
        _ => KernelPortError::io("making the TUN", error),
    })?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_interface_can_have_is_refused() {
        for name in ["", "a-name-that-is-too-long"] {
            assert!(matches!(
                open(name),
                Err(KernelPortError::BadInterfaceName(_))
            ));
        }
    }
}
