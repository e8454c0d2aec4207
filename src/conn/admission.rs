//! Admits connections within their limits. At the accept it checks the limits of the peer, before the
//! connection takes any resource. After a PROXY header it checks the limits of the client in the header. Later
//! it checks the limits of the route and of the pool.
//!
//! A peer whose headers are trusted is no source: only the clients in its headers are counted. A connection
//! keeps its slots until its record ends.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::context::{ProcessBounds, WorkerContext};
use super::record::ConnectionRecord;
use crate::executor::{self, sleep};
use crate::limit::{
    AdmissionRefusal, AdmissionRequest, ExceededLimit, GatePass, Link, Moment, OverLimit, Permit, SourceBy,
    SourceKey, SourcePass, SourceRefusal,
};
use crate::snapshot::{Admission, ClientRefusal, Policy, ServedPool, UsageLimit};
use crate::sys::{Address, socket};
use crate::telemetry::CloseReason;
use crate::wire::proxy_protocol::{HeaderOrigin, ProxyHeader};

/// Admits a peer at its accept.
pub(super) fn peer(peer: &Address, policy: &Policy, context: &WorkerContext) -> Result<Permit, CloseReason> {
    let Some(admission) = &policy.admission else { return slots(policy, context) };
    let now = Moment::now();
    let is_trusted = policy.proxy.as_ref().is_some_and(|proxy| proxy.trusted.contains(peer));
    // The source is checked first, so that sources over their limits take nothing from the other clients.
    let source = match is_trusted {
        true => None,
        false => of_source(address_source(peer, admission), policy, admission, now, &context.bounds)?,
    };
    let mut permit = slots(policy, context)?;
    // The listener's rate is checked last: a token taken from it is never refunded, so no later check may
    // refuse.
    if !admission.rate.admit(now) {
        return Err(CloseReason::ListenerRate);
    }
    permit.hold_source(source);
    Ok(permit)
}

/// Takes a slot of the process and of the listener.
fn slots(policy: &Policy, context: &WorkerContext) -> Result<Permit, CloseReason> {
    Permit::ask(&context.bounds.connections, &policy.gate).map_err(no_slot)
}

fn no_slot(refusal: AdmissionRefusal) -> CloseReason {
    match refusal {
        AdmissionRefusal::ListenerFull => CloseReason::ListenerFull,
        AdmissionRefusal::ProcessFull => CloseReason::ProcessFull,
    }
}

/// Returns the result that [`peer`] would return now for a client that is no proxy. Takes nothing. The heaviest sources
/// of an overloaded process are not found.
///
/// # Errors
///
/// The limit that the client would exceed.
pub(super) fn preview(client: &Address, policy: &Policy, bounds: &ProcessBounds) -> Result<(), CloseReason> {
    let now = Moment::now();
    let admission = policy.admission.as_deref();
    if let Some(admission) = admission
        && let (Some(limits), Some(source)) = (&admission.spec.per_source, address_source(client, admission))
    {
        let request = request(source, policy, now);
        bounds.sources.preview(&request, limits).map_err(over_source_limit)?;
    }
    Permit::preview(&bounds.connections, &policy.gate).map_err(no_slot)?;
    match admission {
        Some(admission) if !admission.rate.has_token(now) => Err(CloseReason::ListenerRate),
        _ => Ok(()),
    }
}

/// Admits the client that a PROXY header names.
pub(super) fn source(
    header: Option<&ProxyHeader>,
    policy: &Policy,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<(), CloseReason> {
    let (Some(admission), Some(header)) = (&policy.admission, header) else { return Ok(()) };
    if !matches!(header.origin, HeaderOrigin::Tcp { .. }) {
        return Ok(());
    }
    let link = match admission.spec.by {
        SourceBy::Address => None,
        SourceBy::PrivateLink => header.private_link(),
    };
    let source = match link {
        Some((kind, id)) => {
            let link = Link::new(kind, &id);
            let source = link.source();
            record.entry().counts_for(link.into());
            Some(source)
        }
        None => address_source(record.client(), admission),
    };
    let pass = of_source(source, policy, admission, Moment::now(), &context.bounds)?;
    record.permit().hold_source(pass);
    Ok(())
}

/// Returns the source of an address. A client of a Unix socket has none.
pub(super) fn address_source(client: &Address, admission: &Admission) -> Option<SourceKey> {
    client.tcp().map(|address| SourceKey::of(address.ip(), admission.spec.prefix))
}

/// Takes a slot of a source, if the listener counts sources.
fn of_source(
    source: Option<SourceKey>,
    policy: &Policy,
    admission: &Admission,
    now: Moment,
    bounds: &ProcessBounds,
) -> Result<Option<SourcePass>, CloseReason> {
    let (Some(limits), Some(source)) = (&admission.spec.per_source, source) else { return Ok(None) };
    let pass = bounds.sources.admit(&request(source, policy, now), limits).map_err(over_source_limit)?;
    let sheds = bounds.overload.sheds_heaviest(now);
    match pass {
        Some(pass) if sheds && pass.is_heavy() => Err(CloseReason::Overloaded),
        pass => Ok(pass),
    }
}

fn request(source: SourceKey, policy: &Policy, now: Moment) -> AdmissionRequest {
    let is_read = policy.protocol.first_bytes().is_some();
    AdmissionRequest { listener: policy.listener_id, source, is_read, now }
}

fn over_source_limit(refusal: SourceRefusal) -> CloseReason {
    match refusal {
        SourceRefusal::Connections => CloseReason::SourceConnections,
        SourceRefusal::Rate => CloseReason::SourceRate,
        SourceRefusal::Hellos => CloseReason::SourceHellos,
        SourceRefusal::TableFull => CloseReason::SourceTableFull,
    }
}

/// The reason for a refusal, and the way in which the connection is closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rejection {
    pub(super) reason: CloseReason,
    pub(super) over: OverLimit,
}

