//! Host names as clients send them in a ClientHello and as operators write them in a route.

use std::fmt;

/// A valid host name: lower-case ASCII, no trailing dot, never an IP address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName(Box<str>);

/// Why a name is not a host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// No bytes, or only a dot.
    #[error("the name is empty")]
    Empty,
}

impl ServerName {
    /// The name, lower-case and without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
