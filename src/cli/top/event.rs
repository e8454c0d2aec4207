//! The events of the view: keys, the size of the screen, time and answers.

use std::time::SystemTime;

use super::request::{ViewAnswer, ViewRequest};
use super::state::TopState;
use super::{keys, rounds};

/// A key, without the way in which a terminal sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopKey {
    Char(char),
    Enter,
    Esc,
    Backspace,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    Tab,
    BackTab,
    /// Ctrl-C.
    Interrupt,
}

/// An event of the view.
#[derive(Clone, Debug)]
pub(super) enum TopEvent {
    Key(TopKey),
    /// Text that the terminal marks as pasted.
    Paste(String),
    /// The new columns and lines of the screen.
    Resized(u16, u16),
    /// It is time for a round of requests.
    Due,
    Answer(ViewAnswer),
}

/// Changes the state by an event. Returns the request to send, if there is one; at most one is under way.
pub(super) fn update(state: &mut TopState, event: TopEvent, now: SystemTime) -> Option<ViewRequest> {
    state.now = now;
    match event {
        TopEvent::Key(key) => keys::press(state, key),
        TopEvent::Paste(text) => keys::paste(state, &text),
        TopEvent::Resized(columns, lines) => state.size = (columns, lines),
        TopEvent::Due => rounds::begin(state),
        TopEvent::Answer(answer) => rounds::take(state, answer),
    }
    rounds::next(state)
}
