//! What a pool is meant to be: plain values that the configuration fills and checks.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::announce::AnnounceSpec;
use super::discover::source::DiscoverSpec;
use super::forward::forward_spec::ForwardSpec;
#[cfg(feature = "tls-checks")]
use super::probe::TlsClient;
use crate::balance::{Algorithm, MaxLoad};
use crate::limit::QuotaSpec;
use crate::live::PeerTimeouts;
use crate::sys::Address;
use crate::sys::socket::KernelBuffers;
use crate::wire::proxy_protocol::HeaderVersion;
use crate::wire::{Script, ServerName};

/// A pool as configured. Equal specs need no rebuild.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// The pool's name: its identity over reloads.
    pub name: Arc<str>,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// What the hash balancers hash. Kept, and unused, for the others.
    pub hash_on: HashParts,
    /// How much of a source address counts.
    pub source_prefix: SourcePrefix,
    /// The 16-byte SipHash key shared by all nodes.
    pub hash_key: [u8; 16],
    /// The most that the hash balancers let a backend have beside the others. Default: no bound.
    pub max_load: Option<MaxLoad>,
    /// How long a backend that came up takes less than its share, growing evenly. Default: it takes all.
    pub slow_start: Option<Duration>,
    /// The backends, in written order, identities distinct, at least one weight above 0; where more are
    /// discovered there may be none.
    pub backends: Vec<BackendSpec>,
    /// Where further backends come from: first the host names among the backends, as they are written, then others.
    pub discover: Vec<DiscoverSpec>,
    /// The host names at which checks and agents ask, each name once. Their addresses are no backends.
    pub check_names: Vec<DiscoverSpec>,
    /// Clients go to the hosts they name. The one backend of such a pool is [`Forward::stand_in`]; `None` is a
    /// pool with backends.
    ///
    /// [`Forward::stand_in`]: super::Forward::stand_in
    pub forward: Option<ForwardSpec>,
    /// Active checks, or `None` when switched off.
    pub health: Option<HealthSpec>,
    /// Agents that say how their backends are, or `None` when nobody is asked.
    pub agent: Option<AgentSpec>,
    /// Ejection of backends that fail clients, or `None` when switched off, the default.
    pub ejection: Option<EjectionSpec>,
    /// What happens to what is open to a backend that goes down.
    pub on_down: OnDown,
    /// How connections to a backend are opened.
    pub dial: DialSpec,
    /// What backends are told of their clients first, or `None`: nothing.
    pub proxy_protocol: Option<AnnounceSpec>,
    /// Which backends come first.
    pub tiers: TierSpec,
    /// Where connections wait while every backend is full, or `None`: then they are refused.
    pub queue: Option<QueueSpec>,
    /// What all backends together may have, or `None`: no limits.
    pub limits: Option<QuotaSpec>,
    /// Whether requests to cancel a query come here, so that it has to be known where each source has its
    /// sessions. Default: not.
    pub gets_cancels: bool,
}

impl PoolSpec {
    /// A pool with everything else as it is where the configuration says nothing, and the key of zeros.
    pub fn new(name: Arc<str>, backends: Vec<BackendSpec>) -> Self {
        Self {
            name,
            algorithm: Algorithm::Maglev,
            hash_on: HashOn::SourceIp.into(),
            source_prefix: SourcePrefix::default(),
            hash_key: [0; 16],
            max_load: None,
            slow_start: None,
            backends,
            discover: Vec::new(),
            check_names: Vec::new(),
            forward: None,
            health: Some(HealthSpec::default()),
            agent: None,
            ejection: None,
            on_down: OnDown::Keep,
            dial: DialSpec::default(),
            proxy_protocol: None,
            tiers: TierSpec::default(),
            queue: None,
            limits: None,
            gets_cancels: false,
        }
    }

    /// The longest that a connection may look for a backend, a wait in the queue included.
    pub fn longest_dial(&self) -> Duration {
        self.dial.dial_timeout + self.queue.map_or(Duration::ZERO, |queue| queue.timeout)
    }

    /// How many backends are written: addresses and host names.
    pub fn written(&self) -> usize {
        self.backends.len() + self.discover.iter().filter(|source| source.host.is_some()).count()
    }

