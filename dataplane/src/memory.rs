//! Where packet memory comes from: hugepages where there are any, else ordinary pages. What was chosen, and what it
//! costs, is said at the start.

use std::fs;
use std::path::Path;

use dpdk::Memory;

use crate::api::StartError;

/// Small mbufs that a worker needs for what ports, rings and waiting packets hold.
pub const SMALL_PER_WORKER: u32 = 16_384;
/// Large mbufs, per worker: what the ports' landing places take, and a burst beyond.
pub const LARGE_PER_WORKER: u32 = 512;
/// Large mbufs at least: a pool must hold more than its caches may keep back.
pub const LARGE_AT_LEAST: u32 = 511;
/// Small mbufs that a worker keeps at hand: two for each piece of the packets of one round. What does not fit here comes
/// back last of all from the pool, and cold.
pub const SMALL_CACHE: u32 = 512;
/// Large mbufs that a worker keeps at hand.
pub const LARGE_CACHE: u32 = 256;
/// Data room of a small mbuf.
pub const SMALL_ROOM: u16 = 2048 + dpdk::HEADROOM;
/// Data room of a large mbuf.
pub const LARGE_ROOM: u16 = u16::MAX;

/// Megabytes that the pools need: objects, their headers, and some for EAL itself.
#[must_use]
pub fn megabytes(workers: usize, packets: u32) -> u32 {
    const OBJECT: u64 = 256;
    // On ordinary pages a mempool lets no object cross from one page to the next.
    let bytes_of = |room: u16| (u64::from(room) + OBJECT).next_multiple_of(4096);
    let workers = workers as u64;
    let small = u64::from(packets) * workers * bytes_of(SMALL_ROOM);
    let large = (u64::from(LARGE_PER_WORKER) * workers).max(u64::from(LARGE_AT_LEAST));
    let bytes = small + large * bytes_of(LARGE_ROOM) + (24 << 20);
    u32::try_from(bytes >> 20).unwrap_or(u32::MAX) + 1
}

/// What was chosen.
#[derive(Debug)]
pub struct Choice {
    /// For EAL.
    pub memory: Memory,
    /// For people.
    pub text: String,
}

fn free_megabytes() -> u64 {
    let of = |dir: &Path| -> Option<u64> {
        let kilobytes: u64 = dir
            .file_name()?
            .to_str()?
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        let free: u64 = fs::read_to_string(dir.join("free_hugepages"))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        Some((kilobytes * free) >> 10)
    };
    fs::read_dir("/sys/kernel/mm/hugepages")
        .map(|dirs| dirs.flatten().filter_map(|d| of(&d.path())).sum())
        .unwrap_or(0)
}

/// Chooses by what the configuration says and the machine has.
///
/// # Errors
/// When hugepages are asked for that are not there.
pub fn choose(asked_mb: Option<u32>, workers: usize, packets: u32) -> Result<Choice, StartError> {
    let needed = asked_mb
        .filter(|&mb| mb > 0)
        .unwrap_or_else(|| megabytes(workers, packets));
    let free = free_megabytes();
    let no_huge = |why: &str| Choice {
        memory: Memory::NoHuge {
            megabytes: megabytes(workers, packets),
        },
        text: format!(
            "no-huge, {} MB ({why}; ordinary pages cost more TLB misses per packet)",
            megabytes(workers, packets)
        ),
    };
    match asked_mb {
        Some(0) => return Ok(no_huge("hugepages are switched off")),
        Some(mb) if free < u64::from(mb) => {
            return Err(StartError::Memory(format!(
                "HugepageMb asks for {mb} MB and {free} MB are free; reserve them with scripts/hugepages, or set \
                 HugepageMb to 0 to run without"
            )));
        }
        None if free < u64::from(needed) => {
            return Ok(no_huge(&format!(
                "{free} MB of hugepages are free, {needed} MB are needed"
            )));
        }
        _ => {}
    }
    match Memory::mounted() {
        Some(dir) => Ok(Choice {
            text: format!("hugepages, {needed} MB at {}", dir.display()),
            memory: Memory::Hugepages { dir: Some(dir) },
        }),
        None if asked_mb.is_some() => Err(StartError::Memory(
            "there are hugepages but no hugetlbfs is mounted; run scripts/hugepages, which mounts one".to_owned(),
        )),
        None => Ok(no_huge("no hugetlbfs is mounted")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_grows_with_the_workers() {
        let megabytes = |workers| megabytes(workers, SMALL_PER_WORKER);
        assert!(megabytes(1) > 64, "EAL's default would not do");
        assert!(megabytes(4) > 3 * megabytes(1));
    }

    #[test]
    fn zero_means_never() {
        assert!(matches!(
            choose(Some(0), 1, SMALL_PER_WORKER).unwrap().memory,
            Memory::NoHuge { .. }
        ));
    }
}
