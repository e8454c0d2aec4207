//! Families of backends and lists. They are rendered at each scrape from the numbers that pools and lists keep, because
//! series of removed backends must disappear.

use crate::telemetry::metrics::family::MetricKind::{Counter, Gauge, Histogram};
use crate::telemetry::metrics::family::{MetricDoc, doc};

pub(crate) const POOL_INFO: MetricDoc =
    doc("pointsman_pool_info", Gauge, &["pool", "balance"], "Always 1. The label has the pool's balancer.");
/// A check is a connect and perhaps a dialogue, and ends at its timeout (1 s by default). A few bounds are enough to
/// see that checks come close to the timeout.
const CHECK_BOUNDS: &[f64] = &[0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0];
/// A server answers at once, or does some work, or hangs.
const FIRST_BYTE_BOUNDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

pub(crate) const POOL_BYTES: MetricDoc = doc(
    "pointsman_pool_bytes_total",
    Counter,
    &["pool", "direction"],
    "Bytes relayed to and from the backends of the pool: from_client or from_backend. Bytes of open connections count \
     too.",
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
    "Time from the connect to the first byte of the backend to the client. In protocols without TLS in which the \
     client sends first, the time until the client sends is included.",
);
pub(crate) const SILENT: MetricDoc = doc(
    "pointsman_silent_connections_total",
    Counter,
    &["pool"],
    "Connections to a backend that ended before the backend sent a byte. pointsman_first_byte_seconds does not count \
     them.",
);
pub(crate) const CHECK_SECONDS: MetricDoc = doc(
    "pointsman_check_seconds",
    Histogram(CHECK_BOUNDS),
    &["pool"],
    "Time of a health check. Failed checks count too.",
);
pub(crate) const BACKEND_CHECK_SECONDS: MetricDoc = doc(
    "pointsman_backend_check_seconds",
    Gauge,
    &["pool", "backend"],
    "Time of the last health check of the backend, passed or failed.",
);
pub(crate) const BACKEND_BYTES: MetricDoc = doc(
    "pointsman_backend_bytes_total",
    Counter,
    &["pool", "backend", "direction"],
    "Bytes relayed to and from the backend: from_client or from_backend. Bytes of open connections count too.",
);
pub(crate) const BACKEND_CLOSED: MetricDoc = doc(
    "pointsman_backend_connections_closed_total",
    Counter,
    &["pool", "backend", "reason"],
    "Connections to the backend that ended, and attempts to connect that failed, by the reasons of \
     pointsman_pool_connections_closed_total. The series of backend_reset exists from the start. The series of \
     another reason exists from its first event on.",
);
pub(crate) const BACKEND_WAITING: MetricDoc = doc(
    "pointsman_backend_connections_waiting",
    Gauge,
    &["pool", "backend"],
    "Open connections to the backend on which the backend has not sent a byte yet.",
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
    "1 for each backend that is down, with its fault: agent, or the fault of its last failed check as in \
     `pointsman_check_failures_total`. Backends that are not down have no series.",
);
pub(crate) const BACKEND_STATE_CHANGES: MetricDoc = doc(
    "pointsman_backend_state_changes_total",
    Counter,
    &["pool", "backend", "state"],
    "Times that the backend entered a state. In pools with checks or agents, the series of up and down exist from the \
     start. In pools with ejection, those of up and ejected do. All other series exist after the backend entered \
     their state.",
);
pub(crate) const BACKEND_TROUBLES: MetricDoc = doc(
    "pointsman_backend_troubles_total",
    Counter,
    &["pool", "backend", "kind"],
    "Failures of clients at the backend: connect (the connect failed, and the backend is the cause), early_reset (the \
     backend reset the connection within 10 s and before it sent a byte).",
);
pub(crate) const BACKEND_WEIGHT: MetricDoc =
    doc("pointsman_backend_weight", Gauge, &["pool", "backend"], "The configured weight of the backend.");
