//! The metrics of the process as a whole.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{Counter, Gauge, Histogram};

use super::{MetricRegistry, families};
use crate::telemetry::{COMMIT, VERSION};

/// The reason for which a relay copied instead of splicing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PipeFallback {
    /// There was no descriptor for a pipe (EMFILE, ENFILE), or the pipe pool was at its limit.
    Limit,
    /// The kernel granted a pipe that is too small (`fs.pipe-user-pages-soft`).
    Size,
    /// splice does not work on this pair of descriptors.
    Einval,
    /// splice or a pipe is forbidden on this host (seccomp, a security module).
    Eperm,
    /// Another error.
    Other,
}

impl PipeFallback {
    /// Every reason, in the order of the declaration.
    pub const ALL: [Self; 5] = [Self::Limit, Self::Size, Self::Einval, Self::Eperm, Self::Other];

    /// Returns the value of the label `reason`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Size => "size",
            Self::Einval => "einval",
            Self::Eperm => "eperm",
            Self::Other => "other",
        }
    }
}

/// The result of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReloadOutcome {
    /// The new configuration is in force.
    Ok,
    /// The new configuration is not in force; the running one stays.
    Failed,
}

impl ReloadOutcome {
    /// Both results, in the order of the declaration.
    pub const ALL: [Self; 2] = [Self::Ok, Self::Failed];

    /// Returns the value of the label `result`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
        }
    }
}

/// The result of a hand-over between two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum UpgradeOutcome {
    /// The new program has taken over.
    Ok,
    /// The new program did not take over; this program goes on.
    Failed,
}

impl UpgradeOutcome {
    /// Both results, in the order of the declaration.
    pub const ALL: [Self; 2] = [Self::Ok, Self::Failed];

    /// Returns the value of the label `result`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
        }
    }
}

/// The reason for which the admin listener refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AdminRefusal {
    /// The name in the header Host is not a name of this listener.
    Host,
    /// A web page of another site sent the request.
    CrossSite,
    /// The request has no token where one is required, or a wrong one.
    Token,
    /// The request is a change, and its content is of a kind that web pages can send.
    ContentType,
    /// The admin listener is at its limit of connections.
    Busy,
    /// The request is longer than allowed.
    TooLarge,
    /// The request, or the reading of its answer, took longer than allowed.
    Timeout,
}

impl AdminRefusal {
    /// Every reason, in the order of the declaration.
    pub const ALL: [Self; 7] = [
        Self::Host,
        Self::CrossSite,
        Self::Token,
        Self::ContentType,
        Self::Busy,
        Self::TooLarge,
        Self::Timeout,
    ];

    /// Returns the value of the label `reason`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::CrossSite => "cross_site",
            Self::Token => "token",
            Self::ContentType => "content_type",
            Self::Busy => "busy",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
        }
    }
}

/// The metrics that belong to no listener and no pool.
#[derive(Debug)]
pub struct ProcessMetrics {
    /// The number of workers.
    pub workers: Gauge,
    /// The limit of open connections of the process.
    pub connections_limit: Gauge,
    /// Bytes of memory that unfinished hellos hold.
    pub hello_memory: Gauge,
    /// Sources with open connections.
    pub sources_open: Gauge,
    /// Sources that have an entry in the table.
    pub sources_known: Gauge,
    /// Sources that were evicted for others; read from their table.
    pub source_evictions: Counter,
    /// Connections whose source found no free slot; read from their table.
    pub sources_without_room: Counter,
    /// Refused clients that are in the tarpit now.
    pub tarpitted: Gauge,
    /// Refused clients that entered the tarpit.
    pub tarpits_held: Counter,
    /// Refused clients for which the tarpit was full.
    pub tarpits_full: Counter,
    /// Open kernel pipes, in use or pooled.
    pub pipes_open: Gauge,
    /// Lines of the access log that were written.
    pub access_log_written: Counter,
    /// Access records that became no line.
    pub access_log_dropped: Counter,
    /// Lines of the program's own log that were dropped; read from the log.
    pub log_lines_dropped: Counter,
    /// Notifications that the service manager did not take.
    pub notify_failures: Counter,
    /// New connections that were moved to another worker.
    pub accepted_moved: Counter,
    /// Running relays that were moved to another worker.
    pub streams_moved: Counter,
    /// Checks that waited until others ended.
    pub checks_delayed: Counter,
    /// Connections ended by a panic.
    pub panics: Counter,
    admin_refusals: [Counter; AdminRefusal::ALL.len()],
    pipe_fallbacks: [Counter; PipeFallback::ALL.len()],
    reloads: [Counter; ReloadOutcome::ALL.len()],
    upgrades: [Counter; UpgradeOutcome::ALL.len()],
    upgrade_remaining: Gauge,
    reload_seconds: Histogram,
    last_reload_success: Gauge,
    last_reload_timestamp: Gauge,
}

