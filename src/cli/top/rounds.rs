//! The requests of the view: a round is due after each interval, a change comes before the pages, and one request at a time
//! is under way.

use serde_json::Value;

use super::details;
use super::filter;
use super::request::{TopAnswer, TopChange, TopPage, TopReply, TopRequest};
use super::state::{Reach, TextKind, TextPage, TopState, TopView};
use super::values::{count, shown};
use crate::cli::connections;

/// The rows that the view asks for.
const CONNECTIONS: usize = 500;
const TOP: usize = 100;

/// Begins a round. Nothing changes while a round is under way.
pub(super) fn begin(state: &mut TopState) {
    if state.rounds.is_waiting || !state.rounds.pages.is_empty() {
        return;
    }
    state.rounds.pages.extend([TopPage::Status, TopPage::History]);
    state.rounds.pages.extend(state.view.pages());
    if matches!(&state.page, Some(TextPage { kind: TextKind::Connection { .. }, .. })) {
        state.rounds.pages.push_back(TopPage::Connection);
    }
}

/// Puts the pages of the present table before the others of the round, after a change of the table.
pub(super) fn ask_for_table(state: &mut TopState) {
    state.view.pages().iter().for_each(|page| ask_first(state, *page));
}

/// Puts a page before the others of the round.
pub(super) fn ask_first(state: &mut TopState, page: TopPage) {
    state.rounds.pages.retain(|other| *other != page);
    state.rounds.pages.push_front(page);
}

/// Returns the next request, unless one is under way.
pub(super) fn next(state: &mut TopState) -> Option<TopRequest> {
    if state.rounds.is_waiting || state.has_ended {
        return None;
    }
    let request = match state.rounds.change.take() {
        Some(change) => Some(TopRequest::Change(change)),
        None => next_page(state),
    };
    state.rounds.is_waiting = request.is_some();
    request
}

/// Takes the next page of the round that is still needed.
fn next_page(state: &mut TopState) -> Option<TopRequest> {
    while let Some(page) = state.rounds.pages.pop_front() {
        if let Some(path) = path(state, page) {
            return Some(TopRequest::Page(page, path));
        }
    }
    None
}

/// Returns the path and the query of a page; `None` if it is no longer needed.
fn path(state: &TopState, page: TopPage) -> Option<String> {
    let path = page.path();
    Some(match page {
        TopPage::Status | TopPage::History => path.to_owned(),
        TopPage::Sources | TopPage::Top => format!("{path}?top={TOP}"),
        TopPage::Connections => {
            let table = &state.tables[TopView::Connections as usize];
            let (order, filters) = (filter::server_order(table.sort), filter::server_filters(&table.filter));
            format!("{path}?limit={CONNECTIONS}&sort={order}{filters}")
        }
        TopPage::Connection => match &state.page.as_ref()?.kind {
            TextKind::Connection { id, .. } => format!("{path}/{id}"),
            _ => return None,
        },
    })
}

/// Takes an answer into the state.
pub(super) fn take(state: &mut TopState, answer: TopAnswer) {
    state.rounds.is_waiting = false;
    note_reach(state, &answer.reply);
    match answer.request {
        TopRequest::Page(page, _) => take_page(state, page, answer.reply),
        TopRequest::Change(change) => take_change(state, &change, answer.reply),
    }
}

fn note_reach(state: &mut TopState, reply: &TopReply) {
    let TopReply::Unanswered(reason) = reply else {
        state.reach = Reach::Answered(state.now);
        return;
    };
    // The other pages of the round would wait as long.
    state.rounds.pages.clear();
    let (since, answered) = match &state.reach {
        Reach::Asking => (state.now, None),
        Reach::Answered(time) => (state.now, Some(*time)),
        Reach::Lost { since, answered, .. } => (*since, *answered),
    };
    state.reach = Reach::Lost { since, reason: reason.clone(), answered };
}

fn take_page(state: &mut TopState, page: TopPage, reply: TopReply) {
    match (page, reply) {
        (_, TopReply::Unanswered(_)) => {}
        (TopPage::Connection, reply) => take_connection(state, reply),
        (page, TopReply::Refused(code, text)) => state.pages.refuse(page, code, text),
        (TopPage::Status, TopReply::Json(value)) => take_status(state, value),
        (page, TopReply::Json(value)) => state.pages.set(page, value),
    }
    details::refresh(state);
}

fn take_status(state: &mut TopState, value: Value) {
    // Another program may listen at the address.
    if value.get("life").is_none() {
        state.pages.refuse(TopPage::Status, 200, "the answer is no status of pointsman".to_owned());
        return;
    }
    if let Some(time) = state.status_time {
        let seconds = state.now.duration_since(time).unwrap_or_default();
        state.earlier = Some((state.status().clone(), seconds));
    }
    state.status_time = Some(state.now);
    state.pages.set(TopPage::Status, value);
}

fn take_connection(state: &mut TopState, reply: TopReply) {
    let Some(TextPage { kind: TextKind::Connection { id, facts }, .. }) = &mut state.page else { return };
    match reply {
        TopReply::Json(value) if count(&value["id"]) == *id => {
            *facts = connections::details_of(&value).unwrap_or_else(|| shown(&value));
        }
        // It was asked for before the operator opened the details of another connection.
        TopReply::Json(_) | TopReply::Unanswered(_) => {}
        TopReply::Refused(_, text) => {
            let text = text.trim().to_owned();
            state.say(text, true);
        }
    }
}

fn take_change(state: &mut TopState, change: &TopChange, reply: TopReply) {
    let words = &change.words;
    match reply {
        TopReply::Json(value) => {
            let result = shown(&value["result"]);
            let open = value["open"].as_u64().map(|open| format!("; {open} connections are open"));
            state.say(format!("{words}: {result}{}", open.unwrap_or_default()), false);
        }
        // The text of a 401 says how to get the right to change.
        TopReply::Refused(code, text) => {
            state.say(format!("{words}: refused ({code}): {}", text.trim()), true);
        }
        TopReply::Unanswered(reason) => {
            state.say(format!("{words}: no answer ({reason}); the change may be in force"), true);
        }
    }
    begin(state);
}
