//! The state of the process that a successor gets beside its sockets and connections.
//!
//! The values are texts and numbers. A moment is an age or the time that is left, because two processes share no
//! monotonic clock with one beginning. Things have their names, because numbers have no meaning in another process. A
//! reader ignores words that it does not know.

mod counts;
mod health;
mod parts;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

pub use health::{HandedChecks, HandedEjection, HandedEjections, HandedFailure, HandedHealth};

/// Counts by a word, such as the label value of a metric. A count of 0 is left out.
pub type CountsByWord = BTreeMap<String, u64>;

/// A value of a map by words. A later version may add a word with a value of another type.
#[derive(Deserialize)]
#[serde(untagged)]
enum ValueOfWord<V> {
    Known(V),
    Other(IgnoredAny),
}

/// Reads a map by words. Values of another type are left out.
pub(super) fn by_word<'de, R, V>(reader: R) -> Result<BTreeMap<String, V>, R::Error>
where
    R: Deserializer<'de>,
    V: Deserialize<'de>,
{
    let values = BTreeMap::<String, ValueOfWord<V>>::deserialize(reader)?;
    let known = values.into_iter().filter_map(|(word, value)| match value {
        ValueOfWord::Known(value) => Some((word, value)),
        ValueOfWord::Other(IgnoredAny) => None,
    });
    Ok(known.collect())
}

/// The longest time that a reader accepts. Longer times count as this time, so that no sum overflows.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Returns the whole milliseconds of a time. A part of a millisecond is left out.
#[must_use]
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the whole microseconds of a time.
#[must_use]
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Returns the milliseconds until an end. A part of a millisecond counts as a whole one, so nothing ends too early.
#[must_use]
pub fn left_millis(left: Duration) -> u64 {
    u64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Returns the time of this many milliseconds, 100 years at most.
#[must_use]
pub fn from_millis(millis: u64) -> Duration {
    Duration::from_millis(millis).min(LONGEST)
}

/// The state of the process. A large one is sent in several messages, which the reader joins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessState {
    /// The backends in force.
    pub backends: Vec<HandedBackend>,
    /// The backends that each discovery source found last.
    pub discovered: Vec<HandedDiscovery>,
    /// The entries that were added to lists at run time.
    pub additions: Vec<HandedAddition>,
    /// The sources whose rate has not recovered.
    pub sources: Vec<HandedSource>,
    /// The rates of listeners, routes and pools that have not recovered.
    pub rates: Vec<HandedRate>,
    /// The removed listeners and backends whose connections may still go on.
    pub draining: Vec<HandedDrain>,
    /// The keys of the marks of forwarded connections.
    pub marks: Vec<HandedMarkKey>,
    /// The counts of routes.
    pub routes: Vec<HandedRouteCounts>,
    /// All counters that belong to no backend and no route.
    pub counters: Vec<HandedCounter>,
    /// The overrides of operators.
    pub overrides: Vec<HandedOverride>,
    /// The needed pools without an available backend.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<HandedNeed>,
}

/// A pool without which the node is not ready, and which has no available backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedNeed {
    /// The name of the pool.
    pub pool: String,
    /// `waiting`, `lacking` or `excused`. A pool with another word is ignored.
    pub stage: String,
    /// The time for which it has had no backend.
    pub missing_ms: u64,
    /// The time for which the node is not ready, for a lacking pool.
    pub unready_ms: u64,
}

/// An override of an operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedOverride {
    /// `state`, `weight`, `pause`, `split`, `leave` or `log`. An override of another kind is ignored.
    pub kind: String,
    /// The pool; empty for `split`, `leave` and `log`.
    pub pool: String,
    /// The backend; empty for the other kinds than `state` and `weight`.
    pub backend: String,
    /// The listener; empty for the other kinds than `split`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub listener: String,
    /// The route; empty for the other kinds than `split`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route: String,
    /// The state, the weight, the shares or the level; ignored for the other kinds.
    pub value: String,
    /// The time at which it was set, in milliseconds since 1970.
    pub since_ms: u64,
    /// The operator who set it.
    pub by: String,
    /// The time that it has left, in milliseconds; `None` for one without an end.
    pub left_ms: Option<u64>,
}

/// A backend, by its pool, name and address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedBackend {
    /// The name of its pool.
    pub pool: String,
    /// Its name.
    pub name: String,
    /// The address at which it listens.
    pub address: String,
    /// Its health; `None` if only counts are handed over.
    pub health: Option<HandedHealth>,
    /// Its counts.
    pub counts: HandedBackendCounts,
}

