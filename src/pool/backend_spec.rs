//! The spec of a backend.

use std::sync::Arc;

use super::check_target::CheckTargets;
use super::health::OperatorState;
use crate::sys::Address;

/// A backend as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// The configured name, or the address if no name is configured. It is the identity over reloads, in logs
    /// and in metrics.
    pub name: Arc<str>,
    /// The address at which it listens.
    pub address: Address,
    /// Its share of the traffic relative to the other backends; 0 takes no new connections.
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
