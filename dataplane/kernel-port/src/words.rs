//! Memory that outlives the process: 64-bit words in a file on tmpfs or hugetlbfs.
//!
//! The flow table lives here, so that a download survives the death of the process that carries it. Only
//! atomics are handed out, so that damaged or foreign contents are wrong numbers and never undefined
//! behaviour; what the words mean, and whether they are whole, is their owner's to check.
//!
//! Never on a disk: write-back would stall a worker in the middle of a burst. All pages are there when
//! [`SharedWords::open`] returns, because a missing one would be a signal in the packet path.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicU64;

use crate::KernelPortError;

const RAMFS: i64 = 0x8584_58f6;

/// A mapped file of words, held by this process alone.
pub struct SharedWords {
    memory: NonNull<AtomicU64>,
    words: usize,
    mapped: usize,
    replaced: Option<u64>,
    // Holds the lock; the kernel lets go of it when the process dies, however it dies.
    _file: File,
}

// SAFETY: the words are atomics and the mapping belongs to the process.
unsafe impl Send for SharedWords {}
// SAFETY: as above; sharing a `SharedWords` shares `&[AtomicU64]` and no more.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps `words` words of the file at `path`, and says whether it existed with that size. A new one has
    /// mode 0600 and is all zeros; one of another size is emptied and counts as new
    /// ([`SharedWords::replaced`]). The lock is released when the value is dropped or the process ends.
    ///
    /// # Errors
    /// [`KernelPortError`]: another process has the file, it is not ours, lies on a disk, or there is no
    /// room.
    pub fn open(path: &Path, words: usize) -> Result<(SharedWords, bool), KernelPortError> {
        let failed = |what| move |error| KernelPortError::io(what, error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // A FIFO put there must not stall the start.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ELOOP | libc::EISDIR) => KernelPortError::WordsForeign(path.into()),
                _ => KernelPortError::io("opening a file of shared words", error),
            })?;
        // SAFETY: no memory is passed.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.kind() {
                io::ErrorKind::WouldBlock => KernelPortError::WordsInUse(path.into()),
                _ => KernelPortError::io("locking a file of shared words", error),
            });
        }
        let about = file
            .metadata()
            .map_err(failed("looking at a file of shared words"))?;
        // SAFETY: no memory is passed.
        if !about.is_file() || about.uid() != unsafe { libc::geteuid() } {
            return Err(KernelPortError::WordsForeign(path.into()));
        }
        let bytes = words.max(1).saturating_mul(size_of::<AtomicU64>());
        let page = page_size(&file, path)?;
        let no_room = || KernelPortError::WordsNoRoom {
            path: path.into(),
            bytes,
        };
        let mapped = bytes.checked_next_multiple_of(page).ok_or_else(no_room)?;
        // hugetlbfs has whole huge pages only.
        let length = if page == ORDINARY_PAGE { bytes } else { mapped } as u64;
        let existed = about.len() == length;
        let replaced = (about.len() != length && about.len() != 0).then_some(about.len());
        let resize = failed("sizing a file of shared words");
        if !existed {
            // To zero first: nothing of what was there shall be read as words of this size.
            file.set_len(0).map_err(resize)?;
            let mode = std::fs::Permissions::from_mode(0o600);
            file.set_permissions(mode).map_err(resize)?;
            file.set_len(length).map_err(resize)?;
        }
        let Ok(reserved) = libc::off_t::try_from(length) else {
            return Err(no_room());
        };
        // SAFETY: no memory is passed.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, reserved) } < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::ENOSPC | libc::ENOMEM) => {
                    // Leave no file that looks whole next time.
                    let _ = file.set_len(0);
                    no_room()
                }
                _ => KernelPortError::io("reserving memory for shared words", error),
            });
        }
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe {
            libc::mmap(
                null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                file.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::ENOMEM) => no_room(),
                _ => KernelPortError::io("mapping shared words", error),
            });
        }
        let memory = NonNull::new(memory.cast()).ok_or_else(no_room)?;
        let words = SharedWords {
            memory,
            words,
            mapped,
            replaced,
            _file: file,
        };
        Ok((words, existed))
    }

    /// The words, as long as [`SharedWords::open`] was asked for.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, holds `words` words, and lives as long as `self`. Other
        // processes are kept out by the lock; even one that ignores it changes memory of atomics.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast_const(), self.words) }
    }

    /// The length in bytes of a file of another size that was found and emptied.
    #[must_use]
    pub fn replaced(&self) -> Option<u64> {
        self.replaced
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and `words` borrows from `self`.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.mapped) };
    }
}

