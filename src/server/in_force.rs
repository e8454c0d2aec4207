//! Puts a snapshot in force.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use super::view::View;
use crate::snapshot::{ServedPool, Snapshot};

/// A change that has come into force. This value is made only when a snapshot is put in force. So a follower
/// that gets the value finds the snapshot in force.
pub(super) struct InForce {
    /// The snapshot before the change.
    pub(super) old: Arc<Snapshot>,
    /// The snapshot in force.
    pub(super) new: Arc<Snapshot>,
    /// The part that changed.
    pub(super) part: ChangedPart,
}

/// The part of a snapshot that changed.
pub(super) enum ChangedPart {
    /// All of it: the control loop starts, and the backends of pools with sources are not found yet.
    Bound,
    /// All of it: the backends of the start were found, or a reload came into force.
    Configuration,
    /// The backends of one pool. The connections of removed backends have this time to end.
    Pool(Arc<ServedPool>, Duration),
    /// The routes of one listener.
    Routes,
}

impl InForce {
    /// Returns the snapshot of the start, which is in force before the control loop runs.
    pub(super) fn bound(view: &View) -> Self {
        let (old, new) = (Arc::default(), view.snapshot.load_full());
        Self { old, new, part: ChangedPart::Bound }
    }

    /// Puts a whole snapshot in force.
    pub(super) fn configuration(view: &View, new: Arc<Snapshot>) -> Self {
        Self::put(view, new, ChangedPart::Configuration)
    }

    /// Puts a pool with other backends in force. The connections of removed backends have `drain` to end.
    pub(super) fn pool(view: &View, pool: Arc<ServedPool>, drain: Duration) -> Self {
        let new = view.snapshot.load().replace(&pool.pool.spec().name, Arc::clone(&pool));
        Self::put(view, Arc::new(new), ChangedPart::Pool(pool, drain))
    }

    /// Puts a snapshot in force in which one listener has other routes.
    pub(super) fn routes(view: &View, new: Snapshot) -> Self {
        Self::put(view, Arc::new(new), ChangedPart::Routes)
    }

    fn put(view: &View, new: Arc<Snapshot>, part: ChangedPart) -> Self {
        let old = view.snapshot.load_full();
        view.put_in_force(Arc::clone(&new));
        Self { old, new, part }
    }

    /// Returns the pools that came into force.
    pub(super) fn pools(&self) -> Vec<&Arc<ServedPool>> {
        match &self.part {
            ChangedPart::Bound | ChangedPart::Configuration => self.new.pools.values().collect(),
            ChangedPart::Pool(pool, _) => slice::from_ref(pool).iter().collect(),
            ChangedPart::Routes => Vec::new(),
        }
    }
}