    /// Whether a file or the DNS is followed for the pool.
    pub fn has_sources(&self) -> bool {
        !self.discover.is_empty() || !self.check_names.is_empty()
    }

    /// Failures in a row that are too many; 0: any number is borne.
    pub(super) fn borne(&self) -> u32 {
        self.ejection.as_ref().map_or(0, |spec| spec.consecutive_failures)
    }
}

/// A backend as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// The name if one is given, else the address: the identity over reloads, in logs and in metrics.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: Address,
    /// Its share of the traffic relative to the others; 0 takes no new connections.
    pub weight: u16,
    /// Where it stands; `None` is a place of its own, which is in nobody's list.
    pub zone: Option<Arc<str>>,
    /// Whether it is used only while no other backend of the pool can be.
    pub backup: bool,
    /// Connections that it has at once, from this process; `None` is no limit.
    pub max_connections: Option<u64>,
    /// What the operator wants of it.
    pub operator_state: OperatorState,
    /// Where its check and its agent are, if not where the pool says.
    pub targets: CheckTargets,
    /// The origin of its name.
    pub origin: NameOrigin,
}

/// The origin of a backend's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameOrigin {
    /// The configuration, by its address.
    #[default]
    Configuration,
    /// The configuration, by the name of a host that has the address.
    Host,
    /// A source of the pool.
    Discovery,
}

impl NameOrigin {
    /// The word in the status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Host => "host_name",
            Self::Discovery => "discovery",
        }
    }
}

impl BackendSpec {
    /// A backend with everything else as it is where the configuration says nothing.
    pub fn new(name: impl Into<Arc<str>>, address: Address) -> Self {
        Self {
            name: name.into(),
            address,
            weight: 1,
            zone: None,
            backup: false,
            max_connections: None,
            operator_state: OperatorState::Ready,
            targets: CheckTargets::default(),
            origin: NameOrigin::Configuration,
        }
    }
}

/// What the operator wants of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OperatorState {
    /// To serve, when nothing else speaks against it.
    #[default]
    Ready,
    /// No new connections; those that are open stay.
    Drain,
    /// The same, and its checks pause: it may be taken apart.
    Maintenance,
}

impl OperatorState {
    /// The word in the file and in messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}

/// Where the check and the agent of one backend are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckTargets {
    /// Where it is checked.
    pub health: CheckTarget,
    /// Where its agent is.
    pub agent: CheckTarget,
}

/// Where something of a backend is asked, as far as that is not where the backend itself listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckTarget {
    /// The host.
    pub host: Option<TargetHost>,
    /// The port; no Unix socket has one.
    pub port: Option<u16>,
}

/// A host that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetHost {
    /// An IP address, with its scope if it is link-local. The port has no meaning.
    Address(Address),
    /// One with this name, as it is written.
    Name(Arc<str>),
    /// This one, by a socket's path.
    Unix(Arc<Path>),
}

impl CheckTarget {
    /// Returns the endpoint to ask for a backend that listens at `backend` and whose `own` target goes before this one
    /// of its pool. `None` if a port is wanted of a Unix socket, or none is known for a host.
    pub fn endpoint(&self, own: &CheckTarget, backend: &Address) -> Option<Endpoint> {
        let port = own.port.or(self.port);
        // The port is that of the backend, if none is written.
        let of_host = || port.or_else(|| Some(backend.tcp()?.port()));
        let address = match own.host.as_ref().or(self.host.as_ref()) {
            Some(TargetHost::Name(name)) => {
                return Some(Endpoint::Name { name: Arc::clone(name), port: of_host()? });
            }
            Some(TargetHost::Unix(path)) => Address::Unix(Arc::clone(path)),
            Some(TargetHost::Address(host)) => host.with_port(of_host()?)?,
            None => match port {
                Some(port) => backend.with_port(port)?,
                None => backend.clone(),
            },
        };
        Some(Endpoint::Address(address))
    }

    /// Returns the host name, if the target has one.
    pub fn name(&self) -> Option<&Arc<str>> {
        match &self.host {
            Some(TargetHost::Name(name)) => Some(name),
            Some(TargetHost::Address(_) | TargetHost::Unix(_)) | None => None,
        }
    }
}

