//! Counts the server names and sources with the most new connections, over all workers.

use std::time::{Instant, SystemTime};

use tokio::task::spawn_blocking;

use super::view::View;
use crate::live::TopItems;

/// The counts of all workers.
#[derive(Clone, Debug)]
pub struct TopAnswer {
    /// The counts.
    pub items: TopItems,
    /// The begin of the time that is counted.
    pub since: SystemTime,
    /// The workers that did not answer in time. Their connections are missing.
    pub silent_workers: usize,
}

impl View {
    /// Returns the counts of all workers together.
    pub async fn top(&self) -> TopAnswer {
        let answers = self.ask_workers(|worker| worker.count_top()).await;
        let parts: Vec<_> = answers.given.into_iter().flatten().collect();
        let now = Instant::now();
        // Many workers have hundreds of thousands of items together.
        let merged = spawn_blocking(move || TopItems::merge(parts, now)).await;
        let items = merged.unwrap_or_else(|_| TopItems::merge(Vec::new(), now));
        let since = SystemTime::now() - items.since.elapsed();
        TopAnswer { items, since, silent_workers: answers.silent }
    }
}
