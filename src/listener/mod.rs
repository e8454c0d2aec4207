//! Binds, accepts, and decides what a failed accept means.

mod accept;
mod bind;

use std::sync::Arc;

pub use accept::accept_until;
pub use bind::{BindFault, Bound, Wanted, bind};

use crate::snapshot::PolicySpec;
use crate::sys::Address;
use crate::sys::listen::ListenOptions;
use crate::sys::socket::KernelBuffers;

/// A listener as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    /// The listener's name: its identity over reloads, in logs and in metrics.
    pub name: Arc<str>,
    /// Where it listens; IPv6 sockets are v6-only. No address twice in a configuration, but for port 0.
    pub binds: Vec<Address>,
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
