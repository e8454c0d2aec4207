//! The problems of the process: the first part of the status.

use serde::Serialize;

use crate::pool::{Backend, BackendState};
use crate::server::{ConfigState, LifeStage, View};
use crate::snapshot::{ServedPool, Snapshot};
use crate::telemetry::SaturationScope;

/// The problems that are listed. Further ones are only counted.
const LISTED: usize = 1000;

/// A problem: a part of the process that does not work as configured.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    /// `process`, `reload`, `restart`, `list`, `routes`, `access_log`, `saturation`, `pool`, `discovery` or `backend`;
    /// `more` for the count of those that are not listed.
    kind: &'static str,
    /// The name of the pool, listener, list or backend, such as `app` or `app/b1`; empty for the process.
    name: String,
    /// The fault.
    text: String,
}

/// The listed problems, and the number of all others.
#[derive(Default)]
struct Listing {
    listed: Vec<Problem>,
    more: usize,
}

impl Listing {
    fn add(&mut self, kind: &'static str, name: &str, text: String) {
        if self.listed.len() < LISTED {
            self.listed.push(Problem { kind, name: name.to_owned(), text });
        } else {
            self.more += 1;
        }
    }

    fn end(mut self) -> Vec<Problem> {
        if self.more > 0 {
            let text = format!("and {} more problems", self.more);
            self.listed.push(Problem { kind: "more", name: String::new(), text });
        }
        self.listed
    }
}

/// Returns all problems. Those with the widest effect come first.
pub(super) fn problems(view: &View, config: &ConfigState, snapshot: &Snapshot) -> Vec<Problem> {
    let mut found = Listing::default();
    of_process(view, config, &mut found);
    of_pools(snapshot, &mut found);
    found.end()
}

fn of_process(view: &View, config: &ConfigState, found: &mut Listing) {
    let mut add = |kind, name: &str, text: String| found.add(kind, name, text);
    match view.life() {
        LifeStage::Serving => {}
        LifeStage::Starting => add("process", "", "it starts, and takes no connections yet".to_owned()),
        LifeStage::Draining => {
            add("process", "", "a stop was requested: new connections are refused soon".to_owned())
        }
    }
    if let Some(Err(fault)) = config.last_reload.as_ref().map(|reload| &reload.result) {
        add(
            "reload",
            "",
            format!("the last reload failed; the earlier configuration stays in force: {fault}"),
        );
    }
    for (kind, name, text) in view.standing.all() {
        add(kind.word(), &name, text);
    }
    if let Some(fault) = view.access_log.fault() {
        add("access_log", "", fault);
    }
    for episode in view.bounds.saturation.running() {
        let of = match episode.kind.scope() {
            SaturationScope::Process => String::new(),
            SaturationScope::Listener => format!("listener {}", episode.thing),
            SaturationScope::Pool => format!("pool {}", episode.thing),
        };
        let (word, message, count) = (episode.kind.word(), episode.kind.message(), episode.count());
        add("saturation", &of, format!("{word}: {message} ({count})"));
    }
}

fn of_pools(snapshot: &Snapshot, found: &mut Listing) {
    let mut add = |kind, name: &str, text: String| found.add(kind, name, text);
    for (name, served) in &snapshot.pools {
        if let Some(text) = of_pool(served) {
            add("pool", name, text);
        }
        for discovery in &served.discovery {
            if let Some(fault) = discovery.fault() {
                let source = discovery.source();
                let kept = match discovery.succeeded() {
                    Some(_) => "the last answer stays in force",
                    None => "no answer yet",
                };
                add("discovery", name, format!("{source}: {kept}: {fault}"));
            }
        }
    }
    let all = snapshot.pools.values().flat_map(|served| served.pool.backends());
    for backend in all.filter(|backend| is_unwell(backend)) {
        let (name, state) = (format!("{}/{}", backend.pool(), backend.name()), backend.state().word());
        let (since, open) = (backend.health().since().elapsed().as_secs(), backend.active());
        let reason = backend.health().reason().map(|reason| format!(": {reason}")).unwrap_or_default();
        let heard = backend.health().check_failure().and_then(|failure| failure.heard);
        let heard = heard.map(|answer| format!(": \"{answer}\"")).unwrap_or_default();
        add("backend", &name, format!("{state} for {since} s, {open} connections open{reason}{heard}"));
    }
}

fn of_pool(served: &ServedPool) -> Option<String> {
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

/// Returns true if a backend is in a state that the operator did not demand.
fn is_unwell(backend: &Backend) -> bool {
    matches!(backend.state(), BackendState::Down | BackendState::Ejected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_that_are_not_listed_are_counted() {
        let end = |count| {
            let mut found = Listing::default();
            (0..count).for_each(|number: usize| found.add("backend", &number.to_string(), String::new()));
            found.end()
        };
        assert_eq!(end(LISTED).len(), LISTED);
        assert_eq!(end(LISTED).last().unwrap().kind, "backend");
        let more = end(LISTED + 7);
        assert_eq!(
            (more.len(), more[LISTED].kind, &*more[LISTED].text),
            (LISTED + 1, "more", "and 7 more problems")
        );
    }
}
