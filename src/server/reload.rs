//! The steps of a reload. Each step is a value that can only be made from the value of the step before:
//!
//! 1. [`CheckedReload`]: this host can serve the configuration.
//! 2. [`PlannedReload`]: its sockets are bound, and its access log is open.
//! 3. [`PreparedReload`]: its snapshot is built, with the first answers of discovery.
//! 4. [`InForce`]: its snapshot is in force, and its sockets are with the workers.
//!
//! A reload that ends before the last step has changed nothing, with one exception: the build already sets the new limits
//! and rates of listeners, routes, pools and backends that stay. A stop or a fault during the build does not undo this.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::access_log;
use super::build::{self, FoundPools};
use super::changes::Changes;
use super::faults::ReloadFault;
use super::in_force::InForce;
use super::inherited::InheritedState;
use super::overrides::OverrideTable;
use super::own_backends::refuse_cycles;
use super::reload_queue::ReloadRules;
use super::sockets::{FileChanges, MissingSocket, NewSockets, SocketPlan};
use super::source::try_sources;
use super::start::Server;
use super::view::KeysInForce;
use super::work::{Work, on_thread};
use super::{list_files, near_files};
use crate::config::Config;
use crate::limit::LimitsSpec;
use crate::reclaim::{self, Deferred};
use crate::snapshot::Snapshot;
use crate::telemetry::{LogControl, OpenedAccessLog};

/// A configuration that this host can serve.
pub(super) struct CheckedReload {
    config: Deferred<Config>,
    rules: ReloadRules,
}

impl CheckedReload {
    /// Checks a configuration with the addresses and the limits of this host.
    ///
    /// # Errors
    ///
    /// The first fault.
    pub(super) fn new(config: Config, rules: ReloadRules, server: &Server) -> Result<Self, ReloadFault> {
        let mut config = Deferred::new(config);
        list_files::leave_followed(&mut config, &server.config);
        near_files::leave_followed(&mut config, &server.config);
        try_sources(&config)?;
        refuse_cycles(&config)?;
        let descriptors = server.descriptors;
        descriptors
            .suffice(&config)
            .map_err(|least| ReloadFault::FewDescriptors { limit: descriptors.limit(), least })?;
        Ok(Self { config, rules })
    }

    /// Returns the addresses that are not bound yet.
    pub(super) fn missing(&self, server: &Server) -> Vec<MissingSocket> {
        server.sockets.missing(&self.config)
    }

    /// Plans the sockets. `fresh` holds the sockets of all missing addresses.
    ///
    /// # Errors
    ///
    /// The fault of a listener for whose address the host has no family.
    pub(super) fn sockets(&self, fresh: NewSockets, server: &Server) -> Result<SocketPlan, ReloadFault> {
        Ok(server.sockets.plan(&self.config, fresh)?)
    }

    /// Starts to open the new access log on a thread, beside the log in use. Returns `None` if the two logs do
    /// not differ. Nothing is written to the new log before it is in force.
    pub(super) fn open_access_log(
        &self,
        server: &Server,
    ) -> Option<Work<Result<OpenedAccessLog, ReloadFault>>> {
        if self.config.access_log == server.config.access_log {
            return None;
        }
        let (log, spec) = (server.access_log.clone(), self.config.access_log.clone());
        let open = move || {
            let opened = log.open(&spec);
            opened.map_err(|source| ReloadFault::AccessLog { path: spec.to.to_string(), source })
        };
        Some(Work::new(on_thread(open)))
    }

    /// Returns the next step. `access_log` is `None` if the log in use stays.
    pub(super) fn plan(self, sockets: SocketPlan, access_log: Option<OpenedAccessLog>) -> PlannedReload {
        PlannedReload { config: self.config, rules: self.rules, sockets, access_log }
    }
}

/// A configuration whose sockets are bound and whose access log is open.
pub(super) struct PlannedReload {
    config: Deferred<Config>,
    rules: ReloadRules,
    sockets: SocketPlan,
    access_log: Option<OpenedAccessLog>,
}

impl PlannedReload {
    /// Returns the configuration.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Starts to compare the configuration with the running configuration and to build its snapshot. Both are
    /// done on a thread: a million routes take seconds. `found` has the backends that the prepared sources
    /// found. `inherited` has the state of removed listeners, backends and limits that may be back.
    pub(super) fn build(
        self,
        server: &Server,
        found: FoundPools,
        inherited: InheritedState,
    ) -> (BuildingReload, Work<Result<BuiltConfig, ReloadFault>>) {
        let Self { mut config, rules, sockets, access_log } = self;
        let running = Arc::clone(&server.config);
        let old = server.view.snapshot.load_full();
        let metrics = Arc::clone(&server.view.metrics);
        let overrides =
            if rules.reset_by.is_some() { OverrideTable::new() } else { server.view.overrides.copy() };
        let work = move || {
            let mut changes = Changes::between(&running, &config);
            let inputs = build::BuildInputs {
                config: &config,
                inherited: &inherited,
                overrides: &overrides,
                metrics: &metrics,
            };
            let snapshot = build::snapshot(&old, found, inputs)?;
            if let Some(most) = rules.max_moved {
                check_moved(&old, &snapshot, most)?;
            }
            list_files::forget_read(&mut config);
            near_files::forget_read(&mut config);
            changes.add_details(&old, &snapshot);
            Ok(BuiltConfig { changes, config, snapshot: Arc::new(snapshot), reset_by: rules.reset_by })
        };
        (BuildingReload { sockets, access_log }, Work::new(on_thread(work)))
    }
}

