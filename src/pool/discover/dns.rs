//! Asks the DNS, again and again: one task for each source. The only place that knows the resolver library.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::answers::{Answer, Heard, Host, Service, Services, Told, set};
use super::pace::Pace;
use super::resolv_conf::ResolvConf;
use super::spec::{DnsSpec, Records};
use super::system::{FILE_PATIENCE, HOSTS, RESOLV_CONF, System, SystemNames};
use super::{DiscoverFault, DiscoveredSet, Teller, luck};
use crate::sys::landlock;

/// How long one question may take, with all its repetitions at all resolvers.
const LONGEST_QUESTION: Duration = Duration::from_secs(10);

/// How long a resolver that the configuration names may take before it is asked again or another one is.
const ONE_TRY: Duration = Duration::from_secs(2);

/// How long an address of the file of hosts holds: until the file changes.
const UNTIL_CHANGED: Duration = Duration::MAX;

/// Names that are asked for at once in the whole process, each by two questions: a socket for each.
pub(super) const NAMES_AT_ONCE: usize = 32;

/// Why the DNS gave no answer to go by.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DnsFault {
    /// The name does not exist.
    #[error("there is no such name (NXDOMAIN)")]
    NoName,
    /// No records that could be used.
    #[error("the answer has no usable record")]
    Empty,
    /// More than are taken.
    #[error("the answer has {0} records, more than are taken")]
    TooMany(usize),
    /// Nobody answered.
    #[error("no resolver answered in time")]
    Timeout,
    /// The resolver could not or would not.
    #[error("the resolver answered: {0}")]
    Refused(ResponseCode),
    /// One of the two families has no answer, though the other has.
    #[error("{records}: {fault}")]
    OneFamily {
        /// The name of its records.
        records: &'static str,
        /// Why it has none.
        fault: Box<DnsFault>,
    },
    /// No answer came from this host, and no resolver is named.
    #[error("{0}; {RESOLV_CONF} names no resolver, so 127.0.0.1 was asked")]
    ByDefault(Box<DnsFault>),
    /// The files that name the system's resolvers could not be read in time.
    #[error("{RESOLV_CONF} and {HOSTS} could not be read within {} s: does their file system hang?", FILE_PATIENCE.as_secs())]
    Unread,
    /// The file that names the system's resolvers cannot be read.
    #[error("{RESOLV_CONF} cannot be read: {0}{hint}", hint = landlock::hint(.0))]
    ResolvConf(#[source] Arc<io::Error>),
    /// The question could not be asked, or the answer not be read.
    #[error("the resolver cannot be asked: {0}")]
    Net(#[source] NetError),
}

impl From<NetError> for DnsFault {
    fn from(error: NetError) -> Self {
        match error {
            error if error.is_nx_domain() => Self::NoName,
            NetError::Dns(DnsError::ResponseCode(code)) => Self::Refused(code),
            NetError::Timeout => Self::Timeout,
            error => Self::Net(error),
        }
    }
}

/// Asks for ever, and tells what it hears.
///
/// # Cancel safety
///
/// May be dropped at any moment; what was last heard goes with it.
pub(super) async fn follow(spec: DnsSpec, mut askers: Askers, teller: Teller) {
    let mut pace = Pace::new(&spec);
    let mut known = Known::new(&spec);
    loop {
        let told = match askers.now().await {
            Ok(asker) => known.ask(&spec, &asker).await,
            Err(fault) => Told { ttl: None, fault: Some(fault) },
        };
        let (found, fault) = match (known.set(), told.fault) {
            (Ok(found), fault) => (Some(found), fault),
            // Nothing was ever heard: the reason is that of the last round, if it has one.
            (Err(empty), fault) => (None, Some(fault.unwrap_or(empty))),
        };
        let wait = match (&fault, told.ttl) {
            (None, Some(ttl)) => pace.after_answer(ttl, luck()),
            _ => pace.after_failure(luck()),
        };
        if !teller.tell(found, fault.map(DiscoverFault::Dns)).await {
            return;
        }
        tokio::select! {
            () = sleep(wait) => {}
            () = askers.changed() => {}
        }
    }
}

/// What was last heard for a source.
enum Known {
    Addresses { host: Host, port: u16 },
    Services(Services),
}

impl Known {
    fn new(spec: &DnsSpec) -> Self {
        match spec.records {
            Records::Addresses { port } => Self::Addresses { host: Host::default(), port },
            Records::Services => Self::Services(Services::default()),
        }
    }

    /// One round of questions.
    async fn ask(&mut self, spec: &DnsSpec, asker: &Asker) -> Told {
        match self {
            Self::Addresses { host, .. } => {
                let (v4, v6) = asker.addresses(&spec.name, LONGEST_QUESTION).await;
                host.hear(v4, v6)
            }
            Self::Services(services) => {
                let mut told = services.hear(asker.services(&spec.name).await);
                let mut questions = JoinSet::new();
                for target in services.targets() {
                    let asker = asker.clone();
                    questions.spawn(async move {
                        // A target is a whole name: no search list.
                        let (v4, v6) = asker.addresses(&format!("{target}."), LONGEST_QUESTION).await;
                        (target, v4, v6)
                    });
                }
                while let Some(answered) = questions.join_next().await {
                    let Ok((target, v4, v6)) = answered else { continue };
                    told = told.and(services.hear_of(&target, v4, v6));
                }
                told
            }
        }
    }

    fn set(&self) -> Result<DiscoveredSet, DnsFault> {
        match self {
            Self::Addresses { host, port } => set(host.backends(*port)),
            Self::Services(services) => set(services.backends()),
        }
    }
}

/// Who is asked: resolvers that the configuration names, or those of the system as they are at the time.
#[derive(Clone)]
pub(in crate::pool) struct Askers {
    resolvers: Arc<[SocketAddr]>,
    /// `None` where the configuration names resolvers: then the system's files say nothing.
    system: Option<SystemNames>,
    names: Arc<Semaphore>,
}

impl Askers {
    /// Asks these resolvers or, if there are none, as `system` says; for as many names at once as `names` allows.
    pub(in crate::pool) fn new(
        resolvers: &[SocketAddr],
        system: impl FnOnce() -> SystemNames,
        names: Arc<Semaphore>,
    ) -> Self {
        let system = if resolvers.is_empty() { Some(system()) } else { None };
        Self { resolvers: resolvers.into(), system, names }
    }

    /// Returns who is asked now.
    ///
    /// # Errors
    ///
    /// The files of the system could not be read.
    pub(in crate::pool) async fn now(&mut self) -> Result<Asker, DnsFault> {
        let system = match &mut self.system {
            Some(system) => Some(system.now().await?),
            None => None,
        };
        let resolver = match &system {
            Some(system) => resolver_of_system(&system.resolv_conf)?,
            None => resolver_of(&self.resolvers)?,
        };
        Ok(Asker { resolver, system, names: Arc::clone(&self.names) })
    }

    /// Waits until the system's files have changed since the last [`Askers::now`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(in crate::pool) async fn changed(&mut self) {
        match &mut self.system {
            Some(system) => system.changed().await,
            None => std::future::pending().await,
        }
    }
}

