//! Formats an event of the program as a line of its log, and filters events by level.
//!
//! A reload changes the level and the form while the process runs. `POINTSMAN_LOG` sets the level until the process
//! ends. Lines to the journal begin with their priority, as in sd-daemon(3), and are one entry each.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Full, Writer};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::ProgramLog;
use super::text::OneLine;
use crate::sys::standard_error;

/// The variable that sets the level, whatever the configuration has.
const VARIABLE: &str = "POINTSMAN_LOG";

/// The program's own log, on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSpec {
    /// The least important level that is written. Default [`LogLevel::Info`].
    pub level: LogLevel,
    /// The form of a line. Default [`LogFormat::Text`].
    pub format: LogFormat,
}

/// The importance of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// A fault that an operator must repair.
    Error,
    /// A sign of a fault.
    Warn,
    /// An event of the process as a whole.
    Info,
    /// An event of a single connection.
    Debug,
    /// All events.
    Trace,
}

impl LogLevel {
    /// All levels, the most important level first.
    const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// Returns the level of a word, or `None` for an unknown word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.word() == word)
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }

    /// Returns the level as it is written in the file and in a log filter.
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The form of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for a human reader.
    Text,
    /// One JSON object a line.
    Json,
}

/// The value of POINTSMAN_LOG is not a level.
#[derive(Debug, thiserror::Error)]
#[error("POINTSMAN_LOG is {0:?}; it takes one of {levels}", levels = LogLevel::ALL.map(LogLevel::word).join(", "))]
pub struct LevelFault(String);

/// Changes the log of the process while it runs.
pub struct LogControl {
    set_level: Box<dyn Fn(LogLevel) + Send + Sync>,
    is_json: Arc<AtomicBool>,
    /// The level that POINTSMAN_LOG sets.
    fixed: Option<String>,
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogControl").field("fixed", &self.fixed).finish_non_exhaustive()
    }
}

impl LogControl {
    /// Returns the level that POINTSMAN_LOG sets; `None` if the variable is not set.
    pub fn level_of_variable(&self) -> Option<LogLevel> {
        self.fixed.as_deref().and_then(LogLevel::of_word)
    }

    /// Puts the level of an operator in force. `None` puts the level of the configuration back, or that of POINTSMAN_LOG.
    pub fn override_level(&self, level: Option<LogLevel>, written: LogLevel) {
        (self.set_level)(level.or(self.level_of_variable()).unwrap_or(written));
    }

    /// Puts another specification in force.
    pub fn change(&self, old: &LogSpec, new: &LogSpec) {
        self.is_json.store(new.format == LogFormat::Json, Ordering::Relaxed);
        match &self.fixed {
            None => (self.set_level)(new.level),
            Some(_) if old.level == new.level => {}
            Some(level) => tracing::warn!(
                "log.level = \"{}\" is not in force: POINTSMAN_LOG={level} is set and overrides it",
                new.level.word()
            ),
        }
    }
}

/// Sends the events of the program to its log.
///
/// # Errors
///
/// [`LevelFault`] if the value of POINTSMAN_LOG is not a level.
pub fn send_events(spec: LogSpec, log: ProgramLog) -> Result<LogControl, LevelFault> {
    let fixed = std::env::var(VARIABLE).ok();
    if let Some(level) = fixed.as_ref().filter(|level| LogLevel::of_word(level).is_none()) {
        return Err(LevelFault(level.clone()));
    }
    let is_json = Arc::new(AtomicBool::new(spec.format == LogFormat::Json));
    let is_journal = standard_error::is_journal();
    let colors = !is_journal && standard_error::is_terminal();
    let level = fixed.as_deref().and_then(LogLevel::of_word).unwrap_or(spec.level);
    let text = Format::default().with_target(false);
    let format = LineFormat { is_json: Arc::clone(&is_json), is_journal, text };
    let (filter, handle) = reload::Layer::new(targets(level));
    let lines = tracing_subscriber::fmt::layer()
        // Otherwise the library would report values that cannot be formatted to standard error directly, past the
        // log's queue.
        .log_internal_errors(false)
        .with_ansi(colors)
        .event_format(format)
        .with_writer(move || OneLine { to: log.clone(), colors, is_journal });
    tracing_subscriber::registry().with(lines).with(filter).init();
    let set_level = Box::new(move |level: LogLevel| {
        if let Err(error) = handle.reload(targets(level)) {
            tracing::error!(%error, "the level of the log stays as it was");
        }
    });
    Ok(LogControl { set_level, is_json, fixed })
}

