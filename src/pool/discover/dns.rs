//! Sends single questions to the DNS. Only this module and the faults use the resolver library.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::{Answer, Heard, Late, Part, SrvRecord};
use super::fault::DnsFault;
use super::resolv_conf::ResolvConf;
use super::system::{NameSystem, SystemNames};

/// The longest time for one question, with all its repetitions at all resolvers.
const LONGEST_QUESTION: Duration = Duration::from_secs(10);

/// The time after which a question is sent again, or to another resolver, if the configuration names the resolvers.
const ONE_TRY: Duration = Duration::from_secs(2);

/// The time for which an address of the file of hosts counts: until the file changes.
const UNTIL_CHANGED: Duration = Duration::MAX;

/// The time for which the answer of one family waits for the answer of the other family (RFC 8305, section 3). Some
/// resolvers never answer a query for AAAA.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// The most late answers that the whole process awaits at once. Each has a socket.
pub(super) const LATE_AT_ONCE: usize = 64;

/// The most names that the whole process asks for at once. Each name has two questions, each question a socket.
pub(super) const NAMES_AT_ONCE: usize = 32;

/// The two families of addresses.
#[derive(Clone, Copy, Debug)]
enum AddressFamily {
    V4,
    V6,
}

impl AddressFamily {
    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    const fn records(self) -> RecordType {
        match self {
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
        }
    }
}

impl Part {
    fn whole(name: Arc<str>, v4: Heard<IpAddr>, v6: Heard<IpAddr>) -> Self {
        Self { name, v4: Some(v4), v6: Some(v6) }
    }

    fn of(name: &Arc<str>, family: AddressFamily, heard: Heard<IpAddr>) -> Self {
        let nothing = Self { name: Arc::clone(name), v4: None, v6: None };
        match family {
            AddressFamily::V4 => Self { v4: Some(heard), ..nothing },
            AddressFamily::V6 => Self { v6: Some(heard), ..nothing },
        }
    }

    /// Adds the answer of the other family.
    fn and(self, family: AddressFamily, heard: Heard<IpAddr>) -> Self {
        match family {
            AddressFamily::V4 => Self { v4: Some(heard), ..self },
            AddressFamily::V6 => Self { v6: Some(heard), ..self },
        }
    }

    /// Returns true if an address has come.
    pub(super) fn has_addresses(&self) -> bool {
        [&self.v4, &self.v6].into_iter().flatten().any(has_records)
    }

    /// Returns the fault of an answer without addresses.
    fn fault(self) -> DnsFault {
        let faults = [self.v4, self.v6].into_iter().flatten().filter_map(Result::err);
        faults.into_iter().next().unwrap_or(DnsFault::Empty)
    }
}

/// The resolvers to query: the resolvers of the configuration, or the resolvers that the files of the system
/// have now.
#[derive(Clone)]
pub(in crate::pool) struct Askers {
    resolvers: Arc<[SocketAddr]>,
    /// `None` if the configuration names resolvers: then the system's files are not read.
    system: Option<SystemNames>,
    limits: QuestionLimits,
}

/// The limits of open questions.
#[derive(Clone, Debug)]
pub(in crate::pool) struct QuestionLimits {
    /// Names whose first answer is awaited. Each name has two questions.
    names: Arc<Semaphore>,
    /// Late answers. They have a limit of their own, so that a server that never answers delays no other name.
    late: Arc<Semaphore>,
}

impl QuestionLimits {
    /// Returns limits for names and for late answers.
    pub(in crate::pool) fn new(names: usize, late: usize) -> Self {
        Self { names: Arc::new(Semaphore::new(names)), late: Arc::new(Semaphore::new(late)) }
    }
}

impl Askers {
    /// Returns a value that asks these resolvers. Without resolvers, it resolves as `system` does.
    pub(in crate::pool) fn new(
        resolvers: &[SocketAddr],
        system: impl FnOnce() -> SystemNames,
        limits: QuestionLimits,
    ) -> Self {
        let system = if resolvers.is_empty() { Some(system()) } else { None };
        Self { resolvers: resolvers.into(), system, limits }
    }

