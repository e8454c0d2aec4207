//! Every metric family with its name, kind, labels and meaning. Registration, `/metrics` and the table of
//! docs/reference/metrics.md are made from these.

mod backends;

use std::fmt::Write as _;

use super::family::MetricKind::{Counter, Gauge, Histogram};
use super::family::{MetricDoc, doc};
pub(crate) use backends::{
    AGENT_CHECKS, BACKEND_AGENT_SHARE, BACKEND_BYTES, BACKEND_CHECK_SECONDS, BACKEND_CHECKS, BACKEND_CLOSED,
    BACKEND_CONNECTIONS, BACKEND_CONNECTIONS_ACTIVE, BACKEND_CONNECTIONS_LIMIT, BACKEND_FAULT, BACKEND_SHARE,
    BACKEND_STATE, BACKEND_STATE_CHANGES, BACKEND_TROUBLES, BACKEND_UP, BACKEND_WAITING, BACKEND_WEIGHT,
    CHECK_FAILURES, CHECK_SECONDS, DISCOVERY_BACKENDS, DISCOVERY_FAILING, DISCOVERY_FAILURES,
    DISCOVERY_LAST_SUCCESS, FIRST_BYTE_SECONDS, FORWARD_LOOKUPS, FORWARD_NAMES, HASH_OVERFLOWS,
    HASH_TABLE_ENTRIES, HASH_TABLE_INFO, LIST_ENTRIES, LIST_LAST_LOAD, LIST_LOADS, LIST_REFUSALS,
    NEAR_LAST_LOAD, NEAR_LOADS, POOL_BYTES, POOL_CLOSED, POOL_INFO, SILENT,
};

/// A hello comes within one or two round trips, or hits its timeouts (5 s and 60 s by default).
const HELLO_BOUNDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// A connect takes a round trip: 0.1 ms in a rack. If SYNs are lost, it takes 1 s or 3 s. It takes at most its
/// timeout.
const CONNECT_BOUNDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0];
/// A backend has room within one or two requests, or the timeout (5 s by default) ends the wait.
const QUEUE_BOUNDS: &[f64] =
    &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// The bounds range from one request to connections that stay open for days.
const CONNECTION_BOUNDS: &[f64] =
    &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0];
/// A reload reads a file and builds tables.
const RELOAD_BOUNDS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

// The process.

pub(crate) const BUILD_INFO: MetricDoc = doc(
    "pointsman_build_info",
    Gauge,
    &["version", "commit"],
    "Always 1. The labels have the version that runs and the commit of its source.",
);
pub(crate) const WORKERS: MetricDoc =
    doc("pointsman_workers", Gauge, &[], "Threads that accept and serve connections.");
pub(crate) const CONNECTIONS_LIMIT: MetricDoc =
    doc("pointsman_connections_limit", Gauge, &[], "Connections that the process may have open at once.");
pub(crate) const HELLO_MEMORY: MetricDoc = doc(
    "pointsman_hello_memory_bytes",
    Gauge,
    &[],
    "Memory of hellos that came in several pieces. A hello holds its memory until its backend is connected.",
);
pub(crate) const SOURCES: MetricDoc = doc(
    "pointsman_sources",
    Gauge,
    &["state"],
    "Sources in the table of sources: open (sources with open connections), known (all sources).",
);
pub(crate) const SOURCE_EVICTIONS: MetricDoc = doc(
    "pointsman_source_evictions_total",
    Counter,
    &[],
    "Sources that were evicted from the table to make room. They had no open connections and were below their rate \
     limit.",
);
pub(crate) const SOURCES_WITHOUT_ROOM: MetricDoc = doc(
    "pointsman_sources_without_room_total",
    Counter,
    &[],
    "Connections for whose source the table had no free slot. By limits.when_full, they were served and not counted, \
     or refused.",
);
pub(crate) const TARPITTED: MetricDoc =
    doc("pointsman_tarpitted", Gauge, &[], "Refused connections in the tarpit now.");
