//! The last events, and the configuration in force, for the status.
//!
//! The log has the same lines and more. These events are for operators without access to the log.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::telemetry::{LogControl, LogLevel};

/// The number of events that are kept. A new event replaces the oldest.
pub const KEPT_EVENTS: usize = 100;

/// The longest text of an event and of a fault, in bytes.
const LONGEST_TEXT: usize = 16 * 1024;

/// The subject of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The start or the end of the process.
    Process,
    /// A reload.
    Reload,
    /// The state of a backend.
    Backend,
    /// Backends that a pool got or lost, the end of their drain, faults of discovery, and the places of the pool's clients.
    Pool,
    /// A limit that refuses connections.
    Saturation,
    /// The entries of a list.
    List,
    /// The routes of a listener.
    Routes,
    /// A hand-over to or from another program.
    Upgrade,
    /// An override of an operator.
    Override,
    /// Connections that an operator closed.
    Connections,
}

impl EventKind {
    /// The word in the status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Reload => "reload",
            Self::Backend => "backend",
            Self::Pool => "pool",
            Self::Saturation => "saturation",
            Self::List => "list",
            Self::Routes => "routes",
            Self::Upgrade => "upgrade",
            Self::Override => "override",
            Self::Connections => "connections",
        }
    }
}

/// The severity of an event; the levels of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Normal operation.
    Info,
    /// An operator should check it.
    Warning,
    /// A part does not work.
    Error,
}

impl Severity {
    /// The word in the status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusEvent {
    /// The time of the event.
    pub at: SystemTime,
    /// The subject.
    pub kind: EventKind,
    /// The severity.
    pub severity: Severity,
    /// The event as one sentence.
    pub text: String,
}

/// The last events. Shared by control and admin.
#[derive(Debug, Default)]
pub struct EventLog {
    /// A lock, because admin adds and reads events too. It is held for one push or one copy.
    events: Mutex<VecDeque<StatusEvent>>,
}

impl EventLog {
    /// Adds an event.
    pub fn note(&self, kind: EventKind, severity: Severity, text: impl Into<String>) {
        let mut text = text.into();
        cut(&mut text);
        let mut events = self.lock();
        if events.len() == KEPT_EVENTS {
            events.pop_front();
        }
        events.push_back(StatusEvent { at: SystemTime::now(), kind, severity, text });
    }

    /// Returns the events, the newest first.
    pub fn newest_first(&self) -> Vec<StatusEvent> {
        self.lock().iter().rev().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<StatusEvent>> {
        // No event is ever half added.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of the last reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastReload {
    /// The time at which it ended.
    pub at: SystemTime,
    /// The changes, or the reason why the running configuration stayed.
    pub result: Result<String, String>,
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigState {
    /// Its file; `None` if it did not come from one.
    pub file: Option<PathBuf>,
    /// The time at which it came into force.
    pub loaded: SystemTime,
    /// The last reload; `None` if there was none.
    pub last_reload: Option<LastReload>,
    /// The level of the log that POINTSMAN_LOG sets; `None` if the variable is not set.
    pub log_variable: Option<LogLevel>,
}

impl ConfigState {
    pub(super) fn new(loaded: SystemTime) -> Self {
        Self { file: None, loaded, last_reload: None, log_variable: None }
    }

    /// Sets the file and the variable of the environment from which values come.
    pub(super) fn come_from(&mut self, file: &Option<PathBuf>, log: Option<&LogControl>) {
        self.file.clone_from(file);
        self.log_variable = log.and_then(LogControl::level_of_variable);
    }

    /// Records a reload that ended now.
    pub(super) fn reloaded(&mut self, result: Result<String, String>) {
        let at = SystemTime::now();
        if result.is_ok() {
            self.loaded = at;
        }
        let mut result = result;
        match &mut result {
            Ok(text) | Err(text) => cut(text),
        }
        self.last_reload = Some(LastReload { at, result });
    }
}

/// Cuts a text that is too long, between two characters.
fn cut(text: &mut String) {
    if text.len() > LONGEST_TEXT {
        let end = (0..=LONGEST_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_events_make_room() {
        let log = EventLog::default();
        for number in 0..KEPT_EVENTS + 20 {
            log.note(EventKind::List, Severity::Info, number.to_string());
        }
        let events = log.newest_first();
        assert_eq!((events.len(), &*events[0].text, &*events[99].text), (KEPT_EVENTS, "119", "20"));
    }

    #[test]
    fn long_texts_are_cut() {
        let log = EventLog::default();
        log.note(EventKind::Reload, Severity::Error, "é".repeat(LONGEST_TEXT));
        assert_eq!(log.newest_first()[0].text.len(), LONGEST_TEXT + 3);
        let mut state = ConfigState::new(SystemTime::UNIX_EPOCH);
        state.reloaded(Err("x".repeat(LONGEST_TEXT + 1)));
        assert_eq!(state.loaded, SystemTime::UNIX_EPOCH, "the running one stayed");
        assert_eq!(state.last_reload.unwrap().result.unwrap_err().len(), LONGEST_TEXT + 3);
    }
}
