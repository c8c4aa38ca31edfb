//! `top`: what a node does, live.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table};
use serde_json::Value;

use super::commands::{Outcome, request};
use super::rates::{Rates, Stream};
use super::screen::short;
use super::{Format, Options};

/// How `top` runs.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// Seconds between two looks
    #[arg(long, short, default_value_t = 1.0, value_parser = interval)]
    interval: f64,
    /// End after so many looks; without a terminal they are printed one below the other
    #[arg(long, short)]
    count: Option<u64>,
    #[command(flatten)]
    format: Format,
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("write seconds from 0.1 to 3600".to_owned()),
    }
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Packets,
    Bits,
    Name,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Packets => Self::Bits,
            Self::Bits => Self::Name,
            Self::Name => Self::Packets,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Packets => "packets",
            Self::Bits => "bits",
            Self::Name => "name",
        }
    }
}

/// One look.
#[derive(Debug, Default)]
struct View {
    status: Value,
    rates: Rates,
    order: Order,
    /// Why there is nothing newer.
    trouble: Option<String>,
}

impl View {
    fn sort(&mut self) {
        let both = |a: &Stream, b: &Stream| a.packets_per_second + b.packets_per_second;
        let bits = |a: &Stream, b: &Stream| {
            a.bits_per_second.unwrap_or(0.0) + b.bits_per_second.unwrap_or(0.0)
        };
        let order = self.order;
        self.rates.containers.sort_by(|a, b| match order {
            Order::Packets => both(&b.from, &b.to).total_cmp(&both(&a.from, &a.to)),
            Order::Bits => bits(&b.from, &b.to).total_cmp(&bits(&a.from, &a.to)),
            Order::Name => (&a.job, a.instance).cmp(&(&b.job, b.instance)),
        });
        self.rates.services.sort_by(|a, b| match order {
            Order::Packets => b.packets_per_second.total_cmp(&a.packets_per_second),
            Order::Bits => b.flows_per_second.total_cmp(&a.flows_per_second),
            Order::Name => (&a.job, &a.policy).cmp(&(&b.job, &b.policy)),
        });
    }
}

fn bits(stream: Stream) -> String {
    stream
        .bits_per_second
        .map_or_else(|| "-".to_owned(), |bits| format!("{}bit", spaced(bits)))
}

/// `12.3 M`, or `12 ` before a unit.
fn spaced(value: f64) -> String {
    let text = short(value);
    if text.contains(' ') {
        text
    } else {
        format!("{text} ")
    }
}

fn head(view: &View) -> Vec<Line<'static>> {
    let status = &view.status;
    let said = |field: &str| status[field].as_str().unwrap_or("-").to_owned();
    let connected = status["link"]["connected"] == true;
    let link = if connected {
        Span::styled("linked", Style::new().fg(Color::Green))
    } else {
        Span::styled("no link to the cluster", Style::new().fg(Color::Red))
    };
    let mut first = vec![
        Span::raw(format!(
            "node {}  up {} s  {} containers  ",
            said("client_id"),
            status["uptime_seconds"],
            status["containers"].as_array().map_or(0, Vec::len)
        )),
        link,
    ];
    if let Some(trouble) = &view.trouble {
        first.push(Span::styled(
            format!("  {trouble}"),
            Style::new().fg(Color::Red),
        ));
    }
    let dataplane = &status["dataplane"];
    vec![
        Line::from(first),
        Line::from(format!(
            "flows {} of {}, {} given up; {} packets wait",
            dataplane["flows"],
            dataplane["flow_capacity"],
            dataplane["flows_evicted"],
            dataplane["waiting"]
        )),
        Line::from(format!("keys: q ends, s sorts (by {})", view.order.name())),
    ]
}

fn table<'a>(
    title: &'a str,
    heads: &'a [&'a str],
    widths: &'a [Constraint],
    rows: impl Iterator<Item = Vec<String>> + 'a,
) -> Table<'a> {
    let heads = heads.iter().map(|head| Cell::from(*head));
    Table::new(
        rows.map(|cells| Row::new(cells.into_iter().map(Cell::from))),
        widths.iter().copied(),
    )
    .header(Row::new(heads).style(Style::new().add_modifier(Modifier::BOLD)))
    .block(Block::new().borders(Borders::TOP).title(title))
}

