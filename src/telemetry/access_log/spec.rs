//! The settings of the access log.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::telemetry::line::AccessLogFormat;

/// The destination of the access log, the events that make records, and the form of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogSpec {
    /// The destination.
    pub to: AccessLogTarget,
    /// The form of a line. `None` is text on a terminal, else JSON.
    pub format: Option<AccessLogFormat>,
    /// The events that make records. Default: the end of a connection.
    pub events: AccessLogEvents,
    /// True if the ends of connections without a byte have lines too. Default true.
    pub empty: bool,
    /// The limit of lines a second, for each listener, about connections that were refused before any backend
    /// was tried; at least 1. As many lines may be written at once. `None` is no limit. Default 100.
    pub refused_per_second: Option<u32>,
}

/// The destination of access-log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// No access log.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to; opened again on SIGUSR1.
    File(PathBuf),
}

impl fmt::Display for AccessLogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// The events of a connection that make records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessLogEvents {
    /// True if a connection makes a record when its backend is connected. Default false.
    pub start: bool,
    /// The time after which an open connection with a connected backend makes a record, again and again; whole seconds.
    /// Default `None`: it makes no such records.
    pub interval: Option<Duration>,
    /// True if a connection makes a record when it ends, also if it was refused. Default true.
    pub end: bool,
}

impl Default for AccessLogEvents {
    fn default() -> Self {
        Self { start: false, interval: None, end: true }
    }
}

/// The choice of the records that are made. Without an access log no record is made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RecordChoice {
    pub(super) is_on: bool,
    pub(super) events: AccessLogEvents,
    /// True if the ends of connections without a byte make no records.
    pub(super) leaves_out_empty: bool,
}

/// The choice in force. It is read several times for each connection, more cheaply than the handle of the log. A reload
/// changes it. Its parts may be of two choices for a moment, which only decides about single records.
#[derive(Debug, Default)]
pub(super) struct CurrentChoice {
    is_on: AtomicBool,
    starts: AtomicBool,
    ends: AtomicBool,
    leaves_out_empty: AtomicBool,
    /// The interval in seconds; 0 is none.
    interval: AtomicU32,
}

impl CurrentChoice {
    pub(super) fn set(&self, choice: RecordChoice) {
        let RecordChoice { is_on, events: AccessLogEvents { start, interval, end }, leaves_out_empty } =
            choice;
        let interval = interval.filter(|_| is_on).map_or(0, |interval| interval.as_secs());
        self.starts.store(is_on && start, Ordering::Relaxed);
        self.ends.store(is_on && end, Ordering::Relaxed);
        self.leaves_out_empty.store(leaves_out_empty, Ordering::Relaxed);
        self.interval.store(u32::try_from(interval).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    pub(super) fn starts(&self) -> bool {
        self.starts.load(Ordering::Relaxed)
    }

    pub(super) fn ends(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    pub(super) fn leaves_out_empty(&self) -> bool {
        self.leaves_out_empty.load(Ordering::Relaxed)
    }

    pub(super) fn interval(&self) -> Option<Duration> {
        let seconds = self.interval.load(Ordering::Relaxed);
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }
}
