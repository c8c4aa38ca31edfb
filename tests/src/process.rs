//! Processes of a run: started inside a namespace, logging to a file, ended with the run.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::deadline::{Hopeless, wait_for};
use crate::namespace::Namespace;
use crate::run::{Run, Stage, note_leftovers_of};

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Its name in the run, and its log's.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Additions to the environment.
    pub environment: Vec<(String, String)>,
    /// Where it runs.
    pub namespace: Namespace,
    /// When it ends.
    pub stage: Stage,
    /// The only core that it may use.
    pub core: Option<usize>,
}

/// A started one. Dropping it does not end it: the run does.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    output: PathBuf,
    /// The run's.
    folder: PathBuf,
}

impl Launch {
    /// A program with arguments in a namespace.
    #[must_use]
    pub fn new(name: &str, program: &Path, namespace: &Namespace, stage: Stage) -> Launch {
        Launch {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            namespace: namespace.clone(),
            stage,
            core: None,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Launch {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl Into<String>) -> Launch {
        self.environment.push((key.to_owned(), value.into()));
        self
    }

    /// Lets it, and what it starts, use one core only; with none, all.
    #[must_use]
    pub fn on_core(mut self, core: Option<usize>) -> Launch {
        self.core = core;
        self
    }

    /// Starts it: standard error to its log (appended), standard output beside it (fresh), in a
    /// process group of its own, so that a terminal's Ctrl-C leaves the order of ending to us.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, run: &Run) -> Result<Process> {
        let logs = run.folder().join("logs");
        fs::create_dir_all(&logs).context("making the log folder")?;
        let log = logs.join(format!("{}.log", self.name));
        let output = logs.join(format!("{}.out", self.name));
        let child = run.adopt(self.stage, &self.name, || {
            let stderr = File::options().create(true).append(true).open(&log)?;
            let stdout = File::create(&output)?;
            let mut command = self.command();
            command
                // Logs are for people: an error's text says where it comes from.
                .env("RUST_BACKTRACE", "0")
                .envs(self.environment.iter().map(|(key, value)| (key, value)))
                .current_dir(run.folder())
                .stdin(Stdio::piped())
                .stdout(stdout)
                .stderr(stderr)
                .process_group(0);
            let child = self
                .place()
                .enter(|| {
                    if self.namespace == Namespace::Fresh {
                        crate::namespace::ip(&["link", "set", "lo", "up"])?;
                    }
                    command.spawn().context("starting it")
                })?
                .with_context(|| format!("{} ({})", self.name, self.program.display()))?;
            Ok((child.id(), child))
        })?;
        Ok(Process {
            name: self.name.clone(),
            child,
            log,
            output,
            folder: run.folder().to_owned(),
        })
    }

    /// By `ip netns exec` where there is a name: it also shows the right `/sys/class/net`. Like
    /// `taskset` it becomes the program without a fork, so that the pid is the program's.
    fn command(&self) -> Command {
        let mut words = Vec::new();
        if let Some(name) = self.namespace.name() {
            words.extend(["ip", "netns", "exec", name].map(OsString::from));
        }
        if let Some(core) = self.core {
            words.extend(["taskset", "-c", &core.to_string()].map(OsString::from));
        }
        words.push(self.program.clone().into());
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).args(&self.arguments);
        command
    }

    fn place(&self) -> &Namespace {
        match &self.namespace {
            Namespace::Named(_) => &Namespace::Own,
            other => other,
        }
    }
}

impl Process {
    /// The name it was started by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log: standard error.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What it wrote to standard output so far.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn output(&self) -> Result<String> {
        let mut bytes = Vec::new();
        File::open(&self.output)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .with_context(|| format!("reading {}", self.output.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// With its status and its last words.
    pub fn check_running(&mut self) -> Result<()> {
        match self
            .child
            .try_wait()
            .context("asking for a process's state")?
        {
            None => Ok(()),
            Some(status) => {
                let words = self.last_words();
                Err(Hopeless(format!("{} has ended ({status}): {words}", self.name)).into())
            }
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it runs longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        drop(self.child.stdin.take());
        let name = self.name.clone();
        wait_for(&format!("the end of {name}"), limit, || {
            Ok(self.child.try_wait()?)
        })
    }

    /// Waits for a success and answers its output.
    ///
    /// # Errors
    /// When it fails or runs longer than `limit`.
    pub fn finish(&mut self, limit: Duration) -> Result<String> {
        let status = self.wait(limit)?;
        if !status.success() {
            let said = self.output().unwrap_or_default();
            bail!(
                "{} failed ({status}): {} {}",
                self.name,
                self.last_words(),
                said.trim()
            );
        }
        self.output()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).map_err(|_| anyhow!("impossible pid"))?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Ends it by SIGTERM.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        // What has ended and was waited for may have given its number to another process.
        if self.child.try_wait()?.is_none() {
            note_leftovers_of(&self.folder, self.pid());
            let _ = self.signal(Signal::SIGTERM);
        }
        self.wait(limit)
    }

    /// Ends it by SIGKILL.
    ///
    /// # Errors
    /// When it does not end even so.
    pub fn kill(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            note_leftovers_of(&self.folder, self.pid());
            let _ = self.child.kill();
        }
        self.wait(Duration::from_secs(5)).map(drop)
    }

    /// Its standard input, to write to or to close.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// The last lines of its log in one piece.
    #[must_use]
    pub fn last_words(&self) -> String {
        tail(&self.log, 5).join(" | ")
    }
}

/// The last `count` lines of a text file, without colour codes.
#[must_use]
pub fn tail(path: &Path, count: usize) -> Vec<String> {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..]
        .iter()
        .map(|line| plain(line))
        .collect()
}

/// The text without terminal escape sequences.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_left_out() {
        assert_eq!(
            plain("\u{1b}[2mtime\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m no"),
            "time ERROR no"
        );
    }

    #[test]
    fn the_tail_of_a_short_file_is_all_of_it() {
        let path = std::env::temp_dir().join(format!("oak-tail-{}", std::process::id()));
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&path, 2), ["two", "three"]);
        assert_eq!(tail(&path, 9).len(), 3);
        fs::remove_file(&path).unwrap();
    }
}
