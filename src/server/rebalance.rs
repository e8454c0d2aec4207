//! Closes the connections of a pool that would go elsewhere now, at the request of an operator. Their clients connect again
//! and get the backend that a new connection gets.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::close_orders::TooManyOrders;
use super::view::View;
use crate::ids::BackendId;
use crate::live::{
    CloseOrder, ClosePace, CloseSelection, ConnectionFilter, ConnectionQuery, ConnectionSort, ConnectionView,
    OpenStage,
};
use crate::pool::{Backend, Pool};
use crate::telemetry::CloseReason;
use crate::wire::ServerName;

/// The request to rebalance a pool.
#[derive(Clone, Debug)]
pub struct RebalanceRequest {
    /// The pool.
    pub pool: Arc<Pool>,
    /// The pace at which connections are closed.
    pub pace: Arc<ClosePace>,
    /// The largest part of the pool's connections that may be closed, 0 to 1. If more would go elsewhere, none is closed.
    pub most: f64,
    /// True if nothing is closed.
    pub is_dry_run: bool,
}

/// The connections of a pool that would go elsewhere now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebalance {
    /// The connected connections of the pool.
    pub open: u64,
    /// Those that would go to another backend.
    pub misplaced: u64,
    /// The workers that did not answer in time. Their connections are not counted.
    pub silent_workers: usize,
}

/// The reason for which a pool is not rebalanced.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RebalanceRefusal {
    /// The pool has no backends to choose from.
    #[error(
        "the pool forwards clients to the hosts that they request, so each connection is where it should be"
    )]
    Forwards,
    /// An operator has paused the pool.
    #[error("the pool is paused, so a client that connects again would wait: resume the pool first")]
    Paused,
    /// More connections would be closed than the request allows.
    #[error(
        "{misplaced} of {open} connections would go to another backend, {}, which is more than {}: none was closed. A higher \
         `most` allows it; `dry_run` only counts",
        percent(*.misplaced as f64 / *.open as f64),
        percent(*.most)
    )]
    AboveBound {
        /// The connected connections of the pool.
        open: u64,
        /// Those that would go elsewhere.
        misplaced: u64,
        /// The largest part that may be closed.
        most: f64,
    },
    /// Too many orders to close connections are being carried out.
    #[error(transparent)]
    TooManyOrders(#[from] TooManyOrders),
}

/// Returns a share as a percentage.
fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

impl View {
    /// Counts the connections of a pool that would go elsewhere now, and begins to close them one after the other.
    ///
    /// # Errors
    ///
    /// The reason for which no connection is closed.
    pub async fn rebalance(&self, request: RebalanceRequest) -> Result<Rebalance, RebalanceRefusal> {
        let RebalanceRequest { pool, pace, most, is_dry_run } = request;
        if pool.forward().is_some() {
            return Err(RebalanceRefusal::Forwards);
        }
        if pool.is_paused() {
            return Err(RebalanceRefusal::Paused);
        }
        let filter = ConnectionFilter {
            pool: Some((&*pool.spec().name).into()),
            stage: Some(OpenStage::Relaying),
            ..ConnectionFilter::default()
        };
        let query =
            ConnectionQuery { filter, sort: ConnectionSort::default(), limit: 1, now: Instant::now() };
        let open = self.list_connections(query).await.page.matched;
        let order = |most| {
            let selection = Box::new(MisplacedConnections::of(&pool));
            CloseOrder::new(selection, CloseReason::Rebalanced, Arc::clone(&pace), most)
        };
        // An order without a place only counts.
        let count = self.carry_out(order(0)).await?;
        let (misplaced, silent_workers) = (count.matched, count.silent_workers);
        let counted = Rebalance { open, misplaced, silent_workers };
        if is_dry_run || misplaced == 0 {
            return Ok(counted);
        }
        if misplaced as f64 > open as f64 * most {
            return Err(RebalanceRefusal::AboveBound { open, misplaced, most });
        }
        self.carry_out(order(misplaced)).await?;
        Ok(counted)
    }
}

/// The connections of a pool that would go to another backend than theirs.
#[derive(Debug)]
struct MisplacedConnections {
    name: Arc<str>,
    /// Any pool of this name leads to the one in force.
    pool: Weak<Pool>,
    rule: MisplacedRule,
}

/// The rule by which connections are selected.
#[derive(Debug)]
enum MisplacedRule {
    /// The pool hashes: each connection has a backend by its key.
    Key,
    /// Connections above the fair count of their backend, as many as no worker has selected yet. Made once: with many
    /// backends it costs more than a walk may spend on each connection.
    Surplus(HashMap<BackendId, AtomicU64>),
    /// No backend takes connections.
    Nowhere,
}

impl MisplacedConnections {
    fn of(pool: &Arc<Pool>) -> Self {
        let above = |(backend, fair): (&Arc<Backend>, u64)| {
            (backend.id(), AtomicU64::new(backend.active().saturating_sub(fair)))
        };
        let rule = match pool.fair_counts() {
            _ if pool.is_hashed() => MisplacedRule::Key,
            Some(fair) => MisplacedRule::Surplus(pool.backends().iter().zip(fair).map(above).collect()),
            None => MisplacedRule::Nowhere,
        };
        Self { name: Arc::clone(&pool.spec().name), pool: Arc::downgrade(pool), rule }
    }

    /// Returns the pool in force, if the connection is a connected one of this pool.
    fn pool_of(&self, view: &ConnectionView<'_>) -> Option<(Arc<Pool>, BackendId)> {
        let is_of_pool = view.stage == OpenStage::Relaying && view.card.pool.as_deref() == Some(&*self.name);
        let backend = view.backend.filter(|_| is_of_pool)?;
        Some((self.pool.upgrade()?.in_force()?, backend))
    }
}

impl CloseSelection for MisplacedConnections {
    fn includes(&self, view: &ConnectionView<'_>) -> bool {
        let Some((pool, backend)) = self.pool_of(view) else { return false };
        if pool.is_hashed() {
            let requested: Option<ServerName> = view.card.sni.as_deref().and_then(|name| name.parse().ok());
            let name = view.card.authority.as_deref().or(requested.as_ref());
            return pool.is_misplaced(view.client, name, backend);
        }
        let Some(fair) = pool.fair_counts() else { return false };
        let own = pool.backends().iter().zip(fair).find(|(other, _)| other.id() == backend);
        // A backend that has left the pool gets no new connections.
        own.is_none_or(|(backend, fair)| backend.active() > fair)
    }

    fn select(&self, view: &ConnectionView<'_>) -> bool {
        let take = |left: &AtomicU64| {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        };
        match &self.rule {
            MisplacedRule::Key => self.includes(view),
            // A backend that has left the pool has no fair count.
            MisplacedRule::Surplus(left) => {
                self.pool_of(view).is_some_and(|(_, backend)| left.get(&backend).is_none_or(take))
            }
            MisplacedRule::Nowhere => false,
        }
    }
}
