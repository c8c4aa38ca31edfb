//! The page that stands beside the numbers: plots, the targets, and what was measured, in one file that needs no other.
//! And the same as a table for a README.

use std::fmt::{Display, Write as _};

use anyhow::Result;

use crate::plots::{Bar, Plot, Series, bars, called, lines};
use crate::results::{Figure, Measured, OURS, Results};
use crate::targets::{Outcome, Verdict, reference};

/// Peers in the order of every legend and table.
pub const ORDER: [&str; 6] = [OURS, "kernel", "steered", "testpmd", "ovs", "floor"];

/// Three digits or so.
#[must_use]
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 10_000_000.0 => format!("{:.1} M", value / 1e6),
        size if size >= 1_000_000.0 => format!("{:.2} M", value / 1e6),
        size if size >= 10_000.0 => format!("{:.0} k", value / 1e3),
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A median, and the rounds' range where there is more than one.
#[must_use]
pub fn spread(value: &Measured) -> String {
    match value.rounds.len() {
        0 | 1 => short(value.median),
        _ => format!(
            "{} ({} to {})",
            short(value.median),
            short(value.least),
            short(value.most)
        ),
    }
}

/// What a row asks for.
#[must_use]
pub fn wanted(verdict: &Verdict) -> String {
    let sign = if verdict.at_least { "≥" } else { "≤" };
    let limit = short(verdict.limit);
    match verdict.ratio {
        true => format!("{sign} {limit} × {}", called(&verdict.against)),
        false => format!("{sign} {limit}"),
    }
}

/// How a row came out.
#[must_use]
pub fn outcome(verdict: &Verdict) -> &'static str {
    match verdict.outcome {
        Outcome::Reached => "reached",
        Outcome::Missed => "missed",
        Outcome::Skipped => "skipped",
    }
}

fn escaped(text: impl Display) -> String {
    let text = text.to_string();
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn series(results: &Results, case: &str, name: &str, part: Option<&'static str>) -> Vec<Series> {
    let figures = results.figures.iter();
    let mut figures: Vec<&Figure> = figures
        .filter(|figure| figure.case == case && figure.name == name && figure.at.is_some())
        .collect();
    figures.sort_by(|a, b| a.at.unwrap_or(0.0).total_cmp(&b.at.unwrap_or(0.0)));
    let of = |peer: &str| {
        let points = figures
            .iter()
            .filter_map(|figure| Some((figure.at?, figure.values.get(peer)?.median)));
        let points: Vec<_> = points.collect();
        (!points.is_empty()).then(|| Series {
            peer: peer.to_owned(),
            part,
            points,
        })
    };
    ORDER.into_iter().filter_map(of).collect()
}

fn bars_of(figure: &Figure) -> Vec<Bar> {
    let of = |peer: &str| {
        let measured = figure.values.get(peer)?;
        Some(Bar {
            peer: peer.to_owned(),
            value: measured.median,
            range: (measured.least, measured.most),
        })
    };
    ORDER.into_iter().filter_map(of).collect()
}

/// What is drawn as bars: case, figure, title, what goes up.
const BARS: [(&str, &str, &str, &str); 7] = [
    (
        "one-udp64",
        "loss-0.1%",
        "One node: 64-byte UDP, less than 0.1 % lost",
        "datagrams a second",
    ),
    (
        "two-udp64",
        "loss-0.1%",
        "Two nodes: 64-byte UDP, less than 0.1 % lost",
        "datagrams a second",
    ),
    ("two-tcp", "rate", "Two nodes: one TCP stream", "Gbit/s"),
    (
        "two-tcp-mtu",
        "rate",
        "Two nodes: one TCP stream, no frame above the MTU",
        "Gbit/s",
    ),
    (
        "two-connections",
        "rate",
        "Two nodes: an HTTP request over a connection of its own",
        "connections a second",
    ),
    (
        "one-busy",
        "per packet",
        "One node: processor time of the machine per packet",
        "µs a packet",
    ),
    (
        "two-busy",
        "per packet",
        "Two nodes: processor time of the machine per packet",
        "µs a packet",
    ),
];

/// Every plot that there are points for, with a name for its file.
///
/// # Errors
/// When one cannot be drawn.
pub fn plots(results: &Results) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut add = |name: &str, plot: Plot| -> Result<()> {
        if !plot.series.is_empty() {
            found.push((name.to_owned(), lines(&plot)?));
        }
        Ok(())
    };
    add(
        "flows",
        Plot {
            title: "Two nodes: 64-byte UDP as fast as it goes, by flows".into(),
            across: "flows at a time".into(),
            up: "datagrams a second that arrive".into(),
            series: series(results, "flows", "rate", None),
            logarithmic: true,
        },
    )?;
    for (part, what) in [("p50", "half are faster"), ("p99", "99 of 100 are faster")] {
        add(
            &format!("latency-{part}"),
            Plot {
                title: format!("Two nodes: round trip of 64-byte UDP, {part} ({what})"),
                across: "load, % of the rate with 0.5 % loss (PDR)".into(),
                up: "µs".into(),
                series: series(results, "latency", part, None),
                logarithmic: false,
            },
        )?;
    }
    let mut percentiles = Vec::new();
    for part in ["p50", "p90", "p99"] {
        percentiles.extend(series(results, "latency", part, Some(part)));
    }
    percentiles.retain(|series| series.peer == OURS);
    add(
        "latency-ours",
        Plot {
            title: "Two nodes, ours: percentiles of the round trip".into(),
            across: "load, % of the rate with 0.5 % loss (PDR)".into(),
            up: "µs".into(),
            series: percentiles,
            logarithmic: false,
        },
    )?;
    add(
        "scaling",
        Plot {
            title: "Two nodes: 64-byte UDP as fast as it goes, by workers".into(),
            across: "workers of each node".into(),
            up: "datagrams a second that arrive".into(),
            series: series(results, "scaling", "rate", None),
            logarithmic: false,
        },
    )?;
    for (case, name, title, up) in BARS {
        if let Some(figure) = results.figure(case, name)
            && !figure.values.is_empty()
        {
            found.push((case.to_owned(), bars(title, up, &bars_of(figure))?));
        }
    }
    Ok(found)
}

