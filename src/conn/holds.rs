//! The slots, counts and places that a connection holds until it ends.

use std::rc::Rc;

use crate::limit::Permit;
use crate::live::{ConnectionRegistry, MigratingEntry, RegistryGuard, WorkerSlot};
use crate::pool::forward::ForwardMark;
use crate::pool::{Lease, SessionGuard};
use crate::telemetry::ActiveConnection;

/// All that a connection holds. Each part returns what it holds when it is dropped.
///
/// `E` is its entry in the registry of its worker, or a [`MigratingEntry`] between two workers.
pub(super) struct Holds<E = RegistryGuard> {
    /// Counts the connection as active, and has the metrics and name of its listener.
    pub(super) listener: ActiveConnection,
    pub(super) permit: Permit,
    /// The lease of the connected backend.
    pub(super) lease: Option<Lease>,
    /// Boxed, as most connections have none.
    marks: Option<Box<SessionMarks>>,
    /// The last field, so it is dropped last: when the registry is empty, all other parts have been returned
    /// too.
    pub(super) entry: E,
}

/// The marks by which an open connection is found.
#[derive(Default)]
struct SessionMarks {
    /// Set while the connection is forwarded by its server name, so that a loop back to this process is
    /// detected.
    forward: Option<ForwardMark>,
    /// Set while the connection may be a session whose query can be cancelled.
    session: Option<SessionGuard>,
}

impl Holds {
    /// Returns the holds of a connection that begins.
    pub(super) fn new(listener: ActiveConnection, permit: Permit, entry: RegistryGuard) -> Self {
        Self { listener, permit, lease: None, marks: None, entry }
    }

    /// Holds the mark of a connection that is forwarded by its name.
    pub(super) fn mark_forward(&mut self, mark: ForwardMark) {
        self.marks.get_or_insert_default().forward = Some(mark);
    }

    /// Holds the session by which requests to cancel a query find its backend.
    pub(super) fn mark_session(&mut self, session: SessionGuard) {
        self.marks.get_or_insert_default().session = Some(session);
    }

    /// Takes the connection out of the registry of this worker.
    pub(super) fn leave(self) -> Holds<MigratingEntry> {
        let Self { listener, permit, lease, marks, entry } = self;
        Holds { listener, permit, lease, marks, entry: entry.leave() }
    }
}

impl Holds<MigratingEntry> {
    /// Returns the holds of a connection that another program hands over.
    pub(super) fn handed(
        listener: ActiveConnection,
        permit: Permit,
        lease: Option<Lease>,
        entry: MigratingEntry,
    ) -> Self {
        Self { listener, permit, lease, marks: None, entry }
    }

    /// Holds the session by which requests to cancel a query find its backend.
    pub(super) fn hold_session(&mut self, session: SessionGuard) {
        self.marks.get_or_insert_default().session = Some(session);
    }

    /// Holds the mark of a connection that is forwarded by its name.
    pub(super) fn hold_forward(&mut self, mark: ForwardMark) {
        self.marks.get_or_insert_default().forward = Some(mark);
    }

    /// Returns the number of its mark, if it is forwarded by its name.
    pub(super) fn forward_mark(&self) -> Option<u64> {
        self.marks.as_ref()?.forward.as_ref().map(ForwardMark::number)
    }

    /// Returns true if requests to cancel a query find its backend by it.
    pub(super) fn is_session(&self) -> bool {
        self.marks.as_ref().is_some_and(|marks| marks.session.is_some())
    }

    /// Adds the connection to the registry of its new worker.
    pub(super) fn enter(self, registry: &Rc<ConnectionRegistry>, worker_slot: WorkerSlot) -> Holds {
        let Self { listener, permit, lease, marks, entry } = self;
        Holds { listener, permit, lease, marks, entry: registry.readmit(entry, worker_slot) }
    }
}
