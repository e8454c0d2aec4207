//! The spec of a pool: plain values that the configuration fills and checks.

use std::sync::Arc;
use std::time::Duration;

use super::agent_spec::AgentSpec;
use super::announce::AnnounceSpec;
use super::backend_spec::BackendSpec;
use super::check_spec::HealthSpec;
use super::dial_spec::DialSpec;
use super::discover_spec::DiscoverSpec;
use super::forward_spec::ForwardSpec;
use super::hash_parts::{HashOn, HashParts, SourcePrefix};
use super::health::EjectionSpec;
use super::queue::QueueSpec;
use super::tiers::TierSpec;
use crate::balance::{Algorithm, MaxLoad};
use crate::limit::QuotaSpec;

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
    /// The time in which the share of a backend that came up grows evenly to its whole. Default: the backend
    /// takes its whole share at once.
    pub slow_start: Option<Duration>,
    /// The backends, in written order, identities distinct, at least one weight above 0. The list may be empty if
    /// backends are discovered.
    pub backends: Vec<BackendSpec>,
    /// The sources of further backends: first the host names among the backends, as they are written, then the
    /// other sources.
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
    /// The connections that may wait at once while an operator has paused the pool. Default 10,000.
    pub pause_length: usize,
    /// The limits of all backends together; `None`: no limits.
    pub limits: Option<QuotaSpec>,
    /// True if requests to cancel a query come to this pool. The pool then stores the backends at which each
    /// source has sessions. Default: false.
    pub gets_cancels: bool,
}

impl PoolSpec {
    /// The default of the connections that may wait in a pause.
    pub const PAUSE_LENGTH: usize = 10_000;

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
            pause_length: Self::PAUSE_LENGTH,
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
