//! Finds the addresses of the host that a client of a forwarding pool names.

use std::net::SocketAddr;
use std::time::Instant;

use super::gone::WaitStage;
use super::plan::RoutedClient;
use super::record::ConnectionRecord;
use crate::executor::timeout_at;
use crate::pool::{Forward, ForwardDestinations, ForwardFault, ForwardTo};
use crate::telemetry::CloseReason;

/// Returns the addresses to dial, at least one, in the order of the attempts.
///
/// # Errors
///
/// The reason for which the client is not forwarded.
pub(super) async fn find(
    routed: &RoutedClient,
    forward: &Forward,
    deadline: Instant,
    record: &mut ConnectionRecord,
) -> Result<Vec<SocketAddr>, CloseReason> {
    let sniffed = &routed.sniffed;
    let requested = routed.plan.request.as_ref().map(|request| &request.target);
    let target = forward.target(sniffed.facts.server_name.as_ref(), requested);
    let target = target.map_err(|fault| refused(record, fault))?;
    if matches!(forward.spec().to, ForwardTo::Sni { .. }) {
        let Some(mark) = forward.mark(&sniffed.bytes) else {
            let client = record.client();
            tracing::debug!(%client, "a forwarded connection came back and is closed: its name leads to this process");
            return Err(CloseReason::ForwardLoop);
        };
        record.holds_mut().mark_forward(mark);
    }
    let own = record.context().bounds.own.load_full();
    let found = tokio::select! {
        biased;
        () = routed.gone(WaitStage::Dial) => return Err(CloseReason::ClientGone),
        found = timeout_at(deadline, forward.destinations(&target, &own)) => found,
    };
    let found = found.map_err(|_| CloseReason::NameNotResolved)?;
    let ForwardDestinations { addresses, reported } = found.map_err(|fault| refused(record, fault))?;
    if let Some(fault) = reported {
        record.reported(reason(fault));
    }
    Ok(addresses)
}

/// Returns the close reason of a client that is not forwarded.
fn refused(record: &ConnectionRecord, fault: ForwardFault) -> CloseReason {
    tracing::debug!(client = %record.client(), %fault, "a client is not forwarded");
    reason(fault)
}

/// Returns the close reason for a fault.
pub(super) fn reason(fault: ForwardFault) -> CloseReason {
    match fault {
        ForwardFault::NotAllowed => CloseReason::NameNotAllowed,
        ForwardFault::AddressNotAllowed => CloseReason::AddressNotAllowed,
        ForwardFault::PortNotAllowed => CloseReason::PortNotAllowed,
        ForwardFault::NotResolved(_) => CloseReason::NameNotResolved,
        ForwardFault::Refused => CloseReason::AddressRefused,
    }
}
