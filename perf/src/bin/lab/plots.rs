//! Plots as SVG. A peer has the same colour in all of them.

use anyhow::{Result, anyhow};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

const SIZE: (u32, u32) = (720, 380);
const FONT: &str = "sans-serif";
const GREY: RGBColor = RGBColor(0x88, 0x88, 0x88);

/// A line or a row of bars: whose, and its points.
#[derive(Clone, Debug)]
pub struct Series {
    /// The peer.
    pub peer: String,
    /// What of the peer's, where there are several lines of one.
    pub part: Option<&'static str>,
    /// Points, by rising x.
    pub points: Vec<(f64, f64)>,
}

/// What a plot shows.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Above it.
    pub title: String,
    /// What goes to the right, with its unit.
    pub across: String,
    /// What goes up, with its unit.
    pub up: String,
    /// The lines.
    pub series: Vec<Series>,
    /// Whether steps to the right are factors.
    pub logarithmic: bool,
}

/// The colours of one set that people with any colour vision tell apart (Okabe and Ito).
fn colour(peer: &str) -> RGBColor {
    match peer {
        "ours" => RGBColor(0xd5, 0x5e, 0x00),
        "kernel" => RGBColor(0x00, 0x72, 0xb2),
        "steered" => RGBColor(0x56, 0xb4, 0xe9),
        "testpmd" => RGBColor(0x00, 0x9e, 0x73),
        "ovs" => RGBColor(0xcc, 0x79, 0xa7),
        "floor" => RGBColor(0xe6, 0x9f, 0x00),
        _ => GREY,
    }
}

/// How a peer is called in a legend.
#[must_use]
pub fn called(peer: &str) -> &str {
    match peer {
        "kernel" => "the kernel's way",
        "steered" => "the kernel's way, steered (RPS)",
        "ovs" => "Open vSwitch with DPDK",
        "floor" => "floor (TUN and UDP socket)",
        other => other,
    }
}

fn legend(series: &Series) -> String {
    match series.part {
        Some(part) => format!("{}, {part}", called(&series.peer)),
        None => called(&series.peer).to_owned(),
    }
}

/// Digits that fit beside an axis.
fn tick(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}{unit}"),
        size if size >= 1.0 => format!("{value:.1}{unit}"),
        _ => format!("{value:.2}{unit}"),
    }
}

/// Lines with a mark at each point.
///
/// # Errors
/// When it cannot be drawn.
pub fn lines(plot: &Plot) -> Result<String> {
    let points = || plot.series.iter().flat_map(|series| &series.points);
    let finite = |values: &mut dyn Iterator<Item = f64>| {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (least, most) = (least.min(value), most.max(value));
        }
        (least <= most).then_some((least, most))
    };
    let across = finite(&mut points().map(|point| point.0));
    let up = finite(&mut points().map(|point| point.1));
    let (Some((left, right)), Some((_, top))) = (across, up) else {
        return Err(anyhow!("{}: there is nothing to plot", plot.title));
    };
    let top = if top > 0.0 { top * 1.1 } else { 1.0 };
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let mut builder = ChartBuilder::on(&area);
        builder
            .caption(&plot.title, (FONT, 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(72);
        if plot.logarithmic {
            let left = left.max(f64::MIN_POSITIVE);
            let right = right.max(left * 1.1);
            let chart = builder
                .build_cartesian_2d((left..right).log_scale(), 0.0..top)
                .map_err(failed)?;
            draw(chart, plot)?;
        } else {
            let right = if right > left { right } else { left + 1.0 };
            let chart = builder
                .build_cartesian_2d(left..right, 0.0..top)
                .map_err(failed)?;
            draw(chart, plot)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(text)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing: {error}")
}

fn draw<'a, X>(
    mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, RangedCoordf64>>,
    plot: &Plot,
) -> Result<()>
where
    X: Ranged<ValueType = f64> + plotters::coord::ranged1d::ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.12))
        .x_desc(&plot.across)
        .y_desc(&plot.up)
        .x_label_formatter(&|value| tick(*value))
        .y_label_formatter(&|value| tick(*value))
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 14))
        .draw()
        .map_err(failed)?;
    for series in &plot.series {
        let points = series.points.iter().copied();
        let points: Vec<_> = points
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .collect();
        if points.is_empty() {
            continue;
        }
        let colour = colour(&series.peer);
        // Of several lines of a peer the second ones are thinner.
        let width = if matches!(series.part, None | Some("p50")) {
            3
        } else {
            1
        };
        let style = colour.stroke_width(width);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))
            .map_err(failed)?
            .label(legend(series))
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
        let marks = points
            .iter()
            .map(|&point| Circle::new(point, 3, colour.filled()));
        chart.draw_series(marks).map_err(failed)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .label_font((FONT, 13))
        .draw()
        .map_err(failed)
}

/// A bar for each peer: its value, and how far it went.
#[derive(Clone, Debug)]
pub struct Bar {
    /// The peer.
    pub peer: String,
    /// How high.
    pub value: f64,
    /// From where to where the rounds went.
    pub range: (f64, f64),
}

