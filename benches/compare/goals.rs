//! The performance goals of pointsman, beside the results of a run.
//!
//! The table cannot fail a build: noise of the machine hides differences below a tenth.

use crate::figures::{self, Figure, Results, Spread, Subject};
use crate::peers::Peer;
use crate::points::{ProxyVariant, Reference, Test};
use crate::report::{markdown, show};

/// The kind of run that can show a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunKind {
    /// One worker on its own CPU, with large packets.
    Loopback,
    /// One worker on its own CPU, with packets of 1500 bytes.
    Packets,
    /// Different numbers of workers, which are not pinned.
    Workers,
    /// A run that counts system calls.
    Calls,
}

impl RunKind {
    /// Returns the options of the command for this kind of run.
    fn options(self) -> &'static str {
        match self {
            Self::Loopback => "no mode",
            Self::Packets => "`--packets-1500`",
            Self::Workers => "`--workers 1,2`",
            Self::Calls => "`--strace`",
        }
    }
}

/// The number that a goal bounds.
#[derive(Clone, Copy)]
enum GoalNumber {
    Ratio(Test, Figure, Reference),
    /// A figure of this many idle connections.
    Idle(usize, Figure),
    Errors,
    Calls(Test),
}

struct Goal {
    work: &'static str,
    run_kind: RunKind,
    number: GoalNumber,
    must: f64,
    reach: f64,
}

const fn ratio(
    work: &'static str,
    (test, figure): (Test, Figure),
    against: Peer,
    (must, reach): (f64, f64),
) -> Goal {
    Goal {
        work,
        run_kind: RunKind::Loopback,
        number: GoalNumber::Ratio(test, figure, Reference::Peer(against)),
        must,
        reach,
    }
}

const fn packets(work: &'static str, test: Test) -> Goal {
    let number = GoalNumber::Ratio(test, figures::cpu, Reference::Peer(Peer::Haproxy));
    Goal { work, run_kind: RunKind::Packets, number, must: 0.50, reach: 0.45 }
}

const fn own(work: &'static str, test: Test) -> Goal {
    let number = GoalNumber::Ratio(test, figures::cpu, Reference::Own(1));
    Goal { work, run_kind: RunKind::Workers, number, must: 1.10, reach: 1.00 }
}

const fn idle(work: &'static str, connections: usize, figure: Figure, must: f64, reach: f64) -> Goal {
    Goal { work, run_kind: RunKind::Loopback, number: GoalNumber::Idle(connections, figure), must, reach }
}

const fn calls(work: &'static str, test: Test, must: f64, reach: f64) -> Goal {
    Goal { work, run_kind: RunKind::Calls, number: GoalNumber::Calls(test), must, reach }
}

const ERRORS: Goal = Goal {
    work: "errors in any test",
    run_kind: RunKind::Loopback,
    number: GoalNumber::Errors,
    must: 0.0,
    reach: 0.0,
};

const GOALS: &[Goal] = &[
    ratio("bulk down, CPU", (Test::Down, figures::cpu), Peer::Haproxy, (0.50, 0.42)),
    ratio("bulk up, CPU", (Test::Up, figures::cpu), Peer::Haproxy, (0.50, 0.42)),
    ratio("bulk down, CPU", (Test::Down, figures::cpu), Peer::Haproxy1m, (1.05, 0.90)),
    ratio("bulk up, CPU", (Test::Up, figures::cpu), Peer::Haproxy1m, (1.05, 0.90)),
    packets("bulk down in packets of 1500 bytes, CPU", Test::Down),
    packets("bulk up in packets of 1500 bytes, CPU", Test::Up),
    ratio("short connections, CPU", (Test::Conn, figures::cpu), Peer::Haproxy, (0.90, 0.80)),
    ratio("short connections, CPU", (Test::Conn, figures::cpu), Peer::Sniproxy, (1.05, 0.92)),
    ratio("ping-pong 64 B, CPU", (Test::Pp64, figures::cpu), Peer::Haproxy, (0.90, 0.80)),
    ratio("ping-pong 4 KiB, CPU", (Test::Pp4k, figures::cpu), Peer::Haproxy, (0.90, 0.80)),
    ratio("ping-pong 64 B, CPU", (Test::Pp64, figures::cpu), Peer::TokioCopy, (1.00, 0.92)),
    ratio("ping-pong 4 KiB, CPU", (Test::Pp4k, figures::cpu), Peer::TokioCopy, (1.00, 0.92)),
    ratio("short connections, p50", (Test::Conn, figures::p50), Peer::Haproxy, (1.00, 0.85)),
    ratio("ping-pong 64 B, p50", (Test::Pp64, figures::p50), Peer::Haproxy, (1.00, 0.85)),
    ratio("ping-pong 4 KiB, p50", (Test::Pp4k, figures::p50), Peer::Haproxy, (1.00, 0.85)),
    ratio("short connections, p99", (Test::Conn, figures::p99), Peer::Haproxy, (1.10, 0.95)),
    ratio("short connections, p99.9", (Test::Conn, figures::p999), Peer::Haproxy, (1.00, 0.85)),
    ratio("short connections, p99.9", (Test::Conn, figures::p999), Peer::TokioCopy, (1.60, 1.00)),
    ratio("ping-pong 64 B beside 40 streams, p99", (Test::Beside, figures::p99), Peer::Haproxy, (1.00, 0.85)),
    ratio(
        "ping-pong 64 B beside 40 streams, p99",
        (Test::Beside, figures::p99),
        Peer::TokioCopy,
        (1.60, 1.00),
    ),
    ratio("ping-pong 64 B, p99", (Test::Pp64, figures::p99), Peer::Haproxy, (1.10, 0.95)),
    ratio("ping-pong 4 KiB, p99", (Test::Pp4k, figures::p99), Peer::Haproxy, (1.10, 0.95)),
    idle("user memory of 4500 idle connections, KiB each", 4500, figures::pss, 1.5, 1.0),
    idle("user memory of 9000 idle connections, KiB each", 9000, figures::pss, 1.5, 1.0),
    idle("descriptors of 4500 idle connections, each", 4500, figures::descriptors, 2.0, 2.0),
    idle("descriptors of 9000 idle connections, each", 9000, figures::descriptors, 2.0, 2.0),
    calls("system calls of a short connection", Test::Conn, 17.0, 15.0),
    calls("system calls of a MiB down", Test::Down, 8.0, 4.3),
    calls("system calls of a MiB up", Test::Up, 8.0, 4.3),
    own("short connections, 2 workers, CPU", Test::Conn),
    own("ping-pong 64 B, 2 workers, CPU", Test::Pp64),
    own("ping-pong 4 KiB, 2 workers, CPU", Test::Pp4k),
    own("bulk down, 2 workers, CPU", Test::Down),
    own("bulk up, 2 workers, CPU", Test::Up),
    ERRORS,
];

