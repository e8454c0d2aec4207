//! Backends that come and go while the process runs. The results of discovery become part of the snapshot.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};

use super::events::{EventKind, Severity};
use super::run::Control;
use super::{LifeStage, View, build};
use crate::config::Config;
use crate::pool::{Discoveries, DiscoveryReport, Pool, PoolSpec};
use crate::snapshot::ServedPool;

/// The longest wait of a start for the backends of every pool, and of a reload for the first report of each new
/// source. After that the other pools are served. A pool without backends refuses its clients until it has some.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// The time after which a source without an answer no longer delays a start or a reload. It applies to pools with
/// other backends. A resolver that serves answers well within this time.
const LATE_ANSWER: Duration = Duration::from_millis(500);

/// The number of backends that a line of the log names.
const NAMED: usize = 10;

impl Control {
    /// Lets clients in. If backends are to be discovered, it first waits until they are found or [`FIRST_ANSWER`]
    /// is over. Returns `false` if the process is about to end. The event that ends the process is then the next
    /// one.
    pub(super) async fn open(&mut self) -> io::Result<bool> {
        let Some(plan) = self.server.held.take() else { return Ok(true) };
        if self.server.config.pools.iter().any(PoolSpec::has_sources) && !self.discover_first().await? {
            return Ok(false);
        }
        let server = &mut self.server;
        // No socket was open before, so none is closed.
        let _closed = server.sockets.carry_out(plan, &server.workers);
        server.view.life.store(LifeStage::Serving as u8, Ordering::Relaxed);
        self.follow_pools();
        Ok(true)
    }

    /// Waits for the backends of the start; the look-ups run already. Returns `false` as [`Control::open`] does.
    async fn discover_first(&mut self) -> io::Result<bool> {
        if !self.wait_for_discovery(Discoveries::are_found, Discoveries::have_backends).await {
            return Ok(false);
        }
        let server = &mut self.server;
        let old = server.view.snapshot.load_full();
        let metrics = &server.view.metrics;
        let sources = build::BuildInputs {
            config: &server.config,
            draining: &self.draining,
            found: build::FoundBackends::Prepared(&self.discoveries),
            metrics,
        };
        let snapshot = build::snapshot(&server.config, &old, sources).map_err(io::Error::other)?;
        self.discoveries.commit();
        let has_found = |served: &ServedPool| !served.pool.spec().discover.is_empty();
        for (pool, served) in snapshot.pools.iter().filter(|(_, served)| has_found(served)) {
            match served.pool.backends().len() {
                0 => {
                    tracing::warn!(%pool, "no backends were found; clients are refused until a backend is found")
                }
                backends => tracing::info!(%pool, backends, "backends were found"),
            }
        }
        server.view.put_in_force(Arc::new(snapshot));
        Ok(true)
    }

    /// Starts to follow the sources of a new configuration, and waits for the first report of each. So a pool that
    /// changes from written to discovered backends has some from the start. Returns `false` as [`Control::open`] does.
    pub(super) async fn prepare_discovery(&mut self, config: &Config) -> bool {
        self.discoveries.prepare(&config.pools);
        self.wait_for_discovery(Discoveries::have_reported, Discoveries::have_backends_or_reports).await
    }

    /// Waits until `is_enough` is true of the prepared sources. After [`LATE_ANSWER`] `is_enough_then` is enough, and the
    /// wait ends after [`FIRST_ANSWER`] in any case. Handles urgent events meanwhile. Returns `false` as
    /// [`Control::open`] does.
    async fn wait_for_discovery(
        &mut self,
        is_enough: fn(&Discoveries) -> bool,
        is_enough_then: fn(&Discoveries) -> bool,
    ) -> bool {
        let began = Instant::now();
        for (until, is_enough) in [(LATE_ANSWER, is_enough), (FIRST_ANSWER, is_enough_then)] {
            loop {
                if is_enough(&self.discoveries) {
                    return true;
                }
                let event = tokio::select! {
                    event = self.receive() => event,
                    () = sleep_until(began + until) => break,
                };
                if self.handle_while_waiting(event) {
                    return false;
                }
            }
        }
        true
    }

    /// Applies a report. A pool that has other backends now is replaced alone.
    pub(super) fn discovered(&mut self, report: DiscoveryReport) {
        let Some((name, source)) = self.discoveries.apply_report(report, SystemTime::now()) else { return };
        let server = &self.server;
        let Some(written) = server.config.pools.iter().find(|pool| pool.name == name) else { return };
        let snapshot = server.view.snapshot.load_full();
        let Some(old) = snapshot.pools.get(&name) else { return };
        let returning = self.draining.backends().remove(&*name).unwrap_or_default();
        let metrics = &server.view.metrics;
        let sources = build::BuildInputs {
            config: &server.config,
            draining: &self.draining,
            found: build::FoundBackends::InForce(&self.discoveries),
            metrics,
        };
        let new = build::served(written, Some(old), &returning, sources);
        if Arc::ptr_eq(old, &new) {
            return;
        }
        let drain = written.discover.get(source).and_then(|source| source.drain);
        let drain = drain.unwrap_or(server.config.shutdown.drain);
        log_changes(&old.pool, &new.pool, &server.view);
        self.draining.note_pool(&old.pool, &new.pool, Instant::now(), drain);
        server.view.put_in_force(Arc::new(snapshot.replace(&name, Arc::clone(&new))));
        self.follow_pool(&new);
    }
}

fn log_changes(old: &Pool, new: &Pool, view: &View) {
    let named = |here: &Pool, there: &Pool| {
        let mut names: Vec<String> = Vec::new();
        let mut more = 0_usize;
        for backend in here.backends() {
            let is_there = there.backend(backend.name()).is_some_and(|other| other.is_same(backend));
            match names.len() {
                _ if is_there => {}
                NAMED.. => more += 1,
                _ => names.push(backend.name().to_string()),
            }
        }
        if more > 0 {
            names.push(format!("and {more} more"));
        }
        names.join(", ")
    };
    let (pool, backends) = (&new.spec().name, new.backends().len());
    let (added, removed) = (named(new, old), named(old, new));
    tracing::info!(%pool, %added, %removed, backends, "discovery changed the backends");
    let text = format!(
        "discovery changed the backends of pool {pool}: added {}; removed {}; {backends} now",
        or_none(&added),
        or_none(&removed)
    );
    view.events.note(EventKind::Pool, Severity::Info, text);
}

fn or_none(names: &str) -> &str {
    if names.is_empty() { "none" } else { names }
}
