//! The verdict: the problems of the process, the first part of the status.
//!
//! One list of conditions, each a pure function of the status. The commands, the terminal view and the page show what this
//! list finds, so they cannot disagree. Each problem has the time since which it lasts, where that is known, a command that
//! shows more or ends it, and the alert of `dist/prometheus` for the same condition.

use serde::Serialize;

use super::pools::{BackendStatus, PoolStatus};
use super::{Connections, Status};

/// The problems that are listed. Further ones are only counted.
const LISTED: usize = 1000;

/// The percentage of the connection limit from which the process is nearly full. The alert has the same number.
const NEARLY_FULL: u64 = 90;

/// The failures of clients within two minutes from which a backend that is up is a problem.
const FAILURES: u64 = 5;

/// The percentage of the connections of a backend from which its resets are a problem. The alert has the same number.
const RESETS: u64 = 5;

/// The conditions, those with the widest effect first.
const CONDITIONS: [fn(&Status<'_>, &mut ProblemList); 13] = [
    life,
    overrides,
    readiness,
    reload,
    standing,
    access_log,
    saturation,
    nearly_full,
    pools,
    half_down,
    discovery,
    backends,
    failing,
];

/// A problem: a part of the process that does not work as configured.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
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
    /// The name of the alert for it in `dist/prometheus`; null if there is none.
    alert: Option<&'static str>,
}

impl Problem {
    fn new(kind: &'static str, name: &str, text: impl Into<String>) -> Self {
        Self { kind, name: name.to_owned(), text: text.into(), since: None, command: None, alert: None }
    }

    fn since(self, time: impl Into<Option<String>>) -> Self {
        Self { since: time.into(), ..self }
    }

    fn command(self, command: impl Into<String>) -> Self {
        Self { command: Some(command.into()), ..self }
    }

    fn alert(self, alert: &'static str) -> Self {
        Self { alert: Some(alert), ..self }
    }
}

/// The listed problems, and the number of all others.
#[derive(Default)]
struct ProblemList {
    listed: Vec<Problem>,
    more: usize,
}

impl ProblemList {
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

/// Returns all problems of a status. Those with the widest effect come first.
pub(super) fn problems(status: &Status<'_>) -> Vec<Problem> {
    let mut found = ProblemList::default();
    for condition in CONDITIONS {
        condition(status, &mut found);
    }
    found.end()
}

/// Returns the problems in one sentence.
pub(super) fn verdict(problems: &[Problem]) -> String {
    let Some(first) = problems.first() else { return "all is well".to_owned() };
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        count if count > LISTED => format!("more than {LISTED} problems"),
        count => format!("{count} problems"),
    };
    let name = if first.name.is_empty() { String::new() } else { format!(" {}", first.name) };
    let text = first.text.lines().next().unwrap_or_default();
    format!("{count}: {}{name}: {text}", first.kind)
}

fn life(status: &Status<'_>, found: &mut ProblemList) {
    match status.life {
        "starting" => found.add(
            Problem::new("process", "", "it starts, and takes no connections yet")
                .since(status.started.clone()),
        ),
        "draining" => {
            found.add(Problem::new("process", "", "a stop was requested: new connections are refused soon"));
        }
        _ => {}
    }
}

/// Finds the overrides that keep clients away.
fn overrides(status: &Status<'_>, found: &mut ProblemList) {
    for set in &status.overrides {
        let (by, since) = (&set.by, set.since.clone());
        match (set.kind, &set.pool) {
            ("leave", _) => {
                let text = format!(
                    "it is not ready, so that new clients go elsewhere: an operator made it leave ({by})"
                );
                found.add(Problem::new("override", "", text).since(since).command("pointsman join"));
            }
            ("pause", Some(pool)) => {
                let text = format!("an operator has paused it, and new connections wait ({by})");
                let problem = Problem::new("override", pool, text).since(since);
                found.add(problem.command(format!("pointsman resume {pool}")));
            }
            _ => {}
        }
    }
}

