//! The changes that an operator can make in the view. Each is a question first, which names the thing and the effect.

use serde_json::Value;

use super::request::TopChange;
use super::state::{TextKind, TextPage, TopPrompt, TopState};
use super::table::{RowSubject, TopRow};
use super::tables;
use super::values::{count, items, shown, word};
use super::view_pools::{open, pause};
use crate::cli::steer::path;

/// The time of a pause that is offered.
pub(super) const PAUSE: &str = "60s";

/// A change that a key begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopAction {
    Drain,
    Maintenance,
    Ready,
    /// Pauses a pool, or resumes it.
    Pause,
    /// Closes a connection, or ends an override.
    End,
}

/// Asks whether to make a change to the selected thing. A message says why that is not possible.
pub(super) fn ask(state: &mut TopState, action: TopAction) {
    match prompt(state, action) {
        Ok(prompt) => state.prompt = prompt,
        Err(hint) => state.say(hint, false),
    }
}

fn prompt(state: &TopState, action: TopAction) -> Result<TopPrompt, &'static str> {
    if let (TopAction::End, Some(TextPage { kind: TextKind::Connection { id, .. }, .. })) =
        (action, &state.page)
    {
        return Ok(kill(*id, ""));
    }
    let hint = match action {
        TopAction::Drain | TopAction::Maintenance | TopAction::Ready => "select a backend (key 1)",
        TopAction::Pause => "select a pool (key 1)",
        TopAction::End => "select a connection (key 2) or an override (key 6)",
    };
    let row = tables::selected_row(state).ok_or(hint)?;
    match (action, &row.subject) {
        (TopAction::Pause, RowSubject::Pool(pool) | RowSubject::Backend { pool, .. }) => {
            Ok(pause_or_resume(state, pool))
        }
        (TopAction::Drain, RowSubject::Backend { pool, name }) => {
            let is_last = is_last(state, pool, &row);
            let text = format!("drain {pool}/{name}? {}; {}", elsewhere(is_last, pool), stay(row.value));
            Ok(set_state(pool, name, "drain", is_last, text))
        }
        (TopAction::Maintenance, RowSubject::Backend { pool, name }) => {
            let is_last = is_last(state, pool, &row);
            let (elsewhere, stay) = (elsewhere(is_last, pool), stay(row.value));
            let text =
                format!("put {pool}/{name} into maintenance? {elsewhere}, and its checks pause; {stay}");
            Ok(set_state(pool, name, "maintenance", is_last, text))
        }
        (TopAction::Ready, RowSubject::Backend { pool, name }) => {
            let text = format!("put {pool}/{name} in use again? it gets new clients");
            Ok(set_state(pool, name, "ready", false, text))
        }
        (TopAction::End, RowSubject::Connection(id)) => {
            Ok(kill(*id, &format!(" of {}", shown(&row.value["client"]))))
        }
        (TopAction::End, RowSubject::Override) => Ok(end_override(row.value)),
        _ => Err(hint),
    }
}

/// Returns the question for the state of a backend. With `is_forced` it may be the last one of its pool: the question says so.
fn set_state(pool: &str, backend: &str, value: &str, is_forced: bool, text: String) -> TopPrompt {
    let (pool, backend, value) = (pool.to_owned(), backend.to_owned(), value.to_owned());
    let force = is_forced.then(|| "true".to_owned());
    let subject = [("pool", Some(&pool)), ("backend", Some(&backend))];
    let query = subject.into_iter().chain([("value", Some(&value)), ("force", force.as_ref())]);
    let change =
        TopChange { method: "POST", path: path("state", query), words: format!("{value} {pool}/{backend}") };
    TopPrompt::Question { text, change }
}

/// Returns true if no other backend of the pool takes clients.
fn is_last(state: &TopState, pool: &str, row: &TopRow<'_>) -> bool {
    let found = items(&state.status()["pools"]).iter().find(|other| other["name"] == pool);
    let available = found.and_then(|pool| pool["available"].as_u64());
    row.value["state"] == "up" && available.is_some_and(|count| count <= 1)
}

/// Returns the effect on new clients.
fn elsewhere(is_last: bool, pool: &str) -> String {
    match is_last {
        true => format!("IT IS THE LAST AVAILABLE BACKEND of {pool}, so new clients are refused"),
        false => "new clients go elsewhere".to_owned(),
    }
}

fn stay(backend: &Value) -> String {
    connections_stay(count(&backend["connections"]["active"]))
}

fn connections_stay(open: u64) -> String {
    match open {
        0 => "no connection is open".to_owned(),
        1 => "1 connection stays open".to_owned(),
        open => format!("{open} connections stay open"),
    }
}

fn pause_or_resume(state: &TopState, pool: &str) -> TopPrompt {
    let found = items(&state.status()["pools"]).iter().find(|other| other["name"] == pool);
    if pause(state.status(), pool).is_some() {
        let waiting = found.map_or(0, |pool| count(&pool["queue"]["waiting"]));
        let text = format!("resume {pool}? {waiting} connections wait and go on");
        let path = path("pause", [("pool", Some(&pool.to_owned()))]);
        return TopPrompt::Question {
            text,
            change: TopChange { method: "DELETE", path, words: format!("resume {pool}") },
        };
    }
    TopPrompt::PauseTime { pool: pool.to_owned(), open: found.map_or(0, open), text: String::new() }
}

/// Asks whether to pause a pool, once its time is typed. `None` if the text is no time.
pub(super) fn pause_question(pool: &str, open: u64, time: &str) -> Option<TopPrompt> {
    let time = if time.trim().is_empty() { PAUSE } else { time.trim() }.to_owned();
    humantime::parse_duration(&time).ok().filter(|time| !time.is_zero())?;
    let text = format!("pause {pool} for {time}? its new connections wait; {}", connections_stay(open));
    let path = path("pause", [("pool", Some(&pool.to_owned())), ("for", Some(&time))]);
    let change = TopChange { method: "POST", path, words: format!("pause {pool}") };
    Some(TopPrompt::Question { text, change })
}

fn kill(id: u64, of: &str) -> TopPrompt {
    let text = format!("close connection {id}{of}? both sides are reset");
    let change = TopChange {
        method: "DELETE",
        path: format!("/api/v1/connections/{id}"),
        words: format!("close connection {id}"),
    };
    TopPrompt::Question { text, change }
}

fn end_override(set: &Value) -> TopPrompt {
    let kind = word(&set["kind"]).to_owned();
    let parts = ["pool", "backend", "listener", "route"].map(|key| (key, word(&set[key]).to_owned()));
    let given = || parts.iter().filter(|(_, name)| !name.is_empty());
    let names = given().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join("/");
    let of = if names.is_empty() { String::new() } else { format!(" of {names}") };
    let query = given().map(|(key, name)| (*key, Some(name)));
    let text = format!("end the override {kind}{of}? the configuration is in force again");
    let change = TopChange {
        method: "DELETE",
        path: path(&kind, query),
        words: format!("end the override {kind}{of}"),
    };
    TopPrompt::Question { text, change }
}