/// Bars beside each other, with their values.
///
/// # Errors
/// When it cannot be drawn.
pub fn bars(title: &str, up: &str, bars: &[Bar]) -> Result<String> {
    let top = bars.iter().map(|bar| bar.value.max(bar.range.1));
    let top = top.filter(|top| top.is_finite()).fold(0.0, f64::max);
    if bars.is_empty() {
        return Err(anyhow!("{title}: there is nothing to plot"));
    }
    // Room for the values and the legend.
    let top = if top > 0.0 { top * 1.4 } else { 1.0 };
    #[allow(clippy::cast_precision_loss)] // a handful
    let count = bars.len() as f64;
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, (FONT, 18))
            .margin(12)
            .x_label_area_size(12)
            .y_label_area_size(72)
            .build_cartesian_2d(0.0..count, 0.0..top)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12))
            .y_desc(up)
            .y_label_formatter(&|value| tick(*value))
            .label_style((FONT, 13))
            .axis_desc_style((FONT, 14))
            .draw()
            .map_err(failed)?;
        for (at, bar) in (0u32..).zip(bars) {
            let (left, middle, right) = (
                f64::from(at) + 0.25,
                f64::from(at) + 0.5,
                f64::from(at) + 0.75,
            );
            let colour = colour(&bar.peer);
            let shape = Rectangle::new([(left, 0.0), (right, bar.value.max(0.0))], colour.filled());
            chart
                .draw_series([shape])
                .map_err(failed)?
                .label(called(&bar.peer).to_owned())
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled())
                });
            let range = [(middle, bar.range.0.max(0.0)), (middle, bar.range.1)];
            chart
                .draw_series([PathElement::new(range, BLACK.stroke_width(2))])
                .map_err(failed)?;
            let value = Text::new(
                tick(bar.value),
                (left, bar.value.max(bar.range.1) + top * 0.04),
                (FONT, 14),
            );
            chart.draw_series([value]).map_err(failed)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.2))
            .label_font((FONT, 13))
            .draw()
            .map_err(failed)?;
        area.present().map_err(failed)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(logarithmic: bool) -> Plot {
        let series = |peer: &str, points: &[(f64, f64)]| Series {
            peer: peer.into(),
            part: None,
            points: points.to_vec(),
        };
        Plot {
            title: "Throughput & flows".into(),
            across: "flows".into(),
            up: "datagrams/s".into(),
            series: vec![
                series("ours", &[(1.0, 1e5), (32.0, 2e5), (1024.0, f64::NAN)]),
                series("kernel", &[(1.0, 2e5), (1024.0, 1e5)]),
            ],
            logarithmic,
        }
    }

    fn texts(svg: &str) -> Vec<String> {
        let document = roxmltree::Document::parse(svg).unwrap();
        assert!(
            document
                .root_element()
                .has_tag_name(("http://www.w3.org/2000/svg", "svg"))
        );
        let nodes = document.descendants();
        let texts = nodes.filter(|node| node.tag_name().name() == "text");
        let texts = texts.filter_map(|node| node.text().map(|text| text.trim().to_owned()));
        texts.collect()
    }

    #[test]
    fn lines_have_their_series_axes_and_colours() {
        for logarithmic in [false, true] {
            let svg = lines(&plot(logarithmic)).unwrap();
            let texts = texts(&svg);
            for wanted in [
                "Throughput & flows",
                "flows",
                "datagrams/s",
                "ours",
                "the kernel's way",
            ] {
                assert!(
                    texts.iter().any(|text| text == wanted),
                    "{wanted}: {texts:?}"
                );
            }
            let document = roxmltree::Document::parse(&svg).unwrap();
            for (peer, marks) in [("#D55E00", 2), ("#0072B2", 2)] {
                let found = document.descendants().filter(|node| {
                    node.tag_name().name() == "circle" && node.attribute("fill") == Some(peer)
                });
                assert_eq!(found.count(), marks, "marks of {peer}");
            }
        }
    }

    #[test]
    fn bars_have_their_values() {
        let bar = |peer: &str, value: f64| Bar {
            peer: peer.into(),
            value,
            range: (value * 0.9, value * 1.1),
        };
        let svg = bars("Cost", "µs", &[bar("ours", 2.5), bar("ovs", 12_345.0)]).unwrap();
        let texts = texts(&svg);
        for wanted in [
            "Cost",
            "µs",
            "ours",
            "Open vSwitch with DPDK",
            "2.5",
            "12.3k",
        ] {
            assert!(
                texts.iter().any(|text| text == wanted),
                "{wanted}: {texts:?}"
            );
        }
    }

    #[test]
    fn one_point_is_a_plot_and_none_is_not() {
        let mut plot = plot(true);
        plot.series = vec![Series {
            peer: "ours".into(),
            part: Some("p99"),
            points: vec![(1.0, 0.0)],
        }];
        assert!(texts(&lines(&plot).unwrap()).contains(&"ours, p99".to_owned()));
        plot.series.clear();
        assert!(lines(&plot).is_err());
        assert!(bars("none", "", &[]).is_err());
    }
}
