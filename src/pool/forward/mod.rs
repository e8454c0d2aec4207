//! The forwarding pool: a client goes to the host that it names, if the rules allow the host and the address may be
//! dialled.
//!
//! A client names a host by the server name in its hello, or by a request for a tunnel. Both become a
//! [`TunnelTarget`], which is judged in one place.
//!
//! A worker calls [`Forward::destinations`]. It returns addresses from a cache, or waits for a task that
//! queries the DNS. This task runs on the runtime of control ([`Forward::follow`]). The worker dials exactly
//! these addresses. Each connection has only one look-up. So a resolver cannot give one address to the check
//! and another address to the dial.

mod cache;
mod lookup;
mod lookup_result;
mod marks;
mod question;
mod reach;
mod rules;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc;

use super::backend_spec::BackendSpec;
use super::forward_spec::{ForwardSpec, ForwardTo, RuleMode};
use crate::sys::address;
use crate::wire::{RequestedHost, ServerName, TunnelTarget};
use cache::{CacheLookup, CachedAnswer, MOST_ASKED, NameCache};
use lookup_result::ForwardCounts;
use marks::ForwardMarks;
use question::{ForwardQuestion, KnownNames, lock};
use rules::HostRules;

pub use cache::LookupFault;
pub use lookup::NAMES_AT_ONCE;
pub use lookup_result::LookupResult;
pub use marks::ForwardMark;

/// The name of the only backend of a forwarding pool, which represents all hosts.
const BACKEND: &str = "forward";

/// The reason for which a client is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardFault {
    /// The name is not allowed, or the client named no host.
    #[error("the name is not allowed")]
    NotAllowed,
    /// The address that the client asks for, or every address of its name, is not allowed.
    #[error("the address is not allowed")]
    AddressNotAllowed,
    /// The port is not allowed.
    #[error("the port is not allowed")]
    PortNotAllowed,
    /// The look-up of the name has no addresses.
    #[error(transparent)]
    NotResolved(#[from] LookupFault),
    /// No address of the host may be dialled.
    #[error("no address of the host may be reached")]
    Refused,
}

/// The addresses to dial for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardDestinations {
    /// The addresses, at least one, in the order of the attempts.
    pub addresses: Vec<SocketAddr>,
    /// The fault for which the rules would refuse the client, if they only report.
    pub reported: Option<ForwardFault>,
}

/// Forwards the clients of a pool. After a reload the new pool keeps its cache and its counts.
#[derive(Debug)]
pub struct Forward {
    spec: ForwardSpec,
    rules: HostRules,
    shared: Arc<ResolverShared>,
    counts: Arc<ForwardCounts>,
    marks: Arc<ForwardMarks>,
}

/// The state that the workers share with the task that asks the DNS. The task ends when the last pool that uses it is
/// dropped.
#[derive(Debug)]
struct ResolverShared {
    names: KnownNames,
    questions: mpsc::Sender<ForwardQuestion>,
    /// The receiver of the questions. The task takes it when it starts.
    unstarted: Mutex<Option<mpsc::Receiver<ForwardQuestion>>>,
}

impl Forward {
    /// Builds the forwarding of a pool from its spec. Keeps the cache of `previous` if the resolvers are the same.
    pub(super) fn build(spec: &ForwardSpec, previous: Option<&Self>) -> Self {
        let alike = previous.filter(|old| old.spec.resolvers == spec.resolvers);
        Self {
            rules: HostRules::new(&spec.rules),
            shared: alike.map_or_else(ResolverShared::new, |old| Arc::clone(&old.shared)),
            counts: previous.map_or_else(Arc::default, |old| Arc::clone(&old.counts)),
            marks: previous.map_or_else(Arc::default, |old| Arc::clone(&old.marks)),
            spec: spec.clone(),
        }
    }

    /// Returns the only backend of a forwarding pool. It represents all hosts, counts the open connections and has the
    /// limit of the pool. Its address is never dialled.
    pub fn stand_in(to: ForwardTo, max_connections: Option<u64>) -> BackendSpec {
        /// The port of hosts that clients request with their ports. A backend needs one.
        const ANY_PORT: u16 = 1;

        let port = match to {
            ForwardTo::Sni { port } => port,
            ForwardTo::Requested => ANY_PORT,
        };
        let nowhere = SocketAddr::from(([0, 0, 0, 0], port));
        BackendSpec { max_connections, ..BackendSpec::new(BACKEND, nowhere.into()) }
    }

    /// Returns the spec from which it was built.
    pub fn spec(&self) -> &ForwardSpec {
        &self.spec
    }

