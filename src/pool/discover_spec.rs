//! The sources of a pool's further backends: plain values that the configuration fills and checks.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::pool::BackendSpec;

/// A source that is followed while the process runs. It lists backends, or the addresses of a host that checks
/// and agents connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoverSpec {
    /// The file or DNS name that lists them.
    pub source: DiscoverSource,
    /// The host name among the backends that has these addresses. `None` if the source is no host name of a backend.
    pub host: Option<NamedHost>,
    /// The time for which a backend stays after an answer left it out. Zero removes it at once. Default: 30 s for the
    /// DNS, zero for a file.
    pub hold: Duration,
    /// The time for which connections to a removed backend go on. Default `None`: the same time as for a
    /// backend that a reload removed.
    pub drain: Option<Duration>,
    /// The most connections that each of these backends has at once from this process. `None` is no limit.
    pub max_connections: Option<u64>,
}

/// A host name among the backends of a pool. Each of its addresses is a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedHost {
    /// The number of backends with an address that are written before this host. The backends of this host come
    /// after them.
    pub place: usize,
    /// The settings of each of its backends. The name is the first part of a backend's name, and the second part is the
    /// IP address: no backend is renamed when the number of addresses changes. The address is not used.
    pub template: BackendSpec,
}

/// The kind of a discovery source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoverSource {
    /// Records of a DNS name.
    Dns(DnsSpec),
    /// A file that another program writes, by its path.
    File(Arc<Path>),
}

/// A source of the DNS: the query, and the times of its repetition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSpec {
    /// The name as written. With a final dot it is whole; otherwise the system's search list applies.
    pub name: Arc<str>,
    /// The kind of records.
    pub records: RecordKind,
    /// The servers to ask. Empty (default): the hosts file of the system first, then its resolvers.
    pub resolvers: Vec<SocketAddr>,
    /// The shortest time between two questions, even if the TTL is shorter. Default: 5 s.
    pub min_ttl: Duration,
    /// The longest time between two questions, at least `min_ttl`. Default: 5 min.
    pub max_ttl: Duration,
    /// The random addition to that time, in percent at most. Default: 10.
    pub jitter: u8,
}

/// The records that name backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A and AAAA: all addresses, with this port.
    Addresses {
        /// At least 1; 0 means no port.
        port: u16,
    },
    /// SRV: the targets with their ports, weights and priorities, and the addresses of the targets.
    Services,
}

impl DiscoverSource {
    /// Returns true if both read the same file or ask for the same records. The resolvers and the times may
    /// differ.
    pub(super) fn asks_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dns(one), Self::Dns(two)) => (&one.name, one.records) == (&two.name, two.records),
            (Self::File(one), Self::File(two)) => one == two,
            (Self::Dns(_), Self::File(_)) | (Self::File(_), Self::Dns(_)) => false,
        }
    }
}

impl fmt::Display for DiscoverSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(DnsSpec { name, records: RecordKind::Addresses { port: 0 }, .. }) => {
                write!(f, "dns {name}")
            }
            Self::Dns(DnsSpec { name, records: RecordKind::Addresses { port }, .. }) => {
                write!(f, "dns {name} port {port}")
            }
            Self::Dns(DnsSpec { name, records: RecordKind::Services, .. }) => write!(f, "dns srv {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}
