//! What happens to pointsman alone while its routes, backends or open connections become many.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::child::pause;
use crate::figures::Spread;
use crate::measure::{Bench, Flow, Test};
use crate::peers::{self, Peer, Shape};
use crate::proc;
use crate::proxy::Proxy;
use crate::report::markdown;
use crate::svg::Lines;

/// A reload that takes longer has failed.
const RELOAD: Duration = Duration::from_secs(20);

/// What grows, to which sizes.
const AXES: [(Axis, &[usize]); 3] = [
    (Axis::Routes, &[10, 100, 1000, 10_000, 100_000]),
    (Axis::Backends, &[3, 10, 100, 1000, 10_000]),
    (Axis::Connections, &[0, 10, 100, 1000, 4500, 9000]),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    Routes,
    Backends,
    Connections,
}

impl Axis {
    fn name(self) -> &'static str {
        match self {
            Self::Routes => "routes",
            Self::Backends => "backends",
            Self::Connections => "open connections",
        }
    }

    fn shape(self, size: usize) -> Shape {
        match self {
            Self::Routes => Shape { routes: size, ..Shape::PLAIN },
            Self::Backends => Shape { backends: size, ..Shape::PLAIN },
            Self::Connections => Shape::PLAIN,
        }
    }
}

struct Sample {
    axis: Axis,
    size: usize,
    errors: u64,
    /// Seconds.
    start_up: f64,
    reload: f64,
    /// MiB, before any load.
    memory: f64,
    connection: Flow,
    stream: Flow,
}

/// Measures all sizes, in interleaved rounds; gives the table and how many errors there were.
///
/// # Errors
/// When pointsman does not start, reload or forward, or a plot cannot be written.
pub(crate) fn run(bench: &Bench<'_>, rounds: usize, plots: Option<&Path>) -> io::Result<(String, u64)> {
    let mut samples = Vec::new();
    for round in 1..=rounds {
        for (axis, sizes) in AXES {
            for size in sizes.iter().filter(|size| axis != Axis::Connections || fits(**size)) {
                eprintln!("round {round}/{rounds}: {size} {}", axis.name());
                samples.push(sample(bench, axis, *size)?);
            }
        }
    }
    let paces = samples.iter().flat_map(|sample| [sample.connection.pace, sample.stream.pace]);
    let pace = Spread::of(paces).map_or(1.0, |spread| spread.median);
    let report = Report { samples, pace };
    if let Some(directory) = plots {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("growth.svg"), report.plot())?;
    }
    let errors = report.samples.iter().map(|sample| sample.errors).sum();
    Ok((report.table(), errors))
}

/// Whether a process may have the descriptors for so many connections.
pub(crate) fn fits(connections: usize) -> bool {
    const RESERVE: u64 = 1000;
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    limit.is_ok_and(|(soft, _)| 2 * connections as u64 + RESERVE <= soft)
}

fn sample(bench: &Bench<'_>, axis: Axis, size: usize) -> io::Result<Sample> {
    let shape = axis.shape(size);
    let proxy = bench.start(Peer::Pointsman, shape)?;
    let memory = proxy.pid().map_or(0.0, |pid| proc::pss_kib(pid) as f64 / 1024.0);
    let held = if axis == Axis::Connections { Some(bench.hold(&proxy, size)?) } else { None };
    let (first, connection) = bench.flow(&proxy, Test::Conn)?;
    let (second, stream) = bench.flow(&proxy, Test::Down)?;
    let mut errors = first.errors + second.errors;
    if let Some(held) = held {
        errors += held.release()?.errors;
    }
    let reload = reload(&proxy, shape)?.as_secs_f64();
    let start_up = proxy.start_up.as_secs_f64();
    Ok(Sample { axis, size, errors, start_up, reload, memory, connection, stream })
}

/// From the signal to the word in the log that the new file, one route longer, is in force.
fn reload(proxy: &Proxy, shape: Shape) -> io::Result<Duration> {
    let larger = Shape { routes: shape.routes + 1, ..shape };
    fs::write(peers::configuration(&proxy.setup, proxy.peer), peers::pointsman(&proxy.setup, larger))?;
    let program = proxy.program().ok_or(io::ErrorKind::NotFound)?;
    let began = Instant::now();
    program.signal(Signal::SIGHUP);
    loop {
        let log = fs::read_to_string(&proxy.log)?;
        if log.contains("not reloaded") || began.elapsed() > RELOAD {
            return Err(io::Error::other(format!("it did not reload: {log}")));
        }
        if log.contains("reloaded") {
            return Ok(began.elapsed());
        }
        pause(Duration::from_millis(1));
    }
}

struct Report {
    samples: Vec<Sample>,
    pace: f64,
}

impl Report {
    fn spread(&self, axis: Axis, size: usize, value: impl Fn(&Sample) -> f64) -> Option<Spread> {
        let same = self.samples.iter().filter(|sample| sample.axis == axis && sample.size == size);
        Spread::of(same.map(value))
    }

    /// Calibrated CPU microseconds for one connection.
    fn connection(&self, sample: &Sample) -> f64 {
        self.calibrated(&sample.connection) * 1e6
    }

    /// Calibrated CPU seconds for one GiB.
    fn stream(&self, sample: &Sample) -> f64 {
        self.calibrated(&sample.stream) * f64::from(1 << 30)
    }

    fn calibrated(&self, flow: &Flow) -> f64 {
        flow.cpu.map_or(f64::NAN, |cpu| cpu / flow.pace * self.pace)
    }

    fn table(&self) -> String {
        let heads = [
            "what grows",
            "to",
            "CPU µs/conn*",
            "CPU s/GiB*",
            "start-up ms",
            "reload ms",
            "base PSS MiB",
            "errors",
        ];
        let mut rows = Vec::new();
        for (axis, sizes) in AXES {
            for size in sizes {
                let cell = |decimals, value: &dyn Fn(&Sample) -> f64| {
                    self.spread(axis, *size, value).map(|spread| spread.show(decimals))
                };
                let Some(connection) = cell(1, &|sample| self.connection(sample)) else { continue };
                let rest = [
                    cell(3, &|sample| self.stream(sample)),
                    cell(1, &|sample| sample.start_up * 1e3),
                    cell(1, &|sample| sample.reload * 1e3),
                    cell(1, &|sample| sample.memory),
                    cell(0, &|sample| sample.errors as f64),
                ];
                let mut row = vec![axis.name().to_owned(), size.to_string(), connection];
                row.extend(rest.map(|cell| cell.unwrap_or_else(|| "-".to_owned())));
                rows.push(row);
            }
        }
        markdown(&heads.map(str::to_owned), &rows)
    }

    fn plot(&self) -> String {
        let mut series = Vec::new();
        for (axis, sizes) in AXES {
            let line = |value: &dyn Fn(&Sample) -> f64| {
                let median = |size: usize| Some(self.spread(axis, size, value)?.median);
                let first = sizes.first().and_then(|size| median(*size)).unwrap_or(f64::NAN);
                let points = sizes.iter().filter_map(|size| Some((*size as f64, median(*size)? / first)));
                points.filter(|(_, value)| value.is_finite()).collect::<Vec<_>>()
            };
            series.push((format!("{}: per connection", axis.name()), line(&|s| self.connection(s))));
            series.push((format!("{}: per GiB", axis.name()), line(&|s| self.stream(s))));
        }
        Lines { title: "CPU time as things grow, relative to the smallest size".to_owned(), series }.draw()
    }
}
