//! What one run has made, written down so that anybody can remove it.
//!
//! A run is a folder `/tmp/oakrun-<pid>-<n>`; its namespaces carry the same prefix. Processes,
//! namespaces and left-over files are appended to lists in that folder as they come, so one
//! routine, [`destroy`], serves every way to end: drop, panic, signal, `demo --down`, and the sweep
//! at the start of a run whose predecessor was killed.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Names of everything global begin with it.
pub const PREFIX: &str = "oakrun-";
const ROOT: &str = "/tmp";
const OWNER: &str = "owner";
const KEPT: &str = "kept";
const PROCESSES: &str = "processes";
const NAMESPACES: &str = "namespaces";
const LEFTOVERS: &str = "leftovers";
/// Where files live that outlast a process which is killed.
const LEFTOVER_PLACES: [&str; 4] = [
    "/dev/shm/",
    "/run/dpdk/",
    "/var/run/dpdk/",
    "/dev/hugepages/",
];

static NEXT: AtomicU32 = AtomicU32::new(0);
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Who ends first when all is taken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Containers and what runs in them.
    Workload = 0,
    /// Net Managers.
    Node = 1,
    /// Service managers.
    Manager = 2,
    /// Redis and Mosquitto.
    Service = 3,
}

/// A run's folder; everything recorded in it goes away with this value, unless it is kept.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    id: String,
}

impl Run {
    /// Opens a run after sweeping what killed runs have left.
    ///
    /// # Errors
    /// Without root rights, or when the folder cannot be made.
    pub fn new() -> Result<Run> {
        if !nix::unistd::geteuid().is_root() {
            bail!("network namespaces need root rights: run this as root (sudo)");
        }
        crate::signals::install();
        crate::signals::check()?;
        sweep();
        let pid = std::process::id();
        let id = format!("{PREFIX}{pid}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = Path::new(ROOT).join(&id);
        // The mode keeps others out; create fails on anything that is already there.
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("making the run's folder {}", folder.display()))?;
        live().insert(folder.clone());
        let run = Run { folder, id };
        let start = start_time(pid).unwrap_or_default();
        fs::write(run.folder.join(OWNER), format!("{pid} {start}\n"))
            .context("writing the run's owner")?;
        Ok(run)
    }

    /// The run's folder: logs, sockets, data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The prefix of this run's names, such as `oakrun-4711-0`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Leaves everything standing when this value goes; `demo --down` removes it.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub fn keep(self) -> Result<()> {
        self.note_leftovers();
        fs::write(self.folder.join(KEPT), "").context("marking the run as kept")?;
        live().remove(&self.folder);
        std::mem::forget(self);
        Ok(())
    }

    /// Writes down a namespace that is about to be made.
    ///
    /// # Errors
    /// When the run is closed or the list cannot be written.
    pub fn note_namespace(&self, name: &str) -> Result<()> {
        self.append(NAMESPACES, name)
    }

    /// Starts a process and writes it down, as one step for the signal's thread.
    ///
    /// # Errors
    /// Those of `start`, and when the run is closed.
    pub fn adopt<T>(
        &self,
        stage: Stage,
        name: &str,
        start: impl FnOnce() -> Result<(u32, T)>,
    ) -> Result<T> {
        let live = live();
        self.check_open(&live)?;
        let (pid, value) = start()?;
        let since = start_time(pid).unwrap_or_default();
        append(
            &self.folder.join(PROCESSES),
            &format!("{pid} {since} {} {name}", stage as u8),
        )?;
        Ok(value)
    }

    /// Writes down the files outside the folder that this run's processes hold open or mapped, so
    /// that they can be removed if a process is killed before it does so itself.
    pub fn note_leftovers(&self) {
        for process in processes(&self.folder) {
            if process.is_alive() {
                note_leftovers_of(&self.folder, process.pid);
            }
        }
    }

    /// Takes everything down and reports what had to be forced.
    ///
    /// # Errors
    /// When something could not be removed.
    pub fn close(self) -> Result<()> {
        let mut live = live();
        if live.remove(&self.folder) {
            destroy(&self.folder)
        } else {
            Ok(())
        }
    }

    fn append(&self, list: &str, line: &str) -> Result<()> {
        let live = live();
        self.check_open(&live)?;
        append(&self.folder.join(list), line)
    }

    fn check_open(&self, live: &BTreeSet<PathBuf>) -> Result<()> {
        if !live.contains(&self.folder) {
            bail!("the run {} is already being taken down", self.id);
        }
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if crate::signals::interrupted() {
            // The signal's thread does it, and ends the process.
            return;
        }
        if std::thread::panicking() {
            save_logs(&self.folder);
        }
        let mut live = live();
        if live.remove(&self.folder)
            && let Err(error) = destroy(&self.folder)
        {
            eprintln!("{}: {error:#}", self.id);
        }
    }
}

