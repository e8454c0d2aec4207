//! Logs episodes of saturation. When a limit begins to refuse, the log gets a warning with numbers and the
//! heaviest sources. At the end of the episode, the log gets another line.
//!
//! At the start of an episode a task counts the open connections by source, once. Episodes that begin during a
//! count are reported together after it. So at most one count runs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use humantime::format_duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::census::{Census, CensusScope};
use super::events::{EventKind, Severity};
use super::view::View;
use crate::limit::Moment;
use crate::snapshot::{Policy, Snapshot};
use crate::telemetry::{Episode, Saturation, SaturationScope};

/// The time between two checks for episodes that are over.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The number of sources that a warning names.
const NAMED: usize = 5;

/// The episodes that control follows.
#[derive(Default)]
pub(super) struct SaturationWatch {
    /// The task that counts and logs the latest episodes.
    report: Option<JoinHandle<()>>,
    /// The time of the next check for episodes that are over; `None` if no episode runs.
    next_check: Option<Instant>,
}

impl SaturationWatch {
    /// Waits until an episode has begun or may be over.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub(super) async fn due(&self, view: &View) {
        let begun = view.bounds.saturation.begun();
        match self.next_check {
            Some(time) => timeout_at(time, begun).await.unwrap_or_default(),
            None => begun.await,
        }
    }

    /// Logs the episodes that began and the episodes that are over.
    pub(super) fn follow(&mut self, view: &Arc<View>) {
        let log = &view.bounds.saturation;
        // The end of an episode is logged after its start.
        if self.report.as_ref().is_none_or(JoinHandle::is_finished) {
            for episode in log.take_over(Moment::now()) {
                report_end(&episode, view);
            }
            let begun = log.take_begun();
            self.report = (!begun.is_empty()).then(|| tokio::spawn(report(begun, Arc::clone(view))));
        }
        self.next_check = (!log.running().is_empty()).then(|| Instant::now() + CHECK_INTERVAL);
    }
}

/// Counts the sources of each episode and logs it.
async fn report(begun: Vec<Episode>, view: Arc<View>) {
    let snapshot = view.snapshot.load_full();
    // A listener or pool that is gone has no connections.
    let nothing = || CensusScope::Backends(HashSet::new());
    let among = begun.iter().map(|episode| among(episode, &snapshot).unwrap_or_else(nothing));
    let censuses = view.censuses(among.collect(), NAMED).await;
    for (at, episode) in begun.iter().enumerate() {
        let census = censuses.get(at).cloned().unwrap_or_default();
        // The count took a moment, in which more connections were refused.
        let now = view.bounds.saturation.now(episode.kind, &episode.thing);
        let episode = now.as_ref().unwrap_or(episode);
        report_beginning(episode, &UsageNumbers::of(episode, &snapshot, &view), &census, &view);
    }
}

/// Returns the connections to count; `None` if the listener or pool is gone.
fn among(episode: &Episode, snapshot: &Snapshot) -> Option<CensusScope> {
    Some(match episode.kind.scope() {
        SaturationScope::Process => CensusScope::All,
        SaturationScope::Listener => CensusScope::Listener(listener(snapshot, &episode.thing)?.listener_id),
        SaturationScope::Pool => {
            let backends = snapshot.pools.get(&episode.thing)?.pool.backends();
            CensusScope::Backends(backends.iter().map(|backend| backend.id()).collect())
        }
    })
}

fn listener<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a Policy> {
    snapshot.policies.values().find(|policy| *policy.listener == *name).map(|policy| &**policy)
}

/// The used part of a limit and the limit. A value is `None` if the limit has no such number.
#[derive(Debug, Default, PartialEq, Eq)]
struct UsageNumbers {
    used: Option<u64>,
    limit: Option<u64>,
}

impl UsageNumbers {
    fn of(episode: &Episode, snapshot: &Snapshot, view: &View) -> Self {
        Self::find(episode, snapshot, view).unwrap_or_default()
    }

