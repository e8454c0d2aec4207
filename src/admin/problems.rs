//! The part of the status that comes first: what is not well now.

use serde::Serialize;

use crate::pool::{Backend, State};
use crate::server::{ConfigState, Life, View};
use crate::snapshot::{Served, Snapshot};
use crate::telemetry::SaturationScope;

/// The problems that are listed; more of a kind are only counted.
const LISTED: usize = 1000;

/// Something that is not as it should be.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    /// `process`, `reload`, `saturation`, `pool`, `discovery` or `backend`.
    kind: &'static str,
    /// The name of the thing, such as `app` or `app/b1`; empty for the process.
    name: String,
    /// What is wrong with it.
    text: String,
}

/// All problems, those that concern the most first.
pub(super) fn problems(view: &View, config: &ConfigState, snapshot: &Snapshot) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut add = |kind, name: &str, text: String| {
        if found.len() < LISTED {
            found.push(Problem { kind, name: name.to_owned(), text });
        }
    };
    match view.life() {
        Life::Serving => {}
        Life::Starting => add("process", "", "it starts, and takes no connections yet".to_owned()),
        Life::Draining => {
            add("process", "", "it was told to stop, and takes no new connections soon".to_owned())
        }
    }
    if let Some(Err(fault)) = config.last_reload.as_ref().map(|reload| &reload.result) {
        add("reload", "", format!("the last reload failed, the configuration before it stays: {fault}"));
    }
    for episode in view.bounds.saturation.running() {
        let of = match episode.kind.scope() {
            SaturationScope::Process => String::new(),
            SaturationScope::Listener => format!("listener {}", episode.thing),
            SaturationScope::Pool => format!("pool {}", episode.thing),
        };
        let (word, refused) = (episode.kind.word(), episode.refused);
        add("saturation", &of, format!("{word}: {} (refused: {refused})", episode.kind.message()));
    }
    for (name, served) in &snapshot.pools {
        if let Some(text) = of_pool(served) {
            add("pool", name, text);
        }
        for discovery in &served.discovery {
            if let Some(fault) = discovery.fault() {
                let source = discovery.source();
                add("discovery", name, format!("{source}: what was last found stays in force: {fault}"));
            }
        }
    }
    let all = snapshot.pools.values().flat_map(|served| served.pool.backends());
    for backend in all.filter(|backend| is_unwell(backend)) {
        let (name, state) = (format!("{}/{}", backend.pool(), backend.name()), backend.state().word());
        let (since, open) = (backend.since().elapsed().as_secs(), backend.active());
        let reason = backend.reason().map(|reason| format!(": {reason}")).unwrap_or_default();
        let heard = backend.check_failure().and_then(|failure| failure.heard);
        let heard = heard.map(|words| format!(", it said {words:?}")).unwrap_or_default();
        add("backend", &name, format!("{state} for {since} s, {open} connections open{reason}{heard}"));
    }
    found
}

fn of_pool(served: &Served) -> Option<String> {
    let pool = &served.pool;
    if pool.forward().is_some() {
        return None;
    }
    let backends = pool.backends();
    if backends.is_empty() {
        return Some("it has no backend".to_owned());
    }
    if pool.is_in_panic() {
        return Some("too few backends are up, and health is disregarded".to_owned());
    }
    (!pool.has_backend()).then(|| format!("none of its {} backends is available", backends.len()))
}

/// A state that nobody asked for.
fn is_unwell(backend: &Backend) -> bool {
    matches!(backend.state(), State::Down | State::Ejected)
}
