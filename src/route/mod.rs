//! Routes: pure functions from the facts of a connection to the route that it matches.

use std::sync::Arc;

use crate::wire::{ServerName, proxy_protocol};

mod address_ranges;
pub mod condition;
pub mod country;
pub mod pattern;
pub mod prefix;
pub mod prefix_map;
pub mod prefix_set;
pub mod regex;
pub mod split;
pub mod table;

pub use condition::{Conditions, ConnectionFacts, RequiredFacts};
pub use country::{Country, CountryFault};
pub use pattern::{NamePattern, PatternFault};
pub use prefix::{AddressRange, IpPrefix, PrefixFault, Prefixes};
pub use prefix_map::{PrefixMap, PrefixMapBuilder};
pub use prefix_set::{AddressSpan, PrefixSet, PrefixSetBuilder};
pub use regex::{NameRegex, RegexFault};
pub use split::Split;
pub use table::{
    EqualRoutes, NameFit, RouteEntry, RouteFinding, RouteId, RouteKey, RouteMatch, RouteTable, RouteVerdict,
};

/// The facts from the first bytes of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloFacts {
    /// The server name in the hello, or `None` for a hello without a name.
    pub server_name: Option<ServerName>,
    /// The PROXY header that a trusted peer sent before the client's bytes, if there was one.
    pub proxy: Option<Arc<proxy_protocol::ProxyHeader>>,
}