/// What, its unit, and a cell for each peer.
type Row = (String, String, Vec<String>);

/// Figures as rows: what, unit, and a cell for each peer that is in any.
fn table(results: &Results) -> (Vec<&'static str>, Vec<Row>) {
    let there = |peer: &&str| {
        let mut figures = results.figures.iter();
        figures.any(|figure| figure.values.contains_key(*peer))
    };
    let peers: Vec<&'static str> = ORDER.into_iter().filter(there).collect();
    let row = |figure: &Figure| {
        let what = match figure.at {
            Some(at) => format!("{} at {}", figure.name, short(at)),
            None => figure.name.clone(),
        };
        let cell = |peer: &&str| {
            let value = figure.values.get(*peer).map(spread);
            value.unwrap_or_else(|| "–".into())
        };
        (
            format!("{}: {what}", figure.case),
            figure.unit.clone(),
            peers.iter().map(cell).collect(),
        )
    };
    let rows = results.figures.iter().map(row).collect();
    (peers, rows)
}

/// Who or what is not there, and why.
fn absences(results: &Results) -> Vec<(String, String)> {
    let peers = results.peers.iter();
    let peers = peers.filter_map(|(peer, why)| Some((called(peer).to_owned(), why.clone()?)));
    let skipped = results.skipped.iter();
    let skipped = skipped.map(|(case, why)| (case.clone(), why.clone()));
    let missing = results.figures.iter().flat_map(|figure| {
        let missing = figure.missing.iter();
        missing.map(|(peer, why)| (format!("{} in {}", called(peer), figure.key()), why.clone()))
    });
    peers.chain(skipped).chain(missing).collect()
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:1480px;margin:2em auto;padding:0 1em;color:#222;\
background:#fff}table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;text-align:left;\
border-bottom:1px solid #ddd}td.n{font-variant-numeric:tabular-nums;white-space:nowrap}.reached{color:#00684a}.missed{color:#b00020;font-weight:bold}\
.skipped{color:#666}.plots{display:flex;flex-wrap:wrap;gap:16px}.plots svg{max-width:100%;height:auto;border:1px solid #ddd}\
.wide{overflow-x:auto}";

/// The whole page, well formed as XML too.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn html(results: &Results) -> Result<String> {
    let mut page = String::new();
    let title = format!("Performance lab, {}", results.started);
    let settings = &results.settings;
    write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width\"/><title>{title}</title><style>{STYLE}</style></head><body>\
         <h1>{title}</h1><p>{machine}</p><p>{case}. Mode {mode}: {rounds} interleaved rounds of {seconds} s at most, generator \
         {generator}, our workers wait by {idle}{wake}; it took {took:.0} s. Medians (from to) of the rounds; ratios are formed \
         in each round.{debug}</p>",
        title = escaped(title),
        machine = escaped(results.machine.line()),
        case = escaped(results.machine.case()),
        mode = escaped(&settings.mode),
        rounds = settings.rounds,
        seconds = settings.seconds,
        generator = escaped(&settings.generator),
        idle = escaped(&settings.idle),
        wake = settings
            .cpu_latency
            .map_or_else(String::new, |limit| format!(
                ", idle cores take {limit} us to wake at most"
            )),
        took = results.took_seconds,
        debug = match results.machine.debug {
            true => " <strong>A debug build: these figures say nothing.</strong>",
            false => "",
        }
    )?;
    page.push_str(
        "<h2>Targets</h2><table><tr><th>case</th><th>figure</th><th>wanted</th><th>measured</th><th></th></tr>",
    );
    for verdict in &results.targets {
        let value = verdict
            .value
            .as_ref()
            .map_or_else(|| verdict.reason.clone().unwrap_or_default(), spread);
        write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"{outcome}\">{outcome}</td></tr>",
            escaped(&verdict.case),
            escaped(&verdict.figure),
            escaped(wanted(verdict)),
            escaped(value),
            outcome = outcome(verdict)
        )?;
    }
    page.push_str("</table><h2>Plots</h2><div class=\"plots\">");
    for (_, svg) in plots(results)? {
        page.push_str(&svg);
    }
    page.push_str(
        "</div><h2>Figures</h2><div class=\"wide\"><table><tr><th>figure</th><th>unit</th>",
    );
    let (peers, rows) = table(results);
    for peer in &peers {
        write!(page, "<th>{}</th>", escaped(called(peer)))?;
    }
    page.push_str("</tr>");
    for (what, unit, cells) in rows {
        write!(
            page,
            "<tr><td>{}</td><td>{}</td>",
            escaped(what),
            escaped(unit)
        )?;
        for cell in cells {
            write!(page, "<td class=\"n\">{}</td>", escaped(cell))?;
        }
        page.push_str("</tr>");
    }
    write!(
        page,
        "</table></div><p>The reference implementation's own figures, measured beforehand on a machine with 2 cores: \
         {} Gbit/s TCP and {} datagrams a second between two nodes, round trip {} µs, p99 {} µs.</p>",
        reference::TCP_GBIT_S,
        short(reference::UDP_PER_SECOND),
        reference::P50_US,
        reference::P99_US
    )?;
    let absences = absences(results);
    if !absences.is_empty() {
        page.push_str("<h2>Not measured</h2><ul>");
        for (what, why) in absences {
            write!(page, "<li>{}: {}</li>", escaped(what), escaped(why))?;
        }
        page.push_str("</ul>");
    }
    page.push_str("</body></html>\n");
    Ok(page)
}

