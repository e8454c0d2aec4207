//! Backends that are found while the process runs: one task for each pool's source, which follows it and
//! sends what it finds.
//!
//! The tasks change nothing. [`Discoveries`] belongs to the one who applies changes: it hears the reports
//! and knows what is in force for each pool. A source that fails keeps what it last found; how long ago
//! that was, and why, is in its [`Discovery`], which admin and the metrics read.

mod answers;
mod dns;
mod document;
mod file;
mod follow;
mod hosts;
mod pace;
mod resolv_conf;
mod set;
pub mod spec;
mod system;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::PoolSpec;
use spec::Source;

pub(super) use answers::Answer as DnsAnswer;
pub(super) use answers::Heard;
pub use dns::DnsFault;
pub(super) use dns::{Askers, Late, QuestionLimits};
pub use document::DocumentFault;
pub use file::{FileFault, read as read_file};
pub use set::DiscoveredSet;
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
}

impl LookOutcome {
    fn fault(&self) -> Option<&DiscoverFault> {
        match self {
            Self::Good | Self::Unfinished => None,
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

/// What is known of a source. Shared with admin and the metrics, which read it; it ends with the last
/// snapshot that shows it.
#[derive(Debug)]
pub struct Discovery {
    source: Source,
    failures: AtomicU64,
    /// In milliseconds of Unix time; 0 is never.
    succeeded: AtomicU64,
    /// What is wrong now. A lock, as it is a text; written by one task and read by a scrape now and then.
    fault: Mutex<Option<Arc<str>>>,
}

impl Discovery {
    fn new(source: &Source) -> Self {
        Self {
            source: source.clone(),
            failures: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            fault: Mutex::default(),
        }
    }

    /// What is followed.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// How often it failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// When it was last found to be good, whether anything had changed or not.
    pub fn succeeded(&self) -> Option<SystemTime> {
        match self.succeeded.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(UNIX_EPOCH + Duration::from_millis(millis)),
        }
    }

    /// What is wrong with it now.
    pub fn fault(&self) -> Option<Arc<str>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how a look ended, and answers whether that is news.
    fn note(&self, outcome: &LookOutcome, now: SystemTime) -> bool {
        if outcome.fault().is_some() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        if !matches!(outcome, LookOutcome::Failed(_)) {
            let millis = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            self.succeeded.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        if matches!(outcome, LookOutcome::Unfinished) {
            return false;
        }
        let fault: Option<Arc<str>> = outcome.fault().map(|fault| fault.to_string().into());
        let mut last = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *last != fault;
        *last = fault;
        is_news
    }
}

/// The sources of all pools, and what they found. Their tasks end with it.
///
/// A new configuration is first *prepared*: what it adds is followed beside what is in force, so that
/// nothing has changed should it fail; then it is *committed*.
#[derive(Debug)]
pub struct Discoveries {
    in_force: BTreeMap<Arc<str>, Following>,
    /// New or changed ones of a configuration that is not yet in force.
    prepared: BTreeMap<Arc<str>, Following>,
    next: u64,
    limits: QuestionLimits,
    /// Followed from the first source on that resolves names as the system does.
    system: Option<SystemNames>,
    report_to: mpsc::Sender<DiscoveryReport>,
}

/// What a pool's source is followed by.
#[derive(Debug)]
struct Following {
    number: u64,
    state: Arc<Discovery>,
    found: Option<DiscoveredSet>,
    has_reported: bool,
    task: AbortHandle,
}

impl Drop for Following {
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
        for pool in pools {
            let Some(discover) = &pool.discover else { continue };
            let is_followed =
                self.in_force.get(&pool.name).is_some_and(|old| old.state.source == discover.source);
            if !is_followed {
                let following = self.start(&pool.name, &discover.source);
                self.prepared.insert(Arc::clone(&pool.name), following);
            }
        }
    }

    fn start(&mut self, pool: &Arc<str>, source: &Source) -> Following {
        self.next += 1;
        let (number, report_to) = (self.next, self.report_to.clone());
        let teller = Teller { pool: Arc::clone(pool), number, report_to };
        let task = match source {
            Source::Dns(dns) => {
                let system = || self.system.get_or_insert_with(SystemNames::follow).clone();
                let askers = Askers::new(&dns.resolvers, system, self.limits.clone());
                tokio::spawn(follow::follow(dns.clone(), askers, teller))
            }
            Source::File(path) => tokio::spawn(file::follow(Arc::clone(path), teller)),
        };
        let state = Arc::new(Discovery::new(source));
        Following { number, state, found: None, has_reported: false, task: task.abort_handle() }
    }

    /// Whether each prepared source has found its backends.
    pub fn are_found(&self) -> bool {
        self.prepared.values().all(|following| following.found.is_some())
    }

    /// Whether each prepared source has found its backends or failed to.
    pub fn have_reported(&self) -> bool {
        self.prepared.values().all(|following| following.has_reported)
    }

    /// What holds for a pool once the prepared configuration is in force: what its source found, or as long
    /// as a new source has found nothing, what the old one had.
    pub fn of(&self, pool: &PoolSpec) -> Option<(Arc<Discovery>, DiscoveredSet)> {
        pool.discover.as_ref()?;
        let old = self.in_force.get(&pool.name);
        let new = self.prepared.get(&pool.name).or(old)?;
        let found = new.found.as_ref().or_else(|| old?.found.as_ref());
        Some((Arc::clone(&new.state), found.cloned().unwrap_or_default()))
    }

    /// Puts in force what was prepared, and ends what these pools no longer have.
    pub fn commit(&mut self, pools: &[PoolSpec]) {
        for (pool, mut new) in std::mem::take(&mut self.prepared) {
            if let Some(old) = self.in_force.get(&pool) {
                new.found = new.found.take().or_else(|| old.found.clone());
            }
            self.in_force.insert(pool, new);
        }
        let has = |name: &Arc<str>| pools.iter().any(|pool| pool.name == *name && pool.discover.is_some());
        self.in_force.retain(|name, _| has(name));
    }

    /// Hears a report; answers its pool if that is in force and has other backends now. News are logged: a
    /// failure once, however often it comes again.
    pub fn hear(&mut self, report: DiscoveryReport, now: SystemTime) -> Option<Arc<str>> {
        let DiscoveryReport { pool, number, found, outcome } = report;
        let both = [self.in_force.get_mut(&pool), self.prepared.get_mut(&pool)];
        let following = both.into_iter().flatten().find(|following| following.number == number)?;
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
        let found = found.filter(|found| following.found.as_ref() != Some(found))?;
        following.found = Some(found);
        self.in_force.get(&pool).is_some_and(|in_force| in_force.number == number).then_some(pool)
    }
}

/// Sends what one task finds.
struct Teller {
    pool: Arc<str>,
    number: u64,
    report_to: mpsc::Sender<DiscoveryReport>,
}

impl Teller {
    /// Tells how a look ended. False when nobody hears any more.
    async fn tell(&self, found: Option<DiscoveredSet>, outcome: LookOutcome) -> bool {
        let report = DiscoveryReport { pool: Arc::clone(&self.pool), number: self.number, found, outcome };
        self.report_to.send(report).await.is_ok()
    }
}

/// At least 0, below 1; good enough to spread questions.
fn luck() -> f64 {
    // The 53 bits that an f64 holds exactly.
    (RandomState::new().hash_one(0) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
