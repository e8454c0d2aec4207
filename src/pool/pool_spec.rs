//! The spec of a pool: plain values that the configuration fills and checks.

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
    /// The algorithm that picks a backend.
    pub algorithm: Algorithm,
    /// The parts of a connection that the hash balancers hash. Other balancers ignore them.
    pub hash_on: HashParts,
    /// The leading bits of a source address that are hashed.
    pub source_prefix: SourcePrefix,
    /// The 16-byte SipHash key shared by all nodes.
    pub hash_key: [u8; 16],
    /// The upper bound of a backend's load, relative to the average, with the hash balancers. Default: no bound.
    pub max_load: Option<MaxLoad>,
    /// The time in which the share of a backend that came up grows evenly to its whole. Default: it takes all at
    /// once.
    pub slow_start: Option<Duration>,
    /// The backends, in written order, identities distinct, at least one weight above 0. The list may be empty if
    /// backends are discovered.
    pub backends: Vec<BackendSpec>,
    /// The sources of further backends: first the host names among the backends, as they are written, then others.
    pub discover: Vec<DiscoverSpec>,
    /// The host names of checks and agents, each name once. Their addresses are no backends.
    pub check_names: Vec<DiscoverSpec>,
    /// The forwarding of clients to the hosts that they name. The one backend of such a pool is
    /// [`Forward::stand_in`]; `None` is a pool with backends.
    ///
    /// [`Forward::stand_in`]: super::Forward::stand_in
    pub forward: Option<ForwardSpec>,
    /// Active checks, or `None` when switched off.
    pub health: Option<HealthSpec>,
    /// Agents that report the state of their backends, or `None` if there are none.
    pub agent: Option<AgentSpec>,
    /// Ejection of backends that fail clients, or `None` when switched off, the default.
    pub ejection: Option<EjectionSpec>,
    /// The treatment of open connections to a backend that goes down.
    pub on_down: OnDown,
    /// The settings for connects to a backend.
    pub dial: DialSpec,
    /// The PROXY header that backends get first, or `None`.
    pub proxy_protocol: Option<AnnounceSpec>,
    /// The zones and the order of backends.
    pub tiers: TierSpec,
    /// The queue for connections while every backend is full; `None`: they are refused.
    pub queue: Option<QueueSpec>,
    /// The limits of all backends together; `None`: no limits.
    pub limits: Option<QuotaSpec>,
    /// True if requests to cancel a query come here, so that the pool stores at which backends each source has its
    /// sessions. Default: false.
    pub gets_cancels: bool,
}

impl PoolSpec {
    /// Creates a pool with the defaults of the configuration, and a key of zeros.
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

    /// The longest time that a connection may take to get a backend, a wait in the queue included.
    pub fn longest_dial(&self) -> Duration {
        self.dial.dial_timeout + self.queue.map_or(Duration::ZERO, |queue| queue.timeout)
    }

    /// The number of written backends: addresses and host names.
    pub fn written(&self) -> usize {
        self.backends.len() + self.discover.iter().filter(|source| source.host.is_some()).count()
    }

    /// Returns true if the pool follows a file or a DNS name.
    pub fn has_sources(&self) -> bool {
        !self.discover.is_empty() || !self.check_names.is_empty()
    }

    /// The number of failures in a row that make a failure report; 0 is never.
    pub(super) fn tolerated(&self) -> u32 {
        self.ejection.as_ref().map_or(0, |spec| spec.consecutive_failures)
    }
}

/// A backend as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// The name if one is given, else the address: the identity over reloads, in logs and in metrics.
    pub name: Arc<str>,
    /// The address at which it listens.
    pub address: Address,
    /// Its share of the traffic relative to the others; 0 takes no new connections.
    pub weight: u16,
    /// Its zone; `None` is a zone of its own, which is in no list.
    pub zone: Option<Arc<str>>,
    /// True if it is used only while no other backend of the pool can be used.
    pub backup: bool,
    /// The most connections at once, from this process; `None` is no limit.
    pub max_connections: Option<u64>,
    /// The state that the operator demands.
    pub operator_state: OperatorState,
    /// The endpoints of its check and its agent, if they differ from the endpoints of the pool.
    pub targets: CheckTargets,
    /// The origin of its name.
    pub origin: NameOrigin,
}

