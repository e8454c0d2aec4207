//! Episodes of saturation: a limit that refuses connections now, its listener or pool, and the number of refusals.
//!
//! An episode begins with the first refusal by a limit. It is over when the limit has refused nothing for
//! [`QUIET`]. [`SaturationLog::note`] only counts. Control takes the episodes that began and the episodes that
//! are over, and logs them.
//!
//! Names come from the configuration, so the configuration bounds the table.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::CloseReason;
use crate::limit::{Moment, PrefixLengths, SourceName};

/// The time without refusals after which an episode is over. At the limit, each connection that ends makes room
/// for one connection, and the next connection is refused again.
const QUIET: Duration = Duration::from_secs(10);

/// A limit or a resource that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Saturation {
    /// The connections of the process.
    ProcessFull,
    /// The process is near its limit and refuses the heaviest sources.
    Overloaded,
    /// The memory of unfinished hellos.
    HelloMemory,
    /// The slots in the table of sources.
    SourceTableFull,
    /// Descriptors or memory, at an accept: new connections wait.
    Descriptors,
    /// Descriptors or memory, at a connect to a backend.
    DialDescriptors,
    /// Local ports, at a connect to a backend.
    Ports,
    /// The source address of a pool's connections.
    SourceAddress,
    /// The connections of a listener.
    ListenerFull,
    /// The new connections of a listener.
    ListenerRate,
    /// The connections of one source.
    SourceConnections,
    /// The new connections of one source.
    SourceRate,
    /// The unfinished hellos of one source.
    SourceHellos,
    /// The connections of a route.
    RouteFull,
    /// The new connections of a route.
    RouteRate,
    /// The connections of a pool.
    PoolFull,
    /// The new connections of a pool.
    PoolRate,
    /// The slots in the queue of a pool.
    QueueFull,
    /// The time in the queue of a pool.
    QueueTimeout,
}

/// The owner of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaturationScope {
    /// The limit is a limit of the process.
    Process,
    /// Each listener has its own limit.
    Listener,
    /// Each pool has its own limit.
    Pool,
}

impl Saturation {
    /// All kinds, in the order of the declaration.
    pub const ALL: [Self; 19] = [
        Self::ProcessFull,
        Self::Overloaded,
        Self::HelloMemory,
        Self::SourceTableFull,
        Self::Descriptors,
        Self::DialDescriptors,
        Self::Ports,
        Self::SourceAddress,
        Self::ListenerFull,
        Self::ListenerRate,
        Self::SourceConnections,
        Self::SourceRate,
        Self::SourceHellos,
        Self::RouteFull,
        Self::RouteRate,
        Self::PoolFull,
        Self::PoolRate,
        Self::QueueFull,
        Self::QueueTimeout,
    ];

    /// Returns the limit that a close reason reports. A close reason without a line here begins no episode.
    pub const fn of(reason: CloseReason) -> Option<Self> {
        Some(match reason {
            CloseReason::ProcessFull => Self::ProcessFull,
            CloseReason::Overloaded => Self::Overloaded,
            CloseReason::HelloMemory => Self::HelloMemory,
            CloseReason::SourceTableFull => Self::SourceTableFull,
            CloseReason::ListenerFull => Self::ListenerFull,
            CloseReason::ListenerRate => Self::ListenerRate,
            CloseReason::SourceConnections => Self::SourceConnections,
            CloseReason::SourceRate => Self::SourceRate,
            CloseReason::SourceHellos => Self::SourceHellos,
            CloseReason::RouteFull => Self::RouteFull,
            CloseReason::RouteRate => Self::RouteRate,
            CloseReason::PoolFull => Self::PoolFull,
            CloseReason::PoolRate => Self::PoolRate,
            CloseReason::QueueFull => Self::QueueFull,
            CloseReason::QueueTimeout => Self::QueueTimeout,
            _ => return None,
        })
    }

