//! Builds new configurations and routes beside the control loop, on a blocking thread.
//!
//! A million routes take seconds to compare and to build. Meanwhile the control loop handles no event, signals
//! included, so that nothing changes under the build. It only feeds the watchdog. Its runtime goes on, so admin answers
//! and checks run.

use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::build::{self, BuildFault};
use super::list_files::forget_read;
use super::reload::Changes;
use super::run::Control;
use crate::config::Config;
use crate::pool::Discoveries;
use crate::reclaim::Deferred;
use crate::snapshot::Snapshot;

/// A configuration that can come into force.
pub(super) struct Built {
    pub(super) changes: Changes,
    /// The configuration without the entries that were read from files of lists: the snapshot has these.
    pub(super) config: Deferred<Config>,
    pub(super) snapshot: Arc<Snapshot>,
}

impl Control {
    /// Compares a configuration with the running one and builds its snapshot.
    pub(super) async fn build(&mut self, mut config: Deferred<Config>) -> Result<Built, BuildFault> {
        let running = Arc::clone(&self.server.config);
        let old = self.server.view.snapshot.load_full();
        let metrics = Arc::clone(&self.server.view.metrics);
        // Lent to the thread; they are not used here before it gives them back.
        let leaving = std::mem::take(&mut self.leaving);
        let (nothing, _) = Discoveries::new();
        let discoveries = std::mem::replace(&mut self.discoveries, nothing);
        let work = move || {
            let changes = Changes::between(&running, &config);
            let sources = build::Sources {
                config: &config,
                leaving: &leaving,
                discoveries: Some(&discoveries),
                metrics: &metrics,
            };
            let built = build::snapshot(&config, &old, sources).map(|snapshot| {
                forget_read(&mut config);
                Built { changes, config, snapshot: Arc::new(snapshot) }
            });
            (built, leaving, discoveries)
        };
        let (built, leaving, discoveries) = self.beside(work).await;
        self.leaving = leaving;
        self.discoveries = discoveries;
        built
    }

    /// Runs `work` on a thread that may block. Meanwhile only the watchdog is fed.
    ///
    /// # Panics
    ///
    /// If `work` panics, with the same payload.
    pub(super) async fn beside<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let mut working = spawn_blocking(work);
        loop {
            tokio::select! {
                done = &mut working => match done {
                    Ok(done) => return done,
                    Err(error) => resume_unwind(error.into_panic()),
                },
                () = self.watchdog.due() => self.watchdog.beat(&self.server.workers),
            }
        }
    }
}
