//! A pool without backends: clients go to the host they name, if its name is allowed and its address is one that
//! may be reached.
//!
//! The worker asks [`Forward::destinations`], which answers from a cache or waits for the task that asks the DNS
//! on the runtime of control ([`Forward::follow`]). What it answers with is dialled as it is: no name is looked
//! up twice for one connection, so nobody can answer the check with one address and the dial with another.

mod cache;
pub mod forward_spec;
mod lookup;
mod marks;
mod reach;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use lookup::NAMES_AT_ONCE;
use tokio::sync::mpsc;

use super::BackendSpec;
use crate::route::pattern::NamePattern;
use crate::sys::address;
use crate::wire::ServerName;
use cache::{CacheLookup, CachedAnswer, MOST_ASKED, NameCache};
use forward_spec::ForwardSpec;
pub use marks::ForwardMark;
use marks::ForwardMarks;

/// The name of the one backend of such a pool, which stands for every host.
const BACKEND: &str = "forward";

/// Why a name leads to no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupFault {
    /// The name does not exist.
    #[error("there is no such name")]
    NoName,
    /// The name has no address.
    #[error("the name has no address")]
    NoAddress,
    /// No resolver answered in time.
    #[error("no resolver answered in time")]
    Timeout,
    /// The resolvers could not or would not answer.
    #[error("the resolvers gave no answer")]
    Failed,
    /// As many names are being asked for as may be.
    #[error("too many names are being asked for")]
    Busy,
}

/// Why a client is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardFault {
    /// Its name is not allowed.
    #[error("the name is not allowed")]
    NotAllowed,
    /// Its name leads to no host.
    #[error(transparent)]
    NotResolved(#[from] LookupFault),
    /// Its name leads only to addresses that may not be reached.
    #[error("no address of the name may be reached")]
    Refused,
}

/// What came of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LookupResult {
    /// It was known, or asked for already.
    Cached,
    /// The DNS gave addresses.
    Resolved,
    /// The name does not exist.
    NoName,
    /// The name has no address.
    NoAddress,
    /// No resolver answered in time.
    Timeout,
    /// The resolvers could not or would not answer.
    Failed,
    /// Too many names were being asked for.
    Busy,
}

impl LookupResult {
    /// Every result, in the order of the declaration.
    pub const ALL: [Self; 7] = [
        Self::Cached,
        Self::Resolved,
        Self::NoName,
        Self::NoAddress,
        Self::Timeout,
        Self::Failed,
        Self::Busy,
    ];

    /// The value of the label `result`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Resolved => "resolved",
            Self::NoName => "no_name",
            Self::NoAddress => "no_address",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
            Self::Busy => "busy",
        }
    }

    fn of(answer: &CachedAnswer) -> Self {
        match answer {
            Ok(_) => Self::Resolved,
            Err(LookupFault::NoName) => Self::NoName,
            Err(LookupFault::NoAddress) => Self::NoAddress,
            Err(LookupFault::Timeout) => Self::Timeout,
            Err(LookupFault::Failed) => Self::Failed,
            Err(LookupFault::Busy) => Self::Busy,
        }
    }
}

/// Forwards the clients of a pool. Its names and counts go on in the pool that a reload puts in its place.
#[derive(Debug)]
pub struct Forward {
    spec: ForwardSpec,
    allowed: AllowedNames,
    shared: Arc<ResolverShared>,
    counts: Arc<ForwardCounts>,
    marks: Arc<ForwardMarks>,
}

/// What those who ask and the task that answers share. The task ends with the last pool that can ask.
#[derive(Debug)]
struct ResolverShared {
    names: KnownNames,
    questions: mpsc::Sender<ForwardQuestion>,
    /// Taken by the task when it starts.
    unstarted: Mutex<Option<mpsc::Receiver<ForwardQuestion>>>,
}

/// What is known of names. A lock for a moment: one look for each connection, one answer for each question.
type KnownNames = Arc<Mutex<NameCache>>;

