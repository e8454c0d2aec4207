//! The table of the close reasons: the word, side, phase and meaning of each. [`CloseReason`] is made from it.

use crate::telemetry::phase::{EndedBy, Phase};

/// The facts of a close reason: one row of the table.
pub(super) struct ReasonRow {
    pub(super) word: &'static str,
    pub(super) ended_by: EndedBy,
    pub(super) phase: Phase,
    pub(super) rejection: bool,
    pub(super) meaning: &'static str,
}

/// The way in which a connection ended.
enum ReasonEnd {
    /// The client ended it.
    Client,
    /// The backend ended it.
    Backend,
    /// This program ended it, and did not reject it.
    Pointsman,
    /// This program rejected it: it was refused before any backend was tried.
    Rejected,
}

impl ReasonRow {
    const fn new(word: &'static str, end: ReasonEnd, phase: Phase, meaning: &'static str) -> Self {
        let (ended_by, rejection) = match end {
            ReasonEnd::Client => (EndedBy::Client, false),
            ReasonEnd::Backend => (EndedBy::Backend, false),
            ReasonEnd::Pointsman => (EndedBy::Pointsman, false),
            ReasonEnd::Rejected => (EndedBy::Pointsman, true),
        };
        Self { word, ended_by, phase, rejection, meaning }
    }
}

