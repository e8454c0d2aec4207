//! The hand-over to a new program: its socket, the requests of the new program, and the reports about its steps.
//!
//! The running program is the *incumbent*, the new program is the *successor*. `crate::wire::handover` has the messages
//! between them.

mod access;
mod ask;
mod listening;
mod refusals;
mod report;
pub(super) mod world;

pub use access::AccessFault;
pub use ask::{AskFault, Takeover, ask, is_same_service, query, reload};
pub use report::{Reporter, UpgradeStep};
