//! The page /metrics: what was counted as it happened, then what is read now.

use std::time::UNIX_EPOCH;

use crate::pool::{Backend, Discovery, State};
use crate::server::View;
use crate::snapshot::{Served, Snapshot};
use crate::sys::process;
use crate::telemetry::Exposition;
use crate::telemetry::metrics::{MetricDoc, families};

/// The whole page. Costs milliseconds where there are many backends or pools.
pub(super) fn text(view: &View) -> String {
    view.metrics.process().hello_memory.set(view.bounds.hello_memory.inside() as f64);
    let mut exposition = Exposition::after(view.metrics.render());
    let snapshot = view.snapshot.load_full();
    backends(&snapshot, &mut exposition);
    checks(&snapshot, &mut exposition);
    discoveries(&snapshot, &mut exposition);
    hash_tables(&snapshot, &mut exposition);
    match process::figures() {
        Ok(figures) => exposition.process(&figures),
        // A system without /proc has the other metrics all the same.
        Err(error) => tracing::debug!(%error, "the figures of the process cannot be read"),
    }
    exposition.finish()
}

fn backends(snapshot: &Snapshot, exposition: &mut Exposition) {
    let mut each = |metric: &'static MetricDoc, value: fn(&Backend) -> u64| {
        let mut family = exposition.family(metric);
        for (pool, served) in &snapshot.pools {
            for backend in served.pool.backends() {
                family.sample(&[("pool", pool), ("backend", backend.name())], value(backend) as f64);
            }
        }
    };
    each(&families::BACKEND_UP, |backend| u64::from(backend.state() == State::Up));
    each(&families::BACKEND_CONNECTIONS_ACTIVE, Backend::active);
    each(&families::BACKEND_CONNECTIONS, Backend::connections_total);
}

fn checks(snapshot: &Snapshot, exposition: &mut Exposition) {
    let mut family = exposition.family(&families::BACKEND_CHECKS);
    for (pool, served) in &snapshot.pools {
        for backend in served.pool.backends() {
            let counts = [
                ("passed", backend.checks_passed()),
                ("failed", backend.checks_failed()),
                ("not_made", backend.checks_not_made()),
            ];
            for (result, count) in counts {
                let labels = [("pool", &**pool), ("backend", backend.name()), ("result", result)];
                family.sample(&labels, count as f64);
            }
        }
    }
}

/// Only pools that discover have these series, so that an alert on a source's age means something.
fn discoveries(snapshot: &Snapshot, exposition: &mut Exposition) {
    let mut each = |metric: &'static MetricDoc, value: fn(&Served, &Discovery) -> f64| {
        let mut family = exposition.family(metric);
        for (pool, served) in &snapshot.pools {
            if let Some(discovery) = &served.discovery {
                family.sample(&[("pool", pool)], value(served, discovery));
            }
        }
    };
    each(&families::DISCOVERY_BACKENDS, |served, _| (served.pool.backends().len() - served.written) as f64);
    each(&families::DISCOVERY_FAILURES, |_, discovery| discovery.failures() as f64);
    each(&families::DISCOVERY_LAST_SUCCESS, |_, discovery| {
        let since_epoch = discovery.succeeded().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        since_epoch.unwrap_or_default().as_secs_f64()
    });
}

fn hash_tables(snapshot: &Snapshot, exposition: &mut Exposition) {
    let mut infos = exposition.family(&families::HASH_TABLE_INFO);
    for (pool, served) in &snapshot.pools {
        if let Some(digest) = served.pool.digest() {
            infos.sample(&[("pool", pool), ("digest", &format!("{digest:016x}"))], 1.0);
        }
    }
    let mut entries = exposition.family(&families::HASH_TABLE_ENTRIES);
    for (pool, served) in &snapshot.pools {
        let counts = served.pool.entries().unwrap_or_default();
        for (backend, count) in served.pool.backends().iter().zip(counts) {
            entries.sample(&[("pool", pool), ("backend", backend.name())], count.into());
        }
    }
}
