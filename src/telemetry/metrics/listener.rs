//! What is counted for each listener.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::{LazySeries, MetricRegistry, families};
use crate::limit::{Rate, RateGate};
use crate::telemetry::{CloseReason, Direction, Engine};

/// What came of reading a ClientHello. "Could not be read" is never "has no name".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HelloOutcome {
    /// A whole hello with a valid server name.
    Sni,
    /// A whole hello without a server name.
    NoSni,
    /// The first bytes are not TLS.
    NotTls,
    /// TLS, but against its rules.
    Malformed,
    /// Larger than allowed.
    TooLarge,
    /// The client left before it was whole.
    Truncated,
    /// Not whole in time.
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

    /// The value of the label `outcome`.
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

/// How a client began on a listener that knows more than one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ClientOpening {
    /// TLS from the first byte.
    Tls,
    /// TLS behind the words of its protocol, such as STARTTLS.
    Upgraded,
    /// A session of PostgreSQL without TLS.
    Plaintext,
    /// A request to cancel a query.
    Cancel,
    /// SSH, on a listener that tells protocols apart; so are those that follow.
    Ssh,
    /// HTTP without TLS.
    Http,
    /// PostgreSQL.
    Postgres,
    /// What is none of these.
    Other,
    /// Nothing: it waits for the server.
    Silent,
}

impl ClientOpening {
    /// Every way, in the order of the declaration.
    pub const ALL: [Self; 9] = [
        Self::Tls,
        Self::Upgraded,
        Self::Plaintext,
        Self::Cancel,
        Self::Ssh,
        Self::Http,
        Self::Postgres,
        Self::Other,
        Self::Silent,
    ];

    /// The value of the label `kind`.
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
        }
    }
}

/// What stood where a PROXY header is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ProxyOutcome {
    /// A header of version 1 with addresses.
    V1,
    /// A header of version 2 with addresses.
    V2,
    /// A header of a connection whose client is the peer itself, or is not known.
    Local,
    /// None, of a peer that is trusted.
    Missing,
    /// The peer is not trusted, so nothing was read.
    Untrusted,
    /// A header of a peer that is not trusted.
    Unexpected,
    /// A broken one.
    Malformed,
    /// One with a wrong checksum.
    Checksum,
    /// The peer left before it was whole.
    Truncated,
    /// Not whole in time.
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

    /// The value of the label `outcome`.
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

/// The metrics of one listener. Shared by all workers.
#[derive(Debug)]
pub struct ListenerMetrics {
    /// The listener's name.
    pub name: Arc<str>,
    /// Pauses in accepting because descriptors or memory had run out.
    pub accept_pauses: Counter,
    /// Errors of accept, those that led to a pause included.
    pub accept_errors: Counter,
    /// Names and conditions that lead somewhere.
    pub routes: Gauge,
    /// Times the file with routes was read well.
    pub routes_file_ok: LazySeries<Counter>,
    /// Times the file with routes was broken or could not be read.
    pub routes_file_failed: LazySeries<Counter>,
    /// Bytes read that could not be delivered.
    pub bytes_dropped: Counter,
    /// How many refusals a second get a line in the access log.
    pub refusal_lines: RateGate,
    /// Refusals that got none.
    pub unlogged_refusals: Counter,
    /// From the accept to the end of reading a ClientHello; record a `Duration`.
    pub hello_seconds: LazySeries<Histogram>,
    connections: Counter,
    active: Gauge,
    closed: [LazySeries<Counter>; CloseReason::ALL.len()],
    /// Those of reasons that are no rejection lead nowhere.
    rejected: [LazySeries<Counter>; CloseReason::ALL.len()],
    connection_seconds: Histogram,
    hellos: [LazySeries<Counter>; HelloOutcome::ALL.len()],
    openings: [LazySeries<Counter>; ClientOpening::ALL.len()],
    proxy_headers: [LazySeries<Counter>; ProxyOutcome::ALL.len()],
    /// Those that `require` would refuse as missing, and as untrusted.
    proxy_shadowed: [LazySeries<Counter>; 2],
    bytes: [[Counter; Engine::ALL.len()]; Direction::ALL.len()],
}

impl ListenerMetrics {
    pub(super) fn new(registry: &Arc<MetricRegistry>, name: &str, refusal_lines: Option<Rate>) -> Self {
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
        }
    }

    /// From now on connections may end for this reason.
    pub fn may_close(&self, reason: CloseReason) {
        LazyLock::force(&self.closed[reason as usize]);
        LazyLock::force(&self.rejected[reason as usize]);
    }

    /// From now on hellos are read.
    pub fn may_read_hellos(&self) {
        self.hellos.iter().for_each(|counter| _ = LazyLock::force(counter));
        LazyLock::force(&self.hello_seconds);
    }

    /// From now on a client may begin in this way, of several.
    pub fn may_open(&self, opening: ClientOpening) {
        LazyLock::force(&self.openings[opening as usize]);
    }

    /// From now on PROXY headers are read.
    pub fn may_have_proxy_headers(&self) {
        self.proxy_headers.iter().for_each(|counter| _ = LazyLock::force(counter));
    }

    /// From now on connections may be served that would be refused where headers are required.
    pub fn may_shadow(&self) {
        self.proxy_shadowed.iter().for_each(|counter| _ = LazyLock::force(counter));
    }

    /// From now on a file with routes is read.
    pub fn may_read_routes(&self) {
        LazyLock::force(&self.routes_file_ok);
        LazyLock::force(&self.routes_file_failed);
    }

    /// Counts an accepted connection, and as active for as long as what is returned lives.
    pub fn accepted(self: &Arc<Self>) -> ActiveConnection {
        self.connections.increment(1);
        self.active.increment(1.0);
        ActiveConnection(Arc::clone(self))
    }

    /// Counts an ended connection: its reason, and as rejected if the reason is a rejection; `total` is its
    /// time since the accept. To be called exactly once for each that was [`accepted`](Self::accepted).
    pub fn closed(&self, reason: CloseReason, total: Duration) {
        self.closed[reason as usize].increment(1);
        self.rejected[reason as usize].increment(1);
        self.connection_seconds.record(total);
    }

    /// Counts what came of reading a ClientHello.
    pub fn hello(&self, outcome: HelloOutcome) {
        self.hellos[outcome as usize].increment(1);
    }

    /// Counts how a client began; on listeners that know one way alone nothing is counted.
    pub fn opening(&self, opening: ClientOpening) {
        self.openings[opening as usize].increment(1);
    }

    /// Counts what stood where a PROXY header is read.
    pub fn proxy_header(&self, outcome: ProxyOutcome) {
        self.proxy_headers[outcome as usize].increment(1);
    }

    /// Counts what is served and would be refused where headers are required: a missing one, or else one that
    /// could not be believed.
    pub fn proxy_shadowed(&self, is_missing: bool) {
        self.proxy_shadowed[usize::from(!is_missing)].increment(1);
    }

    /// The counter of bytes moved one way by one engine.
    pub fn bytes(&self, direction: Direction, engine: Engine) -> &Counter {
        &self.bytes[direction as usize][engine as usize]
    }
}

/// A connection that counts as active until this is dropped.
#[derive(Debug)]
#[must_use = "dropped, the connection no longer counts as active"]
pub struct ActiveConnection(Arc<ListenerMetrics>);

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
