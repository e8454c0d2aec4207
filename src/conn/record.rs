//! The record of a connection: counted and logged exactly once, when the connection ends.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::context::WorkerContext;
use super::fields::{LogFields, RecordFields};
use super::holds::Holds;
use super::migration::MigratingRecord;
use super::saturation::RefusedConnection;
use crate::limit::{Moment, Permit};
use crate::live::{ConnectionEntry, ConnectionRegistry, RegistryGuard, WorkerSlot};
use crate::pool::{FailureReport, Lease, Trouble};
use crate::relay::RelayOwner;
use crate::snapshot::Policy;
use crate::sys::Address;
use crate::telemetry::{
    AccessEvent, AccessRecord, ClientAddr, CloseKind, CloseReason, Direction, ListenerMetrics, OpenCounts,
    Saturation,
};

/// The growing record of a connection, with all that the connection holds.
///
/// The end of a connection is counted and logged exactly once. [`ConnectionRecord::close`] does this, or the drop
/// of the record after its task panicked or its worker ended.
pub(super) struct ConnectionRecord {
    /// `None` only once the record has ended.
    open: Option<OpenRecord>,
    context: Rc<WorkerContext>,
}

/// A record that has not ended.
struct OpenRecord {
    holds: Holds,
    fields: RecordFields,
}

impl OpenRecord {
    /// Returns the facts by which a refusal of the connection is counted.
    fn refused(&self) -> RefusedConnection<'_> {
        RefusedConnection {
            client: &self.fields.client,
            link: self.holds.entry.link(),
            listener: &self.holds.listener.name,
            pool: self.holds.entry.card().pool.clone(),
        }
    }
}

/// The time after the accept in which a reset by the backend is a failure, if the backend has not sent a byte.
/// A connection that was silent for longer was not in use, so its reset is no failure.
const EARLY: Duration = Duration::from_secs(10);

const OPEN: &str = "only the end of a record takes it";

impl ConnectionRecord {
    /// Begins the record of an admitted connection.
    pub(super) fn begin(
        client: Address,
        policy: &Policy,
        permit: Permit,
        entry: RegistryGuard,
        context: &Rc<WorkerContext>,
    ) -> Self {
        let holds = Holds::new(policy.metrics.accepted(), permit, entry);
        let open = OpenRecord { holds, fields: RecordFields::new(client) };
        Self { open: Some(open), context: Rc::clone(context) }
    }

    /// Takes the record out of this worker.
    pub(super) fn detach(mut self) -> MigratingRecord {
        let OpenRecord { holds, fields } = self.open.take().expect(OPEN);
        MigratingRecord { holds: holds.leave(), fields }
    }

    /// Continues the record in this worker.
    pub(super) fn attach(
        migrating: MigratingRecord,
        worker_slot: WorkerSlot,
        context: &Rc<WorkerContext>,
    ) -> Self {
        let MigratingRecord { holds, fields } = migrating;
        let open = OpenRecord { holds: holds.enter(&context.registry, worker_slot), fields };
        Self { open: Some(open), context: Rc::clone(context) }
    }

    fn open(&self) -> &OpenRecord {
        self.open.as_ref().expect(OPEN)
    }

    /// All that the connection holds.
    pub(super) fn holds(&self) -> &Holds {
        &self.open().holds
    }

    /// All that the connection holds, to hold more or to return a part.
    pub(super) fn holds_mut(&mut self) -> &mut Holds {
        &mut self.open.as_mut().expect(OPEN).holds
    }

    pub(super) fn fields(&self) -> &RecordFields {
        &self.open().fields
    }

    pub(super) fn fields_mut(&mut self) -> &mut RecordFields {
        &mut self.open.as_mut().expect(OPEN).fields
    }

    /// The entry of the connection in its worker's registry.
    pub(super) fn entry(&self) -> &RegistryGuard {
        &self.holds().entry
    }

    /// The permit of the connection, to hold further slots or to return some.
    pub(super) fn permit(&mut self) -> &mut Permit {
        &mut self.holds_mut().permit
    }

    pub(super) fn context(&self) -> Rc<WorkerContext> {
        Rc::clone(&self.context)
    }

    /// The registry of the connection's worker.
    pub(super) fn registry(&self) -> &ConnectionRegistry {
        &self.context.registry
    }

    pub(super) fn client(&self) -> &Address {
        &self.fields().client
    }

    /// Counts a reset by the backend. It is also a failure if it came early and the backend had sent nothing.
    pub(super) fn reset_by_backend(&self) {
        let Some(lease) = &self.holds().lease else { return };
        lease.was_reset();
        if self.entry().total(Direction::FromBackend) == 0 && self.age() <= EARLY {
            self.report(lease.met(Trouble::EarlyReset));
        }
    }

    /// Sends a failure report to control. If the channel is full the report is lost; further failures cause the
    /// next report.
    pub(super) fn report(&self, failure_report: Option<FailureReport>) {
        if let Some(failure_report) = failure_report {
            let _ = self.context.failure_reports.try_send(failure_report);
        }
    }

    /// Counts a resource of this host that was used up.
    pub(super) fn note_saturation(&self, kind: Saturation) {
        self.open().refused().note(kind, &self.context);
    }

