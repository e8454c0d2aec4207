//! Discovery: backends that are found while the process runs. Each source of a pool has a task that follows it
//! and sends reports.
//!
//! The tasks change no state. Control owns [`Discoveries`], which takes in the reports and stores the backends
//! that are in force for each pool. A source that fails keeps the backends that it found last. Its [`Discovery`]
//! has the fault and the time of the last success; admin and the metrics read it.

mod answer;
mod answers;
mod check_names;
mod discovery;
mod dns;
mod document;
mod fault;
mod file;
mod follow;
mod hold;
mod hosts;
mod report;
mod resolv_conf;
mod schedule;
mod set;
mod source_seeds;
mod system;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::discover_spec::{DiscoverSource, DiscoverSpec};
use super::pool_spec::PoolSpec;
use hold::{HeldBackends, Hold};

pub(super) use answer::Answer as DnsAnswer;
pub(super) use answer::{Heard, Late};
pub use check_names::CheckNames;
pub use discovery::Discovery;
pub(super) use dns::{Askers, QuestionLimits};
pub use document::DocumentFault;
pub use fault::{DiscoverFault, DnsFault, FileFault};
pub use file::read as read_file;
pub use report::DiscoveryReport;
use report::ReportSender;
pub use set::{DiscoveredSet, join};
pub use source_seeds::SourceCopy;
use source_seeds::SourceSeeds;
pub(super) use system::SystemNames;

/// The most reports that wait for control. If this number waits, the tasks wait too.
const REPORTS: usize = 256;

/// The sources of all pools with the backends that they found. The tasks of the sources end when it is dropped.
///
/// A new configuration is first *prepared* and then *committed*. While it is prepared, its new sources are
/// followed beside the sources in force. So a configuration that fails has changed nothing.
#[derive(Debug)]
pub struct Discoveries {
    /// The sources of each pool, in the order of its spec.
    in_force: BTreeMap<Arc<str>, Vec<SourceFollower>>,
    /// The sources of a configuration that is not yet in force.
    prepared: BTreeMap<Arc<str>, PreparedPool>,
    /// The backends that another process found. The first sources begin with them.
    seeds: SourceSeeds,
    next: u64,
    limits: QuestionLimits,
    /// The files of the system that resolve names. Followed since the first source that uses them.
    system: Option<SystemNames>,
    report_to: mpsc::Sender<DiscoveryReport>,
    /// The changes of faults since they were last taken.
    fault_changes: Vec<FaultChange>,
}

/// The sources of a pool that is not yet in force.
#[derive(Debug)]
struct PreparedPool {
    /// True if the pool also has backends that are written in the configuration.
    has_written: bool,
    sources: Vec<PreparedSource>,
}

impl PreparedPool {
    /// The sources that list backends.
    fn of_backends(&self) -> impl Iterator<Item = &PreparedSource> {
        self.sources.iter().filter(|source| source.has_backends())
    }

    /// The sources of backends that are not in force yet.
    fn new_sources(&self) -> impl Iterator<Item = &SourceFollower> {
        self.of_backends().filter_map(PreparedSource::following)
    }

    fn has_reported(&self) -> bool {
        self.new_sources().all(|source| source.has_reported)
    }
}

/// A source of a pool that is not yet in force.
#[derive(Debug)]
struct PreparedSource {
    slot: SourceSlot,
    state: PreparedState,
}

#[derive(Debug)]
enum PreparedState {
    /// It is followed already. The value is its index among the sources in force.
    Followed(usize),
    /// It is new or has changed.
    New(SourceFollower),
}

impl PreparedSource {
    /// Returns true if the source lists backends. The other sources are the host names of checks. The checks
    /// wait for these.
    fn has_backends(&self) -> bool {
        !matches!(self.slot, SourceSlot::CheckName(_))
    }

    fn following(&self) -> Option<&SourceFollower> {
        match &self.state {
            PreparedState::Followed(_) => None,
            PreparedState::New(following) => Some(following),
        }
    }

    fn following_mut(&mut self) -> Option<&mut SourceFollower> {
        match &mut self.state {
            PreparedState::Followed(_) => None,
            PreparedState::New(following) => Some(following),
        }
    }
}

/// The identity of a source. A change of the source's settings keeps the identity, so the changed source begins
/// with the addresses that were found before.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SourceSlot {
    /// The host name and port among the backends.
    Host(Arc<str>),
    /// The index among the sources that are no host names.
    Listed(usize),
    /// The host name that checks or agents connect to.
    CheckName(Arc<str>),
}

