//! Where EAL takes its memory from, checked before EAL would fail half way.

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::eal::EalError;

/// Where EAL takes its memory from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Memory {
    /// Hugepages; other DPDK processes (dpdk-dumpcap, dpdk-telemetry) can attach.
    Hugepages {
        /// The hugetlbfs mount to use; `None` = the one that the system has.
        dir: Option<PathBuf>,
    },
    /// Ordinary pages, taken whole at start. No other process can attach, and no device can do DMA by
    /// physical address.
    NoHuge {
        /// All that EAL will ever have; DPDK's own default of 64 is too small for pools.
        megabytes: u32,
    },
}

const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

impl Memory {
    /// Where the system has mounted a hugetlbfs, if it has.
    #[must_use]
    pub fn mounted() -> Option<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let dir = fields.next()?;
            (fields.next()? == "hugetlbfs").then(|| dir.into())
        })
    }

    pub(crate) fn check(&self) -> Result<(), EalError> {
        let Memory::Hugepages { dir } = self else {
            return Ok(());
        };
        let dir = match dir {
            Some(dir) if is_hugetlbfs(dir) => dir.clone(),
            Some(dir) => return Err(EalError::NotHugetlbfs(dir.clone())),
            None => Self::mounted().ok_or(EalError::NoHugetlbfs)?,
        };
        if free_hugepages() == 0 {
            return Err(EalError::NoHugepages);
        }
        if !writable(&dir) {
            return Err(EalError::Permission(dir));
        }
        Ok(())
    }

    /// Frees the hugepages that a killed process with this file prefix left taken, so that they count as free again.
    /// Those of a process that lives are locked, and stay.
    pub fn reclaim(prefix: &str) {
        let Some(dir) = Self::mounted() else { return };
        for path in page_files(&dir, prefix) {
            let Ok(file) = fs::File::open(&path) else {
                continue;
            };
            // SAFETY: an open descriptor; the lock goes with it.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
                let _removed = fs::remove_file(path);
            }
        }
    }

    /// Removes what EAL leaves in the file system for other processes to attach to: without it the pages
    /// stay taken when the process has ended. What is still mapped goes with the process.
    pub(crate) fn give_back(&self, prefix: &str) {
        let Memory::Hugepages { dir } = self else {
            return;
        };
        for path in dir
            .clone()
            .or_else(Self::mounted)
            .iter()
            .flat_map(|dir| page_files(dir, prefix))
        {
            // A file that stays is reclaimed by the next process with this prefix.
            let _removed = fs::remove_file(path);
        }
        let _removed = fs::remove_dir_all(Path::new("/var/run/dpdk").join(prefix));
    }

    pub(crate) fn arguments(&self) -> Vec<String> {
        match self {
            // Not --in-memory: capture and telemetry tools attach by the files that it would not make.
            Memory::Hugepages { dir } => dir
                .iter()
                .map(|dir| format!("--huge-dir={}", dir.display()))
                .collect(),
            Memory::NoHuge { megabytes } => {
                let size = format!("-m{megabytes}");
                // No one can attach, so there is nothing to leave behind in the run-time directory.
                ["--no-huge", &size, "--no-shconf", "--no-telemetry"]
                    .map(str::to_owned)
                    .into()
            }
        }
    }
}

/// The files that EAL's pages of one prefix lie in.
fn page_files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let pages = format!("{prefix}map_");
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().as_bytes().starts_with(pages.as_bytes()))
        .map(|entry| entry.path())
        .collect()
}

fn is_hugetlbfs(dir: &Path) -> bool {
    let Ok(path) = CString::new(dir.as_os_str().as_bytes()) else {
        return false;
    };
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: a terminated path and room for the result, which is read only on success.
    let kind = unsafe {
        (libc::statfs(path.as_ptr(), stat.as_mut_ptr()) == 0).then(|| stat.assume_init().f_type)
    };
    kind == Some(HUGETLBFS_MAGIC)
}

/// Free hugepages of any size.
fn free_hugepages() -> u64 {
    let count = || -> io::Result<u64> {
        let mut free = 0;
        for size in fs::read_dir("/sys/kernel/mm/hugepages")? {
            let text = fs::read_to_string(size?.path().join("free_hugepages"))?;
            free += text.trim().parse::<u64>().unwrap_or(0);
        }
        Ok(free)
    };
    count().unwrap_or(0)
}

fn writable(dir: &Path) -> bool {
    let Ok(path) = CString::new(dir.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: a terminated path.
    unsafe { libc::access(path.as_ptr(), libc::W_OK) == 0 }
}
