//! EAL, DPDK's run time: memory, lcores, devices. Once per process, on a thread of its own.
//!
//! EAL pins the thread that initialises it to one CPU set, and threads started from there inherit that.
//! So init runs on a thread that does nothing else afterwards but stand for the main lcore, as the calls
//! that belong there demand; the caller keeps its affinity.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use dpdk_sys as sys;

use crate::errno::Errno;
use crate::launch::{Command, LaunchError, Lcores, Worker};
use crate::lease::{self, Phase};
use crate::memory::Memory;
use crate::{devargs, tag};

/// What EAL is started with.
#[derive(Clone, Debug)]
pub struct EalOptions {
    /// Tells processes on this host apart; letters, digits, `-`, `_` and `.`.
    pub file_prefix: String,
    /// CPUs of the main lcore, which sleeps; empty = those that the caller may run on.
    pub main_cpus: Vec<usize>,
    /// The CPU set of each worker lcore.
    pub workers: Vec<Vec<usize>>,
    /// Where memory comes from.
    pub memory: Memory,
    /// PCI devices to take (`0000:01:00.0`, with arguments behind a comma); empty = none at all.
    pub pci_allow: Vec<String>,
    /// Virtual devices to make at start (`net_null0,size=64`).
    pub vdevs: Vec<String>,
    /// What DPDK may say on standard error.
    pub log_level: LogLevel,
}

impl Default for EalOptions {
    /// No workers, no devices, 256 MB without hugepages, warnings.
    fn default() -> Self {
        Self {
            file_prefix: format!("oakestra-{}", std::process::id()),
            main_cpus: Vec::new(),
            workers: Vec::new(),
            memory: Memory::NoHuge { megabytes: 256 },
            pci_allow: Vec::new(),
            vdevs: Vec::new(),
            log_level: LogLevel::default(),
        }
    }
}

/// DPDK's log levels; each includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogLevel {
    /// Critical conditions.
    Critical = 3,
    /// Errors.
    Error = 4,
    /// Warnings.
    #[default]
    Warning = 5,
    /// Normal but significant.
    Notice = 6,
    /// Information.
    Info = 7,
    /// Everything.
    Debug = 8,
}

/// Why EAL did not start.
#[derive(Debug, thiserror::Error)]
pub enum EalError {
    /// DPDK can be initialised once per process, even after cleanup or a failure.
    #[error(
        "EAL was initialised before in this process, which DPDK allows once: keep the first Eal, or start a new process"
    )]
    AlreadyInitialised,
    /// No hugetlbfs.
    #[error(
        "no hugetlbfs is mounted: mount -t hugetlbfs none DIR and name it, or use ordinary memory (--no-huge)"
    )]
    NoHugetlbfs,
    /// The given directory is no hugetlbfs.
    #[error(
        "{0} is not a mounted hugetlbfs: mount -t hugetlbfs none {0}, or name another directory"
    )]
    NotHugetlbfs(PathBuf),
    /// No hugepages.
    #[error(
        "no hugepage is free: reserve some (sysctl vm.nr_hugepages=512), or use ordinary memory (--no-huge)"
    )]
    NoHugepages,
    /// No right to use hugepages.
    #[error("no permission to write to {0}: run as root, or chown the mount")]
    Permission(PathBuf),
    /// A CPU that this process cannot run on.
    #[error(
        "CPU {0} does not exist, is offline, or is outside this process's cpuset: choose others (nproc, lscpu -e)"
    )]
    NoSuchCpu(usize),
    /// A worker without CPUs.
    #[error("worker {0} has no CPU: give each worker at least one")]
    NoCpu(usize),
    /// More lcores than DPDK was built for.
    #[error("{0} workers, but this DPDK is built for {max} lcores with the main one: use fewer", max = sys::dpdk_limit::DPDK_MAX_LCORE)]
    TooManyWorkers(usize),
    /// A prefix that cannot be part of a path.
    #[error("file prefix {0:?} may hold only letters, digits, '-', '_' and '.', at most 64")]
    FilePrefix(String),
    /// Text that C cannot take.
    #[error("argument {0:?} holds a NUL character: remove it")]
    Argument(String),
    /// A virtual device on an interface that is not there.
    #[error("interface {0:?}, named by a virtual device, does not exist: check ip link")]
    NoSuchInterface(String),
    /// No thread.
    #[error("cannot start the main lcore's thread: {0}")]
    Thread(std::io::Error),
    /// Another process has this prefix, or the run-time directory cannot be written.
    #[error(
        "EAL cannot lock its files ({errno}): another process may use file prefix {prefix:?}; choose another, or run as root"
    )]
    Files {
        /// As DPDK says.
        errno: Errno,
        /// As asked for.
        prefix: String,
    },
    /// Memory ran out.
    #[error("EAL has no memory ({0}): reserve more hugepages, or ask for fewer megabytes")]
    Memory(Errno),
    /// A device could not be made.
    #[error(
        "EAL cannot set up a device ({0}): check the driver's name and arguments, its package (apt-get install dpdk), and that we run as root; DPDK's lines above say which"
    )]
    Device(Errno),
    /// Anything else.
    #[error("EAL cannot start: {0}; DPDK's lines above say why")]
    Dpdk(Errno),
}

