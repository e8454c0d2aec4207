//! The hand-over: a new program takes over the sockets, the state and the connections of the running one.
//!
//! The running program is the *incumbent*, the new one is the *successor*. The successor connects to the Unix socket of
//! the incumbent and asks (`successor.rs`). A thread of the incumbent answers (`incumbent.rs`) and moves the connections
//! (`moving.rs`). Control decides by its phase, and stops and resumes the accepting of clients
//! (`server/handing_over.rs`, `server/taking_over.rs`). [`crate::wire::handover`] has the messages.
//!
//! A program that serves strangers never starts a program. Until the last batch of connections is acknowledged, the
//! incumbent can take back everything that is not acknowledged, and go on.

mod access;
mod ask;
pub(super) mod incumbent;
mod link;
pub(super) mod listening;
pub(super) mod moving;
pub(super) mod port;
pub(super) mod refusals;
mod report;
pub(super) mod session;
pub(super) mod state;
pub(super) mod successor;

pub use access::AccessFault;
pub use ask::{AskFault, Takeover, ask, is_same_service, query, reload};
pub use link::SessionFault;
pub(crate) use listening::HandoverSocket;
pub use report::{Reporter, UpgradeStep};
pub use successor::{Inheritance, receive};

#[cfg(test)]
mod tests;
