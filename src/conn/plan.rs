//! The plan of a dial: all that the steps after the route need to know. They know no protocol and no intent.

use std::sync::Arc;

use super::sniffed::SniffedClient;
use crate::relay::RelaySettings;
use crate::snapshot::ServedPool;
use crate::snapshot::opening_policy::GreetingPolicy;
use crate::telemetry::CloseReason;
use crate::wire::TunnelRequest;

/// A client and the plan of its dial.
pub(super) struct RoutedClient {
    pub(super) sniffed: SniffedClient,
    pub(super) plan: DialPlan,
}

/// The plan of a dial.
pub(super) struct DialPlan {
    /// The pool. Its spec has the time limits of the dial.
    pub(super) served: Arc<ServedPool>,
    /// The most attempts.
    pub(super) attempts: u32,
    /// The choice of the backend.
    pub(super) pick: PickRule,
    /// The meaning of a FIN that the client sends before a backend is connected.
    pub(super) early_fin: EarlyFin,
    /// The exchange that a backend requires before it gets the client's bytes.
    pub(super) greeting: Option<GreetingPolicy>,
    /// The request of a client for a tunnel. The client gets the answer once its backend is connected, before any byte of
    /// the backend.
    pub(super) request: Option<TunnelRequest>,
    /// The first bytes of a tunnel in which a hello is verified, until it is. `None` if none is.
    pub(super) unverified: Option<Vec<u8>>,
    /// The settings of the relay.
    pub(super) relay: RelaySettings,
}

impl DialPlan {
    /// Returns true if a hello in the tunnel of the client must have the name that the client requested.
    pub(super) fn verifies_hello(&self) -> bool {
        let name = self.request.as_ref().and_then(|request| request.target.host.name());
        name.is_some() && self.served.pool.forward().is_some_and(|forward| forward.spec().verify_sni)
    }
}

/// The choice of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PickRule {
    /// The balancer of the pool picks the backend. If all backends are full, the connection waits in the queue.
    Balanced,
    /// The backend of another session of the client is used, even if it is full.
    OfSession {
        /// The close reason if no session has a backend.
        missing: CloseReason,
    },
    /// The host that the client names is the backend.
    Named,
}

/// The meaning of a FIN before a backend is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EarlyFin {
    /// The client has left: the session is of no use before the client has answered the server.
    Left,
    /// The request is whole, and the client waits for the end of the request.
    Whole,
    /// If the client has sent bytes, its request may be whole. If the client has sent no bytes, it may wait for
    /// a banner of the server.
    Unclear,
    /// The client waits for an answer. If it has sent further bytes, its request may be whole. Else it has left.
    Unanswered,
}
