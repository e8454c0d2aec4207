//! Connections on their way to another program: a successor takes over the connections of this program.
//!
//! A connection leaves its worker for the [`LeavingQueue`]. The session thread takes it from there, sends it
//! ([`LeavingConnection::message`]), and waits for the acknowledgement. Until then the connection can be given back to
//! its worker. In the successor an [`Adopter`] makes a migration of the message, and a worker takes the migration as it
//! takes those of other workers.

mod adopt;
mod leave;
mod words;

pub use super::leaving::{LeavingConnection, LeavingQueue};
pub use adopt::{AdoptFault, AdoptedConnections, Adopter, AdopterResources, DepartedListener, DepartedParts};
pub use leave::{BatchOptions, RouteNames};