const ORDINARY_PAGE: usize = 4096;

/// The page size of a file system that has no disk behind it.
fn page_size(file: &File, path: &Path) -> Result<usize, KernelPortError> {
    // SAFETY: a `statfs` of zeros is valid.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `statfs`.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut about) } < 0 {
        let error = io::Error::last_os_error();
        return Err(KernelPortError::io("looking at a file system", error));
    }
    match about.f_type {
        libc::HUGETLBFS_MAGIC => Ok(usize::try_from(about.f_bsize).unwrap_or(ORDINARY_PAGE)),
        libc::TMPFS_MAGIC | RAMFS => Ok(ORDINARY_PAGE),
        _ => Err(KernelPortError::WordsOnDisk(path.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::sync::atomic::Ordering;

    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str) -> Self {
            let name = format!("kernel-port-{}-{name}", std::process::id());
            Temporary(Path::new("/dev/shm").join(name))
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn words_survive_a_reopen() {
        let file = Temporary::new("reopen");
        let (words, existed) = SharedWords::open(&file.0, 1000).unwrap();
        assert!(!existed);
        assert_eq!(words.words().len(), 1000);
        assert!(
            words
                .words()
                .iter()
                .all(|word| word.load(Ordering::Relaxed) == 0)
        );
        words.words()[999].store(0x0123_4567_89ab_cdef, Ordering::Relaxed);
        drop(words);
        let (words, existed) = SharedWords::open(&file.0, 1000).unwrap();
        assert!(existed);
        assert_eq!(words.replaced(), None);
        let last = words.words()[999].load(Ordering::Relaxed);
        assert_eq!(last, 0x0123_4567_89ab_cdef);
        let about = std::fs::metadata(&file.0).unwrap();
        assert_eq!((about.len(), about.mode() & 0o777), (8000, 0o600));
    }

    #[test]
    fn a_second_opener_is_refused_until_the_first_is_gone() {
        let file = Temporary::new("lock");
        let first = SharedWords::open(&file.0, 10).unwrap();
        let second = SharedWords::open(&file.0, 10).map(drop);
        assert!(
            matches!(second, Err(KernelPortError::WordsInUse(_))),
            "{second:?}"
        );
        drop(first);
        assert!(SharedWords::open(&file.0, 10).unwrap().1);
    }

    #[test]
    fn a_file_of_another_size_is_emptied_and_reported() {
        let file = Temporary::new("size");
        std::fs::write(&file.0, [7; 123]).unwrap();
        let (words, existed) = SharedWords::open(&file.0, 20).unwrap();
        assert!(!existed);
        assert_eq!(words.replaced(), Some(123));
        assert!(
            words
                .words()
                .iter()
                .all(|word| word.load(Ordering::Relaxed) == 0)
        );
        assert_eq!(std::fs::metadata(&file.0).unwrap().len(), 160);
    }

    #[test]
    fn links_folders_and_disks_are_refused() {
        let link = Temporary::new("link");
        std::os::unix::fs::symlink("/etc/hostname", &link.0).unwrap();
        let opened = SharedWords::open(&link.0, 1).map(drop);
        assert!(
            matches!(opened, Err(KernelPortError::WordsForeign(_))),
            "{opened:?}"
        );
        let folder = SharedWords::open(Path::new("/dev/shm"), 1).map(drop);
        assert!(
            matches!(folder, Err(KernelPortError::WordsForeign(_))),
            "{folder:?}"
        );
        let disk = std::env::current_dir().unwrap().join("words-on-disk");
        let opened = SharedWords::open(&disk, 1).map(drop);
        std::fs::remove_file(&disk).unwrap();
        assert!(
            matches!(opened, Err(KernelPortError::WordsOnDisk(_))),
            "{opened:?}"
        );
    }

    #[test]
    fn more_words_than_memory_are_refused_without_a_trace() {
        let file = Temporary::new("room");
        let opened = SharedWords::open(&file.0, 1 << 44).map(drop);
        assert!(
            matches!(opened, Err(KernelPortError::WordsNoRoom { .. })),
            "{opened:?}"
        );
        assert_eq!(std::fs::metadata(&file.0).unwrap().len(), 0);
    }
}