fn draw(frame: &mut Frame<'_>, view: &View) {
    let rates = &view.rates;
    let height = |rows: usize| Constraint::Length(u16::try_from(rows).unwrap_or(10).min(10) + 2);
    let [top, cores, containers, services, drops] = Layout::vertical([
        Constraint::Length(3),
        height(rates.cores.len().max(rates.roles.len())),
        Constraint::Fill(2),
        Constraint::Fill(1),
        height(rates.drops.len().max(1)),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(head(view)), top);
    draw_ports(frame, view, cores);
    let share = Constraint::Fill(1);
    let number = Constraint::Length(11);
    frame.render_widget(
        table(
            "Containers",
            &[
                "job",
                "instance",
                "from packets/s",
                "bit/s",
                "to packets/s",
                "bit/s",
                "refused/s",
            ],
            &[
                share,
                Constraint::Length(8),
                Constraint::Length(14),
                number,
                Constraint::Length(12),
                number,
                number,
            ],
            rates.containers.iter().map(|c| {
                vec![
                    c.job.clone(),
                    c.instance.to_string(),
                    short(c.from.packets_per_second),
                    bits(c.from),
                    short(c.to.packets_per_second),
                    bits(c.to),
                    short(c.refused_per_second),
                ]
            }),
        ),
        containers,
    );
    frame.render_widget(
        table(
            "Services",
            &[
                "job",
                "policy",
                "address",
                "new flows/s",
                "packets/s",
                "live",
                "refused/s",
            ],
            &[
                share,
                Constraint::Length(13),
                Constraint::Length(16),
                number,
                number,
                number,
                number,
            ],
            rates.services.iter().map(|s| {
                vec![
                    s.job.clone(),
                    s.policy.clone(),
                    s.address.clone(),
                    short(s.flows_per_second),
                    short(s.packets_per_second),
                    s.live.to_string(),
                    short(s.refused_per_second),
                ]
            }),
        ),
        services,
    );
    let none = rates
        .drops
        .is_empty()
        .then(|| vec!["none".to_owned(), String::new()]);
    let dropped = rates
        .drops
        .iter()
        .map(|(reason, rate)| vec![reason.clone(), short(*rate)]);
    frame.render_widget(
        table(
            "Drops",
            &["reason", "packets/s"],
            &[share, number],
            dropped.chain(none),
        ),
        drops,
    );
}

fn draw_ports(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(35), Constraint::Fill(1)]).areas(area);
    let number = Constraint::Length(12);
    let rates = &view.rates;
    frame.render_widget(
        table(
            "Workers",
            &["worker", "busy", "flows"],
            &[Constraint::Length(8), Constraint::Length(8), number],
            rates.cores.iter().map(|core| {
                vec![
                    core.worker.to_string(),
                    format!("{:.0} %", core.busy * 100.0),
                    core.flows.to_string(),
                ]
            }),
        ),
        left,
    );
    frame.render_widget(
        table(
            "Ports",
            &["port", "in packets/s", "bit/s", "out packets/s", "bit/s"],
            &[
                Constraint::Length(8),
                number,
                number,
                Constraint::Length(13),
                number,
            ],
            rates.roles.iter().map(|(role, streams)| {
                vec![
                    role.clone(),
                    short(streams.received.packets_per_second),
                    bits(streams.received),
                    short(streams.sent.packets_per_second),
                    bits(streams.sent),
                ]
            }),
        ),
        right,
    );
}

/// Answers of `/status`, one after the other.
struct Source<'a> {
    options: &'a Options,
    before: Option<(Value, Instant)>,
}

impl Source<'_> {
    /// What happened since the last look; nothing at the first.
    fn look(&mut self) -> Result<Option<(Value, Rates)>, Box<dyn std::error::Error>> {
        let body = request(self.options, hyper::Method::GET, "/status")?;
        let status: Value = serde_json::from_str(&body)?;
        let now = Instant::now();
        let rates = self.before.as_ref().map(|(before, then)| {
            Rates::between(before, &status, now.duration_since(*then).as_secs_f64())
        });
        self.before = Some((status.clone(), now));
        Ok(rates.map(|rates| (status, rates)))
    }
}

pub(super) fn run(options: &Options, asked: &Top) -> Outcome {
    let mut source = Source {
        options,
        before: None,
    };
    // A node that does not answer is said before the screen is taken.
    source.look()?;
    let pause = Duration::from_secs_f64(asked.interval);
    if asked.format.json || !std::io::stdout().is_terminal() {
        return print(&mut source, asked, pause);
    }
    let mut terminal = ratatui::try_init()?;
    let outcome = live(&mut terminal, &mut source, asked, pause);
    ratatui::restore();
    outcome
}

