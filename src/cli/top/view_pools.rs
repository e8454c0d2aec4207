//! The table of pools with their backends, the worst first.

use serde_json::Value;

use super::state::TopState;
use super::style::Tone;
use super::table::{RowGroup, RowOrder, RowSubject, TopCell, TopColumn, TopRow, TopTable};
use super::values::{count, items, seconds, shown, word};
use crate::cli::connections::precise;
use crate::cli::status::{is_silent, rank, why};

const COLUMNS: [TopColumn; 10] = [
    TopColumn::text("POOL, BACKEND", 0),
    TopColumn::text("STATE", 0),
    TopColumn::number("SINCE", 3),
    TopColumn::number("OPEN", 0),
    TopColumn::number("NEW/S", 4),
    TopColumn::number("NO BYTE", 6),
    TopColumn::number("LIMIT", 8),
    TopColumn::number("WEIGHT", 7),
    TopColumn::number("CONNECT", 5),
    TopColumn::text("WHY", 1),
];

/// Returns the table.
pub(super) fn table(state: &TopState) -> TopTable<'_> {
    let status = state.status();
    let mut pools: Vec<_> =
        items(&status["pools"]).iter().map(|pool| (severity(pool, status), pool)).collect();
    // The sort is stable: pools of one severity keep the order of the page.
    pools.sort_by_key(|(severity, _)| *severity);
    let groups = pools.into_iter().map(|(severity, pool)| group(state, pool, severity));
    TopTable { columns: &COLUMNS, groups: groups.collect(), order: RowOrder::All, note: String::new() }
}

/// Returns the severity of the state of a pool; 0 is the worst.
fn severity(pool: &Value, status: &Value) -> u8 {
    let backends = items(&pool["backends"]);
    if pool["available"] == 0 && pool["forward"].is_null() {
        0
    } else if pool["panic"] == true {
        1
    } else if pause(status, word(&pool["name"])).is_some() {
        2
    } else {
        3 + backends.iter().map(rank).min().unwrap_or(u8::MAX / 2)
    }
}

/// Returns the override that pauses a pool, if there is one.
pub(super) fn pause<'s>(status: &'s Value, pool: &str) -> Option<&'s Value> {
    items(&status["overrides"]).iter().find(|set| set["kind"] == "pause" && set["pool"] == pool)
}

/// Returns the open connections of the backends of a pool.
pub(super) fn open(pool: &Value) -> u64 {
    let backends = items(&pool["backends"]).iter();
    backends.fold(0, |sum, backend| sum.saturating_add(count(&backend["connections"]["active"])))
}

fn group<'s>(state: &'s TopState, pool: &'s Value, severity: u8) -> RowGroup<'s> {
    let name = word(&pool["name"]);
    let mut backends: Vec<_> = items(&pool["backends"]).iter().collect();
    backends.sort_by_key(|backend| rank(backend));
    let rows: Vec<_> = backends.into_iter().map(|backend| backend_row(state, name, backend)).collect();
    let new = rows.iter().filter_map(|row| row.cells[4].number).filter(|new| *new >= 0.0);
    let new = if rows.iter().any(|row| row.cells[4].number >= Some(0.0)) { Some(new.sum()) } else { None };
    RowGroup { head: Some(pool_row(state, pool, severity, new)), rows }
}

fn pool_row<'s>(state: &'s TopState, pool: &'s Value, severity: u8, new: Option<f64>) -> TopRow<'s> {
    let name = word(&pool["name"]);
    let backends = items(&pool["backends"]);
    let up = backends.iter().filter(|backend| backend["state"] == "up").count();
    let is_forward = !pool["forward"].is_null();
    let open = open(pool);
    let no_byte =
        backends.iter().fold(0, |sum: u64, one| sum.saturating_add(count(&one["connections"]["waiting"])));
    let cells = vec![
        TopCell::text(name),
        TopCell::text(if is_forward {
            "forwards".to_owned()
        } else {
            format!("{up} of {} up", backends.len())
        }),
        TopCell::number(None, ""),
        TopCell::number(Some(open as f64), open.to_string()),
        rate_cell(new),
        TopCell::number(Some(no_byte as f64), some(no_byte)),
        TopCell::number(None, ""),
        TopCell::number(None, ""),
        TopCell::number(None, ""),
        TopCell::text(reason(state.status(), pool, severity)),
    ];
    let tone = match severity {
        0 | 1 => Tone::Bad,
        2..=5 => Tone::Warning,
        _ => Tone::Strong,
    };
    TopRow {
        key: format!("pool {name}"),
        cells,
        tone,
        subject: RowSubject::Pool(name.to_owned()),
        value: pool,
    }
}

