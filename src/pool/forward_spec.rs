//! The settings of a forwarding pool: plain values that the configuration fills and checks.

use std::net::SocketAddr;

use crate::route::IpPrefix;
use crate::route::pattern::NamePattern;

/// The settings of a forwarding pool. A client goes to the host that it names: the server name is resolved and dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardSpec {
    /// The port that is dialled, at least 1.
    pub port: u16,
    /// The names to which clients may go, at least one.
    pub allow: Vec<NamePattern>,
    /// Networks that may be dialled although they are not public. Default: none. Danger: the owner of an allowed name
    /// can send clients to any host in these networks.
    pub allow_private: Vec<IpPrefix>,
    /// The servers to ask. Empty (default): the hosts file of the system first, then its resolvers.
    pub resolvers: Vec<SocketAddr>,
}