impl SourceSlot {
    /// Returns the sources of a pool with their slots: first the sources of backends, then the host names of
    /// checks and agents.
    fn of(pool: &PoolSpec) -> impl Iterator<Item = (&DiscoverSpec, Self)> {
        let mut listed = 0..;
        let mut slot = move |spec: &DiscoverSpec| match &spec.host {
            Some(_) => Self::Host(spec.source.to_string().into()),
            None => Self::Listed(listed.next().unwrap_or_default()),
        };
        let of_backends = pool.discover.iter().map(move |spec| (spec, slot(spec)));
        let asked =
            pool.check_names.iter().map(|spec| (spec, Self::CheckName(spec.source.to_string().into())));
        of_backends.chain(asked)
    }
}

/// A discovery source began to fail, has another fault, or works again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultChange {
    /// The name of the pool.
    pub pool: Arc<str>,
    /// The name of the source in the log.
    pub source: String,
    /// The fault; `None` if the source works again.
    pub fault: Option<String>,
}

/// A source of a pool that a task follows.
#[derive(Debug)]
struct SourceFollower {
    slot: SourceSlot,
    hold: Duration,
    number: u64,
    state: Arc<Discovery>,
    found: Option<DiscoveredSet>,
    /// The backends of `found` that the last answer left out.
    held: HeldBackends,
    has_reported: bool,
    task: AbortHandle,
}

impl SourceFollower {
    /// Returns true if the source lists backends.
    fn has_backends(&self) -> bool {
        !matches!(self.slot, SourceSlot::CheckName(_))
    }
}

impl Drop for SourceFollower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Discoveries {
    /// Returns a value without sources, and the receiver for the reports of later sources.
    pub fn new() -> (Self, mpsc::Receiver<DiscoveryReport>) {
        let (report_to, reports) = mpsc::channel(REPORTS);
        let limits = QuestionLimits::new(dns::NAMES_AT_ONCE, dns::LATE_AT_ONCE);
        let (in_force, prepared, seeds, fault_changes) = Default::default();
        (Self { in_force, prepared, seeds, next: 0, limits, system: None, report_to, fault_changes }, reports)
    }

