//! Backends that are found while the process runs: one task for each pool's source, which follows it and
//! sends what it finds.
//!
//! The tasks change nothing. [`Discoveries`] belongs to the one who applies changes: it hears the reports
//! and knows what is in force for each pool. A source that fails keeps what it last found; how long ago
//! that was, and why, is in its [`Discovery`], which admin and the metrics read.

mod answers;
mod check_names;
mod discovery;
mod dns;
mod document;
mod file;
mod follow;
mod hold;
mod hosts;
mod resolv_conf;
mod schedule;
mod set;
pub mod source;
mod system;

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::PoolSpec;
use hold::Hold;
use source::{DiscoverSource, DiscoverSpec};

pub(super) use answers::Answer as DnsAnswer;
pub(super) use answers::Heard;
pub use check_names::CheckNames;
pub use discovery::Discovery;
pub use dns::DnsFault;
pub(super) use dns::{Askers, Late, QuestionLimits};
pub use document::DocumentFault;
pub use file::{FileFault, read as read_file};
pub use set::{DiscoveredSet, join};
pub(super) use system::SystemNames;

/// Reports that may wait; then the tasks wait.
const REPORTS: usize = 256;

/// Why a source found nothing new, or not all.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverFault {
    /// The DNS did not answer well.
    #[error(transparent)]
    Dns(DnsFault),
    /// The file is not good.
    #[error(transparent)]
    File(FileFault),
}

impl From<DnsFault> for DiscoverFault {
    fn from(fault: DnsFault) -> Self {
        Self::Dns(fault)
    }
}

/// How a look at a source ended.
#[derive(Debug)]
enum LookOutcome {
    /// All is well.
    Good,
    /// What has come is good, and more is yet to come.
    Unfinished,
    /// A part of it is good.
    Partly(DiscoverFault),
    /// Nothing of it is good.
    Failed(DiscoverFault),
    /// There was no look: what was left out before is held no longer.
    Expired,
}

impl LookOutcome {
    fn fault(&self) -> Option<&DiscoverFault> {
        match self {
            Self::Good | Self::Unfinished | Self::Expired => None,
            Self::Partly(fault) | Self::Failed(fault) => Some(fault),
        }
    }
}

/// What a task found when it looked.
#[derive(Debug)]
pub struct DiscoveryReport {
    pool: Arc<str>,
    /// The task's own number: a report may outlive its task.
    number: u64,
    found: Option<DiscoveredSet>,
    outcome: LookOutcome,
}

/// The sources of all pools, and what they found. Their tasks end with it.
///
/// A new configuration is first *prepared*: what it adds is followed beside what is in force, so that
/// nothing has changed should it fail; then it is *committed*.
#[derive(Debug)]
pub struct Discoveries {
    /// The sources of each pool, in the order of its spec.
    in_force: BTreeMap<Arc<str>, Vec<SourceFollower>>,
    /// Those of a configuration that is not yet in force.
    prepared: BTreeMap<Arc<str>, PreparedPool>,
    next: u64,
    limits: QuestionLimits,
    /// Followed from the first source on that resolves names as the system does.
    system: Option<SystemNames>,
    report_to: mpsc::Sender<DiscoveryReport>,
}

/// The sources of a pool that is not yet in force.
#[derive(Debug)]
struct PreparedPool {
    /// Whether it has backends without them.
    has_written: bool,
    sources: Vec<PreparedSource>,
}

/// A source of a pool that is not yet in force.
#[derive(Debug)]
struct PreparedSource {
    slot: SourceSlot,
    state: PreparedState,
}

#[derive(Debug)]
enum PreparedState {
    /// It is followed already: its place among those in force.
    Followed(usize),
    /// It is new, or changed.
    New(SourceFollower),
}

impl PreparedSource {
    /// Whether backends come from it. Checks wait for the others themselves.
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

/// The identity of a source over a change of its settings: the changed source begins with the addresses found before.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SourceSlot {
    /// The host name and port among the backends.
    Host(Arc<str>),
    /// The place among the sources of its own.
    Listed(usize),
    /// The host name at which checks or agents ask.
    CheckName(Arc<str>),
}

impl SourceSlot {
    /// The sources of a pool with their slots: those of backends, then the names at which checks and agents ask.
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

/// What a pool's source is followed by.
#[derive(Debug)]
struct SourceFollower {
    slot: SourceSlot,
    hold: Duration,
    number: u64,
    state: Arc<Discovery>,
    found: Option<DiscoveredSet>,
    has_reported: bool,
    task: AbortHandle,
}

impl SourceFollower {
    /// Whether backends come from it.
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
    /// No sources, and where the reports of future ones come to.
    pub fn new() -> (Self, mpsc::Receiver<DiscoveryReport>) {
        let (report_to, reports) = mpsc::channel(REPORTS);
        let limits = QuestionLimits::new(dns::NAMES_AT_ONCE, dns::LATE_AT_ONCE);
        let (in_force, prepared) = Default::default();
        (Self { in_force, prepared, next: 0, limits, system: None, report_to }, reports)
    }

    /// Starts to follow what these pools have and no pool in force has. What an earlier call prepared and
    /// nobody committed is forgotten.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
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
        let hold = Hold::new(spec.hold, self.found_before(pool, spec, &slot));
        let reports = ReportSender { pool: Arc::clone(pool), number, hold, report_to };
        let task = match &spec.source {
            DiscoverSource::Dns(dns) => {
                let system = || self.system.get_or_insert_with(SystemNames::follow).clone();
                let askers = Askers::new(&dns.resolvers, system, self.limits.clone());
                tokio::spawn(follow::follow(dns.clone(), askers, reports))
            }
            DiscoverSource::File(path) => tokio::spawn(file::follow(Arc::clone(path), reports)),
        };
        let (state, hold) = (Arc::new(Discovery::new(&spec.source)), spec.hold);
        SourceFollower {
            slot,
            hold,
            number,
            state,
            found: None,
            has_reported: false,
            task: task.abort_handle(),
        }
    }

