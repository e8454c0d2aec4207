//! Families of backends. They are rendered at each scrape from the pools' own numbers, because series of removed
//! backends must disappear.

use super::MetricKind::{Counter, Gauge, Histogram};
use super::{MetricDoc, doc};

pub(crate) const POOL_INFO: MetricDoc =
    doc("pointsman_pool_info", Gauge, &["pool", "balance"], "Always 1; the label has the pool's balancer.");
/// A check is a connect and perhaps a dialogue, and ends at its timeout (1 s by default). A few bounds are enough to
/// see that checks come close to the timeout.
const CHECK_BOUNDS: &[f64] = &[0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0];
/// A server answers at once, or does some work, or hangs.
const FIRST_BYTE_BOUNDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

pub(crate) const POOL_BYTES: MetricDoc = doc(
    "pointsman_pool_bytes_total",
    Counter,
    &["pool", "direction"],
    "Bytes relayed to and from the backends of the pool: from_client or from_backend; also of connections still open.",
);
pub(crate) const POOL_CLOSED: MetricDoc = doc(
    "pointsman_pool_connections_closed_total",
    Counter,
    &["pool", "reason"],
    "Connections of the pool that ended: fin, client_reset, backend_reset, lost (a side vanished or stalled), timeout \
     (idle or half-closed), refused, unreachable, unavailable (no backend was tried), client_gone (before the connect), \
     closed (by pointsman).",
);
pub(crate) const FIRST_BYTE_SECONDS: MetricDoc = doc(
    "pointsman_first_byte_seconds",
    Histogram(FIRST_BYTE_BOUNDS),
    &["pool"],
    "Time from the connect to the first byte that the backend sent to the client. It includes the time until the client \
     sends, in protocols without TLS in which the client sends first.",
);
pub(crate) const SILENT: MetricDoc = doc(
    "pointsman_silent_connections_total",
    Counter,
    &["pool"],
    "Connections that were connected to a backend and ended before it had sent a byte; they are not in \
     pointsman_first_byte_seconds.",
);
pub(crate) const CHECK_SECONDS: MetricDoc = doc(
    "pointsman_check_seconds",
    Histogram(CHECK_BOUNDS),
    &["pool"],
    "Time that a health check took, passed or not.",
);
pub(crate) const BACKEND_CHECK_SECONDS: MetricDoc = doc(
    "pointsman_backend_check_seconds",
    Gauge,
    &["pool", "backend"],
    "Time that the last health check of the backend took, passed or not.",
);
pub(crate) const BACKEND_BYTES: MetricDoc = doc(
    "pointsman_backend_bytes_total",
    Counter,
    &["pool", "backend", "direction"],
    "Bytes relayed to and from the backend: from_client or from_backend; also of connections still open.",
);
pub(crate) const BACKEND_CLOSED: MetricDoc = doc(
    "pointsman_backend_connections_closed_total",
    Counter,
    &["pool", "backend", "reason"],
    "Connections that ended at the backend, and attempts to connect that failed there, by the reasons of \
     pointsman_pool_connections_closed_total. The series of backend_reset exists from the start, that of each other \
     reason from its first event on.",
);
pub(crate) const BACKEND_WAITING: MetricDoc = doc(
    "pointsman_backend_connections_waiting",
    Gauge,
    &["pool", "backend"],
    "Open connections to the backend on which it has not yet sent a byte.",
);
pub(crate) const BACKEND_UP: MetricDoc = doc(
    "pointsman_backend_up",
    Gauge,
    &["pool", "backend"],
    "1 if the backend takes new connections, 0 in any other state.",
);
pub(crate) const BACKEND_STATE: MetricDoc = doc(
    "pointsman_backend_state",
    Gauge,
    &["pool", "backend"],
    "The state of the backend as a number: 0 down, 1 up, 2 draining, 3 ejected, 4 maintenance.",
);
pub(crate) const BACKEND_FAULT: MetricDoc = doc(
    "pointsman_backend_fault",
    Gauge,
    &["pool", "backend", "fault"],
    "1 for each backend that is down, with its fault: that of its last failed check, as in \
     `pointsman_check_failures_total`, or agent. Backends that are not down have no series.",
);
pub(crate) const BACKEND_STATE_CHANGES: MetricDoc = doc(
    "pointsman_backend_state_changes_total",
    Counter,
    &["pool", "backend", "state"],
    "Times that the backend entered a state. Series exist for up and down in pools with checks or agents, for up \
     and ejected in pools with ejection, and for any state that it was in.",
);
pub(crate) const BACKEND_TROUBLES: MetricDoc = doc(
    "pointsman_backend_troubles_total",
    Counter,
    &["pool", "backend", "kind"],
    "Failures of clients at the backend: connect (it failed by the backend's fault), early_reset (within 10 s and \
     before the backend had sent a byte).",
);
pub(crate) const BACKEND_WEIGHT: MetricDoc =
    doc("pointsman_backend_weight", Gauge, &["pool", "backend"], "The configured weight of the backend.");
