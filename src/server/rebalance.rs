//! Closes the connections of a pool that would go elsewhere now, at the request of an operator. Their clients connect again
//! and get the backend that a new connection gets.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::close_orders::TooManyOrders;
use super::view::View;
use crate::ids::BackendId;
use crate::live::{
    CloseOrder, ClosePace, CloseSelection, ConnectionFilter, ConnectionQuery, ConnectionSort, ConnectionView,
    OpenStage,
};
use crate::pool::Pool;
use crate::snapshot::Snapshot;
use crate::telemetry::CloseReason;
use crate::wire::ServerName;

/// The time for which computed fair counts are used: they cost more than one connection is worth, and a second changes
/// little.
const FAIR_COUNTS: Duration = Duration::from_secs(1);

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
    /// True if connections have a backend by their key. False if those above the fair share of a backend are counted.
    pub is_hashed: bool,
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
        "{misplaced} of {open} connections are not where new ones would be, {}, which is more than {}: none was closed. \
         `most` sets another bound, such as --most {}%; a dry run only counts",
        percent(*.misplaced as f64 / *.open as f64),
        percent(*.most),
        (100.0 * *.misplaced as f64 / *.open as f64).ceil()
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
            let selection = Box::new(MisplacedConnections::of(&pool, &self.snapshot));
            CloseOrder::new(selection, CloseReason::Rebalanced, Arc::clone(&pace), most)
        };
        // An order without a place only counts, so it needs no slot among the orders.
        let count = self.give_order(&order(0)).await;
        let (misplaced, silent_workers) = (count.matched, count.silent_workers);
        let counted = Rebalance { open, misplaced, silent_workers, is_hashed: pool.is_hashed() };
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
struct MisplacedConnections {
    name: Arc<str>,
    /// The pool in force is looked up for each connection: a reload or an override may replace it.
    snapshot: Arc<ArcSwap<Snapshot>>,
    rule: MisplacedRule,
    /// The connections that no worker has selected yet, by backend. For a hash table those for which the backend has room;
    /// otherwise those above its fair share. Made once: with many backends it costs more than a walk may spend on each
    /// connection.
    budgets: HashMap<BackendId, AtomicU64>,
    /// The fair counts of a pool that does not hash, and the time at which they were computed.
    fair: Mutex<Option<(Instant, HashMap<BackendId, u64>)>>,
}

impl fmt::Debug for MisplacedConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MisplacedConnections").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The rule by which connections are selected.
#[derive(Clone, Copy, Debug)]
enum MisplacedRule {
    /// The pool hashes: each connection has a backend by its key.
    Key,
    /// Connections above the fair count of their backend.
    Surplus,
    /// No backend takes connections.
    Nowhere,
}

impl MisplacedConnections {
    fn of(pool: &Arc<Pool>, snapshot: &Arc<ArcSwap<Snapshot>>) -> Self {
        let (rule, counts) = if pool.is_hashed() {
            (MisplacedRule::Key, pool.rooms())
        } else {
            let above = |fair: Vec<u64>| {
                let both = pool.backends().iter().zip(fair);
                both.map(|(backend, fair)| backend.active().saturating_sub(fair)).collect()
            };
            match pool.fair_counts() {
                Some(fair) => (MisplacedRule::Surplus, above(fair)),
                None => (MisplacedRule::Nowhere, Vec::new()),
            }
        };
        let budgets = pool.backends().iter().zip(counts);
        Self {
            name: Arc::clone(&pool.spec().name),
            snapshot: Arc::clone(snapshot),
            rule,
            budgets: budgets.map(|(backend, count)| (backend.id(), AtomicU64::new(count))).collect(),
            fair: Mutex::default(),
        }
    }

    /// Returns the backend of a connected connection of the pool.
    fn backend_of(&self, view: &ConnectionView<'_>) -> Option<BackendId> {
        let is_of_pool = view.stage == OpenStage::Relaying && view.card.pool.as_deref() == Some(&*self.name);
        view.backend.filter(|_| is_of_pool)
    }

    /// Returns the other backend to which a connection of a pool with a hash table would go.
    fn other_place(&self, view: &ConnectionView<'_>, backend: BackendId) -> Option<BackendId> {
        let snapshot = self.snapshot.load();
        let pool = &snapshot.pools.get(&self.name)?.pool;
        let requested: Option<ServerName> = view.card.sni.as_deref().and_then(|name| name.parse().ok());
        let name = view.card.authority.as_deref().or(requested.as_ref());
        pool.other_place(view.client, name, backend)
    }

    /// Returns true if a backend has more connections than its fair count.
    fn has_surplus(&self, backend: BackendId) -> bool {
        let snapshot = self.snapshot.load();
        let Some(served) = snapshot.pools.get(&self.name) else { return false };
        let now = Instant::now();
        // Code under the lock cannot panic.
        let mut known = self.fair.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|(time, _)| now.duration_since(*time) >= FAIR_COUNTS) {
            let counts = served.pool.fair_counts().unwrap_or_default();
            let ids = served.pool.backends().iter().map(|backend| backend.id());
            *known = Some((now, ids.zip(counts).collect()));
        }
        let fair = known.as_ref().map(|(_, counts)| counts);
        match (fair.filter(|counts| !counts.is_empty()), served.pool.with_id(backend)) {
            (None, _) => false,
            // A backend that has left the pool gets no new connections.
            (Some(_), None) => true,
            (Some(counts), Some(own)) => counts.get(&backend).is_none_or(|fair| own.active() > *fair),
        }
    }
}

impl CloseSelection for MisplacedConnections {
    fn includes(&self, view: &ConnectionView<'_>) -> bool {
        self.backend_of(view).is_some_and(|backend| match self.rule {
            MisplacedRule::Key => self.other_place(view, backend).is_some(),
            MisplacedRule::Surplus => self.has_surplus(backend),
            MisplacedRule::Nowhere => false,
        })
    }

    fn select(&self, view: &ConnectionView<'_>) -> bool {
        let take = |left: &AtomicU64| {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        };
        // A backend that is new has all its room, and one that has left the pool has no fair share.
        let has_budget = |backend: BackendId| self.budgets.get(&backend).is_none_or(take);
        self.backend_of(view).is_some_and(|backend| match self.rule {
            MisplacedRule::Key => self.other_place(view, backend).is_some_and(has_budget),
            MisplacedRule::Surplus => has_budget(backend),
            MisplacedRule::Nowhere => false,
        })
    }
}
