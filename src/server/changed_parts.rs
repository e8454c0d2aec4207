//! The effect of overrides: the pools and routes that are to be built again, and the pauses of pools.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::in_force::{ChangedPart, InForce};
use super::overrides::{OverrideKey, OverrideKind, OverrideOutcome, OverrideRefusal, OverrideReply};
use super::start::Server;
use crate::pool::Pool;

/// The pools and listeners whose overrides have changed, and that are not in force with them yet.
#[derive(Default)]
pub(super) struct ChangedParts {
    pools: BTreeSet<Arc<str>>,
    /// The listeners whose routes have other shares.
    listeners: BTreeSet<Arc<str>>,
    /// The listener whose routes are built.
    building: Option<Arc<str>>,
    /// The answers to requests whose changes are not in force yet.
    answers: Vec<WaitingAnswer>,
}

/// The answer to a request whose change is not in force yet.
struct WaitingAnswer {
    reply: OverrideReply,
    outcome: Result<OverrideOutcome, OverrideRefusal>,
    /// The listener whose routes are to be built first; empty for other changes.
    listener: Arc<str>,
}

impl ChangedParts {
    /// Returns true if no part waits for its overrides.
    pub(super) fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.listeners.is_empty()
    }

    /// Notes the part of an override.
    pub(super) fn note(&mut self, key: &OverrideKey) {
        match key.kind {
            OverrideKind::State | OverrideKind::Weight => _ = self.pools.insert(Arc::clone(&key.pool)),
            OverrideKind::Split => _ = self.listeners.insert(Arc::clone(&key.listener)),
            // A pause has its effect at once, and the others concern no pool.
            OverrideKind::Pause | OverrideKind::Leave | OverrideKind::Log => {}
        }
    }

    /// Takes the pools.
    pub(super) fn take(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.pools)
    }

    /// Takes a listener, whose routes are built next.
    pub(super) fn take_listener(&mut self) -> Option<Arc<str>> {
        self.building = self.listeners.pop_first();
        self.building.clone()
    }

    /// Notes that the build of routes is over.
    pub(super) fn routes_built(&mut self) {
        self.building = None;
        self.send_answers();
    }

    /// Keeps the answer to a request about `key` until its change is in force.
    pub(super) fn answer_later(
        &mut self,
        key: &OverrideKey,
        reply: OverrideReply,
        outcome: Result<OverrideOutcome, OverrideRefusal>,
    ) {
        let listener = if outcome.is_ok() { Arc::clone(&key.listener) } else { "".into() };
        self.answers.push(WaitingAnswer { reply, outcome, listener });
    }

    /// Sends the answers to the changes that are in force: the pools are, and the routes that wait for no build.
    pub(super) fn send_answers(&mut self) {
        let (building, listeners) = (&self.building, &self.listeners);
        let is_in_force = |answer: &mut WaitingAnswer| {
            building.as_ref() != Some(&answer.listener) && !listeners.contains(&answer.listener)
        };
        for answer in self.answers.extract_if(.., is_in_force) {
            // A requester that is gone needs no answer.
            let _ = answer.reply.send(answer.outcome);
        }
    }

    /// Sends all answers: the process stops, and builds no more routes.
    pub(super) fn send_all_answers(&mut self) {
        self.listeners.clear();
        self.building = None;
        self.send_answers();
    }
}

/// Puts a changed override of a pause in force.
pub(super) fn follow_pause(server: &Server, key: &OverrideKey) {
    if key.kind == OverrideKind::Pause
        && let Some(served) = server.view.snapshot.load().pools.get(&key.pool)
    {
        pause_or_resume(server, &served.pool);
    }
}

/// Begins and ends the pauses of the pools that came into force, as the overrides say. The waiters of a removed pool go on to
/// its backends, which drain.
pub(super) fn follow_pauses(server: &Server, change: &InForce) {
    if matches!(change.part, ChangedPart::Configuration) {
        let removed = change.old.pools.iter().filter(|(name, _)| !change.new.pools.contains_key(*name));
        removed.for_each(|(_, served)| _ = served.pool.resume(Instant::now()));
    }
    change.pools().into_iter().for_each(|served| pause_or_resume(server, &served.pool));
}

/// Begins or ends the pause of a pool, as its override says.
fn pause_or_resume(server: &Server, pool: &Pool) {
    let name = Arc::clone(&pool.spec().name);
    let key = OverrideKey::of_pool(OverrideKind::Pause, &name);
    match server.view.overrides.get(&key) {
        Some(_) => pool.pause(),
        None => _ = pool.resume(Instant::now()),
    }
}