/// The counts of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedBackendCounts {
    /// Established connections.
    pub connections: u64,
    /// The troubles of clients, by kind.
    #[serde(deserialize_with = "by_word")]
    pub troubles: CountsByWord,
    /// The times that it entered each state.
    #[serde(deserialize_with = "by_word")]
    pub entered: CountsByWord,
    /// Its checks, by result: `passed`, `failed`, `not_made`.
    #[serde(deserialize_with = "by_word")]
    pub checks: CountsByWord,
    /// Relayed bytes, by direction.
    #[serde(deserialize_with = "by_word")]
    pub bytes: CountsByWord,
    /// Ended connections, by reason.
    #[serde(deserialize_with = "by_word")]
    pub closed: CountsByWord,
    /// The duration of the last check in microseconds; `None` before the first check.
    pub last_check_us: Option<u64>,
}

/// A discovery source of a pool with the backends that it found last. Several of one source count as one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedDiscovery {
    /// The name of the pool.
    pub pool: String,
    /// The use of the source: `host` (a host name among the backends), `listed` (a source of backends), `check` (a
    /// host name of checks or agents).
    pub part: String,
    /// The source as the log writes it.
    pub source: String,
    /// The backends that it found last, with the held backends.
    pub found: Vec<HandedDiscovered>,
    /// The backends that the last answer left out, and that stay for a time.
    pub held: Vec<HandedHold>,
    /// The time of the last success, in milliseconds since 1970; 0 is never.
    pub succeeded_ms: u64,
    /// The number of its failures.
    pub failures: u64,
}

/// A backend as its source describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedDiscovered {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its weight.
    pub weight: u16,
    /// Its zone.
    pub zone: Option<String>,
    /// True if it is used only while the other backends are down.
    pub backup: bool,
}

/// A backend that an answer left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedHold {
    /// The backend as the last answer that had it describes it.
    pub backend: HandedDiscovered,
    /// The time until its hold ends.
    pub left_ms: u64,
}

/// An entry that was added to a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedAddition {
    /// The name of the list.
    pub list: String,
    /// The address or network.
    pub entry: String,
    /// The time until the entry ends; `None` is the end of the process.
    pub left_ms: Option<u64>,
}

/// A source whose rate has not recovered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedSource {
    /// The name of the listener.
    pub listener: String,
    /// The key of the source: 128 bits as hexadecimal digits.
    pub source: String,
    /// The time in nanoseconds until its rate has recovered.
    pub recovers_ns: u64,
    /// The time in nanoseconds until it is admitted again; 0 if it has a token.
    pub over_ns: u64,
}

/// A rate of new connections that has not recovered: of a listener, of a route of a listener, or of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedRate {
    /// The name of the listener.
    pub listener: Option<String>,
    /// The name of the route, as in the log.
    pub route: Option<String>,
    /// The name of the pool.
    pub pool: Option<String>,
    /// The time in nanoseconds until the rate has recovered.
    pub recovers_ns: u64,
}

/// A removed listener or backend whose connections may still go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedDrain {
    /// The name of the listener.
    pub listener: Option<String>,
    /// The pool of the backend.
    pub pool: Option<String>,
    /// The name of the backend.
    pub backend: Option<String>,
    /// The address of the backend.
    pub address: Option<String>,
    /// The time until its connections are closed.
    pub left_ms: u64,
}

/// The key of the marks of a forwarding pool's connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedMarkKey {
    /// The name of the pool.
    pub pool: String,
    /// The key: two numbers.
    pub key: (u64, u64),
}

/// The counts of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedRouteCounts {
    /// The name of the listener.
    pub listener: String,
    /// The name of the route.
    pub route: String,
    /// True if the route has no name in its configuration; `route` is then its name in the log.
    pub unnamed: bool,
    /// Connections that matched the route.
    pub connections: u64,
    /// The time of the last of them, in seconds since 1970; 0 if there was none.
    pub last_used_s: u64,
    /// The time since which they are counted, in seconds since 1970; `None` if it is not known.
    pub since_s: Option<u64>,
    /// Relayed bytes, by direction.
    #[serde(deserialize_with = "by_word")]
    pub bytes: CountsByWord,
}

/// One series of a counter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedCounter {
    /// The name of the family.
    pub family: String,
    /// The values of its labels, by name.
    #[serde(deserialize_with = "by_word")]
    pub labels: BTreeMap<String, String>,
    /// The count.
    pub value: u64,
}

#[cfg(test)]
mod tests;