#[derive(Debug, Default)]
struct ForwardCounts([AtomicU64; LookupResult::ALL.len()]);

impl ForwardCounts {
    fn count(&self, result: LookupResult) {
        self.0[result as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Forward {
    /// Forwards by `forward_spec`. What a `previous` one has found out holds, if it asks the same resolvers.
    pub(super) fn build(spec: &ForwardSpec, previous: Option<&Self>) -> Self {
        let alike = previous.filter(|old| old.spec.resolvers == spec.resolvers);
        Self {
            allowed: AllowedNames::new(&spec.allow),
            shared: alike.map_or_else(ResolverShared::new, |old| Arc::clone(&old.shared)),
            counts: previous.map_or_else(Arc::default, |old| Arc::clone(&old.counts)),
            marks: previous.map_or_else(Arc::default, |old| Arc::clone(&old.marks)),
            spec: spec.clone(),
        }
    }

    /// The one backend of a pool that forwards: it stands for every host, counts what is open and holds the
    /// pool's limit. Its address is none that is dialled.
    pub fn stand_in(port: u16, max_connections: Option<u64>) -> BackendSpec {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], port));
        BackendSpec { max_connections, ..BackendSpec::new(BACKEND, nowhere.into()) }
    }

    /// What it was built from.
    pub fn spec(&self) -> &ForwardSpec {
        &self.spec
    }

    /// Starts the task that asks the DNS, unless it runs already. It ends when no pool can ask any more.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn follow(&self) {
        let unstarted = self.shared.unstarted.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(questions) = unstarted {
            let resolvers = self.spec.resolvers.clone().into();
            let names = Arc::clone(&self.shared.names);
            tokio::spawn(lookup::answer_all(questions, resolvers, names, Arc::clone(&self.counts)));
        }
    }

    /// Where a client that asks for `name` may be sent, in the order in which to try; at least one address.
    /// `own` are the addresses on which this process listens: a client is never sent there.
    ///
    /// # Errors
    ///
    /// Why it is sent nowhere.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any moment. A question that is asked goes on, for others who wait and for the cache.
    pub async fn destinations(
        &self,
        name: &ServerName,
        own: &[SocketAddr],
    ) -> Result<Vec<SocketAddr>, ForwardFault> {
        if !self.allowed.has(name) {
            return Err(ForwardFault::NotAllowed);
        }
        let found = self.look_up(name).await?;
        let here = OwnAddresses { own, addresses: address::of_this_host().ok() };
        let addresses = found.iter().map(|ip| SocketAddr::new(ip.to_canonical(), self.spec.port));
        let addresses: Vec<_> = addresses.filter(|address| self.may_dial(*address, &here)).collect();
        if addresses.is_empty() { Err(ForwardFault::Refused) } else { Ok(addresses) }
    }

    /// Whether an address may be dialled: a public one of another host, or one that the operator opens; never
    /// one of our own sockets.
    fn may_dial(&self, address: SocketAddr, here: &OwnAddresses<'_>) -> bool {
        let (ip, open) = (address.ip(), &self.spec.allow_private);
        // What trusts its own host would take our connections for the host's.
        reach::may_reach(ip, open) && (!here.has(ip) || reach::is_open(ip, open)) && !here.listens(address)
    }

    async fn look_up(&self, name: &ServerName) -> CachedAnswer {
        let look = self.shared.names().look(name, Instant::now());
        let told = match look {
            CacheLookup::Known(answer) => {
                self.counts.count(LookupResult::Cached);
                return answer;
            }
            CacheLookup::Wait(told) => {
                self.counts.count(LookupResult::Cached);
                told
            }
            CacheLookup::Ask(told) => {
                // As many questions may wait as names may be asked for, so there is room.
                let names = Arc::clone(&self.shared.names);
                let question = ForwardQuestion { name: name.clone(), names, is_answered: false };
                let _ = self.shared.questions.try_send(question);
                told
            }
            CacheLookup::Busy => {
                self.counts.count(LookupResult::Busy);
                return Err(LookupFault::Busy);
            }
        };
        told.await.unwrap_or(Err(LookupFault::Failed))
    }

    /// Marks a connection as being forwarded, by its first bytes; `None` if one that begins alike is being
    /// forwarded already: then it has come back to us.
    pub fn mark(&self, first: &[u8]) -> Option<ForwardMark> {
        self.marks.mark(first)
    }

    /// Names that are remembered.
    pub fn known(&self) -> usize {
        self.shared.names().known()
    }

    /// Look-ups that ended so.
    pub fn lookups(&self, result: LookupResult) -> u64 {
        self.counts.0[result as usize].load(Ordering::Relaxed)
    }
}

