//! The life of the process: start, signals, reload, stop.
//!
//! [`Server::start`] binds and starts everything or nothing (`start.rs`). [`Server::run`] is the control loop
//! (`run.rs`). It has a separate thread and runtime, so that no check, scrape or reload delays a byte. It alone applies
//! changes: the results of checks, new configurations, the stop.
//!
//! Read `phase.rs` for the phases of the process, `control.rs` for each phase and event, and `reload.rs` for the steps
//! of a reload.
mod access_log;
mod admin_sockets;
mod agents;
mod backend_log;
mod build;
mod build_fault;
mod build_routes;
mod census;
mod changed_parts;
mod changes;
mod checks;
mod close_orders;
mod confine;
mod connections;
mod control;
mod descriptors;
mod discovery;
mod draining;
mod event;
mod events;
mod explain;
mod faults;
mod follow_up;
mod followers;
mod handing_over;
pub mod handover;
mod history;
mod in_force;
mod inherited;
mod list_files;
mod near_files;
mod needed_pools;
mod notify;
mod opening_build;
mod overrides;
mod own_backends;
mod phase;
mod readiness;
mod rebalance;
mod reload;
mod reload_queue;
mod reloading;
mod route_files;
mod run;
mod sampler;
mod saturation;
mod series;
mod service_manager;
mod signals;
mod sockets;
mod source;
mod split_shares;
mod standing;
mod start;
mod steering;
mod stop;
mod taking_over;
mod tentative;
mod top;
mod upgrade_state;
mod view;
mod work;

pub use admin_sockets::{AdminSocket, AdminSockets, AdminStage};
pub use build_fault::BuildFault;
pub use census::{Census, CensusScope, SourceCount};
pub use changes::Changes;
pub use close_orders::TooManyOrders;
pub use confine::{ConfineFault, confine};
pub use connections::{CloseStart, ConnectionList, NotFound};
pub use events::{ConfigState, EventKind, EventLog, KEPT_EVENTS, LastReload, Severity, StatusEvent};
pub use explain::{ExplainedConfig, UnknownListener, explain_running, find_listener};
pub use faults::{ReloadFault, StartFault};
pub use history::{HistoryCopy, SharedHistory};
pub use overrides::{
    Override, OverrideChange, OverrideKey, OverrideKind, OverrideOutcome, OverrideRefusal, OverrideValue,
    Overrides,
};
pub use own_backends::CycleFault;
pub use readiness::{Readiness, ReadyReason};
pub use rebalance::{Rebalance, RebalanceRefusal, RebalanceRequest};
pub use reload_queue::ReloadRules;
pub use signals::{EarlySignals, Signals};
pub use source::{SourceFault, tproxy_rules};
pub use split_shares::{SplitFault, SplitShares};
pub use standing::{StandingFaults, StandingKind};
pub use start::Server;
pub use tentative::wait_for_addresses;
pub use top::TopAnswer;
pub use upgrade_state::{MoveReport, UpgradeReport, UpgradeRole, UpgradeState};
pub use view::{KeysInForce, LifeStage, ServerHandle, View};

#[cfg(test)]
mod tests;
