//! One case: its quiet and its attacked times by turns, and the figures of both.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::attack::{Attack, AttackCounts, READY};
use crate::cases::{AllowedErrors, Case};
use crate::child::{Role, pause};
use crate::clients::FiguresByKind;
use crate::metrics::Metrics;
use crate::roles;
use crate::server::{RunContext, Server};

/// The time in which an honest client is served after the start.
const WARM: Duration = Duration::from_millis(500);

/// The time after an attack in which the server must be as before. The connections of attackers end by the
/// timeouts of their hellos, and unused pipes are closed step by step.
const SETTLE: Duration = Duration::from_secs(60);

/// The most descriptors by which the count after an attack may differ: honest clients come and go, and pipe
/// pools shrink.
const SLACK: usize = 24;

/// The length of a calm time after an attack. All clients must be served in it, and none may wait this many
/// microseconds.
const CALM: Duration = Duration::from_millis(300);
const LATE: u32 = 500_000;

/// The bounds of the server's own memory in docs/measured/hostile.md, in KiB: for all unfinished hellos
/// together, and for the connection of each descriptor without its hello.
const HELLOS: u64 = 64 * 1024;
const PER_DESCRIPTOR: u64 = 4;

/// The time between two measurements of the server.
const INTERVAL: Duration = Duration::from_millis(100);

/// The time in which admin must answer after an attack on it.
const ADMIN_PATIENCE: Duration = Duration::from_secs(45);

/// The figures of one time, quiet or attacked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Span {
    pub(crate) by_kind: FiguresByKind,
    /// The part of one CPU that the server used.
    pub(crate) cpu: f64,
    /// The part of the time that the threads of the server waited for a CPU.
    pub(crate) waited: f64,
    /// The most memory, in KiB.
    pub(crate) memory: u64,
    /// The most memory of all TCP sockets of this host, in KiB.
    pub(crate) tcp: u64,
    /// The most descriptors.
    pub(crate) descriptors: usize,
    pub(crate) seconds: f64,
}

/// A quiet time and the attacked time after it.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) quiet: Span,
    pub(crate) attacked: Span,
    /// The close reasons of the attacked time with their counts, without those of honest clients.
    pub(crate) reasons: BTreeMap<String, f64>,
    /// Other counters that grew.
    pub(crate) counted: BTreeMap<String, f64>,
    pub(crate) counts: AttackCounts,
}

/// The results of a case.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) turns: Vec<Turn>,
    /// The faults, such as a panic or a failed client.
    pub(crate) faults: Vec<String>,
}

/// The size of the measurement.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    pub(crate) is_brief: bool,
    /// The number of addresses that attackers connect from.
    pub(crate) sources: usize,
}

/// Runs a case.
///
/// # Errors
/// Returns an error if the server does not start, or ends early, or a child process does not answer.
pub(crate) fn run(case: &Case, context: RunContext<'_>, extent: Extent) -> io::Result<Report> {
    let mut server = Server::start(&case.settings, context)?;
    let to = serde_json::to_string(&server.address("tls"))?;
    let mut clients = Role::start(roles::CLIENTS, &to, None)?;
    pause(WARM);
    let mut report = Report { turns: Vec::new(), faults: Vec::new() };
    ask::<FiguresByKind>(&mut clients)?;
    let before = server.descriptors();
    for _ in 0..extent.rounds {
        ask::<FiguresByKind>(&mut clients)?;
        let quiet = span(&server, &mut clients, extent.time)?;
        check(&quiet.by_kind, AllowedErrors::Nothing, "in a quiet time", &mut report.faults);
        report.turns.push(attacked(case, &server, &mut clients, extent, quiet)?);
        if let Some(turn) = report.turns.last() {
            check(&turn.attacked.by_kind, case.allowed, "under attack", &mut report.faults);
            let bound = turn.quiet.memory + HELLOS + PER_DESCRIPTOR * turn.attacked.descriptors as u64;
            if turn.attacked.memory > bound {
                report.faults.push(format!("{} KiB of memory, promised are {bound}", turn.attacked.memory));
            }
        }
        let left = settle(&server, &mut clients, before, &mut report.faults)?;
        server.check_alive()?;
        // The shortage may have ended new clients. Clients that were open must have lasted through all of the
        // attack.
        check(&left, AllowedErrors::Refusals, "after the attack", &mut report.faults);
    }
    drop(clients);
    let panics = server.metrics(ADMIN_PATIENCE)?.sum("pointsman_panics_total");
    if panics > 0.0 {
        report.faults.push(format!("{panics} connections ended by a panic"));
    }
    server.finish()?;
    Ok(report)
}

