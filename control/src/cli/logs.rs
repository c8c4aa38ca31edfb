//! `logs`: the last lines, over rotated files, and what comes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::commands::Outcome;
use super::{Format, Options};
use crate::log::rotated;

/// What is asked for.
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// The last so many lines
    #[arg(long, short = 'n', default_value_t = 100)]
    lines: u32,
    /// Go on as it grows, over rotations
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    format: Format,
}

/// Between two looks at a file that grows.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) fn run(options: &Options, asked: &Logs) -> Outcome {
    let path = options.log.as_path();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound && !rotated(path, 1).exists() =>
        {
            return journal(options, asked);
        }
        // Between a rotation's two steps there is none for a moment.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => File::open(rotated(path, 1))?,
        Err(error) => {
            return Err(format!(
                "{}: {error}; run this as root, or name another file with --log",
                path.display()
            )
            .into());
        }
    };
    let wanted = usize::try_from(asked.lines).unwrap_or(usize::MAX);
    let (mut last, mut at) = tail(&file, wanted)?;
    let mut number = 1;
    while last.len() < wanted
        && let Ok(older) = File::open(rotated(path, number))
    {
        let (mut more, _) = tail(&older, wanted - last.len())?;
        more.append(&mut last);
        last = more;
        number += 1;
    }
    for line in last {
        print(&line, asked.format)?;
    }
    if !asked.follow {
        return Ok(());
    }
    let mut open = file;
    loop {
        at = grown(&open, at, asked.format)?;
        let (ours, named) = (open.metadata()?, std::fs::metadata(path));
        if let Ok(named) = named
            && (named.dev(), named.ino()) != (ours.dev(), ours.ino())
        {
            // What came in the moment of the rotation.
            grown(&open, at, asked.format)?;
            if let Ok(file) = File::open(path) {
                open = file;
                at = 0;
                continue;
            }
        } else if ours.len() < at {
            // Emptied by someone.
            at = 0;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Prints whole lines behind `at`; answers where they end.
fn grown(mut file: &File, at: u64, format: Format) -> Result<u64, Box<dyn std::error::Error>> {
    file.seek(SeekFrom::Start(at))?;
    let mut reader = BufReader::new(file);
    let mut at = at;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 || line.last() != Some(&b'\n') {
            return Ok(at);
        }
        at += read as u64;
        print(String::from_utf8_lossy(&line).trim_end(), format)?;
    }
}

/// The last lines of a file, and where they end.
fn tail(mut file: &File, wanted: usize) -> Result<(VecDeque<String>, u64), std::io::Error> {
    const PIECE: u64 = 64 << 10;
    let end = file.seek(SeekFrom::End(0))?;
    let (mut begin, mut bytes) = (end, Vec::new());
    let newlines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
    while begin > 0 && newlines(&bytes) <= wanted {
        let piece = PIECE.min(begin);
        begin -= piece;
        file.seek(SeekFrom::Start(begin))?;
        let mut front = Vec::new();
        file.take(piece).read_to_end(&mut front)?;
        front.append(&mut bytes);
        bytes = front;
    }
    // A line that is being written comes when it is whole.
    let whole = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |n| n + 1);
    let unfinished = bytes.len() - whole;
    bytes.truncate(whole);
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: VecDeque<String> = text.lines().map(str::to_owned).collect();
    while lines.len() > wanted {
        lines.pop_front();
    }
    Ok((lines, end - unfinished as u64))
}

/// A line as its parts, if it is one of ours: time, level, target, message with its fields.
fn parts(line: &str) -> Option<serde_json::Value> {
    let (time, rest) = line.split_once(' ')?;
    let (level, rest) = rest.trim_start().split_once(' ')?;
    if !["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level) {
        return None;
    }
    let (target, message) = rest.split_once(": ")?;
    Some(json!({"time": time, "level": level, "target": target, "message": message}))
}

fn print(line: &str, format: Format) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    if format.json {
        let value = parts(line).unwrap_or_else(|| json!({ "message": line }));
        writeln!(out, "{value}")?;
    } else {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

/// Becomes `journalctl` where there is no log file.
fn journal(options: &Options, asked: &Logs) -> Outcome {
    let lines = asked.lines.to_string();
    let mut command = std::process::Command::new("journalctl");
    command.args(["--no-pager", "-u", "netmanager.service", "-n", &lines]);
    if asked.follow {
        command.arg("-f");
    }
    if asked.format.json {
        command.args(["-o", "json"]);
    }
    let error = command.exec();
    Err(format!(
        "there is no {} and journalctl does not run ({error}); name the log with --log",
        shown(&options.log)
    )
    .into())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_those() {
        let path = std::env::temp_dir().join(format!("oak-tail-{}", std::process::id()));
        let of = |text: &str, wanted| {
            std::fs::write(&path, text).unwrap();
            let (lines, at) = tail(&File::open(&path).unwrap(), wanted).unwrap();
            (lines.into_iter().collect::<Vec<_>>(), at)
        };
        assert_eq!(of("a\nb\nc\n", 2), (vec!["b".into(), "c".into()], 6));
        assert_eq!(of("a\nb\nhalf", 5), (vec!["a".into(), "b".into()], 4));
        assert_eq!(of("", 5), (vec![], 0));
        assert_eq!(of("a\nb\n", 0), (vec![], 4));
        let many: String = (0..30_000).map(|n| format!("line {n}\n")).collect();
        let (lines, at) = of(&many, 20_000);
        assert_eq!((lines.len(), at), (20_000, many.len() as u64));
        assert_eq!(lines[0], "line 10000");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn lines_have_parts() {
        let line = "2026-11-26T22:30:07.123456Z  INFO control::node: the node is up node=\"n1\"";
        let value = parts(line).unwrap();
        assert_eq!(value["level"], "INFO");
        assert_eq!(value["target"], "control::node");
        assert_eq!(value["message"], "the node is up node=\"n1\"");
        assert!(parts("EAL: Detected CPU lcores: 2").is_none());
    }
}
