//! May it come in? Asked of the peer when it is accepted, before anything is held for it, and of the client whom
//! a PROXY header tells; later of its route and of its pool.
//!
//! A peer whose headers are believed is no source: only those count whom it tells of. What a connection got stays
//! its own, whatever comes after, and is given back when its story ends.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::proxied::ProxiedClient;
use super::record::ConnectionRecord;
use super::sniff::SniffedClient;
use super::{ProcessBounds, WorkerContext};
use crate::executor::{self, TaskNext, sleep};
use crate::limit::{
    AdmissionRefusal, AdmissionRequest, ExceededLimit, GatePass, Link, Moment, OverLimit, Permit, SourceBy,
    SourceKey, SourcePass, SourceRefusal,
};
use crate::snapshot::{Admission, ClientRefusal, Policy, Protocol, ServedPool, UsageLimit};
use crate::sys::{Address, socket};
use crate::telemetry::CloseReason;
use crate::wire::proxy_protocol::HeaderOrigin;

/// Asks for a peer at its accept.
pub(super) fn peer(peer: &Address, policy: &Policy, context: &WorkerContext) -> Result<Permit, CloseReason> {
    let Some(admission) = &policy.admission else { return place(policy, context) };
    let now = Moment::now();
    let is_trusted = policy.proxy.as_ref().is_some_and(|proxy| proxy.trusted.contains(peer));
    // The source is the first, so that those whom it refuses take nothing from the others.
    let source = match is_trusted {
        true => None,
        false => of_source(address_source(peer, admission), policy, admission, now, &context.bounds)?,
    };
    let mut permit = place(policy, context)?;
    // The listener's rate is the last, as it is not given back: nobody is refused any more whom it has counted.
    if !admission.rate.admit(now) {
        return Err(CloseReason::ListenerRate);
    }
    permit.hold_source(source);
    Ok(permit)
}

/// A place of the process and of the listener.
fn place(policy: &Policy, context: &WorkerContext) -> Result<Permit, CloseReason> {
    Permit::ask(&context.bounds.connections, &policy.gate).map_err(|refusal| match refusal {
        AdmissionRefusal::ListenerFull => CloseReason::ListenerFull,
        AdmissionRefusal::ProcessFull => CloseReason::ProcessFull,
    })
}

