//! Facts to verdict, pure: which pool a connection belongs to.

use crate::wire::ServerName;

pub mod pattern;
pub mod table;

pub use pattern::{NamePattern, PatternFault};
pub use table::{DuplicateRoute, RouteId, RouteTable};

/// What the first bytes of a connection told us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The server name the client asked for, if it sent one.
    pub server_name: Option<ServerName>,
}
