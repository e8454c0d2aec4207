//! The problems of the process: the first part of the status. Each has the time since which it lasts, where that is known,
//! and a command that shows more or ends it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::pool::{Backend, BackendState};
use crate::server::{ConfigState, LifeStage, OverrideKind, View};
use crate::snapshot::{ServedPool, Snapshot};
use crate::telemetry::SaturationScope;

/// The problems that are listed. Further ones are only counted.
const LISTED: usize = 1000;

/// A problem: a part of the process that does not work as configured.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    /// `process`, `override`, `reload`, `restart`, `list`, `routes`, `access_log`, `saturation`, `pool`, `discovery` or `backend`;
    /// `more` for the count of those that are not listed.
    kind: &'static str,
    /// The name of the pool, listener, list or backend, such as `app` or `app/b1`; empty for the process.
    name: String,
    /// The fault.
    text: String,
    /// The time at which it began; null if it is unknown. RFC 3339, UTC.
    since: Option<String>,
    /// A command that shows more or ends it; null if there is none.
    command: Option<String>,
}

impl Problem {
    fn new(kind: &'static str, name: &str, text: impl Into<String>) -> Self {
        Self { kind, name: name.to_owned(), text: text.into(), since: None, command: None }
    }

    fn since(self, time: SystemTime) -> Self {
        Self { since: Some(humantime::format_rfc3339_millis(time.max(UNIX_EPOCH)).to_string()), ..self }
    }

    /// Sets the beginning by a time of the monotonic clock.
    fn since_instant(self, time: Instant) -> Self {
        match SystemTime::now().checked_sub(time.elapsed()) {
            Some(time) => self.since(time),
            None => self,
        }
    }

    fn command(self, command: impl Into<String>) -> Self {
        Self { command: Some(command.into()), ..self }
    }
}

/// The listed problems, and the number of all others.
#[derive(Default)]
struct Listing {
    listed: Vec<Problem>,
    more: usize,
}

impl Listing {
    fn add(&mut self, problem: Problem) {
        if self.listed.len() < LISTED {
            self.listed.push(problem);
        } else {
            self.more += 1;
        }
    }

    fn end(mut self) -> Vec<Problem> {
        if self.more > 0 {
            let text = format!("and {} more problems", self.more);
            self.listed.push(Problem::new("more", "", text));
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
    match view.life() {
        LifeStage::Serving => {}
        LifeStage::Starting => {
            found.add(
                Problem::new("process", "", "it starts, and takes no connections yet").since(view.started),
            );
        }
        LifeStage::Draining => {
            found.add(Problem::new("process", "", "a stop was requested: new connections are refused soon"));
        }
    }
    of_overrides(view, found);
    if let Some(reload) = &config.last_reload
        && let Err(fault) = &reload.result
    {
        let text = format!("the last reload failed; the earlier configuration stays in force: {fault}");
        let problem = Problem::new("reload", "", text).since(reload.at);
        found.add(match &config.file {
            Some(file) => problem.command(format!("pointsman check {}", file.display())),
            None => problem,
        });
    }
    for (kind, name, text) in view.standing.all() {
        found.add(Problem::new(kind.word(), &name, text));
    }
    if let Some(fault) = view.access_log.fault() {
        found.add(Problem::new("access_log", "", fault));
    }
    for episode in view.bounds.saturation.running() {
        let of = match episode.kind.scope() {
            SaturationScope::Process => String::new(),
            SaturationScope::Listener => format!("listener {}", episode.thing),
            SaturationScope::Pool => format!("pool {}", episode.thing),
        };
        let (word, message, count) = (episode.kind.word(), episode.kind.message(), episode.count());
        let problem = Problem::new("saturation", &of, format!("{word}: {message} ({count})"));
        found.add(match episode.kind.scope() {
            SaturationScope::Process => problem.command("pointsman connections --sort idle"),
            SaturationScope::Listener => {
                problem.command(format!("pointsman connections --listener {}", episode.thing))
            }
            SaturationScope::Pool => {
                problem.command(format!("pointsman connections --pool {}", episode.thing))
            }
        });
    }
}

/// Adds the overrides that keep clients away.
fn of_overrides(view: &View, found: &mut Listing) {
    for (key, set) in view.overrides.all() {
        let by = &set.by;
        match key.kind {
            OverrideKind::Leave => {
                let text = format!(
                    "it is not ready, so that new clients go elsewhere: an operator made it leave ({by})"
                );
                found.add(Problem::new("override", "", text).since(set.since).command("pointsman join"));
            }
            OverrideKind::Pause => {
                let text = format!("an operator has paused it, and new connections wait ({by})");
                let problem = Problem::new("override", &key.pool, text).since(set.since);
                found.add(problem.command(format!("pointsman resume {}", key.pool)));
            }
            OverrideKind::State | OverrideKind::Weight | OverrideKind::Log => {}
        }
    }
}

fn of_pools(snapshot: &Snapshot, found: &mut Listing) {
    for (name, served) in &snapshot.pools {
        if let Some(text) = of_pool(served) {
            let command = format!("pointsman connections --pool {name}");
            let problem = Problem::new("pool", name, text).command(command);
            // The state began when its last backend left.
            let since = served.pool.backends().iter().map(|backend| backend.health().since()).max();
            found.add(match since {
                Some(since) => problem.since_instant(since),
                None => problem,
            });
        }
        for discovery in &served.discovery {
            if let Some(fault) = discovery.fault() {
                let source = discovery.source();
                let kept = match discovery.succeeded() {
                    Some(_) => "the last answer stays in force",
                    None => "no answer yet",
                };
                let problem = Problem::new("discovery", name, format!("{source}: {kept}: {fault}"));
                found.add(match discovery.succeeded() {
                    Some(time) => problem.since(time),
                    None => problem,
                });
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
        let text = format!("{state} for {since} s, {open} connections open{reason}{heard}");
        let command = format!("pointsman connections --pool {} --backend {}", backend.pool(), backend.name());
        let problem = Problem::new("backend", &name, text).since_instant(backend.health().since());
        found.add(problem.command(command));
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
            (0..count).for_each(|number: usize| found.add(Problem::new("backend", &number.to_string(), "")));
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
