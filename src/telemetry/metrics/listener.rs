//! The metrics of each listener.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::{ConnectionTotals, LazySeries, MetricRegistry, families};
use crate::limit::{Rate, RateGate};
use crate::telemetry::{CloseReason, Direction, Engine};

/// The result of reading a ClientHello. A hello that could not be read never counts as a hello without a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HelloOutcome {
    /// A whole hello with a valid server name.
    Sni,
    /// A whole hello without a server name.
    NoSni,
    /// The first bytes are not TLS.
    NotTls,
    /// The hello breaks the rules of TLS.
    Malformed,
    /// The hello is larger than the listener allows.
    TooLarge,
    /// The client left before the hello was whole.
    Truncated,
    /// The hello was not whole in time.
    Timeout,
    /// A whole hello whose server name is not a host name.
    BadName,
}

impl HelloOutcome {
    /// Every outcome, in the order of the declaration.
    pub const ALL: [Self; 8] = [
        Self::Sni,
        Self::NoSni,
        Self::NotTls,
        Self::Malformed,
        Self::TooLarge,
        Self::Truncated,
        Self::Timeout,
        Self::BadName,
    ];

    /// Returns the value of the label `outcome`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sni => "sni",
            Self::NoSni => "no_sni",
            Self::NotTls => "not_tls",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Truncated => "truncated",
            Self::Timeout => "timeout",
            Self::BadName => "bad_name",
        }
    }
}

/// The kind of first bytes, on a listener that accepts more than one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ClientOpening {
    /// TLS from the first byte.
    Tls,
    /// TLS after an opening of its protocol, such as STARTTLS.
    Upgraded,
    /// A session of PostgreSQL without TLS.
    Plaintext,
    /// A request to cancel a query.
    Cancel,
    /// SSH, on a listener that detects protocols. The kinds below occur there too.
    Ssh,
    /// HTTP without TLS.
    Http,
    /// PostgreSQL.
    Postgres,
    /// Any other protocol.
    Other,
    /// No bytes: the client waits for the server.
    Silent,
    /// A request for a tunnel by SOCKS 5.
    Socks5,
    /// A request for a tunnel by SOCKS 4 or 4a.
    Socks4,
    /// A request for a tunnel by the method CONNECT of HTTP.
    Connect,
}

impl ClientOpening {
    /// Every kind, in the order of the declaration.
    pub const ALL: [Self; 12] = [
        Self::Tls,
        Self::Upgraded,
        Self::Plaintext,
        Self::Cancel,
        Self::Ssh,
        Self::Http,
        Self::Postgres,
        Self::Other,
        Self::Silent,
        Self::Socks5,
        Self::Socks4,
        Self::Connect,
    ];

    /// Returns the value of the label `kind`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Upgraded => "upgraded",
            Self::Plaintext => "plaintext",
            Self::Cancel => "cancel",
            Self::Ssh => "ssh",
            Self::Http => "http",
            Self::Postgres => "postgres",
            Self::Other => "other",
            Self::Silent => "silent",
            Self::Socks5 => "socks5",
            Self::Socks4 => "socks4",
            Self::Connect => "connect",
        }
    }
}

/// The result of reading a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ProxyOutcome {
    /// A header of version 1 with addresses.
    V1,
    /// A header of version 2 with addresses.
    V2,
    /// A header of a connection whose client is the peer itself, or is not known.
    Local,
    /// No header came from a trusted peer.
    Missing,
    /// The peer is not trusted, so no header was read.
    Untrusted,
    /// A header came from a peer that is not trusted.
    Unexpected,
    /// The header breaks the rules of the protocol.
    Malformed,
    /// The checksum of the header is wrong.
    Checksum,
    /// The peer left before the header was whole.
    Truncated,
    /// The header was not whole in time.
    Timeout,
}

impl ProxyOutcome {
    /// Every outcome, in the order of the declaration.
    pub const ALL: [Self; 10] = [
        Self::V1,
        Self::V2,
        Self::Local,
        Self::Missing,
        Self::Untrusted,
        Self::Unexpected,
        Self::Malformed,
        Self::Checksum,
        Self::Truncated,
        Self::Timeout,
    ];

    /// Returns the value of the label `outcome`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Local => "local",
            Self::Missing => "missing",
            Self::Untrusted => "untrusted",
            Self::Unexpected => "unexpected",
            Self::Malformed => "malformed",
            Self::Checksum => "checksum",
            Self::Truncated => "truncated",
            Self::Timeout => "timeout",
        }
    }
}

