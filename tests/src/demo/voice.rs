//! How the demo speaks: with colour and a progress line to a terminal, in plain lines to a pipe,
//! and on standard error when standard output is for JSON.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use super::report::Report;
use crate::process::tail;

const GREEN: &str = "32";
const RED: &str = "31";
const BOLD: &str = "1";
const DIM: &str = "2";
/// Lines of each log that a failure shows.
const LOG_LINES: usize = 8;

/// Where and how.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    to_stderr: bool,
    terminal: bool,
}

impl Voice {
    /// Speaks on standard output, or on standard error when `json` goes there.
    #[must_use]
    pub fn new(json: bool) -> Voice {
        let terminal = if json {
            std::io::stderr().is_terminal()
        } else {
            std::io::stdout().is_terminal()
        };
        Voice {
            to_stderr: json,
            terminal,
        }
    }

    /// A step begins.
    pub fn begin(&self, name: &str) {
        self.line(&self.paint(BOLD, name));
    }

    /// What is going on right now; a pipe is spared it.
    pub fn progress(&self, what: &str) {
        if self.terminal {
            self.write(&format!(
                "\r\x1b[K    {}",
                self.paint(DIM, &format!("{what} ..."))
            ));
        }
    }

    /// Something that was found.
    pub fn detail(&self, text: &str) {
        self.line(&format!("    {text}"));
    }

    /// A step ends.
    pub fn end(&self, error: Option<&anyhow::Error>, took: Duration) {
        let seconds = took.as_secs_f64();
        match error {
            None => self.line(&format!(
                "    {} in {seconds:.2} s",
                self.paint(GREEN, "held")
            )),
            Some(error) => {
                let failed = self.paint(RED, "failed");
                self.line(&format!("    {failed} after {seconds:.2} s: {error:#}"));
            }
        }
    }

    /// The last lines of a run's logs, and where all of them are kept.
    pub fn logs(&self, folder: &Path) {
        let mut files: Vec<_> = fs::read_dir(folder.join("logs"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        files.sort();
        for file in files {
            let lines = tail(&file, LOG_LINES);
            if lines.is_empty() {
                continue;
            }
            let name = file
                .file_stem()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            self.line(&self.paint(BOLD, &format!("last lines of {name}:")));
            for line in lines {
                self.line(&format!("    {}", self.paint(DIM, &line)));
            }
        }
        if let Some(place) = crate::run::save_logs(folder) {
            self.line(&format!("all logs: {}", place.display()));
        }
    }

    /// Step 5: the numbers.
    pub fn table(&self, report: &Report) {
        let shares: Vec<_> = report
            .per_instance
            .iter()
            .map(|(instance, count)| format!("{instance}: {count}"))
            .collect();
        let rows = [
            ("requests per instance", shares.join("   ")),
            (
                "failed requests",
                format!("{} of {}", report.failures, report.requests),
            ),
            (
                "round trip across nodes",
                format!("p50 {} us   p99 {} us", report.rtt.p50, report.rtt.p99),
            ),
            (
                "TCP across nodes",
                format!("{:.0} Mbit/s", report.tcp_mbit_s),
            ),
            (
                "UDP across nodes",
                format!("{:.0} packets/s", report.udp_pps),
            ),
            (
                "TCP within one node",
                format!("{:.0} Mbit/s", report.tcp_mbit_s_near),
            ),
            (
                "UDP within one node",
                format!("{:.0} packets/s", report.udp_pps_near),
            ),
            (
                "failed while undeploying",
                report.drained_failures.to_string(),
            ),
        ];
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        self.line(&self.paint(BOLD, "result"));
        for (name, value) in rows {
            self.line(&format!("    {name:<width$}   {value}"));
        }
    }

    /// What stays, and how to use it.
    pub fn kept(&self, lines: &[(&str, String)]) {
        self.line(&self.paint(BOLD, "everything stays up"));
        for (what, command) in lines {
            self.line(&format!("    {what}:"));
            self.line(&format!("        {command}"));
        }
    }

    fn line(&self, text: &str) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        self.write(&format!("{clear}{text}\n"));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.terminal && std::env::var_os("NO_COLOR").is_none() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// A reader that went away must not keep the demo from tearing down.
    fn write(&self, text: &str) {
        let _ = if self.to_stderr {
            let mut stream = std::io::stderr().lock();
            stream
                .write_all(text.as_bytes())
                .and_then(|()| stream.flush())
        } else {
            let mut stream = std::io::stdout().lock();
            stream
                .write_all(text.as_bytes())
                .and_then(|()| stream.flush())
        };
    }
}
