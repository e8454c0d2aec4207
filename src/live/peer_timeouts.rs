//! The times after which the connection of a peer that does not answer, or does not read, is closed.

use std::time::Duration;

use crate::sys::tcp::Keepalive;

/// The timeouts of the peers of one side: clients have the timeouts of their listener, backends the timeouts of
/// their pool.
///
/// A peer is gone if it answers nothing: neither data, nor probes of a closed window, nor keepalive probes. A peer that
/// answers and reads nothing is stalled, and alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerTimeouts {
    /// The probes of the kernel to an idle peer. Default: 4 probes, the first after 60 s, at intervals of 15 s. If
    /// a peer is gone, its connection is closed after 120 s. `None` is off: then only the idle timeout closes it.
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT. Default `None`: the relay closes the connection of a peer that has bytes to acknowledge and
    /// answers nothing for about 60 s. With a value the kernel alone decides, and closes stalled peers too.
    pub user_timeout: Option<Duration>,
    /// The longest time for which a peer may be stalled. Default `None`: as long as the idle timeout.
    pub stall_timeout: Option<Duration>,
}

impl Default for PeerTimeouts {
    fn default() -> Self {
        Self {
            keepalive: Some(Keepalive::after(Duration::from_secs(60))),
            user_timeout: None,
            stall_timeout: None,
        }
    }
}
