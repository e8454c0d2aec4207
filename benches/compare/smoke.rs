//! A run without options: each mode runs briefly, to show that everything works.

use std::io;
use std::time::Duration;

use crate::busy;
use crate::checks;
use crate::failover;
use crate::figures::Results;
use crate::goals::{self, RunKind, RunResults};
use crate::growth::{self, Extent};
use crate::measure::Bench;
use crate::peers::Peer;
use crate::points::{ProxyVariant, Reference, Test};
use crate::report;
use crate::rounds;
use crate::scrape;
use crate::upgrade;

/// Runs every test and mode that needs no other program and no privilege. Returns the number of errors of
/// pointsman.
///
/// # Errors
/// Returns an error if pointsman does not start, or a load does not answer.
pub(crate) fn run(bench: &mut Bench<'_>) -> io::Result<u64> {
    (bench.warm, bench.time, bench.idle) = (Duration::from_millis(50), Duration::from_millis(200), vec![50]);
    let tests = [Test::Idle, Test::Conn, Test::Pp64, Test::Pp4k, Test::Down, Test::Up, Test::Beside];
    let mut points = Vec::new();
    for workers in [1, 2] {
        points.extend(rounds::run_variant(
            bench,
            ProxyVariant { peer: Peer::Pointsman, workers },
            &tests,
            0,
        )?);
    }
    let results = Results::new(points);
    print!("{}", report::tables(&results, &[Reference::Own(1)]));
    println!("\n### Goals\n\n{}", goals::table(&RunResults::Results(&results), RunKind::Workers));
    let mut errors = results.errors(Peer::Pointsman).unwrap_or(0);
    for (text, further) in [
        busy::run(
            &Bench { workers: 2, ..bench.clone() },
            busy::Extent { rounds: 1, idle: 50, settle: bench.warm },
        )?,
        scrape::run(bench, 1)?,
        growth::run(bench, 1, Extent::Smallest, None)?,
        failover::run(bench, failover::Extent::brief())?,
        (checks::run(bench, checks::Extent::brief())?, 0),
        upgrade::run(bench, &[Peer::Pointsman], upgrade::Extent::brief())?,
    ] {
        println!("{text}");
        errors += further;
    }
    println!("\nOnly a look whether everything works; give --rounds to measure, --help for more.");
    Ok(errors)
}
