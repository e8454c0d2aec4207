//! Why connections end: the one list from which the metric label, the access-log word and the
//! documentation come.
//!
//! It only names what was decided elsewhere; it decides nothing.

mod table;

use std::fmt;

use super::phase::{Phase, Who};

pub use table::markdown_table;

/// Why a connection ended. Every connection ends with exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum CloseReason {
    /// Both sides finished, the client first.
    ClientFin,
    /// Both sides finished, the backend first.
    BackendFin,
    /// The client reset a relayed connection.
    ClientReset,
    /// The backend reset a relayed connection.
    BackendReset,
    /// The client stopped answering: keepalive or TCP_USER_TIMEOUT ran out.
    ClientVanished,
    /// The backend stopped answering: keepalive or TCP_USER_TIMEOUT ran out.
    BackendVanished,
    /// No byte moved either way for the idle timeout.
    IdleTimeout,
    /// One side had finished and the other sent nothing for the half-closed timeout.
    HalfClosedTimeout,
    /// The address is denied.
    Denied,
    /// The address is not among those that are allowed.
    NotAllowed,
    /// The client left without a byte where a hello was expected.
    NoData,
    /// The client left in the middle of its hello.
    HelloTruncated,
    /// No first byte in time.
    FirstByteTimeout,
    /// A first byte, but no whole hello in time.
    HelloTimeout,
    /// The first bytes are not TLS.
    NotTls,
    /// The hello breaks the rules of TLS.
    HelloMalformed,
    /// The hello is larger than allowed.
    HelloTooLarge,
    /// The server name is not a host name.
    BadName,
    /// No server name, and the listener rejects such clients.
    NoSni,
    /// No route for the server name, and the listener rejects such clients.
    UnmatchedSni,
    /// A route that says `reject` took the connection.
    RouteRejected,
    /// A route that says `drop` took the connection.
    RouteDropped,
    /// The routes for the server name ask for a later version of TLS.
    TlsTooOld,
    /// The process holds as many bytes of unfinished hellos as it may.
    HelloMemory,
    /// The client wants a session without TLS, and the listener rejects that.
    PlaintextRefused,
    /// The client wants a query to be cancelled, and the listener has no pool for that, or the pool no backend.
    CancelRefused,
    /// The first bytes are those of a protocol for which the listener has no pool.
    UnknownProtocol,
    /// The client sent something between its request for TLS and the answer.
    PipelinedBeforeTls,
    /// The first bytes break the rules of the listener's protocol, or a line is too long.
    OpeningMalformed,
    /// The client spoke and had not come to TLS when the first-byte timeout ran out, or left a message unfinished for the hello timeout.
    OpeningTimeout,
    /// The client sent as many commands as it may, and STARTTLS was not among them.
    TooManyCommands,
    /// The client said goodbye or left before it asked for TLS.
    LeftBeforeTls,
    /// No PROXY header, and the listener requires one.
    ProxyMissing,
    /// The listener requires a PROXY header, and the peer is none of those whose header is believed.
    ProxyUntrusted,
    /// A PROXY header from a peer whose header is not believed.
    ProxyUnexpected,
    /// The PROXY header breaks the rules of its protocol.
    ProxyMalformed,
    /// The checksum of the PROXY header is wrong.
    ProxyChecksum,
    /// The peer left in the middle of its PROXY header.
    ProxyTruncated,
    /// No whole PROXY header came in time.
    ProxyTimeout,
    /// The client left before a backend was connected.
    ClientGone,
    /// The pool forwards by name, and the client's is none that it may.
    NameNotAllowed,
    /// The pool forwards by name, and the client's leads to no host.
    NameNotResolved,
    /// The pool forwards by name, and the client's leads only to addresses that may not be reached.
    AddressRefused,
    /// The connection was forwarded by name already, and has come in again.
    ForwardLoop,
    /// No backend of the pool is available.
    NoBackend,
    /// Every backend has as many connections as it may, and no further connection may wait.
    QueueFull,
    /// Every backend had as many connections as it may for too long.
    QueueTimeout,
    /// Every backend tried refused; the last word was a refusal.
    ConnectRefused,
    /// No backend tried answered in time; the last word was a timeout.
    ConnectTimeout,
    /// No backend could be connected, for another reason.
    ConnectFailed,
    /// Our own host had no descriptor, port or memory for a connection.
    OutOfResources,
    /// No backend could be used; the last one tried does not offer TLS, or not now.
    BackendRefusedTls,
    /// No backend could be used; the last one tried was connected and took too long to open TLS.
    GreetingTimeout,
    /// No backend could be used; the last one tried left or said something unexpected in place of opening TLS.
    GreetingFailed,
    /// The backend went down, and its pool closes what is open then.
    BackendDown,
    /// The listener has as many connections as it may.
    ListenerFull,
    /// The process has as many connections as it may.
    ProcessFull,
    /// The process is near its limit, and the source has far more connections than others.
    Overloaded,
    /// New connections of the listener come too fast.
    ListenerRate,
    /// The source has as many connections as it may.
    SourceConnections,
    /// New connections of the source come too fast.
    SourceRate,
    /// The source has as many connections as it may that have not said what they want.
    SourceHellos,
    /// The table of sources has no room, and who finds none is refused.
    SourceTableFull,
    /// The route has as many connections as it may.
    RouteFull,
    /// New connections of the route come too fast.
    RouteRate,
    /// The pool has as many connections as it may.
    PoolFull,
    /// New connections of the pool come too fast.
    PoolRate,
    /// The drain ended before the connection did.
    DrainDeadline,
    /// A fault of ours.
    Internal,
}

