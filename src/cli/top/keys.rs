//! The keys: each changes the state, or begins an action.

use std::net::IpAddr;

use super::actions::{TopAction, ask, pause_question};
use super::event::TopKey;
use super::request::ViewPage;
use super::state::{TextKind, TextPage, TopPrompt, TopState, TopView};
use super::table::RowSubject;
use super::{details, draw, filter, rounds, table, tables};

/// The longest text that an operator types.
const LONGEST_TEXT: usize = 500;

/// Applies a key.
pub(super) fn press(state: &mut TopState, key: TopKey) {
    state.message = None;
    match (&state.prompt, key) {
        (_, TopKey::Interrupt) => state.has_ended = true,
        (TopPrompt::None, key) => command(state, key),
        (TopPrompt::Question { .. }, key) => reply(state, key),
        (TopPrompt::Filter(_) | TopPrompt::PauseTime { .. }, key) => edit(state, key),
    }
}

/// Applies a text that was pasted. It is never a command: it goes where text is typed, and is dropped elsewhere.
pub(super) fn paste(state: &mut TopState, text: &str) {
    if let Some(typed) = typed(state) {
        for c in text.chars().filter(|c| !c.is_control()) {
            if typed.len() + c.len_utf8() <= LONGEST_TEXT {
                typed.push(c);
            }
        }
    }
}

/// Returns the text that the operator types.
fn typed(state: &mut TopState) -> Option<&mut String> {
    match &mut state.prompt {
        TopPrompt::Filter(text) | TopPrompt::PauseTime { text, .. } => Some(text),
        TopPrompt::None | TopPrompt::Question { .. } => None,
    }
}

fn edit(state: &mut TopState, key: TopKey) {
    match key {
        TopKey::Esc => state.prompt = TopPrompt::None,
        TopKey::Enter => accept(state),
        TopKey::Char(c) => paste(state, c.encode_utf8(&mut [0; 4])),
        TopKey::Backspace => {
            if let Some(text) = typed(state) {
                text.pop();
            }
        }
        _ => {}
    }
}

/// Accepts the text that was typed.
fn accept(state: &mut TopState) {
    match std::mem::replace(&mut state.prompt, TopPrompt::None) {
        TopPrompt::Filter(text) => set_filter(state, text.trim().to_owned()),
        TopPrompt::PauseTime { pool, open, text } => match pause_question(&pool, open, &text) {
            Some(question) => state.prompt = question,
            None => {
                state.prompt = TopPrompt::PauseTime { pool, open, text };
                state.say("this is no time: write one such as 60s or 2m", true);
            }
        },
        TopPrompt::None | TopPrompt::Question { .. } => {}
    }
}

fn set_filter(state: &mut TopState, filter: String) {
    if state.table().filter == filter {
        return;
    }
    state.table_mut().filter = filter;
    // The answer to another query would look like an answer to this one.
    if state.view == TopView::Connections {
        state.pages.forget(ViewPage::Connections);
        rounds::ask_for_table(state);
    }
}

/// Applies the answer to a question. Each key but `y` is a no.
fn reply(state: &mut TopState, key: TopKey) {
    let is_legible = draw::question_fits(state);
    let TopPrompt::Question { change, .. } = std::mem::replace(&mut state.prompt, TopPrompt::None) else {
        return;
    };
    match key {
        TopKey::Char('y' | 'Y') if is_legible => {
            state.say(format!("{}: asked for", change.words), false);
            state.rounds.change = Some(change);
        }
        TopKey::Char('y' | 'Y') => state.say("the screen is too small for the question", true),
        _ => state.say("nothing was changed", false),
    }
}

fn command(state: &mut TopState, key: TopKey) {
    match key {
        TopKey::Char('q') => state.has_ended = true,
        TopKey::Char('?') => toggle(state, TextKind::Help),
        TopKey::Char('v') => toggle(state, TextKind::Verdict),
        TopKey::Char('J') => state.verdict_top = draw::verdict_top(state, 1),
        TopKey::Char('K') => state.verdict_top = draw::verdict_top(state, -1),
        TopKey::Char('d') => ask(state, TopAction::Drain),
        TopKey::Char('m') => ask(state, TopAction::Maintenance),
        TopKey::Char('r') => ask(state, TopAction::Ready),
        TopKey::Char('p') => ask(state, TopAction::Pause),
        TopKey::Char('x') => ask(state, TopAction::End),
        TopKey::Char(digit @ '1'..='7') => {
            show(state, TopView::ALL[digit as usize - '1' as usize]);
        }
        TopKey::Tab | TopKey::Right | TopKey::Char('l') => turn(state, 1),
        TopKey::BackTab | TopKey::Left | TopKey::Char('h') => turn(state, TopView::ALL.len() - 1),
        _ if state.page.is_some() => read(state, key),
        _ => walk(state, key),
    }
}

/// Opens a page of text, or closes it.
fn toggle(state: &mut TopState, kind: TextKind) {
    let is_open = state.page.as_ref().is_some_and(|page| page.kind == kind);
    state.page = if is_open { None } else { Some(TextPage { kind, top: 0 }) };
}

