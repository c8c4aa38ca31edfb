//! The log: lines on standard error, a level that can change, and a file that does not grow without end.
//!
//! The unit file has the service manager append this process's output to a file (contract section 4), and that file is
//! ours to rotate: when it is full it is renamed, a new one is opened under its name, and standard output and error go
//! there from then on, with whatever libraries and a panic write. Output that goes elsewhere (a terminal, a pipe, the
//! journal) is left alone. A rotation by someone else is followed on SIGHUP.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogConfig;

/// Says what is logged instead of `Debug`, as everywhere in the field.
const FILTER: &str = "RUST_LOG";

type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// The log of this process.
pub struct Log {
    output: Output,
    set_filter: Option<SetFilter>,
}

fn filter(debug: bool) -> EnvFilter {
    let level = if debug { "debug" } else { "info" };
    EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(format!(
            "{level},netlink_proto=warn,rumqttc=warn,hyper=warn"
        ))
    })
}

impl Log {
    /// Starts to log; `path` is the file that is rotated if standard error goes there.
    #[must_use]
    pub fn start(path: &Path, debug: bool, config: LogConfig) -> Self {
        let output = Output::new(path, config);
        let colours = io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let logger = tracing_subscriber::fmt()
            .with_env_filter(filter(debug))
            .with_writer(output.clone())
            .with_ansi(colours)
            .with_filter_reloading();
        let handle = logger.reload_handle();
        let set: SetFilter =
            Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()));
        let set_filter = match logger.try_init() {
            Ok(()) => Some(set),
            Err(error) => {
                eprintln!("NetManager: the log could not be started: {error}");
                None
            }
        };
        Self { output, set_filter }
    }

    /// Takes other settings over. The level stays where the environment says what is logged.
    ///
    /// # Errors
    /// The log was not started by this process.
    pub fn set(&self, debug: bool, config: LogConfig) -> Result<(), String> {
        self.output.state().config = config;
        let set = self
            .set_filter
            .as_ref()
            .ok_or("the log could not be started")?;
        set(filter(debug))
    }

    /// The variable that says what is logged instead of `Debug`, if it is set.
    #[must_use]
    pub fn overruled() -> Option<&'static str> {
        std::env::var_os(FILTER).map(|_| FILTER)
    }

    /// Goes on in a new file if someone else has moved ours away.
    pub fn reopen(&self) {
        self.output.state().reopen();
    }
}

/// The name of a rotated file: 1 is the latest.
#[must_use]
pub fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// What a file descriptor of ours leads to.
fn behind(fd: impl AsFd) -> Option<Metadata> {
    let fd = fd.as_fd().try_clone_to_owned().ok()?;
    File::from(fd).metadata().ok()
}

struct State {
    path: PathBuf,
    config: LogConfig,
    /// Whether standard error goes to the file.
    ours: bool,
    /// And standard output, too.
    both: bool,
    /// Bytes in the file.
    written: u64,
}

impl State {
    fn new(path: &Path, config: LogConfig) -> Self {
        let file = std::fs::metadata(path).ok().filter(Metadata::is_file);
        let leads_here = |fd: Option<Metadata>| match (&fd, &file) {
            (Some(fd), Some(file)) => same(fd, file),
            _ => false,
        };
        Self {
            path: path.to_owned(),
            config,
            ours: leads_here(behind(io::stderr())),
            both: leads_here(behind(io::stdout())),
            written: file.as_ref().map_or(0, Metadata::len),
        }
    }

    fn count(&mut self, bytes: usize) {
        self.written += bytes as u64;
        if !self.ours || self.written < self.config.max_bytes {
            return;
        }
        // Libraries write, too, and someone else may have emptied it.
        match behind(io::stderr()) {
            Some(file) if file.len() < self.config.max_bytes => self.written = file.len(),
            _ => self.rotate(),
        }
    }

    fn rotate(&mut self) {
        let moved = || {
            for number in (1..self.config.files).rev() {
                match std::fs::rename(rotated(&self.path, number), rotated(&self.path, number + 1))
                {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            // One that was moved away already is not ours to move.
            if let (Some(ours), Ok(named)) = (behind(io::stderr()), std::fs::metadata(&self.path))
                && same(&ours, &named)
            {
                std::fs::rename(&self.path, rotated(&self.path, 1))?;
            }
            // Fewer may be kept than before.
            let mut surplus = self.config.files + 1;
            while std::fs::remove_file(rotated(&self.path, surplus)).is_ok() {
                surplus += 1;
            }
            Ok(())
        };
        let outcome = moved().and_then(|()| self.open());
        if let Err(error) = outcome {
            // Said once for each file's worth of lines.
            let _ = writeln!(
                io::stderr(),
                "NetManager: {} could not be rotated: {error}",
                self.path.display()
            );
        }
        self.written = behind(io::stderr()).map_or(0, |file| {
            if file.len() < self.config.max_bytes {
                file.len()
            } else {
                0
            }
        });
    }

    /// Sends output to the file of our name from now on.
    fn open(&self) -> io::Result<()> {
        let mode = behind(io::stderr()).map_or(0o640, |file| file.mode() & 0o777);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(mode)
            .open(&self.path)?;
        nix::unistd::dup2_stderr(&file)?;
        if self.both {
            nix::unistd::dup2_stdout(&file)?;
        }
        Ok(())
    }

    fn reopen(&mut self) {
        if !self.ours {
            return;
        }
        let ours = behind(io::stderr());
        let named = std::fs::metadata(&self.path).ok();
        if let (Some(ours), Some(named)) = (&ours, &named)
            && same(ours, named)
        {
            self.written = named.len();
            return;
        }
        match self.open() {
            Ok(()) => self.written = named.map_or(0, |file| file.len()),
            Err(error) => {
                let _ = writeln!(
                    io::stderr(),
                    "NetManager: {}: {error}; the log goes on in the moved file",
                    self.path.display()
                );
            }
        }
    }
}

/// Standard error, with an eye on what has been written.
#[derive(Clone)]
struct Output(Arc<Mutex<State>>);

impl Output {
    fn new(path: &Path, config: LogConfig) -> Self {
        Self(Arc::new(Mutex::new(State::new(path, config))))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Output {
    // A line comes in one piece, so no line is torn by a rotation.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.state();
        io::stderr().write_all(line)?;
        state.count(line.len());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