/// Finds the reasons for which the node withdraws by itself, and those for which it no longer does.
fn readiness(status: &Status<'_>, found: &mut ProblemList) {
    let readiness = &status.readiness;
    if let "needs" | "overloaded" = readiness.reason {
        let text = format!("it is not ready, so that new clients go elsewhere: {}", readiness.text);
        let problem = Problem::new("process", "", text).since(readiness.since.clone());
        found.add(problem.alert("PointsmanNotReady"));
    }
    if let Some(since) = readiness.excused.iter().map(|excused| &excused.since).min() {
        let pools: Vec<_> = readiness.excused.iter().map(|excused| &*excused.pool).collect();
        let text = format!(
            "it is ready although pools of ready_needs have no available backend ({}): ready_floor is over, and the other \
             nodes may be without them too",
            pools.join(", ")
        );
        found.add(Problem::new("process", "", text).since(since.clone()).alert("PointsmanPoolDown"));
    }
}

fn reload(status: &Status<'_>, found: &mut ProblemList) {
    let Some(reload) = &status.config.last_reload else { return };
    let Some(fault) = &reload.fault else { return };
    let text = format!("the last reload failed; the earlier configuration stays in force: {fault}");
    let problem = Problem::new("reload", "", text).since(reload.time.clone()).alert("PointsmanReloadFailed");
    found.add(match &status.config.file {
        Some(file) => problem.command(format!("pointsman check {file}")),
        None => problem,
    });
}

fn standing(status: &Status<'_>, found: &mut ProblemList) {
    for fault in &status.standing {
        let problem = Problem::new(fault.kind, &fault.name, &fault.text);
        found.add(match fault.kind {
            "restart" => problem,
            _ => problem.alert("PointsmanFileBroken"),
        });
    }
}

fn access_log(status: &Status<'_>, found: &mut ProblemList) {
    if let Some(fault) = &status.access_log_fault {
        found.add(Problem::new("access_log", "", fault).alert("PointsmanLogsDropped"));
    }
}

fn saturation(status: &Status<'_>, found: &mut ProblemList) {
    for limit in &status.saturation {
        let (scope, name) = (limit.scope, &limit.name);
        let thing = if name.is_empty() { String::new() } else { format!("{scope} {name}") };
        let origin = match limit.kind {
            "process_full" => format!("; {}", limit_origin(&status.connections)),
            _ => String::new(),
        };
        let text = format!("{}: {}{origin}", limit.kind, limit.text);
        let command = match scope {
            "process" => "pointsman connections --sort idle".to_owned(),
            _ => format!("pointsman connections --{scope} {name}"),
        };
        found.add(Problem::new("saturation", &thing, text).command(command).alert("PointsmanRefusesClients"));
    }
}

/// Returns the origin of the limit of the process, with the place to raise it.
fn limit_origin(connections: &Connections) -> String {
    let limit = connections.limit;
    match connections.limit_from_descriptors {
        Some(descriptors) => format!(
            "the limit of {limit} follows from the {descriptors} descriptors that the process may open (LimitNOFILE= of a \
             unit, `ulimit -Hn`, --ulimit nofile of a container)"
        ),
        None => format!("the limit of {limit} is max_connections of the configuration"),
    }
}

fn nearly_full(status: &Status<'_>, found: &mut ProblemList) {
    let (open, limit) = (status.connections.open, status.connections.limit);
    let is_full_already = status.saturation.iter().any(|other| other.kind == "process_full");
    if !is_full_already && open.saturating_mul(100) > limit.saturating_mul(NEARLY_FULL) {
        let origin = limit_origin(&status.connections);
        let text =
            format!("{open} of {limit} connections are open: at the limit new clients are refused; {origin}");
        let problem = Problem::new("saturation", "", text).alert("PointsmanNearlyFull");
        found.add(problem.command("pointsman connections --sort idle"));
    }
}

