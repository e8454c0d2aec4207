//! System calls for one operation, as strace counts them.
//!
//! A traced proxy is slow, so it finds more work at each wake-up than it would without strace. The numbers
//! are a lower bound.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::child::{Program, load, pause};
use crate::configurations::Shape;
use crate::goals::{self, RunKind, RunResults};
use crate::measure::Bench;
use crate::order::{Order, Outcome};
use crate::peers::Peer;
use crate::points::{ProxyVariant, Test};
use crate::proc;
use crate::proxy::Proxy;
use crate::report::markdown;

/// The time that strace has to attach, and to write its table.
const PATIENCE: Duration = Duration::from_secs(10);

/// The traced tests, the name of one operation of each, and the number of our operations that make one.
const TRACED: [(Test, &str, f64); 4] = [
    (Test::Conn, "connection", 1.0),
    (Test::Pp64, "round trip of 64 B", 1.0),
    (Test::Down, "MiB down", 1_048_576.0),
    (Test::Up, "MiB up", 1_048_576.0),
];

/// The list leaves out calls that are rarer than this for one operation.
const RARE: f64 = 0.05;

/// Traces each peer. Returns the table of calls and that of the goals.
///
/// # Errors
/// Returns an error if a proxy does not start, or strace may not attach.
pub(crate) fn run(bench: &Bench<'_>, peers: &[Peer]) -> io::Result<String> {
    let (mut rows, mut own) = (Vec::new(), Vec::new());
    let traceable = |peer: &&Peer| **peer != Peer::Direct && peer.can_use(bench.workers);
    for peer in peers.iter().filter(traceable) {
        let proxy = bench.start(ProxyVariant { peer: *peer, workers: bench.workers }, Shape::PLAIN)?;
        for (test, unit, scale) in TRACED {
            let (outcome, calls) = trace(bench, &proxy, test)?;
            let operations = (outcome.total as f64 / scale).max(1.0);
            if *peer == Peer::Pointsman {
                own.push((test, calls.values().sum::<u64>() as f64 / operations));
            }
            rows.push(row(*peer, unit, operations, calls));
        }
    }
    let heads = ["proxy", "for one", "calls", "of which"].map(str::to_owned);
    let goals = goals::table(&RunResults::Calls(&own), RunKind::Calls);
    Ok(format!("{}\n### Goals\n\n{goals}", markdown(&heads, &rows)))
}

fn row(peer: Peer, unit: &str, operations: f64, calls: BTreeMap<String, u64>) -> Vec<String> {
    let all = calls.values().sum::<u64>() as f64 / operations;
    let mut each: Vec<(String, f64)> =
        calls.into_iter().map(|(name, count)| (name, count as f64 / operations)).collect();
    each.sort_by(|one, other| other.1.total_cmp(&one.1));
    let frequent = each.iter().filter(|(_, count)| *count >= RARE);
    let list: Vec<String> = frequent.map(|(name, count)| format!("{name} {count:.2}")).collect();
    vec![peer.name().to_owned(), unit.to_owned(), format!("{all:.1}"), list.join(", ")]
}

fn trace(bench: &Bench<'_>, proxy: &Proxy, test: Test) -> io::Result<(Outcome, BTreeMap<String, u64>)> {
    let root = proxy.pid().ok_or(io::ErrorKind::NotFound)?;
    let (table, log) = (bench.directory.join("strace.table"), bench.directory.join("strace.log"));
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-o"]).arg(&table);
    for pid in proc::tree(root) {
        command.args(["-p", &pid.to_string()]);
    }
    let mut strace = Program::start(command, None, &log)?;
    let began = Instant::now();
    while !fs::read_to_string(&log)?.contains("attached") {
        if strace.ended().is_some() || began.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("strace: {}", fs::read_to_string(&log)?.trim())));
        }
        pause(Duration::from_millis(5));
    }
    let order = Order { warm: Duration::ZERO, ..bench.order(proxy, test) };
    let outcome = load(&order, bench.load_pin(proxy))?;
    strace.signal(Signal::SIGINT);
    if !strace.ends_within(PATIENCE) {
        return Err(io::Error::other("strace does not end"));
    }
    Ok((outcome, parse(&fs::read_to_string(table)?)))
}

/// Parses lines of `% seconds µs/call calls [errors] name`.
pub(crate) fn parse(table: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| -> Option<(String, u64)> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let name = *fields.last()?;
        let known = fields.len() >= 5 && name != "total" && name != "syscall";
        known.then(|| fields[3].parse().ok().map(|count| (name.to_owned(), count))).flatten()
    };
    table.lines().filter_map(line).collect()
}
