//! The keys that are written or changed, each with all its values: the one in force, and those behind it.

use std::collections::BTreeMap;
use std::iter;
use std::time::Instant;

use serde_json::Value;

use super::{KeyStatus, KeyValue};
use crate::admin::json::rfc3339;
use crate::admin::overrides::seconds_left;
use crate::config::{
    DefaultText, HandoverSpec, KeyPath, KeyStep, SchemaDefaults, WrittenKey, WrittenKeys, WrittenSource,
};
use crate::server::{KeysInForce, Override, OverrideKey, OverrideKind, OverrideValue, View};

/// The values that an entry is shown with.
pub(super) struct KeyContext<'a> {
    pub(super) written: &'a WrittenKeys,
    pub(super) defaults: &'a SchemaDefaults,
    pub(super) now: Instant,
}

/// A key that is written, changed, or has a default.
pub(super) struct KeyEntry {
    pub(super) path: KeyPath,
    written: Option<WrittenKey>,
    layers: KeyLayers,
}

/// The values of a key beside the written one.
#[derive(Default)]
struct KeyLayers {
    /// The override of an operator. It comes before all others.
    set: Option<Override>,
    /// The value of a variable or of an option. It comes before the written value.
    outer: Option<KeyValue>,
    /// The value that the process computed for a key that is not written.
    computed: Option<u64>,
    /// The key as the last reload has it, if it waits for a restart.
    after_restart: Option<WrittenKey>,
}

impl KeyEntry {
    /// Returns the entry of a key that is not written.
    pub(super) fn unwritten(path: &KeyPath) -> Self {
        Self { path: path.clone(), written: None, layers: KeyLayers::default() }
    }

    /// Returns the value as it is written; `None` also for a secret.
    pub(super) fn written_value(&self) -> Option<&Value> {
        self.written.as_ref()?.value.as_ref()
    }

    /// Returns true if the key is neither written nor changed.
    pub(super) fn is_default(&self) -> bool {
        let KeyLayers { set, outer, computed: _, after_restart } = &self.layers;
        self.written.is_none() && set.is_none() && outer.is_none() && after_restart.is_none()
    }

    /// Returns the key and its value in force.
    pub(super) fn status(&self, context: &KeyContext<'_>) -> KeyStatus {
        let set = self.layers.set.as_ref();
        let mut values = self.values(context);
        let in_force = values.next().unwrap_or_else(KeyValue::none);
        let is_over = in_force.origin == "override" || in_force.origin == "environment";
        KeyStatus {
            key: self.path.to_string(),
            by: set.map(|set| set.by.to_string()),
            since: set.map(|set| rfc3339(set.since)),
            ends_in_seconds: set.and_then(|set| seconds_left(set, context.now)),
            otherwise: values.next().filter(|_| is_over),
            after_restart: self.after_restart(context),
            in_force,
        }
    }

    /// Returns the values of the key; the first is in force, and each would be without those before it.
    fn values(&self, context: &KeyContext<'_>) -> impl Iterator<Item = KeyValue> {
        let set = self.layers.set.as_ref().map(|set| KeyValue::of(override_value(&set.value), "override"));
        let outer = self.layers.outer.clone();
        let written = self.written.as_ref().map(|key| written_value(key, context));
        let default = default_value(&self.path, self.layers.computed, context);
        [set, outer, written, default].into_iter().flatten()
    }

    /// Returns the value that waits for a restart, if it differs.
    fn after_restart(&self, context: &KeyContext<'_>) -> Option<KeyValue> {
        match (&self.layers.after_restart, &self.written) {
            (Some(new), Some(written)) if new.value == written.value => None,
            (Some(new), _) => Some(written_value(new, context)),
            (None, Some(_)) if context.written.waits(&self.path) => {
                Some(default_value(&self.path, None, context).unwrap_or_else(KeyValue::none))
            }
            (None, _) => None,
        }
    }
}

impl KeyValue {
    fn of(value: impl Into<Value>, origin: &'static str) -> Self {
        Self { value: Some(value.into()), text: None, hidden: false, origin, place: None }
    }

    /// Returns the value of a key without a default.
    fn none() -> Self {
        Self {
            value: None,
            text: Some("not written".to_owned()),
            hidden: false,
            origin: "default",
            place: None,
        }
    }

    fn at(mut self, place: &str) -> Self {
        self.place = Some(place.to_owned());
        self
    }
}

/// Returns a value as it is written.
fn written_value(key: &WrittenKey, context: &KeyContext<'_>) -> KeyValue {
    let origin = match context.written.source() {
        WrittenSource::File(_) => "file",
        WrittenSource::CommandLine => "command_line",
    };
    let place = context.written.source().place(key.line);
    KeyValue { value: key.value.clone(), text: None, hidden: key.value.is_none(), origin, place }
}

