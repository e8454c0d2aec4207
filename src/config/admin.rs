//! The admin listener as configured.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::sys::Address;

/// The admin listener: where it is, and who may ask what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSpec {
    /// Where it listens: an IP address with a port, 0 is the kernel's choice, or a Unix socket.
    pub listen: Address,
    /// The permissions of its Unix socket: who may write may ask. Default [`AdminSpec::MODE`].
    pub mode: u32,
    /// The file that holds the token. Default `None`: nothing but changes needs one.
    pub token_file: Option<PathBuf>,
    /// Which requests need the token. Default [`TokenFor::All`].
    pub token_for: TokenFor,
    /// Whether changes need no token on a loopback address. Default `false`: they need a token or a Unix socket.
    pub open_changes: bool,
    /// Whether `/metrics`, `/healthz` and `/ready` may be read without the token. Default `false`.
    pub open_metrics: bool,
    /// Names, in lower case, that the header Host may have beside IP addresses, `localhost` and the name of this
    /// machine. Default: none.
    pub hosts: Vec<String>,
}

/// Which requests need the token, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFor {
    /// Every request.
    All,
    /// Those that change something. Only where nobody from other machines comes.
    Changes,
}

impl AdminSpec {
    /// The default of [`mode`](Self::mode): its user and group.
    pub const MODE: u32 = 0o660;

    /// An admin listener at this address, with the defaults.
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

    /// Whether it listens on a Unix socket: the permissions of its file decide which users may connect.
    pub fn is_unix(&self) -> bool {
        matches!(self.listen, Address::Unix(_))
    }

    /// Whether only this machine reaches it: a Unix socket, or a loopback address.
    pub fn is_local(&self) -> bool {
        let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        self.listen.tcp().is_none_or(is_loopback)
    }
}