/// Returns the filter that lets events of a level and of more important ones pass.
fn targets(level: LogLevel) -> Targets {
    let all = Targets::new().with_default(level.filter());
    // The resolver's library reports every odd line of /etc/hosts whenever it reads the file; the events that matter are
    // in lines of this program.
    if level == LogLevel::Trace { all } else { all.with_target("hickory", LevelFilter::ERROR) }
}

/// The form of lines, which may change from one line to the next.
struct LineFormat {
    is_json: Arc<AtomicBool>,
    is_journal: bool,
    text: Format<Full>,
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.is_journal {
            write!(writer, "<{}>", priority(*event.metadata().level()))?;
        }
        if self.is_json.load(Ordering::Relaxed) {
            return write_json(&mut writer, SystemTime::now(), event);
        }
        match self.is_journal {
            // The journal stores the time of each entry.
            true => self.text.clone().without_time().format_event(ctx, writer, event),
            false => self.text.format_event(ctx, writer, event),
        }
    }
}

/// Returns the priority of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Writes an event as one JSON object. The key `time` is the same as in the access log.
fn write_json(writer: &mut Writer<'_>, time: SystemTime, event: &Event<'_>) -> fmt::Result {
    let time = humantime::format_rfc3339_micros(time);
    write!(writer, "{{\"time\":\"{time}\",\"level\":\"{}\",\"fields\":{{", event.metadata().level())?;
    let mut fields = JsonFields { text: String::new() };
    event.record(&mut fields);
    writeln!(writer, "{}}}}}", fields.text)
}

/// The fields of an event as the members of a JSON object.
struct JsonFields {
    text: String,
}

impl JsonFields {
    fn add(&mut self, field: &Field, value: &serde_json::Value) {
        let separator = if self.text.is_empty() { "" } else { "," };
        let name = serde_json::Value::from(field.name());
        // Writing to a string cannot fail.
        _ = write!(self.text, "{separator}{name}:{value}");
    }
}

impl Visit for JsonFields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, &value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, &value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, &value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the log that these events produce.
    fn written(is_json: bool, is_journal: bool, events: impl FnOnce(&AtomicBool)) -> String {
        let lines = Lines::default();
        let to = lines.clone();
        let is_json = Arc::new(AtomicBool::new(is_json));
        let text = Format::default().with_target(false);
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || OneLine { to: to.clone(), colors: false, is_journal })
            .event_format(LineFormat { is_json: Arc::clone(&is_json), is_journal, text })
            .finish();
        tracing::subscriber::with_default(subscriber, || events(&is_json));
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn the_journal_gets_priorities_and_one_entry_for_each_event() {
        let lines = written(false, true, |_| {
            tracing::error!(error = "a\n  b", "not \"reloaded\"\nthe rest");
            tracing::warn!("careful");
            tracing::info!(open = 3, "serving");
        });
        let expected = "<3>ERROR not \"reloaded\" | the rest error=\"a\\n  b\"\n<4> WARN careful\n<6> INFO serving open=3\n";
        assert_eq!(lines, expected);
    }

    #[test]
    fn bytes_of_a_backend_are_escaped_once() {
        let event =
            || tracing::warn!(reason = "a\\b", heard = Some("\x15\x03 \"a\" é"), open = 3, "backend down");
        let text = written(false, true, |_| event());
        let expected = "<4> WARN backend down reason=\"a\\\\b\" heard=\"\\u{15}\\u{3} \\\"a\\\" é\" open=3\n";
        assert_eq!(text, expected);
        let line: serde_json::Value = serde_json::from_str(&written(true, false, |_| event())).unwrap();
        assert_eq!(line["fields"]["heard"], "\x15\x03 \"a\" é");
    }

    #[test]
    fn json_has_one_object_for_each_event() {
        let lines = written(true, false, |_| {
            tracing::warn!(error = %"a\n\"b\"", open = 3_u64, is_on = true, share = 0.5, left = -1, none = None::<u64>, "two\nlines");
        });
        let line: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!(lines.matches('\n').count(), 1, "{lines}");
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{lines}");
        assert_eq!(line["level"], "WARN");
        let expected = serde_json::json!({
            "message": "two\nlines", "error": "a\n\"b\"", "open": 3, "is_on": true, "share": 0.5, "left": -1,
        });
        assert_eq!(line["fields"], expected);
    }

    #[test]
    fn the_form_changes_from_one_line_to_the_next() {
        let lines = written(false, false, |is_json| {
            tracing::info!("one");
            is_json.store(true, Ordering::Relaxed);
            tracing::info!("two");
        });
        let lines: Vec<_> = lines.lines().collect();
        assert!(
            lines[0].ends_with("INFO one") && lines[1].ends_with("\"fields\":{\"message\":\"two\"}}"),
            "{lines:?}"
        );
    }
}
