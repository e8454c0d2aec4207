//! The table of the sessions of sources, for requests to cancel a query.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::backend::Backend;
use crate::ids::BackendId;

/// The backends at which the sources of a pool have connections. Shared by the pools of one name and by all session
/// guards. The table never has more entries than there are connections.
#[derive(Debug, Default)]
pub(super) struct SessionTable {
    /// The backend and the number of connections, by the key of the source and the backend. A lock
    /// because any worker may use the table; it is held for one look-up.
    open: Mutex<BTreeMap<SessionKey, (Arc<Backend>, u64)>>,
}

type SessionKey = (u64, BackendId);

impl SessionTable {
    fn open(&self) -> MutexGuard<'_, BTreeMap<SessionKey, (Arc<Backend>, u64)>> {
        // A panic while the lock was held cannot leave a half-made state: each entry is valid alone.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a connection of a source to a backend. Dropping the guard removes the entry.
    pub(super) fn store(self: &Arc<Self>, source: u64, backend: &Arc<Backend>) -> SessionGuard {
        let place = (source, backend.id());
        self.open().entry(place).or_insert_with(|| (Arc::clone(backend), 0)).1 += 1;
        SessionGuard { sessions: Arc::clone(self), place }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open().is_empty()
    }

    /// The backend of all connections of a source, if all are at one backend.
    pub(super) fn only(&self, source: u64) -> Option<Arc<Backend>> {
        let open = self.open();
        let entries = open.range((source, BackendId::nth(0))..).take_while(|((of, _), _)| *of == source);
        let mut backends = entries.map(|(_, (backend, _))| backend);
        backends.next().filter(|_| backends.next().is_none()).map(Arc::clone)
    }
}

/// The stored entry of a connection, by its source and its backend. Dropping it removes the entry.
#[derive(Debug)]
#[must_use = "what is dropped is forgotten"]
pub struct SessionGuard {
    sessions: Arc<SessionTable>,
    place: SessionKey,
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let mut open = self.sessions.open();
        if let Some((_, count)) = open.get_mut(&self.place) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.place);
            }
        }
    }
}
