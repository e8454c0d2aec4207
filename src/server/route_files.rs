//! Follows the files with routes while the process runs. A change rebuilds the routes of one listener and nothing else.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::build;
use super::build_fault::BuildFault;
use super::build_routes::SplitOverrides;
use super::events::{EventKind, EventLog, Severity};
use super::in_force::{ChangedPart, InForce};
use super::inherited::InheritedListener;
use super::overrides::OverrideTable;
use super::standing::{StandingFaults, StandingKind, first_line};
use super::start::Server;
use super::view::View;
use crate::config::{Config, Diagnostic, Faults, RoutesReader, left_to_wider};
use crate::listener::ListenerSpec;
use crate::reclaim::{self, Deferred};
use crate::snapshot::{Policy, RouteSpec, Snapshot};
use crate::sys::watch::{FileWatch, LookResult};
use crate::telemetry::Metrics;

/// The reports that may wait. If there are more, the tasks wait.
const REPORTS: usize = 16;

/// The result of one read of a routes file.
pub(super) struct RoutesReport {
    listener: Arc<str>,
    /// The number of the task. A report may arrive after its task has ended.
    number: u64,
    read: Result<Deferred<Vec<RouteSpec>>, Faults>,
}

/// The followed files of all listeners. The tasks that follow these files end when this value is dropped. The tasks
/// only send reports; control alone applies the routes.
pub(super) struct RouteFiles {
    followed: BTreeMap<Arc<str>, RoutesFollower>,
    /// The last report about each listener that is not applied yet. A newer report replaces it, so that a file that
    /// changes often does not fill the memory.
    noted: BTreeMap<Arc<str>, RoutesReport>,
    next: u64,
    reports: mpsc::Receiver<RoutesReport>,
    report_to: mpsc::Sender<RoutesReport>,
}

struct RoutesFollower {
    number: u64,
    reader: RoutesReader,
    task: AbortHandle,
}

impl Drop for RoutesFollower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RouteFiles {
    /// Starts without files.
    pub(super) fn new() -> Self {
        let (report_to, reports) = mpsc::channel(REPORTS);
        let (followed, noted) = Default::default();
        Self { followed, noted, next: 0, reports, report_to }
    }

    /// Follows the files of the configuration that came into force, and no others. The configuration was made with their
    /// contents, so their old faults are over.
    pub(super) fn in_force(&mut self, change: &InForce, config: &Config, standing: &StandingFaults) {
        match change.part {
            ChangedPart::Bound | ChangedPart::Configuration => {
                self.follow(config);
                standing.retain(StandingKind::Routes, |_| false);
            }
            ChangedPart::Pool(..) | ChangedPart::Routes => {}
        }
    }

    fn follow(&mut self, config: &Config) {
        let mut old = std::mem::take(&mut self.followed);
        for reader in RoutesReader::all(config) {
            let listener = Arc::clone(reader.listener());
            let same = old.remove(&listener).filter(|following| following.reader == reader);
            let following = same.unwrap_or_else(|| self.start(reader));
            self.followed.insert(listener, following);
        }
    }

    fn start(&mut self, reader: RoutesReader) -> RoutesFollower {
        self.next += 1;
        let number = self.next;
        let task = tokio::spawn(follow(reader.clone(), number, self.report_to.clone())).abort_handle();
        RoutesFollower { number, reader, task }
    }

    /// Waits for the next report.
    ///
    /// # Cancel safety
    ///
    /// No report is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> RoutesReport {
        match self.reports.recv().await {
            Some(report) => report,
            // `self` has a sender, so the channel never ends.
            None => std::future::pending().await,
        }
    }

    /// Keeps a report until it can be applied. The report of a task that has ended is dropped.
    pub(super) fn note(&mut self, report: RoutesReport) {
        if self.is_current(&report) {
            self.noted.insert(Arc::clone(&report.listener), report);
        }
    }

    /// Returns true if a report is not applied yet.
    pub(super) fn has_noted(&self) -> bool {
        !self.noted.is_empty()
    }

    /// Takes a report that is not applied yet, and the number of routes of its listener that do not come from the file.
    /// A reload may have ended the task of a report since it was kept; such a report is dropped.
    pub(super) fn take_noted(&mut self) -> Option<(RoutesReport, usize)> {
        while let Some((_, report)) = self.noted.pop_first() {
            if let Some(following) = self.followed.get(&report.listener)
                && following.number == report.number
            {
                return Some((report, following.reader.written().len()));
            }
        }
        None
    }

    fn is_current(&self, report: &RoutesReport) -> bool {
        self.followed.get(&report.listener).is_some_and(|following| following.number == report.number)
    }
}

