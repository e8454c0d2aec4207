//! One connection, from accept to close.
//!
//! `receive` runs in the accept loop and starts the journey in `serve`: read, route, dial, relay. It
//! decides nothing by itself: each step says how the connection goes on or with which [`CloseReason`]
//! it ends, and a `ConnectionRecord` writes that down exactly once.
//!
//! The journey has two stages. The first reads and dials, and is gone when the second, the relay, starts
//! in its place: a connection that idles for days keeps none of its beginnings.

mod access;
mod admission;
mod announce;
mod attempt;
mod dial;
mod gone;
mod migration;
mod opening;
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
use crate::live::{ConnectionRegistry, Seat};
use crate::pool::FailureReport;
use crate::relay::{Engines, Relay, RelayEnd, RelayOptions, RelaySettings, Side};
use crate::snapshot::{Policy, Protocol, Snapshot, SocketId};
use crate::sys::listen::Accepted;
use crate::telemetry::{AccessLog, CloseReason, Metrics, SaturationLog};
pub use migration::{Migration, MigrationSenders};
use migration::{MigrationContent, StoppedRelay};
use opening::Intent;
use proxied::ProxiedClient;
use record::ConnectionRecord;
use sniff::SniffedClient;

/// How long a server may take for a request to cancel, and the client to leave behind it.
const CANCEL_IDLE: Duration = Duration::from_secs(10);
const CANCEL_HALF_CLOSED: Duration = Duration::from_secs(1);

/// What the connections of one worker share.
pub struct WorkerContext {
    /// The living configuration.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The worker's connections.
    pub registry: Rc<ConnectionRegistry>,
    /// The worker's buffer and pipes.
    pub engines: Rc<Engines>,
    /// The places and the memory of the process.
    pub bounds: Arc<ProcessBounds>,
    /// Where records go.
    pub access_log: AccessLog,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// The ways to the other workers.
    pub migration_senders: Arc<MigrationSenders>,
    /// Where it is told that clients fail at a backend.
    pub failure_reports: mpsc::Sender<FailureReport>,
}

/// What all connections of the process share.
pub struct ProcessBounds {
    /// Open connections.
    pub connections: Arc<Gate>,
    /// What each source has.
    pub sources: Arc<SourceTable>,
    /// Refused clients that are held.
    pub tarpit: Arc<Gate>,
    /// Whether the process is near its limit.
    pub overload: Overload,
    /// Which limits refuse connections now.
    pub saturation: SaturationLog,
    /// Bytes of hellos that did not come with the first read, until a backend is connected.
    pub hello_memory: Arc<Gate>,
    /// The number of the next connection.
    pub next_id: AtomicU64,
    /// Where this process listens: nobody is forwarded there.
    pub own: ArcSwap<Vec<SocketAddr>>,
}

/// A connection fresh from a listener's queue.
pub struct AcceptedConnection {
    /// Its socket and client.
    pub accepted: Accepted,
    /// The socket it came through.
    pub through: SocketId,
    /// The policy of that socket.
    pub policy: Arc<Policy>,
}

/// An arrival that may come in.
struct AdmittedConnection {
    arrival: AcceptedConnection,
    id: u64,
    permit: Permit,
}

/// Takes a connection in, if it may: here, or in a worker that has far fewer.
pub fn receive(arrival: AcceptedConnection, context: &Rc<WorkerContext>) {
    let Some(admitted) = admit(arrival, context) else { return };
    let Some((worker, seat)) = context.registry.seat_elsewhere() else {
        return begin(admitted, context.registry.seat(), context);
    };
    match context
        .migration_senders
        .send(worker, Migration { seat, content: MigrationContent::Admitted(Box::new(admitted)) })
    {
        Err(Migration { content: MigrationContent::Admitted(admitted), .. }) => {
            begin(*admitted, context.registry.seat(), context);
        }
        _ => context.metrics.process().accepted_moved.increment(1),
    }
}

/// Takes a connection in, in this worker.
pub fn receive_here(arrival: AcceptedConnection, context: &Rc<WorkerContext>) {
    if let Some(admitted) = admit(arrival, context) {
        begin(admitted, context.registry.seat(), context);
    }
}

/// Goes on with what another worker sent.
pub fn take_over(migration: Migration, context: &Rc<WorkerContext>) {
    match migration.content {
        MigrationContent::Admitted(admitted) => begin(*admitted, migration.seat, context),
        MigrationContent::Relay(stopped_relay) => {
            if let Some((relay, record)) = stopped_relay.attach(migration.seat, context) {
                executor::spawn(carry(relay, record));
            }
        }
    }
}

