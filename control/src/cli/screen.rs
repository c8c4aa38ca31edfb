//! How text looks: colours and aligned columns on a terminal, the same words without colours in a pipe.

use std::io::IsTerminal;

/// What standard output can show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    colours: bool,
}

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Doubtful,
    Bad,
    Head,
}

impl Screen {
    /// By what standard output is, `NO_COLOR` (no-color.org) and `TERM`.
    pub(super) fn new() -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colours: std::io::stdout().is_terminal() && !is_set("NO_COLOR") && !dumb,
        }
    }

    /// Text in a tone.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        if !self.colours || text.is_empty() {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Doubtful => "33",
            Tone::Bad => "31",
            Tone::Head => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// Rows in aligned columns under a head.
    pub(super) fn table(self, head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
        let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut text = String::new();
            for (cell, width) in cells.zip(&widths) {
                text.push_str(cell);
                let pad = width.saturating_sub(cell.chars().count()) + 2;
                text.extend(std::iter::repeat_n(' ', pad));
            }
            text.trim_end().to_owned()
        };
        let title = line(&mut head.iter().copied());
        let mut lines = vec![self.paint(Tone::Head, &title)];
        lines.extend(
            rows.iter()
                .map(|row| line(&mut row.iter().map(String::as_str))),
        );
        lines
    }
}

/// A number with a unit that keeps it short: `12.3 k`.
pub(super) fn short(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 1e9 => (v / 1e9, " G"),
        v if v >= 1e6 => (v / 1e6, " M"),
        v if v >= 1e4 => (v / 1e3, " k"),
        v => (v, ""),
    };
    if unit.is_empty() && (value.fract() == 0.0 || value >= 100.0) {
        format!("{value:.0}")
    } else {
        format!("{value:.1}{unit}")
    }
}

/// Seconds as people say them.
pub(super) fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_pipes_get_no_colours() {
        let screen = Screen { colours: false };
        let rows = [
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long".to_owned(), "2".to_owned()],
        ];
        assert_eq!(
            screen.table(&["job", "n"], &rows),
            ["job   n", "a     1", "long  2"]
        );
        assert_eq!(screen.paint(Tone::Bad, "x"), "x");
        let screen = Screen { colours: true };
        assert_eq!(screen.paint(Tone::Bad, "x"), "\u{1b}[31mx\u{1b}[0m");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(short(0.0), "0");
        assert_eq!(short(7.25), "7.2");
        assert_eq!(short(9999.0), "9999");
        assert_eq!(short(12_345.0), "12.3 k");
        assert_eq!(short(2.5e9), "2.5 G");
        assert_eq!(ago(59), "59 s");
        assert_eq!(ago(7200), "2 h");
    }
}