    /// Returns the resolvers to ask now.
    ///
    /// # Errors
    ///
    /// Fails if the files of the system could not be read.
    pub(in crate::pool) async fn now(&mut self) -> Result<Asker, DnsFault> {
        let system = match &mut self.system {
            Some(system) => Some(system.now().await?),
            None => None,
        };
        let resolver = match &system {
            Some(system) => resolver_of_system(&system.resolv_conf)?,
            None => resolver_of(&self.resolvers)?,
        };
        Ok(Asker { resolver, system, limits: self.limits.clone() })
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

/// Sends single questions to the resolvers of one moment.
#[derive(Clone)]
pub(in crate::pool) struct Asker {
    resolver: TokioResolver,
    /// The files of the system that resolve names; `None` if the configuration names resolvers.
    system: Option<NameSystem>,
    limits: QuestionLimits,
}

impl Asker {
    /// Returns the IPv4 and IPv6 addresses of a name. A name in the file of hosts has the addresses of the file,
    /// and no resolver is asked. Otherwise the names of the search list are queried in turn, and the first name
    /// with an address counts for both families. An answer of the other family that does not come in
    /// [`RESOLUTION_DELAY`] is late.
    pub(in crate::pool) async fn addresses(&self, name: &str) -> (Part, Option<Late>) {
        let of_hosts = self.system.as_ref().and_then(|system| system.hosts.addresses(name));
        if let Some(addresses) = of_hosts.or_else(|| self.localhost(name)) {
            let (v4, v6) = of_families(addresses);
            return (Part::whole(name.into(), v4, v6), None);
        }
        let mut last: Option<DnsFault> = None;
        for candidate in self.candidates(name) {
            let (part, late) = self.pair(&candidate.into()).await;
            if part.has_addresses() {
                return (part, late);
            }
            let fault = part.fault();
            let ends = ends_search(&fault);
            last = Some(graver(last, fault));
            if ends {
                break;
            }
        }
        let fault = self.explained(last.unwrap_or(DnsFault::Empty));
        (Part::whole(name.into(), Err(fault.clone()), Err(fault)), None)
    }

    /// Returns the loopback addresses for `localhost`, which has them without any file (RFC 6761, section 6.3).
    fn localhost(&self, name: &str) -> Option<&'static [IpAddr]> {
        const LOOPBACK: [IpAddr; 2] =
            [IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];
        let is_localhost =
            self.system.is_some() && name.strip_suffix('.').unwrap_or(name).eq_ignore_ascii_case("localhost");
        is_localhost.then_some(&LOOPBACK)
    }

    /// Returns the whole names to ask for, in order.
    fn candidates(&self, name: &str) -> Vec<Box<str>> {
        match &self.system {
            Some(system) => system.resolv_conf.candidates(name),
            None if name.ends_with('.') => vec![name.into()],
            None => vec![format!("{name}.").into()],
        }
    }

    /// Returns the fault. If no file names a resolver, adds that 127.0.0.1 was queried by default.
    fn explained(&self, fault: DnsFault) -> DnsFault {
        let is_by_default = self.system.as_ref().is_some_and(|system| system.resolv_conf.is_by_default);
        match fault {
            fault @ (DnsFault::Net(_) | DnsFault::Timeout) if is_by_default => {
                DnsFault::ByDefault(Box::new(fault))
            }
            fault => fault,
        }
    }

    /// Returns the A and AAAA records of a whole name. If the result has no address, both answers have come.
    async fn pair(&self, name: &Arc<str>) -> (Part, Option<Late>) {
        let one_of_few = self.limits.names.acquire().await;
        let mut v4 = self.records(name, AddressFamily::V4);
        if self.system.as_ref().is_some_and(|system| system.resolv_conf.no_aaaa) {
            let none = Ok(Answer { records: Vec::new(), ttl: Duration::ZERO });
            return (Part::whole(Arc::clone(name), v4.await, none), None);
        }
        let mut v6 = self.records(name, AddressFamily::V6);
        let (family, first, mut other) = tokio::select! {
            heard = &mut v4 => (AddressFamily::V4, heard, v6),
            heard = &mut v6 => (AddressFamily::V6, heard, v4),
        };
        let has_some = has_records(&first);
        // A name that does not exist has no address of the other family either (RFC 8020). The clients of forwarding
        // pools may name many such hosts.
        let is_passed_over = matches!(first, Err(DnsFault::NoName));
        let part = Part::of(name, family, first);
        let family = family.other();
        if !has_some && !is_passed_over {
            return (part.and(family, other.await), None);
        }
        match timeout(RESOLUTION_DELAY, &mut other).await {
            Ok(heard) => (part.and(family, heard), None),
            Err(_elapsed) if is_passed_over => (part.and(family, Err(DnsFault::NoName)), None),
            Err(_elapsed) => {
                drop(one_of_few);
                self.late(part, family, other)
            }
        }
    }

    /// Returns a part whose other family is late. If too many answers are late, the family gets a timeout instead.
    fn late(&self, part: Part, family: AddressFamily, other: FamilyAnswer) -> (Part, Option<Late>) {
        let Ok(one_of_few) = Arc::clone(&self.limits.late).try_acquire_owned() else {
            return (part.and(family, Err(DnsFault::Timeout)), None);
        };
        let name = Arc::clone(&part.name);
        let late = async move {
            let heard = other.await;
            drop(one_of_few);
            Part::of(&name, family, heard)
        };
        (part, Some(Box::pin(late)))
    }

    /// Asks for the records of one family.
    fn records(&self, name: &Arc<str>, family: AddressFamily) -> FamilyAnswer {
        let (resolver, name) = (self.resolver.clone(), whole_name(name));
        let address = |data: &RData| match data {
            RData::A(v4) => Some(IpAddr::V4(v4.0)),
            RData::AAAA(v6) => Some(IpAddr::V6(v6.0).to_canonical()),
            _ => None,
        };
        Box::pin(async move { question(resolver.lookup(name?, family.records()), address).await })
    }

    /// Returns the SRV records of a name.
    pub(super) async fn services(&self, name: &str) -> Heard<SrvRecord> {
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

    async fn services_of(&self, name: &str) -> Heard<SrvRecord> {
        let _one_of_few = self.limits.names.acquire().await;
        question(self.resolver.lookup(whole_name(name)?, RecordType::SRV), |data| match data {
            RData::SRV(srv) => Some(SrvRecord {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: srv.target.to_lowercase().to_ascii().trim_end_matches('.').into(),
            }),
            _ => None,
        })
        .await
    }
}

/// Returns the name as a value of the library. The name is used as it is written, in ASCII. The library's
/// conversion of other scripts (IDNA) refuses `_` inside a label, and its tables are not built in (Cargo.toml).
fn whole_name(name: &str) -> Result<Name, DnsFault> {
    Name::from_ascii(name).map_err(|fault| DnsFault::Net(fault.into()))
}

/// The answer of one family, when it comes.
type FamilyAnswer = Pin<Box<dyn Future<Output = Heard<IpAddr>> + Send>>;

/// Returns the records of an answer that `pick` takes. An answer without records is not a fault here.
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
    // The answer counts for the shortest TTL of all its records, CNAME records included.
    let ttl = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
    let records = lookup.answers().iter().filter_map(|record| pick(&record.data)).collect();
    Ok(Answer { records, ttl: Duration::from_secs(ttl.into()) })
}

/// Returns true if a search ends with this fault. As in glibc, the search goes on after a name that does not exist
/// and after an error code of the resolver. It ends if no answer came: the next name could be another host than the
/// intended host.
fn ends_search(fault: &DnsFault) -> bool {
    !matches!(fault, DnsFault::NoName | DnsFault::Empty | DnsFault::Refused(_))
}

/// Returns the fault that a search reports. A name without addresses counts more than a name that does not
/// exist. A fault of the resolver counts more than both.
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

/// Returns addresses of the file of hosts as two answers, one for each family.
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

/// Returns a resolver for whole names. This crate applies the search list and the file of hosts, not the library.
fn build(servers: Vec<NameServerConfig>, mut options: ResolverOpts) -> Result<TokioResolver, DnsFault> {
    options.use_hosts_file = ResolveHosts::Never;
    // No cache here: the schedule of a source or the cache of a forwarding pool decides when to ask again.
    options.cache_size = 0;
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    Ok(builder.build()?)
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::ResponseCode;

    use super::*;

    /// Checks the fault that a search reports if its names have these faults in turn.
    fn check(faults: &[DnsFault], expected: &str) {
        let mut last = None;
        for fault in faults {
            let ends = ends_search(fault);
            last = Some(graver(last, fault.clone()));
            if ends {
                break;
            }
        }
        assert_eq!(last.unwrap().to_string(), expected, "{faults:?}");
    }

    #[test]
    fn a_search_goes_on_as_in_glibc() {
        use DnsFault::{Empty, NoName, Refused, Timeout};
        const FAILED: DnsFault = Refused(ResponseCode::ServFail);
        const NO_NAME: &str = "there is no such name (NXDOMAIN)";
        const EMPTY: &str = "the answer has no usable record";
        check(&[NoName, NoName], NO_NAME);
        check(&[NoName, Empty, NoName], EMPTY);
        check(&[FAILED, NoName, Empty], "the resolver answered: Server Failure");
        // The search ends: the next name could be another host than the intended host.
        check(&[NoName, Timeout, Empty], "no resolver answered in time");
    }

    #[test]
    fn a_name_is_asked_for_as_it_is_written() {
        for name in ["db_1.example.", "_sip._tcp.example.", "xn--bcher-kva.example.", "a.b-c.1.example."] {
            assert_eq!(whole_name(name).unwrap().to_ascii(), name);
        }
        assert!(whole_name("b\u{fc}cher.example.").is_err());
    }

    #[test]
    fn an_address_of_the_file_of_hosts_holds_until_it_changes() {
        let addresses: Vec<IpAddr> = ["10.0.0.1", "::1", "10.0.0.2"].map(|ip| ip.parse().unwrap()).into();
        let (v4, v6) = of_families(&addresses);
        let (v4, v6) = (v4.unwrap(), v6.unwrap());
        assert_eq!((v4.records.len(), v6.records.len()), (2, 1));
        assert_eq!((v4.ttl, v6.ttl), (Duration::MAX, Duration::MAX));
        let (_, none) = of_families(&addresses[..1]);
        assert!(
            none.unwrap().records.is_empty(),
            "the other family has no address, and no resolver is asked"
        );
    }
}