/// Asks for the client that a PROXY header tells of.
pub(super) fn source(
    announced: ProxiedClient,
    policy: &Policy,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<ProxiedClient, CloseReason> {
    let Some(admission) = &policy.admission else { return Ok(announced) };
    let is_told = |origin: &HeaderOrigin| matches!(origin, HeaderOrigin::Tcp { .. });
    if !announced.header.as_ref().is_some_and(|header| is_told(&header.origin)) {
        return Ok(announced);
    }
    let link = match admission.spec.by {
        SourceBy::Address => None,
        SourceBy::PrivateLink => announced.header.as_ref().and_then(|header| header.private_link()),
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
    match of_source(source, policy, admission, Moment::now(), &context.bounds) {
        Ok(pass) => {
            record.hold_source(pass);
            Ok(announced)
        }
        Err(reason) => {
            turn_away(announced.client, reason, policy, context);
            Err(reason)
        }
    }
}

/// The source of an address; a client of a Unix socket has none.
fn address_source(client: &Address, admission: &Admission) -> Option<SourceKey> {
    client.tcp().map(|address| SourceKey::of(address.ip(), admission.spec.prefix))
}

/// A place for one more connection of a source, if sources are counted.
fn of_source(
    source: Option<SourceKey>,
    policy: &Policy,
    admission: &Admission,
    now: Moment,
    bounds: &ProcessBounds,
) -> Result<Option<SourcePass>, CloseReason> {
    let (Some(limits), Some(source)) = (&admission.spec.per_source, source) else { return Ok(None) };
    let coming = AdmissionRequest {
        listener: policy.number,
        source,
        is_read: matches!(policy.protocol, Protocol::Tls(_)),
        now,
    };
    let pass = bounds.sources.admit(&coming, limits).map_err(|refusal| match refusal {
        SourceRefusal::Connections => CloseReason::SourceConnections,
        SourceRefusal::Rate => CloseReason::SourceRate,
        SourceRefusal::Hellos => CloseReason::SourceHellos,
        SourceRefusal::TableFull => CloseReason::SourceTableFull,
    })?;
    let sheds = bounds.overload.sheds_heaviest(now);
    match pass {
        Some(pass) if sheds && pass.is_heavy() => Err(CloseReason::Overloaded),
        pass => Ok(pass),
    }
}

/// Why a connection is not served, and what becomes of it then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rejection {
    pub(super) reason: CloseReason,
    over: OverLimit,
}

impl From<CloseReason> for Rejection {
    fn from(reason: CloseReason) -> Self {
        Self { reason, over: OverLimit::Reject }
    }
}

impl Rejection {
    /// Refused by its listener for what it has said.
    pub(super) fn denied(refused: ClientRefusal) -> Self {
        let over = match refused {
            ClientRefusal::Reject => OverLimit::Reject,
            ClientRefusal::Drop => OverLimit::Drop,
        };
        Self { reason: CloseReason::Denied, over }
    }

    /// Closes a client that has said something.
    pub(super) async fn close(self, sniffed: SniffedClient, context: &WorkerContext) -> CloseReason {
        match self.over {
            OverLimit::Reject => return sniffed.refuse(self.reason).await,
            OverLimit::Drop => reset(&sniffed.client),
            OverLimit::Tarpit(time) => hold(sniffed.client.into_fd(), time, context),
        }
        self.reason
    }
}

/// Asks a route for a place.
pub(super) fn route(limited: &UsageLimit, record: &mut ConnectionRecord) -> Result<(), Rejection> {
    let pass = enter(limited, CloseReason::RouteFull, CloseReason::RouteRate)?;
    record.hold_route(pass);
    Ok(())
}

/// Asks a pool for a place, if it has limits.
pub(super) fn pool(served: &ServedPool, record: &mut ConnectionRecord) -> Result<(), Rejection> {
    if let Some(limited) = &served.limits {
        record.asked(&served.pool.spec().name);
        let pass = enter(limited, CloseReason::PoolFull, CloseReason::PoolRate)?;
        record.hold_pool(pass);
    }
    Ok(())
}

fn enter(limited: &UsageLimit, full: CloseReason, rate: CloseReason) -> Result<GatePass, Rejection> {
    limited.quota.enter(Moment::now()).map_err(|exceeded| {
        let reason = match exceeded {
            ExceededLimit::Connections => full,
            ExceededLimit::Rate => rate,
        };
        Rejection { reason, over: limited.over }
    })
}

/// Closes a client of which nothing was asked yet, as its listener wants it.
pub(super) fn turn_away(client: OwnedFd, reason: CloseReason, policy: &Policy, context: &WorkerContext) {
    use CloseReason::{ListenerFull, Overloaded, ProcessFull};
    let over = policy.admission.as_ref().map_or(OverLimit::Reject, |admission| admission.spec.over);
    match over {
        // To hold more of whom there is no room for would be of no help.
        OverLimit::Tarpit(time) if !matches!(reason, ListenerFull | ProcessFull | Overloaded) => {
            hold(client, time, context);
        }
        _ => reset(&client),
    }
}

fn reset(client: impl AsFd) {
    let _ = socket::reset_on_close(client);
}

/// Holds a client, unread, if there is room; else it is reset.
fn hold(client: OwnedFd, time: Duration, context: &WorkerContext) {
    let process = context.metrics.process();
    let Some(pass) = context.bounds.tarpit.enter() else {
        process.tarpits_full.increment(1);
        return reset(&client);
    };
    process.tarpits_held.increment(1);
    // What it sends fills the kernel's memory and not ours; that need not be much.
    let _ = socket::shrink_receive_buffer(&client);
    executor::spawn(wait(client, time, pass));
}

/// Nothing wakes it but its end: it is not registered anywhere.
async fn wait(client: OwnedFd, time: Duration, _pass: GatePass) -> TaskNext {
    sleep(time).await;
    reset(&client);
    TaskNext::Done
}
