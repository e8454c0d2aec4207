//! Overrides: what operators changed at run time, against the configuration.
//!
//! An override stays in force over reloads and upgrades, until an operator or its time ends it. So a new file does not undo
//! what an operator did in an incident. Control alone changes the table; all others read it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::split_shares::SplitShares;
use crate::pool::{OperatorState, PoolSpec};
use crate::telemetry::LogLevel;

/// The most overrides at once. Each names a part that existed when it was set, but parts come and go.
const MOST: usize = 10_000;

/// The kind of an override.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OverrideKind {
    /// The operator state of a backend.
    State,
    /// The weight of a backend.
    Weight,
    /// A pause of a pool.
    Pause,
    /// The shares of pools in a route.
    Split,
    /// This process is not ready: balancers in front of it send new clients elsewhere.
    Leave,
    /// The level of the log.
    Log,
}

impl OverrideKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [Self::State, Self::Weight, Self::Pause, Self::Split, Self::Leave, Self::Log];

    /// The word in the API, in metrics and in messages between programs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Weight => "weight",
            Self::Pause => "pause",
            Self::Split => "split",
            Self::Leave => "leave",
            Self::Log => "log",
        }
    }

    /// Returns the kind with this word, or `None` for an unknown word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// The subject of an override. At most one override of a kind has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OverrideKey {
    /// The kind.
    pub kind: OverrideKind,
    /// The name of the pool; empty for kinds that concern no pool.
    pub pool: Arc<str>,
    /// The name of the backend; empty for kinds that concern no backend.
    pub backend: Arc<str>,
    /// The name of the listener; empty for kinds that concern no listener.
    pub listener: Arc<str>,
    /// The name of the route, as the access log has it; empty for kinds that concern no route.
    pub route: Arc<str>,
}

impl OverrideKey {
    /// Returns the key of a kind that concerns the process.
    pub fn of_process(kind: OverrideKind) -> Self {
        Self::of_backend(kind, "", "")
    }

    /// Returns the key of a kind that concerns a pool.
    pub fn of_pool(kind: OverrideKind, pool: &str) -> Self {
        Self::of_backend(kind, pool, "")
    }

    /// Returns the key of a kind that concerns a backend.
    pub fn of_backend(kind: OverrideKind, pool: &str, backend: &str) -> Self {
        Self { kind, pool: pool.into(), backend: backend.into(), listener: "".into(), route: "".into() }
    }

    /// Returns the key of the split of a route.
    pub fn of_route(listener: &str, route: &str) -> Self {
        let (listener, route) = (listener.into(), route.into());
        Self { listener, route, ..Self::of_process(OverrideKind::Split) }
    }
}

impl fmt::Display for OverrideKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, pool, backend, listener, route } = self;
        match kind {
            OverrideKind::Split => write!(f, "the split of route {listener}/{route}"),
            OverrideKind::State => write!(f, "the state of backend {pool}/{backend}"),
            OverrideKind::Weight => write!(f, "the weight of backend {pool}/{backend}"),
            OverrideKind::Pause => write!(f, "the pause of pool {pool}"),
            OverrideKind::Leave => f.write_str("the leave of this process"),
            OverrideKind::Log => f.write_str("the level of the log"),
        }
    }
}

/// The value that an override puts in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverrideValue {
    /// The operator state of the backend.
    State(OperatorState),
    /// The weight of the backend, at least 1.
    Weight(u16),
    /// New connections of the pool wait.
    Pause,
    /// The shares of pools in the route.
    Split(SplitShares),
    /// `/ready` says 503.
    Leave,
    /// The level of the log.
    Log(LogLevel),
}

impl OverrideValue {
    /// Reads the text of a value; `None` if it is no value of this kind.
    pub fn of_text(kind: OverrideKind, text: &str) -> Option<Self> {
        match kind {
            OverrideKind::State => OperatorState::of_word(text).map(Self::State),
            OverrideKind::Weight => text.parse().ok().filter(|weight| *weight > 0).map(Self::Weight),
            OverrideKind::Pause => Some(Self::Pause),
            OverrideKind::Split => text.parse().ok().map(Self::Split),
            OverrideKind::Leave => Some(Self::Leave),
            OverrideKind::Log => LogLevel::of_word(text).map(Self::Log),
        }
    }
}