/// The running EAL. Dropping it cleans up if nothing refers to its memory any more and all workers
/// have ended; else that is left to the end of the process.
pub struct Eal {
    lcores: Lcores,
    main: Option<thread::JoinHandle<()>>,
}

impl Eal {
    /// Starts EAL, on a thread of its own.
    ///
    /// # Errors
    /// See [`EalError`]; what can be checked is checked before EAL is touched, so that another attempt
    /// with other options is possible then.
    pub fn init(options: EalOptions) -> Result<Self, EalError> {
        {
            let mut state = lease::state();
            if state.phase != Phase::Unused {
                return Err(EalError::AlreadyInitialised);
            }
            state.phase = Phase::Starting;
        }
        let workers = options.workers.len();
        let (report, reported) = mpsc::channel();
        let (commands, orders) = mpsc::channel();
        let main = thread::Builder::new()
            .name("eal-main".to_owned())
            .spawn(move || {
                let started = start(&options);
                let running = started.is_ok();
                if report.send(started).is_ok() && running {
                    serve(&orders);
                    stop(workers);
                    options.memory.give_back(&options.file_prefix);
                }
            })
            .map_err(EalError::Thread);
        let started = main.and_then(|main| match reported.recv() {
            Ok(Ok(())) => Ok(main),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(EalError::Dpdk(Errno(libc::ECANCELED))),
        });
        let mut state = lease::state();
        if let Err(error) = &started {
            // Half an EAL cannot be started again.
            state.phase = if error.untouched() {
                Phase::Unused
            } else {
                Phase::Spent
            };
        } else {
            state.phase = Phase::Running;
        }
        drop(state);
        started.map(|main| Self {
            lcores: Lcores::new(workers, commands),
            main: Some(main),
        })
    }

    /// Runs `f` on worker lcore `worker` (the index in [`EalOptions::workers`]).
    ///
    /// # Errors
    /// When there is no such worker, or it is busy.
    pub fn launch<F: FnOnce() + Send + 'static>(
        &self,
        worker: usize,
        f: F,
    ) -> Result<Worker, LaunchError> {
        self.lcores.launch(worker, Box::new(f))
    }

    /// How many worker lcores there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.lcores.count()
    }
}

impl Drop for Eal {
    fn drop(&mut self) {
        self.lcores.close();
        if let Some(main) = self.main.take() {
            // Its panic would have been reported where it happened.
            let _ended = main.join();
        }
    }
}

impl EalError {
    /// Whether it was found before EAL was called.
    fn untouched(&self) -> bool {
        !matches!(
            self,
            Self::Files { .. } | Self::Memory(_) | Self::Device(_) | Self::Dpdk(_)
        )
    }
}

fn start(options: &EalOptions) -> Result<(), EalError> {
    let arguments = arguments(options)?;
    options.memory.check()?;
    let mut argv = Vec::new();
    for text in arguments {
        let text = CString::new(text.clone()).map_err(|_| EalError::Argument(text))?;
        argv.push(text);
    }
    // EAL keeps pointers into its arguments, for the life of the process.
    let mut argv: Vec<*mut c_char> = argv.into_iter().map(CString::into_raw).collect();
    let argc = i32::try_from(argv.len()).unwrap_or(i32::MAX);
    argv.push(std::ptr::null_mut());
    let argv = argv.leak();
    // SAFETY: a terminated vector of terminated strings that live on; the state allows one call.
    if unsafe { sys::rte_eal_init(argc, argv.as_mut_ptr()) } < 0 {
        let errno = Errno::last();
        return Err(match errno.0 {
            libc::EALREADY => EalError::AlreadyInitialised,
            libc::EAGAIN | libc::EACCES | libc::EPERM => EalError::Files {
                errno,
                prefix: options.file_prefix.clone(),
            },
            libc::ENOMEM => EalError::Memory(errno),
            libc::ENODEV | libc::ENOTSUP => EalError::Device(errno),
            _ => EalError::Dpdk(errno),
        });
    }
    tag::register().ok_or_else(|| EalError::Dpdk(Errno::last()))?;
    if matches!(options.memory, Memory::Hugepages { .. }) {
        // SAFETY: EAL is initialised. Without it, dpdk-dumpcap cannot attach; packets still flow.
        unsafe { sys::rte_pdump_init() };
    } else {
        remove_runtime_dir();
    }
    Ok(())
}

/// Runs what belongs on the main lcore until the handle is dropped.
fn serve(orders: &mpsc::Receiver<Command>) {
    while let Ok(command) = orders.recv() {
        command.run();
    }
}