macro_rules! close_reasons {
    ($( $( #[doc = $line:literal] )+ $reason:ident = $word:literal: $end:ident in $phase:ident; )*) => {
        /// The reason for which a connection ended. Every connection ends with exactly one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum CloseReason {
            $( $( #[doc = $line] )+ $reason, )*
        }

        impl CloseReason {
            /// Every reason, in the order of the declaration: `ALL[reason as usize] == reason`.
            pub const ALL: [Self; [$( Self::$reason ),*].len()] = [$( Self::$reason ),*];

            /// Returns the row of a reason, which holds all its facts.
            pub(super) const fn row(self) -> ReasonRow {
                match self {
                    $( Self::$reason => ReasonRow::new(
                        $word,
                        ReasonEnd::$end,
                        Phase::$phase,
                        concat!($( $line ),+).trim_ascii_start(),
                    ), )*
                }
            }
        }
    };
}

// A row: the meaning for an operator, which is also the documentation of the reason; its word; the end and the phase.
close_reasons! {
    /// Both sides ended the connection, the client first.
    ClientFin = "client_fin": Client in Relay;
    /// Both sides ended the connection, the backend first.
    BackendFin = "backend_fin": Backend in Relay;
    /// The client reset the connection. The connection to the backend was reset too.
    ClientReset = "client_reset": Client in Relay;
    /// The backend reset the connection. The connection to the client was reset too.
    BackendReset = "backend_reset": Backend in Relay;
    /// The client no longer answered. It acknowledged no bytes for 60 s, or answered no keepalive probes, or the
    /// `user_timeout` of the listener passed.
    ClientVanished = "client_vanished": Client in Relay;
    /// The backend no longer answered. It acknowledged no bytes for 60 s, or answered no keepalive probes, or the
    /// `user_timeout` of the pool passed.
    BackendVanished = "backend_vanished": Backend in Relay;
    /// The client answered, but took no byte for the listener's `stall_timeout`. Both sides were reset.
    ClientStalled = "client_stalled": Client in Relay;
    /// The backend answered, but took no byte for the pool's `stall_timeout`. Both sides were reset.
    BackendStalled = "backend_stalled": Backend in Relay;
    /// No byte moved in either direction for the `idle_timeout`.
    IdleTimeout = "idle_timeout": Pointsman in Relay;
    /// One side had ended its direction, and the other side sent no byte for the `half_closed_timeout`.
    HalfClosedTimeout = "half_closed_timeout": Pointsman in Relay;
    /// The client's address or the address in its PROXY header is in a list or network of `deny`. Or the fingerprint of
    /// its hello is in `deny_ja4`.
    Denied = "denied": Rejected in Accept;
    /// The client's address is in no list and no network of `allow`. If a PROXY header gave an address, that address
    /// was checked.
    NotAllowed = "not_allowed": Rejected in Accept;
    /// The client closed or reset the connection before it sent a byte.
    NoData = "no_data": Client in Hello;
    /// The client closed or reset the connection in the middle of its hello.
    HelloTruncated = "hello_truncated": Client in Hello;
    /// The client sent no byte within the first-byte timeout.
    FirstByteTimeout = "first_byte_timeout": Rejected in Hello;
    /// The hello was not whole when the `hello_timeout` passed, which begins at the first byte.
    HelloTimeout = "hello_timeout": Rejected in Hello;
    /// The first bytes are not TLS.
    NotTls = "not_tls": Rejected in Hello;
    /// The hello breaks the rules of TLS.
    HelloMalformed = "hello_malformed": Rejected in Hello;
    /// The hello is larger than the listener allows.
    HelloTooLarge = "hello_too_large": Rejected in Hello;
    /// The server name is not a valid host name. Or the client requested a tunnel to a host or port that is not valid.
    BadName = "bad_name": Rejected in Hello;
    /// The client sent no server name, and the listener rejects such clients.
    NoSni = "no_sni": Rejected in Hello;
    /// No route matches the server name, and the listener rejects such clients.
    UnmatchedSni = "unmatched_sni": Rejected in Hello;
    /// A route with `action = "reject"` matched the connection.
    RouteRejected = "route_rejected": Rejected in Hello;
    /// A route with `action = "drop"` matched the connection.
    RouteDropped = "route_dropped": Rejected in Hello;
    /// The client offers only TLS versions below the `tls_min` of the routes for its server name.
    TlsTooOld = "tls_too_old": Rejected in Hello;
    /// The unfinished hellos of all connections had reached the limit of the process (`limits.hello_memory`).
    HelloMemory = "hello_memory": Rejected in Hello;
    /// The client requested a session without TLS, and the listener rejects such sessions.
    PlaintextRefused = "plaintext_refused": Rejected in Hello;
    /// The client requested to cancel a query. The listener has no pool for such requests, or the pool has no backend.
    CancelRefused = "cancel_refused": Rejected in Hello;
    /// The first bytes are of a protocol for which the listener has no pool.
    UnknownProtocol = "unknown_protocol": Rejected in Hello;
    /// The client sent bytes between its request for TLS and the answer.
    PipelinedBeforeTls = "pipelined_before_tls": Rejected in Hello;
    /// The first bytes break the rules of the listener's protocol, or a line is too long.
    OpeningMalformed = "opening_malformed": Rejected in Hello;
    /// The client had not begun TLS or requested a tunnel when the `first_byte_timeout` passed, although it had sent bytes.
    /// Or it left a message unfinished for the `hello_timeout`.
    OpeningTimeout = "opening_timeout": Rejected in Hello;
    /// The client sent the maximum number of commands, and no STARTTLS among them.
    TooManyCommands = "too_many_commands": Rejected in Hello;
    /// The client quit or closed the connection before it requested TLS.
    LeftBeforeTls = "left_before_tls": Client in Hello;
    /// The client closed or reset the connection before its request for a tunnel was whole.
    OpeningTruncated = "opening_truncated": Client in Hello;
    /// The client requested something that the listener does not serve: another method of HTTP than CONNECT, another
    /// command of SOCKS than CONNECT, or another version.
    RequestUnsupported = "request_unsupported": Rejected in Hello;
    /// The client offered no method of authentication of SOCKS that the listener accepts.
    AuthMethodRefused = "auth_method_refused": Rejected in Hello;
    /// The peer sent no PROXY header, and the listener requires a header.
    ProxyMissing = "proxy_missing": Rejected in Hello;
    /// The listener requires a PROXY header, and the peer is not in its `trusted`.
    ProxyUntrusted = "proxy_untrusted": Rejected in Hello;
    /// A PROXY header came from a peer that the listener does not trust.
    ProxyUnexpected = "proxy_unexpected": Rejected in Hello;
    /// The PROXY header breaks the rules of its protocol, or is too long.
    ProxyMalformed = "proxy_malformed": Rejected in Hello;
    /// The checksum of the PROXY header is wrong.
    ProxyChecksum = "proxy_checksum": Rejected in Hello;
    /// The peer closed or reset the connection in the middle of its PROXY header.
    ProxyTruncated = "proxy_truncated": Client in Hello;
    /// The PROXY header was not whole when the `timeout` of the listener's `proxy_protocol` passed.
    ProxyTimeout = "proxy_timeout": Rejected in Hello;
    /// The client left before a backend was connected: it waited in the queue or for the connect.
    ClientGone = "client_gone": Client in Dial;
    /// The pool forwards. The name of the host is not in the pool's `allow`, or it is in `deny`, or the client sent no name.
    NameNotAllowed = "name_not_allowed": Rejected in Dial;
    /// The pool forwards. The client asked for an address that is not in the pool's `allow_networks`, or all addresses of
    /// the host are in `deny_networks`.
    AddressNotAllowed = "address_not_allowed": Rejected in Dial;
    /// The pool forwards. The port that the client asked for is not in the pool's `ports`.
    PortNotAllowed = "port_not_allowed": Rejected in Dial;
    /// The pool forwards. The DNS returned no address for the name of the host in time.
    NameNotResolved = "name_not_resolved": Rejected in Dial;
    /// The pool forwards. All addresses of the host are inner addresses or addresses of this machine.
    AddressRefused = "address_refused": Rejected in Dial;
    /// pointsman had already forwarded the connection by name, and the connection came back.
    ForwardLoop = "forward_loop": Rejected in Dial;
    /// No backend of the pool was available.
    NoBackend = "no_backend": Rejected in Dial;
    /// Every backend was at its limit of connections. The pool's queue was full, or the pool has no queue.
    QueueFull = "queue_full": Rejected in Dial;
    /// Every backend was at its limit of connections, and no backend had room before the queue's timeout passed.
    QueueTimeout = "queue_timeout": Rejected in Dial;
    /// No backend could be connected. The last tried backend refused the connection.
    ConnectRefused = "connect_refused": Backend in Dial;
    /// No backend could be connected. The last tried backend did not answer in time.
    ConnectTimeout = "connect_timeout": Backend in Dial;
    /// No backend could be connected. The last tried backend was unreachable, or the attempt failed otherwise.
    ConnectFailed = "connect_failed": Backend in Dial;
    /// pointsman or its host had no descriptor, local port, source address or memory left for the connection. If this
    /// concerns the client's own socket, it can happen in any phase.
    OutOfResources = "out_of_resources": Rejected in Dial;
    /// No backend could be used. The last tried backend refused TLS.
    BackendRefusedTls = "backend_refused_tls": Backend in Dial;
    /// No backend could be used. The last tried backend was connected and took too long to begin TLS.
    GreetingTimeout = "greeting_timeout": Backend in Dial;
    /// No backend could be used. The last tried backend closed the connection, or sent an unexpected answer and did not
    /// begin TLS.
    GreetingFailed = "greeting_failed": Backend in Dial;
    /// The backend went down, and its pool then closes open connections (`on_down`).
    BackendDown = "backend_down": Pointsman in Relay;
    /// The listener was at its limit of connections.
    ListenerFull = "listener_full": Rejected in Accept;
    /// The process was at its limit of connections.
    ProcessFull = "process_full": Rejected in Accept;
    /// The process was near its limit, and the source had more than twice the average number of open connections of
    /// other sources.
    Overloaded = "overloaded": Rejected in Accept;
    /// New connections exceeded the rate limit of the listener.
    ListenerRate = "listener_rate": Rejected in Accept;
    /// The source was at the listener's limit of open connections for one source.
    SourceConnections = "source_connections": Rejected in Accept;
    /// New connections exceeded the listener's rate limit for one source.
    SourceRate = "source_rate": Rejected in Accept;
    /// The source was at its limit of connections whose first bytes were not whole yet.
    SourceHellos = "source_hellos": Rejected in Accept;
    /// The table of sources had no free slot for the source, and `limits.when_full` is "refuse".
    SourceTableFull = "source_table_full": Rejected in Accept;
    /// The route was at its limit of connections.
    RouteFull = "route_full": Rejected in Hello;
    /// New connections exceeded the rate limit of the route.
    RouteRate = "route_rate": Rejected in Hello;
    /// The pool was at the limit of connections in its `limits`.
    PoolFull = "pool_full": Rejected in Dial;
    /// New connections exceeded the rate limit in the pool's `limits`.
    PoolRate = "pool_rate": Rejected in Dial;
    /// The client requested a tunnel and sent a TLS hello in it with another server name than the requested one, with none, or
    /// with faults. The pool has `verify_sni`. The backend got no byte of the hello.
    SniMismatch = "sni_mismatch": Pointsman in Relay;
    /// The drain of the process or of a removed listener ended before the connection ended.
    DrainDeadline = "drain_deadline": Pointsman in Relay;
    /// An operator closed the connection, in any phase, with `pointsman connections kill` or `connections close`.
    ClosedByOperator = "closed_by_operator": Pointsman in Relay;
    /// An operator spread the connections of the pool anew with `pointsman rebalance`: this one would go elsewhere.
    Rebalanced = "rebalanced": Pointsman in Relay;
    /// A fault of pointsman itself, in any phase. The log has the details.
    Internal = "internal": Pointsman in Relay;
}
