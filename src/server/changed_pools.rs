//! The effect of overrides on pools: the pools that are to be built again, and their pauses.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::overrides::{OverrideKey, OverrideKind};
use super::start::Server;
use crate::snapshot::Snapshot;

/// The pools whose overrides have changed, and that are not in force with them yet.
#[derive(Default)]
pub(super) struct ChangedPools(BTreeSet<Arc<str>>);

impl ChangedPools {
    /// Returns true if a pool waits for its overrides.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes the pool of an override.
    pub(super) fn note(&mut self, key: &OverrideKey) {
        match key.kind {
            OverrideKind::State | OverrideKind::Weight => _ = self.0.insert(Arc::clone(&key.pool)),
            // A pause has its effect at once, and the others concern no pool.
            OverrideKind::Pause | OverrideKind::Leave | OverrideKind::Log => {}
        }
    }

    /// Takes the pools.
    pub(super) fn take(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.0)
    }
}

/// Begins or ends the pause of a pool, as its override says.
pub(super) fn follow_pause(server: &Server, key: &OverrideKey) {
    if key.kind == OverrideKind::Pause {
        pause_pools(server, &server.view.snapshot.load(), Some(&key.pool));
    }
}

/// Begins and ends the pauses of pools, as the overrides say: of all pools, or of one.
pub(super) fn pause_pools(server: &Server, snapshot: &Snapshot, only: Option<&Arc<str>>) {
    for (name, served) in &snapshot.pools {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let key = OverrideKey { kind: OverrideKind::Pause, pool: Arc::clone(name), backend: "".into() };
        match server.view.overrides.get(&key) {
            Some(_) => served.pool.pause(),
            None => _ = served.pool.resume(Instant::now()),
        }
    }
}