/// Where a check or an agent is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// At this address.
    Address(Address),
    /// At a host, by its name as it is written.
    Name {
        /// The name.
        name: Arc<str>,
        /// The port; 0 is none.
        port: u16,
    },
}

impl Endpoint {
    /// Whether the port is missing.
    pub fn is_without_port(&self) -> bool {
        match self {
            Self::Address(address) => address.is_without_port(),
            Self::Name { port, .. } => *port == 0,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            // A final dot says how the name is looked up, and is no part of it.
            Self::Name { name, port } => write!(f, "{}:{port}", name.strip_suffix('.').unwrap_or(name)),
        }
    }
}

/// Which backends come first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierSpec {
    /// The zone of this node, whose backends come first. Default: none comes first.
    pub zone: Option<Arc<str>>,
    /// The zones that come next, in order of preference; those in no list come last, all alike.
    pub zones: Vec<Arc<str>>,
    /// The percentage of weight that is up, 1 to 100, below which health is disregarded. Default: never.
    pub panic_threshold: Option<u8>,
}

/// Where connections wait while every backend is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    /// Connections that may wait at once, at least 1.
    pub length: usize,
    /// How long one may wait, all its waits together. Default 5 s.
    pub timeout: Duration,
}

/// What a hash balancer may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// The client's address, cut to a prefix.
    SourceIp,
    /// The client's whole address and port.
    SourceIpPort,
    /// The server name; alone, the source address where a client sends none.
    Sni,
    /// The host name that a PROXY header tells; where there is none, the server name in its stead.
    ProxyAuthority,
}

/// What a hash balancer looks at: one part, or several together.
///
/// The order in which they were given does not count, nor does a source address beside its port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashParts(u8);

impl HashParts {
    const ALL: [HashOn; 4] = [HashOn::SourceIp, HashOn::SourceIpPort, HashOn::Sni, HashOn::ProxyAuthority];

    /// With one part more.
    #[must_use]
    pub fn and(self, part: HashOn) -> Self {
        Self(self.0 | bit(part))
    }

    /// Whether a part counts.
    pub fn contains(self, part: HashOn) -> bool {
        let is_in = self.0 & bit(part) == bit(part);
        is_in
            && match part {
                HashOn::SourceIp => !self.contains(HashOn::SourceIpPort),
                HashOn::Sni => !self.contains(HashOn::ProxyAuthority),
                HashOn::SourceIpPort | HashOn::ProxyAuthority => true,
            }
    }

    /// The parts that count, in the order of the key.
    pub fn iter(self) -> impl Iterator<Item = HashOn> {
        Self::ALL.into_iter().filter(move |part| self.contains(*part))
    }

    /// The part that counts, if it is one alone.
    pub fn alone(self) -> Option<HashOn> {
        Self::ALL.into_iter().find(|part| Self(bit(*part)) == self)
    }
}

impl From<HashOn> for HashParts {
    fn from(part: HashOn) -> Self {
        Self(bit(part))
    }
}

impl fmt::Debug for HashParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

const fn bit(part: HashOn) -> u8 {
    match part {
        HashOn::SourceIp => 1,
        // The address is part of it, so that it makes no difference whether that is named as well.
        HashOn::SourceIpPort => 3,
        HashOn::Sni => 4,
        // It stands in for the server name, so that it makes no difference whether that is named as well.
        HashOn::ProxyAuthority => 12,
    }
}

/// How many leading bits of a source address are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePrefix {
    /// For IPv4 and IPv4-mapped addresses, 1 to 32. Default 32.
    pub v4: u8,
    /// For IPv6, 1 to 128. Default 64: one network, one user.
    pub v6: u8,
}