/// A table for a README: figures that are not points of a plot, ratios beside them.
#[must_use]
pub fn markdown(results: &Results) -> String {
    let mut text = format!(
        "{} ({}), {}; {}. Medians of {} interleaved rounds at most.\n\n| figure | unit |",
        results.started,
        results.settings.mode,
        results.machine.line(),
        results.machine.case(),
        results.settings.rounds
    );
    let (peers, _) = table(results);
    for peer in &peers {
        let _ = write!(text, " {} |", called(peer));
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(peers.len()));
    text.push('\n');
    for figure in results.figures.iter().filter(|figure| figure.at.is_none()) {
        let _ = write!(
            text,
            "| {}, {} | {} |",
            figure.case, figure.name, figure.unit
        );
        for peer in &peers {
            let value = figure.values.get(*peer).map(spread);
            let value = value.unwrap_or_else(|| "–".into());
            let ratio = figure.ratios.get(*peer);
            let ratio = ratio.map_or_else(String::new, |ratio| {
                format!("; ours × {}", short(ratio.median))
            });
            let _ = write!(text, " {value}{ratio} |");
        }
        text.push('\n');
    }
    text.push_str("\n| case | figure | wanted | measured | |\n|---|---|---|---|---|\n");
    for verdict in &results.targets {
        let value = verdict
            .value
            .as_ref()
            .map_or_else(|| verdict.reason.clone().unwrap_or_default(), spread);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            verdict.case,
            verdict.figure,
            wanted(verdict),
            value.replace('|', "/"),
            outcome(verdict)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::results::Better;
    use crate::results::tests::{run, values};
    use crate::targets::judge;

    fn whole() -> Results {
        let rate = values(&[(OURS, &[130e3, 125e3]), ("kernel", &[100e3, 99e3])]);
        let mut figures = vec![
            Figure::new(
                "two-udp64",
                "loss-0.1%",
                "datagrams/s",
                Better::Higher,
                &rate,
            )
            .without(&BTreeMap::from([(
                "floor".to_owned(),
                "<it> & \"that\"".to_owned(),
            )])),
            Figure::new("two-busy", "per packet", "us", Better::Lower, &rate),
        ];
        for at in [1.0, 32.0] {
            figures.push(Figure::new("flows", "rate", "datagrams/s", Better::Higher, &rate).at(at));
        }
        for part in ["p50", "p90", "p99"] {
            for at in [0.0, 50.0, 90.0] {
                let figure = Figure::new("latency", part, "us", Better::Lower, &rate);
                figures.push(figure.at(at));
            }
        }
        let mut run = run(figures);
        run.skipped.insert("scaling".into(), "2 cores".into());
        run.targets = judge(&run);
        run
    }

    #[test]
    fn the_page_is_well_formed_and_has_all_plots_with_their_series() {
        let page = html(&whole()).unwrap();
        let markup = page.strip_prefix("<!DOCTYPE html>\n").unwrap();
        let document = roxmltree::Document::parse(markup).unwrap();
        let svgs: Vec<_> = document
            .descendants()
            .filter(|node| node.tag_name().name() == "svg")
            .collect();
        // Flows, three of latency, two with bars.
        assert_eq!(svgs.len(), 6);
        for svg in &svgs {
            let texts: String = svg.descendants().filter_map(|node| node.text()).collect();
            assert!(texts.contains("ours"), "{texts}");
        }
        for wanted in [
            "class=\"reached\">reached",
            "class=\"skipped\">skipped",
            "&lt;it&gt; &amp;",
            "scaling: 2 cores",
            "Open vSwitch with DPDK: not installed",
            "0.2 Gbit/s",
        ] {
            assert!(page.contains(wanted), "{wanted}");
        }
        // Nothing is loaded from elsewhere.
        assert!(!page.contains("href=") && !page.contains("src="));
    }

    #[test]
    fn the_table_has_a_column_for_each_peer_that_was_measured() {
        let table = markdown(&whole());
        assert!(
            table.contains("| figure | unit | ours | the kernel's way |"),
            "{table}"
        );
        assert!(table.contains("ours × 1.28"), "{table}");
        assert!(
            !table.contains("flows, rate"),
            "points are plotted: {table}"
        );
        assert!(
            table.contains("| two-udp64 | loss-0.1% | ≥ 1.20 × the kernel's way |"),
            "{table}"
        );
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.123, "0.12"),
            (12.34, "12.3"),
            (1234.5, "1234"),
            (123_456.0, "123 k"),
            (1_234_567.0, "1.23 M"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
