//! The state of the process, to and from a [`ProcessState`](crate::wire::handover::ProcessState).
//!
//! The incumbent calls [`export()`] on a thread, with small copies of the state that only control has. The successor
//! restores the state after it has built its first snapshot, and before it accepts clients. Backends that are discovered
//! are in its second snapshot, so a part of the state waits in a [`PendingState`] until then.

mod counts;
mod export;
mod restore;

use std::collections::HashMap;
use std::sync::Arc;

use crate::ids::ListenerId;
use crate::pool::Backend;
use crate::snapshot::{Policy, Snapshot};
use crate::wire::handover::HandedBackend;

pub(in crate::server) use counts::add_counts;
pub(in crate::server) use export::{ControlCopies, export, export_additions};
pub(in crate::server) use restore::{PendingState, restore_additions};

/// The most sources that are handed over. Those that are over their rate come first. This is the default size of the
/// table of sources.
const MOST_SOURCES: usize = 65_536;

/// Returns one policy of each listener.
fn policies(snapshot: &Snapshot) -> Vec<&Arc<Policy>> {
    let by_id: HashMap<ListenerId, &Arc<Policy>> =
        snapshot.policies.values().map(|policy| (policy.listener_id, policy)).collect();
    by_id.into_values().collect()
}

/// A backend by the texts of its pool, its name and its address.
type BackendKey = (String, String, String);

fn key_of(backend: &Backend) -> BackendKey {
    (backend.pool().to_string(), backend.name().to_string(), backend.address().to_string())
}

fn key_of_handed(handed: &HandedBackend) -> BackendKey {
    (handed.pool.clone(), handed.name.clone(), handed.address.clone())
}

#[cfg(test)]
mod tests;