/// The metrics of one listener. All workers share them.
#[derive(Debug)]
pub struct ListenerMetrics {
    /// The listener's name.
    pub name: Arc<str>,
    /// Pauses in accepting, because descriptors or memory had run out.
    pub accept_pauses: Counter,
    /// Errors of accept, including errors that led to a pause.
    pub accept_errors: Counter,
    /// Names and conditions that lead to a pool or an action.
    pub routes: Gauge,
    /// Reads of the file with routes that succeeded.
    pub routes_file_ok: LazySeries<Counter>,
    /// Reads of the file with routes that failed, or found it broken.
    pub routes_file_failed: LazySeries<Counter>,
    /// Bytes read that could not be delivered.
    pub bytes_dropped: Counter,
    /// The rate limit of lines about refusals in the access log.
    pub refusal_lines: RateGate,
    /// Refusals that got no line.
    pub unlogged_refusals: Counter,
    /// The time from the accept to the end of reading a ClientHello, recorded as a `Duration`.
    pub hello_seconds: LazySeries<Histogram>,
    /// Connections handed over to a successor.
    pub handed_over: Counter,
    adopted: Counter,
    connections: Counter,
    active: Gauge,
    closed: [LazySeries<Counter>; CloseReason::ALL.len()],
    /// Counters of reasons that are not rejections have no effect.
    rejected: [LazySeries<Counter>; CloseReason::ALL.len()],
    connection_seconds: Histogram,
    hellos: [LazySeries<Counter>; HelloOutcome::ALL.len()],
    openings: [LazySeries<Counter>; ClientOpening::ALL.len()],
    proxy_headers: [LazySeries<Counter>; ProxyOutcome::ALL.len()],
    /// Connections that `require` would refuse: for a missing header, and for an untrusted peer.
    proxy_shadowed: [LazySeries<Counter>; 2],
    bytes: [[Counter; Engine::ALL.len()]; Direction::ALL.len()],
    /// The totals of the process. All listeners share them.
    totals: Arc<ConnectionTotals>,
}

impl ListenerMetrics {
    pub(super) fn new(
        registry: &Arc<MetricRegistry>,
        totals: &Arc<ConnectionTotals>,
        name: &str,
        refusal_lines: Option<Rate>,
    ) -> Self {
        let own = &[("listener", name)];
        let closed = |reason: CloseReason| {
            let labels = [("listener", name), ("reason", reason.word())];
            registry.lazy_counter(&families::CONNECTIONS_CLOSED, &labels)
        };
        let rejected = |reason: CloseReason| {
            let labels = [("listener", name), ("reason", reason.word())];
            match reason.is_rejection() {
                true => registry.lazy_counter(&families::CONNECTIONS_REJECTED, &labels),
                false => LazySeries::new(Box::new(Counter::noop)),
            }
        };
        let hello = |outcome: HelloOutcome| {
            registry.lazy_counter(&families::CLIENT_HELLO, &[("listener", name), ("outcome", outcome.word())])
        };
        let opening = |opening: ClientOpening| {
            registry.lazy_counter(&families::CLIENT_OPENINGS, &[("listener", name), ("kind", opening.word())])
        };
        let routes_file = |result: &str| {
            registry.lazy_counter(&families::ROUTES_FILE_READS, &[("listener", name), ("result", result)])
        };
        let proxy_header = |outcome: ProxyOutcome| {
            registry
                .lazy_counter(&families::PROXY_HEADERS, &[("listener", name), ("outcome", outcome.word())])
        };
        let shadowed = |reason: CloseReason| {
            registry.lazy_counter(&families::PROXY_SHADOWED, &[("listener", name), ("reason", reason.word())])
        };
        let bytes = |direction: Direction, engine: Engine| {
            let labels = [("listener", name), ("direction", direction.word()), ("engine", engine.word())];
            registry.counter(&families::BYTES, &labels)
        };
        Self {
            name: name.into(),
            accept_pauses: registry.counter(&families::ACCEPT_PAUSES, own),
            accept_errors: registry.counter(&families::ACCEPT_ERRORS, own),
            routes: registry.gauge(&families::ROUTES, own),
            routes_file_ok: routes_file("ok"),
            routes_file_failed: routes_file("failed"),
            bytes_dropped: registry.counter(&families::BYTES_DROPPED, own),
            refusal_lines: RateGate::new(refusal_lines),
            unlogged_refusals: registry.counter(&families::ACCESS_LOG_SAMPLED, own),
            hello_seconds: registry.lazy_histogram(&families::CLIENT_HELLO_SECONDS, own),
            handed_over: registry.counter(&families::CONNECTIONS_HANDED_OVER, own),
            adopted: registry.counter(&families::CONNECTIONS_ADOPTED, own),
            connections: registry.counter(&families::CONNECTIONS, own),
            active: registry.gauge(&families::CONNECTIONS_ACTIVE, own),
            closed: CloseReason::ALL.map(closed),
            rejected: CloseReason::ALL.map(rejected),
            connection_seconds: registry.histogram(&families::CONNECTION_SECONDS, own),
            hellos: HelloOutcome::ALL.map(hello),
            openings: ClientOpening::ALL.map(opening),
            proxy_headers: ProxyOutcome::ALL.map(proxy_header),
            proxy_shadowed: [CloseReason::ProxyMissing, CloseReason::ProxyUntrusted].map(shadowed),
            bytes: Direction::ALL.map(|direction| Engine::ALL.map(|engine| bytes(direction, engine))),
            totals: Arc::clone(totals),
        }
    }

