//! The plan of a dial: all that the steps after the route need to know. They know no protocol and no intent.

use std::sync::Arc;

use super::sniffed::SniffedClient;
use crate::relay::RelaySettings;
use crate::snapshot::ServedPool;
use crate::snapshot::opening_policy::GreetingPolicy;

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
    /// The settings of the relay.
    pub(super) relay: RelaySettings,
}

/// The choice of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PickRule {
    /// The balancer of the pool picks it. If all are full, the connection waits in the queue.
    Balanced,
    /// It is the backend of another session of the client, full or not.
    OfSession,
    /// It is the host that the client names.
    Named,
}

/// The meaning of a FIN before a backend is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EarlyFin {
    /// The client has left: it must answer the server before anything useful happens.
    Left,
    /// The request is whole, and the client waits for its end.
    Whole,
    /// The request may be whole if the client has sent bytes. If it has sent none, it may wait for a banner.
    Unclear,
}
