//! The names of a connection, for those who list connections and for its record.

use std::sync::Arc;

use crate::wire::ServerName;

/// The names of an open connection, as far as they are known. They move with the connection to another worker and to
/// another program. A card is a part of the memory of each idle connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCard {
    /// The server name in the hello. It may have any characters if the connection is being refused for it.
    pub sni: Option<Box<str>>,
    /// The route that took the connection.
    pub route: Option<Arc<str>>,
    /// The last pool that was to serve the connection.
    pub pool: Option<Arc<str>>,
    /// The backend of the last attempt.
    pub backend: Option<Arc<str>>,
    /// The host name in the PROXY header, if its pool hashes it instead of the server name.
    pub authority: Option<Box<ServerName>>,
}
