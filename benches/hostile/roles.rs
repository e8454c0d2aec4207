//! The roles of child processes: this program, with a role as its first argument.

use std::io;

use crate::{attack, backend, clients};

pub(crate) const BACKEND: &str = "role-backend";
pub(crate) const ATTACK: &str = "role-attack";
pub(crate) const CLIENTS: &str = "role-clients";

/// The most unsent bytes that a socket of the backend holds.
const UNSENT: u32 = 65_536;

/// A role of the other bench, which uses the same module for its children.
pub(crate) const LOAD: &str = "role-load";

/// Runs the role that the arguments name, or returns `None` if they name none.
pub(crate) fn run() -> Option<io::Result<()>> {
    let mut arguments = std::env::args().skip(1);
    let (role, mut argument) = (arguments.next()?, || arguments.next().unwrap_or_default());
    match role.as_str() {
        // Real backends would hold these bytes on hosts of their own.
        BACKEND => Some(backend::run(UNSENT)),
        ATTACK => Some(serde_json::from_str(&argument()).map_err(io::Error::from).and_then(attack::run)),
        CLIENTS => Some(serde_json::from_str(&argument()).map_err(io::Error::from).and_then(clients::run)),
        _ => None,
    }
}
