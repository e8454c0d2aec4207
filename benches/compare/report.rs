//! The results as Markdown tables.

use std::fmt::Write as _;

use crate::figures::{self, Figure, Results, Spread, Subject};
use crate::points::{ProxyVariant, Reference, Test};
use Compared::{Never, WithEach, WithFirst};

struct Column {
    title: &'static str,
    figure: Figure,
    decimals: usize,
    compared: Compared,
}

/// The references that a figure is compared with, and the name of the ratio in the table.
#[derive(Clone, Copy)]
enum Compared {
    Never,
    /// Only the first reference: the table has no room for more columns.
    WithFirst(&'static str),
    WithEach(&'static str),
}

const fn column(title: &'static str, figure: Figure, decimals: usize, compared: Compared) -> Column {
    Column { title, figure, decimals, compared }
}

const CONNECTIONS: &[Column] = &[
    column("conn/s", figures::rate, 0, Never),
    column("CPU µs/conn*", figures::cpu_micros, 1, WithEach("CPU")),
    column("p50 µs", figures::p50, 0, WithFirst("p50")),
    column("p99 µs", figures::p99, 0, WithFirst("p99")),
    column("p99.9 µs", figures::p999, 0, WithFirst("p99.9")),
    column("errors", figures::errors, 0, Never),
];

/// The rate and the cost of the streams, and the latencies of the small requests beside them.
const BESIDE: &[Column] = &[
    column("Gbit/s", figures::gigabits, 1, WithFirst("Gbit/s")),
    column("CPU s/GiB*", figures::cpu_per_gib, 3, Never),
    column("p50 µs", figures::p50, 0, WithFirst("p50")),
    column("p99 µs", figures::p99, 0, WithFirst("p99")),
    column("p99.9 µs", figures::p999, 0, WithFirst("p99.9")),
    column("errors", figures::errors, 0, Never),
];

const ROUND_TRIPS: &[Column] = &[
    column("req/s", figures::rate, 0, Never),
    column("CPU µs/req*", figures::cpu_micros, 2, WithEach("CPU")),
    column("p50 µs", figures::p50, 0, WithFirst("p50")),
    column("p99 µs", figures::p99, 0, WithFirst("p99")),
    column("errors", figures::errors, 0, Never),
];

const STREAMS: &[Column] = &[
    column("Gbit/s", figures::gigabits, 1, WithFirst("Gbit/s")),
    column("CPU s/GiB*", figures::cpu_per_gib, 3, WithEach("CPU")),
    column("errors", figures::errors, 0, Never),
];

const IDLE: &[Column] = &[
    column("PSS KiB/conn", figures::pss, 2, WithEach("PSS")),
    column("base PSS MiB", figures::base, 1, Never),
    column("fds/conn", figures::descriptors, 2, Never),
    column("slab KiB/conn†", figures::kernel, 1, Never),
    column("errors", figures::errors, 0, Never),
];

fn columns(test: Test) -> &'static [Column] {
    match test {
        Test::Conn => CONNECTIONS,
        Test::Pp64 | Test::Pp4k => ROUND_TRIPS,
        Test::Down | Test::Up => STREAMS,
        Test::Beside => BESIDE,
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
        Test::Beside => {
            "Ping-pong of 64 bytes on 4 connections beside 40 streams from the backend".to_owned()
        }
        Test::Idle => format!("{} idle connections", subject.connections),
    }
}

/// Returns all tables of a run. Each test has a table of figures and a table of ratios to the references in
/// the run.
pub(crate) fn tables(results: &Results, references: &[Reference]) -> String {
    let mut text = String::new();
    for subject in results.subjects() {
        let _ = writeln!(text, "\n### {}\n", title(subject));
        text.push_str(&values(results, subject));
        if let Some(table) = ratios(results, subject, references) {
            let _ = write!(text, "\nRatios:\n\n{table}");
        }
    }
    text.push_str(
        "\nEach figure is the median of the rounds, with the lowest and the highest in brackets. A ratio is made \
         within each round, and the table has the median of these ratios.\n",
    );
    if let Some(pace) = results.pace() {
        let _ = writeln!(
            text,
            "\\* CPU time of the proxy's processes, at the run's median pace ({pace:.2} µs for a message of the \
             calibration)."
        );
    }
    if results.subjects().iter().any(|subject| subject.test == Test::Idle) {
        text.push_str(
            "† Growth of the kernel's slabs on the whole machine. The proxy's part is this growth minus the \
             growth in the test of `direct`. Sockets of earlier tests vanish meanwhile, so the growth is \
             right only with `--tests idle`.\n",
        );
    }
    text
}

fn values(results: &Results, subject: Subject) -> String {
    let columns = columns(subject.test);
    let mut heads: Vec<String> = vec!["proxy".to_owned()];
    heads.extend(columns.iter().map(|column| column.title.to_owned()));
    let rows = rows(results, |variant| {
        let value = |column: &Column| show(results.spread(subject, variant, column.figure), column.decimals);
        columns.iter().map(value).collect()
    });
    markdown(&heads, &rows)
}

/// Returns `None` if no reference took part.
fn ratios(results: &Results, subject: Subject, references: &[Reference]) -> Option<String> {
    let mut heads: Vec<String> = vec!["proxy".to_owned()];
    let mut compared = Vec::new();
    for (place, against) in references.iter().enumerate() {
        for column in columns(subject.test) {
            let title = match column.compared {
                WithEach(title) => title,
                WithFirst(title) if place == 0 => title,
                WithFirst(_) | Never => continue,
            };
            let ratio = |variant: &_| results.ratio(subject, *variant, *against, column.figure).is_some();
            if results.variants().iter().any(ratio) {
                heads.push(format!("{title} / {}", against.name()));
                compared.push((*against, column.figure));
            }
        }
    }
    let rows = rows(results, |variant| {
        let ratio = |(against, figure): &(Reference, Figure)| {
            show(results.ratio(subject, variant, *against, *figure), 2)
        };
        compared.iter().map(ratio).collect()
    });
    (!rows.is_empty()).then(|| markdown(&heads, &rows))
}

/// Returns a row for each variant that has a value.
fn rows(results: &Results, cells: impl Fn(ProxyVariant) -> Vec<String>) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for variant in results.variants() {
        let cells = cells(variant);
        if cells.iter().any(|cell| cell != "-") {
            rows.push([vec![variant.name(results.show_workers())], cells].concat());
        }
    }
    rows
}

/// A cell of a table.
pub(crate) fn show(spread: Option<Spread>, decimals: usize) -> String {
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