/// Reads the file whenever it changes, without end. It may have changed since the configuration was read.
async fn follow(reader: RoutesReader, number: u64, report_to: mpsc::Sender<RoutesReport>) {
    let mut watch = FileWatch::of_known(Arc::clone(reader.path()));
    loop {
        let reading = reader.clone();
        let LookResult::Changed(read) = watch.look(move |_| reading.read()).await else { continue };
        let report =
            RoutesReport { listener: Arc::clone(reader.listener()), number, read: read.map(Deferred::new) };
        if report_to.send(report).await.is_err() {
            return;
        }
    }
}

impl RoutesReport {
    /// Counts the report, and returns the new routes to build. Returns `None` if the file is broken: its routes are not
    /// used. `written` is the number of routes of the listener that do not come from the file.
    pub(super) fn begin(self, written: usize, server: &Server) -> Option<RoutesBuild> {
        let Self { listener, read, .. } = self;
        let metrics = server.view.metrics.listener(&listener);
        let read = match read {
            Ok(read) => read,
            Err(faults) => {
                metrics.routes_file_failed.increment(1);
                log_broken(&listener, &faults, &server.view);
                return None;
            }
        };
        metrics.routes_file_ok.increment(1);
        server.view.standing.clear(StandingKind::Routes, &listener);
        Some(RoutesBuild {
            running: Arc::clone(&server.config),
            snapshot: server.view.snapshot.load_full(),
            metrics: Arc::clone(&server.view.metrics),
            overrides: server.view.overrides.copy(),
            listener,
            change: RoutesChange::File { written, read },
        })
    }
}

fn log_broken(listener: &Arc<str>, faults: &Faults, view: &View) {
    let faults = faults.render(false);
    tracing::error!(%listener, "the file with routes is broken; the routes stay as they are:\n{faults}");
    let first = first_line(&faults);
    let text = format!("the file with routes is broken; the routes stay as they are: {first}");
    view.standing.set(StandingKind::Routes, listener, text);
    let text = format!("the file with routes of listener {listener} is broken; the routes stay as they are");
    view.events.note(EventKind::Routes, Severity::Error, text);
}

/// The number of warnings about routes that are logged at one change.
const WARNED: usize = 10;

/// Logs the warnings about new routes that never match, and adds an event.
fn warn(listener: &Arc<str>, warnings: &[Diagnostic], events: &EventLog) {
    let Some(first) = warnings.first() else { return };
    for warning in warnings.iter().take(WARNED) {
        let (code, finding) = (warning.code.as_str(), &*warning.message);
        let hint = warning.help.first();
        tracing::warn!(%listener, code, finding, hint, "the file with routes leaves connections to a wider route");
    }
    let more = warnings.len().saturating_sub(WARNED);
    if more > 0 {
        tracing::warn!(%listener, more, "the file with routes leaves more connections to wider routes; `pointsman check` shows all of them");
    }
    let others = match warnings.len() - 1 {
        0 => String::new(),
        others => format!(" (and {others} more)"),
    };
    let text = format!("the file with routes of listener {listener}: {}{others}", first.message);
    events.note(EventKind::Routes, Severity::Warning, text);
}

/// New routes for one listener, and the values that they are compared with and built from.
pub(super) struct RoutesBuild {
    running: Arc<Config>,
    snapshot: Arc<Snapshot>,
    metrics: Arc<Metrics>,
    listener: Arc<str>,
    overrides: OverrideTable,
    change: RoutesChange,
}

/// The change of the routes of a listener.
enum RoutesChange {
    /// Its file was read.
    File {
        /// The number of routes, at the start of the list, that do not come from the file.
        written: usize,
        read: Deferred<Vec<RouteSpec>>,
    },
    /// An operator has set the shares of pools.
    Shares,
}

/// The result of a build.
pub(super) struct BuiltRoutes {
    listener: Arc<str>,
    result: Result<Option<ListenerWithRoutes>, BuildFault>,
}

