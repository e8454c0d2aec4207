//! One connection, from accept to close.
//!
//! `receive` runs in the accept loop and starts the journey in `serve`: read, route, dial, relay. This module
//! decides nothing itself. Each step returns the input of the next step, or the [`CloseReason`] with which the
//! connection ends. A `ConnectionRecord` counts and logs that reason exactly once.
//!
//! The journey has two stages. The first reads and dials. The second, the relay, replaces it and its memory:
//! a connection that is idle for days keeps nothing of the first stage.

mod admission;
mod announce;
mod attempt;
mod dial;
mod exchange;
mod gone;
mod list_access;
mod migration;
mod proxied;
mod reading;
mod record;
mod refusal;
mod route;
mod sniff;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::executor::{self, TaskNext};
use crate::limit::{Gate, Overload, Permit, SourceTable};
use crate::live::{ConnectionRegistry, WorkerSlot};
use crate::pool::FailureReport;
use crate::relay::{Engines, Relay, RelayEnd, RelayOptions, RelaySettings, Side};
use crate::snapshot::{Policy, Protocol, Snapshot, SocketId};
use crate::sys::listen::Accepted;
use crate::telemetry::{AccessLog, CloseReason, Metrics, SaturationLog};
use exchange::Intent;
pub use migration::{Migration, MigrationSenders};
use migration::{MigrationContent, StoppedRelay};
use proxied::ProxiedClient;
use record::ConnectionRecord;
use sniff::SniffedClient;

/// The idle time of a request to cancel, which bounds the time that the server takes for it.
const CANCEL_IDLE: Duration = Duration::from_secs(10);
/// The half-closed time of a request to cancel, in which its client must close.
const CANCEL_HALF_CLOSED: Duration = Duration::from_secs(1);

/// The state that the connections of one worker share.
pub struct WorkerContext {
    /// The snapshot in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The worker's connections.
    pub registry: Rc<ConnectionRegistry>,
    /// The worker's buffer and pipes.
    pub engines: Rc<Engines>,
    /// The limits of the process.
    pub bounds: Arc<ProcessBounds>,
    /// The access log of the process.
    pub access_log: AccessLog,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// The channels to the other workers.
    pub migration_senders: Arc<MigrationSenders>,
    /// The channel to control for failures of clients at a backend.
    pub failure_reports: mpsc::Sender<FailureReport>,
}

/// The state that all connections of the process share.
pub struct ProcessBounds {
    /// Open connections.
    pub connections: Arc<Gate>,
    /// The connections and rates of each source.
    pub sources: Arc<SourceTable>,
    /// Refused clients that are held in the tarpit.
    pub tarpit: Arc<Gate>,
    /// True while the process is near its limit.
    pub overload: Overload,
    /// The limits that refuse connections now.
    pub saturation: SaturationLog,
    /// Bytes of hellos that did not come with the first read, until a backend is connected.
    pub hello_memory: Arc<Gate>,
    /// The number of the next connection.
    pub next_id: AtomicU64,
    /// The addresses on which this process listens. No connection is forwarded to them.
    pub own: ArcSwap<Vec<SocketAddr>>,
}

/// A connection that was just accepted.
pub struct AcceptedConnection {
    /// Its socket and the address of its client.
    pub accepted: Accepted,
    /// The listening socket that accepted it.
    pub through: SocketId,
    /// The policy of that socket at the accept.
    pub policy: Arc<Policy>,
}

/// An accepted connection that may be served.
struct AdmittedConnection {
    arrival: AcceptedConnection,
    id: u64,
    permit: Permit,
}

/// Admits a connection and starts it in this worker, or in a worker that has far fewer connections.
pub fn receive(arrival: AcceptedConnection, context: &Rc<WorkerContext>) {
    let Some(admitted) = admit(arrival, context) else { return };
    let Some((worker, worker_slot)) = context.registry.worker_slot_elsewhere() else {
        return begin(admitted, context.registry.worker_slot(), context);
    };
    match context
        .migration_senders
        .send(worker, Migration { worker_slot, content: MigrationContent::Admitted(Box::new(admitted)) })
    {
        Err(Migration { content: MigrationContent::Admitted(admitted), .. }) => {
            begin(*admitted, context.registry.worker_slot(), context);
        }
        _ => context.metrics.process().accepted_moved.increment(1),
    }
}

