//! What a run found, for a person at a terminal or for a pipe.

use std::fmt::Write as _;

use perf::paint::Paint;

use crate::page::{ORDER, outcome, short, spread, wanted};
use crate::plots::called;
use crate::results::Results;
use crate::targets::Outcome;

/// The table, in colour on a terminal.
#[must_use]
pub fn table(results: &Results) -> String {
    rendered(results, &Paint::of_stdout())
}

fn rendered(results: &Results, paint: &Paint) -> String {
    let mut text = String::new();
    let settings = &results.settings;
    let _ = writeln!(text, "{}", results.machine.line());
    let _ = writeln!(text, "{}", results.machine.case());
    let _ = writeln!(
        text,
        "{}: {} interleaved rounds of {} s at most; it took {:.0} s",
        settings.mode, settings.rounds, settings.seconds, results.took_seconds
    );
    if results.machine.debug {
        let _ = writeln!(
            text,
            "{}a debug build: these figures say nothing{}",
            paint.bad, paint.plain
        );
    }
    let there = |peer: &&str| {
        let mut figures = results.figures.iter();
        figures.any(|figure| figure.values.contains_key(*peer))
    };
    let peers: Vec<&str> = ORDER.into_iter().filter(there).collect();
    let _ = write!(text, "\n{}{:<34} {:<12}", paint.bold, "figure", "unit");
    for peer in &peers {
        let _ = write!(text, " {peer:>10}");
    }
    let _ = writeln!(text, "   ours by{}", paint.plain);
    for figure in &results.figures {
        let _ = write!(text, "{:<34} {:<12}", figure.key(), figure.unit);
        for peer in &peers {
            let value = figure.values.get(*peer);
            let value = value.map_or_else(|| "-".to_owned(), |value| short(value.median));
            let _ = write!(text, " {value:>10}");
        }
        let ratios = peers.iter().filter_map(|peer| {
            let ratio = figure.ratios.get(*peer)?;
            Some(format!("{peer} {}", short(ratio.median)))
        });
        let ratios: Vec<_> = ratios.collect();
        let _ = writeln!(text, "   {}{}{}", paint.dim, ratios.join(", "), paint.plain);
    }
    let _ = writeln!(
        text,
        "\n{}{:<16} {:<14} {:<36} {:<24}{}",
        paint.bold, "case", "figure", "wanted", "measured", paint.plain
    );
    for verdict in &results.targets {
        let colour = match verdict.outcome {
            Outcome::Reached => paint.good,
            Outcome::Missed => paint.bad,
            Outcome::Skipped => paint.dim,
        };
        let value = verdict.value.as_ref().map(spread).unwrap_or_default();
        let reason = verdict.reason.as_deref();
        let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
        let _ = writeln!(
            text,
            "{:<16} {:<14} {:<36} {value:<24} {colour}{}{}{reason}",
            verdict.case,
            verdict.figure,
            wanted(verdict),
            outcome(verdict),
            paint.plain
        );
    }
    text.push('\n');
    for (peer, why) in &results.peers {
        if let Some(why) = why {
            let _ = writeln!(text, "no {}: {why}", called(peer));
        }
    }
    for (case, why) in &results.skipped {
        let _ = writeln!(text, "not measured, {case}: {why}");
    }
    for figure in &results.figures {
        for (peer, why) in &figure.missing {
            let _ = writeln!(text, "{}, {peer}: {why}", figure.key());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{run, values};
    use crate::results::{Better, Figure, OURS};
    use crate::targets::judge;

    #[test]
    fn a_pipe_gets_no_colours_and_everything_is_named() {
        let rate = values(&[(OURS, &[2.0, 2.0]), ("kernel", &[1.0, 1.0])]);
        let mut run = run(vec![Figure::new(
            "two-tcp",
            "rate",
            "Gbit/s",
            Better::Higher,
            &rate,
        )]);
        run.skipped.insert("soak".into(), "needs --full".into());
        run.targets = judge(&run);
        let plain = rendered(&run, &perf::paint::NONE);
        assert!(!plain.contains('\x1b'));
        for wanted in [
            "two-tcp/rate",
            "kernel 2.00",
            "no Open vSwitch with DPDK: not installed",
            "not measured, soak: needs --full",
            "missed",
        ] {
            assert!(plain.contains(wanted), "{wanted} in\n{plain}");
        }
        let coloured = rendered(&run, &perf::paint::COLOURS);
        assert!(coloured.contains("\x1b[32mreached\x1b[0m"), "{coloured}");
    }
}