impl From<CloseReason> for Rejection {
    fn from(reason: CloseReason) -> Self {
        Self { reason, over: OverLimit::Reject }
    }
}

impl Rejection {
    /// A refusal by the lists of the listener, after bytes were read.
    pub(super) fn denied(refused: ClientRefusal) -> Self {
        let over = match refused {
            ClientRefusal::Reject => OverLimit::Reject,
            ClientRefusal::Drop => OverLimit::Drop,
        };
        Self { reason: CloseReason::Denied, over }
    }
}

/// Takes a slot of a route.
pub(super) fn route(limited: &UsageLimit, record: &mut ConnectionRecord) -> Result<(), Rejection> {
    let pass = enter(limited, ROUTE_REASONS)?;
    record.permit().hold_route(pass);
    Ok(())
}

/// Takes a slot of a pool, if the pool has limits.
pub(super) fn pool(served: &ServedPool, record: &mut ConnectionRecord) -> Result<(), Rejection> {
    if let Some(limited) = &served.limits {
        record.set_pool(&served.pool.spec().name);
        let pass = enter(limited, POOL_REASONS)?;
        record.permit().hold_pool(pass);
    }
    Ok(())
}

/// The close reasons of a limit: of its connections, and of its rate.
type LimitReasons = [CloseReason; 2];

const ROUTE_REASONS: LimitReasons = [CloseReason::RouteFull, CloseReason::RouteRate];

const POOL_REASONS: LimitReasons = [CloseReason::PoolFull, CloseReason::PoolRate];

fn enter(limited: &UsageLimit, reasons: LimitReasons) -> Result<GatePass, Rejection> {
    limited
        .quota
        .enter(Moment::now())
        .map_err(|exceeded| Rejection { reason: over_limit(exceeded, reasons), over: limited.over })
}

fn over_limit(exceeded: ExceededLimit, [full, rate]: LimitReasons) -> CloseReason {
    match exceeded {
        ExceededLimit::Connections => full,
        ExceededLimit::Rate => rate,
    }
}

/// Returns the result that [`route`] would return now. Takes nothing.
pub(super) fn preview_route(limited: &UsageLimit) -> Result<(), CloseReason> {
    limited.quota.preview(Moment::now()).map_err(|exceeded| over_limit(exceeded, ROUTE_REASONS))
}

/// Returns the result that [`pool`] would return now. Takes nothing.
pub(super) fn preview_pool(limited: &UsageLimit) -> Result<(), CloseReason> {
    limited.quota.preview(Moment::now()).map_err(|exceeded| over_limit(exceeded, POOL_REASONS))
}

/// Closes a client in the way that its listener demands. Nothing was read from the client.
pub(super) fn refuse_early(client: OwnedFd, reason: CloseReason, policy: &Policy, context: &WorkerContext) {
    use CloseReason::{ListenerFull, Overloaded, ProcessFull};
    let over = policy.admission.as_ref().map_or(OverLimit::Reject, |admission| admission.spec.over);
    // Held clients would use up the slots that are missing.
    let is_short = matches!(reason, ListenerFull | ProcessFull | Overloaded);
    close(client, if is_short { OverLimit::Drop } else { over }, context);
}

/// Closes a client without an answer: by a reset, at once or after a time in the tarpit.
pub(super) fn close(client: OwnedFd, over: OverLimit, context: &WorkerContext) {
    match over {
        OverLimit::Tarpit(time) => hold(client, time, context),
        OverLimit::Reject | OverLimit::Drop => reset(&client),
    }
}

fn reset(client: impl AsFd) {
    let _ = socket::reset_on_close(client);
}

/// Holds a client without reading, if the tarpit has room. Otherwise the client is reset.
fn hold(client: OwnedFd, time: Duration, context: &WorkerContext) {
    let process = context.metrics.process();
    let Some(pass) = context.bounds.tarpit.enter() else {
        process.tarpits_full.increment(1);
        return reset(&client);
    };
    process.tarpits_held.increment(1);
    // The client's bytes fill memory of the kernel, not memory of the process. A small buffer is enough.
    let _ = socket::shrink_receive_buffer(&client);
    executor::spawn(wait(client, time, pass));
}

/// Waits, then resets the client. The socket is not registered, so its bytes wake no task.
async fn wait(client: OwnedFd, time: Duration, _pass: GatePass) {
    sleep(time).await;
    reset(&client);
}
