//! Checks the access log.

use std::time::Duration;

use super::or;
use crate::config::code::Code;
use crate::config::fault::Diagnostic;
use crate::config::file::{AccessLog, File, LogEventWord};
use crate::config::findings::Findings;
use crate::telemetry::{AccessLogEvents, AccessLogSpec, AccessLogTarget};

/// The interval without a written one. It shows a long connection soon, and 100,000 connections write fewer than 2000
/// lines a second.
const INTERVAL: Duration = Duration::from_secs(60);

/// The lines about refused connections. These are more lines than a person can read, and they are enough for programs
/// that ban addresses.
const REFUSED: u32 = 100;

/// Returns the access log of a file.
pub(super) fn access_log(file: &File, found: &mut Findings<'_>) -> AccessLogSpec {
    let words = file.access_log.value();
    AccessLogSpec {
        to: words
            .and_then(|words| words.to.value())
            .map_or(AccessLogTarget::Stdout, |target| target.0.clone()),
        format: words.and_then(|words| words.format.value()).map(|choice| choice.0),
        events: words.map_or_else(AccessLogEvents::default, |words| events(words, found)),
        empty: words.and_then(|words| words.empty.value()).is_none_or(|empty| *empty),
        refused_per_second: Some(words.map_or(REFUSED, |words| {
            or(&words.refused_per_second, |number| u32::try_from(number.0).unwrap_or(u32::MAX), REFUSED)
        })),
    }
}

fn events(words: &AccessLog, found: &mut Findings<'_>) -> AccessLogEvents {
    let interval = interval(words, found);
    let events = match words.events.entry() {
        None => AccessLogEvents::default(),
        Some(entry) => {
            let list = &entry.value.0;
            if list.items.is_empty() && list.complete {
                let fault = Diagnostic::new(Code::MissingKey, "access_log.events", "`events` is empty");
                let help = "to turn the access log off, write access_log.to = \"off\"";
                found.add(fault.label(entry.at, "no event makes a record").help(help));
            }
            let has = |event| list.items.iter().any(|item| item.value.0 == event);
            AccessLogEvents {
                start: has(LogEventWord::Start),
                interval: has(LogEventWord::Interval).then_some(interval),
                end: has(LogEventWord::End),
            }
        }
    };
    let is_complete = words.events.value().is_none_or(|events| events.0.complete);
    if let (Some(place), None, true) = (words.interval.place(), events.interval, is_complete) {
        let message = "`interval` has no effect without the event \"interval\"";
        let warning = Diagnostic::new(Code::IdleSetting, "access_log.interval", message);
        found.add(warning.label(place, "").help("write access_log.events = [\"interval\", \"end\"]"));
    }
    events
}

fn interval(words: &AccessLog, found: &mut Findings<'_>) -> Duration {
    let Some(entry) = words.interval.entry() else { return INTERVAL };
    let interval = entry.value.0;
    if interval.subsec_nanos() > 0 {
        let message = format!(
            "`access_log.interval` = \"{}\" is not a number of whole seconds",
            humantime::format_duration(interval)
        );
        let fault = Diagnostic::new(Code::OutOfRange, "access_log.interval", message);
        found.add(fault.label(entry.at, "it takes whole seconds"));
    }
    interval
}