    /// The time since the connection was accepted.
    pub(super) fn age(&self) -> Duration {
        self.entry().began().elapsed()
    }

    /// Ends the record.
    pub(super) fn close(mut self, reason: CloseReason) {
        self.finish(reason);
    }

    /// Returns true if the connection may be logged.
    pub(super) fn may_be_logged(&self) -> bool {
        self.context.access_log.is_on()
    }

    /// Sets fields for the access log. Does nothing without an access log.
    pub(super) fn set_log_fields(&mut self, set: impl FnOnce(&mut LogFields)) {
        if self.may_be_logged() {
            set(self.fields_mut().log.get_or_insert_default());
        }
    }

    fn finish(&mut self, reason: CloseReason) {
        let Some(open) = self.open.take() else { return };
        let total = open.holds.entry.began().elapsed();
        open.holds.listener.closed(reason, total);
        let is_silent = open.holds.lease.as_ref().is_some_and(Lease::is_waiting);
        open.holds.entry.tallies().close(CloseKind::of(reason), is_silent);
        if let Some(kind) = Saturation::of(reason) {
            open.refused().note(kind, &self.context);
        }
        let OpenRecord { holds, fields } = open;
        let access_log = &self.context.access_log;
        let has_sent = fields.log.as_ref().is_some_and(|log_fields| log_fields.has_sent);
        let is_left_out = !has_sent && is_empty(reason, &holds.entry) && access_log.leaves_out_empty();
        if !is_left_out && is_logged(reason, &holds.listener, &self.context) {
            access_log.push(fields.into_access_record(&holds, AccessEvent::End(reason), total));
        }
    }

    /// Logs that the backend was connected, and begins the interval records.
    pub(super) fn log_start(&self) {
        let access_log = &self.context.access_log;
        if access_log.interval().is_some() {
            // No record is due for the time before.
            self.entry().logged(false);
        }
        if access_log.has_starts() {
            let mut record = self.access_record(AccessEvent::Start);
            // The interval records and the end count these bytes.
            record.delta = [0; 2];
            access_log.push(record);
        }
    }

    /// Returns a record of the open connection.
    fn access_record(&self, event: AccessEvent) -> AccessRecord {
        let OpenRecord { holds, fields } = self.open();
        fields.clone().into_access_record(holds, event, self.age())
    }
}

impl RelayOwner for ConnectionRecord {
    fn entry(&self) -> &RegistryGuard {
        self.entry()
    }

    /// Reports the byte to the lease.
    fn first_byte(&self) {
        if let Some(lease) = &self.holds().lease
            && lease.spoke()
            && let Some(pool) = self.entry().tallies().pool()
        {
            pool.first_byte.observe(self.fields().since_connected(self.entry().began()));
        }
    }

    fn log(&self) {
        let access_log = &self.context.access_log;
        let is_logged =
            access_log.interval().is_some() && access_log.push(self.access_record(AccessEvent::Interval));
        self.entry().logged(is_logged);
    }
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        let Some(OpenRecord { holds, fields }) = &self.open else { return };
        if std::thread::panicking() {
            self.context.metrics.process().panics.increment(1);
            let (client, listener) = (&fields.client, &holds.listener.name);
            tracing::error!(%client, %listener, "a connection panicked and is closed; all others go on");
            self.finish(CloseReason::Internal);
        } else {
            self.finish(CloseReason::DrainDeadline);
        }
    }
}

/// Logs and counts a connection that was refused at its accept.
pub(super) fn refused(
    id: u64,
    client: Address,
    reason: CloseReason,
    policy: &Policy,
    context: &WorkerContext,
) {
    let listener = policy.metrics.accepted();
    listener.closed(reason, Duration::ZERO);
    if let Some(kind) = Saturation::of(reason) {
        let refused = RefusedConnection { client: &client, link: None, listener: &listener.name, pool: None };
        refused.note(kind, context);
    }
    if is_logged(reason, &listener, context) {
        let name = Arc::clone(&listener.name);
        let (accepted, client) = (SystemTime::now(), ClientAddr(client));
        let (process, at_listener) = (context.bounds.connections.inside(), policy.gate.inside());
        let open = OpenCounts { process, listener: at_listener, backend: 0 };
        let record = AccessRecord::refused(id, accepted, client, name, reason);
        context.access_log.push(AccessRecord { open, ..record });
    }
}

/// Returns true if the client ended without a byte in either direction.
fn is_empty(reason: CloseReason, entry: &ConnectionEntry) -> bool {
    let has_bytes = Direction::ALL.into_iter().any(|direction| entry.total(direction) > 0);
    reason.is_of_a_client_that_left() && !has_bytes && entry.total_dropped() == 0
}

/// Returns true if the end of a connection makes a record. Reasons that a flood can cause have a limit of records a second.
fn is_logged(reason: CloseReason, listener: &ListenerMetrics, context: &WorkerContext) -> bool {
    if !context.access_log.has_ends() {
        return false;
    }
    let is_logged = !reason.is_sampled() || listener.refusal_lines.admit(Moment::now());
    if !is_logged {
        listener.unlogged_refusals.increment(1);
    }
    is_logged
}
