//! From what is known of a connection to its pool, and whether route and pool have room for it.

use std::borrow::Cow;
use std::sync::Arc;

use super::admission::{self, Rejection};
use super::announce;
use super::opening::{self, Intent};
use super::record::ConnectionRecord;
use super::sniff::SniffedClient;
use crate::route::ConnectionFacts;
use crate::snapshot::{Action, NoRoute, Policy, Protocol, RouteTarget, ServedPool};
use crate::telemetry::{CloseReason, Offered};
use crate::wire::Offer;

/// Finds the pool, and notes which route led there.
///
/// What the hello offers is looked at only where a route or the log wants it.
pub(super) fn route(
    policy: &Policy,
    sniffed: &SniffedClient,
    record: &mut ConnectionRecord,
) -> Result<Arc<ServedPool>, Rejection> {
    let protocol = &policy.protocol;
    let asks = protocol.asks();
    let source = record.client().tcp().map(|address| address.ip());
    let destination =
        asks.destination.then(|| announce::destination(sniffed.facts.proxy.as_deref(), sniffed)).flatten();
    let denying = policy.access.as_deref().filter(|access| access.asks_ja4());
    let is_asked = asks.offer || denying.is_some() || record.is_told();
    let message: Option<Cow<'_, [u8]>> = if is_asked { sniffed.message() } else { None };
    let offer = message.as_deref().and_then(Offer::of);
    let what = ConnectionFacts::new(source, destination, offer).behind(sniffed.facts.proxy.as_deref());
    if let (Some(offer), Some(&ja4), Some(form)) =
        (&what.offer, record.is_told().then(|| what.ja4()).flatten(), sniffed.hello)
    {
        record.offered(Offered::new(offer, ja4, form.segments, form.records));
    }
    if let Some(access) = denying
        && what.ja4().is_some_and(|ja4| access.denies_ja4(ja4))
    {
        return Err(Rejection::denied(access.refused));
    }
    let target = match protocol {
        Protocol::Tcp(tcp) => match tcp.target(&what) {
            Some(target) => target,
            None => return enter(tcp.pool.served(), record),
        },
        Protocol::Tls(tls) => match opening::target(&policy.front, &sniffed.intent) {
            Some(target) => target?,
            None => tls.target(sniffed.facts.server_name.as_ref(), &what).map_err(|why| match why {
                NoRoute::NoSni => CloseReason::NoSni,
                NoRoute::Unmatched => CloseReason::UnmatchedSni,
                NoRoute::TooOld => CloseReason::TlsTooOld,
            })?,
        },
    };
    follow(target, source, &sniffed.intent, record)
}

fn follow(
    RouteTarget { route, action, limits, counts }: &RouteTarget,
    source: Option<std::net::IpAddr>,
    intent: &Intent,
    record: &mut ConnectionRecord,
) -> Result<Arc<ServedPool>, Rejection> {
    record.routed(route, counts.as_ref());
    let Some(place) = action.place(source) else {
        let is_drop = matches!(action, Action::Drop);
        return Err(if is_drop { CloseReason::RouteDropped } else { CloseReason::RouteRejected }.into());
    };
    if let Some(limited) = limits {
        admission::route(limited, record)?;
    }
    if matches!(intent, Intent::Cancel) {
        // It is short, and must not be refused because the sessions that it is about fill the pool.
        let served = place.served();
        record.belongs_to(&served.metrics);
        return Ok(served);
    }
    enter(place.served(), record).inspect_err(|_| {
        // Whom the pool refuses was none of those that the route may have in its time.
        if let Some(limited) = limits {
            limited.quota.forget_one();
        }
    })
}

/// The pool, if it has room.
fn enter(served: Arc<ServedPool>, record: &mut ConnectionRecord) -> Result<Arc<ServedPool>, Rejection> {
    record.belongs_to(&served.metrics);
    admission::pool(&served, record)?;
    Ok(served)
}