pub(crate) const TARPITS: MetricDoc = doc(
    "pointsman_tarpits_total",
    Counter,
    &["outcome"],
    "Refused connections that were to be held in the tarpit: held, or full (the tarpit was full, and they were \
     reset).",
);
pub(crate) const PIPES_OPEN: MetricDoc =
    doc("pointsman_pipes_open", Gauge, &[], "Kernel pipes open for splicing, in use or pooled.");
pub(crate) const PIPE_FALLBACKS: MetricDoc = doc(
    "pointsman_pipe_fallbacks_total",
    Counter,
    &["reason"],
    "Times that a relay copied and did not splice: limit (no free descriptor), size (the kernel granted a pipe that \
     is too small), einval or eperm (the kernel refused to splice), other.",
);
pub(crate) const ACCESS_LOG_WRITTEN: MetricDoc =
    doc("pointsman_access_log_written_total", Counter, &[], "Lines of the access log that were written.");
pub(crate) const ACCESS_LOG_DROPPED: MetricDoc = doc(
    "pointsman_access_log_dropped_total",
    Counter,
    &[],
    "Access records that were not written: the queue was full, or the write failed.",
);
pub(crate) const ACCESS_LOG_SAMPLED: MetricDoc = doc(
    "pointsman_access_log_unlogged_refusals_total",
    Counter,
    &["listener"],
    "Connections without a line in the access log, because refused_per_second was reached.",
);
pub(crate) const ADMIN_REFUSED: MetricDoc = doc(
    "pointsman_admin_requests_refused_total",
    Counter,
    &["reason"],
    "Requests that the admin listener refused, by reason: host, cross_site, token, content_type, busy, too_large, \
     timeout. The reasons busy, too_large and timeout are about connections over a limit.",
);
pub(crate) const LOG_LINES_DROPPED: MetricDoc = doc(
    "pointsman_log_lines_dropped_total",
    Counter,
    &[],
    "Lines of the program's own log that were dropped: standard error was not read, or a write failed.",
);
pub(crate) const NOTIFY_FAILURES: MetricDoc = doc(
    "pointsman_notify_failures_total",
    Counter,
    &[],
    "Notifications that the service manager (NOTIFY_SOCKET) did not take at once. Notifications of the watchdog are \
     not sent again, all others are.",
);
pub(crate) const RELOADS: MetricDoc = doc(
    "pointsman_config_reloads_total",
    Counter,
    &["result"],
    "Reloads of the configuration: ok, or failed (the configuration did not change).",
);
pub(crate) const UPGRADES: MetricDoc = doc(
    "pointsman_upgrades_total",
    Counter,
    &["result"],
    "Hand-overs between two programs: ok, counted by the new program, or failed, counted by the program that goes on.",
);
pub(crate) const OVERRIDES: MetricDoc = doc(
    "pointsman_overrides",
    Gauge,
    &["kind"],
    "Overrides that operators set at run time and that have not ended: state and weight of backends, pause of pools, shares of pools in routes, \
     leave and log level of the process.",
);
pub(crate) const READY: MetricDoc = doc(
    "pointsman_ready",
    Gauge,
    &["reason"],
    "1 for the reason in force, 0 for the others: ready (/ready answers 200), or the reason for which /ready answers 503: starting, draining, \
     leaving (pointsman leave), overloaded (limits.ready_when_overloaded = false), needs (ready_needs).",
);
pub(crate) const UPGRADE_REMAINING: MetricDoc = doc(
    "pointsman_upgrade_connections_remaining",
    Gauge,
    &[],
    "Connections that were still open in the program before this one when it handed over; 0 once that program has ended.",
);
pub(crate) const RELOAD_SECONDS: MetricDoc = doc(
    "pointsman_config_reload_seconds",
    Histogram(RELOAD_BOUNDS),
    &[],
    "Time of a reload, from the read of the file until the new configuration is in force or the reload has failed.",
);
pub(crate) const LAST_RELOAD_SUCCESS: MetricDoc = doc(
    "pointsman_config_last_reload_success",
    Gauge,
    &[],
    "1 if the last start or reload put its configuration in force, 0 if the reload failed.",
);
pub(crate) const LAST_RELOAD_TIMESTAMP: MetricDoc = doc(
    "pointsman_config_last_reload_timestamp_seconds",
    Gauge,
    &[],
    "Unix time at which the last start or reload ended. A failed reload counts too.",
);
pub(crate) const CONNECTIONS_MOVED: MetricDoc = doc(
    "pointsman_connections_moved_total",
    Counter,
    &["what"],
    "Connections that were moved from a loaded worker to another worker: accepted (new connections) or stream \
     (connections with a running relay).",
);
pub(crate) const CHECKS_DELAYED: MetricDoc = doc(
    "pointsman_checks_delayed_total",
    Counter,
    &[],
    "Health checks and agent checks that waited because max_checks were in progress.",
);
pub(crate) const PANICS: MetricDoc = doc(
    "pointsman_panics_total",
    Counter,
    &[],
    "Connections that a fault of pointsman itself ended. The log has a line for each.",
);

