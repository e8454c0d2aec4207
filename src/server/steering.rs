//! The requests of operators that change overrides.

use std::sync::Arc;
use std::time::Instant;

use humantime::format_duration;

use super::build_routes::route_name;
use super::changed_parts::follow_pause;
use super::control::Control;
use super::events::{EventKind, Severity};
use super::overrides::{
    OverrideChange, OverrideKey, OverrideKind, OverrideOutcome, OverrideRefusal, OverrideRequest,
    OverrideValue,
};
use super::route_files::RoutesBuild;
use super::split_shares::SplitShares;
use super::start::Server;
use crate::pool::OperatorState;
use crate::snapshot::{ActionSpec, RouteSpec};

impl Control {
    /// Makes a change that an operator requested. It is in force before the answer.
    pub(super) fn override_part(&mut self, request: OverrideRequest) {
        let OverrideRequest { change, reply } = request;
        let key = change.key.clone();
        let outcome = self.change_override(change);
        // The routes of a listener are built on a thread: the answer waits for them.
        self.followers.changed_parts.answer_later(&key, reply, outcome);
        self.followers.apply_overrides(&self.server);
    }

    /// Makes a change that an operator requested while a snapshot is built. It comes into force after this snapshot, and the
    /// answer is sent then.
    pub(super) fn override_part_later(&mut self, request: OverrideRequest) {
        let OverrideRequest { change, reply } = request;
        let key = change.key.clone();
        let outcome = self.change_override(change);
        self.followers.changed_parts.answer_later(&key, reply, outcome);
    }

    /// Changes the table, and notes the pool or the listener that is to be built again.
    fn change_override(&mut self, change: OverrideChange) -> Result<OverrideOutcome, OverrideRefusal> {
        let change = self.as_written(change);
        if let Some(OverrideValue::Split(shares)) = &change.value
            && !shares.is_whole()
            && !has_another_pool(&self.server, &change.key, shares)
        {
            return Err(OverrideRefusal::NotWhole);
        }
        let OverrideChange { key, value, time, by } = change.clone();
        let outcome = self.server.view.overrides.change(change)?;
        let time = time.map(|time| format_duration(time).to_string());
        self.note_override(&key, value, outcome, time, &by);
        self.followers.changed_parts.note(&key);
        follow_pause(&self.server, &key);
        self.follow_log_level(&key);
        Ok(outcome)
    }

    /// Returns the change that puts the requested value in force. A backend that the configuration has as ready is ready
    /// without an override.
    fn as_written(&self, change: OverrideChange) -> OverrideChange {
        let OverrideKey { pool, backend, .. } = &change.key;
        let is_ready = change.value == Some(OverrideValue::State(OperatorState::Ready))
            && written_state(&self.server, pool, backend) == OperatorState::Ready;
        if is_ready { OverrideChange { value: None, ..change } } else { change }
    }

    /// Logs a change.
    fn note_override(
        &self,
        key: &OverrideKey,
        value: Option<OverrideValue>,
        outcome: OverrideOutcome,
        time: Option<String>,
        by: &str,
    ) {
        let time = time.map(|time| format!(" for {time}")).unwrap_or_default();
        let OverrideKey { pool, backend, listener, route, .. } = key;
        let text = match (value, outcome) {
            (_, OverrideOutcome::Absent) => format!("there was no override of {key} to end, asked by {by}"),
            (None, _) => format!("the override of {key} was ended, by {by}"),
            (Some(OverrideValue::State(state)), _) => {
                format!("backend {pool}/{backend} has the operator state {}{time}, by {by}", state.word())
            }
            (Some(OverrideValue::Weight(weight)), _) => {
                format!("backend {pool}/{backend} has the weight {weight}{time}, by {by}")
            }
            (Some(OverrideValue::Pause), _) => format!("pool {pool} is paused{time}, by {by}"),
            (Some(OverrideValue::Split(shares)), _) => {
                format!("route {listener}/{route} has the shares {shares}{time}, by {by}")
            }
            (Some(OverrideValue::Leave), _) => {
                format!("this process leaves: /ready answers 503{time}, by {by}")
            }
            (Some(OverrideValue::Log(level)), _) => {
                format!("the log has the level {}{time}, by {by}", level.word())
            }
        };
        tracing::info!("{text}");
        self.server.view.events.note(EventKind::Override, Severity::Info, text);
    }

    /// Ends the overrides whose time is over.
    pub(super) fn end_overrides(&mut self) {
        for key in self.server.view.overrides.take_ended(Instant::now()) {
            let text = format!("the override of {key} has ended: its time is over");
            tracing::info!("{text}");
            self.server.view.events.note(EventKind::Override, Severity::Info, text);
            self.followers.changed_parts.note(&key);
            follow_pause(&self.server, &key);
            self.follow_log_level(&key);
        }
    }

    /// Puts the level of the log in force, as its override says.
    fn follow_log_level(&self, key: &OverrideKey) {
        if let Some(log) = self.log.as_ref().filter(|_| key.kind == OverrideKind::Log) {
            log.override_level(self.server.view.overrides.log_level(), self.server.config.log.level);
        }
    }

    /// Ends all overrides: an operator has reloaded the configuration without them.
    pub(super) fn reset_overrides(&mut self, by: &Arc<str>) {
        for (key, _) in self.server.view.overrides.all() {
            let change = OverrideChange { key, value: None, time: None, by: Arc::clone(by) };
            // The end of an override is never refused.
            let _ = self.change_override(change);
        }
        self.followers.apply_overrides(&self.server);
    }

    /// Puts all overrides in force: those of the program before this one.
    pub(super) fn apply_restored_overrides(&mut self) {
        for (key, _) in self.server.view.overrides.all() {
            self.followers.changed_parts.note(&key);
            self.follow_log_level(&key);
        }
        self.followers.apply_overrides(&self.server);
        // No client waits yet.
        while let Some(build) = self.next_split() {
            self.routes_built(build.build());
        }
    }

    /// Returns the next routes to build, with the shares that operators have set.
    pub(super) fn next_split(&mut self) -> Option<RoutesBuild> {
        let listener = self.followers.changed_parts.take_listener()?;
        Some(RoutesBuild::with_shares(listener, &self.server))
    }
}

/// Returns true if the configuration has a pool in this route that the shares do not name.
fn has_another_pool(server: &Server, key: &OverrideKey, shares: &SplitShares) -> bool {
    let is_other = |pool: &Arc<str>| !shares.pools().any(|named| *named == **pool);
    let listener = server.config.listeners.iter().find(|spec| spec.name == key.listener);
    let routes = listener.map_or(&[][..], |spec| spec.policy.protocol.routes());
    let is_named = |route: &&RouteSpec| match &route.name {
        Some(name) => *name == key.route,
        None => route.keys.iter().any(|written| route_name(route, written) == key.route),
    };
    routes.iter().filter(is_named).any(|route| match &route.action {
        ActionSpec::Pool(pool) => is_other(pool),
        ActionSpec::Split(_, pools) => pools.iter().any(is_other),
        ActionSpec::Reject | ActionSpec::Drop => false,
    })
}

/// Returns the state that the configuration has for a backend. A discovered backend is ready.
fn written_state(server: &Server, pool: &str, backend: &str) -> OperatorState {
    let pool = server.config.pools.iter().find(|spec| &*spec.name == pool);
    let backend = pool.and_then(|spec| spec.backends.iter().find(|spec| &*spec.name == backend));
    backend.map_or(OperatorState::Ready, |spec| spec.operator_state)
}