/// The results that are compared with the goals.
pub(crate) enum RunResults<'a> {
    Results(&'a Results),
    /// The system calls of pointsman for one operation.
    Calls(&'a [(Test, f64)]),
}

impl RunResults<'_> {
    fn value(&self, number: GoalNumber) -> Option<Spread> {
        match (self, number) {
            (Self::Results(results), GoalNumber::Ratio(test, figure, against)) => {
                let workers = if matches!(against, Reference::Own(_)) { 2 } else { 1 };
                results.ratio(Subject { test, connections: 0 }, pointsman(workers), against, figure)
            }
            (Self::Results(results), GoalNumber::Idle(connections, figure)) => {
                results.spread(Subject { test: Test::Idle, connections }, pointsman(1), figure)
            }
            (Self::Results(results), GoalNumber::Errors) => {
                Spread::of(results.errors(Peer::Pointsman).map(|errors| errors as f64))
            }
            (Self::Calls(counted), GoalNumber::Calls(test)) => {
                Spread::of(counted.iter().filter(|(of, _)| *of == test).map(|(_, calls)| *calls))
            }
            _ => None,
        }
    }
}

fn pointsman(workers: usize) -> ProxyVariant {
    ProxyVariant { peer: Peer::Pointsman, workers }
}

/// Returns the table of all goals. A goal that needs another kind of run shows the options of that run.
pub(crate) fn table(results: &RunResults<'_>, run_kind: RunKind) -> String {
    let heads = ["work", "against", "must", "reach", "pointsman", ""].map(str::to_owned);
    let rows: Vec<Vec<String>> = GOALS.iter().map(|goal| row(goal, results, run_kind)).collect();
    markdown(&heads, &rows)
}

fn row(goal: &Goal, results: &RunResults<'_>, run_kind: RunKind) -> Vec<String> {
    let (against, decimals) = match goal.number {
        GoalNumber::Ratio(_, _, against) => (against.name(), 2),
        GoalNumber::Idle(..) => ("-".to_owned(), 2),
        GoalNumber::Errors => ("-".to_owned(), 0),
        GoalNumber::Calls(_) => ("-".to_owned(), 1),
    };
    // Errors count in every kind of run.
    let here = goal.run_kind == run_kind || matches!(goal.number, GoalNumber::Errors);
    let value = if here { results.value(goal.number) } else { None };
    let word = match value {
        Some(value) => bound_met(value.median, goal, decimals),
        None if here => "not measured",
        None => goal.run_kind.options(),
    };
    let figure = |value: f64| format!("<= {value:.decimals$}");
    vec![
        goal.work.to_owned(),
        against,
        figure(goal.must),
        figure(goal.reach),
        show(value, decimals),
        word.to_owned(),
    ]
}

/// Returns the bound that the median meets, at the precision of the table.
fn bound_met(median: f64, goal: &Goal, decimals: usize) -> &'static str {
    let half = 0.5 / 10_f64.powi(decimals as i32);
    if median < goal.reach + half {
        "reach"
    } else if median < goal.must + half {
        "must"
    } else {
        "above"
    }
}
