//! The results as Markdown tables.

use std::fmt::Write as _;

use crate::figures::{self, Figure, Results, Spread, Subject};
use crate::measure::Test;
use crate::peers::Peer;

struct Column {
    title: &'static str,
    figure: Figure,
    decimals: usize,
    /// Whether it is also shown against the reference.
    compared: bool,
}

const fn column(title: &'static str, figure: Figure, decimals: usize, compared: bool) -> Column {
    Column { title, figure, decimals, compared }
}

const CONNECTIONS: &[Column] = &[
    column("conn/s", figures::rate, 0, false),
    column("CPU µs/conn*", figures::cpu_micros, 1, true),
    column("p50 µs", figures::p50, 0, true),
    column("p99 µs", figures::p99, 0, true),
    column("errors", figures::errors, 0, false),
];

const ROUND_TRIPS: &[Column] = &[
    column("req/s", figures::rate, 0, false),
    column("CPU µs/req*", figures::cpu_micros, 2, true),
    column("p50 µs", figures::p50, 0, true),
    column("p99 µs", figures::p99, 0, true),
    column("errors", figures::errors, 0, false),
];

const STREAMS: &[Column] = &[
    column("Gbit/s", figures::gigabits, 1, true),
    column("CPU s/GiB*", figures::cpu_per_gib, 3, true),
    column("errors", figures::errors, 0, false),
];

const IDLE: &[Column] = &[
    column("PSS KiB/conn", figures::pss, 2, true),
    column("base PSS MiB", figures::base, 1, false),
    column("fds/conn", figures::descriptors, 2, false),
    column("errors", figures::errors, 0, false),
];

fn columns(test: Test) -> &'static [Column] {
    match test {
        Test::Conn => CONNECTIONS,
        Test::Pp64 | Test::Pp4k => ROUND_TRIPS,
        Test::Down | Test::Up => STREAMS,
        Test::Idle => IDLE,
    }
}

fn title(subject: Subject) -> String {
    match subject.test {
        Test::Conn => "Short connections: connect, hello, 64 bytes, close; 64 at a time".to_owned(),
        Test::Pp64 => "Ping-pong of 64 bytes on 64 connections".to_owned(),
        Test::Pp4k => "Ping-pong of 4 KiB on 64 connections".to_owned(),
        Test::Down => "8 streams from the backend".to_owned(),
        Test::Up => "8 streams to the backend, with half-close".to_owned(),
        Test::Idle => format!("{} idle connections", subject.connections),
    }
}

/// All tables of a run.
pub(crate) fn tables(results: &Results, reference: Peer) -> String {
    let mut text = String::new();
    for subject in results.subjects() {
        let _ = writeln!(text, "\n### {}\n", title(subject));
        text.push_str(&table(results, subject, reference));
    }
    let _ = writeln!(
        text,
        "\nMedian [lowest-highest] of the rounds. \\* CPU time of the proxy's processes at the run's median \
         pace ({:.2} µs for the calibration's messages). Ratios are made round by round.",
        results.pace()
    );
    text
}

fn table(results: &Results, subject: Subject, reference: Peer) -> String {
    let columns = columns(subject.test);
    let compared = || columns.iter().filter(|column| column.compared);
    let mut heads: Vec<String> = vec!["proxy".to_owned()];
    heads.extend(columns.iter().map(|column| column.title.to_owned()));
    heads.extend(compared().map(|column| format!("{} / {}", column.title, reference.name())));
    let mut rows = Vec::new();
    for peer in results.peers() {
        let mut row = vec![peer.name().to_owned()];
        row.extend(
            columns.iter().map(|column| cell(results.spread(subject, peer, column.figure), column.decimals)),
        );
        row.extend(compared().map(|column| cell(results.ratio(subject, peer, reference, column.figure), 2)));
        if row[1..].iter().any(|cell| cell != "-") {
            rows.push(row);
        }
    }
    markdown(&heads, &rows)
}

fn cell(spread: Option<Spread>, decimals: usize) -> String {
    spread.map_or_else(|| "-".to_owned(), |spread| spread.show(decimals))
}

/// A Markdown table.
pub(crate) fn markdown(heads: &[String], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}