    /// Starts to follow the sources of these pools that are not followed yet. A configuration that an earlier
    /// call prepared and that was not committed is dropped.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn prepare(&mut self, pools: &[PoolSpec]) {
        self.prepared.clear();
        for pool in pools.iter().filter(|pool| pool.has_sources()) {
            let sources = self.prepare_pool(pool);
            let prepared = PreparedPool { has_written: !pool.backends.is_empty(), sources };
            self.prepared.insert(Arc::clone(&pool.name), prepared);
        }
    }

    fn prepare_pool(&mut self, pool: &PoolSpec) -> Vec<PreparedSource> {
        let mut followed = HashSet::new();
        let mut prepare = |(spec, slot): (&DiscoverSpec, SourceSlot)| {
            let old = self.in_force.get(&pool.name).map_or(&[][..], Vec::as_slice);
            let is_it = |at: &usize| {
                let old = &old[*at];
                (old.state.source(), old.hold) == (&spec.source, spec.hold) && !followed.contains(at)
            };
            let state = match (0..old.len()).find(is_it) {
                Some(at) => {
                    followed.insert(at);
                    PreparedState::Followed(at)
                }
                None => PreparedState::New(self.start(&pool.name, spec, slot.clone())),
            };
            PreparedSource { slot, state }
        };
        SourceSlot::of(pool).map(&mut prepare).collect()
    }

    fn start(&mut self, pool: &Arc<str>, spec: &DiscoverSpec, slot: SourceSlot) -> SourceFollower {
        self.next += 1;
        let (number, report_to) = (self.next, self.report_to.clone());
        let state = Arc::new(Discovery::new(&spec.source));
        let (seed, now) = (self.seeds.take(pool, &spec.source, &slot), tokio::time::Instant::now());
        let (found, held, hold) = match seed {
            Some(seed) => {
                let (found, hold) = seed.begin(&state, spec.hold, now);
                (Some(found), hold.held(), hold)
            }
            None => {
                let hold = Hold::new(spec.hold, self.found_before(pool, spec, &slot));
                (None, HeldBackends::default(), hold)
            }
        };
        let reports = ReportSender { pool: Arc::clone(pool), number, hold, report_to };
        let task = match &spec.source {
            DiscoverSource::Dns(dns) => {
                let system = || self.system.get_or_insert_with(SystemNames::follow).clone();
                let askers = Askers::new(&dns.resolvers, system, self.limits.clone());
                tokio::spawn(follow::follow(dns.clone(), askers, reports))
            }
            DiscoverSource::File(path) => tokio::spawn(file::follow(Arc::clone(path), reports)),
        };
        let (hold, task) = (spec.hold, task.abort_handle());
        SourceFollower { slot, hold, number, state, found, held, has_reported: false, task }
    }

    /// Returns the backends that the source in force has found at this slot. If the changed source reads
    /// another file or asks for other records, the set is empty.
    fn found_before(&self, pool: &str, spec: &DiscoverSpec, slot: &SourceSlot) -> DiscoveredSet {
        let in_force = self.in_force.get(pool).map_or(&[][..], Vec::as_slice);
        let is_it = |old: &&SourceFollower| old.slot == *slot && old.state.source().asks_as(&spec.source);
        let before = in_force.iter().find(is_it);
        before.and_then(|old| old.found.clone()).unwrap_or_default()
    }

    /// Returns true if each prepared source has found backends. A source that has failed does not count if its pool has
    /// other backends.
    pub fn are_found(&self) -> bool {
        self.prepared.iter().all(|(name, pool)| {
            let has_others = self.has_backends(name, pool);
            pool.new_sources().all(|source| source.found.is_some() || source.has_reported && has_others)
        })
    }

    /// Returns true if each prepared pool has a backend, written or found. Sources that have not reported do not count.
    pub fn have_backends(&self) -> bool {
        self.prepared.iter().all(|(name, pool)| self.has_backends(name, pool))
    }

    /// Returns true if each prepared source has reported: backends or a fault.
    pub fn have_reported(&self) -> bool {
        self.prepared.values().all(PreparedPool::has_reported)
    }

    /// Returns true if each prepared pool has a backend, or a report of each of its sources.
    pub fn have_backends_or_reports(&self) -> bool {
        self.prepared.iter().all(|(name, pool)| self.has_backends(name, pool) || pool.has_reported())
    }

    fn has_backends(&self, name: &str, pool: &PreparedPool) -> bool {
        let has_found =
            |source: &PreparedSource| self.found_of(name, source).is_some_and(|found| !found.is_empty());
        pool.has_written || pool.of_backends().any(has_found)
    }

    /// Returns two values for a pool in force: the state of each source, and the backends that each source found.
    /// [`join`] adds these to the spec. `None` for a pool without sources.
    pub fn in_force(&self, pool: &PoolSpec) -> Option<(Vec<Arc<Discovery>>, Vec<DiscoveredSet>)> {
        let known =
            |source: &SourceFollower| (Arc::clone(&source.state), source.found.clone().unwrap_or_default());
        let sources = self.in_force.get(&pool.name).filter(|_| pool.has_sources())?;
        Some(sources.iter().map(known).unzip())
    }

    /// Returns the same as [`Discoveries::in_force()`] for a pool of the prepared configuration.
    pub fn prepared(&self, pool: &PoolSpec) -> Option<(Vec<Arc<Discovery>>, Vec<DiscoveredSet>)> {
        let in_force = self.in_force.get(&pool.name).map_or(&[][..], Vec::as_slice);
        let known = |source: &PreparedSource| {
            let followed = match &source.state {
                PreparedState::Followed(at) => in_force.get(*at)?,
                PreparedState::New(new) => new,
            };
            let found = self.found_of(&pool.name, source).cloned().unwrap_or_default();
            Some((Arc::clone(&followed.state), found))
        };
        let sources = &self.prepared.get(&pool.name)?.sources;
        Some(sources.iter().filter_map(known).unzip())
    }

    /// Returns the backends that count for a prepared source. A new source without a result has the backends of the
    /// source in force at its slot.
    fn found_of<'a>(&'a self, pool: &str, source: &'a PreparedSource) -> Option<&'a DiscoveredSet> {
        let in_force = self.in_force.get(pool).map_or(&[][..], Vec::as_slice);
        match &source.state {
            PreparedState::Followed(at) => in_force.get(*at)?.found.as_ref(),
            PreparedState::New(new) => {
                let before = || in_force.iter().find(|old| old.slot == source.slot)?.found.as_ref();
                new.found.as_ref().or_else(before)
            }
        }
    }

    /// Returns the host names that the checks and agents of a pool connect to. They come from the configuration in
    /// force or, at the start, from the prepared configuration.
    pub fn check_names(&self, pool: &str) -> CheckNames {
        let named = |following: &SourceFollower| match (&following.slot, following.state.source()) {
            (SourceSlot::CheckName(_), DiscoverSource::Dns(dns)) => {
                Some((Arc::clone(&dns.name), Arc::clone(&following.state)))
            }
            _ => None,
        };
        CheckNames(match self.in_force.get(pool) {
            Some(sources) => sources.iter().filter_map(named).collect(),
            None => {
                let sources = self.prepared.get(pool).map_or(&[][..], |prepared| &prepared.sources);
                sources.iter().filter_map(PreparedSource::following).filter_map(named).collect()
            }
        })
    }

    /// Drops the prepared configuration, which does not come into force.
    pub fn abandon(&mut self) {
        self.prepared.clear();
    }

    /// Puts the prepared configuration in force, and ends the sources that no pool has any more.
    pub fn commit(&mut self) {
        let mut in_force = BTreeMap::new();
        for (pool, prepared) in std::mem::take(&mut self.prepared) {
            let mut old: Vec<Option<SourceFollower>> =
                self.in_force.remove(&pool).unwrap_or_default().into_iter().map(Some).collect();
            let founds: Vec<_> =
                old.iter().flatten().map(|old| (old.slot.clone(), old.found.clone())).collect();
            let mut commit = |PreparedSource { slot, state }: PreparedSource| {
                let mut source = match state {
                    PreparedState::Followed(at) => old.get_mut(at)?.take()?,
                    PreparedState::New(new) => new,
                };
                if source.found.is_none() {
                    let before = founds.iter().find(|(old, _)| *old == slot);
                    source.found = before.and_then(|(_, found)| found.clone());
                    if source.found.is_some() {
                        source.state.publish(&source.found);
                    }
                }
                source.slot = slot;
                Some(source)
            };
            let sources = prepared.sources.into_iter().filter_map(&mut commit).collect::<Vec<_>>();
            in_force.insert(pool, sources);
        }
        self.in_force = in_force;
        self.seeds = SourceSeeds::default();
    }

    /// Returns the changes of faults that the reports since the last call brought.
    pub fn take_fault_changes(&mut self) -> Vec<FaultChange> {
        std::mem::take(&mut self.fault_changes)
    }

    /// Takes in a report. Returns the pool and the index of the source if the source is in force and its backends have
    /// changed. Logs a change of the source's fault: a fault that repeats is logged once.
    pub fn apply_report(&mut self, report: DiscoveryReport, now: SystemTime) -> Option<(Arc<str>, usize)> {
        let DiscoveryReport { pool, number, found, held, outcome } = report;
        let in_force = self.in_force.get_mut(&pool).into_iter().flatten();
        let prepared = self.prepared.get_mut(&pool).into_iter().flat_map(|pool| &mut pool.sources);
        let mut both = in_force.chain(prepared.filter_map(PreparedSource::following_mut));
        let following = both.find(|following| following.number == number)?;
        following.has_reported = true;
        if following.state.note(&outcome, now) {
            let source = following.state.source();
            match outcome.fault() {
                Some(fault) => {
                    let kept = found.as_ref().or(following.found.as_ref()).map_or(0, DiscoveredSet::len);
                    match kept {
                        0 => {
                            tracing::warn!(%pool, %source, reason = %fault, kept, "discovery failed; no backend is known yet")
                        }
                        _ => {
                            tracing::warn!(%pool, %source, reason = %fault, kept, "discovery failed; the backends found last are kept")
                        }
                    }
                }
                None => tracing::info!(%pool, %source, "discovery works again"),
            }
            let (source, fault) = (source.to_string(), outcome.fault().map(|fault| fault.to_string()));
            self.fault_changes.push(FaultChange { pool: Arc::clone(&pool), source, fault });
        }
        let found = found.filter(|found| following.found.as_ref() != Some(found));
        let has_changed = found.is_some();
        following.held = held;
        following.found = found.or_else(|| following.found.take());
        following.state.publish(&following.found);
        if !has_changed || !following.has_backends() {
            return None;
        }
        let at = self.in_force.get(&pool)?.iter().position(|following| following.number == number)?;
        Some((pool, at))
    }
}

#[cfg(test)]
mod tests;
