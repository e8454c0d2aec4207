//! Measures if a few streams among many idle connections keep every worker of pointsman busy.
//!
//! The kernel spreads connections over workers without regard to their load, so all streams may be on one
//! worker.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use crate::configurations::Shape;
use crate::figures::Spread;
use crate::measure::Bench;
use crate::points::Test;
use crate::report::{markdown, show};
use crate::scrape;

/// The size of the measurement.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    /// The number of idle connections.
    pub(crate) idle: usize,
    /// The unmeasured time after the streams start: a worker moves streams away at most twice a second.
    pub(crate) settle: Duration,
}

impl Extent {
    /// The size of a full measurement.
    pub(crate) fn full(rounds: usize) -> Self {
        Self { rounds, idle: 1000, settle: Duration::from_secs(3) }
    }
}

struct Sample {
    test: Test,
    gigabits: f64,
    /// Percent of a CPU, by the name of the worker.
    busy: BTreeMap<String, f64>,
    /// The streams that changed their worker since the proxy started.
    moved: f64,
    errors: u64,
}

impl Sample {
    /// Percent of the time of all workers that the busiest worker spent. An even spread is 100 divided by
    /// their number.
    fn largest(&self) -> f64 {
        let largest = self.busy.values().copied().fold(0.0, f64::max);
        100.0 * largest / self.busy.values().sum::<f64>()
    }
}

/// Returns the table and the number of errors.
///
/// # Errors
/// Returns an error if pointsman does not start, or a load does not answer.
pub(crate) fn run(bench: &Bench<'_>, extent: Extent) -> io::Result<(String, u64)> {
    let bench = Bench { warm: extent.settle, ..bench.clone() };
    let mut samples = Vec::new();
    for round in 1..=extent.rounds {
        eprintln!("round {round}/{}: busy workers", extent.rounds);
        for test in [Test::Down, Test::Up] {
            samples.push(sample(&bench, extent.idle, test)?);
        }
    }
    let errors = samples.iter().map(|sample| sample.errors).sum();
    Ok((text(&samples, extent, bench.workers), errors))
}

/// Starts a new proxy for each sample, so that the kernel spreads the connections anew each time.
fn sample(bench: &Bench<'_>, idle: usize, test: Test) -> io::Result<Sample> {
    let proxy = bench.start_pointsman(Shape { admin: true, ..Shape::PLAIN })?;
    let held = bench.hold(&proxy, idle)?;
    let (outcome, flow) = bench.flow(&proxy, test)?;
    let metrics = scrape::fetch(scrape::admin(&proxy.log)?)?;
    let moved = scrape::value(&metrics, "pointsman_connections_moved_total{what=\"stream\"}").unwrap_or(0.0);
    let workers = outcome.threads.iter().filter(|(name, _)| name.starts_with("worker-"));
    let busy = workers.map(|(name, seconds)| (name.clone(), 100.0 * seconds / outcome.seconds)).collect();
    let errors = outcome.errors + held.release()?.errors;
    Ok(Sample { test, gigabits: flow.rate * 8.0 / 1e9, busy, moved, errors })
}

fn text(samples: &[Sample], extent: Extent, workers: usize) -> String {
    let mut names: Vec<&String> = samples.iter().flat_map(|sample| sample.busy.keys()).collect();
    names.sort();
    names.dedup();
    let mut heads = ["streams", "Gbit/s"].map(str::to_owned).to_vec();
    heads.extend(names.iter().map(|name| format!("{name}, % of a CPU")));
    heads.extend(["busiest, % of all workers", "streams moved", "errors"].map(str::to_owned));
    let mut rows = Vec::new();
    for (test, name) in [(Test::Down, "8 down"), (Test::Up, "8 up")] {
        let cell = |decimals, value: &dyn Fn(&Sample) -> f64| {
            show(Spread::of(samples.iter().filter(|sample| sample.test == test).map(value)), decimals)
        };
        let mut row = vec![name.to_owned(), cell(1, &|sample| sample.gigabits)];
        row.extend(
            names.iter().map(|name| cell(0, &|sample| sample.busy.get(*name).copied().unwrap_or(0.0))),
        );
        row.push(cell(0, &Sample::largest));
        row.push(cell(0, &|sample| sample.moved));
        row.push(cell(0, &|sample| sample.errors as f64));
        rows.push(row);
    }
    format!(
        "\n### Busy workers: 8 streams among {} idle connections, {workers} workers\n\n{}\nNothing is pinned, and \
         load and backend take CPUs too. The workers were measured {:.1} s after the streams began. With an even \
         load the busiest worker has {:.0} %.",
        extent.idle,
        markdown(&heads, &rows),
        extent.settle.as_secs_f64(),
        100.0 / workers as f64,
    )
}
