//! The tables of connections, sources, names, events, overrides and listeners.

use std::time::SystemTime;

use serde_json::Value;

use super::request::ViewPage;
use super::state::TopState;
use super::style::Tone;
use super::table::{RowGroup, RowOrder, RowSubject, TopCell, TopColumn, TopRow, TopTable};
use super::values::{count, items, moment, seconds, shown, since, time_of_status, word};
use crate::cli::connections::bytes;

/// Returns a table without groups.
fn flat<'s>(
    columns: &'static [TopColumn],
    order: RowOrder,
    rows: impl Iterator<Item = TopRow<'s>>,
    note: String,
) -> TopTable<'s> {
    TopTable { columns, groups: vec![RowGroup { head: None, rows: rows.collect() }], order, note }
}

/// Returns the note about a page that was refused, such as by an older server.
fn refusal(state: &TopState, page: ViewPage) -> Option<String> {
    let (code, text) = state.pages.refusal(page)?;
    Some(match code {
        404 if page != ViewPage::Connections => {
            format!("this server has no {}: it is older than this program", page.path())
        }
        _ => format!("{} ({code}): {}", page.path(), text.trim()),
    })
}

const CONNECTIONS: [TopColumn; 11] = [
    TopColumn::number("ID", 0),
    TopColumn::text("CLIENT", 0),
    TopColumn::text("STAGE", 4),
    TopColumn::text("POOL/BACKEND", 1),
    TopColumn::number("AGE", 2),
    TopColumn::number("IDLE", 3),
    TopColumn::number("PER SECOND", 5),
    TopColumn::number("FROM CLIENT", 7),
    TopColumn::number("FROM BACKEND", 6),
    TopColumn::text("LISTENER", 8),
    TopColumn::text("SERVER NAME", 1),
];

/// Returns the open connections. The server has filtered and sorted them.
pub(super) fn connections(state: &TopState) -> TopTable<'_> {
    let page = state.pages.value(ViewPage::Connections);
    let rows = items(&page["connections"]).iter().map(connection);
    let (matched, open) = (count(&page["matched"]), count(&page["open"]));
    let mut note = match refusal(state, ViewPage::Connections) {
        Some(refusal) => refusal,
        None if page.is_null() => String::new(),
        None if page["cut"] == true => {
            format!(
                "the first {} of {matched} connections; a filter such as pool=app shows others",
                rows.len()
            )
        }
        None => format!("{matched} of {open} open connections"),
    };
    if let silent @ 1.. = count(&page["silent_workers"]) {
        note += &format!("; {}", silent_workers(silent));
    }
    flat(&CONNECTIONS, RowOrder::OfServer, rows, note)
}

fn connection(row: &Value) -> TopRow<'_> {
    let id = count(&row["id"]);
    let (pool, backend) = (shown(&row["pool"]), shown(&row["backend"]));
    let place = if backend.is_empty() { pool } else { format!("{pool}/{backend}") };
    let number = |key: &str, text: String| TopCell::number(row[key].as_f64(), text);
    let cells = vec![
        TopCell::number(Some(id as f64), id.to_string()),
        TopCell::text(shown(&row["client"])),
        TopCell::text(shown(&row["stage"])),
        TopCell::text(place),
        number("age_seconds", seconds(&row["age_seconds"])),
        number("idle_seconds", seconds(&row["idle_seconds"])),
        number("bytes_per_second", bytes(&row["bytes_per_second"])),
        number("from_client_bytes", bytes(&row["from_client_bytes"])),
        number("from_backend_bytes", bytes(&row["from_backend_bytes"])),
        TopCell::text(shown(&row["listener"])),
        TopCell::text(shown(&row["sni"])),
    ];
    TopRow { key: id.to_string(), cells, tone: Tone::Plain, subject: RowSubject::Connection(id), value: row }
}

const SOURCES: [TopColumn; 5] = [
    TopColumn::text("SOURCE", 0),
    TopColumn::text("LISTENER", 3),
    TopColumn::number("CONNECTIONS", 0),
    TopColumn::number("AT MOST TOO MANY", 1),
    TopColumn::number("READING", 2),
];