/// Returns the default of a key; `None` if it has none.
fn default_value(path: &KeyPath, computed: Option<u64>, context: &KeyContext<'_>) -> Option<KeyValue> {
    let default = KeyValue { text: None, ..KeyValue::none() };
    let computed = computed.map(Value::from);
    Some(match context.defaults.of(path)? {
        DefaultText::Value(value) => KeyValue { value: Some(computed.unwrap_or(value)), ..default },
        DefaultText::Words(text) => KeyValue { value: computed, text: Some(text.to_owned()), ..default },
    })
}

fn override_value(value: &OverrideValue) -> Value {
    match value {
        OverrideValue::Weight(weight) => (*weight).into(),
        value => value.to_string().into(),
    }
}

/// Returns the keys that are written or changed, in the order of their paths.
pub(super) fn all(view: &View, keys: &KeysInForce) -> impl Iterator<Item = KeyEntry> {
    let mut layers = layers(view, keys).into_iter().peekable();
    let mut written = keys.written.in_order().peekable();
    iter::from_fn(move || {
        let is_written = match (written.peek(), layers.peek()) {
            (Some(key), Some((path, _))) => key.path <= *path,
            (key, _) => key.is_some(),
        };
        if !is_written {
            let (path, layers) = layers.next()?;
            return Some(KeyEntry { path, written: None, layers });
        }
        let key = written.next()?;
        let own = layers.next_if(|(path, _)| *path == key.path).map(|(_, layers)| layers);
        Some(KeyEntry { path: key.path.clone(), written: Some(key), layers: own.unwrap_or_default() })
    })
}

/// Returns the values beside the written ones, by key.
fn layers(view: &View, keys: &KeysInForce) -> BTreeMap<KeyPath, KeyLayers> {
    let mut layers: BTreeMap<KeyPath, KeyLayers> = BTreeMap::new();
    let snapshot = view.snapshot.load_full();
    for (key, set) in view.overrides.all() {
        let pool = snapshot.pools.get(&key.pool);
        let is_in_force =
            key.backend.is_empty() || pool.is_some_and(|pool| pool.pool.backend(&key.backend).is_some());
        if let Some(path) = overridden(&key, keys).filter(|_| is_in_force) {
            layers.entry(path).or_default().set = Some(set);
        }
    }
    let variable = |value: String, name: &str| Some(KeyValue::of(value, "environment").at(name));
    if let Some(level) = view.config().log_variable {
        let level = variable(level.word().to_owned(), "POINTSMAN_LOG");
        layers.entry(KeyPath::of_names("log.level")).or_default().outer = level;
    }
    if let (HandoverSpec::RuntimeDirectory, Some(socket)) = (&keys.handover, keys.handover.socket()) {
        let socket = variable(socket.display().to_string(), "RUNTIME_DIRECTORY");
        layers.entry(KeyPath::of_names("handover.socket")).or_default().outer = socket;
    }
    if let Some(address) = &keys.given_admin {
        let path = KeyPath::of_names("admin.listen").with(KeyStep::Member("--admin".to_owned()));
        let given = KeyValue::of(address.to_string(), "command_line").at("--admin");
        layers.entry(path).or_default().outer = Some(given);
    }
    let limit = view.bounds.connections.limit();
    for (path, value) in [("workers", view.workers as u64), ("max_connections", limit)] {
        layers.entry(KeyPath::of_names(path)).or_default().computed = Some(value);
    }
    for key in keys.written.after_restart() {
        layers.entry(key.path.clone()).or_default().after_restart = Some(key.clone());
    }
    layers
}

/// Returns the path of the key that an override changes; `None` for one that changes no key.
fn overridden(key: &OverrideKey, keys: &KeysInForce) -> Option<KeyPath> {
    let name = match key.kind {
        OverrideKind::State => "state",
        OverrideKind::Weight => "weight",
        OverrideKind::Log => return Some(KeyPath::of_names("log.level")),
        OverrideKind::Split => {
            let routes = KeyPath::of_names("listener").with(KeyStep::Name(key.listener.to_string()));
            let routes = routes.with(KeyStep::Name("routes".to_owned()));
            let route = routes.with(KeyStep::Member(key.route.to_string()));
            return Some(route.with(KeyStep::Name("split".to_owned())));
        }
        OverrideKind::Pause | OverrideKind::Leave => return None,
    };
    let found = || KeyPath::backends(&key.pool).with(KeyStep::Member(key.backend.to_string()));
    let backend = keys.written.backend(&key.pool, &key.backend).unwrap_or_else(found);
    Some(backend.with(KeyStep::Name(name.to_owned())))
}