/// A listener with new routes.
struct ListenerWithRoutes {
    spec: ListenerSpec,
    policy: Policy,
    /// The warnings of the new routes that the old routes did not have. `None` if no file was read.
    read: Option<Vec<Diagnostic>>,
}

impl RoutesBuild {
    /// Returns the same routes of a listener to build, with the shares that operators have set.
    pub(super) fn with_shares(listener: Arc<str>, server: &Server) -> Self {
        Self {
            running: Arc::clone(&server.config),
            snapshot: server.view.snapshot.load_full(),
            metrics: Arc::clone(&server.view.metrics),
            overrides: server.view.overrides.copy(),
            listener,
            change: RoutesChange::Shares,
        }
    }

    /// Builds the routes. A million of them take seconds, so the control thread must not call it.
    pub(super) fn build(self) -> BuiltRoutes {
        BuiltRoutes { listener: Arc::clone(&self.listener), result: self.listener_with_routes() }
    }

    /// Returns the listener with the new routes, and its policy. Returns `None` if no route is different or the
    /// listener is gone.
    fn listener_with_routes(self) -> Result<Option<ListenerWithRoutes>, BuildFault> {
        let spec = self.running.listeners.iter().find(|spec| spec.name == self.listener);
        let Some(spec) = spec else { return Ok(None) };
        let mut spec = spec.clone();
        let mut known: Option<HashSet<String>> = None;
        if let RoutesChange::File { written, read } = self.change {
            let (written, old) = spec.policy.protocol.routes().split_at(written);
            if old == &read[..] {
                return Ok(None);
            }
            let mut routes = written.to_vec();
            routes.append(&mut read.into_inner());
            known = Some(left_to_wider(&spec).into_iter().map(|warning| warning.message).collect());
            *spec.policy.protocol.routes_mut() = Arc::new(routes);
        }
        let old = self.snapshot.policies.values().find(|policy| policy.listener == self.listener);
        let before = old.map(|policy| InheritedListener::of(policy));
        let named =
            build::PolicyTargets { pool_slots: &self.snapshot.pool_slots, lists: &self.snapshot.lists };
        let splits = SplitOverrides { table: &self.overrides, hash_key: self.running.hash_key };
        let policy = build::policy(&spec, before, named, splits, &self.metrics)?;
        let Some(known) = known else {
            return Ok(Some(ListenerWithRoutes { spec, policy, read: None }));
        };
        let mut warnings = left_to_wider(&spec);
        warnings.retain(|warning| !known.contains(&warning.message));
        Ok(Some(ListenerWithRoutes { spec, policy, read: Some(warnings) }))
    }
}

impl BuiltRoutes {
    /// Puts the new routes in force, for new connections. Returns `None` if the routes stay as they are.
    pub(super) fn put_in_force(self, server: &mut Server) -> Option<InForce> {
        let Self { listener, result } = self;
        let change = match result {
            Ok(None) => return None,
            Ok(Some(built)) => Some(built.put_in_force(&listener, server)),
            Err(error) => {
                tracing::error!(%listener, %error, "the routes stay as they are");
                let text = format!("the routes stay as they are: {error}");
                server.view.standing.set(StandingKind::Routes, &listener, text);
                None
            }
        };
        reclaim::trim_later();
        change
    }
}

impl ListenerWithRoutes {
    fn put_in_force(self, listener: &Arc<str>, server: &mut Server) -> InForce {
        let Self { spec, policy, read } = self;
        let routes = policy.protocol.routes().len();
        let snapshot = server.view.snapshot.load().with_policy(&Arc::new(policy));
        let change = InForce::routes(&server.view, snapshot);
        server.renew_policies();
        let specs = &mut Arc::make_mut(&mut server.config).listeners;
        if let Some(own) = specs.iter_mut().find(|spec| spec.name == *listener) {
            reclaim::free_later(std::mem::replace(own, spec));
        }
        // The new routes may be the first with a tarpit, which needs descriptors.
        server.bound();
        if let Some(warnings) = read {
            tracing::info!(%listener, routes, "the routes were read again");
            let text = format!("the routes of listener {listener} were read again: {routes} routes");
            server.view.events.note(EventKind::Routes, Severity::Info, text);
            warn(listener, &warnings, &server.view.events);
        }
        change
    }
}
