//! Binds or inherits the sockets of listeners, accepts connections, and handles failed accepts.

mod accept;
mod bind;
mod inherited;

use std::sync::Arc;

pub use accept::{AcceptStop, CurrentPolicy, accept_until};
pub use bind::{BindFault, BindRequest, BoundSockets, bind};
pub use inherited::{InheritedAddress, InheritedSockets, SocketPart};

use crate::snapshot::PolicySpec;
use crate::sys::Address;
use crate::sys::listen::{BindTo, ListenOptions};
use crate::sys::socket::KernelBuffers;

/// A listener as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    /// The listener's name: its identity over reloads, in logs and in metrics.
    pub name: Arc<str>,
    /// The addresses on which it listens; IPv6 sockets are v6-only. No address is twice in a configuration,
    /// except with port 0.
    pub binds: Vec<Address>,
    /// The ports that were written without an address, `:PORT`. Each one is two wildcard addresses in
    /// `binds`; an address whose family this host does not have is left out.
    pub ports_of_any_family: Vec<u16>,
    /// True if its addresses may come to this host later (IP_FREEBIND).
    pub free_bind: bool,
    /// The permissions of its Unix sockets. Default: those that the umask leaves.
    pub mode: Option<u32>,
    /// The most connections that the kernel may hold before they are accepted. Default 4096.
    pub backlog: u32,
    /// The most bytes that the kernel may hold for a client and from it. Default: the system's settings.
    pub buffers: KernelBuffers,
    /// The policy for its connections.
    pub policy: PolicySpec,
}

impl ListenerSpec {
    /// Returns the rule for addresses that this host does not have.
    pub fn bind_to(&self) -> BindTo {
        if self.free_bind { BindTo::AnyAddress } else { BindTo::OwnAddress }
    }

    /// Returns true if an address of `binds` is left out when this host does not have its family.
    pub fn may_leave_out(&self, address: &Address) -> bool {
        let tcp = address.tcp().filter(|tcp| tcp.ip().is_unspecified());
        tcp.is_some_and(|tcp| self.ports_of_any_family.contains(&tcp.port()))
    }

    /// Returns the options of its sockets.
    pub fn options(&self) -> ListenOptions {
        ListenOptions {
            backlog: self.backlog,
            keepalive: self.policy.relay.client.keepalive,
            user_timeout: self.policy.relay.client.user_timeout,
            buffers: self.buffers,
        }
    }
}
