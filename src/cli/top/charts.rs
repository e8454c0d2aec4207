//! The last ten minutes in four charts: open connections, new connections, bytes, ends.

use ratatui::layout::Rect;
use serde_json::{Number, Value};

use super::canvas::Canvas;
use super::clean::columns;
use super::style::{Tone, TopStyle};
use super::values::{items, moment};
use crate::cli::connections::bytes;
use crate::cli::status::duration;

/// The columns between two charts.
const GAP: u16 = 2;

/// Narrower screens have one column between two charts.
const NARROW: u16 = 60;

/// The samples of which the number in a title is the mean.
const RECENT: usize = 5;

/// The most samples that are read.
const MOST_SAMPLES: usize = 3600;

/// The reasons for an end that an operator should know of: the connection did not end by the will of its peers.
const TROUBLE: [&str; 6] = ["backend_reset", "lost", "refused", "unreachable", "unavailable", "timeout"];

/// A chart: its values, the oldest first, and its titles, the longest first.
#[derive(Clone, Debug, PartialEq)]
struct Chart {
    values: Vec<f64>,
    titles: Vec<String>,
    tone: Tone,
}

/// Draws the charts side by side.
pub(super) fn draw(canvas: &mut Canvas<'_>, area: Rect, history: &Value, limit: Option<u64>) {
    if area.is_empty() {
        return;
    }
    let charts = charts(history, limit);
    let style = canvas.style();
    let gap = if area.width < NARROW { 1 } else { GAP };
    let width = (area.width + gap) / 4;
    for (at, chart) in charts.iter().enumerate() {
        let x = width * u16::try_from(at).unwrap_or(0);
        let inside = Rect { x: area.x + x, width: width.saturating_sub(gap), ..area };
        let fits = |title: &&String| columns(title) <= usize::from(inside.width);
        let title = chart.titles.iter().find(fits).or(chart.titles.last());
        canvas.put(inside, 0, 0, title.map_or("", String::as_str), Tone::Strong);
        let values =
            shrink(&chart.values, usize::from(inside.width), last_second(history), interval(history));
        for (row, line) in bars(&values, usize::from(area.height - 1), style).into_iter().enumerate() {
            // The newest value is at the right.
            let column = inside.width.saturating_sub(u16::try_from(values.len()).unwrap_or(0));
            canvas.put(inside, u16::try_from(row).unwrap_or(0) + 1, column, &line, chart.tone);
        }
    }
}

/// Returns true if a value is a history.
pub(super) fn is_history(value: &Value) -> bool {
    value["open"].is_array()
}

fn charts(history: &Value, limit: Option<u64>) -> [Chart; 4] {
    let interval = interval(history);
    // A sum of an interval becomes a number a second.
    let rates = |key: &Value| samples(key).into_iter().map(|value| value / interval).collect::<Vec<_>>();
    let open = samples(&history["open"]);
    let span = duration((open.len() as f64 * interval) as u64);
    let (now, most) = (open.last().copied().unwrap_or(0.0), greatest(&open));
    let of = limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
    let open = Chart {
        titles: vec![
            format!("open {now}{of}, at most {most} in {span}"),
            format!("open {now}, at most {most} in {span}"),
            format!("open {now}, in {span}"),
            format!("open {now}"),
        ],
        values: open,
        tone: Tone::Chart,
    };
    let new = rates(&history["accepted"]);
    let (now, most) = (per_second(recent(&new)), per_second(greatest(&new)));
    let new = Chart {
        titles: vec![format!("new {now}/s, at most {most}/s"), format!("new {now}/s"), format!("new {now}")],
        values: new,
        tone: Tone::Chart,
    };
    let [up, down] = ["from_client_bytes", "from_backend_bytes"].map(|key| rates(&history[key]));
    let both: Vec<_> = up.iter().zip(&down).map(|(up, down)| up + down).collect();
    let [up, down, sum] = [&up, &down, &both].map(|values| size(recent(values)));
    let bytes = Chart {
        titles: vec![format!("{up}/s from clients, {down}/s from backends"), format!("{sum}/s"), sum.clone()],
        values: both,
        tone: Tone::Chart,
    };
    [open, new, bytes, ends(&history["ended"], interval)]
}

/// Returns the chart of all ends. Its title has the reasons of the recent ones.
fn ends(ended: &Value, interval: f64) -> Chart {
    let reasons: Vec<_> = ended.as_object().into_iter().flatten().collect();
    let reasons: Vec<(&str, Vec<f64>)> = reasons
        .into_iter()
        .map(|(reason, values)| {
            (reason.as_str(), samples(values).into_iter().map(|value| value / interval).collect())
        })
        .collect();
    let length = reasons.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
    let sum = |at: usize| reasons.iter().filter_map(|(_, values)| values.get(at)).sum();
    let all: Vec<f64> = (0..length).map(sum).collect();
    let mut parts: Vec<_> = reasons.iter().map(|(reason, values)| (*reason, recent(values))).collect();
    parts.retain(|(_, rate)| *rate > 0.0);
    parts.sort_by(|one, other| other.1.total_cmp(&one.1));
    let text = |(reason, rate): &(&str, f64)| format!("{} {}", reason.replace('_', " "), per_second(*rate));
    let of_reasons = parts.iter().map(text).collect::<Vec<_>>().join(", ");
    let trouble: f64 =
        parts.iter().filter(|(reason, _)| TROUBLE.contains(reason)).map(|(_, rate)| rate).sum();
    let (now, bad) = (per_second(recent(&all)), per_second(trouble));
    let mut titles = vec![format!("ends {now}/s"), format!("ends {now}")];
    if trouble > 0.0 {
        titles.insert(0, format!("ends {now}/s, {bad} bad"));
    }
    if !parts.is_empty() {
        titles.insert(0, format!("ends {now}/s: {of_reasons}"));
    }
    Chart { values: all, titles, tone: if trouble > 0.0 { Tone::Warning } else { Tone::Chart } }
}