/// Shows the table that is so many places further.
fn turn(state: &mut TopState, steps: usize) {
    show(state, TopView::ALL[(state.view as usize + steps) % TopView::ALL.len()]);
}

fn show(state: &mut TopState, view: TopView) {
    state.page = None;
    state.view = view;
    rounds::ask_for_table(state);
}

/// Moves in a page of text.
fn read(state: &mut TopState, key: TopKey) {
    let height = usize::from(draw::body(state).height).max(2);
    let Some(page) = &mut state.page else { return };
    let top = page.top;
    page.top = match key {
        TopKey::Up | TopKey::Char('k') => top.saturating_sub(1),
        TopKey::Down | TopKey::Char('j') => top.saturating_add(1),
        TopKey::PageUp => top.saturating_sub(height - 1),
        TopKey::PageDown | TopKey::Char(' ') => top.saturating_add(height - 1),
        TopKey::Home | TopKey::Char('g') => 0,
        TopKey::End | TopKey::Char('G') => usize::MAX,
        TopKey::Esc | TopKey::Enter | TopKey::Backspace => {
            state.page = None;
            return;
        }
        _ => top,
    };
    draw::bound_page(state);
}

/// Moves in a table, or changes its order or filter.
fn walk(state: &mut TopState, key: TopKey) {
    let page = usize::from(draw::table_lines(state)).max(2) - 1;
    match key {
        TopKey::Up | TopKey::Char('k') => select(state, |at| at.saturating_sub(1)),
        TopKey::Down | TopKey::Char('j') => select(state, |at| at.saturating_add(1)),
        TopKey::PageUp => select(state, |at| at.saturating_sub(page)),
        TopKey::PageDown | TopKey::Char(' ') => select(state, |at| at.saturating_add(page)),
        TopKey::Home | TopKey::Char('g') => select(state, |_| 0),
        TopKey::End | TopKey::Char('G') => select(state, |_| usize::MAX),
        TopKey::Enter => {
            details::open(state);
            if let Some(TextPage { kind: TextKind::Connection { .. }, .. }) = state.page {
                rounds::ask_first(state, ViewPage::Connection);
            }
        }
        TopKey::Esc | TopKey::Backspace => set_filter(state, String::new()),
        TopKey::Char('/') => state.prompt = TopPrompt::Filter(state.table().filter.clone()),
        TopKey::Char('s') => sort(state),
        TopKey::Char('S') if state.view == TopView::Connections => {
            state.say("the server sorts connections, in one direction only", false);
        }
        TopKey::Char('S') => state.table_mut().is_reversed ^= true,
        TopKey::Char('c') => show_connections(state),
        _ => {}
    }
}

/// Selects a row by the place of the present one.
fn select(state: &mut TopState, place: impl Fn(usize) -> usize) {
    let rows = tables::rows(state);
    let Some(present) = table::selected(&rows, state.table()) else { return };
    let place = place(present).min(rows.len() - 1);
    let key = rows[place].row.key.clone();
    let table = state.table_mut();
    (table.place, table.selected) = (place, Some(key));
}

/// Sorts by the next column. After the last one comes the order of the view.
fn sort(state: &mut TopState) {
    let orders = match state.view {
        TopView::Connections => filter::ORDERS.len(),
        _ => tables::table(state).columns.len(),
    };
    let table = state.table_mut();
    let next = table.sort.map_or(0, |column| column + 1);
    table.sort = Some(next).filter(|column| *column < orders);
    if state.view == TopView::Connections {
        rounds::ask_for_table(state);
    }
}

/// Returns the network of a source; `None` for a private link. The server has the first address alone, and the sources of
/// IPv6 are networks: of 64 bits, unless the configuration has another prefix.
fn network(source: &str) -> Option<String> {
    match source.parse().ok()? {
        IpAddr::V6(ip) if ip.segments()[4..] == [0; 4] => Some(format!("{ip}/64")),
        ip => Some(ip.to_string()),
    }
}

/// Shows the connections of the selected thing.
fn show_connections(state: &mut TopState) {
    let filter = tables::selected_row(state).and_then(|row| match row.subject {
        RowSubject::Pool(pool) => Some(format!("pool={pool}")),
        RowSubject::Backend { pool, name } => Some(format!("backend={pool}/{name}")),
        RowSubject::Source(source) => network(&source).map(|network| format!("source={network}")),
        RowSubject::ServerName(name) => Some(format!("sni={name}")),
        RowSubject::Listener(listener) => Some(format!("listener={listener}")),
        RowSubject::Connection(_) | RowSubject::Override | RowSubject::Other => None,
    });
    // A name with a space would be two words of a filter.
    match filter.filter(|filter| !filter.contains(char::is_whitespace)) {
        Some(filter) => {
            show(state, TopView::Connections);
            set_filter(state, filter);
        }
        None => state.say("select a pool, a backend, a source, a name or a listener", false),
    }
}
