//! The two sockets of a connection, for an operator who looks at it.

use std::net::SocketAddr;

use crate::sys::tcp_details::{TcpDetails, tcp_details};
use crate::sys::{Stream, socket};

/// One socket of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionLeg {
    /// The address of this host; `None` for a Unix socket.
    pub local: Option<SocketAddr>,
    /// The address of the peer; `None` for a Unix socket. For a client behind a proxy it is the address of the proxy.
    pub peer: Option<SocketAddr>,
    /// The kernel's figures; `None` for a Unix socket.
    pub tcp: Option<TcpDetails>,
    /// True if bytes for the peer wait because its socket takes no more.
    pub is_blocked: bool,
    /// True if the peer has ended its direction.
    pub has_ended: bool,
}

impl ConnectionLeg {
    /// Reads the state of a socket.
    pub fn of(stream: &Stream, is_blocked: bool, has_ended: bool) -> Self {
        Self {
            local: socket::local_address(stream).ok(),
            peer: socket::peer_address(stream).ok(),
            tcp: tcp_details(stream).ok().flatten(),
            is_blocked,
            has_ended,
        }
    }
}

/// Both sockets of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionLegs {
    /// The socket to the client.
    pub client: ConnectionLeg,
    /// The socket to the backend.
    pub backend: ConnectionLeg,
}