/// What is known of a reason, one row of the table in [`CloseReason::row`].
struct Row {
    word: &'static str,
    who: Who,
    phase: Phase,
    rejection: bool,
    meaning: &'static str,
}

impl CloseReason {
    /// Every reason, in the order of the declaration: `ALL[reason as usize] == reason`.
    pub const ALL: [Self; 69] = [
        Self::ClientFin,
        Self::BackendFin,
        Self::ClientReset,
        Self::BackendReset,
        Self::ClientVanished,
        Self::BackendVanished,
        Self::IdleTimeout,
        Self::HalfClosedTimeout,
        Self::Denied,
        Self::NotAllowed,
        Self::NoData,
        Self::HelloTruncated,
        Self::FirstByteTimeout,
        Self::HelloTimeout,
        Self::NotTls,
        Self::HelloMalformed,
        Self::HelloTooLarge,
        Self::BadName,
        Self::NoSni,
        Self::UnmatchedSni,
        Self::RouteRejected,
        Self::RouteDropped,
        Self::TlsTooOld,
        Self::HelloMemory,
        Self::PlaintextRefused,
        Self::CancelRefused,
        Self::UnknownProtocol,
        Self::PipelinedBeforeTls,
        Self::OpeningMalformed,
        Self::OpeningTimeout,
        Self::TooManyCommands,
        Self::LeftBeforeTls,
        Self::ProxyMissing,
        Self::ProxyUntrusted,
        Self::ProxyUnexpected,
        Self::ProxyMalformed,
        Self::ProxyChecksum,
        Self::ProxyTruncated,
        Self::ProxyTimeout,
        Self::ClientGone,
        Self::NameNotAllowed,
        Self::NameNotResolved,
        Self::AddressRefused,
        Self::ForwardLoop,
        Self::NoBackend,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ConnectFailed,
        Self::OutOfResources,
        Self::BackendRefusedTls,
        Self::GreetingTimeout,
        Self::GreetingFailed,
        Self::BackendDown,
        Self::ListenerFull,
        Self::ProcessFull,
        Self::Overloaded,
        Self::ListenerRate,
        Self::SourceConnections,
        Self::SourceRate,
        Self::SourceHellos,
        Self::SourceTableFull,
        Self::RouteFull,
        Self::RouteRate,
        Self::PoolFull,
        Self::PoolRate,
        Self::DrainDeadline,
        Self::Internal,
    ];