/// The origin of a backend's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameOrigin {
    /// The configuration, which has its address.
    #[default]
    Configuration,
    /// The configuration, which has the name of a host with this address.
    Host,
    /// A discovery source of the pool.
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
    /// Creates a backend with the defaults of the configuration.
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

/// The state that the operator demands of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OperatorState {
    /// In use, unless a check, an agent or an ejection takes it out.
    #[default]
    Ready,
    /// No new connections; open ones stay.
    Drain,
    /// As drain, and its checks pause: the server may be switched off.
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

/// The targets of the check and of the agent of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckTargets {
    /// The target of its check.
    pub health: CheckTarget,
    /// The target of its agent.
    pub agent: CheckTarget,
}

/// The host and port of a check or an agent, if they differ from the host and port of the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckTarget {
    /// The host.
    pub host: Option<TargetHost>,
    /// The port; no Unix socket has one.
    pub port: Option<u16>,
}

/// The host of a check or an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetHost {
    /// An IP address, with its scope if it is link-local. The port has no meaning.
    Address(Address),
    /// A host with this name, as it is written.
    Name(Arc<str>),
    /// This host, by the path of a Unix socket.
    Unix(Arc<Path>),
}

impl CheckTarget {
    /// Returns the endpoint of a check or an agent for a backend that listens at `backend`. This target is that of
    /// the pool; the backend's `own` target overrides it. Returns `None` if a port is written for a Unix socket, or
    /// if the port of a host is not known.
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

/// The endpoint of a check or an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An address.
    Address(Address),
    /// A host, by its name as it is written.
    Name {
        /// The name.
        name: Arc<str>,
        /// The port; 0 is none.
        port: u16,
    },
}

impl Endpoint {
    /// Returns true if the port is missing.
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
            // A final dot sets how the name is looked up, and is no part of it.
            Self::Name { name, port } => write!(f, "{}:{port}", name.strip_suffix('.').unwrap_or(name)),
        }
    }
}

/// The order in which backends are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierSpec {
    /// The zone of this node, whose backends come first. Default: no zone comes first.
    pub zone: Option<Arc<str>>,
    /// The zones that come next, in order of preference; those in no list come last, all alike.
    pub zones: Vec<Arc<str>>,
    /// The percentage of weight that is up, 1 to 100, below which picks ignore health. Default: never.
    pub panic_threshold: Option<u8>,
}

/// The queue for connections while every backend is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    /// Connections that may wait at once, at least 1.
    pub length: usize,
    /// The longest wait of one connection, all its waits together. Default 5 s.
    pub timeout: Duration,
}

/// A part of a connection that a hash balancer may hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// The client's address, cut to a prefix.
    SourceIp,
    /// The client's whole address and port.
    SourceIpPort,
    /// The server name. If it is the only part and a client sends no name, the source address is hashed.
    Sni,
    /// The host name in a PROXY header; if there is none, the server name.
    ProxyAuthority,
}

/// The parts that a hash balancer hashes: one, or several together.
///
/// The order in which they were given does not count. A source address adds nothing to a source address with its
/// port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashParts(u8);

impl HashParts {
    const ALL: [HashOn; 4] = [HashOn::SourceIp, HashOn::SourceIpPort, HashOn::Sni, HashOn::ProxyAuthority];

    /// Adds a part.
    #[must_use]
    pub fn and(self, part: HashOn) -> Self {
        Self(self.0 | bit(part))
    }

    /// Returns true if a part counts.
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

    /// The part that counts, if it is the only one.
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
        // The address is part of it, so it makes no difference if both are given.
        HashOn::SourceIpPort => 3,
        HashOn::Sni => 4,
        // It replaces the server name, so it makes no difference if both are given.
        HashOn::ProxyAuthority => 12,
    }
}

