//! Where a pool's further backends come from: plain values that the configuration fills and checks.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::pool::BackendSpec;

/// Backends that are found while the process runs, or the addresses of a host at which checks and agents ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoverSpec {
    /// Who knows them.
    pub source: DiscoverSource,
    /// The host name among the backends whose addresses these are; `None` for a source of its own.
    pub host: Option<NamedHost>,
    /// How long a backend that an answer leaves out stays before it vanishes; zero: not at all. Default 30 s for the
    /// DNS, zero for a file.
    pub hold: Duration,
    /// How long connections to a backend that vanished may go on. Default `None`: as long as those to what
    /// a reload took away.
    pub drain: Option<Duration>,
    /// Connections that each of these backends has at once, from this process; `None` is no limit.
    pub max_connections: Option<u64>,
}

/// A host name among the backends of a pool. Each of its addresses is a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedHost {
    /// How many backends with an address are written before it: its own stand behind those.
    pub place: usize,
    /// Each of its backends, but for the address, and with the first part of the name. The other part is the IP address,
    /// so that no backend is renamed when the host has another number of addresses.
    pub template: BackendSpec,
}

/// Who knows a pool's further backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoverSource {
    /// The DNS.
    Dns(DnsSpec),
    /// A file that some other program writes, by its path.
    File(Arc<Path>),
}

/// What is asked of the DNS, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSpec {
    /// The name as written: with a final dot it is whole, else the system's search list applies.
    pub name: Arc<str>,
    /// Which records.
    pub records: RecordKind,
    /// The servers to ask. Empty (default): the hosts file of the system first, then its resolvers.
    pub resolvers: Vec<SocketAddr>,
    /// The least time between two questions, whatever the TTL. Default 5 s.
    pub min_ttl: Duration,
    /// The most time between two questions, at least `min_ttl`. Default 5 min.
    pub max_ttl: Duration,
    /// Up to how many percent of that time are added to it by chance. Default 10.
    pub jitter: u8,
}

/// The records that name backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A and AAAA: every address, with this port.
    Addresses {
        /// From 1 on; 0 is none.
        port: u16,
    },
    /// SRV: targets with their ports, weights and priorities, and the addresses of the targets.
    Services,
}

impl DiscoverSource {
    /// Whether both ask for the same, perhaps of others or at other times.
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