impl ProcessMetrics {
    pub(super) fn new(registry: &MetricRegistry) -> Self {
        registry.gauge(&families::BUILD_INFO, &[("version", VERSION), ("commit", COMMIT)]).set(1.0);
        let fallback =
            |reason: PipeFallback| registry.counter(&families::PIPE_FALLBACKS, &[("reason", reason.word())]);
        let refusal =
            |reason: AdminRefusal| registry.counter(&families::ADMIN_REFUSED, &[("reason", reason.word())]);
        let upgrade =
            |outcome: UpgradeOutcome| registry.counter(&families::UPGRADES, &[("result", outcome.word())]);
        let reload =
            |outcome: ReloadOutcome| registry.counter(&families::RELOADS, &[("result", outcome.word())]);
        Self {
            workers: registry.gauge(&families::WORKERS, &[]),
            connections_limit: registry.gauge(&families::CONNECTIONS_LIMIT, &[]),
            hello_memory: registry.gauge(&families::HELLO_MEMORY, &[]),
            sources_open: registry.gauge(&families::SOURCES, &[("state", "open")]),
            sources_known: registry.gauge(&families::SOURCES, &[("state", "known")]),
            source_evictions: registry.counter(&families::SOURCE_EVICTIONS, &[]),
            sources_without_room: registry.counter(&families::SOURCES_WITHOUT_ROOM, &[]),
            tarpitted: registry.gauge(&families::TARPITTED, &[]),
            tarpits_held: registry.counter(&families::TARPITS, &[("outcome", "held")]),
            tarpits_full: registry.counter(&families::TARPITS, &[("outcome", "full")]),
            pipes_open: registry.gauge(&families::PIPES_OPEN, &[]),
            access_log_written: registry.counter(&families::ACCESS_LOG_WRITTEN, &[]),
            access_log_dropped: registry.counter(&families::ACCESS_LOG_DROPPED, &[]),
            log_lines_dropped: registry.counter(&families::LOG_LINES_DROPPED, &[]),
            notify_failures: registry.counter(&families::NOTIFY_FAILURES, &[]),
            accepted_moved: registry.counter(&families::CONNECTIONS_MOVED, &[("what", "accepted")]),
            streams_moved: registry.counter(&families::CONNECTIONS_MOVED, &[("what", "stream")]),
            checks_delayed: registry.counter(&families::CHECKS_DELAYED, &[]),
            panics: registry.counter(&families::PANICS, &[]),
            admin_refusals: AdminRefusal::ALL.map(refusal),
            pipe_fallbacks: PipeFallback::ALL.map(fallback),
            reloads: ReloadOutcome::ALL.map(reload),
            upgrades: UpgradeOutcome::ALL.map(upgrade),
            upgrade_remaining: registry.gauge(&families::UPGRADE_REMAINING, &[]),
            reload_seconds: registry.histogram(&families::RELOAD_SECONDS, &[]),
            last_reload_success: registry.gauge(&families::LAST_RELOAD_SUCCESS, &[]),
            last_reload_timestamp: registry.gauge(&families::LAST_RELOAD_TIMESTAMP, &[]),
        }
    }

    /// Counts a request that the admin listener refused.
    pub fn admin_refused(&self, reason: AdminRefusal) {
        self.admin_refusals[reason as usize].increment(1);
    }

    /// Counts a relay that copied instead of splicing.
    pub fn pipe_fallback(&self, reason: PipeFallback) {
        self.pipe_fallbacks[reason as usize].increment(1);
    }

    /// Records the configuration of the start, which is not a reload.
    pub fn started(&self, at: SystemTime) {
        self.last_reload_success.set(1.0);
        self.last_reload_timestamp.set(unix_seconds(at));
    }

    /// Counts a hand-over.
    pub fn upgrade(&self, outcome: UpgradeOutcome) {
        self.upgrades[outcome as usize].increment(1);
    }

    /// Sets the connections that remain in the program before this one.
    pub fn set_upgrade_remaining(&self, connections: u64) {
        self.upgrade_remaining.set(connections as f64);
    }

    /// Records a reload that ended at this time and took this long.
    pub fn reloaded(&self, outcome: ReloadOutcome, at: SystemTime, took: Duration) {
        self.reloads[outcome as usize].increment(1);
        self.reload_seconds.record(took);
        self.last_reload_success.set(f64::from(u8::from(outcome == ReloadOutcome::Ok)));
        self.last_reload_timestamp.set(unix_seconds(at));
    }
}

/// Converts a time to seconds. A time before 1970 is 0.
fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