/// Copies a failed run's logs to where the next failure overwrites them; answers the place.
pub fn save_logs(folder: &Path) -> Option<PathBuf> {
    let place = Path::new(ROOT).join(format!("{PREFIX}last-failure"));
    if place
        .symlink_metadata()
        .is_ok_and(|meta| !meta.is_dir() || meta.uid() != 0)
    {
        return None;
    }
    let _ = fs::remove_dir_all(&place);
    DirBuilder::new().mode(0o700).create(&place).ok()?;
    for entry in fs::read_dir(folder.join("logs")).ok()?.flatten() {
        let _ = fs::copy(entry.path(), place.join(entry.file_name()));
    }
    Some(place)
}

/// Takes down every open run of this process.
pub fn destroy_all() {
    let mut live = live();
    for folder in std::mem::take(&mut *live) {
        if let Err(error) = destroy(&folder) {
            eprintln!("{}: {error:#}", folder.display());
        }
    }
}

/// Takes down every kept run; answers how many there were.
///
/// # Errors
/// When something could not be removed.
pub fn destroy_kept() -> Result<usize> {
    let mut count = 0;
    for folder in folders() {
        if folder.join(KEPT).exists() {
            destroy(&folder)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Removes what runs have left whose owner is gone, and that were not kept on purpose.
fn sweep() {
    for folder in folders() {
        if folder.join(KEPT).exists() || owner_lives(&folder) {
            continue;
        }
        match destroy(&folder) {
            Ok(()) => eprintln!("removed what a killed run had left: {}", folder.display()),
            Err(error) => eprintln!("{}: {error:#}", folder.display()),
        }
    }
    for name in namespaces_by_prefix(PREFIX) {
        let Some(owner) = name.split('-').nth(1).and_then(|pid| pid.parse().ok()) else {
            continue;
        };
        let id = name.split('-').take(3).collect::<Vec<_>>().join("-");
        if start_time(owner).is_none() && !Path::new(ROOT).join(id).exists() {
            let _ = remove_namespace(&name);
        }
    }
}

/// Ends the recorded processes stage by stage, then removes namespaces, files and the folder.
///
/// # Errors
/// When a process survives SIGKILL or a namespace cannot be removed.
fn destroy(folder: &Path) -> Result<()> {
    let recorded = processes(folder);
    for process in recorded.iter().filter(|process| process.is_alive()) {
        note_leftovers_of(folder, process.pid);
    }
    for stage in 0..=Stage::Service as u8 {
        let members: Vec<_> = recorded
            .iter()
            .filter(|process| process.stage == stage)
            .collect();
        let patience = if stage == Stage::Node as u8 { 4 } else { 2 };
        end(&members, Signal::SIGTERM, Duration::from_secs(patience));
        end(&members, Signal::SIGKILL, Duration::from_secs(2));
        if let Some(left) = members.iter().find(|process| process.is_alive()) {
            bail!("process {} does not end even by SIGKILL", left.pid);
        }
    }
    let mut names: BTreeSet<String> = lines(&folder.join(NAMESPACES)).into_iter().collect();
    if let Some(id) = folder.file_name().and_then(|name| name.to_str()) {
        names.extend(namespaces_by_prefix(&format!("{id}-")));
    }
    for name in names {
        remove_namespace(&name)?;
    }
    for path in lines(&folder.join(LEFTOVERS)) {
        remove_leftover(Path::new(&path));
    }
    fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))
}

/// A line of the process list.
struct Recorded {
    pid: u32,
    start: String,
    stage: u8,
}

impl Recorded {
    /// The very process that was recorded, not a later one with its number; not a zombie.
    fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|(state, start)| start == self.start && state != 'Z')
    }
}

