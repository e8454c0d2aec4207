//! The comparison: in every round all variants are measured one after the other.

use std::io;

use crate::configurations::Shape;
use crate::figures::Results;
use crate::goals::{self, RunKind, RunResults};
use crate::measure::Bench;
use crate::options::Options;
use crate::peers::Peer;
use crate::plots;
use crate::points::{Point, ProxyVariant, Test, count};
use crate::programs::{program, version};
use crate::report;

/// Measures, prints all tables, and returns the number of errors of pointsman.
///
/// # Errors
/// Returns an error if a plot cannot be written. A peer that fails is reported and left out.
pub(crate) fn run(bench: &Bench<'_>, options: &Options, peers: &[Peer]) -> io::Result<u64> {
    let workers = options.workers();
    let (points, lost) = measure(bench, options, &variants(peers, &workers));
    let results = Results::new(points);
    let said: Vec<String> = workers.iter().map(|workers| count(*workers)).collect();
    println!("\n## {}, {} rounds of {} s", said.join(" and "), options.rounds, options.secs);
    if workers != [1] {
        println!("\nNothing is pinned to a CPU, so that only the number of workers differs.");
    }
    if options.packets_1500 {
        println!("\nEverything in a private network whose packets have at most 1500 bytes.");
    }
    print!("{}", report::tables(&results, &options.references()));
    let run_kind = match (options.packets_1500, workers.as_slice()) {
        (true, _) => RunKind::Packets,
        (false, [1]) => RunKind::Loopback,
        (false, _) => RunKind::Workers,
    };
    println!("\n### Goals\n\n{}", goals::table(&RunResults::Results(&results), run_kind));
    if let Some(directory) = &options.svg {
        plots::write(&results, directory)?;
    }
    Ok(results.errors(Peer::Pointsman).unwrap_or(0) + lost)
}

/// Returns the installed peers, and prints a line for each peer.
pub(crate) fn installed(peers: &[Peer]) -> Vec<Peer> {
    let mut found = Vec::new();
    for peer in peers {
        if program(*peer).is_none() {
            eprintln!("{}: not installed, skipped", peer.name());
        } else {
            println!("- {}: {}", peer.name(), version(*peer));
            found.push(*peer);
        }
    }
    found
}

/// Returns each peer with each number of workers. Without a proxy there is only one number.
fn variants(peers: &[Peer], workers: &[usize]) -> Vec<ProxyVariant> {
    let mut variants = Vec::new();
    for peer in peers {
        if !workers.iter().all(|workers| peer.can_use(*workers)) {
            eprintln!("{}: has one thread only, skipped", peer.name());
            continue;
        }
        let numbers = if *peer == Peer::Direct { &workers[..1] } else { workers };
        variants.extend(numbers.iter().map(|workers| ProxyVariant { peer: *peer, workers: *workers }));
    }
    variants
}

/// Returns all points, and the number of runs of pointsman that failed as a whole.
fn measure(bench: &Bench<'_>, options: &Options, variants: &[ProxyVariant]) -> (Vec<Point>, u64) {
    // The tests of memory come first, because a proxy that has worked keeps memory for later.
    let mut tests = options.tests.clone();
    tests.sort_by_key(|test| *test != Test::Idle);
    let (mut points, mut lost) = (Vec::new(), 0);
    for round in 0..usize::from(options.rounds) {
        // The order is reversed in every other round, so that no proxy always follows the same one.
        let mut order = variants.to_vec();
        if round % 2 == 1 {
            order.reverse();
        }
        for variant in order {
            let (peer, workers) = (variant.peer.name(), count(variant.workers));
            eprintln!("round {}/{}: {peer}, {workers}", round + 1, options.rounds);
            match run_variant(bench, variant, &tests, round) {
                Ok(new) => points.extend(new),
                Err(error) => {
                    eprintln!("  {peer}: {error}");
                    lost += u64::from(variant.peer == Peer::Pointsman);
                }
            }
        }
    }
    (points, lost)
}

/// Runs all tests of one variant in one round.
///
/// # Errors
/// Returns an error if the proxy does not start, or a load does not answer.
pub(crate) fn run_variant(
    bench: &Bench<'_>,
    variant: ProxyVariant,
    tests: &[Test],
    round: usize,
) -> io::Result<Vec<Point>> {
    let proxy = bench.start(variant, Shape::PLAIN)?;
    let mut points = Vec::new();
    for test in tests {
        points.extend(bench.test(&proxy, *test, round)?);
    }
    Ok(points)
}
