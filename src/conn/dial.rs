//! Picks a backend and connects to it. If the connect fails, tries another backend, until the attempts or the time are
//! used up.
//!
//! The client's first bytes are sent with the connect. Another backend is tried only before a connection exists: bytes
//! that a backend has received must not go to a second backend. No backend is dialled for a client that is known to be
//! gone.
//!
//! If every backend is full, the connection waits in the pool's queue, if the pool has one. The wait has a bound of its
//! own and does not count against the deadline of the dial.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::announce::BackendPreface;
use super::attempt::{ConnectedBackend, DialTarget, ready};
use super::exchange::Intent;
use super::gone::WaitStage;
use super::record::ConnectionRecord;
use super::sniff::SniffedClient;
use crate::executor::timeout_at;
use crate::pool::{Backend, Forward, ForwardFault, Lease, Unavailable};
use crate::snapshot::ServedPool;
use crate::sys::{Address, socket};
use crate::telemetry::{CloseReason, ConnectOutcome};

/// Connects a client to a backend of its pool.
pub(super) async fn dial(
    served: &ServedPool,
    sniffed: &SniffedClient,
    record: &mut ConnectionRecord,
) -> Result<ConnectedBackend, CloseReason> {
    let spec = &served.pool.spec().dial;
    record.set_pool(&served.pool.spec().name);
    let preface = BackendPreface::new(served.pool.spec().proxy_protocol.as_ref(), sniffed, record);
    let began = Instant::now();
    let mut named = match served.pool.forward() {
        // Boxed, as hardly any connection needs this memory.
        Some(forward) => {
            Some(Box::pin(hosts(forward, began + spec.dial_timeout, sniffed, record)).await?.into_iter())
        }
        None => None,
    };
    let mut waited = Duration::ZERO;
    let mut tried: Vec<Arc<Backend>> = Vec::new();
    let mut last = CloseReason::NoBackend;
    let mut attempt_began = if named.is_some() { Instant::now() } else { began };
    // The key of a request to cancel belongs to one backend, so another backend has no use for it.
    let attempts = if matches!(sniffed.intent, Intent::Cancel) { 1 } else { spec.attempts };
    for _ in 0..attempts {
        let host = match named.as_mut().map(Iterator::next) {
            None => None,
            Some(Some(address)) => Some(address),
            Some(None) => break,
        };
        let waited_before = waited;
        let lease = match find(served, sniffed, record, &tried, &mut waited).await {
            Ok(lease) => lease,
            // After a failed attempt its reason is reported: it has more information.
            Err(reason) if tried.is_empty() || reason == CloseReason::ClientGone => {
                last = reason;
                break;
            }
            Err(_) => break,
        };
        if waited > waited_before {
            attempt_began = Instant::now();
        }
        let deadline = began + waited + spec.dial_timeout;
        record.begin_attempt(lease.backend());
        let by = deadline.min(attempt_began + spec.connect_timeout);
        let host = host.or_else(|| same_port(lease.backend(), sniffed));
        if let Some(host) = host {
            record.set_target_address(host);
        }
        let address = host.map_or_else(|| lease.backend().address().clone(), Address::Tcp);
        let target = DialTarget { address: &address, spec, client: record.client().tcp() };
        // The attempt is polled first: if the backend is connected, the relay passes the client's reset on as a reset.
        let attempt = tokio::select! {
            biased;
            attempt = ready(target, &preface, sniffed.greet.as_ref(), by, deadline) => attempt,
            () = sniffed.gone(WaitStage::Dial) => {
                served.metrics.connect(ConnectOutcome::Aborted);
                return Err(CloseReason::ClientGone);
            }
        };
        let failure = match attempt {
            Ok(dialled) => {
                served.metrics.connect(ConnectOutcome::Ok);
                let now = Instant::now();
                served.metrics.connect_seconds.record(now - attempt_began);
                lease.connected(now - attempt_began);
                if !matches!(sniffed.intent, Intent::Cancel)
                    && let Some(session) = served.pool.session(record.client().tcp(), lease.backend())
                {
                    record.hold_session(session);
                }
                record.connected(lease, (now - began).saturating_sub(waited), dialled.sent);
                return Ok(dialled);
            }
            Err(failure) => failure,
        };
        let (pool, backend) = (&served.pool.spec().name, lease.backend().name());
        tracing::debug!(%pool, %backend, outcome = ?failure.outcome, "a connect to a backend failed");
        served.metrics.connect(failure.outcome);
        if let Some(shortage) = failure.shortage {
            record.note_saturation(shortage);
        }
        // A failure to reach a host that a client named is no failure of the pool.
        if failure.is_of_backend && named.is_none() {
            record.not_connected(&lease, failure.reason);
        }
        last = failure.reason;
        lease.failed(attempt_began.elapsed());
        attempt_began = Instant::now();
        if attempt_began >= deadline {
            break;
        }
        if named.is_none() {
            tried.push(Arc::clone(lease.backend()));
        }
    }
    if last == CloseReason::NoBackend {
        served.metrics.no_backend.increment(1);
    }
    Err(last)
}

