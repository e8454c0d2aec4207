//! Reads JSON of any version of the program: a key that is missing is empty, and a value of another type is shown as it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::clean::clean;
pub(super) use crate::cli::connections::time as seconds;
use crate::cli::status::duration;
pub(super) use crate::cli::status::items;

/// The end of the times that can be written: the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// Returns a value as a clean text without quotes; an empty text for null.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => clean(text).into_owned(),
        other => clean(&other.to_string()).into_owned(),
    }
}

/// Returns the string of a value as the server wrote it, for requests and comparisons.
pub(super) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Returns a number, or 0.
pub(super) fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Returns the time of a value in the form of RFC 3339.
pub(super) fn moment(value: &Value) -> Option<SystemTime> {
    humantime::parse_rfc3339_weak(word(value)).ok()
}

/// Returns the time of the server at the moment of its status.
pub(super) fn time_of_status(status: &Value) -> Option<SystemTime> {
    let uptime = Duration::from_secs(status["uptime_seconds"].as_u64()?);
    moment(&status["started"])?.checked_add(uptime)
}

/// Returns the time of day: `14:40:19`.
pub(super) fn time_of_day(time: SystemTime) -> String {
    let text = written(time);
    text.get(11..19).unwrap_or_default().to_owned()
}

/// Returns the beginning of a state with its age: `14:40:19, 3m 12s ago`. Without the present time, or for a time of another
/// day, with the date. A value that is no time is shown as it is.
pub(super) fn since(value: &Value, now: Option<SystemTime>) -> String {
    let Some(time) = moment(value) else { return shown(value) };
    let text = written(time);
    let (day, clock) = (text.get(..10).unwrap_or_default(), text.get(11..19).unwrap_or_default());
    let Some(now) = now else { return format!("{day} {clock}") };
    let age = duration(now.duration_since(time).unwrap_or_default().as_secs());
    match written(now).get(..10) == Some(day) {
        true => format!("{clock}, {age} ago"),
        false => format!("{day} {clock}, {age} ago"),
    }
}

/// Returns a time in the form of RFC 3339. A time that cannot be written is moved to the nearest one that can.
fn written(time: SystemTime) -> String {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = Duration::from_secs(since_epoch.as_secs().min(LAST_SECOND));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + seconds).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_have_an_age() {
        let now = moment(&json!("2026-11-29T14:43:31Z"));
        let check = |value: Value, now, expected: &str| assert_eq!(since(&value, now), expected);
        check(json!("2026-11-29T14:40:19.123Z"), now, "14:40:19, 3m 11s ago");
        check(json!("2026-11-28T14:43:31.000Z"), now, "2026-11-28 14:43:31, 1d ago");
        check(json!("2026-11-29T14:43:32.000Z"), now, "14:43:32, 0s ago");
        check(json!("2026-11-29T14:40:19.000Z"), None, "2026-11-29 14:40:19");
        check(json!("soon\u{1b}"), now, "soon\\u{1b}");
        check(Value::Null, now, "");
    }

    #[test]
    fn no_time_panics() {
        let status = |uptime: u64| json!({ "started": "9999-12-31T23:59:59Z", "uptime_seconds": uptime });
        assert_eq!(time_of_day(time_of_status(&status(5)).unwrap()), "23:59:59");
        assert_eq!(time_of_status(&status(u64::MAX)), None);
        assert_eq!(time_of_status(&json!({ "uptime_seconds": 1 })), None);
        assert_eq!(time_of_day(UNIX_EPOCH - Duration::from_secs(5)), "00:00:00");
    }
}
