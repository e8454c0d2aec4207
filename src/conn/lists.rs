//! Asks who may come in: for the peer at its accept, before anything is held for it, and for the client that a
//! PROXY header tells.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::proxied::Announced;
use super::sniff::Sniffed;
use super::story::Story;
use super::{Arrival, Surroundings};
use crate::snapshot::lists::{Asked, Denial};
use crate::snapshot::{Front, Policy, Protocol, Refused};
use crate::sys::{Address, socket};
use crate::telemetry::{ClientAddr, CloseReason, Record};
use crate::wire::Alert;

/// Lets an arrival pass, or counts it, writes it down and closes it. Nothing is kept of it then; it takes no
/// place of the listener or the process.
///
/// A proxy whose header will be believed need not be allowed: its clients must be. It may be denied.
pub(super) fn admit(arrival: Arrival, around: &Surroundings) -> Option<Arrival> {
    let Arrival { accepted, policy, .. } = &arrival;
    let is_proxy = policy.proxy.as_ref().is_some_and(|proxy| proxy.trusted.contains(&accepted.peer));
    let asked = if is_proxy { Asked::Proxy } else { Asked::Client };
    let Err(reason) = ask(policy, &accepted.peer, asked) else { return Some(arrival) };
    if speaks_tls(policy) {
        // What it sends from now on is answered by a reset; the alert has come before that.
        let _ = socket::send(&accepted.socket, &Alert::AccessDenied.record());
    } else {
        let _ = socket::reset_on_close(&accepted.socket);
    }
    policy.metrics.turned_away(reason);
    if around.access_log.is_on() {
        let id = around.bounds.next_id.fetch_add(1, Ordering::Relaxed);
        around.access_log.push(record(id, arrival, reason));
    }
    None
}

/// Asks for the client whom a header may have told.
pub(super) fn ask_for_client(policy: &Policy, story: &Story) -> Result<(), CloseReason> {
    ask(policy, story.client(), Asked::Client)
}

/// Refuses it.
pub(super) async fn refuse(announced: Announced, policy: &Policy, reason: CloseReason) -> CloseReason {
    let Announced { client, bytes, .. } = announced;
    if speaks_tls(policy) {
        return match Sniffed::tls(client, bytes) {
            Ok(sniffed) => sniffed.refuse(reason).await,
            Err(fault) => fault,
        };
    }
    let _ = socket::reset_on_close(&client);
    reason
}

/// Whoever comes through a Unix socket is asked by the permissions of its file.
fn ask(policy: &Policy, address: &Address, asked: Asked) -> Result<(), CloseReason> {
    let Some(access) = &policy.access else { return Ok(()) };
    let ip: Option<IpAddr> = address.tcp().map(|address| address.ip());
    ip.map_or(Ok(()), |ip| access.ask(ip, asked, Instant::now)).map_err(|denial| match denial {
        Denial::Denied => CloseReason::Denied,
        Denial::NotAllowed => CloseReason::NotAllowed,
    })
}

/// Whether an alert is understood, and meant to be sent.
fn speaks_tls(policy: &Policy) -> bool {
    matches!(policy.protocol, Protocol::Tls(_))
        && matches!(policy.front, Front::Straight)
        && policy.access.as_ref().is_some_and(|access| access.refused == Refused::Reject)
}

fn record(id: u64, arrival: Arrival, close: CloseReason) -> Record {
    Record {
        id,
        accepted: SystemTime::now(),
        client: ClientAddr(arrival.accepted.peer),
        peer: None,
        listener: Arc::clone(&arrival.policy.listener),
        sni: None,
        proxy_authority: None,
        unique_id: None,
        offered: None,
        route: None,
        pool: None,
        backend: None,
        backend_address: None,
        attempts: 0,
        from_client: 0,
        from_backend: 0,
        dropped: 0,
        hello: None,
        queue: None,
        connect: None,
        total: Duration::ZERO,
        close,
    }
}