/// Returns the sources with the most open connections, and those with the most connections since the start of the count.
pub(super) fn sources(state: &TopState) -> TopTable<'_> {
    let (page, top) = (state.pages.value(ViewPage::Sources), state.pages.value(ViewPage::Top));
    let mut groups = Vec::new();
    if page.is_object() {
        let head = format!("open now, of {} sources", count(&page["open"]));
        let cells = vec![
            TopCell::text(head),
            TopCell::text(""),
            TopCell::count(&page["connections"]),
            TopCell::text(""),
            TopCell::text(""),
        ];
        let rows = items(&page["heaviest"]).iter().map(open_source).collect();
        groups.push(RowGroup { head: Some(head_row("open", cells, page)), rows });
    }
    if top["sources"].is_object() {
        groups.push(counted_group("counted", "all that were counted", &top["sources"], 5, counted_source));
    }
    let note = [refusal(state, ViewPage::Sources), refusal(state, ViewPage::Top), facts_of_top(state)];
    let note = note.into_iter().flatten().collect::<Vec<_>>().join("; ");
    TopTable { columns: &SOURCES, groups, order: RowOrder::InGroups, note }
}

fn counted_source(row: &Value) -> TopRow<'_> {
    let name = word(&row["name"]);
    let count = TopCell::count(&row["connections"]);
    let cells = vec![TopCell::text(name), TopCell::text(""), count, error(row), TopCell::text("")];
    let subject = RowSubject::Source(name.to_owned());
    TopRow { key: format!("counted {name}"), cells, tone: Tone::Plain, subject, value: row }
}

fn open_source(row: &Value) -> TopRow<'_> {
    let (source, listener) = (word(&row["source"]), word(&row["listener"]));
    let cells = vec![
        TopCell::text(source),
        TopCell::text(listener),
        TopCell::count(&row["open"]),
        TopCell::text(""),
        TopCell::count(&row["hellos"]),
    ];
    let subject = RowSubject::Source(source.to_owned());
    TopRow { key: format!("open {source} {listener}"), cells, tone: Tone::Plain, subject, value: row }
}

fn head_row<'s>(key: &str, cells: Vec<TopCell>, value: &'s Value) -> TopRow<'s> {
    TopRow { key: key.to_owned(), cells, tone: Tone::Strong, subject: RowSubject::Other, value }
}

/// Returns the group of a table of counts.
fn counted_group<'s>(
    key: &str,
    title: &str,
    counts: &'s Value,
    columns: usize,
    row: impl Fn(&'s Value) -> TopRow<'s>,
) -> RowGroup<'s> {
    let mut cells = vec![TopCell::text(""); columns];
    cells[0] = TopCell::text(title);
    cells[if columns > 3 { 2 } else { 1 }] = TopCell::count(&counts["connections"]);
    RowGroup {
        head: Some(head_row(key, cells, counts)),
        rows: items(&counts["top"]).iter().map(row).collect(),
    }
}

/// Makes a cell of the most by which a count may be too high.
fn error(row: &Value) -> TopCell {
    let error = &row["error"];
    TopCell::number(error.as_f64(), if count(error) == 0 { String::new() } else { shown(error) })
}

/// Returns the beginning of the counts, and a line about the workers that are missing in them.
fn facts_of_top(state: &TopState) -> Option<String> {
    let top = state.pages.value(ViewPage::Top);
    let silent = Some(count(&top["workers_silent"])).filter(|silent| *silent > 0).map(silent_workers);
    let since = top
        .is_object()
        .then(|| format!("counted since {}", since(&top["since"], time_of_status(state.status()))));
    let facts: Vec<_> = since.into_iter().chain(silent).collect();
    (!facts.is_empty()).then(|| facts.join("; "))
}

fn silent_workers(silent: u64) -> String {
    let workers = if silent == 1 { "worker" } else { "workers" };
    format!("{silent} {workers} did not answer in time")
}

const NAMES: [TopColumn; 3] = [
    TopColumn::text("SERVER NAME", 0),
    TopColumn::number("CONNECTIONS", 0),
    TopColumn::number("AT MOST TOO MANY", 1),
];

/// Returns the names with the most connections: those with a route, and the others.
pub(super) fn names(state: &TopState) -> TopTable<'_> {
    let top = state.pages.value(ViewPage::Top);
    let mut groups = Vec::new();
    for (key, title) in [("names", "known names"), ("unknown_names", "unknown names")] {
        if top[key].is_object() {
            groups.push(counted_group(key, title, &top[key], 3, |row| counted_name(key, row)));
        }
    }
    let note = refusal(state, ViewPage::Top).or_else(|| facts_of_top(state)).unwrap_or_default();
    TopTable { columns: &NAMES, groups, order: RowOrder::InGroups, note }
}