fn stop(workers: usize) {
    let mut state = lease::state();
    state.phase = Phase::Spent;
    let idle = (1..=workers).all(|lcore| {
        // SAFETY: the lcore exists. A worker that waits has published all that it did.
        u32::try_from(lcore).is_ok_and(
            |id| unsafe { sys::rte_eal_get_lcore_state(id) } == sys::rte_lcore_state_t::WAIT,
        )
    });
    if idle && state.unreferenced() {
        // SAFETY: no handle, mbuf or worker is left that could use what goes away, and none can appear.
        unsafe { sys::rte_eal_cleanup() };
        remove_runtime_dir();
    }
}

/// Removes EAL's run-time directory if it is empty; EAL itself leaves one behind for each process.
fn remove_runtime_dir() {
    // SAFETY: a terminated string that EAL keeps.
    let dir = unsafe { CStr::from_ptr(sys::rte_eal_get_runtime_dir()) };
    // Not empty: others use it, or capture files are left, which the next process takes over.
    let _kept = std::fs::remove_dir(OsStr::from_bytes(dir.to_bytes()));
}

fn arguments(options: &EalOptions) -> Result<Vec<String>, EalError> {
    let prefix = &options.file_prefix;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if prefix.is_empty()
        || prefix.len() > 64
        || !prefix.chars().all(plain)
        || prefix.starts_with('.')
    {
        return Err(EalError::FilePrefix(prefix.clone()));
    }
    if options.workers.len() as u64 >= u64::from(sys::dpdk_limit::DPDK_MAX_LCORE.unsigned_abs()) {
        return Err(EalError::TooManyWorkers(options.workers.len()));
    }
    for vdev in &options.vdevs {
        if let Some(missing) = devargs::missing_interface(vdev) {
            return Err(EalError::NoSuchInterface(missing));
        }
    }
    let mut arguments = vec![
        "oakestra".to_owned(),
        format!("--lcores={}", lcores(options)?),
    ];
    arguments.push("--main-lcore=0".to_owned());
    arguments.push(format!("--file-prefix={prefix}"));
    arguments.push(format!("--log-level={}", options.log_level as u32));
    arguments.extend(options.memory.arguments());
    if options.pci_allow.is_empty() {
        arguments.push("--no-pci".to_owned());
    }
    arguments.extend(
        options
            .pci_allow
            .iter()
            .map(|device| format!("--allow={device}")),
    );
    arguments.extend(
        options
            .vdevs
            .iter()
            .map(|device| format!("--vdev={device}")),
    );
    Ok(arguments)
}

/// EAL's lcore map: lcore 0 is the main one, 1 and up are the workers, CPU numbers as the kernel's.
fn lcores(options: &EalOptions) -> Result<String, EalError> {
    let own = affinity();
    let main = if options.main_cpus.is_empty() {
        own.iter().copied().collect()
    } else {
        options.main_cpus.clone()
    };
    let mut map = Vec::new();
    for (lcore, cpus) in std::iter::once(&main).chain(&options.workers).enumerate() {
        if cpus.is_empty() {
            return Err(EalError::NoCpu(lcore.saturating_sub(1)));
        }
        let list: Vec<String> = cpus.iter().map(usize::to_string).collect();
        map.push(format!("{lcore}@({})", list.join(",")));
    }
    // Trying is the only sure test; this thread is ours, and EAL reads its affinity afterwards.
    let wanted: BTreeSet<usize> = main
        .iter()
        .chain(options.workers.iter().flatten())
        .copied()
        .collect();
    let refused = wanted
        .into_iter()
        .find(|cpu| !set_affinity(&BTreeSet::from([*cpu])));
    set_affinity(&own);
    refused.map_or_else(|| Ok(map.join(",")), |cpu| Err(EalError::NoSuchCpu(cpu)))
}

const SET_SIZE: usize = libc::CPU_SETSIZE as usize;

/// The CPUs that this thread may run on.
fn affinity() -> BTreeSet<usize> {
    // SAFETY: a cpu_set_t is a bit array, for which zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set has the size that is given; CPU_ISSET stays below CPU_SETSIZE.
    unsafe {
        libc::sched_getaffinity(0, size_of_val(&set), &raw mut set);
        (0..SET_SIZE)
            .filter(|cpu| libc::CPU_ISSET(*cpu, &set))
            .collect()
    }
}

fn set_affinity(cpus: &BTreeSet<usize>) -> bool {
    // SAFETY: as in `affinity`.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpus.iter().any(|cpu| *cpu >= SET_SIZE) {
        return false;
    }
    // SAFETY: each CPU is below CPU_SETSIZE, and the set has the size that is given.
    unsafe {
        cpus.iter().for_each(|cpu| libc::CPU_SET(*cpu, &mut set));
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set) == 0
    }
}