/// Looks one below the other, for a pipe.
fn print(source: &mut Source<'_>, asked: &Top, pause: Duration) -> Outcome {
    let mut out = std::io::stdout();
    let mut left = asked.count.unwrap_or(u64::MAX);
    while left > 0 {
        std::thread::sleep(pause);
        let Some((_, rates)) = source.look()? else {
            continue;
        };
        left -= 1;
        if asked.format.json {
            writeln!(out, "{}", serde_json::to_string(&rates)?)?;
        } else {
            for line in super::status::rate_lines(&rates) {
                writeln!(out, "{line}")?;
            }
            writeln!(out)?;
        }
        out.flush()?;
    }
    Ok(())
}

fn live(
    terminal: &mut ratatui::DefaultTerminal,
    source: &mut Source<'_>,
    asked: &Top,
    pause: Duration,
) -> Outcome {
    let mut view = View::default();
    let mut left = asked.count.unwrap_or(u64::MAX);
    let mut next = Instant::now() + pause.min(Duration::from_millis(300));
    loop {
        terminal.draw(|frame| draw(frame, &view))?;
        if left == 0 {
            return Ok(());
        }
        if event::poll(next.saturating_duration_since(Instant::now()))? {
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                        return Ok(());
                    }
                    KeyCode::Char('s') => {
                        view.order = view.order.next();
                        view.sort();
                    }
                    _ => {}
                }
            }
            continue;
        }
        next = Instant::now() + pause;
        match source.look() {
            Ok(Some((status, rates))) => {
                left -= 1;
                view = View {
                    status,
                    rates,
                    order: view.order,
                    trouble: None,
                };
                view.sort();
            }
            Ok(None) => {}
            // The node may be starting anew: what was seen last stays.
            Err(error) => view.trouble = Some(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    fn screen(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(110, 30)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let width = usize::from(buffer.area.width);
        let cells: Vec<&str> = buffer
            .content()
            .iter()
            .map(ratatui::buffer::Cell::symbol)
            .collect();
        cells.chunks(width).map(|row| row.concat() + "\n").collect()
    }

    fn look(n: u64) -> Value {
        let container = |job: &str, packets: u64, bytes: u64| {
            json!({"job": job, "instance": 0, "interface": job, "packets_in": packets * n, "bytes_in": bytes * n,
                   "packets_out": 0, "bytes_out": 0, "refused": 0})
        };
        json!({"client_id": "n1", "uptime_seconds": 61, "link": {"connected": false}, "containers": [1, 2],
            "dataplane": {
                "flows": 9, "flow_capacity": 1024, "flows_evicted": 2, "waiting": 1,
                "received": {"access": 30 * n}, "sent": {"access": 0},
                "drops": {"spoofed_source": 4 * n},
                "cores": [{"worker": 0, "busy_seconds": n, "alive_seconds": 4 * n, "flows": 9}],
                "containers": [container("zz.many.small.x", 20_000, 10), container("aa.few.large.x", 3, 90_000_000)],
                "services": [{"job": "web.t.s.t", "policy": "rr", "addresses": ["10.30.0.1"], "opened": 7 * n, "packets": n, "live": 5, "refused": 0}],
                "devices": []}})
    }

    #[test]
    fn the_busiest_come_first_and_the_key_changes_what_that_means() {
        let mut view = View {
            status: look(2),
            rates: Rates::between(&look(1), &look(2), 1.0),
            ..View::default()
        };
        view.sort();
        let text = screen(&view);
        for wanted in [
            "node n1",
            "no link to the cluster",
            "flows 9 of 1024, 2 given up; 1 packets wait",
            "25 %",
            "20.0 k",
            "720.0 Mbit",
            "spoofed_source",
            "10.30.0.1",
            "by packets",
        ] {
            assert!(text.contains(wanted), "{wanted}\n{text}");
        }
        let first = |text: &str| text.find("zz.many").unwrap() < text.find("aa.few").unwrap();
        assert!(first(&text));
        view.order = view.order.next();
        view.sort();
        let text = screen(&view);
        assert!(!first(&text) && text.contains("by bits"), "{text}");
        // A narrow and short terminal shows less, and does not fail.
        let mut terminal = Terminal::new(TestBackend::new(20, 4)).unwrap();
        terminal.draw(|frame| draw(frame, &view)).unwrap();
    }

    #[test]
    fn a_node_that_does_not_answer_is_said_over_what_was_seen_last() {
        let view = View {
            status: look(1),
            trouble: Some("no Net Manager answers".to_owned()),
            ..View::default()
        };
        let text = screen(&view);
        assert!(text.contains("no Net Manager answers") && text.contains("node n1"));
        assert!(text.contains("none"));
    }
}
