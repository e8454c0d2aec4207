//! The notes of a report: the assumptions, and the facts that are not known.

use super::{ExplainedState, Journey};
use crate::balance::Algorithm;
use crate::pool::{HashOn, Pool};
use crate::snapshot::{OpeningPolicy, Protocol};

/// Adds the notes that do not depend on the route.
pub(super) fn before(journey: &mut Journey<'_>) {
    let (policy, request) = (journey.policy, journey.request);
    let routes = policy.protocol.routes();
    let mut add = |is_so: bool, note: &str| {
        if is_so {
            journey.report.notes.push(note.to_owned());
        }
    };
    add(
        matches!(journey.state, ExplainedState::Configuration),
        "this is the configuration alone: all backends count as up, and no connection is open; --running asks the \
         running process",
    );
    add(
        policy.proxy.is_some(),
        "the listener reads PROXY headers: the source is the client that a trusted peer names, and TLVs are not known",
    );
    let reads_hello = matches!(policy.protocol, Protocol::Tls(_));
    let is_for_tunnels = matches!(policy.protocol, Protocol::Tunnel(_));
    add(!reads_hello && !is_for_tunnels, "the listener reads no hello: server name and ALPN have no effect");
    add(
        is_for_tunnels && request.requested.is_none(),
        "the client requests a tunnel, and its host is not known; --request sets the host and the port",
    );
    add(
        reads_hello && !matches!(policy.opening, OpeningPolicy::Straight),
        "the listener reads other messages before the hello: this is the way of a client that begins TLS",
    );
    let needs_ja4 = policy.access.as_ref().is_some_and(|access| access.needs_ja4());
    add(
        reads_hello && request.hello.is_made() && (needs_ja4 || routes.table.needs_whole_hello()),
        "the hello is made up from server name and ALPN, with TLS 1.3 and without ECH: conditions on JA4, ECH and the \
         version of TLS may decide otherwise for a real client; --hello reads a captured hello",
    );
    add(
        routes.table.asks().destination && request.destination.is_none(),
        "the address that the client connects to is not known, so no condition on it is met; --destination sets it",
    );
}

/// Adds the notes about the pick of a pool.
pub(super) fn of_pool(journey: &mut Journey<'_>, pool: &Pool) {
    let spec = pool.spec();
    let is_alone = matches!(journey.state, ExplainedState::Configuration);
    if is_alone && spec.has_sources() {
        let name = &spec.name;
        journey.report.notes.push(format!(
            "host names and discovery sources of pool {name} are not resolved, so the pick of a running process differs"
        ));
    }
    if spec.max_load.is_some() && spec.algorithm == Algorithm::Maglev {
        journey.report.notes.push(format!(
            "pool {} has max_load: the pick also depends on the connections that are open at that moment",
            spec.name
        ));
    }
    let port_is_known = journey.request.source.is_none_or(|source| source.port() != 0);
    if spec.algorithm == Algorithm::Maglev && spec.hash_on.contains(HashOn::SourceIpPort) && !port_is_known {
        journey.report.notes.push(
            "the pool hashes the port of the client, which is not known: the pick is that of port 0; write the source \
             as ADDRESS:PORT"
                .to_owned(),
        );
    }
}