impl Default for SourcePrefix {
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

/// Active checks of a pool's backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSpec {
    /// What a check does.
    pub check: CheckKind,
    /// Where it goes. Default: where the backend listens.
    pub target: CheckTarget,
    /// The PROXY header that is sent first, or `None`.
    pub proxy_protocol: Option<CheckHeader>,
    /// The TLS that the check goes through, or `None`. Always `None` in a build without the feature `tls-checks`.
    pub tls: Option<TlsSpec>,
    /// Time between the starts of two checks of one backend. Default 2 s.
    pub interval: Duration,
    /// The same while the last result speaks against the backend's state. Default: the interval.
    pub fast_interval: Duration,
    /// The same while the backend is down. Default: the interval.
    pub down_interval: Duration,
    /// How long one check may take. Default: the interval, at most 5 s.
    pub timeout: Duration,
    /// Successes in a row that bring a backend up. Default 2.
    pub rise: u32,
    /// Failures in a row that take a backend down. Default 3.
    pub fall: u32,
}

impl Default for HealthSpec {
    fn default() -> Self {
        let interval = Duration::from_secs(2);
        Self {
            check: CheckKind::Tcp,
            target: CheckTarget::default(),
            proxy_protocol: None,
            tls: None,
            interval,
            fast_interval: interval,
            down_interval: interval,
            timeout: interval,
            rise: 2,
            fall: 3,
        }
    }
}

/// The PROXY header of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckHeader {
    /// One of a connection on the sender's own account. Version 2 has LOCAL for it, version 1 the two ends of the
    /// connection.
    Local(HeaderVersion),
    /// One with the two ends of the connection, as for a client's. For servers that close on LOCAL.
    Proxy(HeaderVersion),
}

/// TLS of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSpec {
    /// The name that is asked for, and that the certificate must have where it is judged. Default: none is sent, and
    /// the certificate must have the address.
    pub server_name: Option<ServerName>,
    /// The protocols that are offered by ALPN, in order of preference. Default: ALPN is not used.
    pub alpn: Vec<Arc<str>>,
    /// Whose certificates are accepted. Default: any certificate, which is not judged.
    pub ca: Option<CaFile>,
    /// What the TLS library makes of all that.
    pub client: TlsClient,
}

/// Without checks over TLS there is no library.
#[cfg(not(feature = "tls-checks"))]
type TlsClient = ();

/// A file with certificates of authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaFile {
    /// Where it is.
    pub path: Arc<Path>,
    /// The certificates in it, in DER.
    pub certificates: Arc<[Box<[u8]>]>,
}

/// What a check does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// Opens a TCP connection and closes it.
    Tcp,
    /// Opens a TCP connection and has this dialogue on it.
    Dialogue(Script),
}

/// Agents of a pool's backends: each connection to one is answered by a line about its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSpec {
    /// Where they are. The port is given here or at each backend.
    pub target: CheckTarget,
    /// Time between the starts of two questions to one agent. Default 2 s.
    pub interval: Duration,
    /// How long one answer may take. Default: the interval, at most 5 s.
    pub timeout: Duration,
    /// What is sent first. Default: nothing.
    pub send: Option<Arc<[u8]>>,
}

/// Ejection: a backend that fails one client after the other gets none for a while, whatever its checks
/// say. Names and defaults are those of Envoy's outlier detection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EjectionSpec {
    /// Failed connects, or resets before the backend has sent a byte, in a row. Default 5.
    pub consecutive_failures: u32,
    /// How long the first ejection lasts; one right after it twice as long, then three times. Default 30 s.
    pub base_time: Duration,
    /// The longest time for one. Default 300 s.
    pub max_time: Duration,
    /// The part of the pool that may be ejected at once, in percent; one backend always may, unless no
    /// other is available. Default 10.
    pub max_ejected: u8,
}

impl Default for EjectionSpec {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
            max_ejected: 10,
        }
    }
}

/// What happens to what is open to a backend that goes down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDown {
    /// It goes on, until one of its sides ends it. A down backend may well serve whom it has.
    #[default]
    Keep,
    /// It is reset, one connection after the other.
    Close {
        /// Connections a second, over all backends of the pool. Default 100.
        rate: u32,
    },
}

