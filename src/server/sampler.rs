//! Reads the totals of the process each second, for the history.

use std::sync::Arc;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::view::View;
use crate::telemetry::SAMPLE_INTERVAL;

/// Reads the totals each second, without an end. A reading that comes late, because control was busy, distorts no sample.
pub(super) async fn sample(view: Arc<View>) {
    // No tick comes before the end of its second.
    let mut seconds = interval_at(Instant::from_std(view.history.begin_time()), SAMPLE_INTERVAL);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        seconds.tick().await;
        view.history.read(view.bounds.connections.inside(), view.metrics.totals().read());
    }
}