/// The number of leading bits of a source address that are hashed.
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
    /// The kind of check.
    pub check: CheckKind,
    /// The target of the check. Default: the address of the backend.
    pub target: CheckTarget,
    /// The PROXY header that is sent first, or `None`.
    pub proxy_protocol: Option<CheckHeader>,
    /// The TLS that the check goes through, or `None`. Always `None` in a build without the feature `tls-checks`.
    pub tls: Option<TlsSpec>,
    /// Time between the starts of two checks of one backend. Default 2 s.
    pub interval: Duration,
    /// The same while the last result contradicts the backend's state. Default: the interval.
    pub fast_interval: Duration,
    /// The same while the backend is down. Default: the interval.
    pub down_interval: Duration,
    /// The time limit of one check. Default: the interval, at most 5 s.
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
    /// A header for a connection of the sender itself. Version 2 sends LOCAL for it, version 1 the two ends of the
    /// connection.
    Local(HeaderVersion),
    /// A header with the two ends of the connection, in the form of a header for a client. For servers that close on
    /// LOCAL.
    Proxy(HeaderVersion),
}

/// TLS of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSpec {
    /// The name that is sent, and that a verified certificate must have. Default: no name is sent, and the
    /// certificate must have the address.
    pub server_name: Option<ServerName>,
    /// The protocols that are offered by ALPN, in order of preference. Default: ALPN is not used.
    pub alpn: Vec<Arc<str>>,
    /// The authorities whose certificates are accepted. Default: any certificate, without verification.
    pub ca: Option<CaFile>,
    /// The TLS library's form of these settings.
    pub client: TlsClient,
}

/// Without checks over TLS there is no library.
#[cfg(not(feature = "tls-checks"))]
type TlsClient = ();

/// A file with certificates of authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaFile {
    /// The path.
    pub path: Arc<Path>,
    /// The certificates in it, in DER.
    pub certificates: Arc<[Box<[u8]>]>,
}

/// The kind of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// Opens a TCP connection and closes it.
    Tcp,
    /// Opens a TCP connection and runs this dialogue on it.
    Dialogue(Script),
}

/// Agents of a pool's backends: an agent answers each connection with a line about its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSpec {
    /// The target. The port is given here or at each backend.
    pub target: CheckTarget,
    /// The time between the starts of two queries to one agent. Default 2 s.
    pub interval: Duration,
    /// The time limit of one answer. Default: the interval, at most 5 s.
    pub timeout: Duration,
    /// The bytes that are sent first. Default: none.
    pub send: Option<Arc<[u8]>>,
}

/// Ejection: a backend at which several clients in a row failed gets no clients for a while, even if its checks
/// pass. Names and defaults are those of Envoy's outlier detection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EjectionSpec {
    /// Failed connects, or resets before the backend has sent a byte, in a row. Default 5.
    pub consecutive_failures: u32,
    /// The duration of the first ejection; one right after it lasts twice as long, then three times. Default 30 s.
    pub base_time: Duration,
    /// The longest duration of one ejection. Default 300 s.
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

/// The treatment of open connections to a backend that goes down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDown {
    /// They go on, until one of their sides ends them. A backend that is down may still serve open connections.
    #[default]
    Keep,
    /// They are reset, one after the other.
    Close {
        /// Connections a second, over all backends of the pool. Default 100.
        rate: u32,
    },
}

/// The settings for connects to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialSpec {
    /// Different backends tried for one client. Default 3.
    pub attempts: u32,
    /// The time limit of one attempt. Default 5 s.
    pub connect_timeout: Duration,
    /// The time limit of all attempts together. Default 15 s.
    pub dial_timeout: Duration,
    /// The source address of connections to backends; not of checks and agents.
    pub source: DialSource,
    /// The kernel's buffers for connections to backends; not for checks and agents. Default: the settings of the
    /// system.
    pub buffers: KernelBuffers,
    /// The timeouts of a backend that does not answer or does not read. Shared with the connections to it.
    pub peer_timeouts: Arc<PeerTimeouts>,
}

/// The source address of connections, as backends see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DialSource {
    /// The kernel's choice: an address of this host.
    #[default]
    Any,
    /// The client's address, with a port of the kernel's choice. A client without an address, or with one of another
    /// family than the backend's, is not connected.
    Client,
    /// This address of this host, for backends of its family.
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

    /// Parses a target: a host, a port, both or neither.
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
