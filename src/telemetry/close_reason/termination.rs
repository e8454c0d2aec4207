//! The termination state of each close reason: the two letters in the TCP log of HAProxy.
//!
//! The first letter is the cause, the second letter the phase. `docs/reference/access-log.md` has the table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::CloseReason;

/// Returns the termination states as a Markdown table, one row each, for docs/reference/access-log.md.
pub fn termination_table() -> String {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for reason in CloseReason::ALL {
        reasons.entry(reason.termination_state()).or_default().push(format!("`{}`", reason.word()));
    }
    let mut table = String::from("| state | close reasons |\n|---|---|\n");
    for (state, reasons) in reasons {
        _ = writeln!(table, "| `{state}` | {} |", reasons.join(", "));
    }
    table
}

impl CloseReason {
    /// Returns the termination state in lines for programs that read logs of HAProxy.
    ///
    /// If HAProxy ends connections for the same reason, the letters are those of HAProxy. Some of its letters depend on a
    /// state that a close reason does not have: a client that leaves the queue is `CQ` there and `CC` here.
    pub const fn termination_state(self) -> &'static str {
        use CloseReason as Reason;
        match self {
            Reason::ClientFin | Reason::BackendFin => "--",
            Reason::ClientReset => "CD",
            Reason::BackendReset => "SD",
            // HAProxy has a timeout for each side. This one is for both sides, and HAProxy counts such an end for the client.
            Reason::IdleTimeout | Reason::HalfClosedTimeout => "cD",
            Reason::ClientVanished | Reason::ClientStalled => "cD",
            Reason::BackendVanished | Reason::BackendStalled => "sD",
            Reason::NoData
            | Reason::HelloTruncated
            | Reason::ProxyTruncated
            | Reason::LeftBeforeTls
            | Reason::OpeningTruncated => "CR",
            Reason::FirstByteTimeout
            | Reason::HelloTimeout
            | Reason::OpeningTimeout
            | Reason::ProxyTimeout => "cR",
            Reason::Denied
            | Reason::NotAllowed
            | Reason::NotTls
            | Reason::HelloMalformed
            | Reason::HelloTooLarge
            | Reason::BadName
            | Reason::NoSni
            | Reason::UnmatchedSni
            | Reason::RouteRejected
            | Reason::RouteDropped
            | Reason::TlsTooOld
            | Reason::PlaintextRefused
            | Reason::CancelRefused
            | Reason::UnknownProtocol
            | Reason::PipelinedBeforeTls
            | Reason::OpeningMalformed
            | Reason::TooManyCommands
            | Reason::RequestUnsupported
            | Reason::AuthMethodRefused
            | Reason::ProxyMissing
            | Reason::ProxyUntrusted
            | Reason::ProxyUnexpected
            | Reason::ProxyMalformed
            | Reason::ProxyChecksum
            | Reason::ListenerFull
            | Reason::ProcessFull
            | Reason::Overloaded
            | Reason::ListenerRate
            | Reason::SourceConnections
            | Reason::SourceRate
            | Reason::SourceHellos
            | Reason::RouteFull
            | Reason::RouteRate => "PR",
            Reason::HelloMemory | Reason::SourceTableFull => "RR",
            Reason::ClientGone => "CC",
            Reason::NameNotAllowed
            | Reason::AddressNotAllowed
            | Reason::PortNotAllowed
            | Reason::AddressRefused
            | Reason::ForwardLoop
            | Reason::PoolFull
            | Reason::PoolRate => "PC",
            Reason::NoBackend
            | Reason::NameNotResolved
            | Reason::ConnectRefused
            | Reason::ConnectFailed
            | Reason::BackendRefusedTls
            | Reason::GreetingFailed => "SC",
            Reason::ConnectTimeout | Reason::GreetingTimeout => "sC",
            Reason::QueueFull => "SQ",
            Reason::QueueTimeout => "sQ",
            Reason::OutOfResources => "RC",
            Reason::SniMismatch => "PD",
            Reason::BackendDown => "DD",
            Reason::DrainDeadline | Reason::ClosedByOperator | Reason::Rebalanced => "KD",
            Reason::Internal => "ID",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::phase::{EndedBy, Phase};

    /// The letters say the same as the side and the phase of a reason.
    #[test]
    fn the_letters_fit_the_reason() {
        for reason in CloseReason::ALL {
            let [cause, phase] = reason.termination_state().as_bytes() else { panic!("{reason}") };
            let phases: &[u8] = match reason.phase() {
                Phase::Accept | Phase::Hello => b"R",
                Phase::Dial => b"QC",
                Phase::Relay => b"D-",
            };
            assert!(phases.contains(phase), "{reason}");
            let causes: &[u8] = match reason.ended_by() {
                EndedBy::Client => b"Cc-",
                EndedBy::Backend => b"Ss-",
                // A program of HAProxy's kind counts a lack of servers for the servers, and a timeout for the side that is late.
                EndedBy::Pointsman => b"PRIDKcSs",
            };
            assert!(causes.contains(cause), "{reason}");
            assert_eq!(*cause == b'-', *phase == b'-', "{reason}");
        }
    }
}