// The listeners.

pub(crate) const CONNECTIONS: MetricDoc =
    doc("pointsman_connections_total", Counter, &["listener"], "Connections accepted.");
pub(crate) const CONNECTIONS_ACTIVE: MetricDoc =
    doc("pointsman_connections_active", Gauge, &["listener"], "Connections open now.");
pub(crate) const CONNECTIONS_CLOSED: MetricDoc = doc(
    "pointsman_connections_closed_total",
    Counter,
    &["listener", "reason"],
    "Connections that ended, by their close reason.",
);
pub(crate) const CONNECTIONS_ADOPTED: MetricDoc = doc(
    "pointsman_connections_adopted_total",
    Counter,
    &["listener"],
    "Connections that this program took over from the program before it. pointsman_connections_total does not count \
     them again.",
);
pub(crate) const CONNECTIONS_HANDED_OVER: MetricDoc = doc(
    "pointsman_connections_handed_over_total",
    Counter,
    &["listener"],
    "Connections that this program handed over to the program after it. They have no close reason.",
);
pub(crate) const CONNECTIONS_REJECTED: MetricDoc = doc(
    "pointsman_connections_rejected_total",
    Counter,
    &["listener", "reason"],
    "Connections that were refused before a backend was tried, by close reason. pointsman_connections_closed_total \
     counts them too.",
);
pub(crate) const CONNECTION_SECONDS: MetricDoc = doc(
    "pointsman_connection_seconds",
    Histogram(CONNECTION_BOUNDS),
    &["listener"],
    "Time from the accept to the end of a connection.",
);
pub(crate) const CLIENT_HELLO: MetricDoc = doc(
    "pointsman_client_hello_total",
    Counter,
    &["listener", "outcome"],
    "Reads of a ClientHello: sni, no_sni, not_tls, malformed, too_large, truncated, timeout, bad_name.",
);
pub(crate) const CLIENT_OPENINGS: MetricDoc = doc(
    "pointsman_client_openings_total",
    Counter,
    &["listener", "kind"],
    "First bytes of clients, on listeners that accept several kinds: tls (TLS from the first byte), upgraded (TLS \
     after STARTTLS or SSLRequest), plaintext and cancel (PostgreSQL), ssh, http, postgres, other, silent.",
);
pub(crate) const CLIENT_HELLO_SECONDS: MetricDoc = doc(
    "pointsman_client_hello_seconds",
    Histogram(HELLO_BOUNDS),
    &["listener"],
    "Time from the accept to the end of reading a ClientHello.",
);
pub(crate) const PROXY_HEADERS: MetricDoc = doc(
    "pointsman_proxy_headers_total",
    Counter,
    &["listener", "outcome"],
    "Reads of a PROXY header: v1, v2, local (a header without a client's address), missing, untrusted (the peer is \
     not trusted), unexpected (a peer that is not trusted sent a header), malformed, checksum, truncated, timeout.",
);
pub(crate) const PROXY_SHADOWED: MetricDoc = doc(
    "pointsman_proxy_shadowed_total",
    Counter,
    &["listener", "reason"],
    "Connections that were served, although mode = require would have refused them. The reason is the close reason of \
     such a refusal.",
);
pub(crate) const BYTES: MetricDoc = doc(
    "pointsman_bytes_total",
    Counter,
    &["listener", "direction", "engine"],
    "Bytes relayed, from_client or from_backend, copied or spliced. Bytes of open connections count too.",
);
pub(crate) const BYTES_DROPPED: MetricDoc = doc(
    "pointsman_bytes_dropped_total",
    Counter,
    &["listener"],
    "Bytes that were read and could not be delivered, because the other side was gone.",
);
pub(crate) const ACCEPT_PAUSES: MetricDoc = doc(
    "pointsman_accept_pauses_total",
    Counter,
    &["listener"],
    "Pauses in accepting because descriptors or memory had run out.",
);
pub(crate) const ACCEPT_ERRORS: MetricDoc = doc(
    "pointsman_accept_errors_total",
    Counter,
    &["listener"],
    "Errors of accept. Errors that led to a pause count too.",
);