/// The sockets and the access log of a planned reload whose snapshot is built.
pub(super) struct BuildingReload {
    sockets: SocketPlan,
    access_log: Option<OpenedAccessLog>,
}

/// A configuration with its snapshot: the result of the build of a planned reload.
pub(super) struct BuiltConfig {
    changes: Changes,
    /// The configuration without the contents of lists and databases that were read with it: the snapshot has these.
    config: Deferred<Config>,
    snapshot: Arc<Snapshot>,
    /// The operator who ends all overrides with this reload.
    reset_by: Option<Arc<str>>,
}

/// Checks that in no pool a larger share of the keys than `most` goes to another backend.
fn check_moved(old: &Snapshot, new: &Snapshot, most: f64) -> Result<(), ReloadFault> {
    let mut worst: Option<(f64, &Arc<str>)> = None;
    for (name, before) in &old.pools {
        let moved = match new.pools.get(name) {
            Some(after) if Arc::ptr_eq(before, after) => 0.0,
            Some(after) => before.pool.moved_keys(&after.pool).unwrap_or_default(),
            // Its clients go elsewhere.
            None => 1.0,
        };
        if worst.is_none_or(|(worst, _)| moved > worst) {
            worst = Some((moved, name));
        }
    }
    match worst {
        Some((moved, pool)) if moved > most => {
            Err(ReloadFault::Moved { pool: Arc::clone(pool), moved: percent(moved), most: percent(most) })
        }
        _ => Ok(()),
    }
}

/// Returns a share as a percentage with one decimal.
fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

impl BuildingReload {
    /// Returns the next step. `built` is the result of the build.
    pub(super) fn prepared(self, built: BuiltConfig) -> PreparedReload {
        PreparedReload { built, sockets: self.sockets, access_log: self.access_log }
    }
}

/// A configuration that can come into force.
pub(super) struct PreparedReload {
    built: BuiltConfig,
    sockets: SocketPlan,
    access_log: Option<OpenedAccessLog>,
}

/// The rest of a reload that is in force.
pub(super) struct ReloadRest {
    pub(super) changes: Changes,
    /// Ends when the removed sockets are closed. Then their addresses are free: the next reload may bind them again.
    pub(super) closed: mpsc::Receiver<Infallible>,
    /// The operator who ends all overrides with this reload.
    pub(super) reset_by: Option<Arc<str>>,
}

impl PreparedReload {
    /// Takes out the changes of the files of Unix sockets. The changes are made before the configuration comes
    /// into force. A file must change before its socket closes: otherwise a client could find the file and be
    /// refused.
    pub(super) fn file_changes(&self, server: &mut Server) -> FileChanges {
        server.sockets.file_changes(&self.sockets)
    }

    /// Puts the configuration in force. `log` is the program's own log; `None` if it belongs to another program.
    pub(super) fn put_in_force(self, server: &mut Server, log: Option<&LogControl>) -> (InForce, ReloadRest) {
        let Self { built: BuiltConfig { changes, config, snapshot, reset_by }, sockets, access_log } = self;
        let change = InForce::configuration(&server.view, snapshot);
        let closed = server.sockets.carry_out(sockets, &server.workers, &change);
        server.renew_policies();
        if let Some(opened) = access_log {
            access_log::switch(&server.access_log, opened, &config.access_log, &server.view.metrics);
        }
        let config = with_running_keys(config.into_inner(), &server.config, &changes.needs_restart);
        let config = Arc::new(config);
        if let Some(log) = log.filter(|_| config.log != server.config.log) {
            log.change(&server.config.log, &config.log);
            if let Some(level) = server.view.overrides.log_level() {
                log.override_level(Some(level), config.log.level);
            }
        }
        server.view.keys.store(Arc::new(KeysInForce::of(&config)));
        reclaim::free_later(std::mem::replace(&mut server.config, config));
        server.view.set_addresses(server.sockets.addresses(), &server.config);
        server.bound();
        (change, ReloadRest { changes, closed, reset_by })
    }
}

/// Returns a new configuration with the running values of the keys that only a restart can change. `differing` has those
/// whose values differ, from [`Changes::needs_restart`].
fn with_running_keys(new: Config, running: &Config, differing: &[&'static str]) -> Config {
    Config {
        workers: running.workers,
        admin: running.admin.clone(),
        given_admin: running.given_admin.clone(),
        landlock: running.landlock,
        handover: running.handover.clone(),
        limits: LimitsSpec { sources: running.limits.sources, ..new.limits },
        written: new.written.after_reload(&running.written, differing),
        ..new
    }
}
