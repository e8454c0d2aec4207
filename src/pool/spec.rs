//! What a pool is meant to be: plain values that the configuration fills and checks.

use std::sync::Arc;
use std::time::Duration;

use super::discover::spec::DiscoverSpec;
use crate::balance::Algorithm;
use crate::sys::Address;

/// A pool as configured. Equal specs need no rebuild.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// The pool's name: its identity over reloads.
    pub name: Arc<str>,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// What the hash balancers hash. Kept, and unused, for the others.
    pub hash_on: HashOn,
    /// How much of a source address counts.
    pub source_prefix: SourcePrefix,
    /// The 16-byte SipHash key shared by all nodes.
    pub hash_key: [u8; 16],
    /// The backends, in written order, identities distinct, at least one weight above 0; where more are
    /// discovered there may be none.
    pub backends: Vec<BackendSpec>,
    /// Where further backends come from, or `None`.
    pub discover: Option<DiscoverSpec>,
    /// Active checks, or `None` when switched off.
    pub health: Option<HealthSpec>,
    /// How connections to a backend are opened.
    pub dial: DialSpec,
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
}

/// What a hash balancer looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// The client's address, cut to a prefix.
    SourceIp,
    /// The client's whole address and port.
    SourceIpPort,
    /// The server name; the source address where a client sends none.
    Sni,
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