/// Returns the address of a backend that is configured without a port. Its port is the port that the client
/// connected to.
fn same_port(backend: &Backend, sniffed: &SniffedClient) -> Option<SocketAddr> {
    let ip = backend.address().tcp().filter(|tcp| tcp.port() == 0)?.ip();
    Some(SocketAddr::new(ip, socket::local_address(&sniffed.client).ok()?.port()))
}

/// Returns the addresses of the host that the client named, found by `deadline`.
async fn hosts(
    forward: &Forward,
    deadline: Instant,
    sniffed: &SniffedClient,
    record: &mut ConnectionRecord,
) -> Result<Vec<SocketAddr>, CloseReason> {
    let name = sniffed.facts.server_name.as_ref().ok_or(CloseReason::NameNotAllowed)?;
    let Some(mark) = forward.mark(&sniffed.bytes) else {
        let client = record.client();
        tracing::debug!(%client, "a forwarded connection came back and is closed: its name leads to this process");
        return Err(CloseReason::ForwardLoop);
    };
    record.hold_forward_mark(mark);
    let own = record.context().bounds.own.load_full();
    let found = tokio::select! {
        biased;
        () = sniffed.gone(WaitStage::Dial) => return Err(CloseReason::ClientGone),
        found = timeout_at(deadline, forward.destinations(name, &own)) => found,
    };
    found.map_err(|_| CloseReason::NameNotResolved)?.map_err(|fault| {
        tracing::debug!(client = %record.client(), %fault, "a client is not forwarded");
        match fault {
            ForwardFault::NotAllowed => CloseReason::NameNotAllowed,
            ForwardFault::NotResolved(_) => CloseReason::NameNotResolved,
            ForwardFault::Refused => CloseReason::AddressRefused,
        }
    })
}

/// Picks a backend for the client, if necessary after a wait in the queue, which is added to `waited`.
async fn find(
    served: &ServedPool,
    sniffed: &SniffedClient,
    record: &mut ConnectionRecord,
    tried: &[Arc<Backend>],
    waited: &mut Duration,
) -> Result<Lease, CloseReason> {
    let ServedPool { pool, metrics, .. } = served;
    if sniffed.is_gone(WaitStage::Dial) {
        return Err(CloseReason::ClientGone);
    }
    let authority = sniffed.facts.proxy.as_deref().and_then(|header| pool.authority(header));
    let name = authority.as_ref().or(sniffed.facts.server_name.as_ref());
    let source = record.client().tcp();
    if matches!(sniffed.intent, Intent::Cancel) {
        return pool.pick_for_cancel(source, name).map_err(|_| CloseReason::CancelRefused);
    }
    match pool.pick(source, name, tried) {
        Ok(lease) => return Ok(lease),
        Err(Unavailable::NoneUp) => return Err(CloseReason::NoBackend),
        Err(Unavailable::Full) => {}
    }
    if sniffed.is_gone(WaitStage::Queue) {
        return Err(CloseReason::ClientGone);
    }
    let Ok(waiter) = pool.wait(source, name, tried) else {
        metrics.queue_refused.increment(1);
        return Err(CloseReason::QueueFull);
    };
    metrics.queued.increment(1);
    let began = Instant::now();
    let timeout = pool.spec().queue.map_or(Duration::ZERO, |queue| queue.timeout);
    // The client is polled first: if it ends in the moment in which it gets a slot, the slot goes to the next
    // waiter.
    let ended = tokio::select! {
        biased;
        () = sniffed.gone(WaitStage::Queue) => None,
        ended = timeout_at(began + timeout.saturating_sub(*waited), waiter) => Some(ended),
    };
    *waited += began.elapsed();
    record.waited(*waited);
    match ended.ok_or(CloseReason::ClientGone)? {
        Ok(Ok(lease)) => {
            metrics.queue_seconds.record(began.elapsed());
            Ok(lease)
        }
        Ok(Err(_)) => Err(CloseReason::NoBackend),
        Err(_) => {
            metrics.queue_timeouts.increment(1);
            Err(CloseReason::QueueTimeout)
        }
    }
}
