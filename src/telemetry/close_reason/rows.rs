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
    /// Returns the row of a reason, which holds all its facts.
    pub(super) const fn row(self) -> ReasonRow {
        use EndedBy::{Backend, Client, Pointsman};
        use Phase::{Accept, Dial, Hello, Relay};
        match self {
            Self::ClientFin => {
                row("client_fin", Client, Relay, "Both sides ended the connection, the client first.")
            }
            Self::BackendFin => {
                row("backend_fin", Backend, Relay, "Both sides ended the connection, the backend first.")
            }
            Self::ClientReset => row(
                "client_reset",
                Client,
                Relay,
                "The client reset the connection. The connection to the backend was reset too.",
            ),
            Self::BackendReset => row(
                "backend_reset",
                Backend,
                Relay,
                "The backend reset the connection. The connection to the client was reset too.",
            ),
            Self::ClientVanished => row(
                "client_vanished",
                Client,
                Relay,
                "The client no longer answered. It acknowledged no bytes for 60 s, or answered no keepalive probes, \
                 or the `user_timeout` of the listener passed.",
            ),
            Self::BackendVanished => row(
                "backend_vanished",
                Backend,
                Relay,
                "The backend no longer answered. It acknowledged no bytes for 60 s, or answered no keepalive probes, \
                 or the `user_timeout` of the pool passed.",
            ),
            Self::ClientStalled => row(
                "client_stalled",
                Client,
                Relay,
                "The client answered, but took no byte for the listener's `stall_timeout`. Both sides were reset.",
            ),
            Self::BackendStalled => row(
                "backend_stalled",
                Backend,
                Relay,
                "The backend answered, but took no byte for the pool's `stall_timeout`. Both sides were reset.",
            ),
            Self::IdleTimeout => row(
                "idle_timeout",
                Pointsman,
                Relay,
                "No byte moved in either direction for the `idle_timeout`.",
            ),
            Self::HalfClosedTimeout => row(
                "half_closed_timeout",
                Pointsman,
                Relay,
                "One side had ended its direction, and the other side sent no byte for the `half_closed_timeout`.",
            ),
            Self::Denied => rejection(
                "denied",
                Accept,
                "The client's address or the address in its PROXY header is in a list or network of `deny`. Or the \
                 fingerprint of its hello is in `deny_ja4`.",
            ),
            Self::NotAllowed => rejection(
                "not_allowed",
                Accept,
                "The client's address is in no list and no network of `allow`. If a PROXY header gave an address, \
                 that address was checked.",
            ),
            Self::NoData => row(
                "no_data",
                Client,
                Hello,
                "The client closed or reset the connection before it sent a byte.",
            ),
            Self::HelloTruncated => row(
                "hello_truncated",
                Client,
                Hello,
                "The client closed or reset the connection in the middle of its hello.",
            ),
            Self::FirstByteTimeout => rejection(
                "first_byte_timeout",
                Hello,
                "The client sent no byte within the first-byte timeout.",
            ),
            Self::HelloTimeout => rejection(
                "hello_timeout",
                Hello,
                "The hello was not whole when the `hello_timeout` passed, which begins at the first byte.",
            ),
            Self::NotTls => rejection("not_tls", Hello, "The first bytes are not TLS."),
            Self::HelloMalformed => rejection("hello_malformed", Hello, "The hello breaks the rules of TLS."),
            Self::HelloTooLarge => {
                rejection("hello_too_large", Hello, "The hello is larger than the listener allows.")
            }
            Self::BadName => rejection("bad_name", Hello, "The server name is not a valid host name."),
            Self::NoSni => rejection(
                "no_sni",
                Hello,
                "The client sent no server name, and the listener rejects such clients.",
            ),
            Self::UnmatchedSni => rejection(
                "unmatched_sni",
                Hello,
                "No route matches the server name, and the listener rejects such clients.",
            ),
            Self::RouteRejected => rejection(
                "route_rejected",
                Hello,
                "A route with `action = \"reject\"` matched the connection.",
            ),
            Self::RouteDropped => {
                rejection("route_dropped", Hello, "A route with `action = \"drop\"` matched the connection.")
            }
            Self::TlsTooOld => rejection(
                "tls_too_old",
                Hello,
                "The client offers only TLS versions below the `tls_min` of the routes for its server name.",
            ),
            Self::HelloMemory => rejection(
                "hello_memory",
                Hello,
                "The unfinished hellos of all connections had reached the limit of the process \
                 (`limits.hello_memory`).",
            ),
            Self::PlaintextRefused => rejection(
                "plaintext_refused",
                Hello,
                "The client requested a session without TLS, and the listener rejects such sessions.",
            ),
            Self::CancelRefused => rejection(
                "cancel_refused",
                Hello,
                "The client requested to cancel a query. The listener has no pool for such requests, or the pool has \
                 no backend.",
            ),
            Self::UnknownProtocol => rejection(
                "unknown_protocol",
                Hello,
                "The first bytes are of a protocol for which the listener has no pool.",
            ),
            Self::PipelinedBeforeTls => rejection(
                "pipelined_before_tls",
                Hello,
                "The client sent bytes between its request for TLS and the answer.",
            ),
            Self::OpeningMalformed => rejection(
                "opening_malformed",
                Hello,
                "The first bytes break the rules of the listener's protocol, or a line is too long.",
            ),
            Self::OpeningTimeout => rejection(
                "opening_timeout",
                Hello,
                "The client had not begun TLS when the `first_byte_timeout` passed, although it had sent bytes. Or it \
                 left a message unfinished for the `hello_timeout`.",
            ),
            Self::TooManyCommands => rejection(
                "too_many_commands",
                Hello,
                "The client sent the maximum number of commands, and no STARTTLS among them.",
            ),
            Self::LeftBeforeTls => row(
                "left_before_tls",
                Client,
                Hello,
                "The client quit or closed the connection before it requested TLS.",
            ),
            Self::ProxyMissing => rejection(
                "proxy_missing",
                Hello,
                "The peer sent no PROXY header, and the listener requires a header.",
            ),
            Self::ProxyUntrusted => rejection(
                "proxy_untrusted",
                Hello,
                "The listener requires a PROXY header, and the peer is not in its `trusted`.",
            ),
            Self::ProxyUnexpected => rejection(
                "proxy_unexpected",
                Hello,
                "A PROXY header came from a peer that the listener does not trust.",
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
                "The peer closed or reset the connection in the middle of its PROXY header.",
            ),
            Self::ProxyTimeout => rejection(
                "proxy_timeout",
                Hello,
                "The PROXY header was not whole when the `timeout` of the listener's `proxy_protocol` passed.",
            ),
            Self::ClientGone => row(
                "client_gone",
                Client,
                Dial,
                "The client left before a backend was connected: it waited in the queue or for the connect.",
            ),
            Self::NameNotAllowed => rejection(
                "name_not_allowed",
                Dial,
                "The pool forwards by name. The client's server name is not in the pool's `allow`, or the client sent \
                 no name.",
            ),
            Self::NameNotResolved => rejection(
                "name_not_resolved",
                Dial,
                "The pool forwards by name. The DNS returned no address for the client's server name in time.",
            ),
            Self::AddressRefused => rejection(
                "address_refused",
                Dial,
                "The pool forwards by name. All addresses of the client's server name are forbidden.",
            ),
            Self::ForwardLoop => rejection(
                "forward_loop",
                Dial,
                "pointsman had already forwarded the connection by name, and the connection came back.",
            ),
            Self::NoBackend => rejection("no_backend", Dial, "No backend of the pool was available."),
            Self::QueueFull => rejection(
                "queue_full",
                Dial,
                "Every backend was at its limit of connections. The pool's queue was full, or the pool has no queue.",
            ),
            Self::QueueTimeout => rejection(
                "queue_timeout",
                Dial,
                "Every backend was at its limit of connections, and no backend had room before the queue's timeout \
                 passed.",
            ),
            Self::ConnectRefused => row(
                "connect_refused",
                Backend,
                Dial,
                "No backend could be connected. The last tried backend refused the connection.",
            ),
            Self::ConnectTimeout => row(
                "connect_timeout",
                Backend,
                Dial,
                "No backend could be connected. The last tried backend did not answer in time.",
            ),
            Self::ConnectFailed => row(
                "connect_failed",
                Backend,
                Dial,
                "No backend could be connected. The last tried backend was unreachable, or the attempt failed \
                 otherwise.",
            ),
            Self::OutOfResources => rejection(
                "out_of_resources",
                Dial,
                "pointsman or its host had no descriptor, local port, source address or memory left for the \
                 connection. If this concerns the client's own socket, it can happen in any phase.",
            ),
            Self::BackendRefusedTls => row(
                "backend_refused_tls",
                Backend,
                Dial,
                "No backend could be used. The last tried backend refused TLS.",
            ),
            Self::GreetingTimeout => row(
                "greeting_timeout",
                Backend,
                Dial,
                "No backend could be used. The last tried backend was connected and took too long to begin TLS.",
            ),
            Self::GreetingFailed => row(
                "greeting_failed",
                Backend,
                Dial,
                "No backend could be used. The last tried backend closed the connection, or sent an unexpected answer \
                 and did not begin TLS.",
            ),
            Self::BackendDown => row(
                "backend_down",
                Pointsman,
                Relay,
                "The backend went down, and its pool then closes open connections (`on_down`).",
            ),
            Self::ListenerFull => {
                rejection("listener_full", Accept, "The listener was at its limit of connections.")
            }
            Self::ProcessFull => {
                rejection("process_full", Accept, "The process was at its limit of connections.")
            }
            Self::Overloaded => rejection(
                "overloaded",
                Accept,
                "The process was near its limit, and the source had more than twice the average number of open \
                 connections of other sources.",
            ),
            Self::ListenerRate => {
                rejection("listener_rate", Accept, "New connections exceeded the rate limit of the listener.")
            }
            Self::SourceConnections => rejection(
                "source_connections",
                Accept,
                "The source was at the listener's limit of open connections for one source.",
            ),
            Self::SourceRate => rejection(
                "source_rate",
                Accept,
                "New connections exceeded the listener's rate limit for one source.",
            ),
            Self::SourceHellos => rejection(
                "source_hellos",
                Accept,
                "The source was at its limit of connections whose first bytes were not whole yet.",
            ),
            Self::SourceTableFull => rejection(
                "source_table_full",
                Accept,
                "The table of sources had no free slot for the source, and `limits.when_full` is \"refuse\".",
            ),
            Self::RouteFull => rejection("route_full", Hello, "The route was at its limit of connections."),
            Self::RouteRate => {
                rejection("route_rate", Hello, "New connections exceeded the rate limit of the route.")
            }
            Self::PoolFull => {
                rejection("pool_full", Dial, "The pool was at the limit of connections in its `limits`.")
            }
            Self::PoolRate => rejection(
                "pool_rate",
                Dial,
                "New connections exceeded the rate limit in the pool's `limits`.",
            ),
            Self::DrainDeadline => row(
                "drain_deadline",
                Pointsman,
                Relay,
                "The drain of the process or of a removed listener ended before the connection ended.",
            ),
            Self::Internal => row(
                "internal",
                Pointsman,
                Relay,
                "A fault of pointsman itself, in any phase. The log has the details.",
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
