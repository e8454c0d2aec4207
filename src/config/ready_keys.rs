//! The pools without which the node is not ready, as configured.

use std::sync::Arc;
use std::time::Duration;

/// The pools without which the node is not ready, and the bounds in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadySpec {
    /// The names of the pools, each once. Default: none.
    pub needs: Vec<Arc<str>>,
    /// The time without an available backend after which a pool makes the node not ready. Default [`ReadySpec::AFTER`].
    pub after: Duration,
    /// The longest time for which these pools keep the node not ready. Default [`ReadySpec::FLOOR`], at least `after`.
    pub floor: Duration,
}

impl ReadySpec {
    /// The default of [`after`](Self::after): several failed checks in a row, and no restart of a single backend.
    pub const AFTER: Duration = Duration::from_secs(10);

    /// The default of [`floor`](Self::floor): time enough for routers and clients to use other nodes, and short enough if
    /// every node has withdrawn.
    pub const FLOOR: Duration = Duration::from_secs(300);
}

impl Default for ReadySpec {
    fn default() -> Self {
        Self { needs: Vec::new(), after: Self::AFTER, floor: Self::FLOOR }
    }
}
