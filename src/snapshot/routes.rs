//! The routes of a listener in use.

use std::net::IpAddr;
use std::sync::Arc;

use super::{HelloSpec, PoolSlot, TunnelOpening, UsageLimit};
use crate::reclaim::Deferred;
use crate::route::{ConnectionFacts, RouteId, RouteMatch, RouteTable, Split};
use crate::telemetry::RouteCounts;
use crate::wire::ServerName;

/// The routes of a listener.
#[derive(Default)]
pub struct Routes {
    /// The names and conditions, which lead to an index of `targets`.
    pub table: RouteTable,
    /// The targets of the routes, indexed by [`RouteId`].
    pub targets: Vec<RouteTarget>,
}

impl Routes {
    /// The number of targets. A name in several routes counts once for each route.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Returns true if there are no routes.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Returns the target of a connection, or `None` if no route matches.
    fn target(
        &self,
        name: Option<&ServerName>,
        facts: &ConnectionFacts<'_>,
    ) -> Result<Option<&RouteTarget>, NoRoute> {
        match self.table.find(name, facts) {
            RouteMatch::Route(RouteId(route)) => Ok(Some(&self.targets[route as usize])),
            RouteMatch::TooOld => Err(NoRoute::TooOld),
            RouteMatch::Nothing => Ok(None),
        }
    }
}

/// The targets of connections from which no byte is read.
pub struct TcpPolicy {
    /// The routes. Their conditions need only facts that are known before a byte is read.
    pub routes: Deferred<Routes>,
    /// The pool of connections that match no route.
    pub pool: Arc<PoolSlot>,
}

impl TcpPolicy {
    /// Returns the target of a connection; `None` means the listener's pool.
    pub fn target(&self, facts: &ConnectionFacts<'_>) -> Option<&RouteTarget> {
        self.routes.target(None, facts).ok().flatten()
    }
}

/// The targets of connections whose clients request tunnels.
pub struct TunnelPolicy {
    /// The protocol of the requests.
    pub opening: TunnelOpening,
    /// The routes.
    pub routes: Deferred<Routes>,
    /// The pool of connections that match no route.
    pub pool: Arc<PoolSlot>,
    /// The bounds for the reading of a request.
    pub hello: HelloSpec,
}

impl TunnelPolicy {
    /// Returns the target of a client that requested the host with this name; `None` means the listener's pool. A client
    /// that requested an address has no name.
    pub fn target(&self, name: Option<&ServerName>, facts: &ConnectionFacts<'_>) -> Option<&RouteTarget> {
        self.routes.target(name, facts).ok().flatten()
    }
}

/// The targets of connections with and without a server name.
pub struct TlsPolicy {
    /// The routes.
    pub routes: Deferred<Routes>,
    /// The target of clients that send no name and match no route; `None` rejects.
    pub no_sni: Option<RouteTarget>,
    /// The target of clients whose name matches no route; `None` rejects.
    pub unmatched: Option<RouteTarget>,
    /// The bounds for the reading of a hello.
    pub hello: HelloSpec,
}

/// An action for connections, and the name of its route.
#[derive(Clone)]
pub struct RouteTarget {
    /// The route as configured, or the key that represents it.
    pub route: Arc<str>,
    /// The action.
    pub action: Action,
    /// The limits of the route.
    pub limits: Option<UsageLimit>,
    /// The counts of a route, kept over reloads. `None` for a target that is no route, such as `unmatched`.
    pub counts: Option<Arc<RouteCounts>>,
}

impl RouteTarget {
    /// Returns the counts of a route with a name. They are in the metrics.
    pub fn named_counts(&self) -> Option<&Arc<RouteCounts>> {
        self.counts.as_ref().filter(|counts| counts.is_named())
    }
}

/// The action of a route.
#[derive(Clone)]
pub enum Action {
    /// The connection goes to a pool.
    Pool(Arc<PoolSlot>),
    /// The connection goes to one of several pools.
    Split(Arc<(Split, Vec<Arc<PoolSlot>>)>),
    /// The connection is refused: with a TLS alert, or without TLS by a reset.
    Reject,
    /// The connection is reset.
    Drop,
}

impl Action {
    /// Returns the slot of the pool for a client with this address, if the connection goes to a pool.
    pub fn slot(&self, source: Option<IpAddr>) -> Option<&Arc<PoolSlot>> {
        match self {
            Self::Pool(slot) => Some(slot),
            Self::Split(split) => split.1.get(split.0.place(source)),
            Self::Reject | Self::Drop => None,
        }
    }
}

/// The reason for which a connection has no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// The client sent no name, and such clients are rejected.
    NoSni,
    /// No route matches the name, and such clients are rejected.
    Unmatched,
    /// Each route for the name requires a later version of TLS.
    TooOld,
}

impl TlsPolicy {
    /// Returns the target of a client.
    ///
    /// # Errors
    ///
    /// The reason for which the client has no target.
    pub fn target(
        &self,
        name: Option<&ServerName>,
        facts: &ConnectionFacts<'_>,
    ) -> Result<&RouteTarget, NoRoute> {
        if let Some(target) = self.routes.target(name, facts)? {
            return Ok(target);
        }
        match name {
            None => self.no_sni.as_ref().ok_or(NoRoute::NoSni),
            Some(_) => self.unmatched.as_ref().ok_or(NoRoute::Unmatched),
        }
    }

    /// Returns true if this is the target of clients whose name matches no route.
    pub fn is_unmatched(&self, target: &RouteTarget) -> bool {
        self.unmatched.as_ref().is_some_and(|unmatched| std::ptr::eq(unmatched, target))
    }
}
