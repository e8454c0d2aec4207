//! A connection between its accept and its first read: first accepted, then admitted.

use std::sync::Arc;

use crate::limit::Permit;
use crate::snapshot::{Policy, Snapshot, SocketId};
use crate::sys::listen::Accepted;

/// A connection that was just accepted.
pub struct AcceptedConnection {
    /// Its socket and the address of its client.
    pub accepted: Accepted,
    /// The listening socket that accepted it.
    pub through: SocketId,
    /// The policy of the listening socket at the time of the accept.
    pub policy: Arc<Policy>,
}

/// An accepted connection that may be served.
pub(super) struct AdmittedConnection {
    pub(super) arrival: AcceptedConnection,
    pub(super) id: u64,
    pub(super) permit: Permit,
}

/// The policy that a connection holds until its backend is connected.
pub(super) struct HeldPolicy {
    pub(super) through: SocketId,
    pub(super) current: Arc<Policy>,
}

impl HeldPolicy {
    /// Replaces the policy by the one that is in force now. A client may send its first bytes long after the
    /// accept. By then the policy of the accept may lead to backends that no longer exist. A listener that was
    /// removed keeps its last policy.
    pub(super) fn refresh(&mut self, snapshot: &Snapshot) {
        if let Some(policy) = snapshot.policies.get(&self.through)
            && policy.listener_id == self.current.listener_id
        {
            self.current = Arc::clone(policy);
        }
    }
}
