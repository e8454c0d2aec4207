//! A pool: a named set of backends, its balancers, and the state of its backends.
//!
//! A [`Pool`] is built whole from its spec (`pool_in_use`). `pick` picks a backend for a connection, with the balancers
//! of the `tiers`. Check tasks (`probe`) and leases only report their findings; the task that owns the snapshot applies
//! them (`changes`).
//!
//! A pool opens no connections for clients: `conn` does, with the lease that a pick returns.

mod agent;
mod agent_spec;
mod announce;
mod backend;
mod backend_spec;
mod cancel;
mod changes;
mod check_spec;
mod check_target;
pub mod destination;
mod dial_spec;
pub mod discover;
mod discover_spec;
pub mod forward;
mod forward_spec;
mod hash_on;
mod hash_parts;
mod health;
mod latency;
mod lease;
mod moved;
pub mod near;
mod pause;
mod pick;
mod placement;
mod pool_in_use;
mod pool_spec;
mod preview;
mod probe;
mod queue;
mod sessions;
mod signals;
mod slow_start;
mod tiers;
#[cfg(feature = "tls-checks")]
mod tls_client;
mod tls_spec;

pub use agent::{AgentFault, AgentReport, Agents};
pub use agent_spec::AgentSpec;
pub use announce::{AnnounceSpec, Passed};
pub use backend::{Backend, BackendTraffic, HealthView};
pub use backend_spec::{BackendSpec, NameOrigin};
pub use changes::{EjectionRefusal, FailureReport};
pub use check_spec::{CheckHeader, CheckKind, HealthSpec};
pub use check_target::{CheckTarget, CheckTargets, Endpoint, TargetHost};
pub use dial_spec::{DialSource, DialSpec};
pub use discover::{CheckNames, Discoveries, Discovery, DiscoveryReport, FaultChange, SourceCopy};
pub use discover_spec::{DiscoverSource, DiscoverSpec, DnsSpec, NamedHost, RecordKind};
pub use forward::{Forward, ForwardDestinations, ForwardFault, LookupResult};
pub use forward_spec::{ForwardRules, ForwardSpec, ForwardTo, HostPattern, RuleMode};
pub use hash_parts::{HashOn, HashParts, SourcePrefix};
pub use health::{
    AgentWord, BackendState, ChangeReason, CheckFailure, CheckFault, CheckFinding, CheckOutcome, Ejection,
    EjectionSpec, OperatorState, StateChange, Trouble,
};
pub use lease::Lease;
pub use pick::Unavailable;
pub use pool_in_use::Pool;
pub use pool_spec::{OnDown, PoolSpec};
pub use preview::{OwnedSlot, PickPreview, PreviewedPick};
#[cfg(feature = "tls-checks")]
pub use probe::{CaFault, read_certificates};
pub use probe::{CheckLimit, CheckReport, Checks, ConnectFault};
pub use queue::QueueSpec;
pub use sessions::SessionGuard;
pub use tiers::{TierSpec, TierView};
#[cfg(feature = "tls-checks")]
pub use tls_client::TlsClient;
pub use tls_spec::{CaFile, TlsSpec};

#[cfg(test)]
mod tests;
