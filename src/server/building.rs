//! Builds new configurations and routes beside the control loop, on a blocking thread.
//!
//! A million routes take seconds to compare and to build. Meanwhile the control loop applies no reports, so that
//! nothing changes under the build. It feeds the watchdog and handles signals, requests and the end of a worker. If the
//! process is to end, it does not wait for the build. The runtime of control goes on, so admin answers and checks run.

use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::build;
use super::changes::Changes;
use super::list_files::forget_read;
use super::reload::ReloadFault;
use super::run::{Control, ControlEvent, any_worker};
use super::signals::any_signal;
use crate::config::Config;
use crate::pool::Discoveries;
use crate::reclaim::Deferred;
use crate::snapshot::Snapshot;

/// A configuration that can come into force.
pub(super) struct Built {
    pub(super) changes: Changes,
    /// The configuration without the entries that were read from list files: the snapshot has these.
    pub(super) config: Deferred<Config>,
    pub(super) snapshot: Arc<Snapshot>,
}

impl Control {
    /// Compares a configuration with the running one and builds its snapshot.
    ///
    /// If the process is to end meanwhile, the thread keeps the values that were moved to it. Until the end, discovery
    /// changes no backends, and connections of removed listeners and backends end with all others.
    ///
    /// # Errors
    ///
    /// The fault of the snapshot; `Stopping` if the process is to end. The event that ends the process is then the
    /// next one.
    pub(super) async fn build(&mut self, mut config: Deferred<Config>) -> Result<Built, ReloadFault> {
        let running = Arc::clone(&self.server.config);
        let old = self.server.view.snapshot.load_full();
        let metrics = Arc::clone(&self.server.view.metrics);
        // These values are moved to the thread and come back with its result. Nothing else uses them meanwhile.
        let draining = std::mem::take(&mut self.draining);
        let (nothing, _) = Discoveries::new();
        let discoveries = std::mem::replace(&mut self.discoveries, nothing);
        let work = move || {
            let mut changes = Changes::between(&running, &config);
            let sources = build::BuildInputs {
                config: &config,
                draining: &draining,
                found: build::FoundBackends::Prepared(&discoveries),
                metrics: &metrics,
            };
            let built = build::snapshot(&config, &old, sources).map(|snapshot| {
                forget_read(&mut config);
                changes.add_details(&old, &snapshot);
                Built { changes, config, snapshot: Arc::new(snapshot) }
            });
            (built, draining, discoveries)
        };
        let Some((built, draining, discoveries)) = self.run_beside(work).await else {
            return Err(ReloadFault::Stopping);
        };
        self.draining = draining;
        self.discoveries = discoveries;
        Ok(built?)
    }

    /// Runs `work` on a thread that may block. Returns `None` if the process is to end meanwhile. The event that
    /// ends the process is then the next one, the thread finishes its work, and the result is dropped there.
    ///
    /// # Panics
    ///
    /// If `work` panics, with the same payload.
    pub(super) async fn run_beside<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let mut working = spawn_blocking(work);
        loop {
            let event = tokio::select! {
                done = &mut working => match done {
                    Ok(done) => return Some(done),
                    Err(error) => resume_unwind(error.into_panic()),
                },
                kind = any_signal(&mut self.signals) => ControlEvent::Signal(kind),
                (at, result) = any_worker(&mut self.server.workers) => ControlEvent::Worker(at, result),
                Some(request) = self.server.requests.recv() => ControlEvent::Request(request),
                () = self.watchdog.due() => ControlEvent::Watchdog,
            };
            if self.handle_while_waiting(event) {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use tokio::runtime::{Builder, LocalOptions};

    use super::*;
    use crate::config;
    use crate::server::view::ControlRequest;
    use crate::server::{Server, Signals};
    use crate::worker::WorkerCommand;

    const CONFIG: &str = "[listener.a]\nbind = \"127.0.0.1:0\"\npool = \"a\"\n\
                          [pool.a]\nbackends = [\"127.0.0.1:1\"]\nhealth.check = \"off\"\n";

    /// Runs work beside a control loop, which has a request to stop if `stops` is true. Without the request the
    /// work ends at once; with it the work ends only after the control loop has abandoned it.
    fn check(stops: bool) {
        let (config, _) = config::parse("test", CONFIG).unwrap();
        let server = Server::start(config).unwrap();
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let remote = server.remote();
            let mut control = Control::new(server, Signals::Ignore).unwrap();
            let (release, blocked) = channel::<()>();
            let release = stops.then_some(release);
            if stops {
                remote.stop();
            }
            let result = control.run_beside(move || blocked.recv().is_err()).await;
            assert_eq!(result, (!stops).then_some(true));
            drop(release);
            let is_stop =
                matches!(control.postponed.front(), Some(ControlEvent::Request(ControlRequest::Stop)));
            assert_eq!(is_stop, stops, "the request is not lost");
            control.server.workers.iter().for_each(|worker| worker.order(WorkerCommand::Finish));
        });
    }

    #[test]
    fn a_build_does_not_delay_a_stop() {
        check(false);
        check(true);
    }
}