    /// Returns the word in the log and in the status. If a close reason reports the limit, the word is the same.
    pub const fn word(self) -> &'static str {
        self.row().0
    }

    /// Returns the owner of the limit.
    pub const fn scope(self) -> SaturationScope {
        self.row().1
    }

    /// Returns the text for the log: the effect, and the remedy.
    pub const fn message(self) -> &'static str {
        self.row().2
    }

    /// Returns the text for the end of an episode.
    pub const fn end(self) -> &'static str {
        match self {
            Self::Descriptors => "connections are accepted again: for 10 s no connection had to wait",
            Self::SourceAddress => {
                "the source address is usable again: for 10 s no connection to a backend lacked it"
            }
            _ => "the limit is no longer reached: for 10 s no connection was refused",
        }
    }

    const fn row(self) -> (&'static str, SaturationScope, &'static str) {
        use SaturationScope::{Listener, Pool, Process};
        match self {
            Self::ProcessFull => (
                "process_full",
                Process,
                "new connections are refused: the process has reached its limit; raise max_connections (LimitNOFILE if \
                 max_connections is not set), or limit sources by per_source",
            ),
            Self::Overloaded => (
                "overloaded",
                Process,
                "new connections of the heaviest sources are refused: the process is near its limit",
            ),
            Self::HelloMemory => (
                "hello_memory",
                Process,
                "connections are refused: unfinished hellos have used up their memory; raise \
                 limits.hello_memory, or lower hello_timeout",
            ),
            Self::SourceTableFull => (
                "source_table_full",
                Process,
                "connections are refused: the table of sources is full; raise limits.sources",
            ),
            Self::Descriptors => (
                "descriptors",
                Process,
                "new connections wait: descriptors or memory have run out; raise LimitNOFILE or lower max_connections",
            ),
            Self::DialDescriptors => (
                "dial_descriptors",
                Process,
                "clients are refused: this host has no descriptor or memory left for connections to backends; raise \
                 LimitNOFILE or lower max_connections",
            ),
            Self::Ports => (
                "ports",
                Pool,
                "clients are refused: this host has no local port left for connections to backends; widen \
                 net.ipv4.ip_local_port_range, or give the pool more addresses",
            ),
            Self::SourceAddress => (
                "source_address",
                Pool,
                "clients are refused: this host no longer has the address that the pool's `source` names; give the \
                 host this address again, or change `source` and reload",
            ),
            Self::ListenerFull => (
                "listener_full",
                Listener,
                "new connections are refused: the listener has reached its max_connections",
            ),
            Self::ListenerRate => (
                "listener_rate",
                Listener,
                "new connections are refused: they come faster than the listener's rate allows",
            ),
            Self::SourceConnections => (
                "source_connections",
                Listener,
                "new connections of a source are refused: the source has reached per_source.connections",
            ),
            Self::SourceRate => (
                "source_rate",
                Listener,
                "new connections of a source are refused: they come faster than per_source.rate allows",
            ),
            Self::SourceHellos => (
                "source_hellos",
                Listener,
                "new connections of a source are refused: its unfinished hellos have reached \
                 per_source.hellos",
            ),
            Self::RouteFull => (
                "route_full",
                Listener,
                "connections are refused: a route has reached its limits.connections",
            ),
            Self::RouteRate => (
                "route_rate",
                Listener,
                "connections are refused: the connections of a route come faster than its limits.rate allows",
            ),
            Self::PoolFull => {
                ("pool_full", Pool, "connections are refused: the pool has reached its limits.connections")
            }
            Self::PoolRate => (
                "pool_rate",
                Pool,
                "connections are refused: they come faster than the pool's limits.rate allows",
            ),
            Self::QueueFull => (
                "queue_full",
                Pool,
                "connections are refused: every backend of the pool has reached its limit, and the queue is full or \
                 the pool has no queue",
            ),
            Self::QueueTimeout => (
                "queue_timeout",
                Pool,
                "connections are refused: every backend of the pool stayed at its limit for the timeout of the queue",
            ),
        }
    }
}

/// An episode in a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Episode {
    /// The limit.
    pub kind: Saturation,
    /// The name of the listener or pool; empty for the process.
    pub thing: Arc<str>,
    /// The connections that were refused, or had to wait, so far.
    pub refused: u64,
    /// The time from the first refusal to the last refusal.
    pub lasted: Duration,
    /// The sources with the most refusals, the heaviest first. The counts are lower bounds.
    pub sources: Vec<(SourceName, u64)>,
}

impl Episode {
    /// Returns the count with its name. An accept that lacks a descriptor is tried again after a pause, and refuses no
    /// connection.
    pub fn count(&self) -> String {
        let name = match self.kind {
            Saturation::Descriptors => "pauses",
            _ => "refused",
        };
        format!("{name}: {}", self.refused)
    }
}

/// The number of sources of an episode that are counted.
const SOURCES: usize = 8;

/// Counts the refusals of the most refused sources in bounded memory (Misra and Gries). A source with more than a ninth
/// of all refusals is in the table. The counts are lower bounds.
#[derive(Debug, Default)]
struct RefusedSources([Option<(SourceName, u64)>; SOURCES]);