fn counted_name<'s>(group: &str, row: &'s Value) -> TopRow<'s> {
    let name = word(&row["name"]);
    let cells = vec![TopCell::text(name), TopCell::count(&row["connections"]), error(row)];
    let subject = RowSubject::ServerName(name.to_owned());
    TopRow { key: format!("{group} {name}"), cells, tone: Tone::Plain, subject, value: row }
}

const EVENTS: [TopColumn; 4] = [
    TopColumn::text("TIME", 0),
    TopColumn::text("SEVERITY", 2),
    TopColumn::text("KIND", 3),
    TopColumn::text("WHAT HAPPENED", 0),
];

/// Returns the last events, the newest first.
pub(super) fn events(state: &TopState) -> TopTable<'_> {
    let now = time_of_status(state.status());
    let rows = items(&state.status()["events"]).iter().map(move |event| {
        let text = first_line(&event["text"]);
        let cells = vec![
            TopCell::number(order_of(moment(&event["time"])), since(&event["time"], now)),
            TopCell::text(shown(&event["severity"])),
            TopCell::text(shown(&event["kind"])),
            TopCell::text(text),
        ];
        let tone = tone_of_event(event);
        // Two events of one moment have different texts, or are equal.
        let key = format!("{} {text}", word(&event["time"]));
        TopRow { key, cells, tone, subject: RowSubject::Other, value: event }
    });
    flat(&EVENTS, RowOrder::All, rows, String::new())
}

/// Returns the tone of the severity of an event.
pub(super) fn tone_of_event(event: &Value) -> Tone {
    match word(&event["severity"]) {
        "error" => Tone::Bad,
        "warning" => Tone::Warning,
        _ => Tone::Plain,
    }
}

fn order_of(time: Option<SystemTime>) -> Option<f64> {
    Some(time?.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64())
}

/// Returns the first line of a text, as the server wrote it.
pub(super) fn first_line(value: &Value) -> &str {
    word(value).lines().next().unwrap_or_default()
}

const OVERRIDES: [TopColumn; 7] = [
    TopColumn::text("KIND", 0),
    TopColumn::text("POOL/BACKEND", 0),
    TopColumn::text("VALUE", 0),
    TopColumn::number("ENDS IN", 1),
    TopColumn::number("OPEN", 3),
    TopColumn::text("SINCE", 2),
    TopColumn::text("BY", 4),
];

/// Returns the overrides of operators.
pub(super) fn overrides(state: &TopState) -> TopTable<'_> {
    let now = time_of_status(state.status());
    let rows = items(&state.status()["overrides"]).iter().map(move |set| {
        let names = ["pool", "backend", "listener", "route"].map(|key| word(&set[key]));
        let place = names.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>().join("/");
        let cells = vec![
            TopCell::text(shown(&set["kind"])),
            TopCell::text(&place),
            TopCell::text(shown(&set["value"])),
            TopCell::number(set["ends_in_seconds"].as_f64(), seconds(&set["ends_in_seconds"])),
            TopCell::count(&set["open"]),
            TopCell::text(since(&set["since"], now)),
            TopCell::text(shown(&set["by"])),
        ];
        let key = format!("{} {place}", word(&set["kind"]));
        TopRow { key, cells, tone: Tone::Warning, subject: RowSubject::Override, value: set }
    });
    flat(&OVERRIDES, RowOrder::All, rows, String::new())
}

const LISTENERS: [TopColumn; 5] = [
    TopColumn::text("LISTENER", 0),
    TopColumn::text("PROTOCOL", 2),
    TopColumn::number("OPEN", 0),
    TopColumn::number("ROUTES", 3),
    TopColumn::text("ADDRESSES", 1),
];

/// Returns the listeners.
pub(super) fn listeners(state: &TopState) -> TopTable<'_> {
    let rows = items(&state.status()["listeners"]).iter().map(|listener| {
        let name = word(&listener["name"]);
        let addresses: Vec<_> = items(&listener["addresses"]).iter().map(shown).collect();
        let cells = vec![
            TopCell::text(name),
            TopCell::text(shown(&listener["protocol"])),
            TopCell::count(&listener["connections"]["open"]),
            TopCell::count(&listener["routes"]),
            TopCell::text(addresses.join(" ")),
        ];
        let subject = RowSubject::Listener(name.to_owned());
        TopRow { key: name.to_owned(), cells, tone: Tone::Plain, subject, value: listener }
    });
    flat(&LISTENERS, RowOrder::All, rows, String::new())
}
