//! One connection, from accept to close.
//!
//! `prepare` is the journey to a connected backend. Each step returns the input of the next step, or the
//! [`CloseReason`] with which the connection ends. A `ConnectionRecord` counts and logs that reason exactly once. This
//! module decides nothing itself.
//!
//! A connection has two stages. The first stage, `serve`, reads and dials. The second stage, `carry`, is the
//! relay. The second stage replaces the first stage and its memory: a connection that is idle for days keeps
//! nothing of the first stage.

mod accepted;
mod admission;
mod announce;
mod arrival;
mod attempt;
mod context;
mod departure;
mod detect;
mod dial;
mod events;
mod exchange;
pub mod explain;
mod fields;
mod gone;
mod greet;
pub mod handover;
mod hello;
mod holds;
mod hosts;
mod leaving;
mod list_access;
mod migration;
mod plan;
mod proxied;
mod race;
mod reading;
mod record;
mod refusal;
mod route;
mod saturation;
mod sniff;
mod sniffed;
mod tunnel_hello;

use std::future::Future;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::executor::{self, TaskNext};
use crate::live::MoveTarget;
use crate::relay::{Relay, RelayEnd, Side};
use crate::telemetry::CloseReason;
pub use accepted::AcceptedConnection;
use accepted::HeldPolicy;
use arrival::{ArrivedConnection, TakenConnection};
pub use context::{ProcessBounds, WorkerContext};
pub use migration::{Migration, MigrationSenders};
use reading::{EarlyEnd, FirstBytes};
use record::ConnectionRecord;

/// Admits a connection and serves it in this worker, or in a worker that has far fewer connections.
pub fn receive(accepted: AcceptedConnection, context: &Rc<WorkerContext>) {
    if let Some(admitted) = arrival::admit(accepted, context)
        && let Some(arrived) = arrival::place(admitted, context)
    {
        executor::spawn(serve(arrived));
    }
}

/// Reads the first bytes of the client, routes the connection and connects it to a backend.
async fn prepare(
    client: OwnedFd,
    first: FirstBytes,
    policy: &mut HeldPolicy,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<Relay, EarlyEnd> {
    let proxied = proxied::read(client, first, policy, record, context).await?;
    let sniffed = sniff::read(proxied, policy, record, context).await?;
    let routed = route::route(sniffed, &policy.current, record, context).await?;
    let mut dialled = dial::dial(routed, record).await?;
    if let (Some(_), Some(spec)) = (&dialled.routed.plan.unverified, policy.current.protocol.first_bytes()) {
        // Boxed, as hardly any connection needs this memory.
        dialled = Box::pin(tunnel_hello::verify(dialled, spec, record, context)).await?;
    }
    Ok(dialled.relay(Rc::clone(&context.engines)))
}

/// Runs the first stage: from the accept to a connected backend.
///
/// The size of this future is the cost of a connection that has sent nothing.
fn serve(arrived: ArrivedConnection) -> impl Future<Output = TaskNext> {
    let ArrivedConnection { client, first, mut policy, mut record, context } = arrived;
    async move {
        let entry = record.entry().share();
        let prepared = tokio::select! {
            biased;
            prepared = prepare(client, first, &mut policy, &mut record, &context) => prepared,
            reason = entry.closed() => Err(EarlyEnd::Closed(reason)),
        };
        match prepared {
            Ok(relay) => return TaskNext::stage(carry(relay, record)),
            Err(EarlyEnd::Closed(reason)) => record.close(reason),
            Err(EarlyEnd::Moved(stopped)) => departure::send_reading(*stopped, policy, record),
        }
        TaskNext::Done
    }
}

/// Runs the second stage: moves bytes until the connection ends.
///
/// The size of this future is the cost of an idle connection.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice: twice the memory of an idle connection"
)]
fn carry(mut relay: Relay, record: ConnectionRecord) -> impl Future<Output = ()> {
    async move {
        match relay.run(&record).await {
            RelayEnd::Moved { to: MoveTarget::Worker(to) } => send(to as usize, relay, record),
            RelayEnd::Moved { to: MoveTarget::Successor } => departure::send_relay(relay, record),
            end => {
                drop(relay);
                if end == (RelayEnd::Reset { by: Side::Backend }) {
                    record.reset_by_backend();
                }
                record.close(reason(end));
            }
        }
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

/// Sends a connection to another worker. If that worker has ended, the connection goes on in this worker.
fn send(worker: usize, relay: Relay, record: ConnectionRecord) {
    let context = record.context();
    if let Err(returned) = arrival::send(worker, relay, record) {
        take_over(returned, &context);
    }
}

/// Admits a connection and serves it in this worker.
pub fn receive_here(accepted: AcceptedConnection, context: &Rc<WorkerContext>) {
    if let Some(admitted) = arrival::admit(accepted, context) {
        executor::spawn(serve(arrival::begin(admitted, context.registry.worker_slot(), context)));
    }
}

/// Continues a connection that another worker sent.
pub fn take_over(migration: Migration, context: &Rc<WorkerContext>) {
    match arrival::take(migration, context) {
        Some(TakenConnection::Arrived(arrived)) => executor::spawn(serve(arrived)),
        Some(TakenConnection::Relay(relay, record)) => executor::spawn(carry(relay, record)),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thousands of connections wait in one of the stages, and each of them has the memory of its future.
    #[test]
    fn the_stages_of_a_connection_are_small() {
        fn first<A, F>(_: fn(A) -> F) -> usize {
            size_of::<F>()
        }
        fn second<A, B, F>(_: fn(A, B) -> F) -> usize {
            size_of::<F>()
        }
        assert!(first(serve) <= 2560, "{} bytes until a backend is connected", first(serve));
        assert!(second(carry) <= 360, "{} bytes from then on", second(carry));
    }
}
