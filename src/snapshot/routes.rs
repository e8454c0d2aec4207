//! Where the connections of a listener go: its routes, alive.

use std::net::IpAddr;
use std::sync::Arc;

use super::{HelloSpec, PoolSlot, UsageLimit};
use crate::reclaim::Deferred;
use crate::route::{ConnectionFacts, RouteId, RouteMatch, RouteTable, Split};
use crate::telemetry::RouteCounts;
use crate::wire::ServerName;

/// The routes of a listener.
#[derive(Default)]
pub struct Routes {
    /// Names and conditions to places in `targets`.
    pub table: RouteTable,
    /// The routes' words and where they lead, by [`RouteId`].
    pub targets: Vec<RouteTarget>,
}

impl Routes {
    /// How many names lead somewhere; one that stands in several routes counts as often.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// The target of a connection, or `None` when no route fits.
    fn target(
        &self,
        name: Option<&ServerName>,
        what: &ConnectionFacts<'_>,
    ) -> Result<Option<&RouteTarget>, NoRoute> {
        match self.table.find(name, what) {
            RouteMatch::Route(RouteId(route)) => Ok(Some(&self.targets[route as usize])),
            RouteMatch::TooOld => Err(NoRoute::TooOld),
            RouteMatch::Nothing => Ok(None),
        }
    }
}

/// Where connections go of which nothing is read.
pub struct TcpPolicy {
    /// Routes by what is known without reading.
    pub routes: Deferred<Routes>,
    /// Connections that no route takes.
    pub pool: Arc<PoolSlot>,
}

impl TcpPolicy {
    /// The target of a connection; `None` for the listener's pool.
    pub fn target(&self, what: &ConnectionFacts<'_>) -> Option<&RouteTarget> {
        self.routes.target(None, what).ok().flatten()
    }
}

/// Where connections with and without a server name go.
pub struct TlsPolicy {
    /// The routes.
    pub routes: Deferred<Routes>,
    /// Clients that send no name and that no route takes; `None` rejects.
    pub no_sni: Option<RouteTarget>,
    /// Clients whose name no route matches; `None` rejects.
    pub unmatched: Option<RouteTarget>,
    /// The bounds of reading a hello.
    pub hello: HelloSpec,
}

/// What happens to connections, and the words of the route that says so.
#[derive(Clone)]
pub struct RouteTarget {
    /// The route as written, or the key that stands for it.
    pub route: Arc<str>,
    /// Where it leads.
    pub action: Action,
    /// What it may have.
    pub limits: Option<UsageLimit>,
    /// What is counted of a route with a name; outlives reloads.
    pub counts: Option<Arc<RouteCounts>>,
}

/// What a route does with a connection.
#[derive(Clone)]
pub enum Action {
    /// It goes to a pool.
    Pool(Arc<PoolSlot>),
    /// It goes to one of several pools.
    Split(Arc<(Split, Vec<Arc<PoolSlot>>)>),
    /// It is refused with a TLS alert, without TLS by a reset.
    Reject,
    /// It is reset without a word.
    Drop,
}

impl Action {
    /// The pool for a client with this address, if it goes to one.
    pub fn place(&self, source: Option<IpAddr>) -> Option<&Arc<PoolSlot>> {
        match self {
            Self::Pool(place) => Some(place),
            Self::Split(split) => split.1.get(split.0.place(source)),
            Self::Reject | Self::Drop => None,
        }
    }
}

/// Why a connection leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// The client sent no name, and that is rejected.
    NoSni,
    /// No route matches the name, and that is rejected.
    Unmatched,
    /// Each route for the name asks for a later version of TLS.
    TooOld,
}

impl TlsPolicy {
    /// The target of a client.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn target(
        &self,
        name: Option<&ServerName>,
        what: &ConnectionFacts<'_>,
    ) -> Result<&RouteTarget, NoRoute> {
        if let Some(target) = self.routes.target(name, what)? {
            return Ok(target);
        }
        match name {
            None => self.no_sni.as_ref().ok_or(NoRoute::NoSni),
            Some(_) => self.unmatched.as_ref().ok_or(NoRoute::Unmatched),
        }
    }
}