fn pools(status: &Status<'_>, found: &mut ProblemList) {
    for pool in &status.pools {
        let backends = pool.backends.len();
        let (text, alert) = match pool {
            PoolStatus { forward: Some(_), .. } => continue,
            _ if backends == 0 => ("it has no backend".to_owned(), "PointsmanPoolDown"),
            PoolStatus { panic: true, .. } => {
                ("too few backends are up, and health is disregarded".to_owned(), "PointsmanPoolInPanic")
            }
            PoolStatus { serves: false, .. } => {
                (format!("none of its backends is available ({backends} in all)"), "PointsmanPoolDown")
            }
            _ => continue,
        };
        let mut taken_out = pool.backends.iter().filter(|backend| is_taken_out(backend));
        let problem = match taken_out.next() {
            Some(first) => {
                let count = 1 + taken_out.count();
                let text = format!("{text}; operators have taken {count} out of use");
                of_pool(pool, text).command(format!("pointsman ready {}/{}", pool.name, first.name))
            }
            None => of_pool(pool, text),
        };
        found.add(problem.alert(alert));
    }
}

/// Finds pools of which less than half is up. A pool without any backend is found above, and a pool with one of two
/// backends has half.
fn half_down(status: &Status<'_>, found: &mut ProblemList) {
    for pool in status.pools.iter().filter(|pool| pool.forward.is_none() && pool.serves && !pool.panic) {
        // An operator has taken the others out.
        let wanted = pool.backends.iter().filter(|backend| !is_taken_out(backend)).count();
        let up = pool.backends.iter().filter(|backend| backend.state == "up").count();
        if up * 2 < wanted {
            let text = format!("only {up} of {wanted} backends are up");
            found.add(of_pool(pool, text).alert("PointsmanPoolHalfDown"));
        }
    }
}

/// Returns a problem of a pool. It began when its last backend left, by the time at which a state began.
fn of_pool(pool: &PoolStatus<'_>, text: String) -> Problem {
    let since =
        pool.backends.iter().filter(|backend| backend.state != "up").map(|backend| &backend.since).max();
    let command = format!("pointsman connections --pool {}", pool.name);
    Problem::new("pool", pool.name, text).since(since.cloned()).command(command)
}

fn is_taken_out(backend: &BackendStatus<'_>) -> bool {
    matches!(backend.state, "drain" | "draining" | "maintenance")
}

fn discovery(status: &Status<'_>, found: &mut ProblemList) {
    for pool in &status.pools {
        for source in &pool.discovery {
            let Some(fault) = &source.fault else { continue };
            let kept = match source.last_success {
                Some(_) => "the last answer stays in force",
                None => "no answer yet",
            };
            let text = format!("{}: {kept}: {fault}", source.source);
            let problem = Problem::new("discovery", pool.name, text).since(source.last_success.clone());
            found.add(problem.alert("PointsmanDiscoveryFails"));
        }
    }
}

/// Finds backends in a state that the operator did not demand.
fn backends(status: &Status<'_>, found: &mut ProblemList) {
    for pool in &status.pools {
        for backend in &pool.backends {
            let alert = match backend.state {
                "down" => "PointsmanBackendDown",
                "ejected" => "PointsmanBackendEjected",
                _ => continue,
            };
            let (seconds, open) = (backend.since_seconds, backend.connections.active);
            let reason = backend.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let heard =
                backend.checks.heard.as_ref().map(|answer| format!(": \"{answer}\"")).unwrap_or_default();
            let address = match backend.name == backend.address {
                true => String::new(),
                false => format!(" at {}", backend.address),
            };
            let text =
                format!("{}{address} for {seconds} s, {open} connections open{reason}{heard}", backend.state);
            let problem = of_backend(pool, backend, text).since(backend.since.clone()).alert(alert);
            found.add(match open {
                0 => Problem { command: None, ..problem },
                _ => problem,
            });
        }
    }
}