/// Lets a connection in, or turns it away: then nothing was held for it.
fn admit(arrival: AcceptedConnection, context: &WorkerContext) -> Option<AdmittedConnection> {
    let AcceptedConnection { accepted, policy, .. } = &arrival;
    let id = context.bounds.next_id.fetch_add(1, Ordering::Relaxed);
    let listed = access::peer(&accepted.peer, policy);
    match listed.and_then(|()| admission::peer(&accepted.peer, policy, context)) {
        Ok(permit) => Some(AdmittedConnection { arrival, id, permit }),
        Err(reason) => {
            let AcceptedConnection { accepted, policy, .. } = arrival;
            record::refused(id, accepted.peer, reason, &policy, context);
            match listed {
                Ok(()) => admission::turn_away(accepted.socket, reason, &policy, context),
                Err(_) => access::turn_away(&accepted.socket, &policy),
            }
            None
        }
    }
}

/// Starts the journey of a connection.
fn begin(admitted: AdmittedConnection, seat: Seat, context: &Rc<WorkerContext>) {
    let AdmittedConnection { arrival: AcceptedConnection { accepted, through, policy }, id, permit } =
        admitted;
    let entry = context.registry.register(id, policy.number, seat, Arc::clone(&policy.metrics));
    entry.is_of(&accepted.peer);
    entry.is_reading(matches!(policy.protocol, Protocol::Tls(_)));
    let mut record = ConnectionRecord::begin(accepted.peer, &policy, entry, context);
    record.hold(permit);
    executor::spawn(serve(accepted.socket, through, policy, record, Rc::clone(context)));
}

/// The first half of the journey: from accept to a connected backend.
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

/// The second half: moves bytes to the end.
///
/// What this holds is what an idle connection costs.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice: twice the memory of an idle connection"
)]
fn carry(mut relay: Relay, record: ConnectionRecord) -> impl Future<Output = TaskNext> {
    async move {
        relay.begin(record.entry());
        let stopped = poll_fn(|cx| {
            let polled = relay.poll(cx, record.entry());
            record.listen();
            polled
        })
        .await;
        let end = match relay.end(stopped, record.entry()) {
            Ok(end) => end,
            // Rare, and too large to be carried by every idle connection.
            Err(breach) => Box::pin(relay.pass_on(breach, record.entry())).await,
        };
        match end {
            RelayEnd::Moved { to } => send(to, relay, record),
            end => {
                drop(relay);
                record.listen();
                if end == (RelayEnd::Reset { by: Side::Backend }) {
                    record.was_reset();
                }
                record.close(reason(end));
            }
        }
        TaskNext::Done
    }
}

/// Sends a connection to another worker; if that has ended, it goes on here.
fn send(worker: usize, relay: Relay, record: ConnectionRecord) {
    let context = record.context();
    let Some(stopped_relay) = StoppedRelay::detach(relay, record) else { return };
    let migration =
        Migration { seat: context.registry.seat_at(worker), content: MigrationContent::Relay(stopped_relay) };
    match context.migration_senders.send(worker, migration) {
        Err(Migration { content, .. }) => {
            take_over(Migration { seat: context.registry.seat(), content }, &context)
        }
        Ok(()) => context.metrics.process().streams_moved.increment(1),
    }
}

/// The reason that the end of a relay is.
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

/// Reads what the client wants, finds where that is, and connects.
async fn prepare(
    client: OwnedFd,
    through: &SocketId,
    mut policy: Arc<Policy>,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<Relay, CloseReason> {
    let announced = match &policy.proxy {
        None => ProxiedClient::plain(client),
        Some(proxy) => {
            // Boxed, as most listeners have none and need not hold the room.
            let announced = Box::pin(proxied::open(client, proxy, record, context)).await?;
            refresh(&mut policy, through, context);
            let announced = access::client(announced, &policy, record).await?;
            admission::source(announced, &policy, record, context)?
        }
    };
    let ProxiedClient { client, bytes, header, shadowed } = announced;
    let mut sniffed = match &policy.protocol {
        Protocol::Tcp(_) => SniffedClient::nothing(client, bytes)?,
        Protocol::Tls(tls) => {
            let sniffed =
                sniff::first_bytes(client, bytes, &policy.front, &tls.hello, record, context).await?;
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

/// A request to cancel is over when its server has closed. As it passes limits by, it is not to hold a place for as long
/// as its client likes.
fn cancel_options(listener: &RelayOptions) -> Arc<RelayOptions> {
    Arc::new(RelayOptions {
        idle_timeout: listener.idle_timeout.min(CANCEL_IDLE),
        half_closed_timeout: listener.half_closed_timeout.min(CANCEL_HALF_CLOSED),
        ..*listener
    })
}

/// Takes the policy that is in force now: a client may connect long before it speaks, and what was
/// configured then may lead to backends that are gone. A listener that is gone keeps its last one.
fn refresh(policy: &mut Arc<Policy>, through: &SocketId, context: &WorkerContext) {
    if let Some(current) = context.snapshot.load().policies.get(through)
        && current.number == policy.number
    {
        *policy = Arc::clone(current);
    }
}