impl ResolverShared {
    fn new() -> Arc<Self> {
        let (questions, unstarted) = mpsc::channel(MOST_ASKED);
        Arc::new(Self { names: KnownNames::default(), questions, unstarted: Mutex::new(Some(unstarted)) })
    }

    fn names(&self) -> MutexGuard<'_, NameCache> {
        lock(&self.names)
    }
}

fn lock(names: &KnownNames) -> MutexGuard<'_, NameCache> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name that is being asked for. However it ends, those who wait are told.
#[derive(Debug)]
struct ForwardQuestion {
    name: ServerName,
    names: KnownNames,
    is_answered: bool,
}

impl ForwardQuestion {
    fn answer(&mut self, answer: CachedAnswer, ttl: Duration) {
        self.is_answered = true;
        lock(&self.names).answer(&self.name, answer, ttl, Instant::now());
    }
}

impl Drop for ForwardQuestion {
    fn drop(&mut self) {
        if !self.is_answered {
            self.answer(Err(LookupFault::Failed), Duration::ZERO);
        }
    }
}

/// Names that may be asked for. A look takes as many steps as the name has labels.
#[derive(Debug)]
struct AllowedNames {
    exact: HashSet<ServerName>,
    child: HashSet<ServerName>,
    below: HashSet<ServerName>,
}

impl AllowedNames {
    fn new(patterns: &[NamePattern]) -> Self {
        let mut allowed = Self { exact: HashSet::new(), child: HashSet::new(), below: HashSet::new() };
        for pattern in patterns {
            match pattern {
                NamePattern::Exact(name) => allowed.exact.insert(name.clone()),
                NamePattern::Child(suffix) => allowed.child.insert(suffix.clone()),
                NamePattern::Below(suffix) => allowed.below.insert(suffix.clone()),
            };
        }
        allowed
    }

    fn has(&self, name: &ServerName) -> bool {
        let name = name.as_str();
        let mut suffixes = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        let is_child = name.split_once('.').is_some_and(|(_, suffix)| self.child.contains(suffix));
        self.exact.contains(name) || is_child || suffixes.any(|suffix| self.below.contains(suffix))
    }
}

/// This host, to which nobody is forwarded.
struct OwnAddresses<'a> {
    /// Where this process listens.
    own: &'a [SocketAddr],
    /// The addresses of its interfaces, if the kernel told them.
    addresses: Option<Vec<IpAddr>>,
}

impl OwnAddresses<'_> {
    /// Whether this host has the address. If it cannot be told it is taken for one.
    fn has(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.addresses.as_ref().is_none_or(|addresses| addresses.contains(&ip))
    }

    /// Whether a connect to `address` would come out at a socket of this process.
    fn listens(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let is_all = |own: IpAddr| own.is_unspecified() && ip.is_ipv4() == own.is_ipv4() && self.has(ip);
        let mut own = self.own.iter().filter(|own| own.port() == address.port());
        own.any(|own| ip == own.ip() || is_all(own.ip()))
    }
}

#[cfg(test)]
mod tests;
