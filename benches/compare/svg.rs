//! Plots as SVG: bars for peers, lines for growth.

use std::fmt::Write as _;

use crate::spread::Spread;

const WIDTH: f64 = 760.0;
/// Colours that colour-blind readers can distinguish, also in grey.
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];

/// Horizontal bars: a group for each peer, a bar for each series.
pub(crate) struct Bars {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) decimals: usize,
    pub(crate) series: Vec<String>,
    /// The groups; each has as many values as there are series.
    pub(crate) groups: Vec<(String, Vec<Option<Spread>>)>,
}

impl Bars {
    /// Returns the text of the file.
    pub(crate) fn draw(&self) -> String {
        const BAR: f64 = 16.0;
        const LEFT: f64 = 120.0;
        const TOP: f64 = 62.0;
        let group = BAR * self.series.len() as f64 + 12.0;
        let height = TOP + group * self.groups.len() as f64 + 10.0;
        let spreads = self.groups.iter().flat_map(|(_, values)| values.iter().flatten());
        let largest = spreads.map(|spread| spread.high).fold(f64::MIN_POSITIVE, f64::max);
        let scale = (WIDTH - LEFT - 90.0) / largest;
        let mut body = legend(&self.series, 46.0);
        for (row, (name, values)) in self.groups.iter().enumerate() {
            let top = TOP + group * row as f64;
            let middle = top + BAR * self.series.len() as f64 / 2.0 + 4.0;
            body.push_str(&text(LEFT - 8.0, middle, "end", name));
            for (number, spread) in values.iter().enumerate() {
                let Some(Spread { median, low, high }) = spread else { continue };
                let y = top + BAR * number as f64;
                let (length, from, to) = (median * scale, LEFT + low * scale, LEFT + high * scale);
                let line = y + BAR / 2.0 - 1.0;
                let _ = writeln!(
                    body,
                    r##"<rect x="{LEFT}" y="{y:.1}" width="{length:.1}" height="{:.1}" fill="{}"/><path d="M{from:.1} {line:.1}H{to:.1}" stroke="#222" stroke-width="1.5"/>"##,
                    BAR - 2.0,
                    COLOURS[number % COLOURS.len()],
                );
                let label = format!("{median:.*}", self.decimals);
                body.push_str(&text(to.max(LEFT + length) + 5.0, y + BAR - 5.0, "start", &label));
            }
        }
        page(&format!("{} ({})", self.title, self.unit), height, &body)
    }
}

/// The scale of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// A linear scale from 0.
    Linear,
    /// A logarithmic scale from 1, as for the sizes. Values below 1 are drawn at 1.
    Tenfold,
}

/// Lines over sizes that grow tenfold.
pub(crate) struct Lines {
    pub(crate) title: String,
    pub(crate) scale: Scale,
    /// The name of each series and its points, with the size first.
    pub(crate) series: Vec<(String, Vec<(f64, f64)>)>,
}

impl Lines {
    const LEFT: f64 = 60.0;
    const TOP: f64 = 90.0;
    const PLOT: f64 = 260.0;

    /// Returns the text of the file.
    pub(crate) fn draw(&self) -> String {
        let points = || self.series.iter().flat_map(|(_, points)| points.iter());
        let decades = points().map(|(size, _)| decade(*size)).fold(1.0, f64::max).ceil();
        let largest = points().map(|(_, value)| *value).fold(2.0, f64::max);
        let (most, steps) = match self.scale {
            Scale::Linear => (largest.ceil(), 4),
            Scale::Tenfold => (decade(largest).ceil(), decade(largest).ceil() as i32),
        };
        let x = |size: f64| Self::LEFT + decade(size) / decades * (WIDTH - Self::LEFT - 30.0);
        let height = |part: f64| Self::TOP + Self::PLOT * (1.0 - part / most);
        let y = |value: f64| match self.scale {
            Scale::Linear => height(value),
            Scale::Tenfold => height(decade(value)),
        };
        let names: Vec<String> = self.series.iter().map(|(name, _)| name.clone()).collect();
        let mut body = legend(&names, 46.0);
        for power in 0..=decades as i32 {
            let size = 10_f64.powi(power);
            body.push_str(&text(x(size), Self::TOP + Self::PLOT + 18.0, "middle", &format!("{size}")));
        }
        for step in 0..=steps {
            let part = most * f64::from(step) / f64::from(steps);
            let label = match self.scale {
                Scale::Linear => format!("{part:.1}"),
                Scale::Tenfold => format!("{}", 10_f64.powi(step)),
            };
            body.push_str(&text(Self::LEFT - 8.0, height(part) + 4.0, "end", &label));
            let (left, right, at) = (Self::LEFT, WIDTH - 30.0, height(part));
            let _ = writeln!(body, r##"<path d="M{left} {at:.1}H{right}" stroke="#ddd"/>"##);
        }
        for (number, (_, points)) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let corners: Vec<String> =
                points.iter().map(|(size, value)| format!("{:.1},{:.1}", x(*size), y(*value))).collect();
            let _ = writeln!(
                body,
                r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
                corners.join(" ")
            );
            for (size, value) in points {
                let _ = writeln!(
                    body,
                    r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{colour}"/>"#,
                    x(*size),
                    y(*value)
                );
            }
        }
        page(&self.title, Self::TOP + Self::PLOT + 34.0, &body)
    }
}

/// Returns the logarithm of a size. Zero has no logarithm, and is drawn at 1.
fn decade(size: f64) -> f64 {
    size.max(1.0).log10()
}

/// Returns the names of the series, three in a row.
fn legend(names: &[String], top: f64) -> String {
    let mut body = String::new();
    if names.len() < 2 {
        return body;
    }
    for (number, name) in names.iter().enumerate() {
        let (x, y) = (20.0 + 245.0 * (number % 3) as f64, top + 18.0 * (number / 3) as f64);
        let colour = COLOURS[number % COLOURS.len()];
        let _ =
            writeln!(body, r#"<rect x="{x}" y="{:.1}" width="10" height="10" fill="{colour}"/>"#, y - 9.0);
        body.push_str(&text(x + 15.0, y, "start", name));
    }
    body
}

fn text(x: f64, y: f64, anchor: &str, words: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n", escape(words))
}

fn page(title: &str, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"#fff\"/>\n<text x=\"20\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{}</text>\n{body}</svg>\n",
        escape(title)
    )
}

fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