/// Asks single questions.
#[derive(Clone)]
pub(in crate::pool) struct Asker {
    resolver: TokioResolver,
    /// How the system resolves names, if it is asked as the system would.
    system: Option<System>,
    names: Arc<Semaphore>,
}

impl Asker {
    /// The addresses of a name, of IPv4 and IPv6. A name in the file of hosts has those of the file; no resolver is
    /// asked, for neither family. Else the names of the search list are asked for in turn, and the first with an address
    /// counts for both families. Once one of the two has some, the other one has `patience` left.
    pub(in crate::pool) async fn addresses(
        &self,
        name: &str,
        patience: Duration,
    ) -> (Heard<IpAddr>, Heard<IpAddr>) {
        let of_hosts = self.system.as_ref().and_then(|system| system.hosts.addresses(name));
        if let Some(addresses) = of_hosts.or_else(|| self.localhost(name)) {
            return of_families(addresses);
        }
        let mut last: Option<DnsFault> = None;
        for candidate in self.candidates(name) {
            let (v4, v6) = self.pair(&candidate, patience).await;
            if has_records(&v4) || has_records(&v6) {
                return (v4, v6);
            }
            let fault = v4.err().or(v6.err()).unwrap_or(DnsFault::Empty);
            let ends = ends_search(&fault);
            last = Some(graver(last, fault));
            if ends {
                break;
            }
        }
        let fault = self.explained(last.unwrap_or(DnsFault::Empty));
        (Err(fault.clone()), Err(fault))
    }

