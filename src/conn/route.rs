//! Finds the pool of a connection, checks the limits of its route and pool, and plans the dial.
//!
//! This is the last step that knows what the client asks for: the steps after it get a plan.

use std::sync::Arc;

use super::admission::{self, Rejection};
use super::announce;
use super::context::WorkerContext;
use super::plan::{DialPlan, EarlyFin, PickRule, RoutedClient};
use super::record::ConnectionRecord;
use super::sniffed::{Intent, SniffedClient};
use crate::limit::OverLimit;
use crate::relay::RelaySettings;
use crate::route::ConnectionFacts;
use crate::snapshot::opening_policy::CancelPolicy;
use crate::snapshot::{
    Action, NoRoute, OpeningPolicy, Policy, PoolSlot, Protocol, RouteTarget, ServedPool, TlsPolicy,
};
use crate::telemetry::{CloseReason, Offered};
use crate::wire::{Offer, ServerName, TunnelRequest};

/// Finds the pool of a client and plans its dial, or refuses the client.
pub(super) async fn route(
    mut sniffed: SniffedClient,
    policy: &Policy,
    record: &mut ConnectionRecord,
    context: &WorkerContext,
) -> Result<RoutedClient, CloseReason> {
    match plan(&mut sniffed, policy, record) {
        Ok(plan) => Ok(RoutedClient { sniffed, plan }),
        Err(rejection) => {
            record.entry().refuse();
            record.permit().leave_target();
            Err(refuse(sniffed, rejection, context).await)
        }
    }
}

/// Returns the plan of a client's dial, and records the route.
fn plan(
    sniffed: &mut SniffedClient,
    policy: &Policy,
    record: &mut ConnectionRecord,
) -> Result<DialPlan, Rejection> {
    let cancel = cancel_policy(policy, &sniffed.intent);
    let served = served(sniffed, policy, cancel, record)?;
    let plan = plan_of(served, policy, &sniffed.intent);
    // The backend must not get these bytes with the connect.
    let unverified = plan.verifies_hello().then(|| std::mem::take(&mut sniffed.bytes));
    Ok(DialPlan { greeting: sniffed.greet.take(), unverified, ..plan })
}

/// Returns the plan of a dial to this pool, without a greeting.
fn plan_of(served: Arc<ServedPool>, policy: &Policy, intent: &Intent) -> DialPlan {
    let cancel = cancel_policy(policy, intent);
    // The key of a request to cancel belongs to one backend, so no other backend can use the key.
    let attempts = if cancel.is_some() { 1 } else { served.pool.spec().dial.attempts };
    let relay = cancel.map_or(&policy.relay, |cancel| &cancel.relay);
    let peer_timeouts = &served.pool.spec().dial.peer_timeouts;
    DialPlan {
        attempts,
        pick: match (served.pool.forward(), cancel) {
            (Some(_), _) => PickRule::Named,
            (None, Some(_)) => PickRule::OfSession { missing: CloseReason::CancelRefused },
            (None, None) => PickRule::Balanced,
        },
        early_fin: early_fin(intent),
        request: match intent {
            Intent::Tunnel(request) => Some(request.clone()),
            _ => None,
        },
        unverified: None,
        relay: RelaySettings { listener: Arc::clone(relay), backend: Arc::clone(peer_timeouts) },
        greeting: None,
        served,
    }
}

/// Returns the plan of a dial to this pool for an explained client: one with this request for a tunnel, or with a hello, or
/// of a listener that reads nothing.
pub(super) fn explained_plan(
    served: Arc<ServedPool>,
    policy: &Policy,
    request: Option<&TunnelRequest>,
) -> DialPlan {
    plan_of(served, policy, &explained_intent(request))
}

fn explained_intent(request: Option<&TunnelRequest>) -> Intent {
    request.map_or(Intent::Name, |request| Intent::Tunnel(request.clone()))
}

/// Returns the policy for a request to cancel; `None` for another client, or if the listener has no such policy.
///
/// A reload may have made the listener one that serves no such requests. Then the client has no exemption from limits,
/// because its relay has no short timeouts.
fn cancel_policy<'p>(policy: &'p Policy, intent: &Intent) -> Option<&'p CancelPolicy> {
    match (intent, &policy.opening) {
        (Intent::Cancel, OpeningPolicy::Postgres(postgres)) => postgres.cancel.as_ref(),
        _ => None,
    }
}