/// Returns the numbers of a list.
fn samples(value: &Value) -> Vec<f64> {
    let items = items(value);
    let numbers = items[items.len().saturating_sub(MOST_SAMPLES)..].iter();
    numbers.map(|number| number.as_f64().unwrap_or(0.0).max(0.0)).collect()
}

fn interval(history: &Value) -> f64 {
    history["interval_seconds"]
        .as_f64()
        .filter(|seconds| *seconds > 0.0 && seconds.is_finite())
        .unwrap_or(1.0)
}

/// Returns the second of the last sample.
fn last_second(history: &Value) -> u64 {
    let end = moment(&history["end"]).and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    end.unwrap_or_default().as_secs()
}

fn greatest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// Returns the mean of the last samples.
fn recent(values: &[f64]) -> f64 {
    let last = &values[values.len().saturating_sub(RECENT)..];
    if last.is_empty() { 0.0 } else { last.iter().sum::<f64>() / last.len() as f64 }
}

/// Returns a number of events a second: with a digit behind the point below 10.
pub(super) fn per_second(rate: f64) -> String {
    if rate >= 10.0 || rate.fract() == 0.0 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}

fn size(rate: f64) -> String {
    bytes(&Value::Number(Number::from(rate as u64)))
}

/// Makes at most `width` values of more samples: each is the mean of the samples in an equal time. The times begin at
/// multiples of their length, so that a bar keeps its samples while it moves.
fn shrink(samples: &[f64], width: usize, last_second: u64, interval: f64) -> Vec<f64> {
    if width == 0 {
        return Vec::new();
    }
    let of_each = samples.len().div_ceil(width).max(1);
    let last = (last_second as f64 / interval) as usize;
    let index = |at: usize| (last + at + 1).saturating_sub(samples.len()) / of_each;
    let mut means: Vec<(usize, f64, usize)> = Vec::new();
    for (at, sample) in samples.iter().enumerate() {
        match means.last_mut() {
            Some((bar, sum, count)) if *bar == index(at) => {
                *sum += sample;
                *count += 1;
            }
            _ => means.push((index(at), *sample, 1)),
        }
    }
    let means: Vec<_> = means.into_iter().map(|(_, sum, count)| sum / count as f64).collect();
    means[means.len().saturating_sub(width)..].to_vec()
}

/// Returns the lines of bars, from top to bottom. A value above 0 is always seen, and 0 has a dot.
fn bars(values: &[f64], height: usize, style: TopStyle) -> Vec<String> {
    let shapes = style.bars();
    let (most, all) = (greatest(values), height * 8);
    let level = |value: f64| match value > 0.0 {
        true => ((value / most * all as f64).round() as usize).clamp(1, all),
        false => 0,
    };
    let shape = |value: f64, line: usize| match level(value).saturating_sub((height - 1 - line) * 8).min(8) {
        0 if line + 1 == height => style.zero(),
        eighths => shapes[eighths],
    };
    (0..height).map(|line| values.iter().map(|value| shape(*value, line)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const STYLE: TopStyle = TopStyle { has_color: false, has_blocks: false };

    #[test]
    fn bars_show_small_values_and_zeros() {
        let check =
            |values: &[f64], height, expected: &[&str]| assert_eq!(bars(values, height, STYLE), expected);
        check(&[0.0, 1.0, 4.0, 8.0], 1, &["_.-#"]);
        check(&[0.0, 0.001, 1.0], 2, &["  #", "_.#"]);
        check(&[0.0, 0.0], 1, &["__"]);
        check(&[], 1, &[""]);
        check(&[1.0], 0, &[]);
    }

    #[test]
    fn bars_keep_their_samples_while_they_move() {
        let samples: Vec<f64> = (0..=100).map(f64::from).collect();
        let before = shrink(&samples[..100], 10, 1009, 1.0);
        let after = shrink(&samples[1..], 10, 1010, 1.0);
        assert_eq!(before.len(), 10);
        // The last bar has begun, and the first one has lost its first sample.
        assert_eq!(before[1..], after[after.len() - 10..][..9]);
        assert_eq!(shrink(&samples, 0, 5, 1.0), [0.0; 0]);
        assert_eq!(shrink(&[1.0, 2.0], 10, 5, 1.0), [1.0, 2.0]);
    }

    #[test]
    fn titles_have_the_recent_values() {
        let history = json!({
            "interval_seconds": 1, "end": "2026-11-29T14:40:19Z", "open": [3, 7, 5], "accepted": [10, 20, 30],
            "from_client_bytes": [1024, 1024, 1024], "from_backend_bytes": [0, 0, 3072],
            "ended": { "fin": [0, 3, 0], "lost": [0, 0, 6], "other": [] },
        });
        let titles = charts(&history, Some(100)).map(|chart| chart.titles[0].clone());
        assert_eq!(
            titles,
            [
                "open 5 of 100, at most 7 in 3s",
                "new 20/s, at most 30/s",
                "1.0 KiB/s from clients, 1.0 KiB/s from backends",
                "ends 3/s: lost 2, fin 1",
            ]
        );
        assert_eq!(charts(&Value::Null, None)[3].titles, ["ends 0/s", "ends 0"]);
    }
}