    /// The loopback addresses, for the name that is theirs without any file (RFC 6761, section 6.3).
    fn localhost(&self, name: &str) -> Option<&'static [IpAddr]> {
        const LOOPBACK: [IpAddr; 2] =
            [IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];
        let is_localhost =
            self.system.is_some() && name.strip_suffix('.').unwrap_or(name).eq_ignore_ascii_case("localhost");
        is_localhost.then_some(&LOOPBACK)
    }

    /// The whole names to ask for, in order.
    fn candidates(&self, name: &str) -> Vec<Box<str>> {
        match &self.system {
            Some(system) => system.resolv_conf.candidates(name),
            None if name.ends_with('.') => vec![name.into()],
            None => vec![format!("{name}.").into()],
        }
    }

    /// Says who was asked, if no file does.
    fn explained(&self, fault: DnsFault) -> DnsFault {
        let is_by_default = self.system.as_ref().is_some_and(|system| system.resolv_conf.is_by_default);
        match fault {
            fault @ (DnsFault::Net(_) | DnsFault::Timeout) if is_by_default => {
                DnsFault::ByDefault(Box::new(fault))
            }
            fault => fault,
        }
    }

    /// The A and AAAA records of a whole name.
    async fn pair(&self, name: &str, patience: Duration) -> (Heard<IpAddr>, Heard<IpAddr>) {
        let _one_of_few = self.names.acquire().await;
        let address = |data: &RData| match data {
            RData::A(v4) => Some(IpAddr::V4(v4.0)),
            RData::AAAA(v6) => Some(IpAddr::V6(v6.0).to_canonical()),
            _ => None,
        };
        let mut v4 = pin!(question(self.resolver.lookup(name, RecordType::A), address));
        if self.system.as_ref().is_some_and(|system| system.resolv_conf.no_aaaa) {
            return (v4.await, Ok(Answer { records: Vec::new(), ttl: Duration::ZERO }));
        }
        let mut v6 = pin!(question(self.resolver.lookup(name, RecordType::AAAA), address));
        tokio::select! {
            v4 = &mut v4 => {
                let v6 = second(&v4, v6, patience).await;
                (v4, v6)
            }
            v6 = &mut v6 => (second(&v6, v4, patience).await, v6),
        }
    }

    async fn services(&self, name: &str) -> Heard<Service> {
        let mut last: Option<DnsFault> = None;
        for candidate in self.candidates(name) {
            let fault = match self.services_of(&candidate).await {
                Ok(answer) if answer.records.is_empty() => DnsFault::Empty,
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            let ends = ends_search(&fault);
            last = Some(graver(last, fault));
            if ends {
                break;
            }
        }
        Err(self.explained(last.unwrap_or(DnsFault::Empty)))
    }

    async fn services_of(&self, name: &str) -> Heard<Service> {
        let _one_of_few = self.names.acquire().await;
        question(self.resolver.lookup(name, RecordType::SRV), |data| match data {
            RData::SRV(srv) => Some(Service {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: srv.target.to_lowercase().to_string().trim_end_matches('.').into(),
            }),
            _ => None,
        })
        .await
    }
}