    fn find(episode: &Episode, snapshot: &Snapshot, view: &View) -> Option<Self> {
        let (bounds, name) = (&view.bounds, &*episode.thing);
        let of = |used: u64, limit: u64| Some(Self { used: Some(used), limit: Some(limit) });
        let only = |limit: Option<u64>| Some(Self { used: None, limit });
        let source = || listener(snapshot, name)?.admission.as_ref()?.spec.per_source;
        match episode.kind {
            Saturation::ProcessFull | Saturation::Overloaded => {
                of(bounds.connections.inside(), bounds.connections.limit())
            }
            Saturation::HelloMemory => of(bounds.hello_memory.inside(), bounds.hello_memory.limit()),
            Saturation::SourceTableFull => of(bounds.sources.known(), bounds.sources.capacity() as u64),
            Saturation::ListenerFull => {
                let gate = &listener(snapshot, name)?.gate;
                of(gate.inside(), gate.limit())
            }
            Saturation::SourceConnections => only(source()?.connections.map(u64::from)),
            Saturation::SourceHellos => only(source()?.hellos.map(u64::from)),
            Saturation::PoolFull => {
                let served = snapshot.pools.get(name)?;
                of(served.limits.as_ref()?.quota.open(), served.pool.spec().limits?.connections?)
            }
            Saturation::QueueFull | Saturation::QueueTimeout => {
                let pool = &snapshot.pools.get(name)?.pool;
                let active = pool.backends().iter().map(|backend| backend.active()).sum();
                let limits: Option<Vec<u64>> =
                    pool.backends().iter().map(|backend| backend.limit_in_force()).collect();
                Some(Self { used: Some(active), limit: limits.map(|limits| limits.iter().sum()) })
            }
            Saturation::Descriptors
            | Saturation::DialDescriptors
            | Saturation::Ports
            | Saturation::SourceAddress
            | Saturation::ListenerRate
            | Saturation::SourceRate
            | Saturation::RouteFull
            | Saturation::RouteRate
            | Saturation::PoolRate => None,
        }
    }
}

fn report_beginning(episode: &Episode, numbers: &UsageNumbers, census: &Census, view: &View) {
    let Episode { kind, .. } = episode;
    let (listener, pool) = things(episode);
    // A failed accept is tried again and refuses no connection.
    let (refused, pauses) = match kind {
        Saturation::Descriptors => (None, Some(episode.refused)),
        _ => (Some(episode.refused), None),
    };
    let most: Vec<_> =
        episode.sources.iter().take(NAMED).map(|(source, count)| format!("{source} {count}")).collect();
    let most_refused = Some(most.join(", ")).filter(|most| !most.is_empty());
    let heaviest = heaviest(census);
    tracing::warn!(
        saturation = kind.word(), listener, pool, used = numbers.used, limit = numbers.limit, refused, pauses,
        open = census.connections, sources = census.sources, %heaviest,
        most_refused = most_refused.as_ref().map(tracing::field::display),
        "{}", kind.message()
    );
    let of = of_thing(episode);
    let (word, message, count) = (kind.word(), kind.message(), episode.count());
    let most = most_refused.map(|most| format!("; refused most: {most}")).unwrap_or_default();
    let text = format!("{word}{of}: {message} ({count}; heaviest: {heaviest}{most})");
    view.events.note(EventKind::Saturation, Severity::Warning, text);
}

fn report_end(episode: &Episode, view: &View) {
    let (listener, pool) = things(episode);
    let lasted = format_duration(Duration::from_secs(episode.lasted.as_secs().max(1)));
    tracing::info!(
        saturation = episode.kind.word(), listener, pool, refused = episode.refused, %lasted,
        "{}", episode.kind.end()
    );
    let (word, of, count) = (episode.kind.word(), of_thing(episode), episode.count());
    let text = format!("{word}{of} is over after {lasted} ({count})");
    view.events.note(EventKind::Saturation, Severity::Info, text);
}

/// Returns the names of the listener and of the pool.
fn things(episode: &Episode) -> (Option<&str>, Option<&str>) {
    match episode.kind.scope() {
        SaturationScope::Process => (None, None),
        SaturationScope::Listener => (Some(&episode.thing), None),
        SaturationScope::Pool => (None, Some(&episode.thing)),
    }
}

/// Returns ` of pool app`, or an empty text for the process.
fn of_thing(episode: &Episode) -> String {
    match things(episode) {
        (Some(listener), _) => format!(" of listener {listener}"),
        (_, Some(pool)) => format!(" of pool {pool}"),
        (None, None) => String::new(),
    }
}

/// Returns a text such as `127.0.0.9 with 300, 10.0.0.1 with 2`.
fn heaviest(census: &Census) -> String {
    let sources: Vec<_> =
        census.heaviest.iter().map(|one| format!("{} with {}", one.source, one.open)).collect();
    if sources.is_empty() { "none".to_owned() } else { sources.join(", ") }
}
