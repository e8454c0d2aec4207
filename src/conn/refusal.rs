//! The last words that a client hears which is not served, in the protocol that it speaks.

use std::future::poll_fn;
use std::time::Duration;

use super::record::ConnectionRecord;
use crate::executor::timeout;
use crate::sys::{Stream, socket};
use crate::telemetry::{CloseReason, ProxyOutcome};
use crate::wire::{Alert, postgres};

/// How long a client that was told an alert may still send before its socket is closed.
const ALERT_LINGER: Duration = Duration::from_secs(1);

/// How much of that is read.
const ALERT_DISCARD: usize = 256 * 1024;

/// How much of it is read at once.
const CHUNK: usize = 2048;

/// What a client understands that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalProtocol {
    /// A reset.
    Reset,
    /// An end without words.
    Nothing,
    /// An alert of TLS.
    Tls,
    /// An ErrorResponse of PostgreSQL.
    Postgres,
    /// A status of HTTP.
    Http,
}

impl RefusalProtocol {
    /// Closes a client, and says why if it understands that.
    pub(super) async fn refuse(self, client: &Stream, reason: CloseReason) -> CloseReason {
        match self {
            _ if reason == CloseReason::RouteDropped => _ = socket::reset_on_close(client),
            Self::Reset => _ = socket::reset_on_close(client),
            Self::Nothing => {}
            Self::Tls => dismiss(client, &alert(reason).record()).await,
            Self::Postgres => dismiss(client, &postgres_error(reason)).await,
            Self::Http => dismiss(client, http_status(reason)).await,
        }
        reason
    }
}

fn alert(reason: CloseReason) -> Alert {
    match reason {
        CloseReason::NoSni => Alert::MissingExtension,
        CloseReason::UnmatchedSni | CloseReason::NameNotAllowed => Alert::UnrecognizedName,
        CloseReason::RouteRejected | CloseReason::Denied | CloseReason::NotAllowed => Alert::AccessDenied,
        CloseReason::TlsTooOld => Alert::ProtocolVersion,
        _ => Alert::InternalError,
    }
}

fn postgres_error(reason: CloseReason) -> Vec<u8> {
    match reason {
        // What a server says whose pg_hba.conf wants TLS.
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

/// Ends a client that begins with a PROXY header which nobody believes.
pub(super) fn unexpected_header(client: &Stream, record: &ConnectionRecord) -> CloseReason {
    record.proxy_header(ProxyOutcome::Unexpected);
    let _ = socket::reset_on_close(client);
    CloseReason::ProxyUnexpected
}

/// Says last words and waits, briefly, until it can be read: closing with unread bytes, such as early data
/// behind a hello, would reset the connection and with it the alert.
pub(super) async fn dismiss(client: &Stream, words: &[u8]) {
    if words.is_empty() || socket::send(client, words).is_ok() {
        let _ = client.finish();
        let _ = timeout(ALERT_LINGER, discard(client)).await;
    }
}

/// Reads and forgets until the client ends.
async fn discard(client: &Stream) {
    let mut discarded = 0;
    // Memory that is there only while there is something to read.
    let recv = async || poll_fn(|cx| client.poll_recv(cx, &mut [0; CHUNK])).await;
    while let Ok(n) = recv().await {
        discarded += n;
        if n == 0 || discarded > ALERT_DISCARD {
            return;
        }
    }
}
