//! The names an operator writes in a route.

use std::fmt;

use crate::wire::ServerName;

/// A name in a route: exact, or everything below a suffix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// This name only.
    Exact(ServerName),
    /// `*.suffix`: one or more whole labels before the suffix, never the suffix itself.
    Below(ServerName),
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}
