//! Tests of the view without a terminal and without a server: frames, keys, hostile text.

mod frames;
mod hostile;
mod pages;
mod presses;

use std::time::{Duration, SystemTime};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{Value, json};

use super::draw;
use super::event::{TopEvent, TopKey, update};
use super::once::text;
use super::request::{ViewAnswer, ViewPage, ViewReply, ViewRequest};
use super::state::TopState;
use super::style::TopStyle;
use super::values::moment;

/// The time of all events, unless a test moves it.
fn now() -> SystemTime {
    moment(&json!("2026-11-29T14:40:21Z")).unwrap()
}

/// A view before its first answer.
fn view() -> TopState {
    let style = TopStyle { has_color: true, has_blocks: true };
    TopState::new("unix:/run/a.sock".to_owned(), Duration::from_secs(2), style, now())
}

/// Answers a request and all that follow from it.
fn serve(state: &mut TopState, first: Option<ViewRequest>, page: impl Fn(ViewPage) -> ViewReply) {
    let mut request = first;
    while let Some(sent) = request {
        let reply = match &sent {
            ViewRequest::Page(kind, _) => page(*kind),
            ViewRequest::Change(_) => ViewReply::Json(json!({ "result": "set", "open": 12 })),
        };
        request = update(state, TopEvent::Answer(ViewAnswer { request: sent, reply }), now());
    }
}

/// A view after a round of answers.
fn answered(page: impl Fn(ViewPage) -> ViewReply) -> TopState {
    let mut state = view();
    round(&mut state, page);
    state
}

fn round(state: &mut TopState, page: impl Fn(ViewPage) -> ViewReply) {
    let request = update(state, TopEvent::Due, now());
    assert!(request.is_some(), "a round is due");
    serve(state, request, page);
}

/// Presses keys one after the other, and answers the requests that follow. `Enter`, `Esc` and the like are in angle brackets.
fn press(state: &mut TopState, keys: &str) {
    for key in keys_of(keys) {
        let request = update(state, TopEvent::Key(key), now());
        serve(state, request, pages::page);
    }
}

fn keys_of(text: &str) -> Vec<TopKey> {
    let mut keys = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let named = rest.strip_prefix('<').and_then(|inside| inside.split_once('>'));
        let Some((name, behind)) = named else {
            keys.push(TopKey::Char(c));
            rest = &rest[c.len_utf8()..];
            continue;
        };
        keys.push(match name {
            "Enter" => TopKey::Enter,
            "Esc" => TopKey::Esc,
            "Backspace" => TopKey::Backspace,
            "Up" => TopKey::Up,
            "Down" => TopKey::Down,
            "Left" => TopKey::Left,
            "Right" => TopKey::Right,
            "PageUp" => TopKey::PageUp,
            "PageDown" => TopKey::PageDown,
            "Home" => TopKey::Home,
            "End" => TopKey::End,
            "Tab" => TopKey::Tab,
            "BackTab" => TopKey::BackTab,
            "Ctrl-C" => TopKey::Interrupt,
            other => panic!("no key {other}"),
        });
        rest = behind;
    }
    keys
}

/// Draws a frame of some size.
fn screen(state: &mut TopState, columns: u16, lines: u16) -> TestBackend {
    update(state, TopEvent::Resized(columns, lines), now());
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    terminal.draw(|frame| draw::draw(state, frame.buffer_mut())).unwrap();
    terminal.backend().clone()
}

/// Returns the text of a frame.
fn shown(state: &mut TopState, columns: u16, lines: u16) -> String {
    text(screen(state, columns, lines).buffer())
}

fn json_page(value: Value) -> ViewReply {
    ViewReply::Json(value)
}
