//! A simulation of fleets: the connections that each event of a node breaks, and the keys that each event of a backend moves.
//!
//! ```text
//! cargo bench --bench fleet -- --svg docs/measured/plots      the tables and plots of docs/measured/fleet-simulation.md
//! cargo bench --bench fleet                                   small fleets only, as a test
//! ```
//!
//! Nothing is measured: the figures are the same in each run and on every machine.

#![allow(clippy::disallowed_methods, reason = "it may wait for files; tests/it/tidy.rs forbids the rest")]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod backends;
mod nodes;
mod paper;
mod pickers;
mod report;
mod routers;
mod seeded;
#[path = "../compare/spread.rs"]
#[allow(dead_code, reason = "this bench needs the plots alone")]
mod spread;
#[path = "../compare/svg.rs"]
#[allow(dead_code, reason = "this bench has lines and no bars")]
mod svg;

use std::path::PathBuf;
use std::thread::{self, ScopedJoinHandle};
use std::{fs, io};

use clap::Parser;

use backends::{EventRow, LoadRow};
use nodes::{NodeEvent, Scheme};
use paper::FailedRow;
use report::{NodeRow, Report};

/// The arguments.
#[derive(Parser)]
struct Options {
    /// Write plots to this directory.
    #[arg(long, value_name = "DIRECTORY")]
    svg: Option<PathBuf>,
    /// Simulate small fleets only.
    #[arg(long)]
    test: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// A filter of `cargo bench` for all benches; this one has no names, and simulates small fleets then.
    #[arg(hide = true)]
    filter: Option<String>,
}

/// The sizes of a run.
struct Sizes {
    nodes: &'static [usize],
    flows: usize,
    backends: &'static [usize],
    keys: usize,
    tables: &'static [u64],
    failed: &'static [usize],
    repeats: u64,
}

const WHOLE: Sizes = Sizes {
    nodes: &[2, 3, 10, 63, 1000],
    flows: 100_000,
    backends: &[10, 100, 1000, 10_000, 100_000],
    keys: 400_000,
    tables: &paper::SIZES,
    failed: &[1, 2, 5, 10, 20, 50, 100],
    repeats: 10,
};

const SMALL: Sizes = Sizes {
    nodes: &[3, 10],
    flows: 2000,
    backends: &[10],
    keys: 2000,
    tables: &[paper::SIZES[0]],
    failed: &[1],
    repeats: 1,
};

fn main() -> io::Result<()> {
    let options = Options::parse();
    let is_small = options.test || !options.bench || options.filter.is_some() || options.svg.is_none();
    let report = simulate(if is_small { &SMALL } else { &WHOLE });
    print!("{}", report.tables());
    if let Some(directory) = options.svg {
        fs::create_dir_all(&directory)?;
        for (name, plot) in report.plots() {
            fs::write(directory.join(name), plot)?;
        }
    }
    Ok(())
}

/// Runs all simulations, each kind on a thread of its own.
fn simulate(sizes: &Sizes) -> Report {
    thread::scope(|scope| {
        let nodes = scope.spawn(|| node_rows(sizes));
        let backends = scope.spawn(|| backend_rows(sizes));
        let overprovisions = scope.spawn(|| paper::overprovisions(sizes.tables));
        let failures = |size: &'static u64| scope.spawn(move || failure_rows(sizes, *size));
        let failures: Vec<_> = sizes.tables.iter().map(failures).collect();
        let (events, loads) = finished(backends);
        Report {
            nodes: finished(nodes),
            events,
            loads,
            overprovisions: finished(overprovisions),
            failures: failures.into_iter().flat_map(finished).collect(),
        }
    })
}

fn finished<T>(simulation: ScopedJoinHandle<'_, T>) -> T {
    simulation.join().expect("a simulation does not panic")
}

fn node_rows(sizes: &Sizes) -> Vec<NodeRow> {
    let flows = nodes::flows(sizes.flows);
    let row = |nodes: usize, event: NodeEvent| {
        let outcome = |scheme: Scheme| nodes::simulate(scheme, event, nodes, &flows);
        NodeRow { nodes, event, outcomes: Scheme::ALL.map(outcome).to_vec() }
    };
    let rows = |nodes: &usize| NodeEvent::ALL.map(|event| row(*nodes, event));
    sizes.nodes.iter().flat_map(rows).collect()
}

fn backend_rows(sizes: &Sizes) -> (Vec<EventRow>, Vec<LoadRow>) {
    let (mut events, mut loads) = (Vec::new(), Vec::new());
    for &count in sizes.backends {
        let (rows, load) = backends::simulate(count, sizes.keys);
        events.extend(rows);
        loads.push(load);
    }
    // 655 backends are the most with the smallest table.
    events.extend([654, 655].map(|count| backends::one_more(count, sizes.keys)));
    (events, loads)
}

fn failure_rows(sizes: &Sizes, size: u64) -> Vec<FailedRow> {
    sizes.failed.iter().map(|failed| paper::failures(*failed, size, sizes.repeats)).collect()
}
