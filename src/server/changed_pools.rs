//! The effect of overrides on pools: the pools that are to be built again, and their pauses.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::in_force::{ChangedPart, InForce};
use super::overrides::{OverrideKey, OverrideKind, OverrideOutcome, OverrideRefusal, OverrideReply};
use super::start::Server;
use crate::pool::Pool;

/// The pools whose overrides have changed, and that are not in force with them yet.
#[derive(Default)]
pub(super) struct ChangedPools {
    pools: BTreeSet<Arc<str>>,
    /// The answers to requests whose changes are not in force yet.
    answers: Vec<(OverrideReply, Result<OverrideOutcome, OverrideRefusal>)>,
}

impl ChangedPools {
    /// Returns true if a pool waits for its overrides.
    pub(super) fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.answers.is_empty()
    }

    /// Notes the pool of an override.
    pub(super) fn note(&mut self, key: &OverrideKey) {
        match key.kind {
            OverrideKind::State | OverrideKind::Weight => _ = self.pools.insert(Arc::clone(&key.pool)),
            // A pause has its effect at once, and the others concern no pool.
            OverrideKind::Pause | OverrideKind::Leave | OverrideKind::Log => {}
        }
    }

    /// Takes the pools.
    pub(super) fn take(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.pools)
    }

    /// Keeps the answer to a request until its change is in force.
    pub(super) fn answer_later(
        &mut self,
        reply: OverrideReply,
        outcome: Result<OverrideOutcome, OverrideRefusal>,
    ) {
        self.answers.push((reply, outcome));
    }

    /// Sends the answers: all changes are in force.
    pub(super) fn send_answers(&mut self) {
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
    let key = OverrideKey { kind: OverrideKind::Pause, pool: name, backend: "".into() };
    match server.view.overrides.get(&key) {
        Some(_) => pool.pause(),
        None => _ = pool.resume(Instant::now()),
    }
}
