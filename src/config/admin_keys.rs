//! The admin listener as configured.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::sys::Address;

/// One address of the admin listener, with the rules for requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSpec {
    /// The address: an IP address with a port, or a Unix socket. The kernel chooses the port in place of 0.
    pub listen: Address,
    /// The permissions of its Unix socket: users that may write to it may send requests. Default [`AdminSpec::MODE`].
    pub mode: u32,
    /// The file that holds the token. Default `None`: only changes need a token.
    pub token_file: Option<PathBuf>,
    /// The requests that need the token. Default [`TokenFor::All`].
    pub token_for: TokenFor,
    /// True if changes need no token on a loopback address. Default `false`: they need a token or a Unix socket.
    pub open_changes: bool,
    /// True if `/metrics`, `/healthz` and `/ready` may be read without the token. Default `false`.
    pub open_metrics: bool,
    /// Names, in lower case, that the header Host may have beside IP addresses, `localhost` and the name of this
    /// machine. Default: none.
    pub hosts: Vec<String>,
}

/// The requests that need the token. Has no effect without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFor {
    /// Every request.
    All,
    /// Requests that change something. This value is a fault for an address that other machines can reach.
    Changes,
}

impl AdminSpec {
    /// The default of [`mode`](Self::mode): read and write for the user and the group of the process.
    pub const MODE: u32 = 0o660;

    /// Returns an admin listener at this address, with the defaults.
    pub fn new(listen: impl Into<Address>) -> Self {
        Self {
            listen: listen.into(),
            mode: Self::MODE,
            token_file: None,
            token_for: TokenFor::All,
            open_changes: false,
            open_metrics: false,
            hosts: Vec::new(),
        }
    }

    /// Returns true if the admin listener is on a Unix socket. The permissions of the socket's file decide which
    /// users may connect.
    pub fn is_unix(&self) -> bool {
        matches!(self.listen, Address::Unix(_))
    }

    /// Returns true if only this machine can reach the admin listener: at a Unix socket or a loopback address.
    pub fn is_local(&self) -> bool {
        let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        self.listen.tcp().is_none_or(is_loopback)
    }
}
