//! Facts to verdict, pure: which route a connection belongs to.

use crate::wire::ServerName;

pub mod condition;
pub mod pattern;
pub mod prefix;
pub mod regex;
pub mod split;
pub mod table;

pub use condition::{Asks, Circumstances, Conditions};
pub use pattern::{NamePattern, PatternFault};
pub use prefix::{IpPrefix, Prefixes};
pub use regex::{NameRegex, RegexFault};
pub use split::Split;
pub use table::{Entry, EqualRoutes, Found, RouteId, RouteKey, RouteTable};

/// What the first bytes of a connection told us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The server name the client asked for, if it sent one.
    pub server_name: Option<ServerName>,
}
