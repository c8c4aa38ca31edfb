//! Colours for a person, and none for a pipe or where `NO_COLOR` is set.

use std::io::IsTerminal as _;

/// What is written before and after a coloured word.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    /// A heading.
    pub bold: &'static str,
    /// What is as wanted.
    pub good: &'static str,
    /// What is not.
    pub bad: &'static str,
    /// What matters less.
    pub dim: &'static str,
    /// The end of any of them.
    pub plain: &'static str,
}

/// For a terminal.
pub const COLOURS: Paint = Paint {
    bold: "\x1b[1m",
    good: "\x1b[32m",
    bad: "\x1b[31m",
    dim: "\x1b[2m",
    plain: "\x1b[0m",
};

/// No colours.
pub const NONE: Paint = Paint {
    bold: "",
    good: "",
    bad: "",
    dim: "",
    plain: "",
};

impl Paint {
    /// For standard output.
    #[must_use]
    pub fn of_stdout() -> Paint {
        match std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
            true => COLOURS,
            false => NONE,
        }
    }
}
