//! What a pool is meant to be: plain values that the configuration fills and checks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::{Algorithm, MaxLoad};
use crate::sys::Address;

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
    /// The backends, in written order, identities distinct, at least one weight above 0.
    pub backends: Vec<BackendSpec>,
    /// Active checks, or `None` when switched off.
    pub health: Option<HealthSpec>,
    /// How connections to a backend are opened.
    pub dial: DialSpec,
    /// Which backends come first.
    pub tiers: TierSpec,
    /// Where connections wait while every backend is full, or `None`: then they are refused.
    pub queue: Option<QueueSpec>,
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
}

/// What a hash balancer looks at: one part, or several together.
///
/// The order in which they were given does not count, nor does a source address beside its port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashParts(u8);

impl HashParts {
    /// With one part more.
    #[must_use]
    pub fn and(self, part: HashOn) -> Self {
        Self(self.0 | bit(part))
    }

    /// Whether a part counts.
    pub fn contains(self, part: HashOn) -> bool {
        let is_in = self.0 & bit(part) == bit(part);
        is_in && (part != HashOn::SourceIp || !self.contains(HashOn::SourceIpPort))
    }

    /// The parts that count, in the order of the key.
    pub fn iter(self) -> impl Iterator<Item = HashOn> {
        let all = [HashOn::SourceIp, HashOn::SourceIpPort, HashOn::Sni];
        all.into_iter().filter(move |part| self.contains(*part))
    }

    /// The part that counts, if it is one alone.
    pub fn alone(self) -> Option<HashOn> {
        let mut parts = self.iter();
        parts.next().filter(|_| parts.next().is_none())
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
    /// Time between the starts of two checks of one backend. Default 2 s.
    pub interval: Duration,
    /// How long one check may take. Default: the interval, at most 5 s.
    pub timeout: Duration,
    /// Successes in a row that bring a backend up. Default 2.
    pub rise: u32,
    /// Failures in a row that take a backend down. Default 3.
    pub fall: u32,
}

/// What a check does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// Opens a TCP connection and closes it.
    Tcp,
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
}

impl Default for DialSpec {
    fn default() -> Self {
        Self { attempts: 3, connect_timeout: Duration::from_secs(5), dial_timeout: Duration::from_secs(15) }
    }
}
