//! Asks the DNS, again and again: one task for each source. The only place that knows the resolver library.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::answers::{Answer, Heard, Host, Service, Services, Told, set};
use super::pace::Pace;
use super::spec::{DnsSpec, Records};
use super::{DiscoverFault, DiscoveredSet, Teller, luck};
use crate::sys::{file_call, landlock};

/// How long one question may take, with all its repetitions at all resolvers.
const LONGEST_QUESTION: Duration = Duration::from_secs(10);

/// How long a resolver that the configuration names may take before it is asked again or another one is.
const ONE_TRY: Duration = Duration::from_secs(2);

/// The system's file of resolvers.
const SYSTEM_FILE: &str = "/etc/resolv.conf";

/// The system's file of hosts for which no resolver is asked; it is read together with [`SYSTEM_FILE`].
const HOSTS_FILE: &str = "/etc/hosts";

/// The longest time for reading these files.
const FILE_PATIENCE: Duration = Duration::from_secs(2);

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
    /// The files that name the system's resolvers could not be read in time.
    #[error("{SYSTEM_FILE} and {HOSTS_FILE} could not be read within {} s: does their file system hang?", FILE_PATIENCE.as_secs())]
    Unread,
    /// The question could not be asked, or the answer not be read.
    #[error("the resolver cannot be asked: {0}{hint}", hint = hint(.0))]
    Net(#[source] NetError),
}

/// Which resolver to ask is read from a file, perhaps through a link that was not there at the start.
fn hint(error: &NetError) -> &'static str {
    match error {
        NetError::Io(error) => landlock::hint(error),
        _ => "",
    }
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
pub(super) async fn follow(spec: DnsSpec, names: Arc<Semaphore>, teller: Teller) {
    let mut pace = Pace::new(&spec);
    let mut known = Known::new(&spec);
    loop {
        // The configuration of the system and its hosts file are read each time: they may change.
        let told = match resolver(&spec.resolvers).await {
            Ok(resolver) => known.ask(&spec, &Asker { resolver, names: Arc::clone(&names) }).await,
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
        sleep(wait).await;
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

/// Asks single questions.
#[derive(Clone)]
pub(in crate::pool) struct Asker {
    resolver: TokioResolver,
    names: Arc<Semaphore>,
}

impl Asker {
    /// Asks these resolvers, or those of the system as they are now, for so many names at once.
    pub(in crate::pool) async fn new(
        resolvers: &[SocketAddr],
        names_at_once: usize,
    ) -> Result<Self, DnsFault> {
        let names = Arc::new(Semaphore::new(names_at_once));
        Ok(Self { resolver: resolver(resolvers).await?, names })
    }

    /// The A and AAAA records of a name. Once one of the two has some, the other one has `patience` left.
    pub(in crate::pool) async fn addresses(
        &self,
        name: &str,
        patience: Duration,
    ) -> (Heard<IpAddr>, Heard<IpAddr>) {
        let _one_of_few = self.names.acquire().await;
        let address = |data: &RData| match data {
            RData::A(v4) => Some(IpAddr::V4(v4.0)),
            RData::AAAA(v6) => Some(IpAddr::V6(v6.0).to_canonical()),
            _ => None,
        };
        let mut v4 = pin!(question(self.resolver.lookup(name, RecordType::A), address));
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

/// Returns a client of these `resolvers`. If there are none, a thread that may wait reads the system's files for them.
async fn resolver(resolvers: &[SocketAddr]) -> Result<TokioResolver, DnsFault> {
    if !resolvers.is_empty() {
        return resolver_of(resolvers);
    }
    match timeout(FILE_PATIENCE, file_call::call(Path::new(SYSTEM_FILE), system_resolver)).await {
        Ok(Ok(read)) => read,
        Ok(Err(_)) | Err(_) => Err(DnsFault::Unread),
    }
}

/// Reads the files. It blocks.
fn system_resolver() -> Result<TokioResolver, DnsFault> {
    build(TokioResolver::builder_tokio()?)
}

fn resolver_of(resolvers: &[SocketAddr]) -> Result<TokioResolver, DnsFault> {
    let servers = resolvers.iter().map(|address| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        for connection in &mut server.connections {
            connection.port = address.port();
        }
        server
    });
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = ONE_TRY;
    options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
    build(builder)
}

fn build(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<TokioResolver, DnsFault> {
    // When to ask is decided by the pace alone, or by the cache of who forwards.
    builder.options_mut().cache_size = 0;
    Ok(builder.build()?)
}
