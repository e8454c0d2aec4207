//! The parts of control that follow what is in force. Each part gets one call when a change has come into
//! force, and no other call about the change.

use tokio::time::Instant;

use super::agents::AgentFollower;
use super::changed_parts::{self, ChangedParts};
use super::checks::CheckFollower;
use super::discovery::{DiscoveryFollower, HeldReports};
use super::draining::{self, DrainingSet, ExpiredDrains};
use super::event::{BackendEvent, FileEvent};
use super::follow_up::FollowUp;
use super::in_force::InForce;
use super::list_files::ListFiles;
use super::near_files::NearFiles;
use super::readiness;
use super::route_files::RouteFiles;
use super::start::Server;
use crate::pool::DiscoveryReport;
use crate::worker::WorkerCommand;

/// The parts of control that follow what is in force. Control owns them; their tasks end with it.
pub(super) struct Followers {
    /// The sources that list backends and the addresses of host names.
    pub(super) discovery: DiscoveryFollower,
    /// The listeners and backends that were removed.
    pub(super) draining: DrainingSet,
    /// The consequences of changes of backends.
    pub(super) follow_up: FollowUp,
    /// The health checks.
    pub(super) checks: CheckFollower,
    /// The agents of backends.
    pub(super) agents: AgentFollower,
    /// The files with routes.
    pub(super) route_files: RouteFiles,
    /// The files with entries of lists.
    pub(super) list_files: ListFiles,
    /// The databases with the places of clients.
    pub(super) near_files: NearFiles,
    /// The pools and listeners that are not in force with their overrides yet.
    pub(super) changed_parts: ChangedParts,
}

impl Followers {
    /// Starts to follow the configuration of the start.
    pub(super) fn new(server: &mut Server) -> Self {
        let mut followers = Self {
            discovery: DiscoveryFollower::new(),
            draining: DrainingSet::default(),
            follow_up: FollowUp::default(),
            checks: CheckFollower::new(server),
            agents: AgentFollower::new(),
            route_files: RouteFiles::new(),
            list_files: ListFiles::new(),
            near_files: NearFiles::new(),
            changed_parts: ChangedParts::default(),
        };
        if let Some(state) = &mut server.pending_state {
            followers.discovery.sources.restore(state.take_discovered());
            let snapshot = server.view.snapshot.load();
            followers.draining.restore(state.take_draining(), &snapshot, Instant::now());
        }
        followers.in_force(&InForce::bound(&server.view), server);
        followers
    }

    /// Follows a change that has come into force. `server` has the configuration in force.
    pub(super) fn in_force(&mut self, change: &InForce, server: &Server) {
        let (config, standing) = (&server.config, &server.view.standing);
        self.discovery.in_force(change, config);
        self.draining.in_force(change, Instant::now(), config.shutdown.drain);
        changed_parts::follow_pauses(server, change);
        self.follow_up.in_force(change, server);
        self.checks.in_force(change, server, &self.discovery.sources);
        self.agents.in_force(change, &self.discovery.sources, &self.checks.limit);
        self.route_files.in_force(change, config, standing);
        self.list_files.in_force(change, config, standing);
        self.near_files.in_force(change, config, standing);
        for forward in change.pools().iter().filter_map(|served| served.pool.forward()) {
            forward.follow();
        }
        readiness::review(&server.view, &server.config.ready);
    }

    /// Applies an event of a backend.
    pub(super) fn apply(&mut self, event: BackendEvent, server: &Server) {
        match event {
            BackendEvent::Checked(report) => self.follow_up.apply(server, &report),
            BackendEvent::Agent(report) => {
                self.agents.note(&server.view, &report);
                self.follow_up.apply_agent(server, &report);
            }
            BackendEvent::Failures(report) => self.follow_up.eject(server, &report),
            BackendEvent::EjectionOver => self.follow_up.readmit(server),
        }
        readiness::review(&server.view, &server.config.ready);
    }

    /// Applies the report of a discovery source. If a pool has other backends now, only this pool is replaced.
    pub(super) fn apply_discovery(&mut self, report: DiscoveryReport, server: &Server) {
        let Some(pool) = self.discovery.apply(report, &server.view) else { return };
        let inherited = self.draining.inherited();
        if let Some(change) = self.discovery.replace_pool(pool, server, &inherited) {
            self.in_force(&change, server);
        }
    }

    /// Puts the pools in force whose overrides have changed.
    pub(super) fn apply_overrides(&mut self, server: &Server) {
        for pool in self.changed_parts.take() {
            let inherited = self.draining.inherited();
            if let Some(change) = self.discovery.rebuild_pool(&pool, server, &inherited) {
                self.in_force(&change, server);
            }
        }
        self.changed_parts.send_answers();
    }

    /// Applies the reports that waited for a build.
    pub(super) fn apply_held(&mut self, held: HeldReports, server: &Server) {
        for report in held.into_reports() {
            self.apply_discovery(report, server);
        }
    }

    /// Keeps the report about a file until a phase takes it up.
    pub(super) fn note(&mut self, event: FileEvent) {
        match event {
            FileEvent::Routes(report) => self.route_files.note(report),
            FileEvent::List(report) => self.list_files.note(report),
            FileEvent::Near(report) => self.near_files.note(report),
        }
    }

    /// Returns true if a report about a file or an override is not taken up yet.
    pub(super) fn has_noted(&self) -> bool {
        self.route_files.has_noted()
            || self.list_files.has_noted()
            || self.near_files.has_noted()
            || !self.changed_parts.is_empty()
    }

    /// Logs the drains that are over before their time.
    pub(super) fn log_drained(&mut self, server: &Server) {
        draining::log_ends(&self.draining.drained(), &server.view.events);
    }

    /// Closes the open connections of removed listeners and backends whose drain time is over.
    pub(super) fn close_overdue(&mut self, server: &Server) {
        let ExpiredDrains { groups, ends } = self.draining.overdue(Instant::now());
        draining::log_ends(&ends, &server.view.events);
        self.follow_up.forget(&groups);
        server.order_all(|| WorkerCommand::CloseGroups(groups.clone()));
    }
}