impl RefusedSources {
    fn count(&mut self, source: SourceName) {
        if let Some((_, count)) = self.0.iter_mut().flatten().find(|(known, _)| *known == source) {
            *count += 1;
        } else if let Some(free) = self.0.iter_mut().find(|slot| slot.is_none()) {
            *free = Some((source, 1));
        } else {
            for slot in &mut self.0 {
                *slot = slot.take().map(|(known, count)| (known, count - 1)).filter(|(_, count)| *count > 0);
            }
        }
    }

    fn most(&self) -> Vec<(SourceName, u64)> {
        let mut sources: Vec<_> = self.0.iter().flatten().cloned().collect();
        sources.sort_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then_with(|| a.cmp(b)));
        sources
    }
}

/// An episode that goes on.
#[derive(Debug)]
struct RunningEpisode {
    began: Moment,
    last: Moment,
    refused: u64,
    sources: RefusedSources,
    is_reported: bool,
}

impl RunningEpisode {
    fn report(&self, kind: Saturation, thing: &Arc<str>) -> Episode {
        let lasted = Duration::from_nanos(self.last.nanos().saturating_sub(self.began.nanos()));
        let sources = self.sources.most();
        Episode { kind, thing: Arc::clone(thing), refused: self.refused, lasted, sources }
    }

    fn count(&mut self, source: Option<SourceName>, now: Moment) {
        self.refused += 1;
        self.last = self.last.max(now);
        if let Some(source) = source {
            self.sources.count(source);
        }
    }
}

/// The running episodes, by kind and by the name of the listener or pool.
type EpisodeTable = [HashMap<Arc<str>, RunningEpisode>; Saturation::ALL.len()];

/// The episodes of the process. All workers share it.
#[derive(Debug, Default)]
pub struct SaturationLog {
    /// A lock, because any worker may refuse. The lock is taken only at refusals, and held for one look-up.
    running: Mutex<EpisodeTable>,
    begun: Notify,
    /// The lengths of [`SaturationLog::prefix`], in a byte each; 0 until they are set.
    prefix: AtomicU16,
    /// The name of the process in the table, which is empty.
    process: Arc<str>,
}

impl SaturationLog {
    /// Counts a refusal by a limit. `thing` is the name of the listener or the pool, or `None` for the process.
    /// `source` is the source of the refused client, or `None` for a client without a source.
    pub fn note(&self, kind: Saturation, thing: Option<&Arc<str>>, source: Option<SourceName>, now: Moment) {
        let thing = thing.unwrap_or(&self.process);
        let mut table = self.lock();
        let running = &mut table[kind as usize];
        if let Some(episode) = running.get_mut(thing) {
            return episode.count(source, now);
        }
        let sources = RefusedSources::default();
        let mut episode = RunningEpisode { began: now, last: now, refused: 0, sources, is_reported: false };
        episode.count(source, now);
        running.insert(Arc::clone(thing), episode);
        drop(table);
        self.begun.notify_one();
    }

    /// Sets the prefix lengths by which limits count sources.
    pub fn set_prefix(&self, PrefixLengths { v4, v6 }: PrefixLengths) {
        self.prefix.store(u16::from_be_bytes([v4, v6]), Ordering::Relaxed);
    }

    /// Returns the prefix lengths of sources.
    pub fn prefix(&self) -> PrefixLengths {
        match self.prefix.load(Ordering::Relaxed).to_be_bytes() {
            [0, 0] => PrefixLengths::default(),
            [v4, v6] => PrefixLengths { v4, v6 },
        }
    }

    /// Waits until an episode has begun.
    ///
    /// # Cancel safety
    ///
    /// No episode is lost if the future is dropped.
    pub async fn begun(&self) {
        self.begun.notified().await;
    }

    /// Takes the episodes that began since the last call.
    pub fn take_begun(&self) -> Vec<Episode> {
        let mut table = self.lock();
        let mut begun = Vec::new();
        for (kind, running) in Saturation::ALL.into_iter().zip(&mut *table) {
            for (thing, episode) in running.iter_mut().filter(|(_, episode)| !episode.is_reported) {
                episode.is_reported = true;
                begun.push(episode.report(kind, thing));
            }
        }
        begun
    }

    /// Takes the episodes that are over.
    pub fn take_over(&self, now: Moment) -> Vec<Episode> {
        let mut table = self.lock();
        let mut over = Vec::new();
        let is_quiet = |episode: &RunningEpisode| {
            Duration::from_nanos(now.nanos().saturating_sub(episode.last.nanos())) >= QUIET
        };
        for (kind, running) in Saturation::ALL.into_iter().zip(&mut *table) {
            let ended = running.extract_if(|_, episode| episode.is_reported && is_quiet(episode));
            over.extend(ended.map(|(thing, episode)| episode.report(kind, &thing)));
        }
        over
    }