fn attacked(
    case: &Case,
    server: &Server,
    clients: &mut Role,
    extent: Extent,
    quiet: Span,
) -> io::Result<Turn> {
    let earlier = server.metrics(ADMIN_PATIENCE)?;
    let orders: Vec<Attack> =
        case.attackers.iter().map(|attackers| attackers.attack(server, extent)).collect();
    let start = |order: &Attack| Role::start(roles::ATTACK, &serde_json::to_string(order)?, None);
    let mut attackers = orders.iter().map(start).collect::<io::Result<Vec<Role>>>()?;
    for attacker in &attackers {
        attacker.expect(READY)?;
    }
    // The time in which attackers connect is not measured, because its length depends on the state of the
    // machine.
    let ramp: FiguresByKind = ask(clients)?;
    let stop = AtomicBool::new(false);
    let attacked = thread::scope(|scope| {
        let clock = case.steps_clock.then(|| scope.spawn(|| step_clock(server, &stop)));
        let attacked = span(server, clients, extent.time);
        stop.store(true, Ordering::Relaxed);
        if let Some(clock) = clock {
            clock.join().map_err(|_| io::Error::other("the clock panicked"))??;
        }
        attacked
    });
    let mut attacked = attacked?;
    attacked.by_kind.open.errors += ramp.open.errors;
    attacked.by_kind.open.fault = attacked.by_kind.open.fault.or(ramp.open.fault);
    if case.allowed == AllowedErrors::Nothing {
        attacked.by_kind.new.errors += ramp.new.errors;
        attacked.by_kind.new.fault = attacked.by_kind.new.fault.or(ramp.new.fault);
    }
    let mut counts = AttackCounts::default();
    let mut later = if case.is_at_admin { None } else { Some(server.metrics(ADMIN_PATIENCE)?) };
    for attacker in &mut attackers {
        let part: AttackCounts = ask(attacker)?;
        counts.begun += part.begun;
        counts.ended += part.ended;
        counts.failed += part.failed;
        counts.open += part.open;
    }
    drop(attackers);
    if later.is_none() {
        later = Some(server.metrics(ADMIN_PATIENCE)?);
    }
    let (reasons, counted) = later.map(|later| growth(&later, &earlier)).unwrap_or_default();
    Ok(Turn { quiet, attacked, reasons, counted, counts })
}

fn growth(later: &Metrics, earlier: &Metrics) -> (BTreeMap<String, f64>, BTreeMap<String, f64>) {
    let mut reasons = later.growth(earlier, "pointsman_connections_closed_total", "reason");
    reasons.remove("client_fin");
    let mut counted = BTreeMap::new();
    for (metric, label, word) in [
        ("pointsman_pipe_fallbacks_total", "reason", "pipe fallbacks: "),
        ("pointsman_accept_pauses_total", "listener", "pauses of accept at "),
    ] {
        let grown = later.growth(earlier, metric, label);
        counted.extend(grown.into_iter().map(|(value, by)| (format!("{word}{value}"), by)));
    }
    let lost =
        later.sum("pointsman_access_log_dropped_total") - earlier.sum("pointsman_access_log_dropped_total");
    if lost > 0.0 {
        counted.insert("log lines lost".to_owned(), lost);
    }
    (reasons, counted)
}

fn step_clock(server: &Server, stop: &AtomicBool) -> io::Result<()> {
    let mut ahead = false;
    while !stop.load(Ordering::Relaxed) {
        ahead = !ahead;
        server.step_clock(if ahead { 3600 } else { -3600 })?;
        pause(Duration::from_millis(500));
    }
    server.step_clock(0)
}

fn ask<T: serde::de::DeserializeOwned>(role: &mut Role) -> io::Result<T> {
    role.send_line("tell")?;
    role.answer()
}

/// Measures the server for this time.
fn span(server: &Server, clients: &mut Role, time: Duration) -> io::Result<Span> {
    let (began, cpu, waited) = (Instant::now(), server.cpu(), server.waited());
    let mut span = Span::default();
    while began.elapsed() < time {
        span.memory = span.memory.max(server.memory());
        span.descriptors = span.descriptors.max(server.descriptors());
        span.tcp = span.tcp.max(tcp_memory());
        pause(INTERVAL.min(time.saturating_sub(began.elapsed())));
    }
    span.seconds = began.elapsed().as_secs_f64();
    span.cpu = (server.cpu() - cpu) / span.seconds;
    span.waited = (server.waited() - waited) / span.seconds;
    span.by_kind = ask(clients)?;
    Ok(span)
}

/// Returns the memory of all TCP sockets of this host in KiB; the kernel has no count for one process.
fn tcp_memory() -> u64 {
    // The number counts pages of 4 KiB and stands behind the word `mem`.
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"));
    let pages = line.and_then(|line| line.split_once(" mem ")?.1.trim().parse::<u64>().ok());
    pages.map_or(0, |pages| 4 * pages)
}

fn check(by_kind: &FiguresByKind, allowed: AllowedErrors, when: &str, faults: &mut Vec<String>) {
    let mut must_be_none = vec![("open", &by_kind.open)];
    if allowed == AllowedErrors::Nothing {
        must_be_none.push(("new", &by_kind.new));
    }
    for (kind, figures) in must_be_none {
        if figures.errors > 0 {
            let fault = figures.fault.as_deref().unwrap_or_default();
            faults.push(format!("{} {kind} clients failed {when}: {fault}", figures.errors));
        }
    }
}

/// Waits until the server has released the resources of the attackers and serves new clients as before.
/// Returns the figures of the clients that were open meanwhile.
fn settle(
    server: &Server,
    clients: &mut Role,
    before: usize,
    faults: &mut Vec<String>,
) -> io::Result<FiguresByKind> {
    let until = Instant::now() + SETTLE;
    let mut all = FiguresByKind::default();
    loop {
        pause(CALM);
        let by_kind: FiguresByKind = ask(clients)?;
        all.open.errors += by_kind.open.errors;
        all.open.fault = all.open.fault.or(by_kind.open.fault);
        let (now, is_served) = (server.descriptors(), by_kind.new.errors == 0 && by_kind.new.served > 0);
        if now <= before + SLACK && is_served && by_kind.new.longest < LATE {
            return Ok(all);
        }
        if Instant::now() > until {
            if now > before + SLACK {
                faults.push(format!("{now} descriptors are open where {before} were before the attack"));
            }
            if !is_served {
                faults.push("new clients are not served after the attack".to_owned());
            }
            return Ok(all);
        }
    }
}