impl fmt::Display for OverrideValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(state) => f.write_str(state.word()),
            Self::Weight(weight) => write!(f, "{weight}"),
            Self::Pause => f.write_str("paused"),
            Self::Split(shares) => shares.fmt(f),
            Self::Leave => f.write_str("not ready"),
            Self::Log(level) => f.write_str(level.word()),
        }
    }
}

/// An override in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The value.
    pub value: OverrideValue,
    /// The time at which it was set.
    pub since: SystemTime,
    /// The operator who set it: the process at the admin socket, or the address.
    pub by: Arc<str>,
    /// The time at which it ends by itself; `None` for one that an operator must end.
    pub end: Option<Instant>,
}

impl Override {
    /// Returns the time that is left; `None` for one without an end.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.end.map(|end| end.saturating_duration_since(now))
    }
}

/// A change of the overrides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverrideChange {
    /// The subject.
    pub key: OverrideKey,
    /// The value to put in force; `None` ends the override.
    pub value: Option<OverrideValue>,
    /// The time after which it ends by itself.
    pub time: Option<Duration>,
    /// The operator.
    pub by: Arc<str>,
}

/// The effect of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverrideOutcome {
    /// The override is new.
    Set,
    /// An earlier override of this subject was replaced.
    Replaced,
    /// The override has ended.
    Ended,
    /// There was no override to end.
    Absent,
}

impl OverrideOutcome {
    /// The word in the API.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Replaced => "replaced",
            Self::Ended => "ended",
            Self::Absent => "absent",
        }
    }
}

/// The reason for which overrides are not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverrideRefusal {
    /// A new program has the state already.
    #[error("a new program takes over just now: ask again in some seconds, and it answers")]
    HandingOver,
    /// The process stops.
    #[error("this process is stopping")]
    Stopping,
    /// The shares of a split leave clients without a pool.
    #[error("the route has no other pool for the rest of the clients: the shares must be 100 % together")]
    NotWhole,
    /// There are too many overrides.
    #[error(
        "there are {MOST} overrides already, the most; GET /api/v1/overrides lists them, and DELETE ends them"
    )]
    Full,
}

/// A request of an operator, and the channel for its result.
pub(super) struct OverrideRequest {
    pub(super) change: OverrideChange,
    pub(super) reply: OverrideReply,
}

/// The channel for the result of a request.
pub(super) type OverrideReply = oneshot::Sender<Result<OverrideOutcome, OverrideRefusal>>;

impl OverrideRequest {
    /// Refuses the request. A requester that is gone needs no answer.
    pub(super) fn refuse(self, refusal: OverrideRefusal) {
        let _ = self.reply.send(Err(refusal));
    }
}

/// The overrides in force.
#[derive(Debug, Default)]
pub struct Overrides(Mutex<OverrideTable>);

/// The overrides by their subjects.
pub(super) type OverrideTable = BTreeMap<OverrideKey, Override>;

impl Overrides {
    /// Returns all overrides, in the order of their subjects.
    pub fn all(&self) -> Vec<(OverrideKey, Override)> {
        self.table().iter().map(|(key, set)| (key.clone(), set.clone())).collect()
    }

    /// Returns the override of a subject.
    pub fn get(&self, key: &OverrideKey) -> Option<Override> {
        self.table().get(key).cloned()
    }

    /// Returns the override by which this process is not ready, if there is one.
    pub fn leave(&self) -> Option<Override> {
        self.get(&OverrideKey::of_process(OverrideKind::Leave))
    }

    /// Returns the level of the log that an operator has set.
    pub(super) fn log_level(&self) -> Option<LogLevel> {
        match self.get(&OverrideKey::of_process(OverrideKind::Log))?.value {
            OverrideValue::Log(level) => Some(level),
            _ => None,
        }
    }

