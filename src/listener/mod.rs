//! Binds, accepts, and decides what a failed accept means.

mod accept;
mod bind;

use std::sync::Arc;

pub use accept::{CurrentPolicy, accept_until};
pub use bind::{BindFault, BindRequest, BoundSockets, bind};

use crate::snapshot::PolicySpec;
use crate::sys::Address;
use crate::sys::listen::{BindTo, ListenOptions};
use crate::sys::socket::KernelBuffers;

/// A listener as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    /// The listener's name: its identity over reloads, in logs and in metrics.
    pub name: Arc<str>,
    /// Where it listens; IPv6 sockets are v6-only. No address twice in a configuration, but for port 0.
    pub binds: Vec<Address>,
    /// The ports that were written without an address, `:PORT`. Each stands for two wildcard addresses in `binds`; one
    /// whose family this host does not have is left out.
    pub ports_of_any_family: Vec<u16>,
    /// Whether its addresses may come to this host later (IP_FREEBIND).
    pub free_bind: bool,
    /// The permissions of its Unix sockets. Default: those that the umask leaves.
    pub mode: Option<u32>,
    /// Connections the kernel may hold before they are accepted. Default 4096.
    pub backlog: u32,
    /// What the kernel may hold for a client and of it. Default: what the system's settings allow.
    pub buffers: KernelBuffers,
    /// What happens to its connections.
    pub policy: PolicySpec,
}

impl ListenerSpec {
    /// Returns which addresses its sockets may be bound to.
    pub fn bind_to(&self) -> BindTo {
        if self.free_bind { BindTo::AnyAddress } else { BindTo::OwnAddress }
    }

    /// Whether an address of `binds` is left out if this host does not have its family.
    pub fn may_leave_out(&self, address: &Address) -> bool {
        let tcp = address.tcp().filter(|tcp| tcp.ip().is_unspecified());
        tcp.is_some_and(|tcp| self.ports_of_any_family.contains(&tcp.port()))
    }

    /// What its sockets are set to.
    pub fn options(&self) -> ListenOptions {
        ListenOptions {
            backlog: self.backlog,
            keepalive: self.policy.relay.client.keepalive,
            user_timeout: self.policy.relay.client.user_timeout,
            buffers: self.buffers,
        }
    }
}