/// Returns a problem of a backend.
fn of_backend(pool: &PoolStatus<'_>, backend: &BackendStatus<'_>, text: String) -> Problem {
    let command = format!("pointsman connections --pool {} --backend {}", pool.name, backend.name);
    Problem::new("backend", &format!("{}/{}", pool.name, backend.name), text).command(command)
}

/// Finds backends that count as up and at which clients fail, or that reset open connections.
fn failing(status: &Status<'_>, found: &mut ProblemList) {
    for pool in &status.pools {
        for backend in pool.backends.iter().filter(|backend| backend.state == "up") {
            let (count, resets) = (backend.troubles.recent, backend.troubles.recent_resets);
            let are_many = resets * 100 > backend.connections.recent * RESETS;
            if count >= FAILURES {
                let text = format!(
                    "it counts as up, and clients failed at it {count} times within two minutes: it refused them, did not \
                     answer or reset them at once"
                );
                let problem = of_backend(pool, backend, text).alert("PointsmanConnectsFail");
                found.add(problem.command(format!("pointsman drain {}/{}", pool.name, backend.name)));
            } else if resets >= FAILURES && are_many {
                let text = format!(
                    "it counts as up, and it reset {resets} connections within two minutes, which clients see as errors: the \
                     program behind it ends them, or a device on the way"
                );
                let problem = of_backend(pool, backend, text).alert("PointsmanBackendResets");
                found.add(problem.command(format!("pointsman drain {}/{}", pool.name, backend.name)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::overrides::OverrideStatus;
    use crate::admin::status::pools::{
        BackendConnections, ChecksStatus, DiscoveryStatus, QueueStatus, TroublesStatus,
    };
    use crate::admin::status::{
        ConfigStatus, Connections, ExcusedPool, ReadinessStatus, ReloadStatus, SaturationStatus,
        StandingStatus,
    };

    fn backend(name: &'static str) -> BackendStatus<'static> {
        BackendStatus {
            name,
            address: "192.0.2.1:5432".to_owned(),
            origin: "configuration",
            weight: 1,
            zone: None,
            backup: false,
            share: 1.0,
            latency_seconds: None,
            state: "up",
            reason: None,
            since: "2026-01-01T00:00:00.000Z".to_owned(),
            since_seconds: 7,
            connections: BackendConnections { active: 5, waiting: 0, limit: None, total: 9, recent: 100 },
            checks: ChecksStatus { passed: 1, failed: 0, not_made: 0, fault: None, heard: None },
            troubles: TroublesStatus { connects: 0, early_resets: 0, recent: 4, recent_resets: 5 },
            ejection: None,
            agent: None,
        }
    }

    fn pool(backends: Vec<BackendStatus<'static>>) -> PoolStatus<'static> {
        PoolStatus {
            name: "db",
            balance: "maglev",
            proxy_protocol: None,
            digest: None,
            panic: false,
            available: backends.len(),
            serves: true,
            queue: QueueStatus { waiting: 0, length: None },
            tiers: Vec::new(),
            near: None,
            discovery: Vec::new(),
            forward: None,
            backends,
        }
    }

    /// The status of a process in which all is well.
    fn well() -> Status<'static> {
        Status {
            version: "0.0.0",
            commit: "unknown",
            host: "h".to_owned(),
            started: "2026-01-01T00:00:00.000Z".to_owned(),
            uptime_seconds: 60,
            life: "serving",
            readiness: ReadinessStatus {
                ready: true,
                reason: "ready",
                text: "ready".to_owned(),
                since: None,
                excused: Vec::new(),
            },
            workers: 2,
            connections: Connections { open: 90, limit: 100, limit_from_descriptors: None },
            config: ConfigStatus {
                file: Some("/etc/p.toml".to_owned()),
                loaded: "2026-01-01T00:00:00.000Z".to_owned(),
                last_reload: None,
            },
            upgrade: None,
            overrides: Vec::new(),
            verdict: String::new(),
            problems: Vec::new(),
            standing: Vec::new(),
            access_log_fault: None,
            saturation: Vec::new(),
            listeners: Vec::new(),
            pools: vec![pool(vec![backend("a"), backend("b"), backend("c")])],
            events: Vec::new(),
        }
    }

    /// Checks the problems of a status that differs from one in which all is well: kind, name, text, since, command, alert.
    #[track_caller]
    fn check(change: impl FnOnce(&mut Status<'static>), expected: &[[&str; 6]]) {
        let mut status = well();
        change(&mut status);
        let found = problems(&status);
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let found: Vec<_> = found
            .iter()
            .map(|problem| {
                let alert = problem.alert.unwrap_or_default().to_owned();
                let (name, said) = (problem.name.clone(), problem.text.clone());
                [problem.kind.to_owned(), name, said, text(&problem.since), text(&problem.command), alert]
            })
            .collect();
        assert_eq!(found, expected);
    }

    const LATER: &str = "2026-01-02T00:00:00.000Z";
    const STARTED: &str = "2026-01-01T00:00:00.000Z";

    #[test]
    fn a_process_in_which_all_is_well_has_no_problem() {
        check(|_| {}, &[]);
        assert_eq!(verdict(&problems(&well())), "all is well");
    }

    #[test]
    fn a_process_that_starts_or_stops_is_a_problem() {
        let starts = "it starts, and takes no connections yet";
        check(|status| status.life = "starting", &[["process", "", starts, STARTED, "", ""]]);
        let stops = "a stop was requested: new connections are refused soon";
        check(|status| status.life = "draining", &[["process", "", stops, "", "", ""]]);
    }

    #[test]
    fn overrides_that_keep_clients_away_are_problems() {
        let set = |kind: &'static str, pool: Option<&str>| OverrideStatus {
            kind,
            pool: pool.map(str::to_owned),
            backend: None,
            listener: None,
            route: None,
            value: "x".to_owned(),
            since: LATER.to_owned(),
            by: "unix uid=0".to_owned(),
            ends_in_seconds: None,
            open: None,
            waiting: None,
        };
        let left =
            "it is not ready, so that new clients go elsewhere: an operator made it leave (unix uid=0)";
        let paused = "an operator has paused it, and new connections wait (unix uid=0)";
        check(
            |status| status.overrides = vec![set("leave", None), set("log", None), set("pause", Some("db"))],
            &[
                ["override", "", left, LATER, "pointsman join", ""],
                ["override", "db", paused, LATER, "pointsman resume db", ""],
            ],
        );
    }

    #[test]
    fn a_node_that_withdraws_by_itself_is_a_problem() {
        let unready = |status: &mut Status<'static>, reason, text: &str, since: Option<&str>| {
            status.readiness.ready = false;
            (status.readiness.reason, status.readiness.text) = (reason, text.to_owned());
            status.readiness.since = since.map(str::to_owned);
        };
        let of_process = |text, since| ["process", "", text, since, "", "PointsmanNotReady"];
        let needs =
            "it is not ready, so that new clients go elsewhere: needs: pool db has no available backend";
        check(
            |status| unready(status, "needs", "needs: pool db has no available backend", Some(LATER)),
            &[of_process(needs, LATER)],
        );
        let overloaded = "it is not ready, so that new clients go elsewhere: overloaded";
        check(|status| unready(status, "overloaded", "overloaded", None), &[of_process(overloaded, "")]);
        // These have problems of their own.
        check(|status| unready(status, "leaving", "leaving", None), &[]);
        let excused = "it is ready although pools of ready_needs have no available backend (db, web): ready_floor is over, \
                       and the other nodes may be without them too";
        check(
            |status| {
                for (pool, since) in [("db", LATER), ("web", STARTED)] {
                    let pool = ExcusedPool { pool: pool.to_owned(), since: since.to_owned() };
                    status.readiness.excused.push(pool);
                }
            },
            &[["process", "", excused, STARTED, "", "PointsmanPoolDown"]],
        );
    }

    #[test]
    fn what_is_not_in_force_is_a_problem() {
        let reload = |fault: Option<&str>| {
            let fault = fault.map(str::to_owned);
            Some(ReloadStatus { time: LATER.to_owned(), result: "ok", changes: None, fault })
        };
        check(|status| status.config.last_reload = reload(None), &[]);
        let text = "the last reload failed; the earlier configuration stays in force: error[C001]";
        let command = "pointsman check /etc/p.toml";
        check(
            |status| status.config.last_reload = reload(Some("error[C001]")),
            &[["reload", "", text, LATER, command, "PointsmanReloadFailed"]],
        );
        let standing =
            |kind, name: &str| StandingStatus { kind, name: name.to_owned(), text: "t".to_owned() };
        check(
            |status| status.standing = vec![standing("restart", ""), standing("list", "bans")],
            &[["restart", "", "t", "", "", ""], ["list", "bans", "t", "", "", "PointsmanFileBroken"]],
        );
        check(
            |status| status.access_log_fault = Some("lines are lost".to_owned()),
            &[["access_log", "", "lines are lost", "", "", "PointsmanLogsDropped"]],
        );
    }

    #[test]
    fn limits_that_refuse_connections_are_problems() {
        let limit = |kind, scope, name: &str| SaturationStatus {
            kind,
            scope,
            name: name.to_owned(),
            text: "refused (refused: 3)".to_owned(),
            refused: 3,
        };
        check(
            |status| {
                status.saturation =
                    vec![limit("process_full", "process", ""), limit("pool_full", "pool", "db")];
                status.connections.open = 100;
            },
            &[
                [
                    "saturation",
                    "",
                    "process_full: refused (refused: 3); the limit of 100 is max_connections of the configuration",
                    "",
                    "pointsman connections --sort idle",
                    "PointsmanRefusesClients",
                ],
                [
                    "saturation",
                    "pool db",
                    "pool_full: refused (refused: 3)",
                    "",
                    "pointsman connections --pool db",
                    "PointsmanRefusesClients",
                ],
            ],
        );
        let text = "91 of 100 connections are open: at the limit new clients are refused; the limit of 100 follows from the \
                    512 descriptors that the process may open (LimitNOFILE= of a unit, `ulimit -Hn`, --ulimit nofile of a \
                    container)";
        check(
            |status| {
                status.connections.open = 91;
                status.connections.limit_from_descriptors = Some(512);
            },
            &[["saturation", "", text, "", "pointsman connections --sort idle", "PointsmanNearlyFull"]],
        );
    }

    #[test]
    fn a_pool_without_enough_backends_is_a_problem() {
        let of_pool =
            |text, since, alert| ["pool", "db", text, since, "pointsman connections --pool db", alert];
        check(
            |status| status.pools[0].backends.clear(),
            &[of_pool("it has no backend", "", "PointsmanPoolDown")],
        );
        check(
            |status| status.pools[0].panic = true,
            &[of_pool("too few backends are up, and health is disregarded", "", "PointsmanPoolInPanic")],
        );
        let take_out = |status: &mut Status<'static>, state: &'static str, count: usize| {
            for backend in status.pools[0].backends.iter_mut().take(count) {
                backend.state = state;
                backend.since = LATER.to_owned();
            }
        };
        check(
            |status| {
                status.pools[0].serves = false;
                take_out(status, "maintenance", 3);
            },
            &[[
                "pool",
                "db",
                "none of its backends is available (3 in all); operators have taken 3 out of use",
                LATER,
                "pointsman ready db/a",
                "PointsmanPoolDown",
            ]],
        );
        check(|status| take_out(status, "draining", 2), &[]);
        let down = |name| {
            let command = format!("pointsman connections --pool db --backend {name}");
            let text = "down at 192.0.2.1:5432 for 7 s, 5 connections open: connection refused: \"-LOADING\"";
            [
                "backend".to_owned(),
                format!("db/{name}"),
                text.to_owned(),
                LATER.to_owned(),
                command,
                "PointsmanBackendDown".to_owned(),
            ]
        };
        let lost = |status: &mut Status<'static>, count| {
            take_out(status, "down", count);
            for backend in status.pools[0].backends.iter_mut().take(count) {
                backend.reason = Some("connection refused".to_owned());
                backend.checks.heard = Some("-LOADING".to_owned());
            }
        };
        let [a, b] = [down("a"), down("b")];
        let [a, b] = [&a, &b].map(|down| down.each_ref().map(String::as_str));
        check(|status| lost(status, 1), &[a]);
        let half = of_pool("only 1 of 3 backends are up", LATER, "PointsmanPoolHalfDown");
        check(|status| lost(status, 2), &[half, a, b]);
        let mut status = well();
        lost(&mut status, 2);
        assert_eq!(verdict(&problems(&status)), "3 problems: pool db: only 1 of 3 backends are up");
    }

    #[test]
    fn a_backend_at_which_clients_fail_is_a_problem() {
        let failing = "it counts as up, and clients failed at it 5 times within two minutes: it refused them, did not answer or \
                       reset them at once";
        check(
            |status| status.pools[0].backends[0].troubles.recent = 5,
            &[["backend", "db/a", failing, "", "pointsman drain db/a", "PointsmanConnectsFail"]],
        );
    }

    #[test]
    fn a_backend_that_resets_connections_is_a_problem() {
        let resets = "it counts as up, and it reset 6 connections within two minutes, which clients see as errors: the program \
                      behind it ends them, or a device on the way";
        let reset = |connections: u64| {
            move |status: &mut Status<'static>| {
                let backend = &mut status.pools[0].backends[0];
                (backend.troubles.recent_resets, backend.connections.recent) = (6, connections);
            }
        };
        check(
            reset(119),
            &[["backend", "db/a", resets, "", "pointsman drain db/a", "PointsmanBackendResets"]],
        );
        // They are 5 %.
        check(reset(120), &[]);
    }

    #[test]
    fn a_discovery_source_that_fails_is_a_problem() {
        let source = |last_success: Option<&str>| DiscoveryStatus {
            source: "dns app port 443".to_owned(),
            last_success: last_success.map(str::to_owned),
            failures: 3,
            fault: Some("no server answered".to_owned()),
        };
        let kept = "dns app port 443: the last answer stays in force: no server answered";
        let none = "dns app port 443: no answer yet: no server answered";
        check(
            |status| status.pools[0].discovery = vec![source(Some(LATER)), source(None)],
            &[
                ["discovery", "db", kept, LATER, "", "PointsmanDiscoveryFails"],
                ["discovery", "db", none, "", "", "PointsmanDiscoveryFails"],
            ],
        );
    }

    #[test]
    fn each_alert_exists() {
        let rules =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/prometheus/pointsman.rules.yml");
        let rules = std::fs::read_to_string(rules).unwrap();
        let own = include_str!("problems.rs");
        let named = own.split("alert(\"").skip(1).chain(own.split(", \"Pointsman").skip(1));
        let mut seen = 0;
        for rest in named {
            let name = rest.split('"').next().unwrap();
            let name = format!("Pointsman{}", name.strip_prefix("Pointsman").unwrap_or(name));
            assert!(rules.contains(&format!("alert: {name}\n")), "{name}");
            seen += 1;
        }
        assert!(seen > 10, "{seen}");
    }

    #[test]
    fn problems_that_are_not_listed_are_counted() {
        let end = |count| {
            let mut found = ProblemList::default();
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