pub(crate) const ROUTES: MetricDoc = doc(
    "pointsman_routes",
    Gauge,
    &["listener"],
    "Names and conditions that lead to a pool or an action. Those of a file with routes count too.",
);
pub(crate) const ROUTE_CONNECTIONS: MetricDoc = doc(
    "pointsman_route_connections_total",
    Counter,
    &["listener", "route"],
    "Connections that matched a route with a `name`. Connections that the route refuses count too.",
);
pub(crate) const ROUTE_BYTES: MetricDoc = doc(
    "pointsman_route_bytes_total",
    Counter,
    &["listener", "route", "direction"],
    "Bytes relayed of connections that matched a route with a `name`. Bytes of open connections count too.",
);
pub(crate) const ROUTES_FILE_READS: MetricDoc = doc(
    "pointsman_routes_file_reads_total",
    Counter,
    &["listener", "result"],
    "Reads of the listener's file with routes: ok or failed. After a failed read the routes stay.",
);

// The pools.

pub(crate) const CONNECT_SECONDS: MetricDoc = doc(
    "pointsman_connect_seconds",
    Histogram(CONNECT_BOUNDS),
    &["pool"],
    "Time of a successful attempt to connect to a backend.",
);
pub(crate) const CONNECT_ATTEMPTS: MetricDoc = doc(
    "pointsman_connect_attempts_total",
    Counter,
    &["pool", "outcome"],
    "Attempts to connect to a backend: ok, refused, timeout, unreachable, local (this host had no port or descriptor \
     left), aborted (the client left, or another address of its host was faster), greeting (connected, but TLS did not \
     begin), other.",
);
pub(crate) const NO_BACKEND: MetricDoc = doc(
    "pointsman_no_backend_total",
    Counter,
    &["pool"],
    "Connections that found no backend of the pool available.",
);

pub(crate) const QUEUED: MetricDoc = doc(
    "pointsman_queued_total",
    Counter,
    &["pool"],
    "Connections that had to wait because every backend of the pool was full.",
);
pub(crate) const QUEUE_TIMEOUTS: MetricDoc = doc(
    "pointsman_queue_timeouts_total",
    Counter,
    &["pool"],
    "Queued connections for which the queue's timeout passed.",
);
pub(crate) const QUEUE_REFUSED: MetricDoc = doc(
    "pointsman_queue_refused_total",
    Counter,
    &["pool"],
    "Connections that were refused because every backend was full, and the queue was full or absent.",
);
pub(crate) const QUEUE_SECONDS: MetricDoc = doc(
    "pointsman_queue_seconds",
    Histogram(QUEUE_BOUNDS),
    &["pool"],
    "Time that queued connections waited until a backend had room.",
);

// The pools and their backends, rendered at each scrape from the pools' own numbers.

