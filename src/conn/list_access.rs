//! Checks the lists of a listener, for the peer at its accept and for the client in a PROXY header. At the accept,
//! the peer has not taken any resource yet.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::reading;
use super::refusal::RefusalProtocol;
use crate::snapshot::access::{AccessDecision, AccessDenial, RuleScope};
use crate::snapshot::{ClientRefusal, OpeningPolicy, Policy, Protocol};
use crate::sys::{Address, socket};
use crate::telemetry::CloseReason;
use crate::wire::Alert;

/// Checks the address of a peer against the lists, at the accept of its connection. A trusted proxy need not be
/// in `allow`, because its clients are checked. A trusted proxy must not be in `deny`.
pub(super) fn peer(peer: &Address, policy: &Policy) -> Result<(), CloseReason> {
    let is_proxy = policy.proxy.as_ref().is_some_and(|proxy| proxy.trusted.contains(peer));
    check(policy, peer, if is_proxy { RuleScope::Proxy } else { RuleScope::Client })
}

/// Closes a peer that was refused at its accept.
pub(super) fn refuse_early(socket: &OwnedFd, policy: &Policy) {
    if sends_alerts(policy) {
        // The client gets the alert first. The kernel answers its later bytes with a reset.
        let _ = socket::send(socket, &Alert::AccessDenied.record());
    } else {
        let _ = socket::reset_on_close(socket);
    }
}

/// Checks the address of the client against the lists. The address may come from a PROXY header.
pub(super) fn client(client: &Address, policy: &Policy) -> Result<(), CloseReason> {
    check(policy, client, RuleScope::Client)
}

/// Closes a client that was refused after its header was read.
pub(super) async fn refuse(socket: OwnedFd, reason: CloseReason, policy: &Policy) -> CloseReason {
    if !sends_alerts(policy) {
        let _ = socket::reset_on_close(&socket);
        return reason;
    }
    match reading::register(socket) {
        Ok(client) => RefusalProtocol::Tls.refuse(&client, reason).await,
        Err(reason) => reason,
    }
}

/// Returns the decision of [`client`], and counts nothing.
///
/// # Errors
///
/// The rule that refuses the client.
pub(super) fn preview<'p>(client: &Address, policy: &'p Policy) -> Result<(), AccessDecision<'p>> {
    let (Some(access), Some(address)) = (&policy.access, client.tcp()) else { return Ok(()) };
    access.decide(address.ip(), RuleScope::Client, Instant::now)
}

/// Checks an address against the lists. Clients of a Unix socket pass: the permissions of the socket's file
/// restrict them.
fn check(policy: &Policy, address: &Address, scope: RuleScope) -> Result<(), CloseReason> {
    let Some(access) = &policy.access else { return Ok(()) };
    let ip: Option<IpAddr> = address.tcp().map(|address| address.ip());
    ip.map_or(Ok(()), |ip| access.check(ip, scope, Instant::now)).map_err(refusal)
}

/// Returns the close reason of a denial.
pub(super) fn refusal(denial: AccessDenial) -> CloseReason {
    match denial {
        AccessDenial::Denied => CloseReason::Denied,
        AccessDenial::NotAllowed => CloseReason::NotAllowed,
    }
}

/// Returns true if a refused client gets a TLS alert: the client begins with TLS, and the listener is
/// configured to send alerts.
fn sends_alerts(policy: &Policy) -> bool {
    matches!(policy.protocol, Protocol::Tls(_))
        && matches!(policy.opening, OpeningPolicy::Straight)
        && policy.access.as_ref().is_some_and(|access| access.refused == ClientRefusal::Reject)
}