/// Admits a connection and starts it in this worker.
pub fn receive_here(arrival: AcceptedConnection, context: &Rc<WorkerContext>) {
    if let Some(admitted) = admit(arrival, context) {
        begin(admitted, context.registry.worker_slot(), context);
    }
}

/// Continues a connection that another worker sent.
pub fn take_over(migration: Migration, context: &Rc<WorkerContext>) {
    match migration.content {
        MigrationContent::Admitted(admitted) => begin(*admitted, migration.worker_slot, context),
        MigrationContent::Relay(stopped_relay) => {
            if let Some((relay, record)) = stopped_relay.attach(migration.worker_slot, context) {
                executor::spawn(carry(relay, record));
            }
        }
    }
}

/// Admits a connection, or refuses it. A refused connection holds no permit.
fn admit(arrival: AcceptedConnection, context: &WorkerContext) -> Option<AdmittedConnection> {
    let AcceptedConnection { accepted, policy, .. } = &arrival;
    let id = context.bounds.next_id.fetch_add(1, Ordering::Relaxed);
    let listed = list_access::peer(&accepted.peer, policy);
    match listed.and_then(|()| admission::peer(&accepted.peer, policy, context)) {
        Ok(permit) => Some(AdmittedConnection { arrival, id, permit }),
        Err(reason) => {
            let AcceptedConnection { accepted, policy, .. } = arrival;
            record::refused(id, accepted.peer, reason, &policy, context);
            match listed {
                Ok(()) => admission::refuse_early(accepted.socket, reason, &policy, context),
                Err(_) => list_access::refuse_early(&accepted.socket, &policy),
            }
            None
        }
    }
}

/// Starts the task of a connection.
fn begin(admitted: AdmittedConnection, worker_slot: WorkerSlot, context: &Rc<WorkerContext>) {
    let AdmittedConnection { arrival: AcceptedConnection { accepted, through, policy }, id, permit } =
        admitted;
    let entry = context.registry.register(id, policy.listener_id, worker_slot, Arc::clone(&policy.metrics));
    entry.set_client(&accepted.peer);
    entry.set_reading(matches!(policy.protocol, Protocol::Tls(_)));
    let mut record = ConnectionRecord::begin(accepted.peer, &policy, entry, context);
    record.hold(permit);
    executor::spawn(serve(accepted.socket, through, policy, record, Rc::clone(context)));
}

/// Runs the first stage: from the accept to a connected backend.
async fn serve(
    client: OwnedFd,
    through: SocketId,
    policy: Arc<Policy>,
    mut record: ConnectionRecord,
    context: Rc<WorkerContext>,
) -> TaskNext {
    let entry = record.entry().share();
    let prepared = tokio::select! {
        biased;
        prepared = prepare(client, &through, policy, &mut record, &context) => prepared,
        reason = entry.closed() => Err(reason),
    };
    match prepared {
        Ok(relay) => TaskNext::stage(carry(relay, record)),
        Err(reason) => {
            record.close(reason);
            TaskNext::Done
        }
    }
}

/// Runs the second stage: moves bytes until the connection ends.
///
/// The size of this future is the cost of an idle connection.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice: twice the memory of an idle connection"
)]
fn carry(mut relay: Relay, record: ConnectionRecord) -> impl Future<Output = TaskNext> {
    async move {
        relay.begin(record.entry());
        let stopped = poll_fn(|cx| {
            let polled = relay.poll(cx, record.entry());
            record.report_first_byte();
            polled
        })
        .await;
        let end = match relay.end(stopped, record.entry()) {
            Ok(end) => end,
            // Boxed, as it is rare and too large to be part of each idle connection.
            Err(breach) => Box::pin(relay.pass_on(breach, record.entry())).await,
        };
        match end {
            RelayEnd::Moved { to } => send(to, relay, record),
            end => {
                drop(relay);
                record.report_first_byte();
                if end == (RelayEnd::Reset { by: Side::Backend }) {
                    record.reset_by_backend();
                }
                record.close(reason(end));
            }
        }
        TaskNext::Done
    }
}

/// Sends a connection to another worker. If that worker has ended, the connection goes on in this one.
fn send(worker: usize, relay: Relay, record: ConnectionRecord) {
    let context = record.context();
    let Some(stopped_relay) = StoppedRelay::detach(relay, record) else { return };
    let migration = Migration {
        worker_slot: context.registry.worker_slot_at(worker),
        content: MigrationContent::Relay(stopped_relay),
    };
    match context.migration_senders.send(worker, migration) {
        Err(Migration { content, .. }) => {
            take_over(Migration { worker_slot: context.registry.worker_slot(), content }, &context)
        }
        Ok(()) => context.metrics.process().streams_moved.increment(1),
    }
}

