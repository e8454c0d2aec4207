//! Where a pool without backends sends its clients: plain values that the configuration fills and checks.

use std::net::SocketAddr;

use crate::route::IpPrefix;
use crate::route::pattern::NamePattern;

/// Clients go to the host they name: their server name is resolved and dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardSpec {
    /// The port that is dialled, from 1 on.
    pub port: u16,
    /// The names that may be asked for, at least one.
    pub allow: Vec<NamePattern>,
    /// Networks that may be dialled although they are not part of the public Internet. Default: none. Whoever
    /// controls a name that is allowed can then lead clients to any host in them.
    pub allow_private: Vec<IpPrefix>,
    /// The servers to ask. Empty (default): the hosts file of the system first, then its resolvers.
    pub resolvers: Vec<SocketAddr>,
}
