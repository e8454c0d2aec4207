//! Facts to verdict, pure: which pool a connection belongs to.

use std::sync::Arc;

use crate::wire::{ServerName, proxy_protocol};

pub mod pattern;
pub mod prefix;
pub mod table;

pub use pattern::{NamePattern, PatternFault};
pub use prefix::{IpPrefix, PrefixFault, Prefixes};
pub use table::{DuplicateRoute, RouteId, RouteTable};

/// What the first bytes of a connection told us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The server name the client asked for, if it sent one.
    pub server_name: Option<ServerName>,
    /// The PROXY header that a trusted peer sent in front of the client's bytes, if there was one.
    pub proxy: Option<Arc<proxy_protocol::Header>>,
}
