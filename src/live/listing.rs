//! The list of a worker's open connections, for the counts by source.

use std::net::IpAddr;
use std::sync::Arc;

use crate::ids::{BackendId, ListenerId};
use crate::limit::Link;

/// The most connections that a worker lists: more than any worker has, and a bound for the memory of a list
/// (48 MiB).
pub(super) const MOST_LISTED: usize = 1 << 20;

/// A connection in the list of open connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenConnection {
    /// The client's address; `None` for a client of a Unix socket.
    pub client: Option<IpAddr>,
    /// The private link that the connection counts for, where its listener counts by links.
    pub link: Option<Arc<Link>>,
    /// Its listener.
    pub listener: ListenerId,
    /// Its backend, if a backend was picked.
    pub backend: Option<BackendId>,
    /// True while its first bytes are being read.
    pub is_reading: bool,
}

/// The open connections of a worker. Requests that come while a list is made share the next one.
pub type OpenConnections = Arc<Vec<OpenConnection>>;