/// Returns the close reason for the end of a relay.
fn reason(end: RelayEnd) -> CloseReason {
    match end {
        RelayEnd::Finished { first: Side::Client } => CloseReason::ClientFin,
        RelayEnd::Finished { first: Side::Backend } => CloseReason::BackendFin,
        RelayEnd::Reset { by: Side::Client } => CloseReason::ClientReset,
        RelayEnd::Reset { by: Side::Backend } => CloseReason::BackendReset,
        RelayEnd::Vanished { side: Side::Client } => CloseReason::ClientVanished,
        RelayEnd::Vanished { side: Side::Backend } => CloseReason::BackendVanished,
        RelayEnd::Stalled { side: Side::Client } => CloseReason::ClientStalled,
        RelayEnd::Stalled { side: Side::Backend } => CloseReason::BackendStalled,
        RelayEnd::Idle => CloseReason::IdleTimeout,
        RelayEnd::HalfClosed => CloseReason::HalfClosedTimeout,
        RelayEnd::Closed { reason } => reason,
        RelayEnd::Moved { .. } => CloseReason::DrainDeadline,
    }
}

/// Reads the first bytes of the client, routes the connection and connects it to a backend.
async fn prepare(
    client: OwnedFd,
    through: &SocketId,
    mut policy: Arc<Policy>,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<Relay, CloseReason> {
    let proxied = match &policy.proxy {
        None => ProxiedClient::plain(client),
        Some(proxy) => {
            // Boxed, as most listeners read no header and need no memory for it.
            let proxied = Box::pin(proxied::open(client, proxy, record, context)).await?;
            refresh(&mut policy, through, context);
            let proxied = list_access::client(proxied, &policy, record).await?;
            admission::source(proxied, &policy, record, context)?
        }
    };
    let ProxiedClient { client, bytes, header, shadowed } = proxied;
    let mut sniffed = match &policy.protocol {
        Protocol::Tcp(_) => SniffedClient::nothing(client, bytes)?,
        Protocol::Tls(tls) => {
            let sniffed =
                sniff::first_bytes(client, bytes, &policy.opening, &tls.hello, record, context).await?;
            record.was_read();
            refresh(&mut policy, through, context);
            sniffed
        }
    };
    sniffed.facts.proxy = header;
    let served = match route::route(&policy, &sniffed, record) {
        Ok(served) => served,
        Err(rejection) => {
            record.leave_target();
            return Err(rejection.close(sniffed, context).await);
        }
    };
    let dialled = match dial::dial(&served, &sniffed, record).await {
        Ok(dialled) => dialled,
        Err(reason) => {
            record.leave_target();
            if reason == CloseReason::ClientGone && sniffed.has_bytes() {
                record.has_sent();
            }
            return Err(sniffed.refuse(reason).await);
        }
    };
    if let Some(reason) = shadowed {
        record.shadowed(reason);
    }
    let engines = Rc::clone(&context.engines);
    let options = match sniffed.intent {
        Intent::Cancel => cancel_options(&policy.relay),
        _ => Arc::clone(&policy.relay),
    };
    let backend = Arc::clone(&served.pool.spec().dial.peer_timeouts);
    Ok(dialled.relay(sniffed, RelaySettings { listener: options, backend }, engines))
}

/// Returns the relay options for a request to cancel. The request is done when its server has closed. It
/// bypasses limits, so its client must not keep it open.
fn cancel_options(listener: &RelayOptions) -> Arc<RelayOptions> {
    Arc::new(RelayOptions {
        idle_timeout: listener.idle_timeout.min(CANCEL_IDLE),
        half_closed_timeout: listener.half_closed_timeout.min(CANCEL_HALF_CLOSED),
        ..*listener
    })
}

/// Replaces the policy by the one that is in force now. A client may send its first bytes long after the
/// accept, and the policy of that time may lead to backends that no longer exist. A listener that was removed
/// keeps its last policy.
fn refresh(policy: &mut Arc<Policy>, through: &SocketId, context: &WorkerContext) {
    if let Some(current) = context.snapshot.load().policies.get(through)
        && current.listener_id == policy.listener_id
    {
        *policy = Arc::clone(current);
    }
}