pub(crate) const QUEUE_LENGTH: MetricDoc = doc(
    "pointsman_queue_length",
    Gauge,
    &["pool"],
    "Connections that wait now until a backend of the pool has room.",
);
pub(crate) const TIER_SHARE: MetricDoc = doc(
    "pointsman_tier_share_ratio",
    Gauge,
    &["pool", "tier", "kind"],
    "Part of the pool's new connections that a tier gets now. A tier is a zone, or * for all zones that are not \
     listed. The kind of a tier is primary or backup. With near, the part of the clients whose place is not known.",
);
pub(crate) const POOL_PANIC: MetricDoc = doc(
    "pointsman_pool_panic",
    Gauge,
    &["pool"],
    "1 while the pool is in panic mode: less of it is up than its panic threshold, and picks ignore health. Else 0.",
);
pub(crate) const PANIC_PICKS: MetricDoc =
    doc("pointsman_pool_panic_picks_total", Counter, &["pool"], "Picks of backends in panic mode.");
pub(crate) const EJECTIONS: MetricDoc = doc(
    "pointsman_ejections_total",
    Counter,
    &["pool", "outcome"],
    "Times that enough clients in a row failed at a backend: ejected, or not ejected for one of two reasons: \
     max_ejected was reached, or the backend was the last_one available.",
);

// The kernel's figures of the process, under the names that all Prometheus clients use.

pub(crate) const CPU_SECONDS: MetricDoc = doc(
    "process_cpu_seconds_total",
    Counter,
    &[],
    "Processor time of the process, in user mode and in the kernel.",
);
pub(crate) const RESIDENT_MEMORY: MetricDoc =
    doc("process_resident_memory_bytes", Gauge, &[], "Memory of the process that is in RAM.");
pub(crate) const OPEN_FDS: MetricDoc = doc("process_open_fds", Gauge, &[], "Descriptors open.");
pub(crate) const MAX_FDS: MetricDoc =
    doc("process_max_fds", Gauge, &[], "Descriptors that may be open (the soft limit).");
pub(crate) const START_TIME: MetricDoc =
    doc("process_start_time_seconds", Gauge, &[], "Unix time at which the process started.");
pub(crate) const THREADS: MetricDoc = doc("process_threads", Gauge, &[], "Threads of the process.");