/// How connections to a backend are opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialSpec {
    /// Different backends tried for one client. Default 3.
    pub attempts: u32,
    /// How long one attempt may take. Default 5 s.
    pub connect_timeout: Duration,
    /// How long all attempts together may take. Default 15 s.
    pub dial_timeout: Duration,
    /// Where connections to backends come from; checks and agents not.
    pub source: DialSource,
    /// What the kernel may hold for a backend and of it; checks and agents not. Default: what the system's
    /// settings allow.
    pub buffers: KernelBuffers,
    /// The timeouts of a backend that does not answer or does not read. Shared with the connections to it.
    pub peer_timeouts: Arc<PeerTimeouts>,
}

/// The address that connections to backends come from, as those see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DialSource {
    /// The kernel's choice: one of this host.
    #[default]
    Any,
    /// The client's, with a port of the kernel's choice. A client without one, or with one of the other family
    /// than the backend's, is not connected.
    Client,
    /// This one of this host, towards backends of its family.
    Address(IpAddr),
}

impl Default for DialSpec {
    fn default() -> Self {
        Self {
            attempts: 3,
            connect_timeout: Duration::from_secs(5),
            dial_timeout: Duration::from_secs(15),
            source: DialSource::Any,
            buffers: KernelBuffers::default(),
            peer_timeouts: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// A target from text: a host, a port, both or neither.
    fn target(text: &str) -> CheckTarget {
        let (host, port) = text.split_once('#').unwrap_or((text, ""));
        let host = match host.strip_prefix("unix:") {
            Some(path) => Some(TargetHost::Unix(Path::new(path).into())),
            None if host.is_empty() => None,
            None => Some(match host.parse::<IpAddr>() {
                Ok(ip) => TargetHost::Address(SocketAddr::new(ip, 0).into()),
                Err(_) => TargetHost::Name(host.into()),
            }),
        };
        CheckTarget { host, port: port.parse().ok() }
    }

    fn check(pool: &str, own: &str, backend: &str, expected: &str) {
        let endpoint = target(pool).endpoint(&target(own), &backend.parse().unwrap());
        let found = endpoint.map(|endpoint| endpoint.to_string());
        assert_eq!(found.as_deref().unwrap_or("none"), expected, "{pool} {own} {backend}");
    }

    #[test]
    fn the_backend_goes_before_its_pool() {
        check("", "", "10.0.0.1:443", "10.0.0.1:443");
        check("#80", "", "10.0.0.1:443", "10.0.0.1:80");
        check("#80", "#81", "10.0.0.1:443", "10.0.0.1:81");
        check("10.0.0.9", "", "10.0.0.1:443", "10.0.0.9:443");
        check("10.0.0.9#80", "", "10.0.0.1:443", "10.0.0.9:80");
        check("10.0.0.9#80", "10.0.0.8", "10.0.0.1:443", "10.0.0.8:80");
        check("10.0.0.9#80", "#81", "10.0.0.1:443", "10.0.0.9:81");
        check("", "::1#81", "10.0.0.1:443", "[::1]:81");
        check("unix:/x", "", "10.0.0.1:443", "unix:/x");
        // A link-local address keeps its scope.
        check("#80", "", "[fe80::1%2]:443", "[fe80::1%2]:80");
        check("", "", "[fe80::1%2]:443", "[fe80::1%2]:443");
        check("#80", "", "[fe80::1%eth0]:443", "[fe80::1%eth0]:80");
        check("10.0.0.9#80", "unix:/x", "10.0.0.1:443", "unix:/x");
        check("probe", "", "10.0.0.1:443", "probe:443");
        check("probe.#80", "", "10.0.0.1:443", "probe:80");
        check("10.0.0.9#80", "probe", "10.0.0.1:443", "probe:80");
        check("probe#80", "10.0.0.8", "10.0.0.1:443", "10.0.0.8:80");
    }

    #[test]
    fn unix_sockets_have_no_port() {
        check("", "", "unix:/b", "unix:/b");
        check("#80", "", "unix:/b", "none");
        check("", "#80", "unix:/b", "none");
        check("10.0.0.9", "", "unix:/b", "none");
        check("10.0.0.9", "#80", "unix:/b", "10.0.0.9:80");
        check("unix:/x", "", "unix:/b", "unix:/x");
        check("probe", "", "unix:/b", "none");
        check("probe#80", "", "unix:/b", "probe:80");
    }
}