    /// The word in metric labels, in the access log and in the documentation.
    pub const fn word(self) -> &'static str {
        self.row().word
    }

    /// Whose side it was.
    pub const fn who(self) -> Who {
        self.row().who
    }

    /// How far the connection had come. [`DrainDeadline`](Self::DrainDeadline) and
    /// [`Internal`](Self::Internal) may strike anywhere; they are filed under the relay, where
    /// connections spend their lives.
    pub const fn phase(self) -> Phase {
        self.row().phase
    }

    /// One sentence for an operator.
    pub const fn meaning(self) -> &'static str {
        self.row().meaning
    }

    /// Whether this program turned the connection away before any backend was asked.
    pub const fn is_rejection(self) -> bool {
        self.row().rejection
    }

    /// Whether strangers can cause it as often as they like without a backend being asked, so that the access
    /// log writes no more than so many of its lines a second: they are turned away, or leave before a backend is
    /// connected.
    pub const fn is_sampled(self) -> bool {
        let has_left = matches!(self.who(), Who::Client) && !matches!(self.phase(), Phase::Relay);
        self.is_rejection() || has_left
    }

    /// The table itself: everything that is said of a reason stands in its row.
    const fn row(self) -> Row {
        use Phase::{Accept, Dial, Hello, Relay};
        use Who::{Backend, Client, Pointsman};
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
                "The client no longer answered: keepalive or `TCP_USER_TIMEOUT` ran out.",
            ),
            Self::BackendVanished => row(
                "backend_vanished",
                Backend,
                Relay,
                "The backend no longer answered: keepalive or `TCP_USER_TIMEOUT` ran out.",
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
                "pointsman or its host had no descriptor, local port, source address or memory left for the connection; for the client's own socket this may strike in any phase.",
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

const fn row(word: &'static str, who: Who, phase: Phase, meaning: &'static str) -> Row {
    Row { word, who, phase, rejection: false, meaning }
}

const fn rejection(word: &'static str, phase: Phase, meaning: &'static str) -> Row {
    Row { word, who: Who::Pointsman, phase, rejection: true, meaning }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_order_of_all_is_the_order_of_the_declaration() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(index, reason as usize, "{reason}");
        }
        assert_eq!(CloseReason::ALL.len(), CloseReason::Internal as usize + 1, "the last one is in the list");
    }

    #[test]
    fn words_are_unique_and_snake_case_and_follow_the_variant() {
        let words: HashSet<_> = CloseReason::ALL.map(CloseReason::word).into();
        assert_eq!(words.len(), CloseReason::ALL.len());
        for reason in CloseReason::ALL {
            let snake = format!("{reason:?}").chars().fold(String::new(), |mut snake, c| {
                if c.is_ascii_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.push(c.to_ascii_lowercase());
                snake
            });
            assert_eq!(reason.word(), snake);
        }
    }

    #[test]
    fn meanings_are_sentences_that_fit_a_table() {
        for reason in CloseReason::ALL {
            let meaning = reason.meaning();
            assert!(meaning.len() > 20 && meaning.ends_with('.'), "{reason}: {meaning}");
            assert!(!meaning.contains(['|', '\n']), "{reason}: {meaning}");
        }
    }

    #[test]
    fn a_rejection_is_ours_and_comes_before_the_relay() {
        let rejections: Vec<_> = CloseReason::ALL.into_iter().filter(|r| r.is_rejection()).collect();
        assert_eq!(rejections.len(), 47);
        for reason in rejections {
            assert_eq!(reason.who(), Who::Pointsman, "{reason}");
            assert_ne!(reason.phase(), Phase::Relay, "{reason}");
        }
    }

    #[test]
    fn what_a_flood_can_cause_is_sampled() {
        use CloseReason as R;
        for reason in R::ALL {
            let left = matches!(
                reason,
                R::NoData | R::HelloTruncated | R::ProxyTruncated | R::LeftBeforeTls | R::ClientGone
            );
            assert_eq!(reason.is_sampled(), reason.is_rejection() || left, "{reason}");
            assert!(!reason.is_sampled() || reason.who() != Who::Backend, "{reason}");
        }
    }

    #[test]
    fn the_table_has_a_row_for_every_reason() {
        let table = markdown_table();
        assert_eq!(table.lines().count(), CloseReason::ALL.len() + 2);
        for reason in CloseReason::ALL {
            assert!(table.contains(&format!("| `{}` |", reason.word())), "{reason}");
        }
    }
}
