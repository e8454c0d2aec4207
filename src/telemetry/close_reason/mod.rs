//! The reasons for which connections end. The metric label, the word in the access log and the documentation come
//! from this list.
//!
//! This module only names decisions that other modules take.

mod kind;
mod rows;

use std::fmt::{self, Write as _};

use super::phase::{EndedBy, Phase};
pub use kind::CloseKind;

/// The reason for which a connection ended. Every connection ends with exactly one.
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
    /// The client no longer answered: neither data nor keepalive probes.
    ClientVanished,
    /// The backend no longer answered: neither data nor keepalive probes.
    BackendVanished,
    /// The client answered and took no byte for the stall timeout of its listener.
    ClientStalled,
    /// The backend answered and took no byte for the stall timeout of its pool.
    BackendStalled,
    /// No byte moved either way for the idle timeout.
    IdleTimeout,
    /// One side had finished and the other sent nothing for the half-closed timeout.
    HalfClosedTimeout,
    /// The client's address is denied.
    Denied,
    /// The client's address is not in the list of allowed ones.
    NotAllowed,
    /// The client left without a byte where a hello was expected.
    NoData,
    /// The client left in the middle of its hello.
    HelloTruncated,
    /// No first byte came in time.
    FirstByteTimeout,
    /// A first byte came, but no whole hello in time.
    HelloTimeout,
    /// The first bytes are not TLS.
    NotTls,
    /// The hello breaks the rules of TLS.
    HelloMalformed,
    /// The hello is larger than the listener allows.
    HelloTooLarge,
    /// The server name is not a host name.
    BadName,
    /// The hello has no server name, and the listener rejects such clients.
    NoSni,
    /// No route matches the server name, and the listener rejects such clients.
    UnmatchedSni,
    /// A route with `action = "reject"` matched.
    RouteRejected,
    /// A route with `action = "drop"` matched.
    RouteDropped,
    /// The routes for the server name require a later version of TLS.
    TlsTooOld,
    /// The bytes of unfinished hellos have reached the limit of the process.
    HelloMemory,
    /// The client requested a session without TLS, and the listener rejects that.
    PlaintextRefused,
    /// The client requested the cancel of a query, and the listener has no pool for that, or the pool no backend.
    CancelRefused,
    /// The first bytes are of a protocol for which the listener has no pool.
    UnknownProtocol,
    /// The client sent bytes between its request for TLS and the answer.
    PipelinedBeforeTls,
    /// The first bytes break the rules of the listener's protocol, or a line is too long.
    OpeningMalformed,
    /// The client had sent bytes, and had not begun TLS when the first-byte timeout passed. Or it left a message
    /// unfinished for the hello timeout.
    OpeningTimeout,
    /// The client sent the maximum of commands, and STARTTLS was not among them.
    TooManyCommands,
    /// The client quit or left before it requested TLS.
    LeftBeforeTls,
    /// No PROXY header came, and the listener requires one.
    ProxyMissing,
    /// The listener requires a PROXY header, and does not trust the peer.
    ProxyUntrusted,
    /// A PROXY header came from a peer that the listener does not trust.
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
    /// The pool forwards by name, and the client's server name is not allowed.
    NameNotAllowed,
    /// The pool forwards by name, and the client's server name has no address.
    NameNotResolved,
    /// The pool forwards by name, and the client's server name has only addresses that are not allowed.
    AddressRefused,
    /// The connection was forwarded by name already, and has come in again.
    ForwardLoop,
    /// No backend of the pool is available.
    NoBackend,
    /// Every backend is at its limit of connections, and no further connection may wait.
    QueueFull,
    /// Every backend was at its limit of connections until the queue's timeout passed.
    QueueTimeout,
    /// No backend could be connected; the last one tried refused.
    ConnectRefused,
    /// No backend could be connected; the last one tried did not answer in time.
    ConnectTimeout,
    /// No backend could be connected; the last one tried failed for another reason.
    ConnectFailed,
    /// This host had no descriptor, port or memory for a connection.
    OutOfResources,
    /// No backend could be used; the last one tried does not offer TLS, or not now.
    BackendRefusedTls,
    /// No backend could be used; the last one tried was connected and took too long to begin TLS.
    GreetingTimeout,
    /// No backend could be used; the last one tried left or sent an unexpected answer instead of beginning TLS.
    GreetingFailed,
    /// The backend went down, and its pool closes open connections then.
    BackendDown,
    /// The listener is at its limit of connections.
    ListenerFull,
    /// The process is at its limit of connections.
    ProcessFull,
    /// The process is near its limit, and the source has far more connections than others.
    Overloaded,
    /// New connections exceed the rate limit of the listener.
    ListenerRate,
    /// The source is at its limit of connections.
    SourceConnections,
    /// New connections exceed the rate limit of the source.
    SourceRate,
    /// The source is at its limit of connections whose first bytes are not yet read.
    SourceHellos,
    /// The table of sources has no slot for the source, and connections without a slot are refused.
    SourceTableFull,
    /// The route is at its limit of connections.
    RouteFull,
    /// New connections exceed the rate limit of the route.
    RouteRate,
    /// The pool is at its limit of connections.
    PoolFull,
    /// New connections exceed the rate limit of the pool.
    PoolRate,
    /// The drain ended before the connection did.
    DrainDeadline,
    /// A fault of pointsman itself.
    Internal,
}