    /// Returns the running episodes.
    pub fn running(&self) -> Vec<Episode> {
        let table = self.lock();
        let kinds = Saturation::ALL.into_iter().zip(&*table);
        kinds
            .flat_map(|(kind, running)| {
                running.iter().map(move |(thing, episode)| episode.report(kind, thing))
            })
            .collect()
    }

    /// Returns an episode in its present state; `None` if it is over.
    pub fn now(&self, kind: Saturation, thing: &Arc<str>) -> Option<Episode> {
        self.lock()[kind as usize].get(thing).map(|episode| episode.report(kind, thing))
    }

    fn lock(&self) -> MutexGuard<'_, EpisodeTable> {
        // No episode is ever half changed.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::IpAddr;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn words_are_those_of_the_close_reasons() {
        for (index, kind) in Saturation::ALL.into_iter().enumerate() {
            assert_eq!(index, kind as usize, "{kind:?}");
        }
        let words: HashSet<_> = Saturation::ALL.map(Saturation::word).into();
        assert_eq!(words.len(), Saturation::ALL.len());
        let mut seen = 0;
        for reason in CloseReason::ALL {
            if let Some(kind) = Saturation::of(reason) {
                assert_eq!(kind.word(), reason.word());
                assert!(reason.is_rejection(), "{reason}");
                seen += 1;
            }
        }
        assert_eq!(
            seen,
            Saturation::ALL.len() - 4,
            "descriptors, ports and addresses have no close reason of their own"
        );
    }

    #[test]
    fn every_full_limit_has_an_episode() {
        for reason in CloseReason::ALL {
            let is_limit = reason.word().ends_with("_full") || reason.word().ends_with("_rate");
            assert!(!is_limit || Saturation::of(reason).is_some(), "{reason}");
        }
    }

    #[test]
    fn the_sources_that_are_refused_most_are_known() {
        let log = SaturationLog::default();
        for number in 0..300_u32 {
            let client = if number % 3 == 0 { 9 } else { number };
            let source = SourceName::Network(IpAddr::V4(client.into()));
            log.note(Saturation::ProcessFull, None, Some(source), at(1));
        }
        let episode = log.take_begun().remove(0);
        assert!(episode.sources.len() <= SOURCES && episode.refused == 300);
        assert_eq!(episode.count(), "refused: 300");
        assert_eq!(Episode { kind: Saturation::Descriptors, ..episode.clone() }.count(), "pauses: 300");
        let (heaviest, count) = &episode.sources[0];
        assert_eq!(*heaviest, SourceName::Network(IpAddr::V4(9.into())));
        assert!((60..=100).contains(count), "{count}");
    }

    #[test]
    fn the_prefix_is_that_of_the_limits() {
        let log = SaturationLog::default();
        assert_eq!(log.prefix(), PrefixLengths::default());
        for prefix in [PrefixLengths { v4: 24, v6: 48 }, PrefixLengths { v4: 1, v6: 128 }] {
            log.set_prefix(prefix);
            assert_eq!(log.prefix(), prefix);
        }
    }

    #[test]
    fn an_episode_is_reported_once_and_ends_with_its_sum() {
        let log = SaturationLog::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        assert!(log.take_begun().is_empty() && log.take_over(at(1)).is_empty());
        for second in 100..130 {
            log.note(Saturation::ListenerFull, Some(&a), None, at(second));
        }
        log.note(Saturation::ListenerFull, Some(&b), None, at(129));
        let begun = log.take_begun();
        let refused = |name: &Arc<str>| begun.iter().find(|one| one.thing == *name).unwrap().refused;
        assert_eq!((begun.len(), refused(&a), refused(&b)), (2, 30, 1));
        log.note(Saturation::ListenerFull, Some(&a), None, at(131));
        assert!(log.take_begun().is_empty(), "reported before");
        assert!(log.take_over(at(138)).is_empty());
        let over = log.take_over(at(139));
        assert_eq!((over.len(), over[0].thing.clone(), over[0].refused), (1, b, 1));
        log.note(Saturation::ListenerFull, Some(&a), None, at(120));
        let over = log.take_over(at(141));
        assert_eq!((over[0].refused, over[0].lasted), (32, Duration::from_secs(31)));
        assert!(log.running().is_empty());
        log.note(Saturation::ListenerFull, Some(&a), None, at(142));
        assert!(
            log.take_over(at(3600)).is_empty(),
            "an episode that is not reported does not end in silence"
        );
        assert_eq!((log.take_begun().len(), log.take_over(at(3600)).len()), (1, 1));
    }
}