/// The answer of one family behind that of the other: it is waited for as long as it takes, but no longer than
/// `patience` where there is something to go on with.
async fn second<T>(first: &Heard<T>, other: impl Future<Output = Heard<T>>, patience: Duration) -> Heard<T> {
    match first {
        Ok(answer) if !answer.records.is_empty() => {
            timeout(patience, other).await.unwrap_or(Err(DnsFault::Timeout))
        }
        _ => other.await,
    }
}

/// The records of an answer that `pick` takes. An answer without records is not yet a failure here.
async fn question<T>(
    asked: impl Future<Output = Result<Lookup, NetError>>,
    pick: impl Fn(&RData) -> Option<T>,
) -> Heard<T> {
    let lookup = match timeout(LONGEST_QUESTION, asked).await {
        Ok(Ok(lookup)) => lookup,
        Ok(Err(error)) if error.is_no_records_found() && !error.is_nx_domain() => {
            return Ok(Answer { records: Vec::new(), ttl: Duration::ZERO });
        }
        Ok(Err(error)) => return Err(error.into()),
        Err(_elapsed) => return Err(DnsFault::Timeout),
    };
    // What led to the records (CNAME) holds no longer than they do.
    let ttl = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
    let records = lookup.answers().iter().filter_map(|record| pick(&record.data)).collect();
    Ok(Answer { records, ttl: Duration::from_secs(ttl.into()) })
}

/// Whether the search list ends with this fault. As with glibc a name that is not there, and a resolver that answers
/// with a fault, lead to the next one; where no answer came the next one could be another host than the one meant.
fn ends_search(fault: &DnsFault) -> bool {
    !matches!(fault, DnsFault::NoName | DnsFault::Empty | DnsFault::Refused(_))
}

/// What a search comes to: that a name is there without addresses says more than that another is not there, and a
/// resolver's fault more than both.
fn graver(last: Option<DnsFault>, fault: DnsFault) -> DnsFault {
    let rank = |fault: &DnsFault| match fault {
        DnsFault::NoName => 0,
        DnsFault::Empty => 1,
        DnsFault::Refused(_) => 2,
        _ => 3,
    };
    match last {
        Some(last) if rank(&last) > rank(&fault) => last,
        _ => fault,
    }
}

fn has_records<T>(heard: &Heard<T>) -> bool {
    heard.as_ref().is_ok_and(|answer| !answer.records.is_empty())
}

/// Addresses of the file of hosts as two answers.
fn of_families(addresses: &[IpAddr]) -> (Heard<IpAddr>, Heard<IpAddr>) {
    let (v4, v6) = addresses.iter().partition(|ip| ip.is_ipv4());
    let answer = |records: Vec<IpAddr>| Ok(Answer { records, ttl: UNTIL_CHANGED });
    (answer(v4), answer(v6))
}

fn resolver_of_system(read: &ResolvConf) -> Result<TokioResolver, DnsFault> {
    let server = if read.use_tcp { NameServerConfig::tcp } else { NameServerConfig::udp_and_tcp };
    let mut options = ResolverOpts::default();
    (options.timeout, options.attempts, options.edns0) = (read.timeout, read.attempts, read.edns0);
    build(read.servers.iter().map(|ip| server(*ip)).collect(), options)
}

fn resolver_of(resolvers: &[SocketAddr]) -> Result<TokioResolver, DnsFault> {
    let servers = resolvers.iter().map(|address| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        for connection in &mut server.connections {
            connection.port = address.port();
        }
        server
    });
    let mut options = ResolverOpts::default();
    options.timeout = ONE_TRY;
    build(servers.collect(), options)
}

/// Names are whole when they come here: the search list and the file of hosts are not the library's.
fn build(servers: Vec<NameServerConfig>, mut options: ResolverOpts) -> Result<TokioResolver, DnsFault> {
    options.use_hosts_file = ResolveHosts::Never;
    // When to ask is decided by the pace alone, or by the cache of who forwards.
    options.cache_size = 0;
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    Ok(builder.build()?)
}
