//! The roles of child processes: this program again, with a role as its first argument.

use std::io;

use crate::{attack, backend, clients};

pub(crate) const BACKEND: &str = "role-backend";
pub(crate) const ATTACK: &str = "role-attack";
pub(crate) const CLIENTS: &str = "role-clients";

/// What a backend's socket holds at most.
const UNSENT: u32 = 65_536;

/// Of the other bench, whose children these are.
pub(crate) const LOAD: &str = "role-load";

/// Runs the role that the arguments name, if they do.
pub(crate) fn run() -> Option<io::Result<()>> {
    let mut arguments = std::env::args().skip(1);
    let (role, mut argument) = (arguments.next()?, || arguments.next().unwrap_or_default());
    match role.as_str() {
        // Backends of others would hold what they send on hosts of their own.
        BACKEND => Some(backend::run(UNSENT)),
        ATTACK => Some(serde_json::from_str(&argument()).map_err(io::Error::from).and_then(attack::run)),
        CLIENTS => Some(serde_json::from_str(&argument()).map_err(io::Error::from).and_then(clients::run)),
        _ => None,
    }
}
