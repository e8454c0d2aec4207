//! The text of a page in JSON, and of its times.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Returns a time in the form of RFC 3339, in UTC. A time before 1970 is 1970.
pub(super) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time.max(UNIX_EPOCH)).to_string()
}

/// Returns a value as JSON with a line end.
///
/// # Panics
///
/// If a map in the value has keys that are not strings. No page has such a map.
pub(super) fn page(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("the keys of pages are strings");
    text.push('\n');
    text
}

/// Returns a value as JSON without spaces, with a line end. It is for pages with thousands of numbers, which would have a
/// line each.
///
/// # Panics
///
/// As [`page`].
pub(super) fn compact(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).expect("the keys of pages are strings");
    text.push('\n');
    text
}