impl CloseReason {
    /// Every reason, in the order of the declaration: `ALL[reason as usize] == reason`.
    pub const ALL: [Self; 71] = [
        Self::ClientFin,
        Self::BackendFin,
        Self::ClientReset,
        Self::BackendReset,
        Self::ClientVanished,
        Self::BackendVanished,
        Self::ClientStalled,
        Self::BackendStalled,
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

    /// Returns the word in metric labels, in the access log and in the documentation.
    pub const fn word(self) -> &'static str {
        self.row().word
    }

    /// Returns the side that ended the connection.
    pub const fn ended_by(self) -> EndedBy {
        self.row().ended_by
    }

    /// Returns the phase in which the connection ended. [`DrainDeadline`](Self::DrainDeadline) and
    /// [`Internal`](Self::Internal) can occur in any phase. They count as relay, the phase in which connections spend
    /// most of their time.
    pub const fn phase(self) -> Phase {
        self.row().phase
    }

    /// Returns the meaning for an operator, in one line.
    pub const fn meaning(self) -> &'static str {
        self.row().meaning
    }

    /// Returns true if this program refused the connection before any backend was tried.
    pub const fn is_rejection(self) -> bool {
        self.row().rejection
    }

    /// Returns true if a client that sends nothing and leaves can end in this way. A client that was refused is
    /// another case.
    pub const fn is_of_a_client_that_left(self) -> bool {
        matches!(self, Self::NoData | Self::ClientGone | Self::ClientFin | Self::ClientReset)
    }

    /// Returns true if the access log bounds the lines of this reason. Any client can cause such a reason at any
    /// rate, without an attempt at a backend. The client is refused, or leaves before a backend is connected.
    pub const fn is_sampled(self) -> bool {
        let has_left = matches!(self.ended_by(), EndedBy::Client) && !matches!(self.phase(), Phase::Relay);
        self.is_rejection() || has_left
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Returns the reasons as a Markdown table, one row each, for docs/reference/close-reasons.md.
pub fn markdown_table() -> String {
    let mut table = String::from(
        "| `close` | ended by | phase | rejected | sampled | meaning |\n|---|---|---|---|---|---|\n",
    );
    for reason in CloseReason::ALL {
        let yes = |is_so| if is_so { "yes" } else { "" };
        let (rejected, sampled) = (yes(reason.is_rejection()), yes(reason.is_sampled()));
        let (word, ended_by, phase) = (reason.word(), reason.ended_by().word(), reason.phase().word());
        _ = writeln!(
            table,
            "| `{word}` | {ended_by} | {phase} | {rejected} | {sampled} | {} |",
            reason.meaning()
        );
    }
    table
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
            assert_eq!(reason.ended_by(), EndedBy::Pointsman, "{reason}");
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
            assert!(!reason.is_sampled() || reason.ended_by() != EndedBy::Backend, "{reason}");
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
