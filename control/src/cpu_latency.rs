//! How deeply idle cores may sleep while this node runs.
//!
//! A worker that waits, and the process that it delivers to, is woken on a core that may have gone to sleep: a few
//! microseconds on bare metal, tens where a hypervisor must run the virtual core again, and a round trip between two
//! nodes has several such wake-ups. The kernel keeps to the least limit that anybody holds (PM QoS,
//! `Documentation/power/pm_qos_interface.rst`): one that is gone when its file is closed, so also when this process is
//! killed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

/// Where the kernel takes limits for all cores.
const DEVICE: &str = "/dev/cpu_dma_latency";

/// What puts idle cores to sleep; without one no limit has an effect.
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";

/// What the kernel keeps to now, in µs: the least of all limits that are held.
///
/// # Errors
/// The device is missing or cannot be read.
pub fn kept() -> io::Result<u32> {
    let mut limit = [0; 4];
    File::open(DEVICE)?.read_exact(&mut limit)?;
    u32::try_from(i32::from_ne_bytes(limit)).map_err(io::Error::other)
}

/// The limit that this process holds.
#[derive(Debug, Default)]
pub struct CpuLatency {
    held: Option<File>,
}

impl CpuLatency {
    /// Holds a limit of so many µs; `None` leaves it to the machine.
    ///
    /// # Errors
    /// The device is missing or cannot be written; the text says what to do.
    pub fn hold(limit: Option<u32>) -> Result<Self, String> {
        let mut latency = Self::default();
        latency.set(limit)?;
        Ok(latency)
    }

    /// Holds another limit. The one before stays if this fails.
    ///
    /// # Errors
    /// As [`CpuLatency::hold`].
    pub fn set(&mut self, limit: Option<u32>) -> Result<(), String> {
        self.held = limit
            .map(|limit| open(Path::new(DEVICE), limit))
            .transpose()
            .map_err(|error| {
                format!(
                    "Dataplane.CpuLatency: {DEVICE}: {error}; run as root on a kernel with CONFIG_CPU_IDLE (under systemd with DeviceAllow={DEVICE} rw), or leave it out"
                )
            })?;
        if limit.is_some() && !has_driver() {
            tracing::warn!("Dataplane.CpuLatency has no effect: {}", WITHOUT_DRIVER);
        }
        Ok(())
    }
}

/// Why a limit may do nothing.
pub const WITHOUT_DRIVER: &str =
    "this kernel has no driver that puts idle cores to sleep (cpuidle)";

/// Whether the kernel has states to choose from.
#[must_use]
pub fn has_driver() -> bool {
    std::fs::read_to_string(DRIVER).is_ok_and(|driver| driver.trim() != "none")
}

fn open(device: &Path, limit: u32) -> io::Result<File> {
    let limit = i32::try_from(limit).map_err(io::Error::other)?;
    // Never made: a file of that name would take the limit and do nothing.
    let mut file = OpenOptions::new().write(true).open(device)?;
    file.write_all(&limit.to_ne_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_file_lets_the_device_be_opened() {
        let unit = include_str!("../../config/netmanager.service");
        let allowed = format!("DeviceAllow={DEVICE} rw");
        assert!(unit.lines().any(|line| line == allowed));
    }

    #[test]
    fn a_missing_device_is_not_made() {
        let missing = std::env::temp_dir().join(format!("oak-latency-{}", std::process::id()));
        assert_eq!(
            open(&missing, 0).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert!(!missing.exists());
    }
}