pub(crate) const BACKEND_SHARE: MetricDoc = doc(
    "pointsman_backend_share_ratio",
    Gauge,
    &["pool", "backend"],
    "Part of the backend's weight that counts now: 1, or less in slow start or by its agent. Only pools with \
     slow_start or agents have it.",
);
pub(crate) const BACKEND_CONNECTIONS_ACTIVE: MetricDoc = doc(
    "pointsman_backend_connections_active",
    Gauge,
    &["pool", "backend"],
    "Open connections to the backend. Connections that are being opened count too.",
);
pub(crate) const BACKEND_CONNECTIONS_LIMIT: MetricDoc = doc(
    "pointsman_backend_connections_limit",
    Gauge,
    &["pool", "backend"],
    "Connections that the backend may have at once: the lower one of its max_connections and the limit of its agent. \
     Backends without a limit have no series.",
);
pub(crate) const BACKEND_CONNECTIONS: MetricDoc = doc(
    "pointsman_backend_connections_total",
    Counter,
    &["pool", "backend"],
    "Connections to the backend that were established.",
);
pub(crate) const BACKEND_CHECKS: MetricDoc = doc(
    "pointsman_backend_checks_total",
    Counter,
    &["pool", "backend", "result"],
    "Health checks of the backend: passed, failed, or not_made (this host had no port or descriptor left, or the \
     accept queue of a Unix socket stayed full). Only pools with checks have it.",
);
pub(crate) const CHECK_FAILURES: MetricDoc = doc(
    "pointsman_check_failures_total",
    Counter,
    &["pool", "fault"],
    "Health checks that did not pass: refused, timeout, unreachable, closed (before an answer), unexpected (a wrong \
     answer), tls_alert, certificate (not accepted), dns (the host name of the check has no address), local (this \
     host had no port or descriptor left), other.",
);
pub(crate) const BACKEND_AGENT_SHARE: MetricDoc = doc(
    "pointsman_backend_agent_share_ratio",
    Gauge,
    &["pool", "backend"],
    "Part of the backend's weight that its agent allows, 0 to 1. Only pools with agents have it.",
);
pub(crate) const AGENT_CHECKS: MetricDoc = doc(
    "pointsman_agent_checks_total",
    Counter,
    &["pool", "result"],
    "Queries to agents: heard (the answer had a known word), silent (no connection, or no line in time), nonsense \
     (the answer had no known word).",
);
pub(crate) const DISCOVERY_BACKENDS: MetricDoc = doc(
    "pointsman_discovery_backends",
    Gauge,
    &["pool"],
    "Backends of the pool that were discovered, or that are addresses of its host names. Backends with an address in \
     the configuration do not count.",
);
pub(crate) const DISCOVERY_FAILURES: MetricDoc = doc(
    "pointsman_discovery_failures_total",
    Counter,
    &["pool"],
    "Times that a source or host name of the pool failed, wholly or in part. The backends of its last good answer \
     stayed.",
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
    "Unix time of the last success of the pool's source, even if nothing changed. 0 means that it had no success yet. \
     If a pool has several sources or host names, the oldest of their times is shown.",
);
pub(crate) const FORWARD_LOOKUPS: MetricDoc = doc(
    "pointsman_forward_lookups_total",
    Counter,
    &["pool", "result"],
    "Look-ups of names for clients of a forwarding pool: cached (the name is known, or a look-up is in progress), \
     resolved, no_name, no_address, timeout, failed (the resolvers failed), busy (too many look-ups at once).",
);
pub(crate) const FORWARD_NAMES: MetricDoc = doc(
    "pointsman_forward_names",
    Gauge,
    &["pool"],
    "Names in the cache of a forwarding pool. Names without an address count too.",
);
pub(crate) const HASH_TABLE_INFO: MetricDoc = doc(
    "pointsman_hash_table_info",
    Gauge,
    &["pool", "digest"],
    "Always 1. Nodes with the same digest of a pool send a key to the same backend.",
);
pub(crate) const HASH_TABLE_ENTRIES: MetricDoc = doc(
    "pointsman_hash_table_entries",
    Gauge,
    &["pool", "backend"],
    "Entries of the pool's hash table that have the backend.",
);
pub(crate) const HASH_OVERFLOWS: MetricDoc = doc(
    "pointsman_hash_overflows_total",
    Counter,
    &["pool"],
    "Connections that went to another backend because the backend of their key was at `max_load`. The count starts \
     again with each change of the pool.",
);
pub(crate) const NEAR_LOADS: MetricDoc = doc(
    "pointsman_near_loads_total",
    Counter,
    &["pool", "result"],
    "Reads of the database with the places of the pool's clients: `ok` or `failed`. Only a read with `ok` changes the \
     order of zones. Only for pools with near.",
);
pub(crate) const NEAR_LAST_LOAD: MetricDoc = doc(
    "pointsman_near_last_load_timestamp_seconds",
    Gauge,
    &["pool"],
    "Unix time of the last good read of the database with the places of the pool's clients. 0 means that no read \
     was good yet. Only for pools with near.",
);
pub(crate) const LIST_ENTRIES: MetricDoc = doc(
    "pointsman_list_entries",
    Gauge,
    &["list", "part"],
    "Entries of the list: `written` in the configuration, in its `file`, or `added` while the process runs.",
);
pub(crate) const LIST_LOADS: MetricDoc = doc(
    "pointsman_list_loads_total",
    Counter,
    &["list", "result"],
    "Reads of the list's file: `ok`, `failed`, or `empty` (no entries, and `allow_empty` is not set). Only a read \
     with `ok` changes the entries in force.",
);
pub(crate) const LIST_LAST_LOAD: MetricDoc = doc(
    "pointsman_list_last_load_timestamp_seconds",
    Gauge,
    &["list"],
    "Unix time of the last good read of the list's file. 0 means that no read was good yet.",
);
pub(crate) const LIST_REFUSALS: MetricDoc = doc(
    "pointsman_list_refusals_total",
    Counter,
    &["list"],
    "Connections that were refused because their address is in the list.",
);
