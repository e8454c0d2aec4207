//! The results as Markdown tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::cases::Case;
use crate::clients::ClientFigures;
use crate::round::{Report, Span, Turn};

/// A case and its report, under a name for its settings.
pub(crate) struct Row<'a> {
    pub(crate) case: &'a Case,
    pub(crate) setting: &'a str,
    pub(crate) report: Report,
}

/// Returns both tables.
pub(crate) fn tables(rows: &[Row<'_>]) -> String {
    let seen: Vec<Vec<String>> = rows.iter().map(seen).collect();
    let cost: Vec<Vec<String>> = rows.iter().map(cost).collect();
    format!(
        "### What honest clients see\n\n{}\n\
         Times without and with an attack alternate. One turn has both times. Each figure is the median of \
         all turns. Each ratio is computed within a turn, and the table has the median of these ratios. New \
         is one connection: connect, hello, 64 bytes from the backend, 250 times a second. Open is an \
         exchange of 64 bytes there and back on 16 connections that stay, 50 times a second each. p50 and \
         p99 are in milliseconds.\n\n\
         ### What it costs, and what attackers get\n\n{}\n\
         Each cell has the quiet value, an arrow, and the attacked value. CPU is the use of one core by the \
         server's process. The next column is the time for which the threads of this process waited for a \
         core. Memory is the highest resident memory. Descriptors are the most that were open. The memory \
         of TCP is the memory of all sockets of the host, including the sockets of backends and attackers. \
         The server counts the ended connections, and the table has their number for each second.\n",
        markdown(
            &[
                "attack",
                "new p50",
                "attacked",
                "new p99",
                "attacked",
                "ratio of p99",
                "errors",
                "open p99",
                "attacked",
                "ratio of p99",
                "errors",
            ],
            &seen,
        ),
        markdown(
            &[
                "attack",
                "CPU, %",
                "waited for one, %",
                "memory, MiB",
                "TCP of the host, MiB",
                "descriptors",
                "attackers' connections ended as",
                "open at the end"
            ],
            &cost
        ),
    )
}

fn title(row: &Row<'_>) -> String {
    if row.setting.is_empty() {
        format!("`{}`: {}", row.case.name, row.case.what)
    } else {
        format!("`{}`: {}, {}", row.case.name, row.case.what, row.setting)
    }
}

fn seen(row: &Row<'_>) -> Vec<String> {
    let turns = &row.report.turns;
    let mut cells = vec![title(row)];
    for (of, shows_p50) in [(of_new as fn(&Span) -> &ClientFigures, true), (of_open, false)] {
        let mut pair = |value: fn(&ClientFigures) -> f64| {
            for span in [quiet as fn(&Turn) -> &Span, attacked] {
                let served = turns.iter().map(|turn| of(span(turn))).filter(|figures| figures.served > 0);
                cells.push(show(median(served.map(value))));
            }
        };
        if shows_p50 {
            pair(|figures| f64::from(figures.p50) / 1000.0);
        }
        pair(|figures| f64::from(figures.p99) / 1000.0);
        let ratio = |turn: &Turn| f64::from(of(&turn.attacked).p99) / f64::from(of(&turn.quiet).p99.max(1));
        let served = turns.iter().filter(|turn| of(&turn.attacked).served > 0);
        cells.push(show(median(served.map(ratio))));
        let errors: u64 = turns.iter().map(|turn| of(&turn.attacked).errors).sum();
        let all: u64 = turns.iter().map(|turn| of(&turn.attacked).served).sum::<u64>() + errors;
        cells.push(if errors == 0 { "0".to_owned() } else { format!("{errors} of {all}") });
    }
    cells
}

fn cost(row: &Row<'_>) -> Vec<String> {
    let turns = &row.report.turns;
    let pair = |value: fn(&Span) -> f64| {
        let of = |span: fn(&Turn) -> &Span| median(turns.iter().map(|turn| value(span(turn))));
        format!("{:.0} → {:.0}", of(quiet), of(attacked))
    };
    let seconds: f64 = turns.iter().map(|turn| turn.attacked.seconds).sum();
    let mut reasons: BTreeMap<&str, f64> = BTreeMap::new();
    let mut counted: BTreeMap<&str, f64> = BTreeMap::new();
    for turn in turns {
        turn.reasons.iter().for_each(|(word, count)| *reasons.entry(word).or_default() += count);
        turn.counted.iter().for_each(|(word, count)| *counted.entry(word).or_default() += count);
    }
    let mut ended = String::new();
    for (word, count) in &reasons {
        let _ = write!(ended, "{}`{word}` {:.0}", comma(&ended), count / seconds);
    }
    for (word, count) in &counted {
        let _ = write!(ended, "{}{word} {count:.0}", comma(&ended));
    }
    vec![
        title(row),
        pair(|span| 100.0 * span.cpu),
        pair(|span| 100.0 * span.waited),
        pair(|span| span.memory as f64 / 1024.0),
        pair(|span| span.tcp as f64 / 1024.0),
        pair(|span| span.descriptors as f64),
        if ended.is_empty() { "-".to_owned() } else { ended },
        format!("{:.0}", median(turns.iter().map(|turn| turn.counts.open as f64))),
    ]
}

fn comma(before: &str) -> &'static str {
    if before.is_empty() { "" } else { ", " }
}

fn quiet(turn: &Turn) -> &Span {
    &turn.quiet
}

fn attacked(turn: &Turn) -> &Span {
    &turn.attacked
}

fn of_new(span: &Span) -> &ClientFigures {
    &span.by_kind.new
}

fn of_open(span: &Span) -> &ClientFigures {
    &span.by_kind.open
}

/// Returns the value in the middle, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => f64::NAN,
        (count, middle) if count % 2 == 1 => values[middle],
        (_, middle) => f64::midpoint(values[middle - 1], values[middle]),
    }
}

fn show(value: f64) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.2}") }
}

fn markdown(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}
