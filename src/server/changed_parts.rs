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
    /// True while the routes of one of them are built.
    is_building: bool,
    /// The answers to requests whose changes are not in force yet.
    answers: Vec<(OverrideReply, Result<OverrideOutcome, OverrideRefusal>)>,
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
        let listener = self.listeners.pop_first();
        self.is_building = listener.is_some();
        listener
    }

    /// Notes that the build of routes is over.
    pub(super) fn routes_built(&mut self) {
        self.is_building = false;
        self.send_answers();
    }

    /// Keeps the answer to a request until its change is in force.
    pub(super) fn answer_later(
        &mut self,
        reply: OverrideReply,
        outcome: Result<OverrideOutcome, OverrideRefusal>,
    ) {
        self.answers.push((reply, outcome));
    }

    /// Sends the answers if all changes are in force.
    pub(super) fn send_answers(&mut self) {
        if self.is_building || !self.listeners.is_empty() {
            return;
        }
        // A requester that is gone needs no answer.
        self.answers.drain(..).for_each(|(reply, outcome)| _ = reply.send(outcome));
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