/// Every metric, in the order of the table in docs/reference/metrics.md.
pub const METRICS: &[MetricDoc] = &[
    CONNECTIONS,
    CONNECTIONS_ACTIVE,
    CONNECTIONS_CLOSED,
    CONNECTIONS_ADOPTED,
    CONNECTIONS_HANDED_OVER,
    CONNECTIONS_REJECTED,
    CONNECTION_SECONDS,
    CLIENT_HELLO,
    CLIENT_OPENINGS,
    CLIENT_HELLO_SECONDS,
    PROXY_HEADERS,
    PROXY_SHADOWED,
    BYTES,
    BYTES_DROPPED,
    ACCEPT_PAUSES,
    ACCEPT_ERRORS,
    ROUTES,
    ROUTES_FILE_READS,
    ROUTE_CONNECTIONS,
    ROUTE_BYTES,
    CONNECT_SECONDS,
    CONNECT_ATTEMPTS,
    FIRST_BYTE_SECONDS,
    SILENT,
    NO_BACKEND,
    POOL_CLOSED,
    POOL_BYTES,
    POOL_INFO,
    QUEUED,
    QUEUE_TIMEOUTS,
    QUEUE_REFUSED,
    QUEUE_SECONDS,
    QUEUE_LENGTH,
    TIER_SHARE,
    NEAR_LOADS,
    NEAR_LAST_LOAD,
    POOL_PANIC,
    PANIC_PICKS,
    EJECTIONS,
    BACKEND_UP,
    BACKEND_WEIGHT,
    BACKEND_SHARE,
    BACKEND_STATE,
    BACKEND_FAULT,
    BACKEND_STATE_CHANGES,
    BACKEND_TROUBLES,
    BACKEND_CONNECTIONS_ACTIVE,
    BACKEND_WAITING,
    BACKEND_CONNECTIONS_LIMIT,
    BACKEND_CONNECTIONS,
    BACKEND_CLOSED,
    BACKEND_BYTES,
    BACKEND_CHECKS,
    BACKEND_CHECK_SECONDS,
    CHECK_FAILURES,
    CHECK_SECONDS,
    AGENT_CHECKS,
    BACKEND_AGENT_SHARE,
    CHECKS_DELAYED,
    DISCOVERY_BACKENDS,
    DISCOVERY_FAILURES,
    DISCOVERY_FAILING,
    DISCOVERY_LAST_SUCCESS,
    FORWARD_LOOKUPS,
    FORWARD_NAMES,
    LIST_ENTRIES,
    LIST_LOADS,
    LIST_LAST_LOAD,
    LIST_REFUSALS,
    HASH_TABLE_INFO,
    HASH_TABLE_ENTRIES,
    HASH_OVERFLOWS,
    CONNECTIONS_LIMIT,
    WORKERS,
    HELLO_MEMORY,
    SOURCES,
    SOURCE_EVICTIONS,
    SOURCES_WITHOUT_ROOM,
    TARPITTED,
    TARPITS,
    PIPES_OPEN,
    PIPE_FALLBACKS,
    ACCESS_LOG_WRITTEN,
    ACCESS_LOG_DROPPED,
    ADMIN_REFUSED,
    ACCESS_LOG_SAMPLED,
    LOG_LINES_DROPPED,
    NOTIFY_FAILURES,
    RELOADS,
    UPGRADES,
    OVERRIDES,
    READY,
    UPGRADE_REMAINING,
    RELOAD_SECONDS,
    LAST_RELOAD_SUCCESS,
    LAST_RELOAD_TIMESTAMP,
    CONNECTIONS_MOVED,
    PANICS,
    BUILD_INFO,
    CPU_SECONDS,
    RESIDENT_MEMORY,
    OPEN_FDS,
    MAX_FDS,
    START_TIME,
    THREADS,
];

/// Returns the metrics as a Markdown table, one row each, for docs/reference/metrics.md.
pub fn markdown_table() -> String {
    let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for MetricDoc { name, kind, labels, meaning } in METRICS {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        _ = writeln!(table, "| `{name}` | {} | {labels} | {meaning} |", kind.word());
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::telemetry::metrics::MetricKind;

    #[test]
    fn names_are_unique_and_follow_the_rules_of_prometheus() {
        let mut names = HashSet::new();
        for metric in METRICS {
            let MetricDoc { name, kind, .. } = metric;
            assert!(names.insert(name), "{name} twice");
            assert!(name.starts_with("pointsman_") || name.starts_with("process_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
            for part in ["_ms", "_milliseconds", "_kb", "_percent", "_duration", "_count", "_sum", "_bucket"]
            {
                assert!(!name.contains(part), "{name}: {part}");
            }
            // The first byte is an event, not a unit.
            if name.contains("byte") && !name.contains("first_byte") {
                assert!(name.trim_end_matches("_total").contains("bytes"), "{name}");
            }
        }
        assert_eq!(names.len(), 105);
    }

    #[test]
    fn histograms_are_in_seconds_with_ascending_bounds() {
        let mut seen = 0;
        for metric in METRICS {
            let MetricKind::Histogram(bounds) = metric.kind else { continue };
            seen += 1;
            assert!(metric.name.ends_with("_seconds"), "{}", metric.name);
            assert!(!bounds.is_empty() && bounds.is_sorted_by(|a, b| a < b), "{}", metric.name);
        }
        assert_eq!(seen, 7);
    }

    #[test]
    fn meanings_are_one_line_and_fit_a_table() {
        for metric in METRICS {
            assert!(metric.meaning.ends_with('.'), "{}", metric.name);
            assert!(!metric.meaning.contains(['\n', '|', '\\']), "{}", metric.name);
            assert!(!metric.meaning.contains("  "), "{}", metric.name);
        }
        assert_eq!(markdown_table().lines().count(), METRICS.len() + 2);
    }
}
