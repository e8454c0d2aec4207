//! The requests of the view: a round is due after each interval, a change comes before the pages, and one request at a time
//! is under way.

use serde_json::Value;

use super::details;
use super::filter;
use super::request::{TopChange, ViewAnswer, ViewPage, ViewReply, ViewRequest};
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
    state.rounds.pages.extend([ViewPage::Status, ViewPage::History]);
    state.rounds.pages.extend(state.view.pages());
    if matches!(&state.page, Some(TextPage { kind: TextKind::Connection { .. }, .. })) {
        state.rounds.pages.push_back(ViewPage::Connection);
    }
}

/// Puts the pages of the present table before the others of the round, after a change of the table.
pub(super) fn ask_for_table(state: &mut TopState) {
    state.view.pages().iter().for_each(|page| ask_first(state, *page));
}

/// Puts a page before the others of the round.
pub(super) fn ask_first(state: &mut TopState, page: ViewPage) {
    state.rounds.pages.retain(|other| *other != page);
    state.rounds.pages.push_front(page);
}

/// Returns the next request, unless one is under way.
pub(super) fn next(state: &mut TopState) -> Option<ViewRequest> {
    if state.rounds.is_waiting || state.has_ended {
        return None;
    }
    let request = match state.rounds.change.take() {
        Some(change) => Some(ViewRequest::Change(change)),
        None => next_page(state),
    };
    state.rounds.is_waiting = request.is_some();
    request
}

/// Takes the next page of the round that is still needed.
fn next_page(state: &mut TopState) -> Option<ViewRequest> {
    while let Some(page) = state.rounds.pages.pop_front() {
        if let Some(path) = path(state, page) {
            return Some(ViewRequest::Page(page, path));
        }
    }
    None
}

/// Returns the path and the query of a page; `None` if it is no longer needed.
fn path(state: &TopState, page: ViewPage) -> Option<String> {
    let path = page.path();
    Some(match page {
        ViewPage::Status | ViewPage::History => path.to_owned(),
        ViewPage::Sources | ViewPage::Top => format!("{path}?top={TOP}"),
        ViewPage::Connections => {
            let table = &state.tables[TopView::Connections as usize];
            let (order, filters) = (filter::server_order(table.sort), filter::server_filters(&table.filter));
            format!("{path}?limit={CONNECTIONS}&sort={order}{filters}")
        }
        ViewPage::Connection => match &state.page.as_ref()?.kind {
            TextKind::Connection { id, .. } => format!("{path}/{id}"),
            _ => return None,
        },
    })
}

/// Takes an answer into the state.
pub(super) fn take(state: &mut TopState, answer: ViewAnswer) {
    state.rounds.is_waiting = false;
    note_reach(state, &answer.reply);
    match answer.request {
        ViewRequest::Page(page, _) => take_page(state, page, answer.reply),
        ViewRequest::Change(change) => take_change(state, &change, answer.reply),
    }
}

fn note_reach(state: &mut TopState, reply: &ViewReply) {
    let ViewReply::Unanswered(reason) = reply else {
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

fn take_page(state: &mut TopState, page: ViewPage, reply: ViewReply) {
    match (page, reply) {
        (_, ViewReply::Unanswered(_)) => {}
        (ViewPage::Connection, reply) => take_connection(state, reply),
        (page, ViewReply::Refused(code, text)) => state.pages.refuse(page, code, text),
        (ViewPage::Status, ViewReply::Json(value)) => take_status(state, value),
        (page, ViewReply::Json(value)) => state.pages.set(page, value),
    }
    details::refresh(state);
}

fn take_status(state: &mut TopState, value: Value) {
    // Another program may listen at the address.
    if value.get("life").is_none() {
        state.pages.refuse(ViewPage::Status, 200, "the answer is no status of pointsman".to_owned());
        return;
    }
    if let Some(time) = state.status_time {
        let seconds = state.now.duration_since(time).unwrap_or_default();
        state.earlier = Some((state.status().clone(), seconds));
    }
    state.status_time = Some(state.now);
    state.pages.set(ViewPage::Status, value);
}

fn take_connection(state: &mut TopState, reply: ViewReply) {
    let Some(TextPage { kind: TextKind::Connection { id, facts }, .. }) = &mut state.page else { return };
    match reply {
        ViewReply::Json(value) if count(&value["id"]) == *id => {
            *facts = connections::details_of(&value).unwrap_or_else(|| shown(&value));
        }
        // It was asked for before the operator opened the details of another connection.
        ViewReply::Json(_) | ViewReply::Unanswered(_) => {}
        ViewReply::Refused(_, text) => {
            let text = text.trim().to_owned();
            state.say(text, true);
        }
    }
}

fn take_change(state: &mut TopState, change: &TopChange, reply: ViewReply) {
    let words = &change.words;
    match reply {
        ViewReply::Json(value) => {
            let result = shown(&value["result"]);
            let open = value["open"].as_u64().map(|open| format!("; {open} connections are open"));
            state.say(format!("{words}: {result}{}", open.unwrap_or_default()), false);
        }
        // The text of a 401 says how to get the right to change.
        ViewReply::Refused(code, text) => {
            state.say(format!("{words}: refused ({code}): {}", text.trim()), true);
        }
        ViewReply::Unanswered(reason) => {
            state.say(format!("{words}: no answer ({reason}); the change may be in force"), true);
        }
    }
    begin(state);
}