/// Returns the meaning of an early FIN. TLS, also after an opening, and sessions of PostgreSQL go on only if the client
/// answers the server.
fn early_fin(intent: &Intent) -> EarlyFin {
    match intent {
        Intent::Name | Intent::Plaintext(_) => EarlyFin::Left,
        Intent::Cancel => EarlyFin::Whole,
        Intent::Spoken(_) | Intent::Silent => EarlyFin::Unclear,
        Intent::Tunnel(_) => EarlyFin::Unanswered,
    }
}

/// Returns the pool of a client, and records its route.
///
/// The offer of the hello is read only if a route, a list or the log needs it.
fn served(
    sniffed: &SniffedClient,
    policy: &Policy,
    cancel: Option<&CancelPolicy>,
    record: &mut ConnectionRecord,
) -> Result<Arc<ServedPool>, Rejection> {
    let required = policy.protocol.required_facts();
    let denying = policy.access.as_deref().filter(|access| access.needs_ja4());
    let is_needed = required.offer || denying.is_some() || record.may_be_logged();
    let message = if is_needed { sniffed.message() } else { None };
    let source = record.client().tcp().map(|address| address.ip());
    let proxy = sniffed.facts.proxy.as_deref();
    let destination = if required.destination { announce::destination(proxy, sniffed) } else { None };
    let offer = message.as_deref().and_then(Offer::of);
    let facts = ConnectionFacts::new(source, destination, offer).behind(proxy);
    log_offer(&facts, sniffed, record);
    let name = sniffed.facts.server_name.as_ref();
    let chosen = choose(policy, &sniffed.intent, name, &facts);
    record.count_source(policy);
    if let (Some(name), Some(has_route)) = (name, has_route(&chosen, policy)) {
        record.count_name(name, has_route);
    }
    match chosen? {
        ChosenTarget::Pool(slot) => enter(slot.served(), record),
        ChosenTarget::Route(target) => follow(target, source, cancel, record),
    }
}

/// The target of a client.
pub(super) enum ChosenTarget<'p> {
    /// The pool of a listener of which no route matches.
    Pool(&'p Arc<PoolSlot>),
    /// A route, or the target of clients without a route.
    Route(&'p RouteTarget),
}

/// Returns the target of a client. It changes and counts nothing.
///
/// # Errors
///
/// The reason for which the client has no target.
fn choose<'p>(
    policy: &'p Policy,
    intent: &Intent,
    name: Option<&ServerName>,
    facts: &ConnectionFacts<'_>,
) -> Result<ChosenTarget<'p>, Rejection> {
    if let Some(access) = policy.access.as_deref().filter(|access| access.needs_ja4())
        && facts.ja4().is_some_and(|ja4| access.denies_ja4(ja4))
    {
        return Err(Rejection::denied(access.refused));
    }
    // A reload may have changed the listener since the client connected. A client whose request the listener no longer serves
    // is refused, and a request for a tunnel never goes to a pool with backends.
    let target = match (&policy.protocol, intent) {
        (Protocol::Tunnel(tunnel), Intent::Tunnel(_)) => {
            tunnel.target(name, facts).map_or(ChosenTarget::Pool(&tunnel.pool), ChosenTarget::Route)
        }
        (Protocol::Tunnel(_), _) | (Protocol::Tcp(_), Intent::Tunnel(_)) => {
            return Err(CloseReason::UnknownProtocol.into());
        }
        (Protocol::Tcp(tcp), _) => {
            tcp.target(facts).map_or(ChosenTarget::Pool(&tcp.pool), ChosenTarget::Route)
        }
        (Protocol::Tls(tls), _) => ChosenTarget::Route(match opening_target(&policy.opening, intent) {
            Some(target) => target?,
            None => named_target(tls, name, facts)?,
        }),
    };
    Ok(target)
}

/// Returns true if the name of a client has a route, and false if it has none. `None` if the routes were not asked.
fn has_route(chosen: &Result<ChosenTarget<'_>, Rejection>, policy: &Policy) -> Option<bool> {
    match (chosen, &policy.protocol) {
        (Ok(ChosenTarget::Route(target)), Protocol::Tls(tls)) => Some(!tls.is_unmatched(target)),
        (Ok(_), Protocol::Tunnel(_)) => Some(true),
        (Err(Rejection { reason: CloseReason::UnmatchedSni, .. }), _) => Some(false),
        // The routes of the name require a later version of TLS.
        (Err(Rejection { reason: CloseReason::TlsTooOld, .. }), _) => Some(true),
        _ => None,
    }
}

