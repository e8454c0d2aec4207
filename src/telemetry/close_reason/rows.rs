//! The table of the close reasons: the word, side, phase and meaning of each.

use super::CloseReason;
use crate::telemetry::phase::{EndedBy, Phase};

/// The facts of a close reason: one row of the table in [`CloseReason::row`].
pub(super) struct ReasonRow {
    pub(super) word: &'static str,
    pub(super) ended_by: EndedBy,
    pub(super) phase: Phase,
    pub(super) rejection: bool,
    pub(super) meaning: &'static str,
}

impl CloseReason {
    /// Returns the row of a reason, which holds all that is known of the reason.
    pub(super) const fn row(self) -> ReasonRow {
        use EndedBy::{Backend, Client, Pointsman};
        use Phase::{Accept, Dial, Hello, Relay};
        match self {
            Self::ClientFin => row("client_fin", Client, Relay, "Both sides finished, the client first."),
            Self::BackendFin => row("backend_fin", Backend, Relay, "Both sides finished, the backend first."),
            Self::ClientReset => {
                row("client_reset", Client, Relay, "The client reset the connection; so was the backend's.")
            }
            Self::BackendReset => {
                row("backend_reset", Backend, Relay, "The backend reset the connection; so was the client's.")
            }
            Self::ClientVanished => row(
                "client_vanished",
                Client,
                Relay,
                "The client no longer answered: neither what was sent to it, for 60 s, nor keepalive probes; or its `user_timeout` passed.",
            ),
            Self::BackendVanished => row(
                "backend_vanished",
                Backend,
                Relay,
                "The backend no longer answered: neither what was sent to it, for 60 s, nor keepalive probes; or its `user_timeout` passed.",
            ),
            Self::ClientStalled => row(
                "client_stalled",
                Client,
                Relay,
                "The client answered, but took no byte for the listener's `stall_timeout`; both sides were reset.",
            ),
            Self::BackendStalled => row(
                "backend_stalled",
                Backend,
                Relay,
                "The backend answered, but took no byte for the pool's `stall_timeout`; both sides were reset.",
            ),
            Self::IdleTimeout => {
                row("idle_timeout", Pointsman, Relay, "No byte moved either way for the idle timeout.")
            }
            Self::HalfClosedTimeout => row(
                "half_closed_timeout",
                Pointsman,
                Relay,
                "One side had finished, and the other sent nothing for the half-closed timeout.",
            ),
            Self::Denied => rejection(
                "denied",
                Accept,
                "The address, or the one in the PROXY header, is in a list or network that `deny` names, or the hello's fingerprint in `deny_ja4`.",
            ),
            Self::NotAllowed => rejection(
                "not_allowed",
                Accept,
                "The address, or the one in the PROXY header, is in nothing that `allow` names.",
            ),
            Self::NoData => {
                row("no_data", Client, Hello, "The client closed or reset without having sent a byte.")
            }
            Self::HelloTruncated => row(
                "hello_truncated",
                Client,
                Hello,
                "The client closed or reset in the middle of its hello.",
            ),
            Self::FirstByteTimeout => {
                rejection("first_byte_timeout", Hello, "The client sent nothing for the first-byte timeout.")
            }
            Self::HelloTimeout => rejection(
                "hello_timeout",
                Hello,
                "The hello was not whole when the hello timeout, begun at its first byte, ran out.",
            ),
            Self::NotTls => rejection("not_tls", Hello, "The first bytes are not TLS."),
            Self::HelloMalformed => rejection("hello_malformed", Hello, "The hello breaks the rules of TLS."),
            Self::HelloTooLarge => {
                rejection("hello_too_large", Hello, "The hello is larger than the listener allows.")
            }
            Self::BadName => rejection("bad_name", Hello, "The server name is not a valid host name."),
            Self::NoSni => {
                rejection("no_sni", Hello, "The client sent no server name, and the listener rejects that.")
            }
            Self::UnmatchedSni => rejection(
                "unmatched_sni",
                Hello,
                "No route matches the server name, and the listener rejects that.",
            ),
            Self::RouteRejected => {
                rejection("route_rejected", Hello, "A route with `action = \"reject\"` took the connection.")
            }
            Self::RouteDropped => {
                rejection("route_dropped", Hello, "A route with `action = \"drop\"` took the connection.")
            }
            Self::TlsTooOld => rejection(
                "tls_too_old",
                Hello,
                "The client offers only versions of TLS below the `tls_min` of the routes for its server name.",
            ),
            Self::HelloMemory => rejection(
                "hello_memory",
                Hello,
                "The process held as many bytes of unfinished hellos as it may.",
            ),
            Self::PlaintextRefused => rejection(
                "plaintext_refused",
                Hello,
                "The client wants a session without TLS, and the listener rejects that.",
            ),
            Self::CancelRefused => rejection(
                "cancel_refused",
                Hello,
                "The client wants a query to be cancelled, and the listener has no pool for that, or the pool no backend.",
            ),
            Self::UnknownProtocol => rejection(
                "unknown_protocol",
                Hello,
                "The first bytes are those of a protocol for which the listener has no pool.",
            ),
            Self::PipelinedBeforeTls => rejection(
                "pipelined_before_tls",
                Hello,
                "The client sent something between its request for TLS and the answer.",
            ),
            Self::OpeningMalformed => rejection(
                "opening_malformed",
                Hello,
                "The first bytes break the rules of the listener's protocol, or a line is too long.",
            ),
            Self::OpeningTimeout => rejection(
                "opening_timeout",
                Hello,
                "The client spoke and had not come to TLS when the first-byte timeout ran out, or left a message unfinished for the hello timeout.",
            ),
            Self::TooManyCommands => rejection(
                "too_many_commands",
                Hello,
                "The client sent as many commands as it may, and STARTTLS was not among them.",
            ),
            Self::LeftBeforeTls => row(
                "left_before_tls",
                Client,
                Hello,
                "The client said goodbye or left before it asked for TLS.",
            ),
            Self::ProxyMissing => rejection(
                "proxy_missing",
                Hello,
                "The peer sent no PROXY header, and the listener requires one.",
            ),
            Self::ProxyUntrusted => rejection(
                "proxy_untrusted",
                Hello,
                "The listener requires a PROXY header, and the peer is none of its `trusted`.",
            ),
            Self::ProxyUnexpected => rejection(
                "proxy_unexpected",
                Hello,
                "A PROXY header came from a peer whose header the listener does not believe.",
            ),
            Self::ProxyMalformed => rejection(
                "proxy_malformed",
                Hello,
                "The PROXY header breaks the rules of its protocol, or is too long.",
            ),
            Self::ProxyChecksum => {
                rejection("proxy_checksum", Hello, "The checksum of the PROXY header is wrong.")
            }
            Self::ProxyTruncated => row(
                "proxy_truncated",
                Client,
                Hello,
                "The peer closed or reset in the middle of its PROXY header.",
            ),
            Self::ProxyTimeout => rejection(
                "proxy_timeout",
                Hello,
                "The PROXY header was not whole when the listener's timeout for it ran out.",
            ),
            Self::ClientGone => row(
                "client_gone",
                Client,
                Dial,
                "The client left before a backend was connected: it waited for a place or for the connect.",
            ),
            Self::NameNotAllowed => rejection(
                "name_not_allowed",
                Dial,
                "The pool forwards by name, and its `allow` does not have the client's, or the client sent none.",
            ),
            Self::NameNotResolved => rejection(
                "name_not_resolved",
                Dial,
                "The pool forwards by name, and the DNS gave no address for the client's in time.",
            ),
            Self::AddressRefused => rejection(
                "address_refused",
                Dial,
                "The pool forwards by name, and the client's leads only to addresses that may not be reached.",
            ),
            Self::ForwardLoop => rejection(
                "forward_loop",
                Dial,
                "The connection was forwarded by its name already and came in again.",
            ),
            Self::NoBackend => rejection("no_backend", Dial, "No backend of the pool was available."),
            Self::QueueFull => rejection(
                "queue_full",
                Dial,
                "Every backend had as many connections as it may, and the pool's queue was full or there is none.",
            ),
            Self::QueueTimeout => rejection(
                "queue_timeout",
                Dial,
                "Every backend had as many connections as it may, and none became free within the queue's timeout.",
            ),
            Self::ConnectRefused => row(
                "connect_refused",
                Backend,
                Dial,
                "No backend could be connected; the last one tried refused the connection.",
            ),
            Self::ConnectTimeout => row(
                "connect_timeout",
                Backend,
                Dial,
                "No backend could be connected; the last one tried did not answer in time.",
            ),
            Self::ConnectFailed => row(
                "connect_failed",
                Backend,
                Dial,
                "No backend could be connected; the last one tried was unreachable or failed otherwise.",
            ),
            Self::OutOfResources => rejection(
                "out_of_resources",
                Dial,
                "pointsman or its host had no descriptor, local port, source address or memory left for the connection; for the client's own socket this can happen in any phase.",
            ),
            Self::BackendRefusedTls => row(
                "backend_refused_tls",
                Backend,
                Dial,
                "No backend could be used; the last one tried does not offer TLS, or not now.",
            ),
            Self::GreetingTimeout => row(
                "greeting_timeout",
                Backend,
                Dial,
                "No backend could be used; the last one tried was connected and took too long to open TLS.",
            ),
            Self::GreetingFailed => row(
                "greeting_failed",
                Backend,
                Dial,
                "No backend could be used; the last one tried left or said something unexpected in place of opening TLS.",
            ),
            Self::BackendDown => row(
                "backend_down",
                Pointsman,
                Relay,
                "The backend went down, and its pool closes what is open then (`on_down`).",
            ),
            Self::ListenerFull => {
                rejection("listener_full", Accept, "The listener had as many connections as it may.")
            }
            Self::ProcessFull => {
                rejection("process_full", Accept, "The process had as many connections as it may.")
            }
            Self::Overloaded => rejection(
                "overloaded",
                Accept,
                "The process was near its limit, and the source had more than twice what others have open.",
            ),
            Self::ListenerRate => rejection(
                "listener_rate",
                Accept,
                "New connections of the listener came faster than it allows.",
            ),
            Self::SourceConnections => rejection(
                "source_connections",
                Accept,
                "The source had as many connections open as the listener allows one.",
            ),
            Self::SourceRate => rejection(
                "source_rate",
                Accept,
                "New connections of the source came faster than the listener allows one.",
            ),
            Self::SourceHellos => rejection(
                "source_hellos",
                Accept,
                "The source had as many connections as it may that had not yet said what they want.",
            ),
            Self::SourceTableFull => rejection(
                "source_table_full",
                Accept,
                "The table of sources had no room for the source, and `limits.when_full` refuses.",
            ),
            Self::RouteFull => rejection("route_full", Hello, "The route had as many connections as it may."),
            Self::RouteRate => {
                rejection("route_rate", Hello, "New connections of the route came faster than it allows.")
            }
            Self::PoolFull => {
                rejection("pool_full", Dial, "The pool had as many connections as its `limits` allow.")
            }
            Self::PoolRate => rejection(
                "pool_rate",
                Dial,
                "New connections of the pool came faster than its `limits` allow.",
            ),
            Self::DrainDeadline => row(
                "drain_deadline",
                Pointsman,
                Relay,
                "The drain of the process or of a removed listener ended before the connection did.",
            ),
            Self::Internal => row(
                "internal",
                Pointsman,
                Relay,
                "A fault of pointsman itself, in any phase; the log says more.",
            ),
        }
    }
}

const fn row(word: &'static str, ended_by: EndedBy, phase: Phase, meaning: &'static str) -> ReasonRow {
    ReasonRow { word, ended_by, phase, rejection: false, meaning }
}

const fn rejection(word: &'static str, phase: Phase, meaning: &'static str) -> ReasonRow {
    ReasonRow { word, ended_by: EndedBy::Pointsman, phase, rejection: true, meaning }
}
