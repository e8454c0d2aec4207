//! The answer to a client that is not served, in the protocol of the client.

use std::future::poll_fn;
use std::time::Duration;

use super::record::ConnectionRecord;
use crate::executor::timeout;
use crate::sys::{Stream, socket};
use crate::telemetry::{CloseReason, ProxyOutcome};
use crate::wire::{Alert, TunnelFailure, TunnelProtocol, postgres};

/// The time for which a client that got an alert may still send before its socket is closed.
const ALERT_LINGER: Duration = Duration::from_secs(1);

/// The most bytes that are read and discarded within `ALERT_LINGER`.
const ALERT_DISCARD: usize = 256 * 1024;

/// The most bytes that are read at once.
const CHUNK: usize = 2048;

/// The form in which a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalProtocol {
    /// A reset.
    Reset,
    /// A close without a message.
    Nothing,
    /// A TLS alert.
    Tls,
    /// A PostgreSQL ErrorResponse.
    Postgres,
    /// An HTTP status.
    Http,
    /// The answer to a request for a tunnel.
    Tunnel(TunnelProtocol),
}

impl RefusalProtocol {
    /// Closes a client. If the client's protocol has a message for the reason, sends this message first.
    pub(super) async fn refuse(self, client: &Stream, reason: CloseReason) -> CloseReason {
        match self {
            _ if reason == CloseReason::RouteDropped => _ = socket::reset_on_close(client),
            Self::Reset => _ = socket::reset_on_close(client),
            Self::Nothing => {}
            Self::Tls => dismiss(client, &alert(reason).record()).await,
            Self::Postgres => dismiss(client, &postgres_error(reason)).await,
            Self::Http => dismiss(client, http_status(reason)).await,
            Self::Tunnel(protocol) => dismiss(client, &protocol.refused(tunnel_failure(reason))).await,
        }
        reason
    }
}

fn alert(reason: CloseReason) -> Alert {
    match reason {
        CloseReason::NoSni => Alert::MissingExtension,
        CloseReason::UnmatchedSni | CloseReason::NameNotAllowed | CloseReason::SniMismatch => {
            Alert::UnrecognizedName
        }
        CloseReason::RouteRejected | CloseReason::Denied | CloseReason::NotAllowed => Alert::AccessDenied,
        CloseReason::TlsTooOld => Alert::ProtocolVersion,
        _ => Alert::InternalError,
    }
}

fn postgres_error(reason: CloseReason) -> Vec<u8> {
    match reason {
        // The answer of a server whose pg_hba.conf requires TLS.
        CloseReason::PlaintextRefused => postgres::error(
            "28000",
            "sessions without TLS are not accepted here",
            "Connect with sslmode=require or, better, sslmode=verify-full, and by the server's host name, not its \
             address: connections are routed by this name.",
        ),
        CloseReason::RouteFull | CloseReason::RouteRate | CloseReason::PoolFull | CloseReason::PoolRate => {
            postgres::error("53300", "too many connections", "Try again later.")
        }
        CloseReason::UnknownProtocol => postgres::error("08004", "PostgreSQL is not served here", ""),
        _ => postgres::error("57P03", "no server is available now", "Try again later."),
    }
}

fn http_status(reason: CloseReason) -> &'static [u8] {
    match reason {
        CloseReason::UnknownProtocol => {
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 36\r\n\r\nplain HTTP is not served here: TLS?\n"
        }
        _ => b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    }
}

/// Returns the failure that a client learns which requested a tunnel.
fn tunnel_failure(reason: CloseReason) -> TunnelFailure {
    match reason {
        CloseReason::NameNotAllowed
        | CloseReason::PortNotAllowed
        | CloseReason::RouteRejected
        | CloseReason::UnknownProtocol => TunnelFailure::NotAllowed,
        CloseReason::AddressNotAllowed | CloseReason::AddressRefused => TunnelFailure::AddressNotAllowed,
        CloseReason::NameNotResolved => TunnelFailure::NotResolved,
        CloseReason::ForwardLoop => TunnelFailure::Loop,
        CloseReason::ConnectRefused => TunnelFailure::Refused,
        CloseReason::ConnectTimeout => TunnelFailure::TimedOut,
        CloseReason::ConnectFailed => TunnelFailure::Unreachable,
        CloseReason::RouteFull
        | CloseReason::RouteRate
        | CloseReason::PoolFull
        | CloseReason::PoolRate
        | CloseReason::QueueFull
        | CloseReason::QueueTimeout => TunnelFailure::TooMany,
        CloseReason::NoBackend | CloseReason::OutOfResources | CloseReason::ClientGone => {
            TunnelFailure::Unavailable
        }
        _ => TunnelFailure::Internal,
    }
}

