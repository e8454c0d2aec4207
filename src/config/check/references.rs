//! Checks references to pools: the clients of the reference must name their hosts as the pool needs it.

use super::pools::Known;
use crate::config::code::Code;
use crate::config::fault::{Diagnostic, Span};
use crate::config::file::ForwardTo;
use crate::config::findings::Findings;
use crate::config::read::TableEntry;

/// The help for a pool whose clients request hosts.
const TO_REQUESTED: &str = "write in the pool: forward = { to = \"requested\", allow = [\"*.example.org\"] }";

/// The host that clients of a reference name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NamedHost {
    /// None.
    Nothing,
    /// The server name in a hello.
    ServerName,
    /// The host in a request for a tunnel.
    Requested,
}

/// A reference to a pool: its position, and the use of the pool there.
pub(super) struct PoolReference<'a> {
    pub(super) written: &'a TableEntry<String>,
    /// The use of the pool, such as "used for clients without a name".
    pub(super) used: String,
    /// The path of the key.
    pub(super) path: &'a str,
    /// The host that the clients name.
    pub(super) names: NamedHost,
}

impl PoolReference<'_> {
    /// Adds a fault if the pool forwards, and the clients do not name the host that it needs.
    pub(super) fn check(self, pool: &Known, found: &mut Findings<'_>) {
        let Some(forward) = pool.forwards else {
            if self.names == NamedHost::Requested {
                let message =
                    format!("pool `{}` has backends, and its clients here request hosts", pool.name);
                let fault = Diagnostic::new(Code::TunnelToBackends, self.path, message);
                found.add(fault.label(self.written.at, self.used).help(TO_REQUESTED));
            }
            return;
        };
        let (code, message, why, help) = match (self.names, forward.to) {
            (NamedHost::Requested, Some(ForwardTo::Sni)) => (
                Code::TunnelToBackends,
                format!("pool `{}` forwards by server name, and its clients here request hosts", pool.name),
                "this uses the server names of hellos",
                TO_REQUESTED,
            ),
            (NamedHost::Nothing, Some(ForwardTo::Sni)) => (
                Code::ForwardWithoutName,
                format!("pool `{}` forwards by name, and its clients here send no name", pool.name),
                "this needs the client's server name",
                "use the pool in `routes` or `unmatched` of a listener with protocol = \"tls\"",
            ),
            (NamedHost::Nothing | NamedHost::ServerName, Some(ForwardTo::Requested)) => (
                Code::ForwardWithoutRequest,
                format!(
                    "pool `{}` forwards to requested hosts, and its clients here request none",
                    pool.name
                ),
                "this needs a request by SOCKS or CONNECT",
                "use the pool on a listener with protocol = \"socks5\" or \"connect\"; to forward to the server names of \
                 hellos, write: forward = { to = \"sni\", ... }",
            ),
            (NamedHost::ServerName, Some(ForwardTo::Sni))
            | (NamedHost::Requested, Some(ForwardTo::Requested))
            | (_, None) => return,
        };
        let fault = Diagnostic::new(code, self.path, message).label(self.written.at, self.used);
        // A pool that a file of routes refers to has no position in that file.
        let fault = if forward.at == Span::default() { fault } else { fault.label(forward.at, why) };
        found.add(fault.help(help));
    }
}