    /// Returns a pool that is paused, if there is one.
    pub(super) fn paused_pool(&self) -> Option<Arc<str>> {
        self.table().keys().find(|key| key.kind == OverrideKind::Pause).map(|key| Arc::clone(&key.pool))
    }

    /// Returns a copy of the table, for a build on another thread.
    pub(super) fn copy(&self) -> OverrideTable {
        self.table().clone()
    }

    /// Makes a change.
    pub(super) fn change(&self, change: OverrideChange) -> Result<OverrideOutcome, OverrideRefusal> {
        let OverrideChange { key, value, time, by } = change;
        let mut table = self.table();
        let Some(value) = value else {
            return Ok(if table.remove(&key).is_some() {
                OverrideOutcome::Ended
            } else {
                OverrideOutcome::Absent
            });
        };
        if table.len() >= MOST && !table.contains_key(&key) {
            return Err(OverrideRefusal::Full);
        }
        let end = time.and_then(|time| Instant::now().checked_add(time));
        let before = table.insert(key, Override { value, since: SystemTime::now(), by, end });
        Ok(if before.is_some() { OverrideOutcome::Replaced } else { OverrideOutcome::Set })
    }

    /// Adds the overrides of the program before this one.
    pub(super) fn restore(&self, overrides: impl IntoIterator<Item = (OverrideKey, Override)>) {
        let mut table = self.table();
        for (key, set) in overrides.into_iter().take(MOST) {
            table.insert(key, set);
        }
    }

    /// Returns the time at which the next override ends by itself.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.table().values().filter_map(|set| set.end).min()
    }

    /// Takes the overrides whose time is over.
    pub(super) fn take_ended(&self, now: Instant) -> Vec<OverrideKey> {
        let mut table = self.table();
        let is_over = |(_, set): &(&OverrideKey, &Override)| set.end.is_some_and(|end| end <= now);
        let ended: Vec<_> = table.iter().filter(is_over).map(|(key, _)| key.clone()).collect();
        ended.iter().for_each(|key| _ = table.remove(key));
        ended
    }

    fn table(&self) -> MutexGuard<'_, OverrideTable> {
        // Each change is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the shares that an operator has set for a route.
pub(super) fn shares_of<'a>(
    table: &'a OverrideTable,
    listener: &str,
    route: &str,
) -> Option<&'a SplitShares> {
    match &table.get(&OverrideKey::of_route(listener, route))?.value {
        OverrideValue::Split(shares) => Some(shares),
        _ => None,
    }
}