fn end(members: &[&Recorded], signal: Signal, patience: Duration) {
    for process in members.iter().filter(|process| process.is_alive()) {
        if let Ok(pid) = i32::try_from(process.pid) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
    let end = Instant::now() + patience;
    while members.iter().any(|process| process.is_alive()) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn remove_namespace(name: &str) -> Result<()> {
    if !Path::new("/run/netns").join(name).exists() {
        return Ok(());
    }
    // Only what was started inside by hand, after the run's own processes have ended.
    if let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() {
        for pid in String::from_utf8_lossy(&output.stdout).lines() {
            if let Ok(pid) = pid.trim().parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
    let output = Command::new("ip")
        .args(["netns", "del", name])
        .output()
        .context("running ip")?;
    if !output.status.success() {
        bail!(
            "removing namespace {name}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn remove_leftover(path: &Path) {
    if path.is_dir() {
        let _ = fs::remove_dir_all(path);
    } else {
        let _ = fs::remove_file(path);
    }
}

/// Writes down what would outlast a process of the run in `folder`, for its end.
pub(crate) fn note_leftovers_of(folder: &Path, pid: u32) {
    let known: BTreeSet<String> = lines(&folder.join(LEFTOVERS)).into_iter().collect();
    for path in files_of(pid).difference(&known) {
        let _ = append(&folder.join(LEFTOVERS), path);
    }
}

/// Files outside the run's folder (for DPDK: its run-time folder) that would outlast the process.
#[must_use]
pub fn files_of(pid: u32) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let opened = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mapped = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    for path in opened.chain(mapped) {
        let Some(text) = path.to_str().filter(|text| !text.ends_with(" (deleted)")) else {
            continue;
        };
        let Some(place) = LEFTOVER_PLACES
            .iter()
            .find(|place| text.starts_with(**place))
        else {
            continue;
        };
        if place.ends_with("dpdk/") {
            if let Some(prefix) = text[place.len()..].split('/').next() {
                found.insert(format!("{place}{prefix}"));
            }
        } else {
            found.insert(text.to_owned());
        }
    }
    found
}

fn folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            let named = path
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| {
                    name.strip_prefix(PREFIX)
                        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
                });
            // Somebody else's folder or symlink of that name is not ours to remove.
            named
                && path
                    .symlink_metadata()
                    .is_ok_and(|meta| meta.is_dir() && meta.uid() == 0)
        })
        .collect()
}

fn owner_lives(folder: &Path) -> bool {
    let text = fs::read_to_string(folder.join(OWNER)).unwrap_or_default();
    let mut words = text.split_whitespace();
    let (Some(pid), Some(start)) = (words.next().and_then(|pid| pid.parse().ok()), words.next())
    else {
        // Being made this instant, perhaps: the name tells the owner.
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let pid = name.split('-').nth(1).and_then(|pid| pid.parse().ok());
        return pid.is_some_and(|pid| start_time(pid).is_some());
    };
    start_time(pid).is_some_and(|now| now == start)
}

fn processes(folder: &Path) -> Vec<Recorded> {
    let mut found = Vec::new();
    for line in lines(&folder.join(PROCESSES)) {
        let mut words = line.split_whitespace();
        if let (Some(pid), Some(start), Some(stage)) = (
            words.next().and_then(|pid| pid.parse().ok()),
            words.next(),
            words.next().and_then(|stage| stage.parse().ok()),
        ) {
            found.push(Recorded {
                pid,
                start: start.to_owned(),
                stage,
            });
        }
    }
    found
}

fn namespaces_by_prefix(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn append(path: &Path, line: &str) -> Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))?;
    writeln!(file, "{line}").with_context(|| format!("writing {}", path.display()))
}

/// When a process started, in clock ticks since boot: with the pid it names one process for ever.
fn start_time(pid: u32) -> Option<String> {
    stat(pid).map(|(_, start)| start)
}

/// State letter and start time of a process.
fn stat(pid: u32) -> Option<(char, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    let state = words.next()?.chars().next()?;
    // State is field 3, start time field 22.
    Some((state, words.nth(18)?.to_owned()))
}

fn live() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let pid = std::process::id();
        let start = start_time(pid).unwrap();
        assert!(
            Recorded {
                pid,
                start: start.clone(),
                stage: 0
            }
            .is_alive()
        );
        assert!(
            !Recorded {
                pid,
                start: format!("{start}1"),
                stage: 0
            }
            .is_alive()
        );
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        let start = start_time(pid).unwrap();
        let recorded = Recorded {
            pid,
            start,
            stage: 0,
        };
        crate::deadline::wait_until("the child's end", Duration::from_secs(5), || {
            !recorded.is_alive()
        })
        .unwrap();
        child.wait().unwrap();
    }
}