    /// Starts the task that asks the DNS, unless it runs already. The task ends when the last pool that uses it is
    /// dropped.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn follow(&self) {
        let unstarted = self.shared.unstarted.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(questions) = unstarted {
            let resolvers = self.spec.resolvers.clone().into();
            let names = Arc::clone(&self.shared.names);
            tokio::spawn(lookup::answer_all(questions, resolvers, names, Arc::clone(&self.counts)));
        }
    }

    /// Returns the host and the port to which a client goes. `name` is the server name in its hello, and `requested` is
    /// the target of its request for a tunnel.
    ///
    /// # Errors
    ///
    /// `NotAllowed` if the client does not name a host as the pool needs it.
    pub fn target(
        &self,
        name: Option<&ServerName>,
        requested: Option<&TunnelTarget>,
    ) -> Result<TunnelTarget, ForwardFault> {
        let target = match (self.spec.to, requested, name) {
            (ForwardTo::Requested, Some(requested), _) => Some(requested.clone()),
            (ForwardTo::Sni { port }, None, Some(name)) => {
                Some(TunnelTarget { host: RequestedHost::Name(name.clone()), port })
            }
            (ForwardTo::Requested, None, _) | (ForwardTo::Sni { .. }, ..) => None,
        };
        target.ok_or(ForwardFault::NotAllowed)
    }

    /// Checks a host and a port without a look-up.
    ///
    /// # Errors
    ///
    /// The fault for which the rules refuse a client, or would refuse it if they only report.
    pub fn preview(&self, target: &TunnelTarget) -> Result<(), ForwardFault> {
        self.rules.check(target)
    }

    /// Returns the addresses to dial for a client that names this host. `own` has the addresses on which this process
    /// listens: no client is sent there.
    ///
    /// # Errors
    ///
    /// Returns the reason for which the client is not forwarded.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any moment. An open question goes on, for other connections that wait and for the cache.
    pub async fn destinations(
        &self,
        target: &TunnelTarget,
        own: &[SocketAddr],
    ) -> Result<ForwardDestinations, ForwardFault> {
        let mut reported = self.enforce(self.rules.check(target))?;
        let found = match &target.host {
            RequestedHost::Name(name) => self.look_up(name).await?,
            RequestedHost::Address(ip) => Arc::from([*ip]),
        };
        let here = OwnAddresses { own, addresses: address::of_this_host().ok() };
        let all = found.iter().map(|ip| SocketAddr::new(ip.to_canonical(), target.port));
        let mut addresses: Vec<_> = all.filter(|address| self.may_dial(*address, &here)).collect();
        if addresses.is_empty() {
            return Err(ForwardFault::Refused);
        }
        let is_denied = |address: &SocketAddr| self.rules.denies(address.ip());
        if addresses.iter().all(is_denied) {
            reported = reported.or(self.enforce(Err(ForwardFault::AddressNotAllowed))?);
        } else {
            addresses.retain(|address| !is_denied(address));
        }
        Ok(ForwardDestinations { addresses, reported })
    }

    /// Returns the fault of a check if the rules only report.
    ///
    /// # Errors
    ///
    /// The fault of the check, unless the rules only report.
    fn enforce(&self, checked: Result<(), ForwardFault>) -> Result<Option<ForwardFault>, ForwardFault> {
        match (checked, self.spec.rules.mode) {
            (Ok(()), _) => Ok(None),
            (Err(fault), RuleMode::Report) => Ok(Some(fault)),
            (Err(fault), RuleMode::Enforce) => Err(fault),
        }
    }

    /// Returns true if an address may be dialled: a public address of another host, or an address in `allow_private`.
    /// A socket of this process may never be dialled.
    fn may_dial(&self, address: SocketAddr, here: &OwnAddresses<'_>) -> bool {
        let (ip, open) = (address.ip(), &self.spec.allow_private);
        // A service that trusts connections of its own host must not trust the connections of our clients. A translator
        // may lead an address of another form back to this host.
        let is_here = reach::forms(ip).any(|ip| here.has(ip));
        let listens = reach::forms(ip).any(|ip| here.listens(SocketAddr::new(ip, address.port())));
        reach::may_reach(ip, open) && (!is_here || reach::is_open(ip, open)) && !listens
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
                // The channel has room: its capacity is the most names that may be looked up at once.
                let names = Arc::clone(&self.shared.names);
                let question = ForwardQuestion::new(name.clone(), names);
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

    /// Marks a connection as forwarded, by the first bytes of its hello. Returns `None` if an open forwarded connection has
    /// the same first bytes: then the connection is a loop.
    ///
    /// A request for a tunnel has no random bytes, and it is not sent on. So no connection can come back with it, and it
    /// needs no mark.
    pub fn mark(&self, first: &[u8]) -> Option<ForwardMark> {
        self.marks.mark(first)
    }

    /// Restores the mark of a connection that another process handed over.
    pub fn restore_mark(&self, number: u64) -> ForwardMark {
        self.marks.restore(number)
    }

    /// Returns the key of the marks, for another process to which connections go.
    pub fn mark_key(&self) -> (u64, u64) {
        self.marks.key()
    }

    /// Replaces the key of the marks. Must be called before the first connection.
    pub fn set_mark_key(&self, key: (u64, u64)) {
        self.marks.set_key(key);
    }

    /// Adds look-ups of another process.
    pub fn add_lookups(&self, result: LookupResult, count: u64) {
        self.counts.add(result, count);
    }

    /// Returns the number of names in the cache.
    pub fn known(&self) -> usize {
        self.shared.names().known()
    }

    /// Returns the number of look-ups with this result.
    pub fn lookups(&self, result: LookupResult) -> u64 {
        self.counts.of(result)
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

/// The addresses of this host, to which no client is forwarded.
struct OwnAddresses<'a> {
    /// The addresses on which this process listens.
    own: &'a [SocketAddr],
    /// The addresses of the interfaces, if the kernel returned them.
    addresses: Option<Vec<IpAddr>>,
}

impl OwnAddresses<'_> {
    /// Returns true if this host has the address, or if the addresses of the interfaces are not known.
    fn has(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.addresses.as_ref().is_none_or(|addresses| addresses.contains(&ip))
    }

    /// Returns true if a connect to `address` would reach a socket of this process.
    fn listens(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let is_all = |own: IpAddr| own.is_unspecified() && ip.is_ipv4() == own.is_ipv4() && self.has(ip);
        let mut own = self.own.iter().filter(|own| own.port() == address.port());
        own.any(|own| ip == own.ip() || is_all(own.ip()))
    }
}

#[cfg(test)]
mod tests;
