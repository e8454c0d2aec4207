//! Finds the pool of a connection, and checks the limits of its route and pool.

use std::borrow::Cow;
use std::sync::Arc;

use super::admission::{self, Rejection};
use super::announce;
use super::context::WorkerContext;
use super::record::ConnectionRecord;
use super::sniffed::{Intent, SniffedClient};
use crate::limit::OverLimit;
use crate::route::ConnectionFacts;
use crate::snapshot::{Action, NoRoute, OpeningPolicy, Policy, Protocol, RouteTarget, ServedPool};
use crate::telemetry::{CloseReason, Offered};
use crate::wire::Offer;

/// Returns the pool of a connection, and records its route.
///
/// The offer of the hello is read only if a route, a list or the log needs it.
pub(super) fn route(
    policy: &Policy,
    sniffed: &SniffedClient,
    record: &mut ConnectionRecord,
) -> Result<Arc<ServedPool>, Rejection> {
    let protocol = &policy.protocol;
    let required = protocol.required_facts();
    let source = record.client().tcp().map(|address| address.ip());
    let destination = required
        .destination
        .then(|| announce::destination(sniffed.facts.proxy.as_deref(), sniffed))
        .flatten();
    let denying = policy.access.as_deref().filter(|access| access.needs_ja4());
    let is_needed = required.offer || denying.is_some() || record.may_be_logged();
    let message: Option<Cow<'_, [u8]>> = if is_needed { sniffed.message() } else { None };
    let offer = message.as_deref().and_then(Offer::of);
    let facts = ConnectionFacts::new(source, destination, offer).behind(sniffed.facts.proxy.as_deref());
    if let (Some(offer), Some(&ja4), Some(form)) =
        (&facts.offer, record.may_be_logged().then(|| facts.ja4()).flatten(), sniffed.hello)
    {
        record.offered(Offered::new(offer, ja4, form.segments, form.records));
    }
    if let Some(access) = denying
        && facts.ja4().is_some_and(|ja4| access.denies_ja4(ja4))
    {
        return Err(Rejection::denied(access.refused));
    }
    let target = match protocol {
        Protocol::Tcp(tcp) => match tcp.target(&facts) {
            Some(target) => target,
            None => return enter(tcp.pool.served(), record),
        },
        Protocol::Tls(tls) => match opening_target(&policy.opening, &sniffed.intent) {
            Some(target) => target?,
            None => tls.target(sniffed.facts.server_name.as_ref(), &facts).map_err(|fault| match fault {
                NoRoute::NoSni => CloseReason::NoSni,
                NoRoute::Unmatched => CloseReason::UnmatchedSni,
                NoRoute::TooOld => CloseReason::TlsTooOld,
            })?,
        },
    };
    follow(target, source, &sniffed.intent, record)
}

/// Returns the target of a client without a hello; `None` if the hello decides.
fn opening_target<'f>(
    policy: &'f OpeningPolicy,
    intent: &Intent,
) -> Option<Result<&'f RouteTarget, CloseReason>> {
    // A reload may have changed the listener since the client connected. An intent that it no longer serves
    // is refused.
    let (target, or) = match (policy, intent) {
        (_, Intent::Name) => return None,
        (OpeningPolicy::Postgres(policy), Intent::Plaintext(startup)) => {
            (policy.plaintext(&startup.user, &startup.database), CloseReason::PlaintextRefused)
        }
        (_, Intent::Plaintext(_)) => (None, CloseReason::PlaintextRefused),
        (OpeningPolicy::Postgres(policy), Intent::Cancel) => {
            (policy.cancel.as_ref(), CloseReason::CancelRefused)
        }
        (_, Intent::Cancel) => (None, CloseReason::CancelRefused),
        (OpeningPolicy::Detect(policy), Intent::Spoken(spoken)) => {
            (policy.target(*spoken), CloseReason::UnknownProtocol)
        }
        (OpeningPolicy::Detect(policy), Intent::Silent) => {
            (policy.on_timeout.as_ref(), CloseReason::FirstByteTimeout)
        }
        (_, Intent::Spoken(_)) => (None, CloseReason::UnknownProtocol),
        (_, Intent::Silent) => (None, CloseReason::FirstByteTimeout),
    };
    Some(target.ok_or(or))
}

/// Closes a client that no route, or no limit of its route, admits.
pub(super) async fn refuse(
    sniffed: SniffedClient,
    rejection: Rejection,
    context: &WorkerContext,
) -> CloseReason {
    let Rejection { reason, over } = rejection;
    match over {
        OverLimit::Reject => return sniffed.refuse(reason).await,
        OverLimit::Drop | OverLimit::Tarpit(_) => admission::close(sniffed.client.into_fd(), over, context),
    }
    reason
}

fn follow(
    RouteTarget { route, action, limits, counts }: &RouteTarget,
    source: Option<std::net::IpAddr>,
    intent: &Intent,
    record: &mut ConnectionRecord,
) -> Result<Arc<ServedPool>, Rejection> {
    record.routed(route, counts.as_ref());
    let Some(slot) = action.slot(source) else {
        let is_drop = matches!(action, Action::Drop);
        return Err(if is_drop { CloseReason::RouteDropped } else { CloseReason::RouteRejected }.into());
    };
    if let Some(limited) = limits {
        admission::route(limited, record)?;
    }
    if matches!(intent, Intent::Cancel) {
        // A request to cancel is short. A full pool must admit it, because the request may end a session that fills the
        // pool.
        let served = slot.served();
        record.belongs_to(&served.metrics);
        return Ok(served);
    }
    enter(slot.served(), record).inspect_err(|_| {
        // The pool refused: refund the token taken from the route's rate.
        if let Some(limited) = limits {
            limited.quota.refund();
        }
    })
}

/// Returns the pool if its limits allow one more connection.
fn enter(served: Arc<ServedPool>, record: &mut ConnectionRecord) -> Result<Arc<ServedPool>, Rejection> {
    record.belongs_to(&served.metrics);
    admission::pool(&served, record)?;
    Ok(served)
}