/// Puts the states and weights of a table in the spec of a pool.
pub(super) fn apply(table: &OverrideTable, spec: &mut PoolSpec) {
    if table.is_empty() {
        return;
    }
    let pool = Arc::clone(&spec.name);
    for backend in &mut spec.backends {
        let of_kind = |kind| {
            let key = OverrideKey::of_backend(kind, &pool, &backend.name);
            table.get(&key).map(|set| set.value.clone())
        };
        if let Some(OverrideValue::State(state)) = of_kind(OverrideKind::State) {
            backend.operator_state = state;
        }
        if let Some(OverrideValue::Weight(weight)) = of_kind(OverrideKind::Weight) {
            backend.weight = weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::BackendSpec;

    fn key(kind: OverrideKind, pool: &str, backend: &str) -> OverrideKey {
        OverrideKey::of_backend(kind, pool, backend)
    }

    fn change(key: &OverrideKey, value: Option<OverrideValue>, time: Option<u64>) -> OverrideChange {
        OverrideChange { key: key.clone(), value, time: time.map(Duration::from_secs), by: "a test".into() }
    }

    #[test]
    fn overrides_are_set_replaced_and_ended() {
        let overrides = Overrides::default();
        let state = key(OverrideKind::State, "p", "b");
        let drain = Some(OverrideValue::State(OperatorState::Drain));
        let set = |value: Option<OverrideValue>, time| overrides.change(change(&state, value, time)).unwrap();
        assert_eq!(set(None, None), OverrideOutcome::Absent);
        assert_eq!(set(drain.clone(), Some(60)), OverrideOutcome::Set);
        assert!(overrides.next_end().is_some() && overrides.take_ended(Instant::now()).is_empty());
        assert_eq!(set(drain, None), OverrideOutcome::Replaced);
        assert_eq!((overrides.next_end(), overrides.all().len()), (None, 1));
        assert_eq!(set(None, None), OverrideOutcome::Ended);
        assert!(overrides.all().is_empty());
    }

    #[test]
    fn an_override_ends_by_itself() {
        let overrides = Overrides::default();
        let (pause, leave) = (key(OverrideKind::Pause, "p", ""), key(OverrideKind::Leave, "", ""));
        overrides.change(change(&pause, Some(OverrideValue::Pause), Some(60))).unwrap();
        overrides.change(change(&leave, Some(OverrideValue::Leave), None)).unwrap();
        assert!(overrides.leave().is_some());
        let now = Instant::now();
        let left = overrides.get(&pause).unwrap().left(now).unwrap();
        assert!((Duration::from_secs(50)..=Duration::from_secs(60)).contains(&left), "{left:?}");
        assert_eq!(overrides.take_ended(now + Duration::from_secs(61)), [pause]);
        assert_eq!(overrides.all().len(), 1);
    }

    #[test]
    fn the_number_of_overrides_is_bounded() {
        let overrides = Overrides::default();
        let set = |number: usize| {
            let key = key(OverrideKind::Weight, "p", &number.to_string());
            overrides.change(change(&key, Some(OverrideValue::Weight(2)), None))
        };
        assert!((0..MOST).all(|number| set(number).is_ok()));
        assert_eq!(set(MOST), Err(OverrideRefusal::Full));
        assert_eq!(set(7), Ok(OverrideOutcome::Replaced));
    }

    #[test]
    fn a_spec_gets_its_overrides() {
        let backend = |name: &str| BackendSpec::new(name, "10.0.0.1:1".parse().unwrap());
        let written = PoolSpec::new("p".into(), vec![backend("a"), backend("b")]);
        let mut table = OverrideTable::new();
        let mut spec = written.clone();
        apply(&table, &mut spec);
        assert_eq!(spec, written);
        let mut add = |kind, pool: &str, backend: &str, value| {
            let (since, by) = (SystemTime::now(), "a test".into());
            table.insert(key(kind, pool, backend), Override { value, since, by, end: None });
        };
        add(OverrideKind::State, "p", "a", OverrideValue::State(OperatorState::Maintenance));
        add(OverrideKind::Weight, "p", "b", OverrideValue::Weight(7));
        add(OverrideKind::State, "q", "b", OverrideValue::State(OperatorState::Drain));
        add(OverrideKind::Pause, "p", "", OverrideValue::Pause);
        apply(&table, &mut spec);
        let values = spec.backends.iter().map(|backend| (backend.operator_state, backend.weight));
        let expected = [(OperatorState::Maintenance, 1), (OperatorState::Ready, 7)];
        assert_eq!(values.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn texts_are_read() {
        let check =
            |kind, text: &str, expected| assert_eq!(OverrideValue::of_text(kind, text), expected, "{text}");
        check(OverrideKind::State, "drain", Some(OverrideValue::State(OperatorState::Drain)));
        check(OverrideKind::State, "up", None);
        check(OverrideKind::Weight, "65535", Some(OverrideValue::Weight(65_535)));
        check(OverrideKind::Weight, "0", None);
        check(OverrideKind::Weight, "65536", None);
        check(OverrideKind::Pause, "paused", Some(OverrideValue::Pause));
        check(OverrideKind::Log, "debug", Some(OverrideValue::Log(LogLevel::Debug)));
        check(OverrideKind::Log, "loud", None);
        for kind in OverrideKind::ALL {
            assert_eq!(OverrideKind::of_word(kind.word()), Some(kind));
        }
        assert_eq!(OverrideKind::of_word("other"), None);
    }
}