/// Returns the facts about a pool that matter most, in words.
fn reason(status: &Value, pool: &Value, severity: u8) -> String {
    let mut facts = Vec::new();
    if severity == 0 {
        facts.push("no backend is available".to_owned());
    }
    if pool["panic"] == true {
        facts.push("panic mode: health is disregarded".to_owned());
    }
    if let Some(pause) = pause(status, word(&pool["name"])) {
        let left = seconds(&pause["ends_in_seconds"]);
        facts.push(format!("paused for {left}: new connections wait"));
    }
    if let waiting @ 1.. = count(&pool["queue"]["waiting"]) {
        facts.push(format!("{waiting} wait in the queue"));
    }
    facts.push(shown(&pool["balance"]));
    facts.join("; ")
}

fn backend_row<'s>(state: &TopState, pool: &str, backend: &'s Value) -> TopRow<'s> {
    let name = word(&backend["name"]);
    let connections = &backend["connections"];
    let is_up = backend["state"] == "up";
    let limit = connections["limit"].as_u64();
    let is_full = limit.is_some_and(|limit| count(&connections["active"]) >= limit);
    let full = is_full.then(|| "it is at its limit".to_owned());
    let silent = is_silent(backend)
        .then(|| format!("no first byte on {} connections", count(&connections["waiting"])));
    let reason = Some(why(backend)).filter(|reason| !reason.is_empty());
    let why: Vec<_> = [full, reason, silent].into_iter().flatten().collect();
    let why = why.join("; ");
    let latency = &backend["latency_seconds"];
    let cells = vec![
        TopCell::text(name),
        TopCell::text(shown(&backend["state"])),
        TopCell::number(backend["since_seconds"].as_f64(), seconds(&backend["since_seconds"])),
        TopCell::count(&connections["active"]),
        rate_cell(rate(state, pool, name, count(&connections["total"]))),
        TopCell::number(connections["waiting"].as_f64(), some(count(&connections["waiting"]))),
        TopCell::count(&connections["limit"]),
        TopCell::count(&backend["weight"]),
        TopCell::number(latency.as_f64(), precise(latency)),
        // Lines of an answer would break the row.
        TopCell::text(why.lines().next().unwrap_or_default()),
    ];
    let tone = match rank(backend) {
        0 | 1 => Tone::Bad,
        2..=5 => Tone::Warning,
        _ if !is_up || is_full => Tone::Warning,
        _ => Tone::Plain,
    };
    let subject = RowSubject::Backend { pool: pool.to_owned(), name: name.to_owned() };
    TopRow { key: format!("backend {pool}/{name}"), cells, tone, subject, value: backend }
}

/// Returns the new connections of a backend in a second, since the status before the last one.
fn rate(state: &TopState, pool: &str, backend: &str, total: u64) -> Option<f64> {
    let (earlier, time) = state.earlier.as_ref()?;
    let named = |items: &'_ [Value], name: &str| items.iter().position(|item| item["name"] == name);
    let pools = items(&earlier["pools"]);
    let backends = items(&pools.get(named(pools, pool)?)?["backends"]);
    let before = backends.get(named(backends, backend)?)?["connections"]["total"].as_u64()?;
    let seconds = time.as_secs_f64();
    // A server that started again counts from 0.
    (seconds > 0.0).then(|| total.saturating_sub(before) as f64 / seconds)
}

/// Makes a cell of events in a second.
fn rate_cell(rate: Option<f64>) -> TopCell {
    TopCell::number(rate, rate.map(super::charts::per_second).unwrap_or_default())
}

/// Returns a count as text; an empty text for 0.
fn some(count: u64) -> String {
    if count == 0 { String::new() } else { count.to_string() }
}