pub(crate) const BACKEND_SHARE: MetricDoc = doc(
    "pointsman_backend_share_ratio",
    Gauge,
    &["pool", "backend"],
    "Part of the backend's weight that counts now: 1, or less in slow start or by its agent; only of pools with \
     slow_start or agents.",
);
pub(crate) const BACKEND_CONNECTIONS_ACTIVE: MetricDoc = doc(
    "pointsman_backend_connections_active",
    Gauge,
    &["pool", "backend"],
    "Connections to the backend open now, those being opened included.",
);
pub(crate) const BACKEND_CONNECTIONS_LIMIT: MetricDoc = doc(
    "pointsman_backend_connections_limit",
    Gauge,
    &["pool", "backend"],
    "Connections that the backend may have at once, by its max_connections or by its agent if that allows fewer; absent \
     where there is no limit.",
);
pub(crate) const BACKEND_CONNECTIONS: MetricDoc = doc(
    "pointsman_backend_connections_total",
    Counter,
    &["pool", "backend"],
    "Connections to the backend established.",
);
pub(crate) const BACKEND_CHECKS: MetricDoc = doc(
    "pointsman_backend_checks_total",
    Counter,
    &["pool", "backend", "result"],
    "Health checks of the backend: passed, failed, or not_made (this host had no port or descriptor left, or the \
     accept queue of a Unix socket stayed full); only of pools with checks.",
);
pub(crate) const CHECK_FAILURES: MetricDoc = doc(
    "pointsman_check_failures_total",
    Counter,
    &["pool", "fault"],
    "Health checks that did not pass: refused, timeout, unreachable, closed (before an answer), unexpected \
     (answer), tls_alert, certificate (not accepted), dns (the host name of the check has no address), local (this \
     host had no port or descriptor left), other.",
);
pub(crate) const BACKEND_AGENT_SHARE: MetricDoc = doc(
    "pointsman_backend_agent_share_ratio",
    Gauge,
    &["pool", "backend"],
    "Part of its weight that the backend's agent allows, 0 to 1; only of pools with agents.",
);
pub(crate) const AGENT_CHECKS: MetricDoc = doc(
    "pointsman_agent_checks_total",
    Counter,
    &["pool", "result"],
    "Queries to agents: heard (a known word), silent (no connection, or no line in time), nonsense (no known word).",
);
pub(crate) const DISCOVERY_BACKENDS: MetricDoc = doc(
    "pointsman_discovery_backends",
    Gauge,
    &["pool"],
    "Backends of the pool that were discovered, or are addresses of its host names; those with an address in the configuration are not among them.",
);
pub(crate) const DISCOVERY_FAILURES: MetricDoc = doc(
    "pointsman_discovery_failures_total",
    Counter,
    &["pool"],
    "Times that a source or host name of the pool failed, wholly or in part; the backends that it last found were \
     kept.",
);
pub(crate) const DISCOVERY_FAILING: MetricDoc = doc(
    "pointsman_discovery_failing",
    Gauge,
    &["pool"],
    "1 while the pool's source fails, wholly or in part, else 0.",
);
pub(crate) const DISCOVERY_LAST_SUCCESS: MetricDoc = doc(
    "pointsman_discovery_last_success_timestamp_seconds",
    Gauge,
    &["pool"],
    "Unix time of the last success of the pool's source, changed or not; 0 is never. A pool with several sources or host \
     names has the time of the source whose last success is the oldest.",
);
pub(crate) const FORWARD_LOOKUPS: MetricDoc = doc(
    "pointsman_forward_lookups_total",
    Counter,
    &["pool", "result"],
    "Look-ups of names for clients of a forwarding pool: cached (known, or a look-up is under way), resolved, \
     no_name, no_address, timeout, failed (the resolvers), busy (too many at once).",
);
pub(crate) const FORWARD_NAMES: MetricDoc = doc(
    "pointsman_forward_names",
    Gauge,
    &["pool"],
    "Names in the cache of a forwarding pool, those without an address included.",
);
pub(crate) const HASH_TABLE_INFO: MetricDoc = doc(
    "pointsman_hash_table_info",
    Gauge,
    &["pool", "digest"],
    "Always 1; nodes whose digests of a pool agree send a key to the same backend.",
);
pub(crate) const HASH_TABLE_ENTRIES: MetricDoc = doc(
    "pointsman_hash_table_entries",
    Gauge,
    &["pool", "backend"],
    "Entries of the pool's hash table that name the backend.",
);
pub(crate) const HASH_OVERFLOWS: MetricDoc = doc(
    "pointsman_hash_overflows_total",
    Counter,
    &["pool"],
    "Connections that went to another backend because the backend of their key was at `max_load`; since the last \
     change of the pool.",
);
