//! Files with routes, followed while the process runs: a change rebuilds the routes of one listener and nothing
//! else.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::build;
use super::run::Control;
use crate::config::{Config, Faults, RoutesReader};
use crate::snapshot::RouteSpec;
use crate::sys::watch::{FileWatch, Look};

/// Reports that may wait; then the tasks wait.
const REPORTS: usize = 16;

/// What a task read.
pub(super) struct RoutesReport {
    listener: Arc<str>,
    /// The task's own number: a report may outlive its task.
    number: u64,
    read: Result<Vec<RouteSpec>, Faults>,
}

/// The files of all listeners. Their tasks end with it; they only send, control alone applies.
pub(super) struct RouteFiles {
    followed: BTreeMap<Arc<str>, Following>,
    next: u64,
    reports: mpsc::Receiver<RoutesReport>,
    report_to: mpsc::Sender<RoutesReport>,
}

struct Following {
    number: u64,
    reader: RoutesReader,
    task: AbortHandle,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RouteFiles {
    /// None yet.
    pub(super) fn new() -> Self {
        let (report_to, reports) = mpsc::channel(REPORTS);
        Self { followed: BTreeMap::new(), next: 0, reports, report_to }
    }

    /// Follows the files of a configuration, and no others.
    pub(super) fn follow(&mut self, config: &Config) {
        let mut old = std::mem::take(&mut self.followed);
        for reader in RoutesReader::all(config) {
            let listener = Arc::clone(reader.listener());
            let same = old.remove(&listener).filter(|following| following.reader == reader);
            let following = same.unwrap_or_else(|| self.start(reader));
            self.followed.insert(listener, following);
        }
    }

    fn start(&mut self, reader: RoutesReader) -> Following {
        self.next += 1;
        let number = self.next;
        let task = tokio::spawn(follow(reader.clone(), number, self.report_to.clone())).abort_handle();
        Following { number, reader, task }
    }

    /// The next report.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> RoutesReport {
        loop {
            // It never ends, as one sender is here.
            let Some(report) = self.reports.recv().await else { return std::future::pending().await };
            if self.followed.get(&report.listener).is_some_and(|following| following.number == report.number)
            {
                return report;
            }
        }
    }

    fn reader(&self, listener: &str) -> Option<&RoutesReader> {
        self.followed.get(listener).map(|following| &following.reader)
    }
}

/// Reads the file whenever it changes, for ever. It may have changed since the configuration was read.
async fn follow(reader: RoutesReader, number: u64, report_to: mpsc::Sender<RoutesReport>) {
    let mut watch = FileWatch::of_known(Arc::clone(reader.path()));
    loop {
        let reading = reader.clone();
        let Look::Changed(read) = watch.look(move |_| reading.read()).await else { continue };
        let report = RoutesReport { listener: Arc::clone(reader.listener()), number, read };
        if report_to.send(report).await.is_err() {
            return;
        }
    }
}

impl Control {
    /// Takes in what was read: other routes come into force at once, for new connections; of a broken file
    /// nothing does.
    pub(super) fn routes_read(&mut self, report: RoutesReport) {
        let listener = report.listener;
        let metrics = self.server.view.metrics.listener(&listener);
        let read = match report.read {
            Ok(read) => read,
            Err(faults) => {
                metrics.routes_file_failed.increment(1);
                tracing::error!(%listener, "the file with routes is broken; the routes stay as they are:\n{}", faults.render(false));
                return;
            }
        };
        metrics.routes_file_ok.increment(1);
        let Some(reader) = self.route_files.reader(&listener) else { return };
        let server = &mut self.server;
        let specs = &mut server.config.listeners;
        let Some(spec) = specs.iter_mut().find(|spec| spec.name == listener) else { return };
        let written = reader.written();
        if spec.policy.protocol.routes()[written.len()..] == read[..] {
            return;
        }
        let routes = spec.policy.protocol.routes_mut();
        routes.truncate(written.len());
        routes.extend(read);
        let snapshot = server.view.snapshot.load_full();
        let old = snapshot.policies.values().find(|policy| policy.listener == listener);
        let before = old.map(|policy| build::Before::of(policy));
        let named = build::Named { places: &snapshot.places, lists: &snapshot.lists };
        match build::policy(spec, before, named, &server.view.metrics) {
            Ok(policy) => {
                let routes = policy.protocol.routes().len();
                server.view.snapshot.store(Arc::new(snapshot.with_policy(&Arc::new(policy))));
                // They may be the first that hold whom they refuse.
                server.bound(&server.config);
                tracing::info!(%listener, routes, "the routes were read again");
            }
            Err(error) => tracing::error!(%listener, %error, "the routes stay as they are"),
        }
    }
}
