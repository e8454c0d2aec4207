//! The page /api/v1/config: the keys of the configuration in force, each with its value and the origin of the value.
//!
//! The page shows the text that was loaded and not the file, which may have changed since. It has no secrets: the process
//! does not keep them with the keys.

mod entry;
mod near;

use std::fmt::Write as _;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use super::json::{self, rfc3339};
use super::query::{self, QueryFault};
use crate::config::{DefaultText, KeyPath, SchemaDefaults};
use crate::server::{ConfigState, View};
use entry::{KeyContext, KeyEntry};

/// The most keys on a page.
const MOST_KEYS: usize = 10_000;

/// The bytes of keys and values after which a page has no further keys. A value has at most 1 KiB.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// The reason for which a request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigRefusal {
    /// The query has other parameters.
    #[error("the query may have each of these once: prefix (such as pool.db) and all (true or false)")]
    Query,
    /// The query has a broken escape.
    #[error("in a query, % must come before two hexadecimal digits, and the bytes must be UTF-8")]
    Escape,
    /// No key begins with the prefix.
    #[error("{0}")]
    Unknown(String),
}

/// The page. New fields may be added; the existing ones do not change.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct ConfigPage {
    /// Null for a configuration that did not come from a file.
    file: Option<String>,
    /// The time at which it came into force. RFC 3339, UTC.
    loaded: String,
    /// The keys that match the request.
    matched: usize,
    /// Those that are not on the page: it has the first ones.
    left_out: usize,
    /// In the order of their paths.
    keys: Vec<KeyStatus>,
}

/// A key and its value in force.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct KeyStatus {
    /// The path, such as `pool.db.backends[2].weight`.
    key: String,
    #[serde(flatten)]
    in_force: KeyValue,
    /// The operator of an override; null for another origin.
    by: Option<String>,
    /// The time of an override. RFC 3339, UTC; null for another origin.
    since: Option<String>,
    /// Null for an override that an operator must end, and for another origin.
    ends_in_seconds: Option<u64>,
    /// The value without the override or the variable; null for another origin, and if it is not known.
    otherwise: Option<KeyValue>,
    /// The value that waits for a restart; null if none waits.
    after_restart: Option<KeyValue>,
}

/// A value with its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct KeyValue {
    /// Null for a secret, and for a default that is only described.
    value: Option<Value>,
    /// The description of a default.
    text: Option<String>,
    /// True for a secret.
    hidden: bool,
    /// `file`, `command_line`, `environment`, `override` or `default`.
    origin: &'static str,
    /// The file and the line, the variable, or the option; null if there is none of these.
    place: Option<String>,
}

/// The keys to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyExtent {
    /// The keys that are written or changed.
    Written,
    /// These, and all that have a default.
    All,
}

/// Returns the page for a query such as `prefix=pool.db&all=true`. A key that is not written is shown with its default if
/// the prefix names it. It blocks: a configuration may have a million keys.
pub(super) fn json(view: &View, query: Option<&str>) -> Result<String, ConfigRefusal> {
    let [prefix, all] = query::values(query, ["prefix", "all"]).map_err(|fault| match fault {
        QueryFault::Other => ConfigRefusal::Query,
        QueryFault::Escape => ConfigRefusal::Escape,
    })?;
    let prefix =
        prefix.map(|prefix| prefix.trim_end_matches('.').to_owned()).filter(|prefix| !prefix.is_empty());
    let extent = match query::truth(all.as_deref()).ok_or(ConfigRefusal::Query)? {
        true => KeyExtent::All,
        false => KeyExtent::Written,
    };
    let mut list = KeyList::of(view, extent, prefix.as_deref());
    if list.matched == 0
        && let Some(prefix) = &prefix
    {
        list = KeyList::of(view, KeyExtent::All, Some(prefix));
        if list.matched == 0 {
            return Err(ConfigRefusal::Unknown(near::message(view, prefix)));
        }
    }
    let ConfigState { file, loaded, .. } = view.config();
    Ok(json::page(&ConfigPage {
        file: file.map(|file| file.display().to_string()),
        loaded: rfc3339(loaded),
        matched: list.matched,
        left_out: list.matched - list.keys.len(),
        keys: list.keys,
    }))
}

/// The first keys that match a prefix.
struct KeyList {
    matched: usize,
    keys: Vec<KeyStatus>,
    bytes: usize,
}

impl KeyList {
    fn of(view: &View, extent: KeyExtent, prefix: Option<&str>) -> Self {
        let mut list = Self { matched: 0, keys: Vec::new(), bytes: 0 };
        let mut path = String::new();
        each_key(view, extent, &mut |entry, context| {
            path.clear();
            // Writing to a string cannot fail.
            _ = write!(path, "{}", entry.path);
            if prefix.is_none_or(|prefix| is_below(&path, prefix)) {
                list.add(entry, context);
            }
        });
        list
    }

    fn add(&mut self, entry: &KeyEntry, context: &KeyContext<'_>) {
        self.matched += 1;
        if self.keys.len() < MOST_KEYS && self.bytes < MOST_BYTES {
            let status = entry.status(context);
            let value = status.in_force.value.as_ref().and_then(Value::as_str);
            self.bytes += status.key.len() + value.map_or(0, str::len);
            self.keys.push(status);
        }
    }
}

/// Returns true if a path is the prefix, or is below it.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Calls `visit` with each key in the order of their paths.
fn each_key(view: &View, extent: KeyExtent, visit: &mut dyn FnMut(&KeyEntry, &KeyContext<'_>)) {
    let (keys, defaults) = (view.keys(), SchemaDefaults::parse());
    let context = KeyContext { written: &keys.written, defaults: &defaults, now: Instant::now() };
    let mut walk = (extent == KeyExtent::All).then(|| defaults.walk());
    for entry in entry::all(view, &keys) {
        if let Some(walk) = &mut walk {
            let mut give = |path: &KeyPath, _: DefaultText<'_>| visit(&KeyEntry::unwritten(path), &context);
            walk.pass(&entry.path, entry.written_value(), &mut give);
        }
        if extent == KeyExtent::All || !entry.is_default() {
            visit(&entry, &context);
        }
    }
    if let Some(walk) = walk {
        walk.finish(&mut |path, _| visit(&KeyEntry::unwritten(path), &context));
    }
}