    /// What the source in force had found that a changed one stands for, if it asks the same in another way.
    fn found_before(&self, pool: &str, spec: &DiscoverSpec, slot: &SourceSlot) -> DiscoveredSet {
        let in_force = self.in_force.get(pool).map_or(&[][..], Vec::as_slice);
        let is_it = |old: &&SourceFollower| old.slot == *slot && old.state.source().asks_as(&spec.source);
        let before = in_force.iter().find(is_it);
        before.and_then(|old| old.found.clone()).unwrap_or_default()
    }

    /// Whether each prepared source has found its backends. One that failed to is not waited for if its pool has others.
    pub fn are_found(&self) -> bool {
        self.prepared.iter().all(|(pool, prepared)| {
            let found =
                |source: &PreparedSource| self.found_of(pool, source).is_some_and(|found| !found.is_empty());
            let of_backends = || prepared.sources.iter().filter(|source| source.has_backends());
            let has_others = prepared.has_written || of_backends().any(found);
            let mut new = of_backends().filter_map(PreparedSource::following);
            new.all(|source| source.found.is_some() || source.has_reported && has_others)
        })
    }

    /// Whether each prepared source has found its backends or failed to.
    pub fn have_reported(&self) -> bool {
        let of_backends =
            self.prepared.values().flat_map(|pool| &pool.sources).filter(|one| one.has_backends());
        let mut new = of_backends.filter_map(PreparedSource::following);
        new.all(|following| following.has_reported)
    }

    /// The spec of a pool that is in force with what its sources found, and what is known of each source. `None` for a
    /// pool without sources.
    pub fn in_force(&self, pool: &PoolSpec) -> Option<(Vec<Arc<Discovery>>, PoolSpec)> {
        let known =
            |source: &SourceFollower| (Arc::clone(&source.state), source.found.clone().unwrap_or_default());
        let sources = self.in_force.get(&pool.name).filter(|_| pool.has_sources())?;
        let (states, found): (Vec<_>, Vec<_>) = sources.iter().map(known).unzip();
        Some((states, join(pool, &found)))
    }

    /// The same of a pool of the configuration that is prepared.
    pub fn prepared(&self, pool: &PoolSpec) -> Option<(Vec<Arc<Discovery>>, PoolSpec)> {
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
        let (states, found): (Vec<_>, Vec<_>) = sources.iter().filter_map(known).unzip();
        Some((states, join(pool, &found)))
    }

    /// What holds for a prepared source: what it found, or as long as a new one has found nothing, what the one before
    /// it had.
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

    /// Returns the host names at which the checks and agents of a pool ask: of the configuration in force, or at the
    /// start of the one that is prepared.
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

    /// Forgets what was prepared: that configuration does not come into force.
    pub fn abandon(&mut self) {
        self.prepared.clear();
    }

    /// Puts in force what was prepared, and ends what no pool has any more.
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
    }

    /// Hears a report; answers its pool, and which of the pool's sources it is of, if that is in force and has other
    /// backends now. News are logged: a failure once, however often it comes again.
    pub fn hear(&mut self, report: DiscoveryReport, now: SystemTime) -> Option<(Arc<str>, usize)> {
        let DiscoveryReport { pool, number, found, outcome } = report;
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
                    tracing::warn!(%pool, %source, reason = %fault, kept, "discovery failed; what was last found is kept");
                }
                None => tracing::info!(%pool, %source, "discovery is well again"),
            }
        }
        let found = found.filter(|found| following.found.as_ref() != Some(found));
        let has_changed = found.is_some();
        following.found = found.or_else(|| following.found.take());
        following.state.publish(&following.found);
        if !has_changed || !following.has_backends() {
            return None;
        }
        let at = self.in_force.get(&pool)?.iter().position(|following| following.number == number)?;
        Some((pool, at))
    }
}

/// Sends what one task finds, with what is held of what it found before.
struct ReportSender {
    pool: Arc<str>,
    number: u64,
    hold: Hold,
    report_to: mpsc::Sender<DiscoveryReport>,
}

impl ReportSender {
    /// Says whether what is held rests too: it takes no new connections.
    fn rest(&mut self, rests: bool) {
        self.hold.rest(rests);
    }

    /// Tells how a look ended. False when nobody hears any more.
    async fn tell(&mut self, found: Option<DiscoveredSet>, outcome: LookOutcome) -> bool {
        let is_good = !matches!(outcome, LookOutcome::Failed(_));
        let found = found.map(|found| self.hold.hear(found, is_good, Instant::now()));
        self.send(found, outcome).await
    }

    /// Waits until something is held no longer; for ever if nothing is held.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    async fn expired(&self) {
        match self.hold.next() {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    /// Reports the addresses that are left when a hold ends. Returns `false` if the receiver is gone.
    async fn expire(&mut self) -> bool {
        let left = self.hold.expire(Instant::now());
        self.send(Some(left), LookOutcome::Expired).await
    }

    async fn send(&self, found: Option<DiscoveredSet>, outcome: LookOutcome) -> bool {
        let report = DiscoveryReport { pool: Arc::clone(&self.pool), number: self.number, found, outcome };
        self.report_to.send(report).await.is_ok()
    }
}

/// At least 0, below 1; good enough to spread questions.
fn randomness() -> f64 {
    // The 53 bits that an f64 holds exactly.
    (RandomState::new().hash_one(0) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