/// Returns the target of an explained client: one with this request for a tunnel, or with a hello, or of a listener that
/// reads nothing.
///
/// # Errors
///
/// The reason for which the client has no target.
pub(super) fn choose_explained<'p>(
    policy: &'p Policy,
    request: Option<&TunnelRequest>,
    name: Option<&ServerName>,
    facts: &ConnectionFacts<'_>,
) -> Result<ChosenTarget<'p>, CloseReason> {
    choose(policy, &explained_intent(request), name, facts).map_err(|rejection| rejection.reason)
}

/// Returns the slot of the pool that an action leads to.
///
/// # Errors
///
/// The reason for which the action refuses the client.
pub(super) fn pool_of(
    action: &Action,
    source: Option<std::net::IpAddr>,
) -> Result<&Arc<PoolSlot>, CloseReason> {
    action.slot(source).ok_or(match action {
        Action::Drop => CloseReason::RouteDropped,
        _ => CloseReason::RouteRejected,
    })
}

/// Records the offer of a hello, if the client sent a hello and the connection may be logged.
fn log_offer(facts: &ConnectionFacts<'_>, sniffed: &SniffedClient, record: &mut ConnectionRecord) {
    if let (Some(offer), Some(&ja4), Some(form)) =
        (&facts.offer, record.may_be_logged().then(|| facts.ja4()).flatten(), sniffed.hello)
    {
        record.offered(Offered::new(offer, ja4, form.segments, form.records));
    }
}

/// Returns the target of a client with a hello.
fn named_target<'p>(
    tls: &'p TlsPolicy,
    name: Option<&ServerName>,
    facts: &ConnectionFacts<'_>,
) -> Result<&'p RouteTarget, CloseReason> {
    tls.target(name, facts).map_err(|fault| match fault {
        NoRoute::NoSni => CloseReason::NoSni,
        NoRoute::Unmatched => CloseReason::UnmatchedSni,
        NoRoute::TooOld => CloseReason::TlsTooOld,
    })
}

/// Returns the target of a client without a hello; `None` if the hello decides.
fn opening_target<'f>(
    policy: &'f OpeningPolicy,
    intent: &Intent,
) -> Option<Result<&'f RouteTarget, CloseReason>> {
    // A reload may have changed the listener since the client connected. An intent that the listener no longer
    // serves is refused.
    let (target, or) = match (policy, intent) {
        (_, Intent::Name) => return None,
        (OpeningPolicy::Postgres(policy), Intent::Plaintext(startup)) => {
            (policy.plaintext(&startup.user, &startup.database), CloseReason::PlaintextRefused)
        }
        (_, Intent::Plaintext(_)) => (None, CloseReason::PlaintextRefused),
        (OpeningPolicy::Postgres(policy), Intent::Cancel) => {
            (policy.cancel.as_ref().map(|cancel| &cancel.target), CloseReason::CancelRefused)
        }
        (_, Intent::Cancel) => (None, CloseReason::CancelRefused),
        (OpeningPolicy::Detect(policy), Intent::Spoken(spoken)) => {
            (policy.target(*spoken), CloseReason::UnknownProtocol)
        }
        (OpeningPolicy::Detect(policy), Intent::Silent) => {
            (policy.on_timeout.as_ref(), CloseReason::FirstByteTimeout)
        }
        (OpeningPolicy::Detect(policy), Intent::Tunnel(request)) => {
            (policy.tunnel_target(request.protocol), CloseReason::UnknownProtocol)
        }
        (_, Intent::Spoken(_) | Intent::Tunnel(_)) => (None, CloseReason::UnknownProtocol),
        (_, Intent::Silent) => (None, CloseReason::FirstByteTimeout),
    };
    Some(target.ok_or(or))
}

/// Returns the pool that a target leads to, and records the route.
fn follow(
    RouteTarget { route, action, limits, counts }: &RouteTarget,
    source: Option<std::net::IpAddr>,
    cancel: Option<&CancelPolicy>,
    record: &mut ConnectionRecord,
) -> Result<Arc<ServedPool>, Rejection> {
    record.routed(route, counts.as_ref());
    let slot = pool_of(action, source)?;
    if let Some(limited) = limits {
        admission::route(limited, record)?;
    }
    if cancel.is_some() {
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

/// Closes a client that was refused by the routes, or by a limit of its route or pool.
async fn refuse(sniffed: SniffedClient, rejection: Rejection, context: &WorkerContext) -> CloseReason {
    let Rejection { reason, over } = rejection;
    match over {
        OverLimit::Reject => return sniffed.refuse(reason).await,
        OverLimit::Drop | OverLimit::Tarpit(_) => admission::close(sniffed.client.into_fd(), over, context),
    }
    reason
}
