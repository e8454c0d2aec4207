//! How long a peer may not answer, or not read, before its connection is closed.

use std::time::Duration;

use crate::sys::tcp::Keepalive;

/// The timeouts of the peers of one side: clients have those of their listener, backends those of their pool.
///
/// A peer is gone if nothing that was sent to it is answered: data, probes of a closed window, keepalive probes. A
/// peer that answers and reads nothing is stalled, and alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerTimeouts {
    /// How the kernel probes an idle peer. Default: after 60 s, then 4 times at intervals of 15 s, so that one that
    /// is gone is closed after 120 s. `None` is off: one that is gone while idle is closed by the idle timeout.
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT. Default `None`: a peer that has bytes to acknowledge and answers nothing for about 60 s is
    /// closed by the relay. With it the kernel alone judges, and closes a stalled peer too.
    pub user_timeout: Option<Duration>,
    /// How long a peer may be stalled. Default `None`: as long as the idle timeout.
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