    /// Announces that connections may end for this reason.
    pub fn may_close(&self, reason: CloseReason) {
        LazyLock::force(&self.closed[reason as usize]);
        LazyLock::force(&self.rejected[reason as usize]);
    }

    /// Announces that hellos are read.
    pub fn may_read_hellos(&self) {
        self.hellos.iter().for_each(|counter| _ = LazyLock::force(counter));
        LazyLock::force(&self.hello_seconds);
    }

    /// Announces that a client may begin with this kind of first bytes, at a listener that accepts several
    /// kinds.
    pub fn may_open(&self, opening: ClientOpening) {
        LazyLock::force(&self.openings[opening as usize]);
    }

    /// Announces that PROXY headers are read.
    pub fn may_have_proxy_headers(&self) {
        self.proxy_headers.iter().for_each(|counter| _ = LazyLock::force(counter));
    }

    /// Announces that connections may be served that would be refused if headers were required.
    pub fn may_shadow(&self) {
        self.proxy_shadowed.iter().for_each(|counter| _ = LazyLock::force(counter));
    }

    /// Announces that a file with routes is read.
    pub fn may_read_routes(&self) {
        LazyLock::force(&self.routes_file_ok);
        LazyLock::force(&self.routes_file_failed);
    }

    /// Counts an accepted connection. It counts as active until the returned value is dropped.
    pub fn accepted(self: &Arc<Self>) -> ActiveConnection {
        self.connections.increment(1);
        self.totals.accept();
        self.active.increment(1.0);
        ActiveConnection(Arc::clone(self))
    }

    /// Returns a connection that another program accepted. It counts as active, and with [`ActiveConnection::adopted`] as
    /// adopted.
    pub fn handed(self: &Arc<Self>) -> ActiveConnection {
        self.active.increment(1.0);
        ActiveConnection(Arc::clone(self))
    }

    /// Counts an ended connection by its reason, and as rejected if the reason is a rejection. `total` is the time
    /// since the accept. Must be called exactly once for each connection that was [`accepted`](Self::accepted).
    pub fn closed(&self, reason: CloseReason, total: Duration) {
        self.closed[reason as usize].increment(1);
        self.rejected[reason as usize].increment(1);
        self.totals.end(reason);
        self.connection_seconds.record(total);
    }

    /// Counts the result of reading a ClientHello.
    pub fn hello(&self, outcome: HelloOutcome) {
        self.hellos[outcome as usize].increment(1);
    }

    /// Counts the kind of a client's first bytes. Listeners that accept only one kind do not count it.
    pub fn opening(&self, opening: ClientOpening) {
        self.openings[opening as usize].increment(1);
    }

    /// Counts the result of reading a PROXY header.
    pub fn proxy_header(&self, outcome: ProxyOutcome) {
        self.proxy_headers[outcome as usize].increment(1);
    }

    /// Counts a connection that is served and would be refused if headers were required. `is_missing` is true for a
    /// missing header, and false for a header of an untrusted peer.
    pub fn proxy_shadowed(&self, is_missing: bool) {
        self.proxy_shadowed[usize::from(!is_missing)].increment(1);
    }

    /// Adds bytes that one engine moved in one direction.
    pub fn moved(&self, direction: Direction, engine: Engine, bytes: u64) {
        self.bytes[direction as usize][engine as usize].increment(bytes);
        self.totals.moved(direction, bytes);
    }
}

/// A connection that counts as active until this is dropped.
#[derive(Debug)]
#[must_use = "dropped, the connection no longer counts as active"]
pub struct ActiveConnection(Arc<ListenerMetrics>);

impl ActiveConnection {
    /// Counts a connection that this program has taken over.
    pub fn adopted(&self) {
        self.0.adopted.increment(1);
    }
}

impl std::ops::Deref for ActiveConnection {
    type Target = Arc<ListenerMetrics>;

    fn deref(&self) -> &Arc<ListenerMetrics> {
        &self.0
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        self.0.active.decrement(1.0);
    }
}