/// Resets a client whose first bytes are a PROXY header that the listener does not expect.
pub(super) fn unexpected_header(client: &Stream, record: &ConnectionRecord) -> CloseReason {
    record.proxy_header(ProxyOutcome::Unexpected);
    let _ = socket::reset_on_close(client);
    CloseReason::ProxyUnexpected
}

/// Sends a last message and waits a short time until the client can read it. A close with unread bytes, such as
/// early data after a hello, would reset the connection. The client would then lose the alert.
pub(super) async fn dismiss(client: &Stream, message: &[u8]) {
    if message.is_empty() || socket::send(client, message).is_ok() {
        let _ = client.finish();
        let _ = timeout(ALERT_LINGER, discard(client)).await;
    }
}

/// Reads and discards bytes until the client ends.
async fn discard(client: &Stream) {
    let mut discarded = 0;
    // This memory is in use only while there are bytes to read.
    let recv = async || poll_fn(|cx| client.poll_recv(cx, &mut [0; CHUNK])).await;
    while let Ok(n) = recv().await {
        discarded += n;
        if n == 0 || discarded > ALERT_DISCARD {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Phase;

    /// The reasons of these phases that a client with a request for a tunnel cannot have: those of the messages before it,
    /// those of other protocols, and those of a client that gets a reset.
    const OF_OTHERS: [CloseReason; 38] = [
        CloseReason::NoData,
        CloseReason::HelloTruncated,
        CloseReason::FirstByteTimeout,
        CloseReason::HelloTimeout,
        CloseReason::NotTls,
        CloseReason::HelloMalformed,
        CloseReason::HelloTooLarge,
        CloseReason::BadName,
        CloseReason::NoSni,
        CloseReason::UnmatchedSni,
        CloseReason::RouteDropped,
        CloseReason::TlsTooOld,
        CloseReason::HelloMemory,
        CloseReason::PlaintextRefused,
        CloseReason::CancelRefused,
        CloseReason::PipelinedBeforeTls,
        CloseReason::OpeningMalformed,
        CloseReason::OpeningTimeout,
        CloseReason::TooManyCommands,
        CloseReason::LeftBeforeTls,
        CloseReason::OpeningTruncated,
        CloseReason::RequestUnsupported,
        CloseReason::AuthMethodRefused,
        CloseReason::ProxyMissing,
        CloseReason::ProxyUntrusted,
        CloseReason::ProxyUnexpected,
        CloseReason::ProxyMalformed,
        CloseReason::ProxyChecksum,
        CloseReason::ProxyTruncated,
        CloseReason::ProxyTimeout,
        CloseReason::BackendRefusedTls,
        CloseReason::GreetingTimeout,
        CloseReason::GreetingFailed,
        CloseReason::ListenerFull,
        CloseReason::ProcessFull,
        CloseReason::Denied,
        CloseReason::NotAllowed,
        CloseReason::Overloaded,
    ];

    #[test]
    fn a_client_that_requested_a_tunnel_learns_each_reason() {
        let reasons = CloseReason::ALL.into_iter();
        let reasons = reasons.filter(|reason| matches!(reason.phase(), Phase::Hello | Phase::Dial));
        let mut seen = 0;
        for reason in reasons.filter(|reason| !OF_OTHERS.contains(reason)) {
            assert_ne!(tunnel_failure(reason), TunnelFailure::Internal, "{reason}");
            seen += 1;
        }
        assert!(seen > 15, "{seen}");
        assert_eq!(tunnel_failure(CloseReason::Internal), TunnelFailure::Internal);
    }
}
